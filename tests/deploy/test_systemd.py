"""The unit for a plain host: systemd accepts it, and gunicorn keeps to what it says."""

import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from service.settings import EX_CONFIG
from tests.deploy.files import UNIT, read_unit
from tests.pod import Pod

SETTINGS = read_unit(UNIT)
# Of ten: what is left is that the pod has the network, and sees the host's own files.
EXPOSURE = 2.0


def analyze(*arguments: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "mingus-health"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/mingus-health/bin/mingus-health", str(program)))
    analyze("verify", "--man=no", str(unit))


def test_the_unit_is_hardened() -> None:
    analyze("security", "--offline=true", f"--threshold={EXPOSURE * 10:.0f}", str(UNIT))


def test_a_setting_that_cannot_be_used_is_not_tried_again() -> None:
    assert SETTINGS["RestartPreventExitStatus"] == [str(EX_CONFIG)]


@contextmanager
def notifications(directory: Path) -> Iterator[socket.socket]:
    """Where systemd would hear from its service."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(directory / "notify"))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.settimeout(60)
        yield sock


def test_the_master_tells_systemd_that_it_listens(
    make_pod: Callable[..., Pod], tmp_path: Path
) -> None:
    assert SETTINGS["Type"] == ["notify"]
    assert SETTINGS["NotifyAccess"] == ["main"]
    with notifications(tmp_path) as sock:
        pod = make_pod(NOTIFY_SOCKET=str(tmp_path / "notify"), REDIS_EMBEDDED="off").launch()
        told, credentials, _, _ = sock.recvmsg(1000, 100)
        assert told.startswith(b"READY=1\n")
        # By SCM_CREDENTIALS: of the process that systemd has started, which became gunicorn.
        assert int.from_bytes(credentials[0][2][:4], "little") == pod.pid
        pod.wait_for(200, "/health")
        assert SETTINGS["KillSignal"] == [signal.SIGTERM.name]
        assert pod.stop(60) == 0
