"""Ports, paths, times and names agree in gunicorn, Kubernetes, nginx, compose, systemd and text.

Each is read from the file that a user applies. Nothing is repeated here but the relations.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.__main__ import NO_POD, main
from service.settings import Settings, variables
from tests.deploy.files import (
    COMPOSE,
    DEPLOY,
    PROMETHEUS,
    RULES,
    RUNBOOK,
    UNIT,
    Directive,
    read_nginx,
    read_unit,
    read_yaml,
    rules,
    seconds,
    unit_environment,
)
from tests.deploy.promql import selectors
from tests.kubernetes.manifests import OVERLAYS, one, rendered
from tests.pod import ENDPOINTS, ROOT

WEB, HEALTH = (Settings.model_fields[name].default for name in ("port", "health_port"))
JOB = "mingus-health"
NGINX = {
    path.name if path.parent.name == "nginx" else "compose": path
    for path in (
        ROOT / "nginx" / "nginx.conf",
        ROOT / "nginx" / "kubernetes.conf",
        ROOT / "nginx" / "active-checks.conf",
        DEPLOY / "compose" / "nginx.conf",
    )
}
# What containers and units set besides our settings.
FOREIGN = {
    *("TMPDIR", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"),
    *("POD_NAME", "POD_NAMESPACE", "POD_IP", "NODE_NAME", "MEMORY_LIMIT_BYTES"),
}
# What is between two events that follow each other on a loaded machine.
MARGIN = 5.0

each_nginx = pytest.mark.parametrize("name", NGINX)
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


@dataclass(frozen=True)
class Deployment:
    """One way to run pods.

    Attributes:
        name: What it is called.
        environment: What it sets for them.
        grace: Seconds from SIGTERM to SIGKILL.
        before: Seconds of those that pass before SIGTERM.
        disposable: Directories that are in memory, or made for the pod alone.
    """

    name: str
    environment: dict[str, str]
    grace: float
    before: float
    disposable: tuple[str, ...]


@cache
def manifests(overlay: str) -> list[dict[str, Any]]:
    return rendered(OVERLAYS[overlay])


def pod_of(overlay: str) -> dict[str, Any]:
    template: dict[str, Any] = one(manifests(overlay), "Deployment")["spec"]["template"]
    return template


def container(overlay: str) -> dict[str, Any]:
    (found,) = pod_of(overlay)["spec"]["containers"]
    return dict(found)


def kubernetes(overlay: str) -> Deployment:
    spec, found = pod_of(overlay)["spec"], container(overlay)
    environment: dict[str, str] = dict(one(manifests(overlay), "ConfigMap")["data"])
    environment |= {each["name"]: each.get("value", "") for each in found["env"]}
    mediums = {each["name"]: each.get("emptyDir", {}).get("medium") for each in spec["volumes"]}
    before = found.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    return Deployment(
        f"Kubernetes, {overlay}",
        environment,
        spec["terminationGracePeriodSeconds"],
        before,
        tuple(
            each["mountPath"] for each in found["volumeMounts"] if mediums[each["name"]] == "Memory"
        ),
    )


def compose() -> Deployment:
    pod = read_yaml(COMPOSE)["services"]["mingus"]
    grace = seconds(pod["stop_grace_period"])
    return Deployment("compose", pod["environment"], grace, 0, tuple(pod["tmpfs"]))


def systemd() -> Deployment:
    unit = read_unit(UNIT)
    made = tuple(f"/run/{name}" for name in unit["RuntimeDirectory"])
    grace = seconds(unit["TimeoutStopSec"][0])
    return Deployment("systemd", unit_environment(unit), grace, 0, made)


DEPLOYMENTS = [*(kubernetes(overlay) for overlay in OVERLAYS), compose(), systemd()]
each_deployment = pytest.mark.parametrize(
    "deployment", DEPLOYMENTS, ids=lambda deployment: deployment.name
)

SHOW = """
import json, runpy, sys
from service import settings
told = runpy.run_path(sys.argv[1])
names = ("bind", "workers", "timeout", "graceful_timeout", "keepalive")
print(json.dumps({name: told[name] for name in names} | {
    "drain": told["SETTINGS"].health_drain_seconds,
    "boot": told["SETTINGS"].health_boot_seconds,
    "run_dir": str(told["SETTINGS"].directory),
    "trusted": [str(each) for each in told["SETTINGS"].health_trusted_networks],
}))
"""


def gunicorn(environment: dict[str, str]) -> dict[str, Any]:
    """What gunicorn.conf.py says in an environment. Secrets are not here to be read."""
    given = {name: value for name, value in environment.items() if not name.endswith("_FILE")}
    given.pop("HEALTH_REQUIRE_CONFIGURED", None)
    return _gunicorn(tuple(sorted(given.items())))


@cache
def _gunicorn(environment: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    told = subprocess.run(
        [sys.executable, "-c", SHOW, str(ROOT / "gunicorn.conf.py")],
        env={"PATH": "", "PYTHONPATH": str(ROOT), **dict(environment)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def texts() -> Iterator[tuple[str, str]]:
    """Everything that people read or apply: name and text."""
    files = [ROOT / "README.md", COMPOSE, ROOT / "Dockerfile", ROOT / "gunicorn.conf.py"]
    for folder in ("docs", "deploy", "k8s", "nginx"):
        files += [path for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
    files = [path for path in files if path.suffix != ".png"]
    for path in files:
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


# -- ports and names


@each_deployment
def test_gunicorn_listens_where_everybody_looks(deployment: Deployment) -> None:
    addresses = gunicorn(deployment.environment)["bind"]
    assert [int(address.rpartition(":")[2]) for address in addresses] == [WEB, HEALTH]


def test_the_image_exposes_both_ports() -> None:
    exposed = re.findall(r"^EXPOSE (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert exposed == [f"{WEB} {HEALTH}"]


@each_overlay
def test_the_pod_has_both_ports_and_services_lead_to_the_web_one(overlay: str) -> None:
    ports = {each["name"]: each["containerPort"] for each in container(overlay)["ports"]}
    assert ports == {"web": WEB, "health": HEALTH}
    for name in ("mingus-health", "mingus-health-pods"):
        (port,) = one(manifests(overlay), "Service", name)["spec"]["ports"]
        assert (port["port"], port["targetPort"]) == (WEB, "web")
    for policy in (each for each in manifests(overlay) if each["kind"] == "NetworkPolicy"):
        if policy["metadata"]["name"] != "mingus-health":
            continue
        let_in = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert let_in <= {"web", "health", WEB, HEALTH}


@each_nginx
def test_nginx_asks_the_web_port(name: str) -> None:
    servers = [server.arguments[0] for server in upstream(name).all("server")]
    hosts, ports = zip(*(server.rsplit(":", 1) for server in servers), strict=True)
    assert str(WEB) in ports
    if set(hosts) != {"127.0.0.1"}:  # pods on one host have a port each
        assert set(ports) == {str(WEB)}


@pytest.mark.parametrize("file", [PROMETHEUS / "prometheus.yml", DEPLOY / "compose/prometheus.yml"])
def test_prometheus_asks_the_health_port(file: Path) -> None:
    (job,) = read_yaml(file)["scrape_configs"]
    assert job["job_name"] == JOB
    assert job.get("metrics_path", "/metrics") in ENDPOINTS
    found = [each["port"] for each in job.get("dns_sd_configs", ())]
    for targets in job.get("static_configs", ()):
        found += [int(target.rpartition(":")[2]) for target in targets["targets"]]
    assert set(found) == {HEALTH}


def test_prometheus_without_the_operator_finds_the_pods_in_kubernetes() -> None:
    text = (PROMETHEUS / "prometheus.yml").read_text()
    commented = re.findall(r"^#(kubernetes:|  .+)$", text, re.MULTILINE)
    (job,) = yaml.safe_load("\n".join(commented))["kubernetes"]
    keep = next(rule for rule in job["relabel_configs"] if rule.get("action") == "keep")
    assert keep["source_labels"] == [
        "__meta_kubernetes_pod_label_app_kubernetes_io_name",
        "__meta_kubernetes_pod_container_port_name",
    ]
    labels = pod_of("production")["metadata"]["labels"]
    assert keep["regex"] == f"{labels['app.kubernetes.io/name']};health"
    assert job["job_name"] == JOB


def test_the_operator_finds_the_pods_and_leaves_their_labels_alone() -> None:
    spec = one(manifests("production"), "PodMonitor")["spec"]
    labels = pod_of("production")["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert labels[spec["jobLabel"]] == JOB
    (endpoint,) = spec["podMetricsEndpoints"]
    assert endpoint["port"] == "health"
    assert endpoint["path"] in ENDPOINTS
    # The operator gives every target a label `endpoint`, the name of the port. The one that
    # app_request_total has, the route, would become exported_endpoint, and no rule would see it.
    dropped = {"action": "labeldrop", "regex": "endpoint"}
    assert endpoint.get("honorLabels") or dropped in endpoint.get("relabelings", ())


def test_rules_and_dashboard_are_about_the_same_job() -> None:
    asked = {
        value
        for rule in rules("alert")
        for selector in selectors(rule["expr"])
        for label, _, value in selector.matchers
        if label == "job"
    }
    assert asked == {JOB}


def test_kubernetes_has_the_same_rules() -> None:
    def plain(groups: list[dict[str, Any]]) -> str:
        return re.sub(r"(?:\\n|\s)+", " ", json.dumps(groups, sort_keys=True))

    found = one(manifests("production"), "PrometheusRule")["spec"]["groups"]
    assert plain(found) == plain(read_yaml(RULES)["groups"])


def test_compose_and_kubernetes_try_the_same_servers() -> None:
    services = read_yaml(COMPOSE)["services"]
    tried = {
        each["image"]
        for manifest in manifests("dev")
        if manifest["kind"] in ("Deployment", "StatefulSet")
        for each in manifest["spec"]["template"]["spec"]["containers"]
    }
    assert tried == {services[name]["image"] for name in ("mingus", "postgres", "redis")}


@each_deployment
def test_every_variable_is_one_we_know(deployment: Deployment) -> None:
    known = {name for field in Settings.model_fields for name in variables(field)}
    known |= {f"{name}_FILE" for name in known} | FOREIGN
    assert set(deployment.environment) <= known


# -- what runs, and where it writes


def commands() -> Iterator[list[str]]:
    """How the service is started, everywhere."""
    (entry,) = re.findall(r"^ENTRYPOINT (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    yield json.loads(entry)
    (start,) = read_unit(UNIT)["ExecStart"]
    yield [Path(start.split()[0]).name, *start.split()[1:]]


def test_it_is_started_by_the_same_command_everywhere() -> None:
    assert list(commands()) == [["mingus-health", "serve"]] * 2


def test_the_images_own_check_is_a_command_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = (ROOT / "Dockerfile").read_text()
    (check,) = re.findall(r"^HEALTHCHECK (?:.*\\\n)?\s*.*?CMD (\[.+\])$", text, re.MULTILINE)
    program, *arguments = json.loads(check)
    assert program == "mingus-health"
    monkeypatch.setenv("RUN_DIR", str(tmp_path))
    assert main(arguments) == NO_POD


def test_the_runbook_names_commands_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    named = set(re.findall(r"`mingus-health (\w+)", RUNBOOK.read_text()))
    assert named
    for command in named:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
    assert capsys.readouterr().out


@each_deployment
def test_the_run_directory_is_disposable(deployment: Deployment) -> None:
    directory = Path(gunicorn(deployment.environment)["run_dir"])
    assert any(directory.is_relative_to(place) for place in deployment.disposable)


@pytest.mark.parametrize("deployment", [d for d in DEPLOYMENTS if d.name != "systemd"])
def test_prometheus_may_see_everything(deployment: Deployment) -> None:
    """It asks from the network of the pods, not from loopback."""
    assert "10.0.0.0/8" in gunicorn(deployment.environment)["trusted"]


# -- from SIGTERM to the end


@each_deployment
def test_a_pod_ends_by_itself_before_it_is_killed(deployment: Deployment) -> None:
    told = gunicorn(deployment.environment)
    needed = deployment.before + told["drain"] + told["graceful_timeout"]
    assert needed + MARGIN <= deployment.grace


@each_overlay
def test_a_stuck_pod_has_time_to_drain(overlay: str) -> None:
    deployment = kubernetes(overlay)
    grace = container(overlay)["livenessProbe"]["terminationGracePeriodSeconds"]
    assert deployment.before + gunicorn(deployment.environment)["drain"] + MARGIN <= grace


@each_nginx
def test_routers_notice_a_drain_before_it_ends(name: str) -> None:
    """nginx by its retries, a resolver by its next question."""
    (http,) = [each for each in read(name).block if each.name == "http"]
    notice = max(fail_timeouts(name))
    for resolver in http.all("resolver"):
        (valid,) = [word[6:] for word in resolver.arguments if word.startswith("valid=")]
        (limit,) = [each.arguments[0] for each in http.all("resolver_timeout")]
        notice = max(notice, seconds(valid) + seconds(limit))
    drains = {gunicorn(deployment.environment)["drain"] for deployment in DEPLOYMENTS}
    assert notice < min(drains)


# -- nginx


def read(name: str) -> Directive:
    return read_nginx(NGINX[name], ROOT / "nginx")


def upstream(name: str) -> Directive:
    (found,) = read(name).all("upstream")
    assert found.arguments == ("mingus_backend",)
    return found


def site(name: str) -> Directive:
    """The server that clients come to."""
    own = "/nginx-health"
    (found,) = [
        server
        for server in read(name).all("server")
        if any(own in location.arguments for location in server.block)
    ]
    return found


def number(block: Directive, name: str) -> float:
    (found,) = [each for each in block.block if each.name == name]
    return seconds(found.arguments[0])


def options(server: Directive) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in server.arguments[1:])


def fail_timeouts(name: str) -> list[float]:
    """For how long each upstream server may be out."""
    servers = [options(server) for server in upstream(name).all("server")]
    return [seconds(each["fail_timeout"]) for each in servers if each["max_fails"] != "0"]


@each_nginx
def test_nginx_hangs_up_before_gunicorn_does(name: str) -> None:
    assert number(upstream(name), "keepalive_timeout") + MARGIN <= gunicorn({})["keepalive"]


@each_nginx
@each_overlay
def test_a_pod_has_served_longer_than_nginx_holds_a_grudge(name: str, overlay: str) -> None:
    ready = one(manifests(overlay), "Deployment")["spec"]["minReadySeconds"]
    assert max(fail_timeouts(name)) + 2 <= ready


@each_nginx
def test_nginx_has_time_for_a_second_attempt(name: str) -> None:
    server = site(name)
    for place in [server, *server.all("location")]:
        connect, answer, total = (
            seconds(server.inherited(f"proxy_{what}_timeout", place).arguments[0])
            for what in ("connect", "read", "next_upstream")
        )
        assert connect + answer < total, place.arguments


@each_nginx
def test_gunicorn_replaces_a_frozen_worker_before_nginx_gives_up_on_the_application(
    name: str,
) -> None:
    server = site(name)
    (application,) = [each for each in server.all("location") if each.arguments == ("/",)]
    limit = seconds(server.inherited("proxy_read_timeout", application).arguments[0])
    assert gunicorn({})["timeout"] < limit


@each_nginx
def test_nginx_knows_the_probes(name: str) -> None:
    """Each endpoint has a location of its own, not the application's."""
    server = site(name)
    exact = {each.arguments[1] for each in server.all("location") if each.arguments[0] == "="}
    patterns = [each.arguments[1] for each in server.all("location") if each.arguments[0] == "~"]
    for path in ENDPOINTS:
        assert path in exact or any(re.search(pattern, path) for pattern in patterns), path


