"""Who counts into which files, when processes come, fork, die and find the disk full."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, values
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from service.metrics import Format, MultiprocessReader, prepare, slots, take_slot, writer
from service.metrics.files import DamagedError, MetricFile, reserve

REPOSITORY = Path(__file__).parents[2]
DEADLINE = 60

TAKE = """
import sys
from pathlib import Path
from service.metrics import take_slot
from prometheus_client import Counter, Gauge
slot = take_slot(Path(sys.argv[1]))
slot.use()
Counter("taken", "Slots", registry=None).inc()
Gauge("busy", "In flight", multiprocess_mode="livesum", registry=None).inc()
print(slot.number, flush=True)
sys.stdin.read()
"""


class Worker:
    """A process that takes a slot, counts once and waits to be ended."""

    def __init__(self, directory):
        self.process = python(TAKE, directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    @property
    def slot(self):
        return int(self.process.stdout.readline())

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.end()

    def end(self):
        self.process.communicate(timeout=DEADLINE)


def python(script, directory, *, under=(), **options):
    command = [*under, sys.executable, "-c", script, str(directory)]
    return subprocess.Popen(command, cwd=REPOSITORY, text=True, **options)


def output(script, directory, *, under=()):
    process = python(script, directory, under=under, stdout=subprocess.PIPE)
    try:
        text, _ = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    assert process.returncode == 0
    return text.splitlines()


@pytest.fixture
def start(tmp_path):
    workers = []

    def start(directory=tmp_path):
        workers.append(Worker(directory))
        return workers[-1]

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.end()


@pytest.fixture(autouse=True)
def own_values(monkeypatch):
    """What a test installs in this process ends with it."""
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    monkeypatch.setattr(slots, "_taken", {})
    yield
    writer.WRITER.move(None)


def shown(directory):
    lines = MultiprocessReader(directory).render(Format.TEXT).splitlines()
    return dict(line.split(" ") for line in lines if line[0] != "#")


# -- slots


def test_processes_that_race_get_slots_of_their_own(tmp_path, start):
    workers = [start() for _ in range(6)]
    assert sorted(worker.slot for worker in workers) == list(range(6))
    assert shown(tmp_path) == {"taken_total": "6.0", "busy": "6.0"}


def test_a_killed_process_leaves_its_slot_and_its_counters_to_the_next(tmp_path, start):
    first, second = start(), start()
    assert sorted((first.slot, second.slot)) == [0, 1]
    first.kill()
    assert shown(tmp_path) == {"taken_total": "2.0", "busy": "2.0"}
    third = start()
    assert third.slot in (0, 1)
    assert shown(tmp_path) == {"taken_total": "3.0", "busy": "2.0"}
    assert len(list(tmp_path.glob("counter_*.db"))) == 2


def test_asked_again_a_process_keeps_its_slot(tmp_path):
    slot = take_slot(tmp_path)
    assert take_slot(tmp_path / ".") is slot
    assert (slot.number, slot.owner, slot.shared, slot.held) == (0, os.getpid(), True, True)


def test_a_slot_in_an_emptied_directory_is_lost_and_writes_no_more_files(tmp_path, start):
    slot = take_slot(tmp_path)
    slot.use()
    counter = Counter("before", "Help", registry=None)
    for path in tmp_path.iterdir():
        path.unlink()
    other = start()
    assert other.slot == 0
    gauge = Gauge("after", "Help", multiprocess_mode="max", registry=None)
    counter.inc()
    gauge.set(3)
    assert gauge._value.get() == 3.0
    assert shown(tmp_path) == {"taken_total": "1.0", "busy": "1.0"}
    assert not slot.held
    assert take_slot(tmp_path).number == 1


def test_a_forked_child_counts_for_itself(tmp_path):
    fork = """
import os, sys, threading
from pathlib import Path
from prometheus_client import Counter
from service.metrics import take_slot, writer
slot = take_slot(Path(sys.argv[1]))
slot.use()
counter = Counter("forks", "Help", registry=None)
counter.inc(10)
counting, done = threading.Event(), threading.Event()
def count():
    with writer.WRITER.lock:
        counting.set()
        done.wait()
