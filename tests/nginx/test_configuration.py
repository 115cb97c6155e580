"""What is in ``nginx/`` is accepted by every nginx it is meant for, and by a linter."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.nginx import SHIPPED, Nginx

VARIANTS = ("nginx.conf", "kubernetes.conf", "active-checks.conf")
ELSEWHERE = {
    "kubernetes.conf": {
        "kube-dns.kube-system.svc.cluster.local": "127.0.0.1",
    }
}


def test_every_nginx_takes_it(program: Path, tmp_path: Path) -> None:
    assert Nginx(program, tmp_path).check() == ""


def test_it_fits_beside_what_an_nginx_says_already(program: Path, tmp_path: Path) -> None:
    """And leaves that as it is: what is for the site alone stands in its server block."""
    include = "include mingus-health.conf;"
    said = "real_ip_header X-Real-IP; real_ip_recursive off; limit_req_status 503;"
    assert Nginx(program, tmp_path, edits={include: f"{said}\n{include}"}).check() == ""


@pytest.mark.parametrize("main", VARIANTS)
def test_the_newest_takes_every_variant(newest: Path, tmp_path: Path, main: str) -> None:
    pods = () if main == "kubernetes.conf" else ("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
    edits = ELSEWHERE.get(main, {})
    assert Nginx(newest, tmp_path, pods, main=main, edits=edits).check() == ""


@pytest.mark.parametrize("main", VARIANTS)
def test_the_linter_has_nothing_to_say(main: str) -> None:
    status, said = gixy(SHIPPED / main)
    assert status == 0, said


def test_the_linter_sees_what_is_included(tmp_path: Path) -> None:
    for source in SHIPPED.glob("*.conf"):
        text = source.read_text().replace("server_tokens off;", "")
        (tmp_path / source.name).write_text(text)
    status, said = gixy(tmp_path / "nginx.conf")
    assert status == 1
    assert "version_disclosure" in said


def gixy(main: Path) -> tuple[int, str]:
    done = subprocess.run(
        [Path(sys.executable).with_name("gixy"), str(main)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_variants_differ_in_the_upstream_only() -> None:
    """What nginx.conf says about processes, logs and connections holds for all."""
    common = essence(SHIPPED / "nginx.conf")
    for main in VARIANTS[1:]:
        assert common <= essence(SHIPPED / main), main


def essence(main: Path) -> set[str]:
    lines = {line.split("#")[0].strip() for line in main.read_text().splitlines()}
    return {line for line in lines if line and not line.startswith("server ")}
