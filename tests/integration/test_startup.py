"""The startup thread, with a ledger in SQLite and a lease the test holds in its hand."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool
from structlog.testing import capture_logs

from service import startup
from service.coordination import election
from service.coordination.client import connect
from service.coordination.election import Election, InTime
from service.coordination.lease import Grant, Unavailable
from service.coordination.lease import Lease as FleetLease
from service.coordination.ledger import TABLE, Cord, Ledger
from service.health import CheckFailed, Scope, StartupTask, Status, TaskState
from service.scoreboard import Scoreboard
from service.settings import Settings
from service.startup import MAX_LOST, Startup
from tests.pod import eventually
from tests.servers.redis import RedisServer, binary


class Lease:
    """A lease that the test gives and takes."""

    def __init__(self, *, free: bool = True) -> None:
        self.free = free
        self.away = False
        self.calls: list[str] = []

    def acquire(self) -> Grant | None:
        self.calls.append("acquire")
        if self.away:
            raise Unavailable("ConnectionError: nobody listens") from ConnectionRefusedError()
        return Grant(1, time.monotonic() + 10) if self.free else None

    def release(self) -> None:
        self.calls.append("release")
        if self.away:
            raise Unavailable("ConnectionError: nobody listens")


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(startup, "MIN_POLL", 0.02)
    monkeypatch.setattr(startup, "MAX_POLL", 0.1)
    address = f"sqlite:///{tmp_path}/shop.db"
    with engine(address).begin() as connection:
        connection.execute(text("CREATE TABLE effect (task text)"))
    return address


def engine(url: str) -> Any:
    return create_engine(url, poolclass=NullPool)


def effects(url: str) -> list[str]:
    with engine(url).connect() as connection:
        return [str(task) for (task,) in connection.execute(text("SELECT task FROM effect"))]


def effect(connection: Connection) -> None:
    connection.execute(text("INSERT INTO effect VALUES ('done')"))


Make = Callable[..., Startup]


@pytest.fixture
def make(url: str) -> Iterator[Make]:
    """Makes startup threads, of pods of one release, that end with the test."""
    made: list[Startup] = []

    def one(
        tasks: Mapping[StartupTask, Callable[..., object]],
        lease: Any = None,
        *,
        proceed: bool = False,
        known: Mapping[str, TaskState] | None = None,
        book: Ledger | None = None,
        **options: Any,
    ) -> Startup:
        own = book or Ledger(url, "shop", "r1", f"pod-{len(made)}")
        chosen = Election(lease, proceed=proceed)
        made.append(Startup(tasks, own, chosen, known or {}, **options))
        return made[-1]

    yield one
    for each in made:
        each.stop()
    for each in made:
        if each._thread.ident is not None:
            each._thread.join(60)
            assert not each._thread.is_alive()


def run(pod: Startup) -> Startup:
    pod.start(lambda: None)
    return pod


def settled(pod: Startup, *names: str) -> list[TaskState]:
    def over() -> bool:
        return all(pod.states()[name].done or pod.states()[name].given_up for name in names)

    eventually(over, f"{names} are over")
    return [pod.states()[name] for name in names]


def task(name: str, **options: Any) -> StartupTask:
    return StartupTask(name, **{"timeout": 30.0, "retries": 2, "backoff": 0.02, **options})


class Flaky:
    """Work that fails so many times."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures = failures
        self.error = error
        self.calls = 0

    def __call__(self, *_: object) -> None:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error


# -- both kinds


def test_nothing_to_do_needs_no_thread(make: Make) -> None:
    assert run(make({}))._thread.ident is None
    done = {"migrate": TaskState().succeeded(0.5, 1)}
    assert run(make({task("migrate"): effect}, known=done))._thread.ident is None


def test_tasks_are_done_in_their_order(make: Make) -> None:
    order: list[str] = []
    started = run(
        make(
            {
                task("first", once="pod"): lambda: order.append("first"),
                task("second"): lambda _connection: order.append("second"),
                task("third", once="pod"): lambda: order.append("third"),
            }
        )
    )
    states = settled(started, "first", "second", "third")
    assert order == ["first", "second", "third"]
    assert [(each.status, each.attempt) for each in states] == [(Status.HEALTHY, 1)] * 3


