"""The incremental reader against prometheus_client's own collector, over many histories."""

import math
import os
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from service.metrics import Format, MultiprocessReader
from service.metrics import reader as reader_module
from service.metrics import series as series_module

HELP = {
    "requests": 'Counts "all" of them\\ever\nand a day',
    "größe.bytes": "A name that only UTF-8 knows",
    **{f"level_{mode}": f"A level, {mode}" for mode in Gauge._MULTIPROC_MODES},
}
PROCESSES = st.sampled_from(("0", "1", "2", "p77"))
WORDS = st.sampled_from(
    ("", "a", "b c", 'q"uote', "back\\slash", "line\nbreak", "ü€", "{}", "a=b,")
)
BOUNDS = st.sampled_from(("0.005", "0.5", "1.0", "10.0", "+Inf"))
COUNTS = st.one_of(
    st.integers(0, 10**9).map(float), st.sampled_from((0.1, 1 / 3, 1e300, math.inf, 12345678.9))
)
LEVELS = st.one_of(
    st.integers(-(10**6), 10**6).map(float),
    st.sampled_from((0.5, -0.25, 1e300, math.inf, -math.inf, -0.0, math.nan)),
)
STAMPS = st.sampled_from((0.0, 1.0, 2.0, 1.7e9, 1.8e9))


class Process:
    """Writes metric files as the client does."""

    def __init__(self, directory, identity):
        self.directory = Path(directory)
        self.identity = identity
        self.files = {}

    def path(self, kind):
        return self.directory / f"{kind}_{self.identity}.db"

    def write(self, kind, metric, sample, labels, value, stamp=0.0, meaning=None):
        if kind not in self.files:
            self.files[kind] = MmapedDict(str(self.path(kind)))
        meaning = meaning or HELP.get(metric, "Help")
        key = mmap_key(metric, sample, list(labels), list(labels.values()), meaning)
        self.files[kind].write_value(key, value, stamp)

    def remove(self, kind):
        if kind in self.files:
            self.files.pop(kind).close()
        self.path(kind).unlink(missing_ok=True)

    def stop(self):
        for file in self.files.values():
            file.close()
        self.files.clear()


@pytest.fixture
def process(tmp_path):
    """Makes processes that write into the test's directory."""
    made = []

    def make(identity):
        made.append(Process(tmp_path, identity))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def vanilla(directory, render=generate_latest):
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))
    return render(registry).decode().removesuffix("# EOF\n")


def same_lines(one, other):
    """Sorted lines, equal but for the last digits of a sum and the sign of a zero."""
    mine, theirs = sorted(one.splitlines()), sorted(other.splitlines())
    assert [line if line[0] == "#" else line.rpartition(" ")[0] for line in mine] == [
        line if line[0] == "#" else line.rpartition(" ")[0] for line in theirs
    ]
    for line, reference in zip(mine, theirs, strict=True):
        if line != reference:
            value, wanted = (float(text.rpartition(" ")[2]) for text in (line, reference))
            assert math.isclose(value, wanted, rel_tol=1e-12), (line, reference)


