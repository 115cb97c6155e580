"""The shared memory of a pod: what each process writes there is what the others read."""

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import scoreboard
from service.health import Lifecycle, Phase, PoolUse, Role
from service.scoreboard import (
    BODY_BYTES,
    BUFFER_WORDS,
    HEADER_WORDS,
    MAGIC,
    PUBLISHERS,
    SLOT_WORDS,
    WORD,
    Scoreboard,
    ScoreboardError,
    find,
    living,
    path_of,
    process_start,
    sweep,
)
from tests.unit.fakes import Clock, until

ROOT = Path(__file__).parents[2]
NOBODY = 2**22 + 1  # above the largest process id there can be
# A publication whose parts cannot be mistaken for parts of another: one number, repeated.
LARGE = 128 * 1024


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def board(clock: Clock) -> Scoreboard:
    return Scoreboard.create(None, slots=4, clock=clock.nanoseconds, wall=lambda: 1.7e9)


def uniform(number: int, size: int = LARGE) -> bytes:
    return struct.pack("Q", number) * (size // WORD)


def is_uniform(body: bytes) -> bool:
    return body == body[:WORD] * (len(body) // WORD)


# -- the layout


def test_the_layout(tmp_path: Path) -> None:
    """As the module's first lines say; another layout needs another magic number."""
    path = tmp_path / "scoreboard.1"
    Scoreboard.create(path, slots=3)
    words = HEADER_WORDS + PUBLISHERS + 3 * SLOT_WORDS + PUBLISHERS * 2 * BUFFER_WORDS
    assert (HEADER_WORDS, PUBLISHERS, SLOT_WORDS) == (32, 4, 24)
    assert BUFFER_WORDS * WORD == 8 * WORD + 512 * 1024
    assert path.stat().st_size == words * WORD
    with path.open("rb") as file:
        magic, slots, pid = struct.unpack("3Q", file.read(3 * WORD))
    assert (magic, slots, pid) == (MAGIC, 3, os.getpid())


def test_the_file_is_the_owners_alone_and_all_of_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "scoreboard.1"
    Scoreboard.create(path, slots=1)
    found = path.stat()
    assert found.st_mode & 0o777 == 0o600
    assert found.st_blocks * 512 >= found.st_size
    assert list(tmp_path.iterdir()) == [path], "nothing else is left behind"


def test_what_an_earlier_attempt_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "scoreboard.1"
    (tmp_path / ".scoreboard.1.new").write_bytes(b"half")
    path.write_bytes(b"another's, with the same process id")
    board = Scoreboard.create(path, slots=1)
    board.publish(1, b"body")
    assert Scoreboard.open(path).newest() == board.newest()
    assert list(tmp_path.iterdir()) == [path]


FULL = """
import resource, sys
from pathlib import Path
from service.scoreboard import Scoreboard
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    Scoreboard.create(Path(sys.argv[1]), slots=1)
except OSError:
    sys.exit(3)
"""


def test_no_room_is_found_out_at_once(tmp_path: Path) -> None:
    tried = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path / "scoreboard.1"], cwd=ROOT, check=False
    )
    assert tried.returncode == 3
    assert list(tmp_path.iterdir()) == []


def test_what_one_process_writes_another_reads(tmp_path: Path) -> None:
    path = tmp_path / "scoreboard.1"
    board, other = Scoreboard.create(path, slots=2), Scoreboard.open(path)
    board.expected = 2
    board.slot(1).assign(Role.WEB, generation=0, threads=4)
    board.publish(board.next_epoch(), b"body")
    assert other.expected == 2
    assert [worker.slot for worker in other.workers()] == [1]
    assert other.newest() == board.newest()
    assert (other.pod_id, other.booted, other.booted_at) == (
        board.pod_id,
        board.booted,
        board.booted_at,
    )
    other.drain()
    assert board.draining


# -- the pod


