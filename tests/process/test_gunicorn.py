"""What can go wrong with gunicorn itself: refused settings, broken applications, stops."""

import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest

from service.health import Phase, Role
from tests.pod import Pod, eventually, free_port

LIVENESS = "/api/system/health/liveness"
READINESS = "/api/system/health/readiness"


def _end(pod: Pod) -> int:
    """Exit status of a service that does not start."""
    assert pod.launch().process is not None
    return pod.process.wait(30)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        pytest.param(["--reuse-port"], "reuse_port cannot be used", id="reuse_port"),
        pytest.param(["--preload"], "preload_app cannot be used", id="preload"),
        pytest.param(["--timeout", "0"], "timeout must not be 0", id="timeout"),
        pytest.param(["--workers", "1"], "workers must be at least 2", id="workers"),
        pytest.param(["--bind", "127.0.0.1:0"], "bind must contain HEALTH_PORT", id="bind"),
    ],
)
def test_settings_that_break_the_roles_are_refused(
    make_pod: Callable[..., Pod], options: list[str], line: str
) -> None:
    pod = make_pod(*options)
    assert _end(pod) == 78
    assert line in pod.log
    assert "Traceback" not in pod.log


@pytest.mark.parametrize(
    ("settings", "status", "line"),
    [
        pytest.param({"WORKER_CLASS": "gevent"}, 78, "WORKER_CLASS", id="gevent"),
        pytest.param(
            {"HEALTH_CHECKS": "nowhere.to.be:found"}, 78, "HEALTH_CHECKS", id="checks not there"
        ),
        pytest.param(
            {"HEALTH_CHECKS": "examples.shop:app", "DATABASE_URL": "sqlite://"},
            78,
            "HEALTH_CHECKS",
            id="checks are none",
        ),
        pytest.param(
            {
                "HEALTH_CHECKS": "examples.shop:checks",
                "DATABASE_URL": "sqlite://",
                "HEALTH_CRITICAL_CHECKS": "stocks",
            },
            78,
            "HEALTH_CRITICAL_CHECKS: names a check",
            id="unknown critical check",
        ),
        pytest.param({"APP_MODULE": "nowhere:app"}, 4, "APP_MODULE: nowhere:app", id="no app"),
    ],
)
def test_what_cannot_start_says_why_in_one_line(
    make_pod: Callable[..., Pod], settings: dict[str, str], status: int, line: str
) -> None:
    pod = make_pod(**settings)
    assert _end(pod) == status
    assert line in pod.log
    assert "Traceback" not in pod.log


POSTGRESQL = {"DATABASE_URL": "postgresql://shop@127.0.0.1:9/shop"}
PROVIDER = {"STRIPE_SECRET_KEY": "sk_test_of_nobody", "STRIPE_API_BASE": "http://127.0.0.1:9"}
WEBHOOK = {"HEALTH_SLACK_WEBHOOK_URL": "http://127.0.0.1:9/"}
# What each library maps into a process, and into no other's.
MAPPED = {
    "psycopg": "psycopg_binary",
    "sqlalchemy": "/sqlalchemy/",
    "requests": "/charset_normalizer/",
}


@pytest.mark.parametrize(
    ("settings", "libraries"),
    [
        pytest.param({}, set(), id="nothing"),
        pytest.param(POSTGRESQL, {"psycopg"}, id="postgresql"),
        pytest.param({"DATABASE_URL": "sqlite://"}, {"sqlalchemy"}, id="sqlite"),
        pytest.param(PROVIDER, {"requests"}, id="a provider"),
        pytest.param(WEBHOOK, {"requests"}, id="a webhook"),
        pytest.param({"DATABASE_URL": "no:url"}, {"sqlalchemy"}, id="no url"),
    ],
)
def test_the_master_has_what_its_workers_share_and_opens_nothing(
    make_pod: Callable[..., Pod], settings: dict[str, str], libraries: set[str]
) -> None:
    pod = make_pod(**settings).launch()
    eventually(lambda: pod.status(LIVENESS, health=True) == 200, "it is up")
    maps = Path(f"/proc/{pod.pid}/maps").read_text()
    assert {name for name, part in MAPPED.items() if part in maps} == libraries
    master = psutil.Process(pod.pid)
    assert master.num_threads() == 1
    # More than once: the kernel's table may change while it is read, and then rows are missed.
    eventually(
        lambda: {each.status for each in master.net_connections("tcp")} == {psutil.CONN_LISTEN},
        "it only listens",
    )


