"""The shared memory of a pod: one mapped file that every process of it reads.

    header    32 words    identity, flags and counters of the pod
    ranks      4 words    epoch << 32 | sequence of the newest complete publication
    slots      n x 24     what each worker process says of itself
    buffers    4 x 2 x (8 words + BODY_BYTES)   two buffers for each publisher

A word is 8 bytes, native order, aligned; it is stored through a cast memoryview in one
machine store, so no reader sees half of one. Every word has one writer: the arbiter writes the
header's identity, generation and counts, and a slot's role while nobody lives in it; a worker
writes its own slot; a health worker writes its publisher's rank and buffers. The operator's flags
(drain, maintenance) are written by commands, and only ever to the time they were set, or to 0.

A publication goes into the buffer readers are not using; then its rank is stored, and with
that it is the newest. The sequence is odd while a buffer is being written, and a CRC seeded
with epoch and sequence covers the body, so a reader that meets a torn buffer knows it. The
highest rank wins: an old health worker's late writes rank below its successor's. Nothing here
locks, so nobody can be kept waiting, by a killed writer neither.

The file is preallocated: a full file system fails its creation and kills nobody later.
Times are nanoseconds of CLOCK_MONOTONIC, one clock for every process of a host.
"""

import mmap
import os
import re
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service.health import Lifecycle, Phase, PoolUse, Role, WorkerSlot

MAGIC = 0x6D696E6775730001  # "mingus", layout 1
BODY_BYTES = 512 * 1024
PUBLISHERS = 4  # a health worker and three that a burst of reloads left behind
ATTEMPTS = 64

WORD = 8
HEADER_WORDS = 32
SLOT_WORDS = 24
BUFFER_WORDS = 8 + BODY_BYTES // WORD

# Words of the header.
(
    H_MAGIC,
    H_SLOTS,
    H_MASTER_PID,
    H_MASTER_START,
    H_BOOTED,
    H_BOOTED_AT_US,
    H_GENERATION,
    H_EPOCH,
    H_STOPPING,
    H_DRAIN,
    H_MAINTENANCE,
    H_SERVING_AT_US,
    H_EXPECTED,
    H_VACANT_SINCE,
    H_POD_ID,
    H_POD_ID_LOW,
) = range(16)

# Words of a slot.
(
    S_PID,
    S_START,
    S_ROLE,
    S_PHASE,
    S_GENERATION,
    S_PHASE_SINCE,
    S_BEAT,
    S_THREADS,
    S_IN_FLIGHT,
    S_OCCUPIED,
    S_ALL_BUSY,
    S_ALL_OCCUPIED,
    S_FINISHED,
    S_POOLED,
    S_POOL,
) = range(15)
POOL_FIELDS = 6
S_OLDEST, S_QUEUED, S_BACKLOG, S_MEMORY = range(S_POOL + POOL_FIELDS, SLOT_WORDS)
WEB = int(Role.WEB)  # an enum's member is slow to look up, and this is every request's way
NONE = 2**64 - 1  # a figure nobody measured

# Words of a buffer.
B_SEQUENCE, B_EPOCH, B_LENGTH, B_CRC = range(4)

_MASTER = re.compile(r"\.[0-9]+")  # the end of a scoreboard's name

NANO = 1_000_000_000
MICRO = 1_000_000


class ScoreboardError(Exception):
    """There is no usable scoreboard; the message is the one line to print."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What a health worker published.

    Attributes:
        rank: Rises with every publication of the pod, over health workers too.
        body: The bytes.
    """

    rank: int
    body: bytes


