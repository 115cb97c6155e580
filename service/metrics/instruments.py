"""What each process counts: its requests, and the runs of the checks where it runs them.

The names are on no registry: what counts is what is in the files. So an application may use
the same names for its own, and nothing here collides with it.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import partial

from prometheus_client import Counter, Histogram

from service.health import Check, Run, Status
from service.metrics.writer import SlotValue, add_together

METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
)
OTHER = "other"

# Seconds. From a probe answered out of memory to a request that ought to have been a job.
REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# From a ping on the same host to the longest time limit of a check.
RUN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)

RESULTS = ("success", "warning", "failure", "timeout")
NOTIFICATION_RESULTS = ("sent", "failed")
PUBLISHED = (Status.HEALTHY, Status.WARNING, Status.UNHEALTHY)
# The codes any check can end in, whatever it probes.
COMMON_CODES = ("timeout", "check_failed")

# Counts one request and its seconds.
Counting = Callable[[float], None]


class Instruments:
    """The counters of one process; made once, after its slot is in use. Thread-safe."""

    def __init__(self) -> None:
        labels = ("method", "endpoint", "status")
        self._requests = Counter("app_request_total", "Requests of the pod", labels, registry=None)
        self._request_seconds = Histogram(
            "app_request_duration_seconds",
            "Time to answer a request",
            labels,
            registry=None,
            buckets=REQUEST_BUCKETS,
        )
        self._worker_starts = Counter(
            "mingus_health_worker_starts_total", "Worker processes that have started", registry=None
        )
        self._run_seconds = Histogram(
            "health_check_duration_seconds",
            "Time a run of a check took",
            ("component",),
            registry=None,
            buckets=RUN_BUCKETS,
        )
        self._failures = Counter(
            "health_check_failures_total",
            "Failed runs of a check",
            ("component", "error_type"),
            registry=None,
        )
        self._runs = Counter(
            "mingus_health_checks_total", "Runs of a check", ("check", "result"), registry=None
        )
        self._transitions = Counter(
            "mingus_health_check_transitions_total",
            "Changes of a check's published status",
            ("check", "to"),
            registry=None,
        )
        self._notifications = Counter(
            "mingus_health_notifications_total",
            "Messages to webhooks that were taken, or given up",
            ("target", "result"),
            registry=None,
        )
        self._counting: dict[tuple[str, str, str], Counting] = {}

    def request(self, method: str, endpoint: str, status: str, seconds: float) -> None:
        """Counts a finished request.

        Args:
            method: As it came; what is no HTTP method is counted as ``other``.
            endpoint: The route, or ``other``; never a path a caller made up.
            status: HTTP status code.
            seconds: From its first line to the end of its answer.
        """
        known = self._counting.get((method, endpoint, status))
        count = known or self._meet(method, endpoint, status)
        count(seconds)

    def worker_started(self) -> None:
        """Counts this process."""
        self._worker_starts.inc()

    def run_finished(self, check: Check, run: Run, before: Status, after: Status) -> None:
        """Counts a finished run.

        Args:
            check: What was run.
            run: What it found.
            before: The published status before it, aged to its end.
            after: The published status after it.
        """
        result = run.result
        self._run_seconds.labels(check.name).observe(run.duration)
        self._runs.labels(check.name, _outcome(run)).inc()
        if result.status is Status.UNHEALTHY:
            self._failures.labels(check.name, result.code).inc()
        if after is not before:
            self._transitions.labels(check.name, after.word).inc()

    def notified(self, target: str, result: str) -> None:
        """Counts a message to a webhook.

        Args:
            target: ``generic`` or ``slack``.
            result: ``sent`` or ``failed``.
        """
        self._notifications.labels(target, result).inc()

    def declare(self, checks: Iterable[Check]) -> None:
        """Shows the series of checks as 0 before their first run, so that no rise is missed.

        For the process that runs them. Checks that are not configured never run.
        """
        for check in checks:
            if check.unconfigured:
                continue
            self._run_seconds.labels(check.name)
            for result in RESULTS:
                self._runs.labels(check.name, result)
            for code in COMMON_CODES:
                self._failures.labels(check.name, code)
            for status in PUBLISHED:
                self._transitions.labels(check.name, status.word)

    def declare_webhooks(self, targets: Iterable[str]) -> None:
        """Shows the series of webhooks as 0 before the first message."""
        for target in targets:
            for result in NOTIFICATION_RESULTS:
                self._notifications.labels(target, result)

    def _meet(self, method: str, endpoint: str, status: str) -> Counting:
        """The call that counts such a request; kept, for looking a label set up is slow."""
        known = method if method in METHODS else OTHER
        labels = (known, endpoint, status)
        count = _both(self._requests.labels(*labels), self._request_seconds.labels(*labels))
        if known is method:
            self._counting[labels] = count
        return count


def _both(requests: Counter, request_seconds: Histogram) -> Counting:
    """Counts and observes at once: the client would take its lock three times."""
    # There is no public way to a metric's numbers; the writer's class stands for them anyway.
    number, total = requests._value, request_seconds._sum  # noqa: SLF001
    buckets = request_seconds._buckets  # noqa: SLF001
    if not all(isinstance(each, SlotValue) for each in (number, total, *buckets)):
        return partial(_one_by_one, requests, request_seconds)  # a process that took no slot

    def count(seconds: float) -> None:
        bucket = buckets[bisect_left(REQUEST_BUCKETS, seconds)]
        add_together(((number, 1.0), (total, seconds), (bucket, 1.0)))

    return count


def _one_by_one(requests: Counter, request_seconds: Histogram, seconds: float) -> None:
    requests.inc()
    request_seconds.observe(seconds)


def _outcome(run: Run) -> str:
    if run.result.status is not Status.UNHEALTHY:
        return "success" if run.result.status is Status.HEALTHY else "warning"
    return "timeout" if run.result.code == "timeout" else "failure"
