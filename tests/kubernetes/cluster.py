"""Pods as a manifest describes them: the real service, our kubelet, a router that lags behind.

Periods, grace periods and the service's own intervals are read from the manifest, and pass as
many times faster as the cluster's ``speed`` says. What bounds an answer (timeouts, the time a
boot takes) stays as it is: the machine is not faster.
"""

import itertools
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Self

from service.settings import Settings
from tests.kubelet import Clock, Endpoints, Kubelet, PodSpec
from tests.kubernetes.manifests import Manifest, containers, gunicorn, one, rendered
from tests.pod import Pod, eventually

PROPAGATION = 3.0  # kubelet seconds from a change to the routers
SCALED = ("interval_seconds", "drain_seconds", "stall_seconds")
UNSCALED = "health_fleet_interval_seconds"


class Container:
    """The service in a container: started again, it has the same address and the same files."""

    def __init__(self, pod: Pod, ports: dict[int, int]) -> None:
        self.pod = pod.launch()
        self._ports = ports

    def address(self, port: int) -> tuple[str, int]:
        """Where a container port can be reached."""
        return "127.0.0.1", self._ports[port]

    def ended(self) -> int | None:
        """Its exit status, or None while it runs."""
        assert self.pod.process is not None
        return self.pod.process.poll()

    def terminate(self) -> None:
        """Sends SIGTERM."""
        os.kill(self.pod.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Ends every process of it, as the end of its namespace would."""
        assert self.pod.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.pod.pid, signal.SIGKILL)
        self.pod.process.wait()


class Cluster:
    """Pods of one manifest.

    Args:
        directory: For everything that is written.
        overlay: The kustomization.
        speed: How many kubelet seconds pass in a real one.
        settings: Variables besides the manifest's.
    """

    def __init__(self, directory: Path, overlay: Path, speed: float, **settings: str) -> None:
        objects = rendered(overlay)
        self.deployment: Manifest = one(objects, "Deployment")
        self.clock = Clock(speed)
        self.endpoints = Endpoints(self.clock, PROPAGATION)
        self.spec = PodSpec.read(self.deployment)
        self._directory = directory
        given = one(objects, "ConfigMap")["data"]
        self._environment = {**given, **self._sped_up(given), **settings}
        del self._environment["RUN_DIR"]  # each pod has its own
        (container,) = containers(self.deployment)
        self._files = {
            each["name"]: Path(each["value"]).name
            for each in container["env"]
            if each["name"].endswith("_FILE")
        }
        self._numbers = {each["name"]: each["containerPort"] for each in container["ports"]}
        self._stack = ExitStack()
        self._made = itertools.count(1)
        self.pods: dict[str, Pod] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _sped_up(self, given: dict[str, str]) -> dict[str, str]:
        speed = self.clock.speed
        fields = [
            name
            for name in Settings.model_fields
            if name.endswith(SCALED) and name != UNSCALED  # no probe's answer depends on it
        ]
        value = {
            name: float(given.get(name.upper(), Settings.model_fields[name].default))
            for name in fields
        }
        return {name.upper(): f"{value[name] / speed:.3f}" for name in fields}

    def secret(self, **values: str) -> None:
        """Makes the Secret whose files the manifest mounts, by the names of the variables."""
        for name, value in values.items():
            path = self._directory / self._files[f"{name}_FILE"]
            path.write_text(value)
            self._environment[f"{name}_FILE"] = str(path)

    def pod(self, **settings: str) -> Kubelet:
        """A new pod, that the Service selects."""
        name = f"pod{next(self._made)}"
        directory = self._directory / name
        directory.mkdir()
        graceful = str(max(1, round(gunicorn("graceful_timeout") / self.clock.speed)))
        pod = Pod(directory, "--graceful-timeout", graceful, **{**self._environment, **settings})
        self.pods[name] = pod
        ports = {self._numbers["web"]: pod.port, self._numbers["health"]: pod.health_port}
        kubelet = Kubelet(name, self.spec, lambda: Container(pod, ports), self.clock)
        self._stack.enter_context(kubelet)
        self.endpoints.add(kubelet)
        return kubelet

    def eventually_ready(self, *kubelets: Kubelet) -> None:
        """Waits until pods are ready."""
        self.wait(lambda: all(each.ready for each in kubelets), "ready", *kubelets)

    def wait(self, look: Callable[[], object], what: str, *kubelets: Kubelet) -> None:
        """Waits until something is true; shows what happened to the pods when it never is."""
        try:
            eventually(look, what)
        except AssertionError as error:
            stories = "\n".join(each.story() for each in kubelets)
            logs = "\n".join(self.pods[each.name].log[-3000:] for each in kubelets)
            raise AssertionError(f"{error}\n{stories}\n{logs}") from None

    def pass_time(self, seconds: float) -> None:
        """Lets so many kubelet seconds pass."""
        self.clock.wait(threading.Event(), self.clock.now() + seconds)

    def rollout(self, old: list[Kubelet], **settings: str) -> list[Kubelet]:
        """Replaces pods as the Deployment says: one more first, and none less."""
        spec = self.deployment["spec"]
        assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        new = []
        for leaving in old:
            coming = self.pod(**settings)
            new.append(coming)
            self.eventually_ready(coming)
            self.pass_time(spec["minReadySeconds"])
            assert coming.ready, coming.story()
            leaving.delete()
        self.wait(lambda: all(each.gone for each in old), "the old pods are gone", *old)
        return new


def keeps_running(pod: Kubelet) -> bool:
    """Whether nothing has ever ended or failed in a pod."""
    return pod.restarts == 0 and not [e for e in pod.events if e.what in ("failed", "ended")]


@contextmanager
def traffic(
    cluster: Cluster, requests: list[tuple[str, str]], clients: int = 6
) -> Iterator[Counter[str]]:
    """Clients with a balancer of their own; what they saw, by method and outcome.

    Each keeps one connection to each pod, uses it in turn with the others, and asks nothing
    twice. A request fails when it has no answer, or another one than 200.
    """
    stop, lock, seen = threading.Event(), threading.Lock(), Counter[str]()

    def client(number: int) -> None:
        kept: dict[str, HTTPConnection] = {}
        for turn in itertools.count(number):
            if stop.wait(0.02):
                break
            method, path = requests[turn % len(requests)]
            routable = cluster.endpoints.routable()
            if routable:
                pod = cluster.pods[routable[turn % len(routable)].name]
                outcome = _ask(kept, pod, method, path)
            else:
                outcome = "nobody is ready"
            with lock:
                seen[f"{method} {outcome}"] += 1
        for connection in kept.values():
            connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _ask(kept: dict[str, HTTPConnection], pod: Pod, method: str, path: str) -> str:
    connection = kept.setdefault(str(pod.port), HTTPConnection("127.0.0.1", pod.port, timeout=20))
    try:
        connection.request(method, path, body=b"x=1" if method == "POST" else None)
        with connection.getresponse() as response:
            response.read()
    except (OSError, HTTPException) as error:
        connection.close()
        return f"{type(error).__name__} at port {pod.port}"
    return str(response.status)
