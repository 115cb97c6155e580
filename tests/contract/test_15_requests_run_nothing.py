"""Invariant 15: however many ask, only time makes the pod ask its dependencies.

The checks of this pod have run once and will not run again for hours. So whatever reaches a
dependency from now on was caused by a request.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.contract.audit import FORMATS, METRICS, PATHS, PREFIX, Audit, services
from tests.contract.conftest import Still
from tests.pod import eventually
from tests.servers.providers import KEYS

CLIENTS, ROUNDS = 8, 6
CHECKED = ("database", "redis", *KEYS, "system_resources")


def test_requests_and_scrapes_run_no_check(still: Still) -> None:
    pod = still.pod
    eventually(lambda: has_run(still), "every check has run")
    eventually(silence(still), "the pod has told its fleet")
    before = traffic(still)
    assert before["statements"] > 0
    assert before["commands"] > 0
    assert all(before[provider] == 1 for provider in KEYS)
    last = last_checks(still)
    start = threading.Barrier(CLIENTS)

    def client(number: int) -> int:
        start.wait()
        asked = 0
        for _ in range(ROUNDS):
            for path in PATHS:
                for accept in FORMATS if path in METRICS else ("*/*",):
                    health = path != "/" and (number + asked) % 2 == 0
                    pod.get(path, health=health, Accept=accept, timeout=60)
                    asked += 1
        return asked

    with ThreadPoolExecutor(CLIENTS) as clients:
        asked = sum(clients.map(client, range(CLIENTS)))
    assert asked > 1000
    assert traffic(still) == before
    assert last_checks(still) == last


def has_run(still: Still) -> bool:
    return all(services(still.pod)[name]["last_check"] for name in CHECKED)


def silence(still: Still, seconds: float = 3.0) -> Callable[[], bool]:
    """Whether nothing has reached a dependency for so long."""
    last, since = traffic(still), time.monotonic()

    def silent() -> bool:
        nonlocal last, since
        now = traffic(still)
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since >= seconds

    return silent


def last_checks(still: Still) -> dict[str, str]:
    return {name: services(still.pod)[name]["last_check"] for name in CHECKED}


def traffic(still: Still) -> dict[str, int]:
    """What has reached each dependency so far, our own questions apart."""
    ours = ("info", "config|resetstat", "ping")
    commands = still.redis.admin.info("commandstats").items()
    return {
        "statements": len(still.postgres.statements(still.application_name)),
        "commands": sum(
            count["calls"] for name, count in commands if name.removeprefix("cmdstat_") not in ours
        ),
        "connections": still.redis.admin.info("stats")["total_connections_received"],
        **{provider: still.providers.requests[provider] for provider in KEYS},
    }


def test_the_still_pod_keeps_the_contract(still: Still) -> None:
    eventually(lambda: has_run(still), "every check has run")
    Audit(still.pod, secrets=tuple(KEYS.values()))()
    assert still.pod.status(f"{PREFIX}/readiness") == 200