def test_who_the_pod_is(board: Scoreboard) -> None:
    assert board.booted == 1000.0
    assert board.booted_at == 1.7e9
    assert board.vacant_since == 1000.0
    assert board.master == (os.getpid(), process_start(os.getpid()))
    assert board.master_lives
    assert len(board.pod_id) == 32
    int(board.pod_id, 16)
    assert board.pod_id != Scoreboard.create(None, slots=1).pod_id


def test_a_new_pod_is_blank(board: Scoreboard) -> None:
    assert board.lifecycle is Lifecycle.STARTING
    assert (set(board.flags), board.serving_at, board.draining) == ({0}, None, False)
    assert not board.stopping
    assert not board.in_maintenance
    assert (board.rank, board.newest()) == (0, None)
    assert (board.finished, board.in_flight, board.generation, board.expected) == (0, 0, 0, 0)
    assert list(board.workers()) == []
    assert board.pools() == []


def test_counts_of_the_arbiter(board: Scoreboard) -> None:
    assert [board.next_generation(), board.next_generation(), board.generation] == [1, 2, 2]
    assert [board.next_epoch(), board.next_epoch()] == [1, 2]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param("", "starting", id="new"),
        pytest.param("serve", "serving", id="started"),
        pytest.param("maintain", "starting", id="not yet started"),
        pytest.param("maintain serve", "maintenance", id="started in maintenance"),
        pytest.param("serve maintain", "maintenance", id="maintenance"),
        pytest.param("serve maintain maintain-off", "serving", id="and back"),
        pytest.param("serve drain", "draining", id="drained by a command"),
        pytest.param("drain serve", "draining", id="never served"),
        pytest.param("serve drain maintain", "draining", id="draining is worse"),
        pytest.param("serve maintain drain", "draining", id="drained in maintenance"),
        pytest.param("serve stop", "draining", id="stopping"),
        pytest.param("serve stop drain-off", "draining", id="which cannot be taken back"),
        pytest.param("serve stop maintain maintain-off serve", "draining", id="whatever comes"),
    ],
)
def test_the_lifecycle(board: Scoreboard, steps: str, expected: str) -> None:
    for step in steps.split():
        {
            "serve": lambda: board.serve(1.7e9),
            "stop": board.stop,
            "drain": board.drain,
            "drain-off": lambda: board.drain(on=False),
            "maintain": lambda: board.maintain(on=True),
            "maintain-off": lambda: board.maintain(on=False),
        }[step]()
    assert board.lifecycle.value == expected
    assert board.draining is (expected == "draining")
    assert board.stopping is ("stop" in steps)


def test_flags_keep_their_first_time(board: Scoreboard, clock: Clock) -> None:
    board.serve(1_700_000_000.25)
    board.drain()
    board.stop()
    board.maintain(on=True)
    flags = board.flags
    clock.advance(5.0)
    board.serve(1_800_000_000.0)
    board.drain()
    board.stop()
    board.maintain(on=True)
    assert board.flags == flags
    assert board.serving_at == 1_700_000_000.25


def test_every_flag_is_in_the_flags(board: Scoreboard) -> None:
    seen = {board.flags}
    for step in (
        lambda: board.serve(1.7e9),
        lambda: board.maintain(on=True),
        board.drain,
        board.stop,
    ):
        step()
        seen.add(board.flags)
    assert len(seen) == 5


# -- the workers


def test_a_slot_is_free_until_it_is_assigned(board: Scoreboard, clock: Clock) -> None:
    slot = board.slot(2)
    clock.advance(5.0)
    slot.assign(Role.WEB, generation=3, threads=4)
    (worker,) = board.workers()
    assert (worker.slot, worker.pid, worker.process_start) == (2, 0, 0)
    assert (worker.role, worker.phase, worker.generation) == (Role.WEB, Phase.BOOTING, 3)
    assert (worker.phase_since, worker.beat, worker.threads) == (1005.0, 1005.0, 4)
    slot.occupy()
    clock.advance(1.0)
    slot.enter(Phase.READY)
    (worker,) = board.workers()
    assert (worker.pid, worker.process_start) == (os.getpid(), process_start(os.getpid()))
    assert (worker.phase, worker.phase_since, worker.beat) == (Phase.READY, 1006.0, 1006.0)
    clock.advance(1.0)
    board.free(2)
    assert list(board.workers()) == []
    assert board.vacant_since == 1007.0


