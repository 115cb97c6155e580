"""A kubelet for the tests: it asks a container's probes and acts on what they say.

``http_probe`` sends the bytes the real one sends and comes to the same verdict on every server
of tests/kubernetes/kubelet-probe-vectors.json. ``ProbeWorker`` holds what follows from verdicts,
one turn at a time and without a clock of its own. ``Kubelet`` turns the workers in threads,
restarts the container and ends the pod.

    container runs --startup passes--> started: liveness and readiness are asked
    startup or liveness fails ------> preStop, SIGTERM, grace, SIGKILL; back-off; next container
    pod deleted --------------------> liveness and startup end as successes, READINESS GOES ON;
                                      preStop, SIGTERM, grace, SIGKILL

Time is the kubelet's: periods, grace periods and back-offs are in the seconds of a manifest, and
a ``Clock`` says how fast they pass. Only a probe's timeout is in real seconds, because the
server that answers it is not sped up.
"""

import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Protocol, Self
from urllib.parse import urljoin, urlsplit

from service.health import Kind

USER_AGENT = "kube-probe/1.34"
BODY_LIMIT = 10 * 1024
REDIRECTS = 9
INFORMATIONAL = 5  # before Go 1.24; 10 MB of them from then on
ATTEMPTS = 3
BACK_OFF = (0.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
POLL = 0.01  # real seconds


# -- what a manifest says


@dataclass(frozen=True)
class ProbeSpec:
    """One probe, as a manifest describes it, with the defaults of Kubernetes.

    Attributes:
        kind: Which question it asks.
        path: Path and query of the question.
        port: Container port.
        scheme: HTTP or HTTPS.
        headers: Names and values of ``httpHeaders``, in order.
        initial_delay: Seconds after the container's start without a question.
        timeout: Seconds an answer may take, its body included.
        period: Seconds from one question to the next.
        success: Equal verdicts in a row until a success counts.
        failure: The same for a failure.
        grace: terminationGracePeriodSeconds of the probe itself, or None.
    """

    kind: Kind
    path: str = "/"
    port: int = 80
    scheme: str = "HTTP"
    headers: tuple[tuple[str, str], ...] = ()
    initial_delay: int = 0
    timeout: float = 1
    period: int = 10
    success: int = 1
    failure: int = 3
    grace: int | None = None

    def __post_init__(self) -> None:
        if min(self.timeout, self.period, self.success, self.failure) <= 0:
            raise ValueError(f"{self.kind.value}: must be at least 1")
        if self.kind is not Kind.READINESS and self.success != 1:
            raise ValueError(f"{self.kind.value}: successThreshold must be 1")
        if self.kind is Kind.READINESS and self.grace is not None:
            raise ValueError("readiness: terminationGracePeriodSeconds is not allowed")

    @classmethod
    def read(cls, kind: Kind, container: Mapping[str, Any]) -> Self | None:
        """The probe of a container in a manifest; None when it has none."""
        probe = container.get(f"{kind.value}Probe")
        if probe is None:
            return None
        request = probe["httpGet"]
        names = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
        given = {
            "initial_delay": probe.get("initialDelaySeconds"),
            "timeout": probe.get("timeoutSeconds"),
            "period": probe.get("periodSeconds"),
            "success": probe.get("successThreshold"),
            "failure": probe.get("failureThreshold"),
            "grace": probe.get("terminationGracePeriodSeconds"),
            "path": request.get("path"),
            "scheme": request.get("scheme"),
        }
        return cls(
            kind,
            port=names[request["port"]] if isinstance(request["port"], str) else request["port"],
            headers=tuple((each["name"], each["value"]) for each in request.get("httpHeaders", ())),
            **{name: value for name, value in given.items() if value is not None},
        )


# -- one question


class Outcome(Enum):
    """What one question came to."""

    SUCCESS = auto()
    WARNING = auto()  # counts as a success
    FAILURE = auto()
    ERROR = auto()  # asked again at once, and thrown away when it stays so


@dataclass(frozen=True)
class Observation:
    """What one question came to, and why.

    Attributes:
        outcome: What it came to.
        status: HTTP status of the last answer that could be read, or None.
        detail: What went wrong.
        seconds: Real seconds it took.
    """

    outcome: Outcome
    status: int | None
    detail: str
    seconds: float


class _FailureError(Exception):
    """The probe fails."""


class _ProbeError(Exception):
    """The probe cannot be judged."""


@dataclass(frozen=True)
class _Head:
    status: int
    headers: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def first(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)


class _Stream:
    """What a server sends, read against one deadline."""

    def __init__(self, sock: socket.socket, deadline: float | None) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self.deadline = deadline

    def _more(self) -> None:
        self._sock.settimeout(remaining(self.deadline))
        data = self._sock.recv(65536)
        if not data:
            raise EOFError("the connection was closed")
        self._buffer += data

    def line(self) -> bytes:
        """Up to the next line feed, without the end of the line."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            self._more()
        line = bytes(self._buffer[:end]).removesuffix(b"\r")
        del self._buffer[: end + 1]
        return line

    def skip(self, size: int) -> None:
        """Exactly so many bytes."""
        while len(self._buffer) < size:
            self._more()
        del self._buffer[:size]

    def skip_until_closed(self, limit: int) -> None:
        """Everything up to the end of the connection, or up to the limit."""
        with suppress(EOFError):
            while len(self._buffer) < limit:
                self._more()


def remaining(deadline: float | None) -> float | None:
    """Seconds until a deadline.

    Raises:
        TimeoutError: It has passed.
    """
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def http_probe(spec: ProbeSpec, host: str, port: int) -> Observation:
    """Asks once, as the kubelet's HTTP prober does."""
    begun = time.monotonic()
    status: int | None = None

    def saw(head: _Head) -> None:
        nonlocal status
        status = head.status

    url = f"{spec.scheme.lower()}://{host}:{port}{spec.path}"
    try:
        outcome, detail = _follow(spec, url, begun + spec.timeout, saw)
    except _ProbeError as error:
        outcome, detail = Outcome.ERROR, str(error)
    except (_FailureError, EOFError, OSError) as error:
        # Whatever ends in the client's own error has no answer, also after a redirect.
        outcome, detail, status = Outcome.FAILURE, str(error) or type(error).__name__, None
    return Observation(outcome, status, detail, time.monotonic() - begun)


def _follow(
    spec: ProbeSpec, url: str, deadline: float, saw: Callable[[_Head], None]
) -> tuple[Outcome, str]:
    first_host = urlsplit(url).hostname
    for _ in range(REDIRECTS + 1):
        with _connected(url, deadline) as sock:
            sock.sendall(request_bytes(spec, url))
            stream = _Stream(sock, deadline)
            head = _head(stream)
            saw(head)
            location = head.first("location") if head.status in (301, 302, 303, 307, 308) else None
            target = urljoin(url, location) if location else None
            if target is None or urlsplit(target).hostname != first_host:
                _read_body(stream, head)
                return _verdict(head.status)
        url = target
    raise _FailureError("stopped after 10 redirects")


def _verdict(status: int) -> tuple[Outcome, str]:
    if 200 <= status < 300:
        return Outcome.SUCCESS, ""
    if 300 <= status < 400:
        return Outcome.WARNING, f"status {status}"
    return Outcome.FAILURE, f"HTTP probe failed with statuscode: {status}"


def _connected(url: str, deadline: float) -> socket.socket:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    sock = socket.create_connection((parts.hostname, port), timeout=remaining(deadline))
    try:
        # Closed without a trace after a second: no pile of TIME_WAIT on the node.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1))
        if not secure:
            return sock
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        sock.settimeout(remaining(deadline))
        return context.wrap_socket(sock, server_hostname=parts.hostname)
    except BaseException:
        sock.close()
        raise


def request_bytes(spec: ProbeSpec, url: str) -> bytes:
    """The request, to the byte."""
    parts = urlsplit(url)
    given = list(spec.headers)
    names = {name.lower() for name, _ in given}
    host = next((value for name, value in given if name.lower() == "host"), parts.netloc)
    agent = next((value for name, value in given if name.lower() == "user-agent"), USER_AGENT)
    if "accept" not in names:
        given.append(("Accept", "*/*"))
    others = sorted(
        (
            (name.title(), value)
            for name, value in given
            if name.lower() not in ("host", "user-agent")
            and (name.lower(), value) != ("accept", "")
        ),
        key=lambda header: header[0],
    )
    query = f"?{parts.query}" if parts.query else ""
    lines = [
        f"GET {parts.path or '/'}{query} HTTP/1.1",
        f"Host: {host}",
        *([f"User-Agent: {agent}"] if agent else []),
        *(f"{name}: {value}" for name, value in others),
        "Connection: close",
    ]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


def _head(stream: _Stream) -> _Head:
    for _ in range(INFORMATIONAL + 1):
        head = _any_head(stream)
        if head.status >= 200 or head.status == 101:
            return head
    raise _FailureError("too many 1xx informational responses")


def _any_head(stream: _Stream) -> _Head:
    first = re.fullmatch(rb"HTTP/\d\.\d (\d{3})(?: .*)?", stream.line())
    if first is None:
        raise _FailureError("malformed HTTP response")
    headers = []
    while line := stream.line():
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not name:
            raise _FailureError("malformed header line")
        headers.append((name.lower(), value.strip()))
    head = _Head(int(first[1]), tuple(headers))
    lengths = set(head.all("content-length"))
    if len(lengths) > 1 or any(not length.isdigit() for length in lengths):
        raise _FailureError("bad Content-Length")
    return head


def _read_body(stream: _Stream, head: _Head) -> None:
    """Reads as much of the body as the kubelet wants to see.

    Raises:
        _ProbeError: It ends too early, stalls or cannot be read.
    """
    try:
        if head.status == 101:
            stream.deadline = None  # the one body the client's timeout does not cover
            stream.skip_until_closed(BODY_LIMIT)
        elif head.status in (204, 304):
            return
        elif head.first("transfer-encoding") == "chunked":
            _read_chunks(stream)
        elif (length := head.first("content-length")) is not None:
            stream.skip(min(int(length), BODY_LIMIT))
        else:
            stream.skip_until_closed(BODY_LIMIT)
    except (EOFError, OSError, ValueError) as error:
        raise _ProbeError(f"body: {error or type(error).__name__}") from error


def _read_chunks(stream: _Stream) -> None:
    seen = 0
    while seen < BODY_LIMIT:
        size = int(stream.line().partition(b";")[0], 16)
        if not size:
            while stream.line():
                pass
            return
        stream.skip(min(size, BODY_LIMIT - seen))
        seen += size
        if seen < BODY_LIMIT and stream.line():
            raise ValueError("malformed chunked encoding")


def with_retries(ask: Callable[[], Observation]) -> Observation:
    """Asks up to three times, back to back, as long as nothing can be said."""
    observation = ask()
    for _ in range(ATTEMPTS - 1):
        if observation.outcome is not Outcome.ERROR:
            break
        observation = ask()
    return observation


# -- what follows from answers


@dataclass
class ContainerStatus:
    """What the kubelet knows of its container.

    Attributes:
        id: Number of the container, 0 before the first one; a restart makes another one.
        running: Whether its process is there.
        started_at: When it was started.
        startup_passed: Whether its startup probe has passed, or there is none.
        deleted: Whether its pod has been deleted.
    """

    id: int = 0
    running: bool = False
    started_at: float = 0.0
    startup_passed: bool = False
    deleted: bool = False


# What is believed before anything is known.
INITIAL: dict[Kind, bool | None] = {
    Kind.READINESS: False,
    Kind.LIVENESS: True,
    Kind.STARTUP: None,
}


class ProbeWorker:
    """One probe of one container: when it is asked, and when an answer counts.

    Args:
        spec: The probe.
        ask: Asks once.
    """

    def __init__(self, spec: ProbeSpec, ask: Callable[[], Observation]) -> None:
        self.spec = spec
        self._ask = ask
        self._container = 0
        self._verdict = INITIAL[spec.kind]
        self._last: bool | None = None
        self._run = 0
        self._on_hold = False

    def verdict(self, container: int) -> bool | None:
        """What it says of a container: passed, failed, or None when it has said nothing."""
        return self._verdict if container == self._container else INITIAL[self.spec.kind]

    def turn(self, status: ContainerStatus, now: float) -> bool:
        """Asks, if it is time to; False when it will never ask again."""
        if status.id != self._container:
            self._container = status.id
            self._verdict = INITIAL[self.spec.kind]
            self._on_hold = False
        if status.id == 0 or self._on_hold:
            return True
        if not status.running:
            self._verdict = False
            return True
        if status.deleted and self.spec.kind is not Kind.READINESS:
            self._verdict = True
            return False
        if int(now - status.started_at) < self.spec.initial_delay:
            return True
        if status.startup_passed is (self.spec.kind is Kind.STARTUP):
            return True
        self._judge(with_retries(self._ask))
        return True

    def _judge(self, observation: Observation) -> None:
        if observation.outcome is Outcome.ERROR:
            return
        passed = observation.outcome in (Outcome.SUCCESS, Outcome.WARNING)
        self._run = self._run + 1 if passed is self._last else 1
        self._last = passed
        if self._run < (self.spec.success if passed else self.spec.failure):
            return
        self._verdict = passed
        if self.spec.kind is Kind.STARTUP or (self.spec.kind is Kind.LIVENESS and not passed):
            self._on_hold, self._run = True, 0


# -- time


class Clock:
    """The kubelet's seconds: ``speed`` of them pass in a real one."""

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self._begun = time.monotonic()

    def now(self) -> float:
        """Seconds since the clock was made."""
        return (time.monotonic() - self._begun) * self.speed

    def wait(self, event: threading.Event, until: float) -> bool:
        """Waits for an event, at most until a time; whether it came."""
        return event.wait(max(0.0, (until - self.now()) / self.speed))


# -- a pod


class Handle(Protocol):
    """A container that runs."""

    def address(self, port: int) -> tuple[str, int]:
        """Where a container port can be reached."""

    def ended(self) -> int | None:
        """Its exit status, or None while it runs."""

    def terminate(self) -> None:
        """Sends SIGTERM."""

    def kill(self) -> None:
        """Sends SIGKILL to everything in it."""


@dataclass(frozen=True)
class Event:
    """Something the kubelet did or noticed."""

    at: float
    what: str
    detail: str = ""


@dataclass(frozen=True)
class Asked:
    """One question and what it came to."""

    at: float
    kind: Kind
    seen: Observation


@dataclass(frozen=True)
class Conditions:
    """What an EndpointSlice says of a pod."""

    ready: bool = False
    serving: bool = False
    terminating: bool = False


@dataclass
class PodSpec:
    """What a manifest says of a pod with one container.

    Attributes:
        probes: Its probes.
        grace: terminationGracePeriodSeconds.
        pre_stop: Seconds its preStop hook sleeps.
    """

    probes: Sequence[ProbeSpec] = ()
    grace: int = 30
    pre_stop: float = 0.0

    @classmethod
    def read(cls, deployment: Mapping[str, Any]) -> Self:
        """The pod of a Deployment."""
        spec = deployment["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        probes = [ProbeSpec.read(kind, container) for kind in Kind]
        hook = container.get("lifecycle", {}).get("preStop", {})
        return cls(
            [probe for probe in probes if probe is not None],
            spec.get("terminationGracePeriodSeconds", 30),
            hook.get("sleep", {}).get("seconds", 0),
        )


@dataclass
class _Thread:
    """A probe's loop.

    Attributes:
        worker: The probe.
        trigger: Set for a turn out of order.
    """

    worker: ProbeWorker
    trigger: threading.Event = field(default_factory=threading.Event)


class Kubelet:
    """Looks after one pod with one container.

    Args:
        name: Of the pod.
        spec: What its manifest says.
        start: Starts its container; called again for every restart.
        clock: The kubelet's seconds.
        phase: Where in its first period a probe's ticker begins, 0 to 1.
    """

    def __init__(
        self,
        name: str,
        spec: PodSpec,
        start: Callable[[], Handle],
        clock: Clock,
        phase: float = 0.5,
    ) -> None:
        self.name = name
        self.spec = spec
        self.clock = clock
        self.status = ContainerStatus()
        self.restarts = 0
        self.events: list[Event] = []
        self.asked: list[Asked] = []
        self._start = start
        self._phase = phase
        self._handle: Handle | None = None
        self._lock = threading.RLock()
        self._history: list[tuple[float, Conditions]] = []
        self._deleted = threading.Event()
        self._gone = threading.Event()
        self._probes = [_Thread(ProbeWorker(probe, self._asking(probe))) for probe in spec.probes]
        self._threads = [
            threading.Thread(target=self._live, name=f"{name}: pod"),
            *(
                threading.Thread(target=self._keep_asking, args=(probe,), name=f"{name}: probe")
                for probe in self._probes
            ),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the pod at once, whatever it is doing."""
        self._gone.set()
        self._deleted.set()
        for thread in self._threads:
            thread.join()
        if self._handle is not None:
            self._handle.kill()

    # -- seen from outside

    @property
    def ready(self) -> bool:
        """The pod's Ready condition."""
        with self._lock:
            return self._is_ready()

    @property
    def gone(self) -> bool:
        """Whether the pod was deleted and its container has ended."""
        return self._gone.is_set()

    def delete(self) -> None:
        """Deletes the pod. Returns at once; ``gone`` says when it is done."""
        with self._lock:
            self.status.deleted = True
            self._note("deleted")
        self._deleted.set()

    def address(self, port: int) -> tuple[str, int]:
        """Where a port of the container that runs can be reached."""
        assert self._handle is not None
        return self._handle.address(port)

    def conditions(self, at: float) -> Conditions:
        """What its EndpointSlice said at a time."""
        with self._lock:
            then = [conditions for since, conditions in self._history if since <= at]
        return then[-1] if then else Conditions()

    def since(self, what: str) -> float:
        """When something was noted first.

        Raises:
            ValueError: It never was.
        """
        found = next((event.at for event in self.events if event.what == what), None)
        if found is None:
            raise ValueError(f"{self.name}: no event {what!r} in {self.story()}")
        return found

    def story(self) -> str:
        """Its events, one a line."""
        return "\n".join(
            f"{event.at:8.2f} {self.name} {event.what} {event.detail}".rstrip()
            for event in list(self.events)
        )

    # -- the container

    def _live(self) -> None:
        """The pod's own thread: one container after the other."""
        while True:
            self._run_container()
            if self._deleted.is_set():
                break
            back_off = BACK_OFF[min(self.restarts, len(BACK_OFF) - 1)]
            self._note("restarting", f"in {back_off:.0f} s")
            if self.clock.wait(self._deleted, self.clock.now() + back_off):
                break
            self.restarts += 1
        self._note("gone")
        self._gone.set()
        self._wake()

    def _run_container(self) -> None:
        self._handle = self._start()
        with self._lock:
            self.status.id += 1
            self.status.running = True
            self.status.started_at = self.clock.now()
            self.status.startup_passed = not self._probe(Kind.STARTUP)
            self._note("started", f"container {self.status.id}")
        self._wake()
        failed = self._watch()
        if self._handle.ended() is None:
            self._stop_container(self._grace(failed))
        with self._lock:
            self.status.running = False
            self._note("ended", f"exit status {self._handle.ended()}")

    def _watch(self) -> Kind | None:
        """Waits for the end of the container or a reason to end it: the probe that failed."""
        assert self._handle is not None
        while not self._deleted.wait(POLL):
            if self._handle.ended() is not None:
                return None
            for kind in (Kind.STARTUP, Kind.LIVENESS):
                for probe in self._probe(kind):
                    if probe.verdict(self.status.id) is False:
                        self._note("failed", kind.value)
                        return kind
        return None

    def _grace(self, failed: Kind | None) -> int:
        own = [probe.spec.grace for probe in self._probe(failed)] if failed else []
        return next((grace for grace in own if grace is not None), self.spec.grace)

    def _stop_container(self, grace: float) -> None:
        assert self._handle is not None
        begun = self.clock.now()
        if self.spec.pre_stop:
            self.clock.wait(self._gone, begun + self.spec.pre_stop)
        self._note("SIGTERM", f"grace {grace} s")
        self._handle.terminate()
        while self._handle.ended() is None:
            late = self.clock.now() - begun > grace
            if late or self._gone.wait(POLL):
                self._note("SIGKILL")
                self._handle.kill()
                return

    # -- the probes

    def _probe(self, kind: Kind) -> list[ProbeWorker]:
        return [probe.worker for probe in self._probes if probe.worker.spec.kind is kind]

    def _asking(self, spec: ProbeSpec) -> Callable[[], Observation]:
        def ask() -> Observation:
            at = self.clock.now()
            observation = http_probe(spec, *self.address(spec.port))
            self.asked.append(Asked(at, spec.kind, observation))
            return observation

        return ask

    def _keep_asking(self, probe: _Thread) -> None:
        """A probe's own thread."""
        spec = probe.worker.spec
        next_at = self.clock.now() + self._phase * spec.period
        while not self._gone.is_set():
            if self.clock.wait(probe.trigger, next_at):
                probe.trigger.clear()
                next_at = self.clock.now() + spec.period
            else:
                # A ticker: turns that were missed are not made up for.
                next_at = max(next_at + spec.period, self.clock.now())
            if self._gone.is_set() or not self._turn(probe.worker):
                return

    def _turn(self, worker: ProbeWorker) -> bool:
        with self._lock:
            seen = ContainerStatus(**vars(self.status))
        goes_on = worker.turn(seen, self.clock.now())
        with self._lock:
            passed = worker.spec.kind is Kind.STARTUP and worker.verdict(self.status.id) is True
            news = passed and not self.status.startup_passed
            if news:
                self.status.startup_passed = True
                self._note("startup passed")
            news = self._note_conditions() or news
        if news:
            self._wake()
        return goes_on

    def _wake(self) -> None:
        """A change of the pod's status has readiness asked at once while it is not ready."""
        for probe in self._probes:
            readiness = probe.worker.spec.kind is Kind.READINESS
            if self._gone.is_set() or (readiness and self.status.startup_passed and not self.ready):
                probe.trigger.set()

    def _is_ready(self) -> bool:
        if not (self.status.running and self.status.startup_passed):
            return False
        return all(probe.verdict(self.status.id) for probe in self._probe(Kind.READINESS))

    # -- the record

    def _note(self, what: str, detail: str = "") -> None:
        with self._lock:
            self.events.append(Event(self.clock.now(), what, detail))
            self._note_conditions()

    def _note_conditions(self) -> bool:
        ready = self._is_ready()
        now = Conditions(
            ready=ready and not self.status.deleted,
            serving=ready,
            terminating=self.status.deleted,
        )
        before = self._history[-1][1] if self._history else Conditions()
        if now == before:
            return False
        self._history.append((self.clock.now(), now))
        if now.serving != before.serving:
            self.events.append(Event(self.clock.now(), "ready" if now.serving else "unready"))
        return True


class Endpoints:
    """Whom a router sends requests to: what was true ``delay`` seconds ago.

    Args:
        clock: The kubelet's seconds.
        delay: Seconds until a change reaches the router.
    """

    def __init__(self, clock: Clock, delay: float) -> None:
        self._clock = clock
        self._delay = delay
        self._pods: list[Kubelet] = []

    def add(self, pod: Kubelet) -> None:
        """A pod the Service selects."""
        self._pods = [*self._pods, pod]

    def routable(self) -> list[Kubelet]:
        """The ready pods; when there is none, those that leave and still serve."""
        then = self._clock.now() - self._delay
        seen = [(pod, pod.conditions(then)) for pod in self._pods]
        ready = [pod for pod, conditions in seen if conditions.ready]
        leaving = (c.serving and c.terminating for _, c in seen)
        return ready or [pod for (pod, _), still in zip(seen, leaving, strict=True) if still]
