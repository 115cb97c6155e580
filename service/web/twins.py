"""``/livez``, ``/readyz`` and ``/startupz``: the three probes in the words of Kubernetes.

The text is that of the API server's own endpoints of these names: ``ok``, or a line for each
check and one for all of them. A twin without a query has the HTTP status of the probe it is a
twin of, at every moment. ``?exclude=`` is about the one answer it is asked for.

Which checks there are:

    livez       worker-progress
    readyz      pod-serving, and each critical check
    startupz    pod-started, and each check that startup waits for
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from service.health import Lifecycle, Pod
from service.web.payload import Answer, Document, Payload, timestamp


@dataclass(frozen=True, slots=True)
class Part:
    """One check, as a twin judges it.

    Attributes:
        passes: Whether it lets the twin pass.
        reason: A code or the lifecycle; None where all is well.
    """

    passes: bool
    reason: str | None = None


Parts = Mapping[str, Part]


def _livez(pod: Pod) -> Parts:
    return {"worker-progress": Part(pod.alive, None if pod.alive else "workers_stalled")}


def _readyz(pod: Pod) -> Parts:
    lifecycle = pod.snapshot.lifecycle
    serving = lifecycle is Lifecycle.SERVING
    critical = pod.snapshot.critical.items()
    return {
        "pod-serving": Part(serving, None if serving else lifecycle.value),
        **{name: Part(state.status.passes, state.code) for name, state in critical},
    }


def _startupz(pod: Pod) -> Parts:
    snapshot = pod.snapshot
    awaited = {name: state for name, state in snapshot.states.items() if state.check.startup}
    return {
        "pod-started": Part(snapshot.started, None if snapshot.started else "starting"),
        **{
            name: Part(snapshot.started or state.passed_once, state.code)
            for name, state in awaited.items()
        },
    }


_PARTS: Mapping[str, Callable[[Pod], Parts]] = {
    "livez": _livez,
    "readyz": _readyz,
    "startupz": _startupz,
}


@dataclass(frozen=True, slots=True)
class Question:
    """What a twin is asked.

    Attributes:
        twin: Its name.
        only: The one check it is about; None for all of them.
        exclude: Names of checks that shall not count, whether there are such or not.
        verbose: Whether every check shall be named even if all of them pass.
    """

    twin: str
    only: str | None = None
    exclude: tuple[str, ...] = ()
    verbose: bool = False

    def parts(self, pod: Pod) -> Parts:
        """The checks it is about; none where the one is none of the twin's."""
        parts = _PARTS[self.twin](pod)
        if self.only is None:
            return parts
        return {name: part for name, part in parts.items() if name == self.only}

    def as_text(self, _payload: Payload, pod: Pod, *, trusted: bool) -> Answer:  # noqa: ARG002
        """The answer as Kubernetes has it."""
        parts = self.parts(pod)
        passes, unknown = self._passes(parts), self._unknown(parts)
        if passes and not unknown and not self.verbose:
            return Answer(passes, "ok")
        verdict = "passed" if passes else "failed"
        lines = [*map(self._line, parts, parts.values()), *_warning(unknown)]
        return Answer(passes, "\n".join([*lines, f"{self.twin} check {verdict}", ""]))

    def as_document(self, _payload: Payload, pod: Pod, *, trusted: bool) -> Answer:  # noqa: ARG002
        """The same as JSON."""
        parts = self.parts(pod)
        passes = self._passes(parts)
        body: Document = {
            "passed": passes,
            "timestamp": timestamp(pod.at),
            "checks": {
                name: {"passed": part.passes, "reason": part.reason} for name, part in parts.items()
            },
            "excluded": [name for name in parts if name in self.exclude],
            "unknown": self._unknown(parts),
        }
        return Answer(passes, body)

    def _passes(self, parts: Parts) -> bool:
        return all(part.passes for name, part in parts.items() if name not in self.exclude)

    def _unknown(self, parts: Parts) -> list[str]:
        return [name for name in dict.fromkeys(self.exclude) if name not in parts]

    def _line(self, name: str, part: Part) -> str:
        if name in self.exclude:
            return f"[+]{name} excluded: ok"
        return f"[+]{name} ok" if part.passes else f"[-]{name} failed: {part.reason}"


def _warning(unknown: Iterable[str]) -> list[str]:
    names = ", ".join(map(json.dumps, unknown))
    return [f"warn: some health checks cannot be excluded: no matches for {names}"] * bool(names)
