"""The manifests: valid, restricted, and of one mind with the service they deploy."""

import re
import shutil
import subprocess
from base64 import b64decode
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions

from service import settings
from service.health import Kind
from service.settings import Settings
from tests.kubelet import PodSpec, ProbeSpec
from tests.kubernetes import prometheus_rule
from tests.kubernetes.manifests import (
    BASE,
    K8S,
    OVERLAYS,
    Manifest,
    containers,
    documents,
    gunicorn,
    one,
    references,
    rendered,
)
from tests.pod import ENDPOINTS, ROOT

LABELS = {"app.kubernetes.io/name": "mingus-health"}
ALL = {"base": BASE, **OVERLAYS}
# What is there for the application, and the service does not read.
FOR_THE_APPLICATION = {
    "TMPDIR",
    "POD_NAME",
    "POD_NAMESPACE",
    "POD_IP",
    "NODE_NAME",
    "MEMORY_LIMIT_BYTES",
}
MADE_BY_HAND = {"mingus-health", "mingus-health-providers"}
# unhealthyPodEvictionPolicy came with 1.26 and is on since 1.27.
NEEDS = {"base": "1.25", "dev": "1.25", "production": "1.27"}
MIB = {"Mi": 1, "Gi": 1024}

each = pytest.mark.parametrize("name", ALL)
each_overlay = pytest.mark.parametrize("name", OVERLAYS)


@cache
def objects(name: str) -> list[Manifest]:
    return rendered(ALL[name])


def deployment(name: str) -> Manifest:
    return one(objects(name), "Deployment")


def pod(name: str) -> Manifest:
    return deployment(name)["spec"]["template"]["spec"]


def container(name: str) -> Manifest:
    (found,) = pod(name)["containers"]
    return found


def environment(name: str) -> dict[str, str]:
    """The variables of the container that a manifest gives a value."""
    given = {each["name"]: each.get("value") for each in container(name)["env"]}
    said = {key: value for key, value in given.items() if value is not None}
    return {**one(objects(name), "ConfigMap")["data"], **said}


def seconds(name: str, variable: str) -> float:
    """A setting of a manifest, or its default."""
    default = Settings.model_fields[variable.lower()].default
    return float(environment(name).get(variable, default))


# -- valid


@each
def test_kubectl_makes_the_same_of_it(name: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl")
    result = subprocess.run(
        [kubectl, "kustomize", str(ALL[name])], capture_output=True, check=False
    )
    if b"unknown field" in result.stderr:
        pytest.skip("this kubectl knows no components")
    assert result.returncode == 0, result.stderr
    theirs = list(yaml.safe_load_all(result.stdout))

    def key(each: Manifest) -> tuple[str, str]:
        return each["kind"], each["metadata"]["name"]

    assert sorted(theirs, key=key) == sorted(objects(name), key=key)


@each
@pytest.mark.parametrize("version", ["oldest", "newest"])
def test_every_object_is_valid(name: str, version: str) -> None:
    assert {"1.25.0", "1.27.0"} <= set(all_versions())
    wanted = NEEDS[name] if version == "oldest" else kubernetes_validate.latest_version()
    checked = 0
    for each in objects(name):
        if each["apiVersion"].startswith("monitoring.coreos.com/"):
            continue  # custom resources, which nobody has the schema of
        kubernetes_validate.validate(each, wanted, strict=True)
        checked += 1
    assert checked >= 7


def test_strict_is_strict() -> None:
    wrong = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x"}, "wrong": 1}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.25", strict=True)


def test_every_file_is_used() -> None:
    used = {K8S / "components" / "monitoring" / "kustomization.yaml"}
    for path in K8S.rglob("kustomization.yaml"):
        (given,) = documents(path)
        files = [*given.get("resources", ()), *(each["path"] for each in given.get("patches", ()))]
        used |= {path} | {(path.parent / file).resolve() for file in files}
    assert {path for path in K8S.rglob("*") if path.is_file()} <= used


def test_the_rules_are_those_of_deploy() -> None:
    assert prometheus_rule.TARGET.read_text(encoding="utf-8") == prometheus_rule.manifest(), (
        "run: python -m tests.kubernetes.prometheus_rule"
    )


