"""Every history of two pods, a lease and a failover that fits into a few seconds: a model.

The states of the model are all interleavings of: time passes, a pod asks, the server answers,
the answer arrives or is lost, a pod starts an effect while its grant is valid, the effect
arrives however late, a pod releases, the server fails over to one that knows nothing. A
breadth-first search visits all of them, so what it does not find is not there, within these
bounds. The rules that were not shipped are searched, too: they show what the search can see.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import pytest

PODS = (0, 1)
TTL, MARGIN = 3, 1  # ticks
END = 4  # ticks
GRANTS = 2
TICK = 10  # units of the server's clock: more than there are grants in a tick


@dataclass(frozen=True)
class Rule:
    """What is varied.

    Attributes:
        fenced: Whether the resource refuses a lower fence than it has seen.
        hybrid: Whether a fence is at least the server's time; else it is a counter.
        before_send: Whether validity counts from before the request; else from the reply.
        failovers: How many there may be.
        skew: Ticks by which the new server's clock is behind; a failover takes one.
    """

    fenced: bool = True
    hybrid: bool = True
    before_send: bool = True
    failovers: int = 0
    skew: int = 0


OVER = NEVER = -1


class Pod(NamedTuple):
    """One pod: its term, what it was granted, and what is under way."""

    term: int = 0
    valid_until: int = 0
    fence: int = 0
    grant: int = 0
    sent: int = NEVER  # the request under way, and when it was sent
    reply: tuple[int, ...] = ()  # the reply under way: fence and grant, 0 for none
    effect: tuple[int, ...] = ()  # the effect under way: fence and grant


class State(NamedTuple):
    """Everything. A grant is numbered in the order of granting, whatever its fence is."""

    now: int = 0
    owner: tuple[int, int] | None = None
    expires: int = 0
    fence: int = 0
    grant: int = 0
    last: int = 0
    grants: int = 0
    failovers: int = 0
    highest: int = 0  # fence the resource has seen
    newest: int = 0  # grant the resource has accepted an effect of
    pods: tuple[Pod, ...] = tuple(Pod() for _ in PODS)
    wrong: str = ""


def _with(state: State, number: int, pod: Pod, **more: object) -> State:
    pods = tuple(pod if each == number else state.pods[each] for each in PODS)
    return state._replace(pods=pods, **more)


def _answered(state: State, rule: Rule, number: int) -> State | None:
    """The server handles a pod's request."""
    pod, held = state.pods[number], state.now < state.expires and state.owner
    owner = (number, pod.term)
    if held == owner:
        state = state._replace(expires=state.now + TTL)
        return _with(state, number, pod._replace(reply=(state.fence, state.grant)))
    if held and held != (number, pod.term - 1):
        return _with(state, number, pod._replace(reply=(0, 0)))
    if state.grants == GRANTS:
        return None
    clock = (state.now - rule.skew * state.failovers) * TICK
    fence = max(state.last + 1, clock) if rule.hybrid else state.last + 1
    grant = state.grants + 1
    return _with(
        state,
        number,
        pod._replace(reply=(fence, grant)),
        owner=owner,
        expires=state.now + TTL,
        fence=fence,
        grant=grant,
        last=fence,
        grants=grant,
    )


def _arrived(state: State, rule: Rule, number: int) -> State:
    """An effect reaches the resource."""
    pod = state.pods[number]
    fence, grant = pod.effect
    pod = pod._replace(effect=())
    if rule.fenced and fence < state.highest:
        wrong = "P2: the newest was refused" if grant > state.newest else ""
        return _with(state, number, pod, wrong=wrong)
    wrong = "P2: an older one was accepted" if grant < state.newest else ""
    seen = {"highest": max(state.highest, fence), "newest": max(state.newest, grant)}
    return _with(state, number, pod, **seen, wrong=wrong)