def process_start(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 when there is no such process.

    With the id it names one process for ever: ids come back, start times do not.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    fields = stat[stat.rindex(")") + 2 :].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


class Scoreboard:
    """The mapped file of one pod. Any process of the pod may hold one; see the module."""

    def __init__(self, memory: mmap.mmap, clock: Callable[[], int]) -> None:
        self._memory = memory
        self._bytes = memoryview(memory)
        self._words = self._bytes.cast("Q")
        self._stamps = self._words[H_STOPPING : HEADER_WORDS + PUBLISHERS]
        self._clock = clock
        self.slots = self._words[H_SLOTS]
        self._slots_at = HEADER_WORDS + PUBLISHERS
        self._buffers_at = self._slots_at + self.slots * SLOT_WORDS

    # -- making and finding

    @classmethod
    def create(
        cls,
        path: Path | None,
        slots: int,
        *,
        adopt: "Scoreboard | None" = None,
        clock: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], float] = time.time,  # noqa: TID251 - stored once, for display
    ) -> "Scoreboard":
        """Makes the scoreboard of a new pod, or of the new master of a running one.

        Args:
            path: Where the file appears, whole; None for one that only children share.
            slots: How many worker processes it can hold.
            adopt: The old master's, when the server is upgraded in place: the pod goes on.
            clock: Monotonic nanoseconds.
            wall: Unix seconds.

        Raises:
            OSError: The file cannot be made or the file system is full.
        """
        memory = mmap.mmap(-1, _size(slots)) if path is None else _mapped_file(path, _size(slots))
        words = memoryview(memory).cast("Q")
        words[H_SLOTS] = slots
        board = cls(memory, clock)
        board._identify(adopt, wall)
        if path is not None:
            _staging(path).rename(path)
        return board

    def _identify(self, adopt: "Scoreboard | None", wall: Callable[[], float]) -> None:
        words = self._words
        pid, now = os.getpid(), self._clock()
        words[H_MASTER_PID], words[H_MASTER_START] = pid, process_start(pid)
        words[H_VACANT_SINCE] = now
        if adopt is None:
            words[H_BOOTED], words[H_BOOTED_AT_US] = now, int(wall() * MICRO)
            words[H_POD_ID], words[H_POD_ID_LOW] = secrets.randbits(64), secrets.randbits(64)
        else:
            for word in (
                H_BOOTED,
                H_BOOTED_AT_US,
                H_POD_ID,
                H_POD_ID_LOW,
                H_EPOCH,
                H_SERVING_AT_US,
                H_DRAIN,
                H_MAINTENANCE,
            ):
                words[word] = adopt._words[word]  # noqa: SLF001 - of the same class
            newest = adopt.newest()
            if newest is not None:
                self.publish(self.next_epoch(), newest.body)
        words[H_MAGIC] = MAGIC

    @classmethod
    def open(cls, path: Path, clock: Callable[[], int] = time.monotonic_ns) -> "Scoreboard":
        """Maps the scoreboard of a pod this process is no child of.

        Raises:
            ScoreboardError: The file is not there, not readable, or not a scoreboard.
        """
        try:
            with path.open("r+b") as file:
                memory = mmap.mmap(file.fileno(), 0)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "empty"
            raise ScoreboardError(f"{path.name}: cannot be read: {why}") from None
        if len(memory) >= HEADER_WORDS * WORD:
            magic, slots = memoryview(memory)[: 2 * WORD].cast("Q")
            if magic == MAGIC and len(memory) == _size(slots):
                return cls(memory, clock)
        raise ScoreboardError(f"{path.name}: not a scoreboard of this version")

    @property
    def master(self) -> tuple[int, int]:
        """Process id and start time of the master."""
        return self._words[H_MASTER_PID], self._words[H_MASTER_START]

    @property
    def master_lives(self) -> bool:
        """Whether the master of this pod is still running."""
        pid, start = self.master
        return start != 0 and process_start(pid) == start

    # -- the pod

    def _seconds(self, word: int) -> float:
        return self._words[word] / NANO

    @property
    def pod_id(self) -> str:
        """Random identity of the pod, 32 hexadecimal digits."""
        return f"{self._words[H_POD_ID]:016x}{self._words[H_POD_ID_LOW]:016x}"

    @property
    def booted(self) -> float:
        """Start of the pod's master, monotonic seconds."""
        return self._seconds(H_BOOTED)

    @property
    def booted_at(self) -> float:
        """Start of the pod's master, Unix seconds."""
        return self._words[H_BOOTED_AT_US] / MICRO

    @property
    def generation(self) -> int:
        """How many reloads there have been."""
        return self._words[H_GENERATION]

    def next_generation(self) -> int:
        """Counts a reload. Arbiter only."""
        self._words[H_GENERATION] += 1
        return self._words[H_GENERATION]

    def next_epoch(self) -> int:
        """Counts a health worker: each publishes under an epoch of its own. Arbiter only."""
        self._words[H_EPOCH] += 1
        return self._words[H_EPOCH]

    @property
    def expected(self) -> int:
        """How many web workers there should be."""
        return self._words[H_EXPECTED]

    @expected.setter
    def expected(self, workers: int) -> None:
        self._words[H_EXPECTED] = workers

    @property
    def vacant_since(self) -> float:
        """When a web worker that had booted was last lost, or the scoreboard made; monotonic s."""
        return self._seconds(H_VACANT_SINCE)

    @property
    def stopping(self) -> bool:
        """Whether the master has been told to stop. Absorbing."""
        return self._words[H_STOPPING] != 0

    def stop(self) -> None:
        """The master has been told to stop: from now on every worker answers as draining."""
        self._set(H_STOPPING, on=True)

    @property
    def draining(self) -> bool:
        """Whether the pod is leaving, by a stop or by an operator's word."""
        return (self._words[H_STOPPING] | self._words[H_DRAIN]) != 0

    def drain(self, *, on: bool = True) -> None:
        """An operator takes the pod out of traffic, or back; a stop cannot be taken back."""
        self._set(H_DRAIN, on=on)

    @property
    def in_maintenance(self) -> bool:
        """Whether an operator has put the pod into maintenance."""
        return self._words[H_MAINTENANCE] != 0

    def maintain(self, *, on: bool) -> None:
        """An operator begins or ends maintenance. It outlasts workers, not the pod."""
        self._set(H_MAINTENANCE, on=on)

    def _set(self, flag: int, *, on: bool) -> None:
        """Sets a flag to the time it was first set, or clears it."""
        if not on:
            self._words[flag] = 0
        elif not self._words[flag]:
            self._words[flag] = self._clock()

    @property
    def serving_at(self) -> float | None:
        """When the pod became serving, Unix seconds; None before."""
        return self._words[H_SERVING_AT_US] / MICRO or None

    def serve(self, at: float) -> None:
        """Latches that the pod has started, at a Unix time. Health worker only."""
        if not self._words[H_SERVING_AT_US]:
            self._words[H_SERVING_AT_US] = int(at * MICRO)

    @property
    def flags(self) -> tuple[int, ...]:
        """The words the lifecycle follows from; they change only when it may have."""
        return tuple(self._words[H_STOPPING : H_SERVING_AT_US + 1])

    @property
    def version(self) -> bytes:
        """Differs from what it was when a new publication, or a flag, may change an answer.

        Flags and ranks in one read, with some words between them that hardly ever change.
        """
        return self._stamps.tobytes()

    @property
    def lifecycle(self) -> Lifecycle:
        """Where the pod is in its life."""
        if self.draining:
            return Lifecycle.DRAINING
        if not self._words[H_SERVING_AT_US]:
            return Lifecycle.STARTING
        return Lifecycle.MAINTENANCE if self.in_maintenance else Lifecycle.SERVING

    # -- the workers

    def slot(self, number: int) -> "Slot":
        """A worker's own part, to write to.

        Raises:
            IndexError: There is no such slot.
        """
        if not 0 <= number < self.slots:
            raise IndexError(f"slot {number} of {self.slots}")
        at = self._slots_at + number * SLOT_WORDS
        return Slot(self._words[at : at + SLOT_WORDS], number, self._clock)

    def free(self, number: int) -> None:
        """Frees a slot whose worker is gone. Arbiter only."""
        role, phase = (self._slot_words(word)[number] for word in (S_ROLE, S_PHASE))
        if role == WEB and phase != Phase.BOOTING:
            self._words[H_VACANT_SINCE] = self._clock()
        self.slot(number).vacate()

    def workers(self) -> Iterator[WorkerSlot]:
        """What each living worker process says of itself."""
        for number, phase in enumerate(self._slot_words(S_PHASE)):
            if phase != Phase.FREE:
                yield self.slot(number).read()

    def pools(self) -> list[PoolUse]:
        """The figures of each pool that a living web worker reports."""
        pools = (self.slot(worker.slot).pool for worker in self.workers())
        return [pool for pool in pools if pool is not None]

    @property
    def finished(self) -> int:
        """Requests finished by all web workers, dead ones included, since the pod started."""
        return sum(self._slot_words(S_FINISHED))

    @property
    def in_flight(self) -> int:
        """Requests the web workers are serving now."""
        return sum(worker.in_flight for worker in self.workers() if worker.role is Role.WEB)

    def _slot_words(self, word: int) -> list[int]:
        return self._words[self._slots_at + word : self._buffers_at : SLOT_WORDS].tolist()

    # -- publications

    def publish(self, epoch: int, body: bytes) -> int:
        """Makes a body the newest publication, and returns its rank. One thread an epoch.

        Raises:
            ValueError: The body is larger than ``BODY_BYTES``.
        """
        if len(body) > BODY_BYTES:
            raise ValueError(f"a publication has at most {BODY_BYTES} bytes, not {len(body)}")
        words, publisher = self._words, epoch % PUBLISHERS
        newest = words[HEADER_WORDS + publisher]
        if newest >> 32 > epoch:
            return newest  # a late riser: somebody newer has taken its place
        sequence = ((newest & 0xFFFFFFFF) if newest >> 32 == epoch else 0) + 2
        at = self._buffer(publisher, sequence)
        words[at + B_SEQUENCE] = sequence - 1
        start = (at + 8) * WORD
        self._bytes[start : start + len(body)] = body
        words[at + B_EPOCH], words[at + B_LENGTH] = epoch, len(body)
        words[at + B_CRC] = _crc(body, epoch, sequence)
        words[at + B_SEQUENCE] = sequence
        rank = epoch << 32 | sequence
        words[HEADER_WORDS + publisher] = rank
        return rank

    @property
    def rank(self) -> int:
        """Rank of the newest publication; 0 when there is none."""
        return max(self._words[HEADER_WORDS : HEADER_WORDS + PUBLISHERS].tolist())

    @property
    def newest_epoch(self) -> int:
        """Epoch of the newest publication; 0 when there is none."""
        return self.rank >> 32

    def newest(self) -> Publication | None:
        """The newest publication; None when there is none, or none that can be read whole."""
        for _ in range(ATTEMPTS):
            rank = self.rank
            if rank == 0:
                return None
            body = self._body(rank >> 32, rank & 0xFFFFFFFF)
            if body is not None:
                return Publication(rank, body)
        return None

    def _body(self, epoch: int, sequence: int) -> bytes | None:
        words, at = self._words, self._buffer(epoch % PUBLISHERS, sequence)
        length, start = words[at + B_LENGTH], (at + 8) * WORD
        if words[at + B_SEQUENCE] != sequence or words[at + B_EPOCH] != epoch:
            return None
        if length > BODY_BYTES:
            return None
        body = bytes(self._bytes[start : start + length])
        whole = words[at + B_CRC] == _crc(body, epoch, sequence)
        return body if whole and words[at + B_SEQUENCE] == sequence else None

    def _buffer(self, publisher: int, sequence: int) -> int:
        which = publisher * 2 + (sequence >> 1 & 1)
        return self._buffers_at + which * BUFFER_WORDS