class Histories(RuleBasedStateMachine):
    """Processes write, grow, die, come again; one reader looks on from beginning to end."""

    def __init__(self):
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.directory = Path(self.home.name)
        self.processes = {name: Process(self.directory, name) for name in ("0", "1", "2", "p77")}
        self.reader = MultiprocessReader(self.directory)

    @rule(who=PROCESSES, label=WORDS, value=COUNTS, other=st.booleans())
    def count(self, who, label, value, other):
        metric = "größe.bytes" if other else "requests"
        labels = {"path": label, "pid": "x"} if other else {"path": label}
        self.processes[who].write("counter", metric, f"{metric}_total", labels, value)

    @rule(who=PROCESSES, label=WORDS, value=COUNTS)
    def summarise(self, who, label, value):
        for sample in ("size_count", "size_sum"):
            self.processes[who].write("summary", "size", sample, {"zone": label}, value)

    @rule(who=PROCESSES, label=WORDS, values=st.dictionaries(BOUNDS, COUNTS), total=COUNTS)
    def observe(self, who, label, values, total):
        self.processes[who].write("histogram", "wait", "wait_sum", {"path": label}, total)
        for bound, value in values.items():
            labels = {"path": label, "le": bound}
            self.processes[who].write("histogram", "wait", "wait_bucket", labels, value)

    @rule(
        who=PROCESSES,
        mode=st.sampled_from(sorted(Gauge._MULTIPROC_MODES)),
        labels=st.dictionaries(st.sampled_from(("zone", "pid")), WORDS),
        value=LEVELS,
        stamp=STAMPS,
    )
    def level(self, who, mode, labels, value, stamp):
        if mode.endswith("sum") and abs(value) > 1e6:
            value = 0.5  # a sum of huge numbers depends on its order
        if mode.endswith("all"):
            labels.pop("pid", None)  # the client shows such a series twice
        self.processes[who].write(
            f"gauge_{mode}", f"level_{mode}", f"level_{mode}", labels, value, stamp
        )

    @rule(who=PROCESSES)
    def grow_beyond_the_first_mapping(self, who):
        for number in range(500):
            labels = {"path": f"{number:0100}"}
            self.processes[who].write("counter", "requests", "requests_total", labels, number)

    @rule(who=PROCESSES, kind=st.sampled_from(("counter", "histogram", "summary", "gauge_livesum")))
    def remove(self, who, kind):
        self.processes[who].remove(kind)

    @rule(who=PROCESSES)
    def make_again(self, who):
        for kind, metric in (("counter", "requests"), ("gauge_livemax", "level_livemax")):
            self.processes[who].remove(kind)
            self.processes[who].write(kind, metric, metric, {"path": f"again {who}"}, 1.0)

    @rule(who=PROCESSES)
    def die(self, who):
        self.processes[who].stop()
        mark_process_dead(who, str(self.directory))

    @invariant()
    def agrees(self):
        same_lines(self.reader.render(Format.TEXT), vanilla(self.directory))

    def teardown(self):
        same_lines(
            self.reader.render(Format.OPENMETRICS), vanilla(self.directory, generate_openmetrics)
        )
        assert self.reader.damaged == 0
        for process in self.processes.values():
            process.stop()
        self.home.cleanup()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


# -- the traps, each by itself


def test_sums_are_added_as_the_client_adds(tmp_path, process):
    for identity in range(10):
        one = process(str(identity))
        one.write("counter", "requests", "requests_total", {}, 0.1)
        one.write("counter", "requests", "requests_total", {"path": "big"}, 1e16 + 2 * identity)
    text = MultiprocessReader(tmp_path).render(Format.TEXT)
    assert sorted(text.splitlines()) == sorted(vanilla(tmp_path).splitlines())
    assert "requests_total 0.9999999999999999\n" in text


def test_a_removed_file_takes_its_series_and_its_head_along(tmp_path, process):
    reader = MultiprocessReader(tmp_path)
    stays, goes = process("0"), process("1")
    for one in (stays, goes):
        one.write("counter", "requests", "requests_total", {"by": one.identity}, 1.0)
    goes.write("gauge_livesum", "level_livesum", "level_livesum", {}, 3.0)
    assert "level_livesum 3.0" in reader.render(Format.TEXT)
    goes.stop()
    mark_process_dead("1", str(tmp_path))
    assert "level_livesum" not in reader.render(Format.TEXT)
    goes.remove("counter")
    assert 'by="1"' not in reader.render(Format.TEXT)
    stays.remove("counter")
    assert reader.render(Format.TEXT) == ""


def test_a_file_made_again_is_another_file(tmp_path, process):
    reader = MultiprocessReader(tmp_path)
    one = process("0")
    one.write("counter", "requests", "requests_total", {"path": "old"}, 5.0)
    reader.render(Format.TEXT)
    one.remove("counter")
    one.write("counter", "requests", "requests_total", {"path": "new"}, 7.0)
    text = reader.render(Format.TEXT)
    assert 'requests_total{path="new"} 7.0' in text
    assert "old" not in text


def test_growth_beyond_the_first_mapping_is_followed(tmp_path, process):
    reader = MultiprocessReader(tmp_path)
    one = process("0")
    for number in range(1500):
        one.write("counter", "requests", "requests_total", {"path": f"{number:060}"}, number)
        if number % 300 == 0:
            same_lines(reader.render(Format.TEXT), vanilla(tmp_path))
    assert one.path("counter").stat().st_size > 64 * 1024
    same_lines(reader.render(Format.TEXT), vanilla(tmp_path))


def test_what_was_never_set_is_absent_and_not_0(tmp_path, process):
    reader = MultiprocessReader(tmp_path)
    for identity in "01":
        one = process(identity)
        one.write("gauge_mostrecent", "level_mostrecent", "level_mostrecent", {}, 0.0)
        one.write("gauge_mostrecent", "level_mostrecent", "level_mostrecent", {"a": "b"}, 0.0)
    assert "\nlevel_mostrecent" not in reader.render(Format.TEXT)
    one.write("gauge_mostrecent", "level_mostrecent", "level_mostrecent", {"a": "b"}, -1.0, 1.7e9)
    text = reader.render(Format.TEXT)
    assert 'level_mostrecent{a="b"} -1.0' in text
    assert "level_mostrecent 0.0" not in text


