"""A fleet of pods on one Redis: one of them asks the providers, all of them know of each other."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.pod import eventually
from tests.process.fleet_member import Member
from tests.servers import providers
from tests.servers.faults import Fault, FaultProxy
from tests.servers.postgres import Postgres
from tests.servers.providers import ProviderServer
from tests.servers.redis import RedisServer, binary

PODS = 8
SYNC, TTL = 2.0, 3.0
INTERVAL = 4.0
NAMES = (providers.SUPABASE, providers.STRIPE, providers.RESEND, providers.TWILIO)

Join = Callable[..., Member]


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer(binary("valkey")) as server:
        yield server


@pytest.fixture
def apis() -> Iterator[ProviderServer]:
    with ProviderServer() as server:
        yield server


@pytest.fixture
def join(tmp_path: Path, redis: RedisServer, apis: ProviderServer) -> Iterator[Join]:
    """Makes members; with ``providers=False`` none that knows of any."""
    with ExitStack() as stack:
        count = 0

        def make(*, providers: bool = True, **settings: str) -> Member:
            nonlocal count
            count += 1
            given = {
                "REDIS_URL": redis.url,
                "HEALTH_FLEET_INTERVAL_SECONDS": str(SYNC),
                "HEALTH_EXTERNAL_INTERVAL_SECONDS": str(INTERVAL),
                "EXTERNAL_RESPONSE_WARNING_MS": "60000",  # how slow the stand-in is does not matter
                **(apis.environment if providers else {}),
                **settings,
            }
            member = Member(tmp_path / f"member{count}", **given)
            stack.callback(member.kill)
            return member

        yield make


def external(member: Member) -> dict[str, Any]:
    found: dict[str, Any] = member.get("/api/system/health/external")["data"]
    return found


def all_shared(members: list[Member]) -> bool:
    return all(
        each["scope"] == "fleet" and each["status"] == "healthy"
        for member in members
        for each in external(member).values()
    )


def holder_of(members: list[Member]) -> Member | None:
    for member in members:
        fleet = member.fleet
        if fleet["fresh"] and (fleet["leases"] or {}).get("checks") == fleet["this_pod"]:
            return member
    return None


def test_one_pod_asks_for_all(join: Join, apis: ProviderServer) -> None:
    members = [join() for _ in range(PODS)]
    eventually(lambda: all_shared(members), "every pod has the results of one")
    begun, before = time.monotonic(), apis.requests.copy()
    wanted = before[providers.STRIPE] + 5
    apis.wait_for_request(providers.STRIPE, wanted, timeout=120)
    asked = {name: apis.requests[name] - before[name] for name in NAMES}
    lasted = time.monotonic() - begun
    alone = lasted / (0.9 * INTERVAL) + 1
    print(f"in {lasted:.1f} s 8 pods asked {asked}; one pod would have at most {alone:.1f} times")
    assert max(asked.values()) <= alone

    def agree() -> bool:
        times = [{name: each["last_check"] for name, each in external(m).items()} for m in members]
        return all(len({found[name] for found in times}) <= 2 for name in NAMES)

    eventually(agree, "all have the newest result, or the one before it that is on its way")
    eventually(lambda: all_shared(members), "every pod still has the results of one")


def test_one_pod_asks_for_all_while_the_holders_die(join: Join, apis: ProviderServer) -> None:
    members = [join() for _ in range(PODS)]
    eventually(lambda: all_shared(members), "every pod has the results of one")
    begun, before, killed = time.monotonic(), apis.requests.copy(), 0
    while time.monotonic() - begun < 8 * INTERVAL:
        holder = eventually(lambda: holder_of(members), "a holder")
        holder.kill()
        killed += 1
        members.remove(holder)
        members.append(join())
        soon = time.monotonic() + INTERVAL
        eventually(lambda until=soon: time.monotonic() > until, "the next one's turn")
    asked = {name: apis.requests[name] - before[name] for name in NAMES}
    lasted = time.monotonic() - begun
    # One who dies between the answer and telling it makes the next one ask again.
    alone = lasted / (0.9 * INTERVAL) + 1 + killed
    print(f"in {lasted:.1f} s, {killed} holders killed: {asked}; one pod: at most {alone:.1f}")
    assert max(asked.values()) <= alone
    eventually(lambda: all_shared(members), "every pod has the results of one again")


def test_every_pod_sees_the_fleet(join: Join, redis: RedisServer) -> None:
    members = [join(providers=False, APP_RELEASE=release) for release in ("blue", "green", "red")]

    def complete() -> Any:
        views = [member.fleet for member in members]
        ready = all(view["pods_ready"] == 3 for view in views)
        return views if ready and len({str(view["leases"]) for view in views}) == 1 else None

    views = eventually(complete, "three ready pods in every view, and the same holder")
    for view in views:
        assert {row["release"] for row in view["pods"]} == {"blue", "green", "red"}
        assert {row["pod"] for row in view["pods"]} == {each["this_pod"] for each in views}
        assert all(row["workers_ok"] == row["workers_total"] == 1 for row in view["pods"])
    gone, left = members[0], members[1:]
    gone.stop()
    eventually(lambda: all(each.fleet["pods_total"] == 2 for each in left), "an exit is seen")
    left[0].kill()
    eventually(lambda: left[1].fleet["pods_total"] == 1, "a killed pod ages out")
    eventually(lambda: len(left[1].fleet["pods"]) == 1, "its row too")
    eventually(lambda: redis.admin.zcard(_key(redis, "pods")) == 1, "the holder prunes it")
    assert redis.admin.hlen(_key(redis, "info")) == 1


def _key(redis: RedisServer, name: str) -> bytes:
    (found,) = redis.admin.keys(f"*:{name}")
    return bytes(found)


def test_a_clean_exit_hands_the_lease_over(join: Join) -> None:
    members = [join(providers=False) for _ in range(2)]
    holder = eventually(lambda: holder_of(members), "a holder")
    members.remove(holder)
    holder.stop()
    eventually(lambda: holder_of(members), "the other one holds it")


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.FREEZE, Fault.MUTE])
def test_without_redis_each_pod_asks_for_itself(
    join: Join, redis: RedisServer, apis: ProviderServer, fault: Fault
) -> None:
    with FaultProxy(("127.0.0.1", redis.port)) as proxy:
        url = redis.url.replace(str(redis.port), str(proxy.address[1]))
        members = [join(REDIS_URL=url) for _ in range(2)]
        eventually(lambda: all_shared(members), "results are shared")
        proxy.fault = fault

        def alone() -> bool:
            found = [each for member in members for each in external(member).values()]
            assert all(each["status"] == "healthy" for each in found)
            return all(each["scope"] == "pod" for each in found)

        eventually(alone, "each pod has asked for itself, and nothing became unhealthy")
        assert not any(member.fleet["fresh"] for member in members)
        begun, before = time.monotonic(), apis.requests[providers.STRIPE]
        apis.wait_for_request(providers.STRIPE, before + 4, timeout=120)
        rate = 4 / (time.monotonic() - begun) * INTERVAL
        print(f"{fault.name}: two pods alone ask {rate:.2f} times an interval")
        assert rate < 1.6
        proxy.fault = Fault.NONE
        eventually(lambda: all_shared(members), "results are shared again")


def test_a_frozen_holder_is_replaced_and_fenced_off(join: Join) -> None:
    members = [join() for _ in range(3)]
    eventually(lambda: all_shared(members), "results are shared")
    frozen = eventually(lambda: holder_of(members), "a holder")
    members.remove(frozen)
    frozen.freeze()
    eventually(lambda: holder_of(members), "another holds the lease")
    eventually(lambda: all_shared(members), "and shares its results")
    frozen.thaw()
    eventually(lambda: holder_of([frozen]) is None, "the thawed one knows that it is not")
    eventually(lambda: all_shared([frozen, *members]), "and follows")


def test_the_readiness_floor(join: Join, redis: RedisServer) -> None:
    with (
        Postgres() as postgres,
        FaultProxy(("127.0.0.1", postgres.port)) as shared,
        FaultProxy(("127.0.0.1", postgres.port)) as own,
    ):

        def member(proxy: FaultProxy) -> Member:
            return join(
                providers=False,
                DATABASE_URL=postgres.url.replace(f":{postgres.port}/", f":{proxy.address[1]}/"),
                READINESS_POLICY="floor:50",
                HEALTH_CRITICAL_CHECKS="database",
                HEALTH_DATABASE_INTERVAL_SECONDS="1",
                HEALTH_DATABASE_TIMEOUT_SECONDS="10",
                DB_RESPONSE_WARNING_MS="10000",
            )

        members = [member(shared), member(shared), member(shared), member(own)]
        *three, one = members

        def ready(those: list[Member]) -> bool:
            return all(each.get("/api/system/health/readiness")["data"]["ready"] for each in those)

        def origin(each: Member) -> str | None:
            found: str | None = each.fleet["checks"]["database"]["origin"]
            return found

        eventually(lambda: ready(members), "all are ready")
        own.fault = Fault.REFUSE
        eventually(
            lambda: not ready([one]), "the pod that alone has lost its database is not ready"
        )
        eventually(lambda: origin(one) == "local", "and says that it is its own")
        assert ready(three)
        shared.fault = Fault.REFUSE
        eventually(lambda: all(origin(each) == "shared" for each in members), "all have lost it")
        eventually(lambda: ready(members), "and stay ready")
        for each in members:
            assert each.get("/health")["status"] == "warning"
            database = each.get("/health/database")
            assert database["status"] == "warning"
            assert database["error"] in ("connection_refused", "connection_lost")
        with redis.frozen():
            eventually(lambda: not any(each.fleet["fresh"] for each in members), "views grow old")
            assert not any(ready([each]) for each in members), "without a view it is strict"
        eventually(lambda: ready(members), "the floor holds again")
        shared.fault = own.fault = Fault.NONE
        eventually(
            lambda: all(each.get("/health")["status"] == "healthy" for each in members),
            "all is well",
        )