@pytest.mark.parametrize("once", ["pod", "release"])
@pytest.mark.parametrize(
    ("failures", "status", "attempt"), [(2, Status.HEALTHY, 3), (3, Status.UNHEALTHY, 3)]
)
def test_retries(make: Make, once: Any, failures: int, status: Status, attempt: int) -> None:
    work = Flaky(failures, LookupError("closed"))
    with capture_logs() as logs:
        (state,) = settled(run(make({task("open", once=once): work})), "open")
    assert (state.status, state.attempt, work.calls) == (status, attempt, attempt)
    assert state.code == (None if status is Status.HEALTHY else "task_failed")
    reasons = [entry["reason"] for entry in logs if entry.get("task") == "open"]
    assert reasons.count("LookupError: closed") == failures


@pytest.mark.parametrize("once", ["pod", "release"])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CheckFailed("rate_limited", "slow down"), "rate_limited"),
        (TimeoutError("too long"), "timeout"),
        (OSError("s3cret"), "task_failed"),
    ],
)
def test_codes(make: Make, once: Any, error: Exception, code: str) -> None:
    one = {task("open", once=once, retries=0): Flaky(9, error)}
    with capture_logs() as logs:
        (state,) = settled(run(make(one, secrets=["s3cret"])), "open")
    assert state.code == code
    assert "s3cret" not in str(logs)


def test_the_statement_of_a_task_stays_out_of_the_log(make: Make) -> None:
    def wrong(connection: Connection) -> None:
        connection.execute(text("INSERT INTO nowhere VALUES (:card)"), {"card": "4111"})

    with capture_logs() as logs:
        (state,) = settled(run(make({task("pay", retries=0): wrong})), "pay")
    assert state.code == "task_failed"
    assert "no such table" in str(logs)
    assert "4111" not in str(logs)


def test_a_required_task_that_fails_keeps_the_next_from_beginning(make: Make) -> None:
    never = Flaky(0, LookupError())
    tasks = {
        task("first", once="pod", retries=0): Flaky(9, LookupError()),
        task("second", once="pod"): never,
    }
    started = run(make(tasks))
    eventually(lambda: started.states()["second"].code == "not_attempted", "the end")
    assert never.calls == 0
    assert all(state.holds_up for state in started.states().values())


def test_every_step_is_made_known(make: Make) -> None:
    seen: list[Mapping[str, TaskState]] = []
    one = make({task("warm", once="pod"): lambda: None})
    one.start(lambda: seen.append(one.states()))
    eventually(lambda: seen and seen[-1]["warm"].done, "the last step")
    assert [each["warm"].status for each in seen] == [Status.WARNING, Status.HEALTHY]


# -- time limits


@pytest.mark.parametrize("once", ["pod", "release"])
def test_a_task_that_hangs(make: Make, once: Any) -> None:
    gate = threading.Event()
    hangs = {task("hang", once=once, timeout=0.2, retries=1): lambda *_: gate.wait(60)}
    (state,) = settled(run(make(hangs)), "hang")
    gate.set()
    assert (state.code, state.attempt) == ("timeout", 2)
    assert state.duration is not None
    assert state.duration >= 0.2


def test_threads_that_do_not_come_back_are_few(make: Make) -> None:
    gate, calls = threading.Event(), []

    def hangs() -> None:
        calls.append(1)
        gate.wait(60)

    one = {task("hang", once="pod", timeout=0.05, retries=8): hangs}
    (state,) = settled(run(make(one)), "hang")
    eventually(lambda: len(calls) >= MAX_LOST, "every thread there was has begun")
    gate.set()
    assert (state.code, state.attempt) == ("timeout", 9)
    assert len(calls) == MAX_LOST


def test_a_task_that_hangs_keeps_no_other_from_its_turn(make: Make, url: str) -> None:
    """Whatever it has left behind: the next one has threads of its own, and so has the ledger."""
    gate = threading.Event()
    hangs = task("hang", once="pod", timeout=0.05, retries=MAX_LOST, required=False)
    one = run(make({hangs: lambda: gate.wait(60), task("migrate"): effect}))
    given_up, done = settled(one, "hang", "migrate")
    gate.set()
    assert (given_up.code, given_up.attempt) == ("timeout", 1 + MAX_LOST)
    assert (done.done, effects(url)) == (True, ["done"])


def test_the_ledger_hears_that_a_task_that_hangs_is_given_up(make: Make, url: str) -> None:
    gate = threading.Event()
    hangs = {task("hang", timeout=0.05, retries=MAX_LOST): lambda _connection: gate.wait(60)}
    (state,) = settled(run(make(hangs)), "hang")
    entry = Ledger(url, "shop", "r1", "test").entries(Cord())["hang"]
    gate.set()
    assert (state.code, state.attempt) == ("timeout", 1 + MAX_LOST)
    assert (entry.state, entry.error, entry.attempt) == ("given_up", "timeout", 1 + MAX_LOST)