def test_a_zero_is_never_printed_as_minus_zero(tmp_path, process):
    series_module._ends.clear()  # to it both zeros are one
    one = process("0")
    one.write("gauge_min", "level_min", "level_min", {}, -0.0)
    one.write("counter", "requests", "requests_total", {}, 0.0)
    text = MultiprocessReader(tmp_path).render(Format.TEXT)
    assert "level_min 0.0\n" in text
    assert "requests_total 0.0\n" in text


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 11, 16, 23])
def test_numbers_are_added_one_after_the_other_however_many_there_are(count):
    rows = [[0.1 * (number + 1) ** 3, 1e16 / (number + 1), -0.0] for number in range(count)]
    one_by_one = list(rows[0])
    for row in rows[1:]:
        one_by_one = [total + value for total, value in zip(one_by_one, row, strict=True)]
    assert list(reader_module._added(rows)) == one_by_one


# -- files in any state


def int32(number):
    return struct.pack("i", number)


def cut(size):
    return lambda path: os.truncate(path, size)


def overwrite(at, content):
    def damage(path):
        with path.open("r+b") as file:
            file.seek(at)
            file.write(content)

    return damage


# What becomes of the file's end, and how many of its two series are still good.
CUT_SHORT = [
    pytest.param(cut(0), 0, id="empty"),
    pytest.param(cut(3), 0, id="no header"),
    pytest.param(cut(8), 0, id="header only"),
    pytest.param(cut(100), 0, id="cut inside the first entry"),
    pytest.param(cut(150), 1, id="cut inside the second entry"),
    pytest.param(overwrite(0, int32(2**31 - 1)), 2, id="claims 2 GiB"),
    pytest.param(overwrite(0, int32(-5)), 2, id="claims less than nothing"),
    pytest.param(overwrite(0, int32(100)), 0, id="claims to end inside an entry"),
]
KEYS = [
    pytest.param(overwrite(8, int32(2**31 - 1)), 0, id="too long"),
    pytest.param(overwrite(8, int32(-8)), 0, id="negative length"),
    pytest.param(overwrite(12, b"\xff\xfe"), 0, id="not UTF-8"),
    pytest.param(overwrite(12, b"{{{{"), 0, id="not JSON"),
    pytest.param(overwrite(12, b'[["requ'), 0, id="other JSON"),
]


@pytest.fixture
def broken(process):
    """A file of two series beside a whole one."""
    whole, broken = process("0"), process("1")
    whole.write("counter", "requests", "requests_total", {"path": "/whole"}, 1.0)
    for path in ("/1", "/2"):
        broken.write("counter", "requests", "requests_total", {"path": path}, 1.0)
    broken.stop()
    return broken.path("counter")


def series(reader):
    return [line for line in reader.render(Format.TEXT).splitlines() if line[0] != "#"]


@pytest.mark.parametrize(("damage", "good"), CUT_SHORT + KEYS)
def test_a_damaged_file_costs_its_bad_part_only(tmp_path, broken, damage, good):
    reader = MultiprocessReader(tmp_path)
    damage(broken)
    found = series(reader)
    assert 'requests_total{path="/whole"} 1.0' in found
    assert len(found) == 1 + good
    assert reader.damaged == 1


@pytest.mark.parametrize(("damage", "good"), CUT_SHORT)
def test_a_file_damaged_while_it_is_known_kills_no_reader(tmp_path, broken, damage, good):
    reader = MultiprocessReader(tmp_path)
    kept = broken.read_bytes()
    assert len(series(reader)) == 3
    damage(broken)
    assert len(series(reader)) == 1 + good
    assert reader.damaged == 1
    broken.write_bytes(kept)
    same_lines(reader.render(Format.TEXT), vanilla(tmp_path))
    assert reader.damaged == 0


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("[1, 2, 3, 4]", id="numbers"),
        pytest.param("[" * 100_000, id="deep"),
        pytest.param('["m", "m", {}]', id="three parts"),
        pytest.param('["m", "m", [], ""]', id="labels in a list"),
        pytest.param('["m", "m", {"a": 1}, ""]', id="label of a number"),
        pytest.param('["", "m", {}, ""]', id="no name"),
        pytest.param('["m", "m\\n", {}, ""]', id="name with a line break"),
        pytest.param('["m", "m", {"a\\n": "b"}, ""]', id="label name with a line break"),
        pytest.param('["m", "m", {"": "b"}, ""]', id="label without a name"),
        pytest.param('["m", "m_bucket", {"le": "x"}, ""]', id="bucket without a bound"),
        pytest.param('["m", "m_bucket", {"le": "nan"}, ""]', id="bucket that ends nowhere"),
    ],
)
def test_a_key_that_names_no_series_ends_the_file(tmp_path, process, key):
    one = process("0")
    one.write("histogram", "wait", "wait_sum", {}, 2.0)
    one.files["histogram"].write_value(key, 1.0, 0.0)
    reader = MultiprocessReader(tmp_path)
    assert series(reader) == ["wait_sum 2.0"]
    assert reader.damaged == 1