class Slot:
    """The words of one worker. Written by that worker, and by the arbiter while it is free."""

    def __init__(self, words: memoryview, number: int, clock: Callable[[], int]) -> None:
        self._words = words
        self._clock = clock
        self._lock = threading.Lock()
        self._starts: dict[int, int] = {}  # of the requests in flight, the oldest first
        self._started = 0
        self.number = number

    def assign(self, role: Role, generation: int, threads: int) -> None:
        """Gives the slot to a worker about to be forked. Arbiter only."""
        words, now = self._words, self._clock()
        for word in (
            *(S_PID, S_START, S_IN_FLIGHT, S_OCCUPIED, S_ALL_BUSY, S_ALL_OCCUPIED, S_POOLED),
            *(S_OLDEST, S_QUEUED, S_BACKLOG, S_MEMORY),
        ):
            words[word] = 0
        self._starts.clear()
        words[S_ROLE], words[S_GENERATION], words[S_THREADS] = role, generation, threads
        words[S_PHASE_SINCE] = words[S_BEAT] = now
        words[S_PHASE] = Phase.BOOTING

    def vacate(self) -> None:
        """Nobody lives here any more. Arbiter only."""
        self._words[S_PHASE] = Phase.FREE

    def occupy(self) -> None:
        """The worker's own first stamp, just after the fork."""
        pid = os.getpid()
        self._words[S_PID], self._words[S_START] = pid, process_start(pid)

    def enter(self, phase: Phase) -> None:
        """The worker enters a phase of its life."""
        self._words[S_PHASE_SINCE] = self._words[S_BEAT] = self._clock()
        self._words[S_PHASE] = phase

    def beat(self, occupied: int, queued: int = 0, backlog: int = 0) -> None:
        """The main loop's stamp.

        Args:
            occupied: Threads that connections hold.
            queued: Connections that wait in this process for a thread.
            backlog: Connections that wait in the listener's queue.
        """
        words, now = self._words, self._clock()
        words[S_OCCUPIED], words[S_BEAT] = occupied, now
        words[S_QUEUED], words[S_BACKLOG], words[S_MEMORY] = queued, backlog, _resident_bytes()
        if occupied < words[S_THREADS]:
            words[S_ALL_OCCUPIED] = 0
        elif not words[S_ALL_OCCUPIED]:
            words[S_ALL_OCCUPIED] = now

    def inhabited_by(self, phase: Phase, pid: int) -> bool:
        """Whether the slot is still in that phase of that process."""
        return self._words[S_PHASE] == phase and self._words[S_PID] == pid

    def request_started(self) -> int:
        """Counts a request in; its number, to count it out by. Any thread of the worker."""
        words, starts = self._words, self._starts
        with self._lock:
            number = self._started = self._started + 1
            now = starts[number] = self._clock()
            if len(starts) == 1:
                words[S_OLDEST] = now
            words[S_IN_FLIGHT] += 1
            if words[S_IN_FLIGHT] >= words[S_THREADS]:
                words[S_ALL_BUSY] = now
        return number

    def request_answered(self) -> None:
        """Counts a request that was answered at once: in and out again. Any thread."""
        words = self._words
        with self._lock:
            words[S_FINISHED] += words[S_ROLE] == WEB
            words[S_ALL_BUSY] = words[S_ALL_OCCUPIED] = 0

    def request_finished(self, number: int) -> None:
        """Counts a request out. Any thread of the worker."""
        words, starts = self._words, self._starts
        with self._lock:
            del starts[number]
            words[S_OLDEST] = next(iter(starts.values()), 0)
            words[S_IN_FLIGHT] -= 1
            words[S_FINISHED] += words[S_ROLE] == WEB
            words[S_ALL_BUSY] = words[S_ALL_OCCUPIED] = 0

    @property
    def pool(self) -> PoolUse | None:
        """The figures of the worker's connection pool, None if it reports none."""
        if not self._words[S_POOLED]:
            return None
        figures = self._words[S_POOL : S_POOL + POOL_FIELDS].tolist()
        return PoolUse(*(None if figure == NONE else figure for figure in figures))

    @pool.setter
    def pool(self, use: PoolUse) -> None:
        figures = (
            use.size,
            use.checked_in,
            use.checked_out,
            use.overflow,
            use.invalid,
            use.capacity,
        )
        for word, figure in enumerate(figures, S_POOL):
            self._words[word] = NONE if figure is None else figure
        self._words[S_POOLED] = 1

    def read(self) -> WorkerSlot:
        """What the slot says now.

        Raises:
            ScoreboardError: It says what no worker writes.
        """
        words = self._words.tolist()
        try:
            role, phase = Role(words[S_ROLE]), Phase(words[S_PHASE])
        except ValueError as error:
            raise ScoreboardError(f"slot {self.number} is damaged: {error}") from None
        return WorkerSlot(
            slot=self.number,
            pid=words[S_PID],
            process_start=words[S_START],
            role=role,
            phase=phase,
            generation=words[S_GENERATION],
            phase_since=words[S_PHASE_SINCE] / NANO,
            beat=words[S_BEAT] / NANO,
            threads=words[S_THREADS],
            in_flight=words[S_IN_FLIGHT],
            occupied=words[S_OCCUPIED],
            all_busy_since=words[S_ALL_BUSY] / NANO,
            all_occupied_since=words[S_ALL_OCCUPIED] / NANO,
            finished=words[S_FINISHED],
            oldest_since=words[S_OLDEST] / NANO,
            queued=words[S_QUEUED],
            backlog=words[S_BACKLOG],
            memory_bytes=words[S_MEMORY],
        )


