"""Our kubelet asks as the real one asks, and understands as it understands.

The vectors were observed with Go's net/http making the kubelet's own calls; see the file.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.health import Kind
from tests.kubelet import Observation, ProbeSpec, http_probe, request_bytes, with_retries
from tests.kubernetes.servers import StepServer
from tests.pod import free_port

GOLDEN = json.loads(
    (Path(__file__).parent / "kubelet-probe-vectors.json").read_text(encoding="utf-8")
)
VECTORS = {vector["name"]: vector for vector in GOLDEN["vectors"]}
WIRES = {wire["name"]: wire for wire in GOLDEN["wire_vectors"]}
# The margins of the vectors are 0.1 s: a busy machine needs three times that.
SCALE = 3.0
BUSY = 0.5
# Of those whose last byte comes just in time even this would be little.
JUST_IN_TIME = dict.fromkeys(("slow-headers-0.9s", "drip-body-in-time"), 12.0)


def scale(name: str) -> float:
    return JUST_IN_TIME.get(name, SCALE)


def ask(vector: dict[str, Any]) -> Observation:
    scaled = scale(vector["name"])
    spec = ProbeSpec(Kind.LIVENESS, path=StepServer.path, timeout=vector["timeout_s"] * scaled)
    if vector["connect"] == "refused":
        return http_probe(spec, "127.0.0.1", free_port())
    routes = {**GOLDEN["common_routes"], **vector.get("extra_routes", {})}
    with StepServer(vector["server"], routes, scaled) as server:
        return http_probe(spec, "127.0.0.1", server.port)


@pytest.fixture(scope="module")
def observed() -> dict[str, Observation]:
    """All vectors at the same time: most of what they do is wait."""
    with ThreadPoolExecutor(len(VECTORS)) as clients:
        return dict(zip(VECTORS, clients.map(ask, VECTORS.values()), strict=True))


def test_there_are_as_many_vectors_as_there_were() -> None:
    assert (len(VECTORS), len(WIRES)) == (55, 9)


@pytest.mark.parametrize("name", VECTORS)
def test_an_answer_is_understood(observed: dict[str, Observation], name: str) -> None:
    expected, seen = VECTORS[name]["expected"], observed[name]
    found = {"result": seen.outcome.name.lower(), "http_status": seen.status}
    wanted = [expected, expected.get("also_accepted", expected)]
    assert found in [{key: each[key] for key in found} for each in wanted], seen
    earliest, latest = (scale(name) * seconds for seconds in expected["elapsed_s"])
    assert earliest <= seen.seconds <= latest + BUSY


@pytest.mark.parametrize("name", WIRES)
def test_a_question_is_the_same_to_the_byte(name: str) -> None:
    wire = WIRES[name]
    headers = tuple((key, value) for key, value in wire["http_headers"])
    spec = ProbeSpec(Kind.READINESS, path="/a?b=c", headers=headers, timeout=10)
    right = GOLDEN["common_routes"]["/ok"]
    with StepServer([], {"/a?b=c": right}, SCALE) as server:
        http_probe(spec, "127.0.0.1", server.port)
        (received,) = server.received
    filled = {"{path}": "/a?b=c", "{host}": "127.0.0.1", "{port}": str(server.port)}
    expected = wire["request_bytes"]
    for placeholder, value in filled.items():
        expected = expected.replace(placeholder, value)
    assert received == expected.encode("latin-1")
    assert received == request_bytes(spec, f"http://127.0.0.1:{server.port}/a?b=c")


@pytest.mark.parametrize(
    ("name", "questions"),
    [("status-200", 1), ("status-503", 1), ("truncated-body-200", 3), ("truncated-body-500", 3)],
)
def test_only_what_cannot_be_judged_is_asked_again(name: str, questions: int) -> None:
    spec = ProbeSpec(Kind.LIVENESS, path=StepServer.path, timeout=10)
    with StepServer(VECTORS[name]["server"], {}, SCALE) as server:
        with_retries(lambda: http_probe(spec, "127.0.0.1", server.port))
        assert len(server.received) == questions