def test_files_of_others_and_unused_ones_say_nothing(tmp_path, process):
    process("0").write("counter", "requests", "requests_total", {}, 1.0)
    (tmp_path / "counter_1.db").write_bytes(bytes(65536))
    (tmp_path / "notes.db").write_bytes(b"text")
    (tmp_path / "gauge_sometimes_1.db").write_bytes(b"text")
    (tmp_path / "slot0.lock").touch()
    reader = MultiprocessReader(tmp_path)
    assert series(reader) == ["requests_total 1.0"]
    assert reader.damaged == 0
    (tmp_path / "counter_2.db.corrupt").touch()
    reader.render(Format.TEXT)
    assert reader.damaged == 1


def test_a_directory_may_vanish_and_come_again(tmp_path):
    directory = tmp_path / "away"
    reader = MultiprocessReader(directory)
    assert reader.render(Format.TEXT) == ""
    for _ in range(2):
        directory.mkdir()
        one = Process(directory, "0")
        one.write("counter", "requests", "requests_total", {}, 1.0)
        one.stop()
        assert series(reader) == ["requests_total 1.0"]
        one.path("counter").unlink()
        directory.rmdir()
        assert reader.render(Format.TEXT) == ""


def test_an_unreadable_file_is_counted(tmp_path, process):
    process("0").write("counter", "requests", "requests_total", {}, 1.0)
    (tmp_path / "counter_1.db").symlink_to("counter_1.db")
    reader = MultiprocessReader(tmp_path)
    assert series(reader) == ["requests_total 1.0"]
    assert reader.damaged == 1


# -- files that are torn or empty, and what happens during the read


def whole_entries(path):
    """Key, value and stamp of each entry that lies in a file as a whole."""
    data = path.read_bytes()
    used = struct.unpack_from("i", data)[0] if len(data) >= 8 else 0
    at, end = 8, min(used, len(data))
    while at + 4 <= end:
        size = struct.unpack_from("i", data, at)[0]
        number = at + 4 + size + (8 - (size + 4) % 8)
        if number + 16 > end:
            return
        yield data[at + 4 : at + 4 + size].decode(), *struct.unpack_from("dd", data, number)
        at = number + 16


def vanilla_of_the_good_parts(directory):
    """What the client says of the same files, had they ended before what is broken."""
    with tempfile.TemporaryDirectory() as clean:
        for path in directory.glob("*.db"):
            file = MmapedDict(str(Path(clean) / path.name))
            for entry in whole_entries(path):
                file.write_value(*entry)
            file.close()
        return vanilla(clean)


class Restless(MultiprocessReader):
    """A reader during whose reading something happens: once between listing and opening."""

    def __init__(self, directory):
        super().__init__(directory)
        self.meanwhile = lambda: None

    def _inodes(self):
        listed = super()._inodes()
        happens, self.meanwhile = self.meanwhile, lambda: None
        happens()
        return listed


KINDS = ("counter", "histogram", "summary", "gauge_max", "gauge_livesum", "gauge_all")
FRESH_BYTES = 65536  # of a file the client has just made
HAPPENINGS = st.sampled_from(("vanish", "empty", "tear", "grow", "appear", "again"))


