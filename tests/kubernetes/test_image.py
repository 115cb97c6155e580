"""The recipe of the image. Building and running it is scripts/image_test.py's."""

import json
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement

from service.settings import Settings
from tests.kubernetes.manifests import BASE, one, rendered
from tests.pod import ROOT

DOCKERFILE = ROOT / "Dockerfile"


def instructions(name: str) -> list[str]:
    """The arguments of an instruction, in the last stage."""
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    last = text[text.rindex("\nFROM ") :]
    return re.findall(rf"^{name}\s+(.*)$", last, re.MULTILINE)


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    result = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_it_runs_without_root_and_without_a_shell() -> None:
    pod = one(rendered(BASE), "Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert instructions("USER") == [f"{pod['runAsUser']}:{pod['runAsGroup']}"]
    assert instructions("RUN") == []
    (entry,) = instructions("ENTRYPOINT")
    assert json.loads(entry) == ["mingus-health", "serve"]
    (check,) = instructions("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command == ["mingus-health", "check", "--kind", "liveness"]


def test_it_names_the_ports_of_the_service() -> None:
    fields = Settings.model_fields
    assert instructions("EXPOSE") == [f"{fields['port'].default} {fields['health_port'].default}"]


def test_every_package_is_pinned_by_hash() -> None:
    text = re.sub("^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    text = text.replace("\\\n", " ")
    installs = re.findall(r"pip\S*(?: --python \S+)? install (.*?)(?: &&|\n)", text)
    assert len(installs) == 3
    for arguments in installs:
        offline = "--no-index" in arguments and "--no-deps" in arguments
        assert offline or "--require-hashes" in arguments


def test_the_tools_of_the_build_are_complete() -> None:
    """What is cut out of the lock, by name, is the build backend and all it needs."""
    (names,) = re.findall(r"keep = /\^\(([^)]*)\)==/", DOCKERFILE.read_text(encoding="utf-8"))
    needed, look = set(), ["hatchling"]
    while look:
        name = look.pop()
        needed.add(name)
        wanted = [Requirement(each) for each in requires(name) or ()]
        look += [
            each.name
            for each in wanted
            if each.name not in needed
            and (each.marker is None or each.marker.evaluate({"extra": ""}))
        ]
    assert set(names.split("|")) == needed


def test_the_build_gets_what_it_copies_and_nothing_else() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    text = DOCKERFILE.read_text(encoding="utf-8")
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert "*" in ignored
    assert let_in == copied
    assert all((ROOT / source).exists() for source in copied)