@pytest.mark.parametrize(
    ("role", "phase", "counts"),
    [
        pytest.param(Role.WEB, Phase.READY, True, id="it had booted"),
        pytest.param(Role.WEB, Phase.STOPPING, True, id="it was leaving"),
        pytest.param(Role.WEB, Phase.BOOTING, False, id="its boot has failed"),
        pytest.param(Role.HEALTH, Phase.READY, False, id="the health worker"),
    ],
)
def test_who_leaves_a_vacancy(
    board: Scoreboard, clock: Clock, role: Role, phase: Phase, *, counts: bool
) -> None:
    slot = board.slot(1)
    slot.assign(role, generation=0, threads=1)
    slot.enter(phase)
    clock.advance(5.0)
    board.free(1)
    assert board.vacant_since == (1005.0 if counts else 1000.0)


@pytest.mark.parametrize("number", [-1, 4, 1000])
def test_there_is_no_such_slot(board: Scoreboard, number: int) -> None:
    with pytest.raises(IndexError, match="of 4"):
        board.slot(number)


def test_slots_do_not_overlap(board: Scoreboard) -> None:
    for number in range(4):
        slot = board.slot(number)
        slot.assign(Role.WEB, generation=number, threads=number + 1)
        slot.pool = PoolUse(*[number] * 6)
    board.publish(1, b"\xff" * BODY_BYTES)
    assert [(worker.generation, worker.threads) for worker in board.workers()] == [
        (number, number + 1) for number in range(4)
    ]
    assert board.pools() == [PoolUse(*[number] * 6) for number in range(4)]


def test_a_slot_starts_afresh_but_its_count_goes_on(board: Scoreboard) -> None:
    slot = board.slot(0)
    slot.assign(Role.WEB, generation=0, threads=1)
    slot.occupy()
    for _ in range(3):
        slot.request_finished(slot.request_started())
    slot.request_started()
    slot.beat(1, 2, 3)
    slot.pool = PoolUse(5, 5, 0, 0, 0, 5)
    board.free(0)
    assert board.finished == 3, "a dead worker's requests were finished none the less"
    assert (board.in_flight, board.pools()) == (0, [])
    slot.assign(Role.WEB, generation=1, threads=1)
    worker = slot.read()
    assert (worker.pid, worker.in_flight, worker.occupied) == (0, 0, 0)
    assert (worker.all_busy_since, worker.all_occupied_since) == (0.0, 0.0)
    assert (worker.oldest_since, worker.queued, worker.backlog) == (0.0, 0, 0)
    assert worker.memory_bytes == 0
    assert slot.pool is None
    slot.request_finished(slot.request_started())
    assert board.finished == 4


def test_requests_are_summed_over_the_web_workers(board: Scoreboard) -> None:
    for number in range(3):
        slot = board.slot(number)
        slot.assign(Role.WEB, generation=0, threads=4)
        for _ in range(number + 1):
            newest = slot.request_started()
    slot.request_finished(newest)
    health = board.slot(3)
    health.assign(Role.HEALTH, generation=0, threads=1)
    for _ in range(2):
        health.request_finished(health.request_started())
    health.request_started()
    assert board.in_flight == 5
    assert board.finished == 1


def test_since_when_every_thread_has_been_busy(board: Scoreboard, clock: Clock) -> None:
    slot = board.slot(0)
    slot.assign(Role.WEB, generation=0, threads=2)
    seen, requests = [], []
    for step in "++-+--":
        clock.advance(1.0)
        if step == "+":
            requests.append(slot.request_started())
        else:
            slot.request_finished(requests.pop())
        seen.append(slot.read().all_busy_since)
    assert seen == [0.0, 1002.0, 0.0, 1004.0, 0.0, 0.0]