class Restlessness(RuleBasedStateMachine):
    """As above; files are torn and emptied too, before a read and during it."""

    def __init__(self):
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        self.directory = Path(self.home.name)
        self.processes = {name: Process(self.directory, name) for name in ("0", "1", "p77")}
        self.reader = Restless(self.directory)

    def write(self, who, kind, label, value):
        """One more number; a file that was cut is put away first, as a process of ours would."""
        one = self.processes[who]
        path = one.path(kind)
        if path.exists() and 0 < path.stat().st_size < FRESH_BYTES:
            one.remove(kind)
        metric = kind.replace("gauge_", "level_")
        sample = {"counter": f"{metric}_total", "histogram": f"{metric}_sum"}.get(kind, metric)
        one.write(kind, metric, sample, {"path": label}, value, 1.0)
        one.stop()

    def happen(self, what, who, kind, size):
        one = self.processes[who]
        path = one.path(kind)
        if what in ("grow", "appear", "again"):
            if what == "again":
                one.remove(kind)
            self.write(who, kind, what, float(size))
        elif path.exists():
            if what == "vanish":
                path.unlink()
            else:
                os.truncate(path, 0 if what == "empty" else min(size, path.stat().st_size))

    @rule(
        who=st.sampled_from(("0", "1", "p77")),
        kind=st.sampled_from(KINDS),
        label=WORDS,
        value=st.integers(0, 10**6).map(float),
    )
    def count(self, who, kind, label, value):
        self.write(who, kind, label, value)

    @rule(
        what=HAPPENINGS,
        who=st.sampled_from(("0", "1", "p77")),
        kind=st.sampled_from(KINDS),
        size=st.integers(0, 700),
    )
    def before_a_read(self, what, who, kind, size):
        self.happen(what, who, kind, size)

    @rule(
        what=HAPPENINGS,
        who=st.sampled_from(("0", "1", "p77")),
        kind=st.sampled_from(KINDS),
        size=st.integers(0, 700),
    )
    def during_a_read(self, what, who, kind, size):
        self.reader.meanwhile = lambda: self.happen(what, who, kind, size)
        self.reader.render(Format.TEXT)

    @invariant()
    def agrees(self):
        same_lines(self.reader.render(Format.TEXT), vanilla_of_the_good_parts(self.directory))

    def teardown(self):
        self.home.cleanup()


TestRestlessness = Restlessness.TestCase
TestRestlessness.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


# -- what is printed


def test_a_name_is_never_shown_twice_whatever_the_releases_say(tmp_path, process):
    old, new = process("0"), process("1")
    for one, meaning in ((old, "Old help"), (new, "New help")):
        one.write("gauge_max", "speed", "speed", {"a": "b"}, 1.0, meaning=meaning)
    new.write("counter", "speed", "speed", {"a": "b"}, 1.0)
    new.write("gauge_livesum", "speed", "speed", {"a": "b"}, 1.0)
    text = MultiprocessReader(tmp_path).render(Format.TEXT)
    assert len(text.splitlines()) == 3
    assert text.count("# HELP") == 1


def test_half_a_character_in_a_label_stops_nothing(tmp_path, process):
    process("0").write("counter", "requests", "requests_total", {"path": "\udce4"}, 1.0)
    assert len(series(MultiprocessReader(tmp_path))) == 1


@pytest.fixture
def shop(tmp_path, process):
    one = process("0")
    one.write("counter", "requests", "requests_total", {}, 1.0)
    one.write("gauge_max", "level_max", "level_max", {}, 2.0)
    one.write("histogram", "wait", "wait_sum", {}, 0.5)
    for bound in ("1.0", "+Inf"):
        one.write("histogram", "wait", "wait_bucket", {"le": bound}, 1.0)
    return MultiprocessReader(tmp_path)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ((), {"requests_total", "level_max", "wait_sum", "wait_bucket", "wait_count"}),
        (("requests",), {"requests_total"}),
        (("requests_total",), {"requests_total"}),
        (("wait",), {"wait_sum", "wait_bucket", "wait_count"}),
        (("wait_count", "level_max"), {"wait_count", "level_max"}),
        (("nobody",), set()),
    ],
)
@pytest.mark.parametrize("form", [Format.TEXT, Format.OPENMETRICS])
def test_only_what_is_named_is_shown(shop, names, shown, form):
    text = shop.render(form, names=names)
    lines = [line for line in text.splitlines() if line[0] != "#"]
    assert {line.partition(" ")[0].partition("{")[0] for line in lines} == shown
    assert ("# TYPE" in text) is bool(shown)


def test_metrics_can_be_left_out(shop):
    text = shop.render(Format.TEXT, without={"wait", "requests"})
    assert text.splitlines()[2:] == ["level_max 2.0"]


def test_a_histogram_is_printed_in_order(shop):
    text = shop.render(Format.OPENMETRICS, names={"wait"})
    assert text.splitlines()[2:] == [
        "wait_sum 0.5",
        'wait_bucket{le="1.0"} 1.0',
        'wait_bucket{le="+Inf"} 2.0',
        "wait_count 2.0",
    ]
