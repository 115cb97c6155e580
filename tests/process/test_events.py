"""Failures and recoveries are told outside, once each, whoever dies in between."""

import hmac
import json
import os
import signal
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.health.snapshot import decode
from tests.pod import Pod, eventually
from tests.process.fleet_member import Member
from tests.servers.providers import STRIPE, ProviderServer, status
from tests.servers.receiver import Message, Receiver
from tests.servers.redis import RedisServer, binary

SECRET = f"whsec_{b64encode(b'twenty-four random bytes').decode()}"
FAILING, RESTORED = "check.failing", "check.restored"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer(binary("valkey")) as server:
        yield server


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        yield server


def told(receiver: Receiver, **more: str) -> dict[str, str]:
    """The settings of a pod that tells a receiver."""
    return {
        "HEALTH_WEBHOOK_URL": receiver.url,
        "HEALTH_WEBHOOK_SECRET": SECRET,
        "HEALTH_WEBHOOK_MIN_INTERVAL_SECONDS": "0",
        # A server that is gone refuses; no check is to be late, or its result old, besides.
        "HEALTH_REDIS_TIMEOUT_SECONDS": "10",
        **more,
    }


def verified(message: Message) -> bool:
    key = b64decode(SECRET.removeprefix("whsec_"))
    signed = f"{message.id}.{message.headers['webhook-timestamp']}.".encode() + message.body
    right = f"v1,{b64encode(hmac.digest(key, signed, 'sha256')).decode()}"
    return hmac.compare_digest(right, message.headers["webhook-signature"])


def lines(pod: Pod, event: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in pod.log.splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == event]


def test_an_outage_is_told_once_and_so_is_its_end(
    make_pod: Callable[..., Pod], redis: RedisServer, receiver: Receiver
) -> None:
    pod = make_pod(REDIS_URL=redis.url, **told(receiver)).start()
    redis.stop()
    eventually(lambda: len(receiver.of("redis")) == 1, "the failure is told")
    redis.start()
    eventually(lambda: len(receiver.of("redis")) == 2, "the end is told")
    pod.wait_for(200, "/health")
    failing, restored = (each for each in receiver.taken if each.data["check"] == "redis")
    assert all(verified(message) for message in receiver.messages)
    assert (failing.json["type"], restored.json["type"]) == (FAILING, RESTORED)
    assert failing.id != restored.id
    assert failing.data["code"] == restored.data["code"] == "connection_refused"
    assert (failing.data["ready"], restored.data["ready"]) == (False, True)
    assert failing.data["pod"] == restored.data["pod"] == pod.board.pod_id
    assert failing.data["failing_since"] == failing.json["timestamp"]
    assert restored.data["failing_since"] == failing.json["timestamp"]
    assert restored.data["lasted_seconds"] > 0
    (line,) = lines(pod, "pod not ready")
    assert line["codes"] == {"redis": "connection_refused"}
    assert line["previous"] == "ready"
    assert len(lines(pod, "pod ready")) == 1
    assert len(lines(pod, "pod serving")) == 1


def killed(pod: Pod) -> None:
    os.kill(pod.health_worker, signal.SIGKILL)


def reloaded(pod: Pod) -> None:
    os.kill(pod.pid, signal.SIGHUP)


@pytest.mark.parametrize("end", [killed, reloaded])
def test_a_killed_health_worker_tells_nothing_again(
    make_pod: Callable[..., Pod],
    redis: RedisServer,
    receiver: Receiver,
    end: Callable[[Pod], None],
) -> None:
    pod = make_pod(REDIS_URL=redis.url, **told(receiver)).start()

    def replace() -> None:
        epoch = pod.board.newest_epoch
        end(pod)
        eventually(lambda: pod.board.newest_epoch > epoch, "a successor publishes")

    def words() -> list[str]:
        # Who is killed between sending and noting it is repeated by the successor, under one id.
        return [word for word, _ in dict.fromkeys(receiver.of("redis"))]

    redis.stop()
    eventually(lambda: words() == [FAILING], "the failure is told")
    replace()
    redis.start()
    eventually(lambda: words() == [FAILING, RESTORED], "the end is told, by the successor")
    replace()
    redis.stop()
    eventually(lambda: words() == [FAILING, RESTORED, FAILING], "the next failure is told")


@pytest.mark.parametrize("dies", [False, True], ids=["the same holder", "the holder is killed"])
def test_the_fleet_tells_once_that_a_provider_fails(
    tmp_path: Path,
    redis: RedisServer,
    receiver: Receiver,
    dies: bool,  # noqa: FBT001
) -> None:
    with ExitStack() as stack:
        apis = stack.enter_context(ProviderServer())
        settings = {
            "REDIS_URL": redis.url,
            "HEALTH_FLEET_INTERVAL_SECONDS": "2",
            "HEALTH_EXTERNAL_INTERVAL_SECONDS": "4",
            **apis.environment,
            **told(receiver),
        }
        members = [Member(tmp_path / name, **settings) for name in ("one", "two")]
        for member in members:
            stack.callback(member.kill)

        def holder() -> Member | None:
            for member in members:
                fleet = member.fleet
                if fleet["fresh"] and (fleet["leases"] or {}).get("checks") == fleet["this_pod"]:
                    return member
            return None

        def seen(word: str) -> bool:
            return all(
                each.get("/api/system/health/external")["data"][STRIPE]["status"] == word
                for each in members
            )

        def shared() -> bool:
            """Whether the others know, too, that a failure was told."""
            (key,) = redis.admin.keys("*:result")
            states = decode(json.loads(redis.admin.get(key))["states"].encode()).states
            return states[STRIPE].told is not None

        eventually(holder, "a holder")
        eventually(lambda: seen("healthy"), "all see it well")
        apis.behave(STRIPE, status(500))
        eventually(lambda: receiver.of(STRIPE), "the failure is told")
        eventually(lambda: seen("unhealthy"), "all see it fail")
        # The holder of that moment has told it, maybe no longer the first one.
        name = next(each.data["pod"] for each in receiver.taken if each.data["check"] == STRIPE)
        first = next(member for member in members if member.name == name)
        if dies:
            eventually(shared, "who comes next will not tell it again")
            members.remove(first)
            first.kill()
            eventually(holder, "another holds the lease")
        apis.behave(STRIPE)
        eventually(lambda: len(receiver.of(STRIPE)) > 1, "the end is told")
        eventually(lambda: seen("healthy"), "all see it well again")
        failing, restored = (each for each in receiver.taken if each.data["check"] == STRIPE)
        assert (failing.json["type"], restored.json["type"]) == (FAILING, RESTORED)
        assert failing.data["scope"] == restored.data["scope"] == "fleet"
        assert failing.data["pod"] == restored.data["pod"] == name
        assert failing.data["failing_since"] == restored.data["failing_since"]
        assert failing.id != restored.id
        assert verified(failing)
        assert verified(restored)
