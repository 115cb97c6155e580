"""The commands that look: on a running pod, on none, on a dead, a foreign and a forbidden one."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service import advice, scoreboard
from service.cli import output, probe
from service.cli.commands import SHELLS
from service.health import CODES, Kind, Role
from service.health.pod import UNREADABLE
from service.scoreboard import BODY_BYTES, Scoreboard, path_of
from service.settings import CHECKS, Settings, is_secret
from tests.kubelet import ProbeSpec, request_bytes
from tests.kubernetes.servers import StepServer
from tests.pod import ROOT, Pod, eventually, free_port
from tests.process.commands import (
    STEADY,
    command_line_of,
    document,
    refused,
    run,
    run_each,
    started,
)
from tests.servers.redis import RedisServer, binary

READINESS = "/api/system/health/readiness"
# What needs a pod, and says so in one line when there is none.
NEEDING_A_POD = (
    *(["status"], ["workers"], ["fleet"], ["explain", "database"], ["watch"], ["check"]),
    *(["drain"], ["drain", "--wait"], ["undrain"], ["maintenance", "on"]),
)
NOBODY = 65534
VECTORS = json.loads((ROOT / "tests/kubernetes/kubelet-probe-vectors.json").read_text())
SCALE = 10.0  # the margins of the vectors are 0.1 s: a busy machine needs ten times that
PROBE = ("probe", "--timeout", "60")  # of what answers at once


def _without_pod(pod: Pod, *words: str, user: int | None = None) -> None:
    for _, done in run_each(pod, NEEDING_A_POD, user=user):
        refused(done, "no running pod", *words)
    ((_, done),) = run_each(pod, [["wait", "--timeout", "0.1"]], user=user)
    assert (done.returncode, done.stdout) == (1, "")
    for line in done.stderr.splitlines():
        assert all(word in line for word in ("no running pod", *words))


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    pod = Pod(tmp_path_factory.mktemp("well"), DATABASE_URL="sqlite://", **STEADY)
    with pod.start().wait_for(200, READINESS):
        yield pod


# -- a pod that is well


def test_status_says_what_the_endpoints_say(well: Pod) -> None:
    found = document(well, "status")
    assert found["verdicts"].keys() == {"liveness", "readiness", "startup", "overall"}
    assert found["verdicts"]["readiness"] is True
    assert (found["lifecycle"], found["obstacles"]) == ("serving", [])
    assert found["pod_id"] == well.board.pod_id
    assert found["web_workers"] == {"expected": 2, "live": 2}
    assert list(found["checks"]) == list(CHECKS)
    shown = well.get("/health/detailed").json["services"]["database"]
    assert found["checks"]["database"].keys() == {*shown, "age_seconds", "critical"}
    assert found["checks"]["database"]["status"] == shown["status"] == "healthy"
    text = run(well, "status")
    assert (text.returncode, text.stderr) == (0, "")
    assert re.search(r"(?m)^readiness +yes$", text.stdout)
    assert re.search(r"(?m)^database +healthy +- +[\d.]+ s +[\d.]+ ms +needs it$", text.stdout)
    assert "\x1b" not in text.stdout


def test_workers_shows_every_slot(well: Pod) -> None:
    found = document(well, "workers")
    assert found["alive"] is True
    living = {worker.pid for role in Role for worker in well.workers(role)}
    assert {worker["pid"] for worker in found["workers"]} == living
    assert [worker["role"] for worker in found["workers"]].count("web") == 2
    assert all(worker["state"] in ("idle", "busy", "full") for worker in found["workers"])
    text = run(well, "workers")
    assert text.returncode == 0
    assert (
        len(re.findall(r"(?m)^ *\d+ +\d+ +(?:web|health) +(?:idle|busy|full) ", text.stdout)) == 3
    )


def test_explain_has_rules_results_and_advice(well: Pod) -> None:
    found = document(well, "explain", "database")
    assert (found["interval_seconds"], found["timeout_seconds"]) == (1, 15)
    assert (found["failure_threshold"], found["success_threshold"]) == (2, 2)
    assert found["decides"] == {"readiness": True, "startup": True}
    assert found["thresholds"]["DB_RESPONSE_WARNING_MS"]["value"] == 15000
    assert found["result"]["status"] == found["last_run"]["status"] == "healthy"
    assert found["advice"] is None
    text = run(well, "explain", "stripe_api")
    assert text.returncode == 0
    assert "STRIPE_SECRET_KEY" in text.stdout
    assert "then give its settings" in text.stdout


def test_explain_of_no_check_lists_those_there_are(well: Pod) -> None:
    refused(run(well, "explain", "happiness"), "'happiness'", *CHECKS)


def test_wait_and_probe_of_a_pod_that_is_ready(well: Pod) -> None:
    done = run(well, "wait", "--timeout", "30")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ready after")
    assert document(well, "wait")["ready"] is True
    url = f"http://127.0.0.1:{well.health_port}{READINESS}"
    assert re.fullmatch(r"success in [\d.]+ ms: status 200\n", run(well, *PROBE, url).stdout)
    assert document(well, *PROBE, url)["status"] == 200
    assert document(well, *PROBE, f"{url}/nothing", status=1)["status"] == 404


def test_watch_goes_on_until_it_is_interrupted(make_pod: Callable[..., Pod]) -> None:
    """Past the end of the pod, and on to the next one."""
    pod = make_pod(DATABASE_URL="sqlite://").start().wait_for(200, READINESS)
    with started(pod, "watch", "--json", "--interval", "0.1") as watch:
        assert watch.stdout is not None
        assert watch.stderr is not None
        seen = [json.loads(watch.stdout.readline()) for _ in range(3)]
        assert {each["pod_id"] for each in seen} == {pod.board.pod_id}
        assert len({each["timestamp"] for each in seen}) == 3
        pod.stop()
        assert "no running pod" in watch.stderr.readline()
        pod.start()
        eventually(
            lambda: json.loads(watch.stdout.readline())["pod_id"] == pod.board.pod_id,
            "it sees the next pod",
        )
        watch.send_signal(signal.SIGINT)
        _, complaints = watch.communicate(timeout=30)
        assert watch.returncode == 0
        assert all(line.startswith(_no_pod(pod)) for line in complaints.splitlines())


def _no_pod(pod: Pod) -> str:
    return f"mingus-health: no running pod in {pod.directory / 'run'}"


# -- the fleet


def test_a_pod_without_redis_is_alone(well: Pod) -> None:
    found = document(well, "fleet")
    assert (found["configured"], found["scope"], found["fresh"]) == (False, "pod", False)
    assert (found["pods"], found["age_seconds"]) == ([], None)
    text = run(well, "fleet")
    assert (text.returncode, text.stderr) == (0, "")
    assert (
        text.stdout
        == "alone: a fleet needs a configured Redis (REDIS_URL), and this pod has none\n"
    )


def test_the_fleet_fresh_and_stale(make_pod: Callable[..., Pod]) -> None:
    with RedisServer(binary("valkey")) as redis:
        given = {"DATABASE_URL": "sqlite://", "HEALTH_FLEET_INTERVAL_SECONDS": "2", **STEADY}
        pods = [
            make_pod(REDIS_URL=redis.url, APP_RELEASE=release, **given).start()
            for release in ("blue", "green")
        ]
        here, _ = pods

        def whole() -> Any:
            found = json.loads(run(here, "fleet", "--json").stdout)
            ready = found["fresh"] and found["pods_ready"] == 2
            return found if ready and found["leases"]["checks"] else None

        found = eventually(whole, "both pods are ready, and one holds the lease")
        assert found["age_seconds"] < 6
        endpoint = here.get("/api/system/health/fleet").data
        assert found.keys() == {*endpoint, "configured", "age_seconds"}
        assert found["this_pod"] == endpoint["this_pod"] == here.board.pod_id
        assert {row["pod"] for row in found["pods"]} == {pod.board.pod_id for pod in pods}
        text = eventually(
            lambda: (done := run(here, "fleet")).returncode == 0 and done, "the view is fresh"
        )
        assert text.stderr == ""
        mine = here.board.pod_id[:12]
        assert re.search(rf"(?m)^{mine} \(this\) .* blue +serving +yes +2/2 ", text.stdout)
        assert re.search(r"(?m)^lease checks +[0-9a-f]{12} on ", text.stdout)
        with redis.frozen():
            eventually(lambda: run(here, "fleet").returncode == 1, "the view is stale")
            assert document(here, "fleet", status=1)["fresh"] is False
            assert re.search(r"(?m)^view +stale, ", run(here, "fleet").stdout)


def test_a_fleet_nobody_has_reached_yet(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(REDIS_URL=f"redis://127.0.0.1:{free_port()}/0", HEALTH_STARTUP_CHECKS="none")
    pod.start()
    done = run(pod, "fleet")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("alone: this pod has not reached the configured Redis yet")


# -- a pod that is not ready


def test_a_pod_in_maintenance(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(DATABASE_URL="sqlite://", **STEADY).start().wait_for(200, READINESS)
    pod.board.maintain(on=True)
    assert document(pod, "status", status=1)["obstacles"] == ["maintenance"]
    text = run(pod, "status").stdout
    assert "no: maintenance" in text
    assert re.search(r"(?m)^runbook +docs/operations.md#mingushealthmaintenanceforgotten$", text)
    assert run(pod, "workers").returncode == 0
    assert run(pod, "explain", "redis").returncode == 0
    done = run(pod, "wait", "--timeout", "3")
    assert (done.returncode, done.stdout) == (1, "")
    waiting, conclusion = (line.partition(": ")[2] for line in done.stderr.splitlines())
    assert waiting == "waiting: maintenance"
    waited = re.fullmatch(r"not ready after ([\d.]+) s: maintenance", conclusion)
    assert waited
    assert 3 <= float(waited[1]) < 30
    assert document(pod, "wait", "--timeout", "0.1", status=1)["obstacles"] == ["maintenance"]
    url = f"http://127.0.0.1:{pod.health_port}{READINESS}"
    assert run(pod, *PROBE, url).stdout.endswith("status 503\n")


def test_a_dependency_that_is_down(make_pod: Callable[..., Pod]) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    pod = make_pod(REDIS_URL=url, HEALTH_STARTUP_CHECKS="none", **STEADY).start()
    obstacle = "redis unhealthy (connection_refused)"
    eventually(lambda: document(pod, "status", status=1)["obstacles"] == [obstacle], obstacle)
    found = document(pod, "explain", "redis", status=1)
    assert found["advice"] == advice.advice("connection_refused")
    assert found["failed_runs"] > 0
    assert found["runbook"] == "docs/operations.md#mingushealthcheckfailing"
    text = run(pod, "explain", "redis")
    assert text.returncode == 1
    assert "is it running, and is it where the URL says?" in text.stdout


def test_wait_sees_a_pod_come(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(DATABASE_URL="sqlite://")
    with started(pod, "wait", "--timeout", "120") as wait:
        assert wait.stderr is not None
        assert "waiting: no running pod" in wait.stderr.readline()
        pod.start()
        said, progress = wait.communicate(timeout=60)
    assert wait.returncode == 0
    assert said.startswith("ready after")
    assert all(line.startswith("mingus-health: waiting: ") for line in progress.splitlines())


# -- no pod, or none that can be read


def test_the_service_is_down(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod()
    _without_pod(pod, "No such file or directory")
    (pod.directory / "run").mkdir()
    _without_pod(pod)
    done = run(pod, *PROBE, f"http://127.0.0.1:{pod.health_port}/health")
    assert (done.returncode, done.stderr) == (1, "")
    assert "Connection refused" in done.stdout
    assert run(pod, "settings").returncode == 0


def test_a_scoreboard_whose_master_is_dead(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod(DATABASE_URL="sqlite://").start()
    os.kill(pod.pid, signal.SIGKILL)
    assert pod.process is not None
    pod.process.wait(10)
    _without_pod(pod, f"process {pod.pid}, is gone")


@pytest.mark.parametrize("junk", [b"", b"junk", b"x" * 100_000], ids=["empty", "short", "long"])
def test_a_file_that_is_no_scoreboard(make_pod: Callable[..., Pod], junk: bytes) -> None:
    pod = make_pod()
    shared = pod.directory / "run"
    shared.mkdir()
    (shared / "scoreboard.1").write_bytes(junk)
    _without_pod(pod, "scoreboard.1")


def test_a_scoreboard_with_garbage_in_it(make_pod: Callable[..., Pod]) -> None:
    """It is of this version, and its master lives: only what it says makes no sense."""
    pod = make_pod()
    shared = pod.directory / "run"
    shared.mkdir()
    board = Scoreboard.create(path_of(shared, os.getpid()), slots=3)
    board.publish(1, b"\xff" * BODY_BYTES)
    assert document(pod, "status", status=1)["obstacles"] == [UNREADABLE]
    for command in (["explain", "redis"], ["fleet"]):
        refused(run(pod, *command), UNREADABLE)
    board.slot(1).assign(Role.WEB, 0, 4)
    board.slot(1)._words[scoreboard.S_ROLE] = 2**63
    for command in (["status"], ["workers"]):
        refused(run(pod, *command), "slot 1 is damaged")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("closed", ["its file", "its directory", "the one above"])
def test_a_user_who_may_not_read_it(make_pod: Callable[..., Pod], closed: str) -> None:
    pod = make_pod(DATABASE_URL="sqlite://").start()
    shared = pod.directory / "run"
    for directory in shared.parents:
        if Path(tempfile.gettempdir()) in directory.parents:
            directory.chmod(0o755)
    shared.chmod(0o700 if closed == "its directory" else 0o755)
    if closed == "the one above":
        pod.directory.chmod(0o700)
    _without_pod(pod, "Permission denied", user=NOBODY)


def test_wrong_usage_and_wrong_settings(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod()
    wrong = (
        *(["explain"], ["probe"], ["wait", "--timeout", "soon"], ["watch", "--interval", "0"]),
        *(["completion", "tcsh"], ["drain", "--wait", "soon"], ["check", "--kind", "happiness"]),
        *(["dance"], []),
    )
    for _, done in run_each(pod, wrong):
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("usage: ")
    commands = (*NEEDING_A_POD, ["wait"], ["settings"])
    for command, done in run_each(pod, commands, HEALTH_BOOT_SECONDS="soon"):
        status = 78 if command[0] in ("drain", "undrain", "maintenance") else 2
        refused(done, "HEALTH_BOOT_SECONDS", status=status)
        assert "soon" not in done.stderr


# -- settings


def test_settings_come_from_somewhere_and_keep_secrets(
    make_pod: Callable[..., Pod], tmp_path: Path
) -> None:
    pod = make_pod()
    secret = tmp_path / "secret"
    secret.write_text("sk_live_hidden\n")
    environ = {
        "FLASK_ENV": "staging",
        "PORT": "tcp://10.0.0.1:80",
        "DATABASE_URL": "postgresql://joe:hidden@db/shop",
        "SUPABASE_URL": "https://joe:hidden@example.com",
        "HEALTH_DETAILS_TOKEN": "hidden-hidden-hidden",
        "STRIPE_SECRET_KEY_FILE": str(secret),
    }
    found = document(pod, "settings", **environ)
    sources = {
        name: (found[name]["source"], found[name]["variable"])
        for name in ("APP_ENV", "PORT", "DATABASE_URL", "STRIPE_SECRET_KEY", "THREADS")
    }
    assert sources == {
        "APP_ENV": ("environment", "FLASK_ENV"),
        "PORT": ("default", None),
        "DATABASE_URL": ("environment", "DATABASE_URL"),
        "STRIPE_SECRET_KEY": ("file", "STRIPE_SECRET_KEY_FILE"),
        "THREADS": ("default", None),
    }
    assert len(found) == len(Settings.model_fields)
    assert found["RUN_DIR"]["value"] == str(pod.directory / "run")
    assert found["HEALTH_STARTUP_CHECKS"]["value"] == ["database", "redis"]
    text = run(pod, "settings", **environ)
    assert re.search(r"(?m)^APP_ENV +staging +FLASK_ENV$", text.stdout)
    assert "hidden" not in json.dumps(found) + text.stdout
    assert any(is_secret(field) for field in Settings.model_fields)


# -- probe


def _asked(vector: dict[str, Any]) -> probe.Answer:
    timeout = vector["timeout_s"] * SCALE
    if vector["connect"] == "refused":
        return probe.once(f"http://127.0.0.1:{free_port()}/", timeout)
    routes = {**VECTORS["common_routes"], **vector.get("extra_routes", {})}
    with StepServer(vector["server"], routes, SCALE) as server:
        return probe.once(f"http://127.0.0.1:{server.port}{server.path}", timeout)


def test_probe_comes_to_the_verdicts_of_the_kubelet() -> None:
    """On every server that the kubelet was observed with, but one whose header has 1 MB."""
    vectors = {each["name"]: each for each in VECTORS["vectors"] if each["name"] != "header-1MB"}
    with ThreadPoolExecutor(len(vectors)) as clients:
        answers = dict(zip(vectors, clients.map(_asked, vectors.values()), strict=True))
    word = {"warning": "success", "error": "unknown"}
    for name, (result, status, why) in answers.items():
        expected = vectors[name]["expected"]
        accepted = [
            (word.get(each["result"], each["result"]), each["http_status"])
            for each in (expected, expected.get("also_accepted", expected))
        ]
        assert (result, status) in accepted, (name, why)


def test_probe_asks_what_the_kubelet_asks() -> None:
    with StepServer([], {"/a?b=c": VECTORS["common_routes"]["/ok"]}, SCALE) as server:
        url = f"http://127.0.0.1:{server.port}/a?b=c"
        assert probe.ask(url, 10).result == "success"
        spec = ProbeSpec(Kind.READINESS, path="/a?b=c")
        assert server.received == [request_bytes(spec, url)]


def test_probe_says_when_nothing_can_be_said(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod()
    for nonsense in ("localhost", "ftp://localhost/", "http://", "http://localhost:port/"):
        refused(run(pod, "probe", nonsense), "the URL must be like")
    broken = [{"send": "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"}]
    with StepServer(broken, {}, SCALE) as server:
        done = run(pod, *PROBE, f"http://127.0.0.1:{server.port}{server.path}")
        assert done.returncode == 2
        assert "breaks off" in done.stdout
        assert len(server.received) == 3
    done = run(pod, "probe", "--timeout", "5", "http://nowhere.invalid/")
    assert (done.returncode, done.stderr) == (1, "")


# -- terminals and shells


def _on_a_terminal(pod: Pod, *arguments: str, **environ: str) -> bytes:
    ours, theirs = os.openpty()
    try:
        subprocess.run(
            command_line_of(*arguments),
            env={**pod.environ, "TERM": "xterm", **environ},
            cwd=ROOT,
            stdout=theirs,
            check=True,
            timeout=60,
        )
    finally:
        os.close(theirs)
    try:
        return os.read(ours, 65536)
    finally:
        os.close(ours)


def test_colours_are_for_terminals_that_want_them(well: Pod) -> None:
    assert b"\x1b[32mhealthy\x1b[0m" in _on_a_terminal(well, "status")
    assert b"\x1b" not in _on_a_terminal(well, "status", NO_COLOR="1")
    assert b"\x1b" not in _on_a_terminal(well, "status", TERM="dumb")
    assert b"\x1b" not in _on_a_terminal(well, "status", "--json")


def test_colours_change_no_column() -> None:
    table = output.columns(("CHECK", "N"), [("warning", 1), ("not_configured", 10), ("x", None)])
    assert table == "CHECK            N\nwarning          1\nnot_configured  10\nx                -"
    painted = output.painted(table)
    assert "\x1b[33mwarning\x1b[0m          1" in painted
    assert re.sub(r"\x1b\[\d+m", "", painted) == table


def test_a_reader_who_has_seen_enough(well: Pod) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        with started(well, "status", stdout=theirs) as status:
            _, complaints = status.communicate(timeout=30)
    finally:
        os.close(theirs)
    assert (status.returncode, complaints) == (0, "")


def test_completions(make_pod: Callable[..., Pod]) -> None:
    pod = make_pod()
    for shell in SHELLS:
        done = run(pod, "completion", shell)
        assert (done.returncode, done.stderr) == (0, "")
        for word in ("explain", "maintenance", "json", "timeout"):
            assert word in done.stdout
    bash = run(pod, "completion", "bash").stdout
    checked = subprocess.run(["bash", "-n"], input=bash, text=True, check=False, timeout=30)
    assert checked.returncode == 0


def test_an_exec_probe_pays_for_no_framework(make_pod: Callable[..., Pod]) -> None:
    code = (
        "import sys; from service.__main__ import main; main(['check']);"
        "print(*{'flask', 'shtab', 'sqlalchemy', 'requests'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=make_pod().environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "\n"


# -- advice


def test_there_is_advice_for_every_code() -> None:
    told = [code for codes in advice.ADVICE for code in codes]
    assert sorted(told) == sorted(CODES)


def test_every_check_is_explained() -> None:
    assert advice.ASKS.keys() == advice.THRESHOLDS.keys() == set(CHECKS)
    fields = [field for fields in advice.THRESHOLDS.values() for field in fields]
    assert {*fields} <= {*Settings.model_fields}