def test_since_when_the_oldest_request_runs(board: Scoreboard, clock: Clock) -> None:
    slot = board.slot(0)
    slot.assign(Role.WEB, generation=0, threads=3)
    first, second, third = (clock.advance(1.0) or slot.request_started() for _ in range(3))
    seen = []
    for request in (second, first, third):
        seen.append(slot.read().oldest_since)
        slot.request_finished(request)
    assert seen == [1001.0, 1001.0, 1003.0]
    assert slot.read().oldest_since == 0.0


def test_what_a_worker_says_of_its_queues_and_its_memory(board: Scoreboard) -> None:
    slot = board.slot(0)
    slot.assign(Role.WEB, generation=0, threads=3)
    slot.beat(3, queued=5, backlog=7)
    worker = slot.read()
    assert (worker.occupied, worker.queued, worker.backlog) == (3, 5, 7)
    resident = psutil.Process().memory_info().rss
    assert resident / 2 < worker.memory_bytes < 2 * resident


def test_since_when_every_thread_has_been_held(board: Scoreboard, clock: Clock) -> None:
    slot = board.slot(0)
    slot.assign(Role.WEB, generation=0, threads=2)
    seen = []
    for occupied in (1, 2, 2, 3, 1, 2):
        clock.advance(1.0)
        slot.beat(occupied)
        seen.append(slot.read().all_occupied_since)
    assert seen == [0.0, 1002.0, 1002.0, 1002.0, 0.0, 1006.0]
    slot.request_finished(slot.request_started())
    assert slot.read().all_occupied_since == 0.0, "a request that ends is progress"
    assert slot.read().beat == 1006.0


@given(st.builds(PoolUse, *[st.none() | st.integers(0, 2**63) for _ in range(6)]))
def test_the_figures_of_a_pool(use: PoolUse) -> None:
    slot = Scoreboard.create(None, slots=1).slot(0)
    slot.pool = use
    assert slot.pool == use


# -- publications


def test_the_newest_publication(board: Scoreboard) -> None:
    ranks = [board.publish(1, f"body {number}".encode()) for number in range(5)]
    newest = board.newest()
    assert newest is not None
    assert (newest.body, newest.rank) == (b"body 4", board.rank)
    assert ranks == sorted(set(ranks))


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, BODY_BYTES])
def test_any_size_that_fits(board: Scoreboard, size: int) -> None:
    board.publish(1, b"x" * BODY_BYTES)
    board.publish(1, b"x" * BODY_BYTES)
    board.publish(1, b"y" * size)
    newest = board.newest()
    assert newest is not None
    assert newest.body == b"y" * size


def test_a_body_too_large_changes_nothing(board: Scoreboard) -> None:
    board.publish(1, b"body")
    before = board.newest()
    with pytest.raises(ValueError, match="at most 524288 bytes, not 524289"):
        board.publish(1, bytes(BODY_BYTES + 1))
    assert board.newest() == before


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        pytest.param([1, 2], 2, id="the successor's"),
        pytest.param([1, 2, 1, 1, 1], 2, id="late writes rank below it"),
        pytest.param([1, 2, 3, 4, 5], 5, id="more than there are places"),
        pytest.param([2, 3, 4, 5, 2, 3, 4], 5, id="several late ones"),
        pytest.param([5, 1], 5, id="late by as many as there are places"),
        pytest.param([9, 5, 1, 5], 9, id="and more"),
    ],
)
def test_the_highest_epoch_wins(board: Scoreboard, epochs: list[int], expected: int) -> None:
    for count, epoch in enumerate(epochs):
        board.publish(epoch, f"{epoch}, number {count}".encode())
    newest = board.newest()
    assert newest is not None
    assert newest.rank >> 32 == board.newest_epoch == expected
    assert newest.body.startswith(f"{expected},".encode())


def test_a_rank_never_goes_back(board: Scoreboard) -> None:
    ranks = [board.rank]
    for epoch in (1, 1, 2, 1, 2, 2, 3, 1, 3):
        board.publish(epoch, b"body")
        ranks.append(board.rank)
    assert ranks == sorted(ranks)


