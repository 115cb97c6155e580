"""Invariant 23: the summary of the providers adds up, and both families say the same."""

from itertools import chain, combinations

import pytest

from tests.contract.audit import BOTH, PREFIX
from tests.contract.conftest import Estate
from tests.pod import Pod, eventually
from tests.servers.providers import KEYS, RESEND, STRIPE, SUPABASE, TWILIO, slow, status

FOUR = (SUPABASE, STRIPE, RESEND, TWILIO)
COUNTS = (
    "healthy_services",
    "warning_services",
    "unhealthy_services",
    "unknown_services",
    "not_configured_services",
)
LISTS = COUNTS[1:]

MIXES = {
    "one of each": {STRIPE: status(429), TWILIO: status(500)},
    "two warnings, not in order": {TWILIO: status(429), SUPABASE: status(429)},
    "three failures, not in order": {
        TWILIO: status(500),
        SUPABASE: status(401),
        RESEND: status(502),
    },
    "all of them": dict.fromkeys(FOUR, status(503)),
    "all of them slow": dict.fromkeys(FOUR, slow(0.5)),
}
EXPECTED = {
    "one of each": ({STRIPE: "warning", TWILIO: "unhealthy"}, "unhealthy"),
    "two warnings, not in order": ({TWILIO: "warning", SUPABASE: "warning"}, "warning"),
    "three failures, not in order": (
        dict.fromkeys((TWILIO, SUPABASE, RESEND), "unhealthy"),
        "unhealthy",
    ),
    "all of them": (dict.fromkeys(FOUR, "unhealthy"), "unhealthy"),
    "all of them slow": (dict.fromkeys(FOUR, "warning"), "warning"),
}


@pytest.mark.parametrize("mix", MIXES)
def test_summary_lists_and_services_agree(estate: Estate, mix: str) -> None:
    for name, behaviour in MIXES[mix].items():
        estate.providers.behave(name, behaviour)
    wanted, verdict = EXPECTED[mix]
    words = {name: wanted.get(name, "healthy") for name in KEYS}
    for health in BOTH:
        eventually(
            lambda health=health: words_of(estate.pod, health=health) == words,
            f"{words}, not {words_of(estate.pod)}",
        )
        adds_up(estate.pod, verdict, health=health)
    estate.audit()


def words_of(pod: Pod, *, health: bool = False) -> dict[str, str]:
    services = pod.get("/health/external", health=health).json["services"]
    return {name: service["status"] for name, service in services.items()}


def adds_up(pod: Pod, verdict: str, *, health: bool) -> None:
    answer = pod.get("/health/external", health=health)
    body, summary = answer.json, answer.json["summary"]
    assert body["status"] == verdict
    assert summary["total_services"] == 4
    assert sum(summary[count] for count in COUNTS) == 4
    assert list(body["services"]) == list(FOUR)
    for name in LISTS:
        word = name.removesuffix("_services")
        assert body[name] == [each for each in FOUR if body["services"][each]["status"] == word]
        assert summary[name] == len(body[name])
    for one, other in combinations(LISTS, 2):
        assert not set(body[one]) & set(body[other])
    assert set(chain.from_iterable(body[name] for name in LISTS)) <= set(FOUR)
    eventually(lambda: lists_agree(pod, health=health), "3.6 and 4.1 list the same")
    eventually(lambda: families_agree(pod, health=health), "3.6 and 4.9 say the same")


def lists_agree(pod: Pod, *, health: bool) -> bool:
    """As ``families_agree``: a provider may become slow between the two questions."""
    body = pod.get("/health/external", health=health).json
    overall = pod.get(f"{PREFIX}/", health=health).data
    return all([each for each in overall[name] if each in FOUR] == body[name] for name in LISTS)


def families_agree(pod: Pod, *, health: bool) -> bool:
    """A run may end between the two questions; what they say of it then differs once."""
    flat = pod.get("/health/external", health=health)
    enveloped = pod.get(f"{PREFIX}/external", health=health)
    return flat.status == enveloped.status and flat.json["services"] == enveloped.data


def test_they_agree_in_a_pod_that_stands_still(still: object) -> None:
    pod = still.pod  # type: ignore[attr-defined]
    for health in BOTH:
        for _ in range(10):
            assert families_agree(pod, health=health)
