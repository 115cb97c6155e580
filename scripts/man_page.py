"""Make the manual page docs/mingus-health.1 from what service.cli.commands declares.

python scripts/man_page.py            print the page
python scripts/man_page.py --write    put it into the file
"""

import argparse
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from service.cli.commands import NAME, parser

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / f"{NAME}.1"

PURPOSE = "health endpoints for WSGI applications under gunicorn"
DESCRIPTION = """\
Commands that look at a pod read its shared memory and ask nobody. They need the environment that \
serve had. Only probe, and status and watch with --url, use the network. \
Serve, preflight and completion have no --json: their output is a log, nothing, and a script."""
STATUSES = """\
Commands that answer end with 0 for yes, 1 for no, and 2 when there is no answer. What went wrong \
is one line on standard error."""
ENVIRONMENT = {
    "RUN_DIR": "Where a pod and its commands meet; else a directory for each user and port.",
    "HEALTH_DETAILS_TOKEN": "With --url, the token that is sent; of several, the first. "
    "HEALTH_DETAILS_TOKEN_FILE names a file that holds it. No option takes it, because others "
    "can read the command lines of processes.",
    "SSL_CERT_FILE": "With --url, the authorities to believe in the place of the system's.",
    "NO_COLOR": "Unless it is empty, nothing is coloured.",
    "TERM": "When it is dumb or missing, watch prints one screen below the other.",
}
FILES = {"RUN_DIR/scoreboard.*": "The shared memory of a pod."}


def page() -> str:
    """The whole page."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    top = parser()
    (choices,) = (each.choices for each in _declared(top) if isinstance(each.choices, dict))
    commands = list(choices.values())
    return "\n".join(
        [
            f'.TH {_text(NAME.upper())} 1 "" "{_text(NAME)} {version}"',
            ".nh",  # or it breaks options
            ".ad l",
            ".SH NAME",
            f"{_text(NAME)} \\- {PURPOSE}",
            ".SH SYNOPSIS",
            "\n.br\n".join(_synopsis(command) for command in commands),
            ".SH DESCRIPTION",
            _text(top.description or ""),
            ".PP",
            _text(DESCRIPTION),
            ".SH COMMANDS",
            *(line for command in commands for line in _command(command)),
            ".SH EXIT STATUS",
            _text(STATUSES),
            ".SH ENVIRONMENT",
            _text(f"{NAME} settings shows every variable of the service. Of use to commands:"),
            *(line for name, says in ENVIRONMENT.items() for line in _item(name, says)),
            ".SH FILES",
            *(line for name, says in FILES.items() for line in _item(name, says)),
            ".SH SEE ALSO",
            ".BR gunicorn (1)",
            "",
        ]
    )


def _command(command: argparse.ArgumentParser) -> Iterator[str]:
    yield f".SS {_text(command.prog.removeprefix(NAME).strip())}"
    yield _sentence(command.description or "")
    for action in _shown(command):
        yield from _item(_words(action), action.help or "")
    yield from (".PP", ".nf", _text(command.epilog or ""), ".fi")


def _declared(command: argparse.ArgumentParser) -> list[argparse.Action]:
    return command._actions  # noqa: SLF001 - argparse tells them in no other way


def _shown(command: argparse.ArgumentParser) -> list[argparse.Action]:
    return [
        action
        for action in _declared(command)
        if action.help != argparse.SUPPRESS and action.dest != "help"
    ]


def _synopsis(command: argparse.ArgumentParser) -> str:
    options = [f"[{_words(each)}]" for each in _shown(command) if each.option_strings]
    rest = [_words(each) for each in _shown(command) if not each.option_strings]
    return rf"\fB{_text(command.prog)}\fR {_text(' '.join(options + rest))}".rstrip()


def _words(action: argparse.Action) -> str:
    """An option or an argument as one writes it."""
    value = "|".join(map(str, action.choices)) if action.choices else str(action.metavar or "")
    if not action.option_strings:
        return f"[{value} ...]" if action.nargs == "*" else value
    value = {0: "", "?": f"[{value}]"}.get(action.nargs, value)
    return " ".join([*action.option_strings, value]).rstrip()


def _item(name: str, says: str) -> Iterator[str]:
    yield from (".TP", rf"\fB{_text(name)}\fR", _sentence(says))


def _sentence(says: str) -> str:
    return _text(f"{says[:1].upper()}{says[1:].rstrip('.')}.")


def _text(text: str) -> str:
    """Text in which nothing is a request of the formatter."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").split("\n")
    return "\n".join(rf"\&{line}" if line.startswith((".", "'")) else line for line in lines)


def main() -> int:
    """Prints the page, or writes it."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--write", action="store_true", help=f"update {PAGE.name} in place")
    if options.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