def newest_buffer(board: Scoreboard) -> int:
    """Where the buffer of the newest publication begins, in bytes."""
    rank = board.rank
    return WORD * board._buffer((rank >> 32) % PUBLISHERS, rank & 0xFFFFFFFF)


@given(
    body=st.binary(max_size=64),
    at=st.integers(0, 8 * WORD + 80),
    flip=st.integers(1, 255),
    before=st.integers(0, 3),
)
def test_a_damaged_buffer_is_never_taken_for_a_whole_one(
    body: bytes, at: int, flip: int, before: int
) -> None:
    board = Scoreboard.create(None, slots=1)
    for number in range(before):
        board.publish(1, b"earlier, and longer than the body %d" % number)
    board.publish(1, body)
    board._bytes[newest_buffer(board) + at] ^= flip
    newest = board.newest()
    assert newest is None or newest.body == body


@given(st.data())
def test_a_publication_that_arrives_in_pieces(data: st.DataObject) -> None:
    """Whichever of its words have been stored, and in whatever order: old, new or nothing."""
    board = Scoreboard.create(None, slots=1)
    bodies = data.draw(st.lists(st.binary(max_size=48), min_size=2, max_size=5))
    for body in bodies[:-1]:
        board.publish(1, body)
    words = board._words
    places = [
        HEADER_WORDS + 1,
        *(board._buffer(1, which) + at for which in (0, 2) for at in range(16)),
    ]
    before = {place: words[place] for place in places}
    board.publish(1, bodies[-1])
    changed = [place for place in places if words[place] != before[place]]
    for place in data.draw(st.sets(st.sampled_from(changed))):
        words[place] = before[place]
    newest = board.newest()
    assert newest is None or newest.body in bodies[-2:]


# -- two processes


WRITER = """
import os, struct, sys
from itertools import count
from pathlib import Path
from service.scoreboard import Scoreboard

board, parent = Scoreboard.open(Path(sys.argv[1])), os.getppid()
epoch, size = board.next_epoch(), int(sys.argv[2])
for number in count():
    board.publish(epoch, struct.pack("Q", number) * (size // 8))
    if os.getppid() != parent:
        break
"""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Another process publishes as fast as it can."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path, str(LARGE)], cwd=ROOT)
    try:
        yield
    finally:
        writer.kill()
        writer.wait()


def unchecked(board: Scoreboard) -> bytes:
    """The newest body as a reader without a sequence and a CRC would see it."""
    start = newest_buffer(board) + 8 * WORD
    return b"".join(bytes(board._bytes[at : at + 4096]) for at in range(start, start + LARGE, 4096))


def test_no_torn_publication_is_ever_read(tmp_path: Path) -> None:
    path = tmp_path / "scoreboard.1"
    board = Scoreboard.create(path, slots=1)
    seen: set[int] = set()
    with writing(path):
        until(lambda: board.rank, "a first publication")

        def read() -> int:
            newest = board.newest()
            if newest is not None:
                assert is_uniform(newest.body), "a torn body was read"
                assert len(newest.body) == LARGE
                assert newest.rank >= max(seen, default=0), "an older one was read"
                seen.add(newest.rank)
            return len(seen)

        until(lambda: [read() for _ in range(100)][-1] >= 500, "500 different readings")
        until(lambda: not is_uniform(unchecked(board)), "a torn body without the check")


