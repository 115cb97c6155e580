"""The manual page: it says what the command line has, any formatter likes it, a wheel brings it."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import man_page

from service.cli.commands import parser


def test_the_page_is_fresh() -> None:
    committed = man_page.PAGE.read_text(encoding="utf-8")
    assert committed == man_page.page(), "stale: python scripts/man_page.py --write"


def _formatted(page: str) -> subprocess.CompletedProcess[str]:
    command = ["groff", "-man", "-Tascii", "-P-c", "-ww", "-rLL=100n"]
    return subprocess.run(command, input=page, capture_output=True, text=True, check=True)


def test_the_formatter_has_nothing_to_complain_about() -> None:
    assert _formatted(man_page.page()).stderr == ""
    assert _formatted(".TH X 1\n.nonsense\n").stderr != ""


def test_every_command_and_option_is_there() -> None:
    shown = re.sub(r".\x08", "", _formatted(man_page.page()).stdout)
    (commands,) = (each.choices for each in parser()._actions if isinstance(each.choices, dict))
    for name, command in commands.items():
        assert re.search(rf"(?m)^   {name}$", shown)
        assert f"mingus-health {name}" in shown
        for option in re.findall(r"(?m)^  (--[\w-]+)", command.format_help()):
            assert option in shown
        for line in command.epilog.split("\n"):
            assert line.strip() in shown


def test_a_wheel_brings_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=man_page.ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (page,) = (name for name in archive.namelist() if name.endswith("man1/mingus-health.1"))
        assert archive.read(page) == man_page.PAGE.read_bytes()
        assert page.split("/")[0].endswith(".data")


@pytest.mark.parametrize("text", [".SH x", "'x", "a\\b", "a-b"])
def test_text_stays_text(text: str) -> None:
    page = f".TH X 1\n.SH Y\n{man_page._text(text)}\n"
    assert text in re.sub(r".\x08", "", _formatted(page).stdout)