@pytest.mark.parametrize("once", ["pod", "release"])
def test_stopping_ends_an_attempt(
    make: Make, url: str, once: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate = threading.Event(), threading.Event()

    def long(*connection: Any) -> None:
        for each in connection:
            effect(each)
        begun.set()
        gate.wait(60)

    monkeypatch.setattr(startup, "PARTING_SECONDS", 60.0)
    lease = Lease()
    one = run(make({task("long", once=once): long}, lease))
    assert begun.wait(60)
    one.retire()
    one.stop()
    assert not one._thread.is_alive()
    gate.set()
    assert effects(url) == []
    if once == "release":
        assert lease.calls[-1] == "release"
        assert one.states()["long"].status is Status.WARNING
    else:
        assert one.states()["long"] == TaskState()


@pytest.mark.parametrize(("once", "attempt"), [("pod", 1), ("release", 2)])
def test_an_attempt_that_was_broken_off_is_not_counted(
    make: Make, once: Any, attempt: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a reload does it, or the end of the pod: no retry is needed for that."""
    monkeypatch.setattr(startup, "PARTING_SECONDS", 60.0)
    begun, gate = threading.Event(), threading.Event()

    def long(*_connection: Any) -> None:
        begun.set()
        gate.wait(60)

    one = run(make({task("long", once=once, retries=0): long}))
    assert begun.wait(60)
    one.stop()
    gate.set()
    fails = Flaky(1, LookupError())
    other = run(make({task("long", once=once, retries=0): fails}, known=one.states()))
    (state,) = settled(other, "long")
    assert (state.code, state.attempt, fails.calls) == ("task_failed", attempt, 1)


def test_a_stop_does_not_wait_for_a_ledger_that_cannot_note_it(
    make: Make, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "PARTING_SECONDS", 0.05)
    begun, gate = threading.Event(), threading.Event()

    def long(_connection: Connection) -> None:
        begun.set()
        gate.wait(60)

    class Silent(Ledger):
        def give_back(self, *_: Any) -> None:
            gate.wait(60)

    one = run(make({task("long"): long}, book=Silent(url, "shop", "r1", "one")))
    assert begun.wait(60)
    one.retire()
    one._thread.join(60)
    gate.set()
    assert not one._thread.is_alive()
    assert one.states()["long"].code == "timeout"


# -- the successor


def test_a_successor_counts_the_attempts_of_its_predecessor(make: Make) -> None:
    never = Flaky(0, LookupError())
    killed = {"warm": TaskState().failed("timeout", 1.0, 2).running(3)}
    (state,) = settled(run(make({task("warm", once="pod"): never}, known=killed)), "warm")
    assert (state.status, state.code, never.calls) == (Status.UNHEALTHY, "timeout", 0)
    once_more = {"warm": TaskState().running(2)}
    (state,) = settled(run(make({task("warm", once="pod"): never}, known=once_more)), "warm")
    assert (state.done, state.attempt, never.calls) == (True, 3, 1)


def test_a_pod_that_serves_tries_nothing_anew(make: Make) -> None:
    over = {"warm": TaskState().running(3).abandoned("timeout")}
    one = task("warm", once="pod", required=False)
    assert run(make({one: effect}, known=over, serving=True))._thread.ident is None
    assert settled(run(make({one: lambda: None}, known=over)), "warm")[0].done


# -- once per release


def test_two_pods_do_it_once_and_say_the_same(make: Make, url: str) -> None:
    pods = [run(make({task("migrate"): effect})) for _ in range(4)]
    states = [settled(pod, "migrate")[0] for pod in pods]
    assert effects(url) == ["done"]
    assert len(set(states)) == 1
    assert states[0].scope is Scope.POD


def test_who_has_no_lease_waits_and_says_what_the_other_does(make: Make, url: str) -> None:
    begun, gate = threading.Event(), threading.Event()

    def long(connection: Connection) -> None:
        effect(connection)
        begun.set()
        gate.wait(60)

    waiting = run(make({task("migrate"): effect}, Lease(free=False)))
    eventually(lambda: "acquire" in waiting.election._lease.calls, "it asks")  # type: ignore[union-attr]
    assert waiting.states()["migrate"] == TaskState(scope=Scope.FLEET)
    holder = run(make({task("migrate"): long}, Lease()))
    assert begun.wait(60)
    eventually(lambda: waiting.states()["migrate"].status is Status.WARNING, "it says so")
    gate.set()
    assert settled(waiting, "migrate") == settled(holder, "migrate")
    assert effects(url) == ["done"]


def test_the_lease_is_renewed_during_the_work(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "BEAT", 0.02)
    monkeypatch.setattr(election, "LEASE_SECONDS", 0.06)
    lease = Lease()

    def until_renewed(_connection: Connection) -> None:
        eventually(lambda: lease.calls.count("acquire") > 3, "the lease is renewed")
        lease.away = True  # what becomes of it now does not matter
        enough = len(lease.calls) + 3
        eventually(lambda: len(lease.calls) > enough or not one.election.held, "it goes on")

    one = make({task("migrate"): until_renewed}, lease)
    assert settled(run(one), "migrate")[0].attempt == 1


def test_the_lease_is_given_back(make: Make) -> None:
    lease, gate = Lease(), threading.Event()
    one = run(make({task("migrate"): effect, task("warm", once="pod"): gate.wait}, lease))
    eventually(lambda: lease.calls[-1:] == ["release"], "before what each pod does for itself")
    gate.set()
    settled(one, "migrate", "warm")


def test_without_redis_it_waits_or_proceeds(make: Make, url: str) -> None:
    lease = Lease()
    lease.away = True
    waiting = run(make({task("migrate"): effect}, lease))
    eventually(
        lambda: (
            waiting.states()["migrate"] == TaskState(code="connection_refused", scope=Scope.FLEET)
        ),
        "it waits, and says for what",
    )
    assert effects(url) == []
    proceeding = run(make({task("migrate"): effect}, lease, proceed=True))
    assert settled(proceeding, "migrate") == settled(waiting, "migrate")
    assert effects(url) == ["done"]


def test_a_pod_that_comes_later_tries_anew_what_was_given_up(make: Make) -> None:
    fails = {task("migrate", retries=1): Flaky(9, LookupError())}
    first = run(make(fails))
    assert settled(first, "migrate")[0].attempt == 2
    second = run(make({task("migrate", retries=1): effect}))
    assert settled(second, "migrate")[0].attempt == 3
    eventually(lambda: first.states()["migrate"].done, "the first one notices")
    assert first.states() == second.states()


def test_a_pause_ends_though_the_clock_was_set_back(make: Make, url: str) -> None:
    book = Ledger(url, "shop", "r1", "another")
    book.claim("migrate", 3, lambda _entry: True, Cord())
    book.record("migrate", 1, "task_failed", Cord())
    later = "strftime('%Y-%m-%d %H:%M:%f', 'now', '+1 hour')"
    with engine(url).begin() as connection:
        connection.execute(text(f"UPDATE {TABLE} SET ended_at = {later}"))
    (state,) = settled(run(make({task("migrate"): effect})), "migrate")
    assert (state.done, state.attempt) == (True, 2)


def test_who_watched_gives_up_too(make: Make) -> None:
    watching = run(make({task("migrate"): effect}, Lease(free=False)))
    eventually(lambda: watching.election._lease.calls, "it watches")  # type: ignore[union-attr]
    failing = run(make({task("migrate"): Flaky(9, LookupError())}, Lease()))
    (state,) = settled(failing, "migrate")
    assert (state.status, state.attempt) == (Status.UNHEALTHY, 3)
    (seen,) = settled(watching, "migrate")
    assert (seen.status, seen.code, seen.attempt) == (state.status, state.code, state.attempt)


# -- Redis behind a name server that falls silent


class NameServer:
    """Says where ``redis.internal`` is, as long as it speaks."""

    def __init__(self) -> None:
        self.speaks = threading.Event()
        self.speaks.set()
        self.asked = 0
        self._resolve = socket.getaddrinfo

    def __call__(self, host: Any, *rest: Any, **more: Any) -> Any:
        if host != "redis.internal":
            return self._resolve(host, *rest, **more)
        self.asked += 1
        self.speaks.wait()
        return self._resolve("127.0.0.1", *rest, **more)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    names = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    yield names
    names.speaks.set()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer(binary("valkey")) as server:
        yield server


@pytest.fixture
def fleet_lease(redis: RedisServer) -> Iterator[FleetLease]:
    """The real one; the limit of a call is there for the name server only."""
    redis.admin.flushall()
    url = f"redis://redis.internal:{redis.port}/0"
    client = InTime(partial(connect, url, timeout=60), 1.0)
    yield FleetLease(client, "test:", "startup", "pod", ttl=60)
    if client._client:
        client._client.close()


def calls_under_way() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "startup-redis"]


def of_an_application() -> Mapping[StartupTask, Callable[..., object]]:
    return {task("migrate"): effect}


def test_a_silent_name_server_stops_no_task(url: str, names: NameServer) -> None:
    names.speaks.clear()
    settings = Settings(
        APP_RELEASE="r1",
        DATABASE_URL=url,
        REDIS_URL="redis://redis.internal/0",
        STARTUP_TASKS=f"{__name__}:of_an_application",
        STARTUP_TASKS_WITHOUT_REDIS="proceed",
    )
    one = run(startup.build(settings, Scoreboard.create(None, slots=1)))
    assert settled(one, "migrate")[0].done
    assert effects(url) == ["done"]
    one._thread.join(60)
    assert not one._thread.is_alive()


def test_a_silent_name_server_does_not_keep_a_pod_that_stops(
    make: Make, names: NameServer, fleet_lease: FleetLease
) -> None:
    names.speaks.clear()
    one = run(make({task("migrate"): effect}, fleet_lease))
    eventually(lambda: names.asked, "it asks for the lease")
    one.stop()
    one._thread.join(60)
    assert not one._thread.is_alive()


def test_a_silent_name_server_lengthens_no_time_limit(
    make: Make,
    redis: RedisServer,
    names: NameServer,
    fleet_lease: FleetLease,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(startup, "BEAT", 0.02)
    gate, ahead = threading.Event(), [0.0]

    def hangs(_connection: Connection) -> None:
        names.speaks.clear()
        redis.admin.client_kill_filter(_type="normal", skipme=True)
        eventually(lambda: len(redis.admin.client_list()) == 1, "the connection is closed")
        monkeypatch.setattr(election, "LEASE_SECONDS", 0.03)  # now it is time to renew it
        eventually(lambda: names.asked >= 2, "it asks for it again")
        ahead[0] = 60.0
        gate.wait(60)

    def clock() -> float:
        return time.monotonic() + ahead[0]

    one = make({task("migrate", timeout=60.0, retries=0): hangs}, fleet_lease, clock=clock)
    (state,) = settled(run(one), "migrate")
    gate.set()
    assert (state.code, state.attempt) == ("timeout", 1)


def test_a_call_left_behind_takes_no_lease(
    redis: RedisServer, names: NameServer, fleet_lease: FleetLease
) -> None:
    names.speaks.clear()
    for _ in range(election.MAX_LOST + 2):
        with pytest.raises(Unavailable):
            fleet_lease.acquire()
    assert 0 < names.asked <= election.MAX_LOST, "one that is slow is left behind before it asks"
    names.speaks.set()
    eventually(lambda: not calls_under_way(), "they come back")
    assert redis.admin.keys() == []

    def granted() -> Grant | None:
        with suppress(Unavailable):
            return fleet_lease.acquire()
        return None

    assert eventually(granted, "those who ask now are answered")


def test_where_no_thread_begins_any_more_redis_is_away(
    names: NameServer, fleet_lease: FleetLease, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as end:
        end.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Unavailable):
            fleet_lease.acquire()
    assert names.asked == 0


# -- without a database


def nowhere(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/no/such/shop.db", "shop", "r1", "one")


def test_without_its_database_a_required_task_waits(make: Make, tmp_path: Path) -> None:
    one = run(make({task("migrate"): effect}, book=nowhere(tmp_path)))
    eventually(lambda: one.states()["migrate"].code == "database_not_found", "it says why")
    assert one.states()["migrate"].status is Status.UNKNOWN
    (tmp_path / "no" / "such").mkdir(parents=True)
    with engine(f"sqlite:///{tmp_path}/no/such/shop.db").begin() as connection:
        connection.execute(text("CREATE TABLE effect (task text)"))
    assert settled(one, "migrate")[0].attempt == 1


def test_without_its_database_an_optional_task_is_given_up(make: Make, tmp_path: Path) -> None:
    one = task("migrate", required=False, timeout=0.1, retries=0)
    (state,) = settled(run(make({one: effect}, book=nowhere(tmp_path))), "migrate")
    assert state.code == "database_not_found"
    assert not state.holds_up