thread = threading.Thread(target=count)
thread.start()
counting.wait()
child = os.fork()
if child == 0:
    counter.inc()
    print(slot.identity == f"p{os.getpid()}", counter._value.get(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
done.set()
thread.join()
counter.inc()
print(slot.identity, slot.held, counter._value.get(), flush=True)
"""
    assert output(fork, tmp_path) == ["True 1.0", "0 True 11.0"]
    assert shown(tmp_path) == {"forks_total": "12.0"}


def test_a_child_does_not_keep_the_slot_of_a_dead_parent(tmp_path, start):
    fork = """
import os, sys
from pathlib import Path
from service.metrics import take_slot
take_slot(Path(sys.argv[1]))
held, release = os.pipe()
if os.fork() == 0:
    os.close(1)
    sys.stdin.read()
    os._exit(0)
print("forked", flush=True)
os.kill(os.getpid(), 9)
"""
    parent = python(fork, tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout.readline() == "forked\n"
    parent.wait(DEADLINE)
    assert start().slot == 0
    parent.communicate(timeout=DEADLINE)


# -- what a predecessor left


LEFT = mmap_key("left", "left_total", [], [], "Help")


def client_file(path, key=LEFT):
    file = MmapedDict(str(path))
    file.write_value(key, 1.0, 0.0)
    file.close()


def test_live_gauges_of_the_predecessor_vanish_and_other_files_stay(tmp_path):
    for name in ("gauge_livesum_0", "gauge_liveall_0", "gauge_max_0", "summary_0", "counter_0"):
        client_file(tmp_path / f"{name}.db")
    client_file(tmp_path / "gauge_livesum_1.db")
    take_slot(tmp_path)
    assert {path.stem for path in tmp_path.glob("*.db")} == {
        "counter_0",
        "gauge_livesum_1",
        "gauge_max_0",
        "histogram_0",
        "summary_0",
    }


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: os.truncate(path, 0), id="empty"),
        pytest.param(lambda path: os.truncate(path, 30), id="cut short"),
        pytest.param(lambda path: path.write_bytes(b"\xff" * 65536), id="garbage"),
        pytest.param(lambda path: path.write_bytes(b"\x10\0\0\0\0\0\0\0" * 9), id="bad entry"),
        pytest.param(lambda path: client_file(path, key="[]"), id="bad key"),
    ],
)
def test_a_broken_file_is_put_away_and_counted(tmp_path, damage):
    client_file(tmp_path / "counter_0.db")
    client_file(tmp_path / "summary_0.db")
    damage(tmp_path / "counter_0.db")
    slot = take_slot(tmp_path)
    assert (slot.number, slot.shared, slot.quarantined) == (0, True, 1)
    slot.use()
    Counter("after", "Help", registry=None).inc()
    assert shown(tmp_path) == {"after_total": "1.0", "left_total": "1.0"}
    reader = MultiprocessReader(tmp_path)
    reader.render(Format.TEXT)
    assert reader.damaged == 1
    prepare(tmp_path, fresh=True)
    reader.render(Format.TEXT)
    assert reader.damaged == 0


@pytest.mark.parametrize(
    "content", [b"\xff" * 64, b"\x05" + bytes(63), b"\x40\1" + bytes(62), b"\x20" + bytes(63)]
)
def test_nobody_writes_into_a_broken_file(tmp_path, content):
    (tmp_path / "counter_0.db").write_bytes(content)
    with pytest.raises(DamagedError):
        MetricFile(tmp_path / "counter_0.db")


def test_prepare_empties_at_a_fresh_start_only(tmp_path):
    directory = tmp_path / "run" / "metrics"
    prepare(directory, fresh=True)
    assert directory.stat().st_mode & 0o777 == 0o700
    client_file(directory / "counter_0.db")
    (directory / "counter_1.db.new").touch()
    prepare(directory, fresh=False)
    assert shown(directory) == {"left_total": "1.0"}
    prepare(directory, fresh=True)
    assert list(directory.iterdir()) == []


# -- what is written


def metrics_of_an_application():
    registry = CollectorRegistry()
    counter = Counter("sales", 'Of "all"', ["shop"], registry=registry)
    counter.labels("here\n").inc(2)
    summary = Summary("size_bytes", "Help", registry=registry)
    summary.observe(5)
    histogram = Histogram("wait_seconds", "Help", ["shop"], registry=registry)
    for seconds in (0.001, 0.3, 99):
        histogram.labels("there").observe(seconds)
    newest = Gauge("newest", "Help", multiprocess_mode="mostrecent", registry=registry)
    newest.set(4)
    lowest = Gauge("lowest", "Help", multiprocess_mode="min", registry=registry)
    lowest.dec(3)
    return counter


def test_any_metric_of_the_application_lands_in_the_slot(tmp_path):
    slot = take_slot(tmp_path)
    slot.use()
    metrics_of_an_application()
    found = shown(tmp_path)
    assert found['sales_total{shop="here\\n"}'] == "2.0"
    assert found["size_bytes_sum"] == "5.0"
    assert found['wait_seconds_bucket{le="0.5",shop="there"}'] == "2.0"
    assert found['wait_seconds_count{shop="there"}'] == "3.0"
    assert (found["newest"], found["lowest"]) == ("4.0", "-3.0")
    assert {path.name for path in tmp_path.glob("*.db")} == {
        slot.path(kind).name
        for kind in ("counter", "summary", "histogram", "gauge_mostrecent", "gauge_min")
    }


def test_the_client_reads_and_continues_what_is_written(tmp_path):
    take_slot(tmp_path).use()
    counter = metrics_of_an_application()
    for number in range(800):
        counter.labels(f"{number:0100}").inc(number)
    theirs = MmapedDict(str(tmp_path / "counter_0.db"))
    key = mmap_key("sales", "sales_total", ["shop"], [f"{799:0100}"], 'Of "all"')
    assert theirs.read_value(key) == (799.0, 0.0)
    theirs.write_value(key, 800.0, 0.0)
    theirs.close()
    assert counter.labels(f"{799:0100}")._value.get() == 800.0
    assert len(shown(tmp_path)) > 800


def test_two_numbers_of_one_name_are_one_number(tmp_path):
    take_slot(tmp_path).use()
    one, two = (Counter("twins", "Help", registry=None) for _ in range(2))
    one.inc()
    two.inc()
    one.inc()
    assert shown(tmp_path) == {"twins_total": "3.0"}


# -- no room


def full(path, _size):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_without_room_a_process_counts_in_memory(tmp_path):
    slot = take_slot(tmp_path, reserve=full)
    assert (slot.number, slot.shared) == (0, False)
    slot.use()
    counter = metrics_of_an_application()
    assert counter.labels("here\n")._value.get() == 2.0
    assert shown(tmp_path) == {}


def test_without_a_directory_a_process_counts_in_memory(tmp_path):
    slot = take_slot(tmp_path / "missing")
    assert (slot.number, slot.shared, slot.held) == (None, False, False)
    slot.use()
    metrics_of_an_application()


def test_a_reservation_that_fails_leaves_nothing_behind(tmp_path):
    with pytest.raises(OSError, match="large"):
        reserve(tmp_path / "counter_0.db", 2**62)
    assert list(tmp_path.iterdir()) == []


def may_mount():
    try:
        trial = subprocess.run(
            ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"],
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
    except OSError:
        return False
    return trial.returncode == 0


# In a mount namespace of its own, so that nothing is left of it whatever happens.
ON_TMPFS = 'mount -t tmpfs -o size="$0" tmpfs "$1" && shift && exec "$@"'


@pytest.mark.parametrize(
    ("size", "shared"),
    [
        pytest.param("96k", "False", id="full at the start"),
        pytest.param("256k", "True", id="full later"),
    ],
)
def test_a_full_file_system_kills_nobody(tmp_path, size, shared):
    if not may_mount():
        pytest.skip("only root may mount a small file system")
    fill = """
import sys
from pathlib import Path
from prometheus_client import Counter, Gauge
from service.metrics import Format, MultiprocessReader, take_slot
directory = Path(sys.argv[1])
slot = take_slot(directory)
slot.use()
many = Counter("many", "Help", ["which"], registry=None)
for number in range(4000):
    many.labels(f"{number:0100}").inc()
Gauge("late", "Help", multiprocess_mode="max", registry=None).set(1)
text = MultiprocessReader(directory).render(Format.TEXT)
known = sum(line.startswith("many_total{") for line in text.splitlines())
print(slot.shared, 0 <= known < 4000, file=sys.stderr)
"""
    under = ["unshare", "--mount", "sh", "-c", ON_TMPFS, size, str(tmp_path)]
    with python(fill, tmp_path, under=under, stderr=subprocess.PIPE) as process:
        _, text = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert text.splitlines()[-1] == f"{shared} True"
