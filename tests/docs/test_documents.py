"""What the documents say is so: tables, examples, commands, names and links."""

import ast
import importlib
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import endpoints_doc
import operations_doc
import settings_doc
from document_blocks import filled
from health_contract import METRICS, TEXT_FORMAT, violations

from service import __main__ as command_line
from service import advice, settings
from service.checks import definitions
from service.health import CODES, Status
from service.metrics.exposition import GAUGES, TRUSTED
from service.settings import CHECKS, PROVIDERS, Settings, SettingsError
from service.web.endpoints import ENDPOINTS, FLEET, INDEX, OPENAPI, PAGE, PREFIX, TWINS
from service.web.front import HEADERS

ROOT = Path(__file__).resolve().parents[2]
README, CHANGELOG = ROOT / "README.md", ROOT / "CHANGELOG.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
DOCUMENTS = [README, CHANGELOG, *sorted((ROOT / "docs").glob("*.md"))]
VARIABLES = {name for field in Settings.model_fields for name in settings.variables(field)}


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def section(document: str, heading: str) -> str:
    """From a heading to the next one of its level or above."""
    level = heading.count("#")
    after = document.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"(?m)^#{{1,{level}}} ", after, maxsplit=1)[0]


def rows(text: str, *head: str) -> list[list[str]]:
    """The cells of the first table with such a head."""
    lines = text.splitlines()
    start = lines.index(f"| {' | '.join(head)} |") + 2
    found = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


