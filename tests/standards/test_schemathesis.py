"""Requests that schemathesis generates from the description, against the running service."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.contract.audit import BOTH
from tests.pod import Pod

# A form for each listener: what is usual, and what is answered only when asked for.
ACCEPT = ("*/*", "application/health+json, application/problem+json, application/json;q=0.9")
NOT_HERE = (
    "not_a_server_error",  # 503 is documented: it is the answer of a health check that fails
    "negative_data_rejection",  # unknown queries are ignored, a name that is none is warned of
)
ENOUGH = 2000


def test_two_thousand_requests_are_answered_as_described(pod: Pod, tmp_path: Path) -> None:
    found = [generated(pod, health, tmp_path / f"{health}.json") for health in BOTH]
    assert sum(report["test_cases"]["generated"] for report in found) >= ENOUGH


def generated(pod: Pod, health: bool, report: Path) -> Any:  # noqa: FBT001
    """What schemathesis reports of one listener, all of it well."""
    port = pod.health_port if health else pod.port
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--no-color", "run"),
        f"http://127.0.0.1:{port}/api/system/health/openapi.json",
        *("--header", f"Accept: {ACCEPT[health]}"),
        *("--checks", "all", "--exclude-checks", ",".join(NOT_HERE)),
        *("--seed", "1", "--max-examples", "34", "--generation-database", "none"),
        *(("--exclude-path", "/") if health else ()),  # it is the web listener's
        *("--workers", "2", "--report-json-path", str(report)),
    ]
    run = subprocess.run(command, cwd=report.parent, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(report.read_text())
    assert found["failures"] == found["errors"] == []
    assert found["operations"]["tested"] == found["operations"]["selected"]
    assert {name: said for name, said in found["warnings"].items() if said} == {}
    assert found["test_cases"]["without_checks"] == 0
    return found