def _steps_of(state: State, rule: Rule, number: int) -> Iterator[State | None]:
    pod, now = state.pods[number], state.now
    if pod.sent == NEVER:
        over = pod.grant and now >= pod.valid_until
        asking = Pod(term=pod.term + 1, effect=pod.effect) if over else pod
        yield _with(state, number, asking._replace(sent=now))
    elif not pod.reply:
        yield _answered(state, rule, number)
    else:
        yield _with(state, number, pod._replace(sent=NEVER, reply=()))  # lost
        fence, grant = pod.reply
        if grant:
            until = (pod.sent if rule.before_send else now) + TTL - MARGIN
            got = pod._replace(valid_until=until, fence=fence, grant=grant, sent=NEVER, reply=())
        else:
            got = Pod(term=pod.term + 1 if pod.grant else pod.term, effect=pod.effect)
        yield _with(state, number, got)
    if pod.effect:
        yield _arrived(state, rule, number)
    elif now < pod.valid_until:
        yield _with(state, number, pod._replace(effect=(pod.fence, pod.grant)))
    if pod.grant and pod.sent == NEVER and now < pod.valid_until:
        mine = state.owner == (number, pod.term)
        freed = state._replace(owner=None) if mine else state
        yield _with(freed, number, Pod(term=pod.term + 1, effect=pod.effect))


def _steps(state: State, rule: Rule) -> Iterator[State | None]:
    if state.now < END:
        yield state._replace(now=state.now + 1)
    if state.failovers < rule.failovers and state.now < END:
        yield state._replace(now=state.now + 1, owner=None, last=0, failovers=state.failovers + 1)
    for number in PODS:
        yield from _steps_of(state, rule, number)


def _plain(state: State) -> State:
    """The state without what nobody can ask about any more, so that equal ones are equal."""
    if state.now >= state.expires:
        state = state._replace(owner=None, expires=0, fence=0, grant=0)
    pods = tuple(
        pod._replace(valid_until=0, fence=0, grant=OVER)
        if pod.grant and state.now >= pod.valid_until
        else pod
        for pod in state.pods
    )
    owner = state.owner
    if pods[1] < pods[0]:  # which is which does not matter
        pods, owner = pods[::-1], owner and (1 - owner[0], owner[1])
    return state._replace(pods=pods, owner=owner)


def _wrong(state: State, *, single: bool) -> str:
    holders = sum(state.now < pod.valid_until for pod in state.pods)
    return "P1: two valid grants" if single and holders > 1 else state.wrong


def search(rule: Rule, *, single: bool = False) -> tuple[str, int]:
    """The first property that breaks on a shortest way, or an empty text; and the states seen."""
    seen, queue = {State()}, deque([State()])
    while queue:
        for step in _steps(queue.popleft(), rule):
            if step is None or (state := _plain(step)) in seen:
                continue
            if wrong := _wrong(state, single=single):
                return wrong, len(seen)
            seen.add(state)
            queue.append(state)
    return "", len(seen)


OLDER = "P2: an older one was accepted"
TWO = "P1: two valid grants"


@pytest.mark.parametrize(
    ("rule", "single", "found"),
    [
        pytest.param(Rule(), True, "", id="shipped"),
        pytest.param(Rule(failovers=1), False, "", id="shipped, failover"),
        pytest.param(Rule(failovers=1), True, TWO, id="no lock is single over a failover"),
        pytest.param(Rule(failovers=1, skew=3), False, OLDER, id="new server far behind"),
        pytest.param(Rule(fenced=False), False, OLDER, id="no fence"),
        pytest.param(Rule(hybrid=False), False, "", id="a counter, nothing lost"),
        pytest.param(Rule(hybrid=False, failovers=1), False, OLDER, id="a counter, failover"),
        pytest.param(Rule(before_send=False), True, TWO, id="valid from the reply"),
    ],
)
def test_the_search_finds_what_is_wrong_with_a_rule(
    rule: Rule, found: str, *, single: bool
) -> None:
    wrong, states = search(rule, single=single)
    print(f"{states} states")
    assert wrong[:2] == found[:2]