def ticked(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", text)


def fences(text: str, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```", text)


def without_fences(text: str) -> str:
    return re.sub(r"(?ms)^```.*?^```", "", text)


# --- what is made ---


MAKERS = [settings_doc, endpoints_doc, operations_doc]


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_the_made_parts_are_fresh(maker: Any) -> None:
    document = read(maker.DOCUMENT)
    command = f"python scripts/{maker.__name__}.py --write"
    assert filled(document, maker.blocks()) == document, f"stale: {command}"


def test_a_block_that_nobody_makes_is_refused() -> None:
    with pytest.raises(ValueError, match="settings: Nothing"):
        filled("<!-- settings: Nothing -->\n<!-- end -->\n", {})
    with pytest.raises(ValueError, match="settings: Redis"):
        filled("", {"settings: Redis": ""})


# --- settings ---


def test_every_setting_is_in_a_section() -> None:
    listed = [field for fields in settings_doc.sections().values() for field in fields]
    assert listed == list(Settings.model_fields)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_variable_that_is_named_exists(path: Path) -> None:
    """Every name that begins like one of ours."""
    words = {name.partition("_")[0] for name in VARIABLES if "_" in name}
    named = re.findall(r"(?<![\w./-])([A-Z][A-Z0-9]*)((?:_[A-Z0-9]+)+)(?![\w.(-])", read(path))
    files = {
        f"{name}_FILE"
        for field in Settings.model_fields
        if settings.is_secret(field)
        for name in settings.variables(field)
    }
    ours = {first + rest for first, rest in named if first in words}
    assert ours - VARIABLES - files - {"HEALTH_BASE_URL"} == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_number_behind_a_variable_is_its_default(path: Path) -> None:
    for name, value in re.findall(r"`([A-Z_]+)`\s\(`?([\w,.]+)`?\)", read(path)):
        fields = [field for field in Settings.model_fields if name in settings.variables(field)]
        assert fields, name
        assert settings_doc.default(fields[0]) == f"`{value}`", name


REFUSED = re.findall(
    r"(?m)^\$ (\w+)=(\S+) mingus-health serve\n(mingus-health: .+)$",
    read(settings_doc.DOCUMENT),
)


@pytest.mark.parametrize(("name", "value", "line"), REFUSED, ids=[name for name, *_ in REFUSED])
def test_the_lines_of_a_refused_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, line: str
) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(f"{variable}_FILE", raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        settings.load()
    assert f"mingus-health: {caught.value}" == line


def test_there_are_lines_of_a_refused_start() -> None:
    assert len(REFUSED) >= 5


# --- endpoints ---

ENDPOINTS_DOC = read(endpoints_doc.DOCUMENT)
EXAMPLES = endpoints_doc.examples()
PATHS = [endpoints_doc.name_of(endpoint) for endpoint in (INDEX, *ENDPOINTS)]
METRICS_PATHS = ["/metrics", f"{PREFIX}/metrics"]


def statuses(path: str) -> str:
    return "200" if path in ("/", PAGE, FLEET.path, OPENAPI, *METRICS_PATHS) else "200, 503"


def test_the_tables_of_paths() -> None:
    twins = (twin.path for twin in TWINS)
    every = (*PATHS, FLEET.path, *METRICS_PATHS, OPENAPI, *twins, PAGE)
    expected = {path: statuses(path) for path in every}
    short = rows(read(README), "Path", "The question", "Status")
    assert {path.strip("`"): status for path, _, status in short} == expected
    head = ("Path", "The question", "Verdict", "Status", "More for trusted callers")
    long = rows(ENDPOINTS_DOC, *head)
    assert {path.strip("`"): status for path, _, _, status, _ in long} == expected
    graded = {endpoints_doc.name_of(endpoint) for endpoint in ENDPOINTS if endpoint.graded}
    assert {path.strip("`") for path, *_, more in long if more == "yes"} == {
        *graded,
        FLEET.path,
        PAGE,
        *METRICS_PATHS,
    }
    assert [path for path, *_ in short] == [path for path, *_ in long]
    questions = {path.strip("`"): question for path, question, *_ in long}
    for endpoint in (INDEX, *ENDPOINTS, FLEET):
        assert questions[endpoints_doc.name_of(endpoint)] == endpoint.summary


def test_every_path_has_a_heading_of_its_own() -> None:
    found = re.findall(r"(?m)^### `GET (\S+)`$", ENDPOINTS_DOC)
    assert found == [*PATHS, f"{PREFIX}/metrics"]


def test_no_other_path_is_named() -> None:
    ours = re.compile(r"/(?:health|metrics|api/system/health)(?:/[a-z]+)*/?")
    known = {*PATHS, FLEET.path, *METRICS_PATHS, PREFIX}
    for path in DOCUMENTS:
        for word in ticked(without_fences(read(path))):
            if ours.fullmatch(word):
                assert word in known, f"{path.name}: {word}"


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_keeps_the_contract(name: str) -> None:
    example, path = EXAMPLES[name], name.partition(" ")[0]
    headers = {**dict(HEADERS), "Content-Length": str(len(example.body))}
    if path in METRICS_PATHS:
        headers["Vary"] = "Accept"
    status = int(example.status)
    assert violations(path, status, headers, example.body, trusted=example.trusted) == []
    assert f"<!-- example: {name} -->\n\n{status}" in ENDPOINTS_DOC


def test_a_failing_example_fails() -> None:
    failing = {name.partition(" ")[0] for name, one in EXAMPLES.items() if int(one.status) == 503}
    assert failing == {path for path in PATHS if statuses(path) != "200"}


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys(inner)


def tables_of_keys(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("| `") and line.count(" | ") == 2:
            yield line.strip("|").split(" | ")


SHARED = section(ENDPOINTS_DOC, "## Shared objects")


@pytest.mark.parametrize("path", [*PATHS, f"{PREFIX}/metrics"])
def test_every_key_has_a_row(path: str) -> None:
    heading = "### As JSON" if path in METRICS_PATHS else f"### `GET {path}`"
    texts = [section(ENDPOINTS_DOC, heading), SHARED]
    if path.startswith(PREFIX):
        texts.append(section(ENDPOINTS_DOC, "## Blueprint family").split("\n### ")[0])
    if path == f"{PREFIX}/detailed":
        texts.append(section(ENDPOINTS_DOC, f"### `GET {PREFIX}/`"))
    cells = [cell for text in texts for row in tables_of_keys(text) for cell in row]
    explained = {word for cell in cells for word in ticked(cell)} | set(CHECKS)
    if path == "/health/external":
        explained |= {f"{status.word}_services" for status in Status}
    body = json.loads(EXAMPLES[f"{path} healthy"].body)
    assert set(keys(body)) - explained == set()


def test_no_row_is_about_a_key_that_is_not_there() -> None:
    sent = {key for one in EXAMPLES.values() for key in re.findall(r'"(\w+)":', one.body.decode())}
    parts = [SHARED, section(ENDPOINTS_DOC, "## Root family")]
    parts += [section(ENDPOINTS_DOC, "## Blueprint family"), section(ENDPOINTS_DOC, "### As JSON")]
    named = {key for part in parts for row in tables_of_keys(part) for key in ticked(row[0])}
    assert named - sent == set()


def test_marked_keys_are_those_that_strangers_do_not_see() -> None:
    hidden = set()
    for endpoint in (INDEX, *ENDPOINTS):
        bodies = [
            endpoint.render(endpoints_doc.PAYLOAD, endpoints_doc.HEALTHY, trusted=trusted).body
            for trusted in (True, False)
        ]
        hidden |= set(differing(*bodies))
    marked = {
        key
        for name in ("## Shared objects", "## Root family", "## Blueprint family")
        for row in tables_of_keys(section(ENDPOINTS_DOC, name))
        if "**T**" in row[1]
        for key in ticked(row[0])
    }
    assert marked == hidden


def differing(one: Any, other: Any) -> Iterator[str]:
    for key, value in one.items():
        if value != other[key] and isinstance(value, dict) and other[key] is not None:
            yield from differing(value, other[key])
        elif value != other[key]:
            yield key


def test_the_codes() -> None:
    table = rows(ENDPOINTS_DOC, "Code", "Leads to", "Means")
    found = {code.strip("`"): status for code, status, _ in table}
    expected = {code: status.word for code, status in CODES.items()}
    assert found == {**expected, "http_NNN": "unhealthy"}


def test_the_status_words_in_their_order() -> None:
    table = rows(ENDPOINTS_DOC, "Word", "Means", "HTTP")
    expected = [(status.word, "200" if status.passes else "503") for status in Status]
    assert [(word.strip("`"), http) for word, _, http in table] == expected


def test_the_schedule() -> None:
    head = ("Check", "Interval", "Time limit", "While failing", "Expires after")
    expected = {}
    for check in definitions(Settings.model_construct(), redis=True):
        name = "each provider" if check.name in PROVIDERS else f"`{check.name}`"
        times = (check.interval, check.timeout, check.failing_interval, check.expiry)
        expected[name] = [f"{seconds:g} s" for seconds in times]
    assert {name: times for name, *times in rows(ENDPOINTS_DOC, *head)} == expected


# --- metrics ---


def test_every_metric_is_in_the_table() -> None:
    made = {row.name: row for row in endpoints_doc.metrics()}
    assert made.keys() >= GAUGES.keys()
    assert made.keys() >= METRICS.keys()
    for name, metric in METRICS.items():
        assert made[name].kind == metric.kind, name
        assert set(made[name].labels) == set(metric.labels), name
        assert (name in TRUSTED) == metric.internal, name


def test_the_metrics_for_trusted_callers_are_named() -> None:
    assert set(ticked(section(ENDPOINTS_DOC, "## Who sees what"))) >= TRUSTED


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_metric_that_is_named_exists(path: Path) -> None:
    made = {row.name for row in endpoints_doc.metrics()}
    parts = ("_bucket", "_sum", "_count")
    known = made | {name + part for name in made for part in parts} | {"mingus_health"}
    named = re.findall(r"(?<![\w./-])mingus_\w+(?![\w./-])", read(path))
    assert set(named) - known == set()


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "stranger"])
def test_the_exposition_of_the_examples_keeps_the_contract(trusted: bool) -> None:  # noqa: FBT001
    for pod in (endpoints_doc.HEALTHY, endpoints_doc.FAILING):
        body = endpoints_doc.exposition(pod, trusted=trusted).encode()
        headers = {**dict(HEADERS), "Content-Length": str(len(body))}
        headers |= {"Content-Type": TEXT_FORMAT, "Vary": "Accept"}
        assert violations("/metrics", 200, headers, body, trusted=trusted) == []


# --- architecture ---


def test_the_code_map_lists_every_module() -> None:
    listed = [name.strip("`") for name, _ in rows(read(ARCHITECTURE), "Module", "What it is")]
    service = ROOT / "service"
    modules = {f"service/{path.relative_to(service)}" for path in service.rglob("*.py")}
    packages = {
        f"{Path(module).parent}/"
        for module in modules
        if module.endswith("__init__.py") and module != "service/__init__.py"
    }
    expected = {module for module in modules if not module.endswith("__init__.py")} | packages
    assert sorted(listed) == sorted(expected)


def test_the_layers_are_those_that_are_enforced() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    directions = section(read(ARCHITECTURE), "## Directions")
    assert fences(directions, "text")[0].splitlines() == layers


# --- commands, names, links ---


def test_commands_of_make() -> None:
    targets = re.findall(r"(?m)^(\w+):", read(ROOT / "Makefile"))
    for path in DOCUMENTS:
        commands = [*fences(read(path), "sh"), *ticked(read(path))]
        for line in "\n".join(commands).splitlines():
            if match := re.match(r"(?:[A-Z_]+=\S+ )*make (\w+)", line):
                assert match[1] in targets, f"{path.name}: {line}"


COMMANDS = sorted(
    {
        line.strip()
        for path in DOCUMENTS
        for text in (*fences(read(path), "sh"), *ticked(without_fences(read(path))))
        for line in re.findall(r"(?m)^(?:\$ )?mingus-health (\w[^#\n]*)", text)
        if "[" not in line
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_service(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = command.partition(" -- ")[0].split(";")[0].split()
    words = words[: words.index("--")] if "--" in words else words
    with pytest.raises(SystemExit) as ended:
        command_line.main([*words, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in words if word.startswith("--"))


def test_what_the_readme_shows_of_a_session() -> None:
    session = fences(read(README), "console")[0]
    assert EXAMPLES["/health healthy"].body.decode() in session.splitlines()
    scrape = endpoints_doc.exposition(endpoints_doc.HEALTHY, trusted=True).splitlines()
    grep = re.search(r"grep \^(\w+)\n((?:\w.*\n)+)", session)
    assert grep
    found = [line for line in scrape if line.startswith(grep[1])]
    assert grep[2].splitlines() == found


PARSER = command_line.parser()
(DECLARED,) = (each.choices for each in PARSER._actions if isinstance(each.choices, dict))


def test_the_readme_has_every_command() -> None:
    shown = {command.split()[0] for command in COMMANDS}
    assert shown == {*DECLARED} - {"preflight"}


def test_the_readme_has_the_exit_statuses() -> None:
    for command, _, *cells in rows(read(README), "Command", "What it does", "0", "1"):
        declared = DECLARED[command.strip("`").split()[1]].epilog
        exits = dict(re.findall(r"(?m)^  (\d+) +(.+)$", declared))
        assert [cell.strip(" |") for cell in cells] == [exits["0"], exits.get("1", "")], command


@pytest.mark.parametrize("name", DECLARED)
def test_the_examples_of_a_command(name: str) -> None:
    examples = DECLARED[name].epilog.split("examples:\n")[1].splitlines()
    assert examples
    for example in examples:
        words = example.partition(">")[0].split()
        assert words[:2] == ["mingus-health", name]
        PARSER.parse_args(words[1:])


def test_the_sections_of_the_runbook_that_commands_name() -> None:
    alerts = {*advice.NOT_READY.values(), *advice.FAILING.values()}
    alerts |= {advice.CRITICAL_FAILING, advice.WORKERS_MISSING}
    runbook = advice.Runbook(Settings().runbook)
    for alert in alerts:
        path, _, anchor = runbook.alert(alert).partition("#")
        assert anchor in anchors(ROOT / path)


def test_applications_that_are_named_exist() -> None:
    for module, name in re.findall(r"=(examples\.\w+):(\w+)", read(README)):
        tree = ast.parse(read(ROOT / f"{module.replace('.', '/')}.py"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assigned = {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert name in functions | assigned, f"{module}:{name}"


def test_python_in_the_readme() -> None:
    snippets = fences(read(README), "python")
    assert snippets
    for snippet in snippets:
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names)


def test_files_that_are_named_exist() -> None:
    place = re.compile(r"(?:service|scripts|tests|docs|deploy|examples|requirements)/[\w./-]*\w/?")
    for path in DOCUMENTS:
        text = read(path)
        named = [word for word in ticked(without_fences(text)) if place.fullmatch(word)]
        named += re.findall(r"(?m)^(?:\.venv/bin/)?python3? ([\w/]+\.py)", text)
        for word in named:
            assert (ROOT / word).exists(), f"{path.name}: {word}"


TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"(?m)^def (test_\w+)", read(path))
}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_are_named_exist(path: Path) -> None:
    named = {word for word in ticked(read(path)) if re.fullmatch(r"test_\w+", word)}
    assert named - TESTS == set()


def test_every_survival_names_its_test() -> None:
    table = rows(read(README), "What happens", "What callers see", "Test")
    assert len(table) > 10
    assert all(test.strip("`") in TESTS for *_, test in table)


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"(?m)^#+ (.+)$", without_fences(read(path)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_resolve(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(read(path))):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{path.name}: {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tables_have_even_rows(path: Path) -> None:
    width = 0
    for line in without_fences(read(path)).splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not (width and cells) or cells == width, f"{path.name}: {line}"
        width = cells
