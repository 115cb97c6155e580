"""Invariant 25: the smoke command and the demo, against a pod that is well, one that is not, none.

The commands run as a user runs them: with nothing of the service's own environment.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.audit import (
    RESOURCES,
    becomes,
    comes_to,
    comes_to_be_entirely_well,
    comes_to_be_well,
)
from tests.contract.conftest import Estate
from tests.pod import ROOT, Pod, free_port
from tests.servers.faults import Fault

SMOKE = ROOT / "scripts" / "health_check_smoke.py"
DEMO = ROOT / "scripts" / "health_check_demo.py"
CONTINUOUS = ("--iterations", "2", "--interval", "0.1")


def command(
    script: Path, directory: Path, base_url: str, *options: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, somewhere else."""
    return subprocess.run(
        [sys.executable, str(script), "--base-url", base_url, *options],
        cwd=directory,
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def refusals(pod: Pod, refused: set[str]) -> set[str]:
    """What has been refused, which is nothing; or the resources of a machine without a pause."""
    assert refused <= {RESOURCES}
    comes_to_be_entirely_well(pod)
    return refused


@pytest.mark.parametrize("listener", ["PORT", "HEALTH_PORT"])
def test_smoke_passes_twenty_of_twenty(plain: Pod, tmp_path: Path, listener: str) -> None:
    """Of the health listener, too: that it has no "/" is reported and no more."""
    base = f"http://127.0.0.1:{plain.environ[listener]}"
    report = tmp_path / "health_check_results.json"
    comes_to_be_entirely_well(plain)
    done = command(SMOKE, tmp_path, base)
    results = json.loads(report.read_text())
    refused = refusals(plain, {r["endpoint"] for r in results["results"] if not r["success"]})
    assert done.returncode == bool(refused), done.stdout + done.stderr
    assert results["summary"]["total_tests"] == 20
    assert results["summary"]["passed_tests"] == 20 - len(refused)
    assert results["summary"]["failed_tests"] == len(refused)
    assert all(r["success"] == (r["status_code"] == 200) for r in results["results"])
    done = command(SMOKE, tmp_path, base, "--contract")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(report.read_text())["summary"]["passed_tests"] == 20


def test_smoke_fails_against_a_pod_that_is_not_well(estate: Estate, tmp_path: Path) -> None:
    estate.lines["database"].fault = Fault.REFUSE
    comes_to(estate.pod, "database", "unhealthy", "connection_refused")
    base = f"http://127.0.0.1:{estate.pod.port}"
    done = command(SMOKE, tmp_path, base)
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads((tmp_path / "health_check_results.json").read_text())
    failed = {result["endpoint"] for result in report["results"] if not result["success"]}
    assert {"/health", "/health/database", "/health/standard"} <= failed
    assert report["summary"]["failed_tests"] == len(failed)
    # A failing pod keeps the contract as well as any.
    assert command(SMOKE, tmp_path, base, "--contract").returncode == 0


def test_demo_shows_either(plain: Pod, estate: Estate, tmp_path: Path) -> None:
    comes_to_be_well(plain)
    well = f"http://127.0.0.1:{plain.port}"
    ill = f"http://127.0.0.1:{estate.pod.port}"
    estate.lines["database"].fault = Fault.REFUSE
    comes_to(estate.pod, "database", "unhealthy", "connection_refused")
    for base in (well, ill):
        done = command(DEMO, tmp_path, base, *CONTINUOUS)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        shown = command(DEMO, tmp_path, base, *CONTINUOUS, "--json")
        assert shown.returncode == 0
        assert isinstance(json.loads(shown.stdout), dict)
    assert command(DEMO, tmp_path, ill, *CONTINUOUS, "--require-healthy").returncode == 1
    comes_to_be_entirely_well(plain)
    demanded = command(DEMO, tmp_path, well, *CONTINUOUS, "--require-healthy")
    assert demanded.returncode == 0 or plain.status(RESOURCES) != 200, demanded.stdout


@pytest.mark.parametrize("script", [SMOKE, DEMO], ids=["smoke", "demo"])
def test_against_nobody(script: Path, tmp_path: Path) -> None:
    done = command(script, tmp_path, f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


# -- exec probes (section 9.3): the same verdicts without HTTP


def probe(pod: Pod, kind: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", "check", "--kind", kind],
        cwd=ROOT,
        env=pod.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_exec_probes_say_what_the_endpoints_say(estate: Estate) -> None:
    kinds = ("liveness", "readiness", "startup")

    def said() -> list[int]:
        return [probe(estate.pod, kind).returncode for kind in kinds]

    becomes(said, [0, 0, 0], "what the probes say")
    estate.lines["database"].fault = Fault.REFUSE
    comes_to(estate.pod, "database", "unhealthy", "connection_refused")
    assert said() == [0, 1, 0]


def test_an_exec_probe_without_a_pod(tmp_path: Path) -> None:
    done = probe(Pod(tmp_path), "liveness")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