# -- restricted


@each_overlay
def test_every_pod_is_restricted(name: str) -> None:
    """The restricted Pod Security Standard, a read-only root, and no way to the API server."""
    namespace = one(objects(name), "Namespace", objects(name)[0]["metadata"]["namespace"])
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    workloads = [each for each in objects(name) if each["kind"] == "Deployment"]
    for each in workloads:
        spec = each["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] >= 10000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {kind for volume in spec["volumes"] for kind in set(volume) - {"name"}} <= {
            "emptyDir",
            "secret",
        }
        for found in containers(each):
            context = found["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in found["resources"]["limits"]
            assert not {"hostPort"} & {key for port in found["ports"] for key in port}
    account = one(objects(name), "ServiceAccount")
    assert account["automountServiceAccountToken"] is False


@each
def test_a_busy_pod_is_not_throttled(name: str) -> None:
    resources = container(name)["resources"]
    assert "cpu" in resources["requests"]
    assert "cpu" not in resources["limits"]


@each
def test_every_exception_of_checkov_has_a_reason(name: str) -> None:
    """``make checkov`` finds nothing else; it needs an environment of its own."""
    for each in objects(name):
        for key, value in each["metadata"].get("annotations", {}).items():
            assert key.startswith("checkov.io/skip")
            assert re.fullmatch(r"CKV_\w+=\w.{20,}", value)


# -- who finds whom


@each
def test_what_selects_the_pods_finds_them(name: str) -> None:
    labels = deployment(name)["spec"]["template"]["metadata"]["labels"]
    assert labels.items() >= LABELS.items()
    selectors = [
        deployment(name)["spec"]["selector"]["matchLabels"],
        one(objects(name), "Service")["spec"]["selector"],
        one(objects(name), "Service", "mingus-health-pods")["spec"]["selector"],
        one(objects(name), "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(objects(name), "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in pod(name)["topologySpreadConstraints"]),
    ]
    if name == "production":
        selectors.append(one(objects(name), "PodMonitor")["spec"]["selector"]["matchLabels"])
    assert selectors == [LABELS] * len(selectors)


def test_the_headless_service_knows_only_the_ready() -> None:
    service = one(objects("base"), "Service", "mingus-health-pods")["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is False


def test_nginx_resolves_what_there_is() -> None:
    named = {
        found
        for path in (ROOT / "nginx").rglob("*.conf")
        for found in re.findall(r"server (\S+\.svc\S*) resolve", path.read_text(encoding="utf-8"))
    }
    service = one(objects("production"), "Service", "mingus-health-pods")
    (port,) = service["spec"]["ports"]
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    assert named == {f"{name}.{namespace}.svc.cluster.local:{port['port']}"}


@each
def test_nginx_and_prometheus_come_in_and_nobody_else(name: str) -> None:
    """kustomize rewrites selectors if it is allowed to, and then these are the service itself."""
    spec = one(objects(name), "NetworkPolicy")["spec"]
    (rule,) = spec["ingress"]
    peers = [
        (
            each.get("namespaceSelector", {})
            .get("matchLabels", {})
            .get("kubernetes.io/metadata.name"),
            each["podSelector"]["matchLabels"],
        )
        for each in rule["from"]
    ]
    assert peers == [
        (None, {"app.kubernetes.io/name": "nginx"}),
        ("ingress-nginx", {"app.kubernetes.io/name": "ingress-nginx"}),
        ("monitoring", {"app.kubernetes.io/name": "prometheus"}),
    ]
    assert [each["port"] for each in rule["ports"]] == ["web", "health"]
    out = {(each["protocol"], each["port"]) for rule in spec["egress"] for each in rule["ports"]}
    assert out == {("UDP", 53), *(("TCP", port) for port in (53, 443, 5432, 6379))}
    assert spec["policyTypes"] == ["Ingress", "Egress"]


def test_the_servers_of_dev_let_the_service_in() -> None:
    env = {name: value for name, value in _secrets(objects("dev")).items() if "url" in name}
    assert set(env) == {"database-url", "redis-url"}
    for server, port in (("postgres", 5432), ("redis", 6379)):
        service = one(objects("dev"), "Service", server)["spec"]
        workload = one(objects("dev"), "Deployment", server)
        policy = one(objects("dev"), "NetworkPolicy", server)["spec"]
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert service["selector"].items() <= labels.items()
        assert policy["podSelector"]["matchLabels"].items() <= labels.items()
        assert policy["ingress"][0]["from"] == [{"podSelector": {"matchLabels": LABELS}}]
        assert service["ports"][0]["port"] == port
        assert any(f"{server}:{port}/" in url for url in env.values())
        (found,) = workload["spec"]["template"]["spec"]["containers"]
        assert found["ports"] == [{"name": server, "containerPort": port}]


@each
def test_what_the_pods_refer_to_is_there(name: str) -> None:
    there = {(each["kind"], each["metadata"]["name"]) for each in objects(name)}
    there |= {("Secret", secret) for secret in MADE_BY_HAND if name != "dev"}
    named = {(kind, place[key]) for each in objects(name) for kind, place, key in references(each)}
    assert named <= there


# -- ports, paths, settings


@each
def test_ports_are_the_services_own(name: str) -> None:
    ports = {each["name"]: each["containerPort"] for each in container(name)["ports"]}
    assert ports == {
        "web": seconds(name, "PORT"),
        "health": seconds(name, "HEALTH_PORT"),
    }
    for service in ("mingus-health", "mingus-health-pods"):
        (port,) = one(objects(name), "Service", service)["spec"]["ports"]
        assert (port["targetPort"], port["port"]) == ("web", ports["web"])


@each
@pytest.mark.parametrize("kind", Kind)
def test_each_probe_asks_its_own_question_on_the_health_port(name: str, kind: Kind) -> None:
    request = container(name)[f"{kind.value}Probe"]["httpGet"]
    assert request == {"path": f"/api/system/health/{kind.value}", "port": "health"}
    assert request["path"] in ENDPOINTS


def test_prometheus_asks_what_there_is() -> None:
    monitor = one(objects("production"), "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] in ENDPOINTS
    assert endpoint["port"] in {each["name"] for each in container("production")["ports"]}
    assert int(endpoint["scrapeTimeout"][:-1]) < int(endpoint["interval"][:-1])
    labels = deployment("production")["spec"]["template"]["metadata"]["labels"]
    job = labels[monitor["spec"]["jobLabel"]]
    rules = prometheus_rule.TARGET.read_text(encoding="utf-8")
    assert {job} == set(re.findall(r'up\{job="([^"]*)"\}', rules))


@each
def test_every_variable_is_known(name: str) -> None:
    known = {variable for field in Settings.model_fields for variable in settings.variables(field)}
    secrets = {
        variable
        for field in Settings.model_fields
        if settings.is_secret(field)
        for variable in settings.variables(field)
    }
    given = set(environment(name)) | {each["name"] for each in container(name)["env"]}
    assert given - FOR_THE_APPLICATION <= known | {f"{secret}_FILE" for secret in secrets}
    assert given >= FOR_THE_APPLICATION
    assert not secrets & given, "a secret in the open"


@each
def test_every_value_is_accepted(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (mount,) = (
        each["mountPath"] for each in container(name)["volumeMounts"] if each["name"] == "secrets"
    )
    for variable in list(settings.environment()):
        monkeypatch.delenv(variable)
    for variable, value in environment(name).items():
        path = Path(value)
        if variable.endswith("_FILE"):
            assert path.parent == Path(mount)
            path = tmp_path / path.name
            path.write_text("redis://somewhere" if "REDIS" in variable else "sqlite://")
        monkeypatch.setenv(variable, str(path) if variable.endswith("_FILE") else value)
    loaded = settings.load()
    assert loaded.configured("database")
    assert loaded.configured("redis")
    assert loaded.redis_embedded == "off"
    assert loaded.startup_checks == ()


def _secrets(found: list[Manifest]) -> dict[str, str]:
    """What the generated Secrets hold, in the clear."""
    return {
        key: b64decode(value).decode()
        for each in found
        if each["kind"] == "Secret"
        for key, value in each["data"].items()
    }


def test_the_secret_of_dev_has_the_files_that_are_asked_for() -> None:
    files = {Path(value).name for key, value in environment("dev").items() if key.endswith("_FILE")}
    assert files <= set(_secrets(objects("dev")))


@each
def test_what_is_written_goes_into_memory(name: str) -> None:
    volumes = {each["name"]: each for each in pod(name)["volumes"]}
    mounts = {
        Path(each["mountPath"]): volumes[each["name"]].get("emptyDir", {})
        for each in container(name)["volumeMounts"]
    }
    run_dir = Path(environment(name)["RUN_DIR"])
    # A mount belongs to root, and the service refuses a directory that is not its own.
    assert run_dir not in mounts
    assert mounts[run_dir.parent]["medium"] == "Memory"
    assert mounts[Path(environment(name)["TMPDIR"])]["medium"] == "Memory"
    sizes = [_mib(each["sizeLimit"]) for each in mounts.values() if each]
    # It counts against the limit of the container.
    assert sum(sizes) <= _mib(container(name)["resources"]["limits"]["memory"]) / 4


def _mib(quantity: str) -> int:
    return int(quantity[:-2]) * MIB[quantity[-2:]]


# -- time


@each
def test_every_timeout_is_written_down(name: str) -> None:
    """The default of one second flaps."""
    for kind in Kind:
        probe = container(name)[f"{kind.value}Probe"]
        assert {"timeoutSeconds", "periodSeconds", "failureThreshold"} <= set(probe)
        assert probe["timeoutSeconds"] <= probe["periodSeconds"]
        assert "initialDelaySeconds" not in probe


@each
def test_the_grace_period_covers_drain_and_graceful_stop(name: str) -> None:
    drain = seconds(name, "HEALTH_DRAIN_SECONDS")
    spec = PodSpec.read(deployment(name))
    assert spec.grace >= drain + gunicorn("graceful_timeout") + 5
    # The drain is the service's own: a sleep before SIGTERM would only delay it.
    assert "lifecycle" not in container(name)
    assert "STOPSIGNAL" not in (ROOT / "Dockerfile").read_text(encoding="utf-8")


@each
def test_a_stuck_pod_gets_the_drain_and_some_time(name: str) -> None:
    (liveness,) = (
        each for each in PodSpec.read(deployment(name)).probes if each.kind is Kind.LIVENESS
    )
    assert liveness.grace is not None
    assert liveness.grace >= seconds(name, "HEALTH_DRAIN_SECONDS") + 20
    # gunicorn replaces a frozen health worker by itself, which costs nobody a restart.
    assert (liveness.failure - 1) * liveness.period > gunicorn("timeout") + 15


@each
def test_a_rollout_waits_for_those_who_look(name: str) -> None:
    spec = deployment(name)["spec"]
    probes = {probe.kind: probe for probe in PodSpec.read(deployment(name)).probes}
    startup = probes[Kind.STARTUP]
    assert _allowance(startup) == 300  # as the contract says
    assert spec["progressDeadlineSeconds"] >= _allowance(startup) + spec["minReadySeconds"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    bans = [
        int(found)
        for path in (ROOT / "nginx").rglob("*.conf*")
        for found in re.findall(r"fail_timeout=(\d+)s", path.read_text(encoding="utf-8"))
    ]
    assert spec["minReadySeconds"] >= max(bans, default=0) + 2
    # An EndpointSlice takes up to 3 s to reach a router, which is what the drain is for.
    assert seconds(name, "HEALTH_DRAIN_SECONDS") >= 10


def _allowance(probe: ProbeSpec) -> int:
    return probe.period * probe.failure


def test_replicas_belong_to_the_autoscaler() -> None:
    for name in ALL:
        assert "replicas" not in deployment(name)["spec"]
    scaler = one(objects("production"), "HorizontalPodAutoscaler")["spec"]
    assert scaler["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "mingus-health",
    }
    assert scaler["minReplicas"] >= 3
    (metric,) = scaler["metrics"]
    assert metric["containerResource"]["container"] == container("production")["name"]