def _resident_bytes() -> int:
    """Resident memory of this process; 0 where it cannot be read."""
    with suppress(OSError, ValueError, IndexError):
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * mmap.PAGESIZE
    return 0


def _size(slots: int) -> int:
    """Bytes of a scoreboard with so many slots."""
    return WORD * (HEADER_WORDS + PUBLISHERS + slots * SLOT_WORDS + PUBLISHERS * 2 * BUFFER_WORDS)


def _crc(body: bytes, epoch: int, sequence: int) -> int:
    return zlib.crc32(body, (sequence ^ epoch) & 0xFFFFFFFF)


def _staging(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _mapped_file(path: Path, size: int) -> mmap.mmap:
    """A new file of that size, every block of it reserved, that nobody can find yet."""
    staging = _staging(path)
    staging.unlink(missing_ok=True)
    fd = os.open(staging, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
        return mmap.mmap(fd, size)
    except OSError:
        staging.unlink()
        raise
    finally:
        os.close(fd)


def path_of(directory: Path, master_pid: int) -> Path:
    """Where a master's scoreboard is."""
    return directory / f"scoreboard.{master_pid}"


def find(directory: Path) -> Scoreboard:
    """The scoreboard of the pod that runs in a directory, the newest master's.

    Raises:
        ScoreboardError: No pod runs there.
    """
    boards = living(directory)
    if not boards:
        raise ScoreboardError(f"no running pod in {directory}{_why_none(directory)}")
    return boards[-1]


def living(directory: Path) -> list[Scoreboard]:
    """The scoreboards of all masters that run in a directory, the newest last.

    There is one, or while a server is upgraded in place, two.
    """
    boards = [board for board in _boards(directory) if board.master_lives]
    return sorted(boards, key=lambda board: board.master[1])


def sweep(directory: Path) -> None:
    """Removes the scoreboards of masters that are gone."""
    for path in _paths(directory):
        try:
            gone = not Scoreboard.open(path).master_lives
        except ScoreboardError:  # of another version: only its name tells whose it is
            gone = process_start(int(path.suffix[1:])) == 0
        if gone:
            path.unlink(missing_ok=True)


def _why_none(directory: Path) -> str:
    """What stands in the place of a pod that was looked for and not found."""
    try:
        os.listdir(directory)  # noqa: PTH208 - a glob does not say what it may not read
        path = max(_paths(directory), key=lambda path: path.stat().st_mtime, default=None)
        if path is None:
            return ""
        pid, _ = Scoreboard.open(path).master
    except OSError as error:
        return f": {error.strerror}"
    except ScoreboardError as error:
        return f": {error}"
    return f": the master of {path.name}, process {pid}, is gone"


def _boards(directory: Path) -> Iterator[Scoreboard]:
    for path in _paths(directory):
        with suppress(ScoreboardError):
            yield Scoreboard.open(path)


def _paths(directory: Path) -> list[Path]:
    try:
        found = list(directory.glob("scoreboard.*"))
    except PermissionError:  # of a directory above it; of its own a glob says nothing
        return []
    return [path for path in found if _MASTER.fullmatch(path.suffix)]