SHOP = """
import os
from service import Check, StartupTask

with open(os.environ["HOME"] + "/imports", "a") as imports:
    imports.write(f"{os.getpid()}\\n")

def app(environ, start_response):
    start_response("204 No Content", [])
    return []

def checks():
    return {Check("stock"): lambda: None}

def tasks():
    return {StartupTask("warm", once="pod"): lambda: None}
"""


def test_the_master_imports_nothing_of_the_applications(
    make_pod: Callable[..., Pod], tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    pod = make_pod(
        PYTHONPATH=str(tmp_path),
        APP_MODULE="shop:app",
        HEALTH_CHECKS="shop:checks",
        STARTUP_TASKS="shop:tasks",
    ).start()
    importers = {int(line) for line in (pod.directory / "imports").read_text().split()}
    assert {each.pid for role in Role for each in pod.workers(role)} <= importers
    assert pod.pid not in importers


@pytest.mark.parametrize("variable", ["PORT", "HEALTH_PORT"])
def test_a_port_that_is_taken_is_named(make_pod: Callable[..., Pod], variable: str) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        pod = make_pod(**{variable: str(port)})
        assert _end(pod) == 1
    assert f"{variable} {port}: cannot listen there" in pod.log


@pytest.mark.parametrize("mood", ["broken", "ending", "hanging", "stubborn", "deaf"])
def test_a_broken_deploy_does_not_take_the_old_workers(
    make_pod: Callable[..., Pod], tmp_path: Path, mood: str
) -> None:
    file = tmp_path / "mood"
    # What hangs is refused then, and what does not hang is not.
    pod = make_pod(**_of_mood(file, "10")).start()
    old = {worker.pid for worker in pod.workers()}
    file.write_text(mood)
    os.kill(pod.pid, signal.SIGHUP)
    eventually(lambda: "the reload is refused" in pod.log, "the reload is refused")
    eventually(lambda: not _trials(pod), "the trial is over")
    assert {worker.pid for worker in pod.workers()} == old
    assert pod.status("/anything") == 200
    file.unlink()
    os.kill(pod.pid, signal.SIGHUP)
    eventually(
        lambda: len(pod.workers()) == 2 and not old & {worker.pid for worker in pod.workers()},
        "a good deploy goes through",
    )
    pod.wait_for(200, READINESS)


def _of_mood(file: Path, boot_seconds: str) -> dict[str, str]:
    """An application whose import does what is in a file, if there is one."""
    return {
        "APP_MODULE": "tests.process.apps:app",
        "APP_MOOD_FILE": str(file),
        "HEALTH_BOOT_SECONDS": boot_seconds,
    }


def test_a_trial_import_holds_no_port_and_ends_with_its_pod(
    make_pod: Callable[..., Pod], tmp_path: Path
) -> None:
    file = tmp_path / "mood"
    pod = make_pod(**_of_mood(file, "3000")).start()
    file.write_text("deaf")
    os.kill(pod.pid, signal.SIGHUP)
    eventually(lambda: len(_trials(pod)) == 2, "one imports, and one waits for it")
    trials = _trials(pod)
    assert [each.net_connections() for each in trials] == [[], []]
    os.kill(pod.pid, signal.SIGKILL)
    eventually(lambda: not any(_runs(each.pid) for each in trials), "both are gone")


def _trials(pod: Pod) -> list[psutil.Process]:
    """The processes of a pod's trial imports."""
    found = []
    for each in psutil.Process(pod.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "preflight" in each.cmdline():
                found.append(each)
    return found


@pytest.mark.parametrize("mood", ["hanging", "stubborn", "deaf"])
def test_an_import_that_hangs_at_the_first_start_is_no_progress(
    make_pod: Callable[..., Pod], tmp_path: Path, mood: str
) -> None:
    file = tmp_path / "mood"
    file.write_text(mood)
    pod = make_pod(**_of_mood(file, "15")).launch()
    eventually(lambda: pod.status(LIVENESS, health=True) == 200, "alive while it boots")
    assert pod.get("/api/system/health/startup", health=True).status == 503
    eventually(lambda: pod.status(LIVENESS, health=True) == 503, "not alive once it is too late")
    eventually(lambda: "had not booted within HEALTH_BOOT_SECONDS" in pod.log, "it is replaced")
    file.unlink()
    pod.wait_for(200, "/api/system/health/startup")
    assert pod.get(LIVENESS).status == 200


def test_an_import_that_hangs_does_not_outlive_the_master(
    make_pod: Callable[..., Pod], tmp_path: Path
) -> None:
    file = tmp_path / "mood"
    file.write_text("deaf")
    pod = make_pod(**_of_mood(file, "15")).launch()
    eventually(lambda: pod.status(LIVENESS, health=True) == 200, "it is up")
    workers = eventually(pod.workers, "web workers")
    os.kill(pod.pid, signal.SIGKILL)
    for worker in workers:
        eventually(lambda: not _runs(worker.pid), f"worker {worker.pid} has left")  # noqa: B023


def test_a_timer_of_the_application_outlasts_the_boot(
    make_pod: Callable[..., Pod], tmp_path: Path
) -> None:
    file = tmp_path / "mood"
    file.write_text("ticking")
    pod = make_pod(APP_MODULE="tests.process.apps:app", APP_MOOD_FILE=str(file)).start()
    for _ in range(3):
        tick = pod.directory / "tick"
        tick.unlink(missing_ok=True)
        eventually(tick.exists, "the timer ticks on")
    assert pod.get("/anything").status == 200


def test_boots_that_fail_one_after_the_other_are_no_progress(
    make_pod: Callable[..., Pod], tmp_path: Path
) -> None:
    file = tmp_path / "mood"
    pod = make_pod(**_of_mood(file, "15")).start()
    file.write_text("broken")
    for worker in pod.workers():
        os.kill(worker.pid, signal.SIGKILL)
    eventually(lambda: "worker cannot load" in pod.log, "nobody can take their place")
    eventually(lambda: pod.status(LIVENESS, health=True) == 503, "not alive once it is too late")
    failed = pod.log.count("worker cannot load")
    while pod.log.count("worker cannot load") < failed + 4:
        assert pod.status(LIVENESS, health=True) == 503
    file.unlink()
    pod.wait_for(200, LIVENESS)


def test_workers_that_are_stuck_are_no_progress(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(
        APP_MODULE="tests.process.apps:app",
        WEB_CONCURRENCY="2",
        THREADS="2",
        HEALTH_LIVENESS_STALL_SECONDS="8",  # not so few that a busy machine makes a worker stuck
    ).start()
    held = []

    def hold() -> None:
        sock = socket.create_connection(("127.0.0.1", pod.port), timeout=5)
        sock.sendall(b"GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n")
        held.append(sock)

    def full() -> bool:
        return all(worker.in_flight == worker.threads for worker in pod.workers())

    try:
        hold()
        eventually(lambda: any(worker.in_flight for worker in pod.workers()), "one is held")
        while pod.get(LIVENESS, health=True).status == 200:
            if not full():
                hold()  # another one: which worker takes it is the kernel's choice
        assert full()
        answer = pod.get("/api/system/health/application", health=True)
        eventually(
            lambda: (
                pod.get("/api/system/health/application", health=True).data["error"]
                == "workers_stalled"
            ),
            f"the application check says so, not {answer.data}",
        )
        eventually(lambda: pod.status(READINESS, health=True) == 200, "ready all the same")
    finally:
        for sock in held:
            sock.close()


def test_sigterm_drains_before_it_stops(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(APP_MODULE="tests.process.apps:app", HEALTH_DRAIN_SECONDS="10").start()
    os.kill(pod.pid, signal.SIGTERM)
    pod.wait_for(503, READINESS)
    for health in (False, True):
        for path in ("/health", "/api/system/health/simple", READINESS):
            assert pod.get(path, health=health).status == 503
        for path in (LIVENESS, "/api/system/health/startup", "/metrics"):
            assert pod.get(path, health=health).status == 200
    answer = pod.get("/anything", Connection="keep-alive")
    assert answer.status == 200
    assert answer.headers["connection"] == "close"
    assert pod.process is not None
    assert pod.process.wait(30) == 0
    assert "Traceback" not in pod.log


def test_the_health_worker_outlives_its_siblings(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(APP_MODULE="tests.process.apps:app", HEALTH_DRAIN_SECONDS="0").start()
    with socket.create_connection(("127.0.0.1", pod.port), timeout=30) as slow:
        slow.sendall(b"GET /slow?seconds=10 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        eventually(lambda: any(worker.in_flight for worker in pod.workers()), "it is served")
        os.kill(pod.pid, signal.SIGTERM)
        eventually(lambda: pod.status("/health", health=True) == 503, "draining")
        eventually(lambda: Phase.STOPPING in {each.phase for each in pod.workers()}, "it leaves")
        assert pod.get(LIVENESS, health=True).status == 200
        answer = b""
        while chunk := slow.recv(4096):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 200")
    assert pod.process is not None
    assert pod.process.wait(30) == 0


def test_a_second_sigterm_skips_the_wait(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(HEALTH_DRAIN_SECONDS="3000").start()
    os.kill(pod.pid, signal.SIGTERM)
    pod.wait_for(503, READINESS)
    os.kill(pod.pid, signal.SIGTERM)
    assert pod.process is not None
    assert pod.process.wait(30) == 0


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGQUIT])
def test_an_immediate_stop_skips_all_of_it(
    make_pod: Callable[..., Pod], sig: signal.Signals
) -> None:
    pod = make_pod(HEALTH_DRAIN_SECONDS="3000").start()
    os.kill(pod.pid, sig)
    assert pod.process is not None
    assert pod.process.wait(30) == 0


def test_nothing_is_left_behind_after_kill_nine_of_the_master(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod().start()
    workers = [worker.pid for role in Role for worker in pod.workers(role)]
    os.kill(pod.pid, signal.SIGKILL)
    for pid in workers:
        eventually(lambda: not _runs(pid), f"worker {pid} has left")  # noqa: B023
    eventually(lambda: not _servers(pod), "the embedded server has left")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _servers(pod: Pod) -> list[str]:
    """Command lines of the embedded servers of a pod."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [line for line in lines if str(pod.directory) in line and "valkey" in line]


def test_idle_clients_cannot_use_up_what_a_worker_may_have_open(
    make_pod: Callable[..., Pod],
) -> None:
    pod = make_pod(WEB_CONCURRENCY="1", REDIS_EMBEDDED="off", DATABASE_URL="sqlite://")
    pod.prefix = ["sh", "-c", 'ulimit -S -n 256 && exec "$@"', "sh"]
    pod.start()
    before = [worker.pid for worker in pod.workers()]
    with ExitStack() as stack:
        for _ in range(300):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", pod.port), 30))
            idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert idle.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
        assert pod.get("/health").status == 200
    assert [worker.pid for worker in pod.workers()] == before
    assert "Too many open files" not in pod.log