# Forks writers one at a time, each with an epoch of its own; the test kills them.
NURSERY = """
import os, struct, sys
from itertools import count
from pathlib import Path
from service.scoreboard import Scoreboard

board, size = Scoreboard.open(Path(sys.argv[1])), int(sys.argv[2])
for _ in sys.stdin:
    epoch, parent = board.next_epoch(), os.getpid()
    child = os.fork()
    if not child:
        for number in count():
            board.publish(epoch, struct.pack("Q", number) * (size // 8))
            if os.getppid() != parent:
                os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


def test_a_killed_writer_leaves_a_readable_scoreboard(tmp_path: Path) -> None:
    path = tmp_path / "scoreboard.1"
    board = Scoreboard.create(path, slots=1)
    command = [sys.executable, "-c", NURSERY, path, str(LARGE)]
    pipe = subprocess.PIPE
    half_written = 0
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        for epoch in range(1, 51):
            nursery.stdin.write("another\n")
            nursery.stdin.flush()
            writer = int(nursery.stdout.readline())
            until(lambda epoch=epoch: board.rank >> 32 == epoch, "a publication")
            os.kill(writer, signal.SIGKILL)
            assert nursery.stdout.readline() == "gone\n"
            newest = board.newest()
            assert newest is not None
            assert newest.rank >> 32 == epoch
            assert len(newest.body) == LARGE
            assert is_uniform(newest.body)
            half_written += any(sequence % 2 for sequence in sequences(board))
    assert half_written, "no writer was killed in the middle"


def sequences(board: Scoreboard) -> list[int]:
    """The sequence of each buffer; odd while, or since, it is being written."""
    publisher = (board.rank >> 32) % PUBLISHERS
    return [board._words[board._buffer(publisher, which)] for which in (0, 2)]


# -- the new master of a running pod


def test_an_upgrade_in_place_goes_on(board: Scoreboard, clock: Clock) -> None:
    board.publish(board.next_epoch(), b"body")
    board.publish(board.next_epoch(), b"newer body")
    board.serve(1.7e9)
    board.maintain(on=True)
    clock.advance(3600.0)
    successor = Scoreboard.create(
        None, slots=9, adopt=board, clock=clock.nanoseconds, wall=lambda: 1.8e9
    )
    assert successor.slots == 9
    assert (successor.pod_id, successor.booted, successor.booted_at) == (
        board.pod_id,
        1000.0,
        1.7e9,
    )
    assert successor.serving_at == 1.7e9
    assert successor.lifecycle is Lifecycle.MAINTENANCE
    assert successor.vacant_since == 4600.0
    newest = successor.newest()
    assert newest is not None
    assert newest.body == b"newer body"
    assert successor.rank > board.rank
    assert successor.next_epoch() > successor.rank >> 32


def test_a_master_that_stops_does_not_stop_its_successor(board: Scoreboard) -> None:
    board.serve(1.7e9)
    board.stop()
    successor = Scoreboard.create(None, slots=1, adopt=board)
    assert successor.lifecycle is Lifecycle.SERVING
    assert successor.newest() is None


def test_what_an_operator_has_drained_stays_drained(board: Scoreboard) -> None:
    board.serve(1.7e9)
    board.drain()
    assert Scoreboard.create(None, slots=1, adopt=board).draining


# -- finding it


def garbage(size: int) -> bytes:
    return bytes(range(256)) * (size // 256) + bytes(size % 256)


def truncated(directory: Path) -> bytes:
    path = directory / "whole"
    Scoreboard.create(path, slots=3)
    return path.read_bytes()[: (HEADER_WORDS + 2) * WORD]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda _: b"x", id="a byte"),
        pytest.param(lambda _: b"pid 4711\nport 5003\n", id="a text"),
        pytest.param(lambda _: bytes(8 * WORD), id="a few zeroes"),
        pytest.param(lambda _: garbage(4096), id="garbage"),
        pytest.param(lambda _: garbage(4099), id="garbage of an odd size"),
        pytest.param(lambda _: bytes(2**20), id="not yet written"),
        pytest.param(lambda _: struct.pack("2Q", MAGIC - 1, 3) * 4096, id="another version"),
        pytest.param(lambda _: struct.pack("2Q", MAGIC, 3), id="only a magic number"),
        pytest.param(truncated, id="cut off"),
    ],
)
def test_a_file_that_is_no_scoreboard(tmp_path: Path, content: Callable[[Path], bytes]) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    path = path_of(directory, NOBODY)
    path.write_bytes(content(tmp_path))
    with pytest.raises(ScoreboardError) as error:
        Scoreboard.open(path)
    assert str(error.value).startswith(f"scoreboard.{NOBODY}: ")
    assert "\n" not in str(error.value)
    with pytest.raises(ScoreboardError, match="no running pod"):
        find(directory)
    sweep(directory)
    assert list(directory.iterdir()) == []


def test_a_living_masters_file_of_another_version_is_kept(tmp_path: Path) -> None:
    """As in an upgrade in place; the old master still needs it."""
    path = path_of(tmp_path, os.getpid())
    path.write_bytes(b"of another version")
    sweep(tmp_path)
    assert path.exists()
    with pytest.raises(ScoreboardError, match="no running pod"):
        find(tmp_path)


@pytest.mark.parametrize("name", ["scoreboard", "scoreboard.", "scoreboard.txt", "scoreboard.1x"])
def test_files_with_other_names_are_nobodys_business(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    sweep(tmp_path)
    assert (tmp_path / name).exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ScoreboardError, match=r"^scoreboard.1: cannot be read: No such file"):
        Scoreboard.open(tmp_path / "scoreboard.1")


def test_a_directory_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "scoreboard.1").mkdir()
    with pytest.raises(ScoreboardError, match=r"^scoreboard.1: cannot be read: Is a directory"):
        Scoreboard.open(tmp_path / "scoreboard.1")


def test_no_pod_in_a_directory(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ScoreboardError, match="no running pod in"):
            find(directory)
        sweep(directory)


def abandoned(path: Path) -> None:
    """Makes a scoreboard whose master is gone."""
    board = Scoreboard.create(path, slots=1)
    board._words[scoreboard.H_MASTER_PID] = NOBODY


def recycled(path: Path) -> None:
    """Makes a scoreboard whose master's process id is another's by now."""
    board = Scoreboard.create(path, slots=1)
    board._words[scoreboard.H_MASTER_START] -= 1


def test_only_a_living_masters_scoreboard_is_found_and_kept(tmp_path: Path) -> None:
    abandoned(tmp_path / "scoreboard.1")
    recycled(tmp_path / "scoreboard.2")
    abandoned(path_of(tmp_path, NOBODY))
    mine = path_of(tmp_path, os.getpid())
    Scoreboard.create(mine, slots=2)
    (tmp_path / "scoreboards").mkdir()
    (tmp_path / "metrics").mkdir()
    assert len(living(tmp_path)) == 1
    assert find(tmp_path).master == (os.getpid(), process_start(os.getpid()))
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [mine.name, "scoreboards", "metrics"]
    )
    assert find(tmp_path).slots == 2


def test_the_newest_masters_scoreboard_is_found(tmp_path: Path) -> None:
    """In an upgrade in place there are two for a while."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as newer:
        board = Scoreboard.create(path_of(tmp_path, newer.pid), slots=7)
        board._words[scoreboard.H_MASTER_PID] = newer.pid
        board._words[scoreboard.H_MASTER_START] = process_start(newer.pid)
        Scoreboard.create(path_of(tmp_path, os.getpid()), slots=2)
        assert [each.slots for each in living(tmp_path)] == [2, 7]
        assert find(tmp_path).slots == 7
        assert newer.stdin is not None
        newer.stdin.close()
        newer.wait()
        assert find(tmp_path).slots == 2


# -- who a process is


def test_the_start_of_a_process() -> None:
    assert process_start(os.getpid()) > 0
    assert process_start(NOBODY) == 0


def test_a_zombie_is_nobody() -> None:
    with subprocess.Popen(["true"]) as process:
        until(lambda: process_start(process.pid) == 0, "the end of a process")


def test_a_name_that_looks_like_more_fields() -> None:
    comm = Path("/proc/self/comm")
    name, start = comm.read_text(), process_start(os.getpid())
    try:
        comm.write_text("a) Z (b) 1 2")
        assert process_start(os.getpid()) == start
    finally:
        comm.write_text(name)