# -- probes


@each_overlay
def test_each_probe_asks_its_own_question_on_the_health_port(overlay: str) -> None:
    for kind in ("startup", "liveness", "readiness"):
        probe = container(overlay)[f"{kind}Probe"]
        assert probe["httpGet"]["path"] == f"/api/system/health/{kind}"
        assert probe["httpGet"]["path"] in ENDPOINTS
        assert probe["httpGet"]["port"] == "health"
        # The default of 1 s is less than a machine may be busy.
        assert 2 <= probe["timeoutSeconds"] <= probe["periodSeconds"]


@each_overlay
def test_the_kubelet_is_more_patient_than_gunicorn(overlay: str) -> None:
    """A restart of the pod is for what a restart of a worker does not cure."""
    told = gunicorn(kubernetes(overlay).environment)
    liveness, startup = (container(overlay)[f"{kind}Probe"] for kind in ("liveness", "startup"))
    assert liveness["periodSeconds"] * (liveness["failureThreshold"] - 1) > told["timeout"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > told["boot"]


# -- scrapes


def scrapes() -> Iterator[tuple[float, float]]:
    """Interval and time limit wherever scrapes are configured."""
    for file in (PROMETHEUS / "prometheus.yml", DEPLOY / "compose" / "prometheus.yml"):
        told = read_yaml(file)["global"]
        yield seconds(told["scrape_interval"]), seconds(told["scrape_timeout"])
    (endpoint,) = one(manifests("production"), "PodMonitor")["spec"]["podMetricsEndpoints"]
    yield seconds(endpoint["interval"]), seconds(endpoint["scrapeTimeout"])


def test_a_scrape_fits_and_every_rate_has_enough_of_them() -> None:
    for interval, limit in scrapes():
        assert limit <= interval
        for rule in rules("alert") + rules("record"):
            for window in re.findall(r"\[(\w+)\]", rule["expr"]):
                assert 4 * interval <= seconds(window), rule


def test_grafana_knows_how_often_is_scraped() -> None:
    told = read_yaml(DEPLOY / "compose" / "grafana" / "datasources.yaml")["datasources"][0]
    every = read_yaml(DEPLOY / "compose" / "prometheus.yml")["global"]["scrape_interval"]
    assert told["jsonData"]["timeInterval"] == every


# -- what is written beside the numbers


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        (r"HEALTH_DRAIN_SECONDS`? \((\d+)", "drain"),
        (r"graceful_timeout`? \((\d+)", "graceful_timeout"),
        (r"keepalive`? \((\d+)", "keepalive"),
        (r"gunicorn, which replaces a frozen worker after (\d+) s", "timeout"),
        (r"a frozen one after (\d+) seconds", "timeout"),
        (r"a worker that hung for (\d+) seconds", "timeout"),
    ],
)
def test_numbers_in_the_text_are_the_defaults(pattern: str, meant: str) -> None:
    found = [(name, int(given)) for name, text in texts() for given in re.findall(pattern, text)]
    assert found, pattern
    assert {given for _, given in found} == {gunicorn({})[meant]}, found


def test_ports_in_the_text_are_ports_we_have() -> None:
    others = {5013, 5023}  # further pods on the same host, in nginx
    others |= {5019}  # as many more pods as compose may start
    found = {
        (name, int(port))
        for name, text in texts()
        for port in re.findall(r"(?<![\d.])(50\d\d)(?![\d.])", text)
    }
    assert {port for _, port in found} <= {WEB, HEALTH, *others}, found
    assert {port for name, port in found if name == "docs/operations.md"} == {HEALTH}


def test_the_unit_reloads_by_the_signal_gunicorn_reloads_by() -> None:
    (reload,) = read_unit(UNIT)["ExecReload"]
    assert shlex.split(reload) == ["/bin/kill", "-HUP", "$MAINPID"]
