"""Sees to the programs the tests need that no wheel brings: servers, a browser, groff.

Run by ``make test``. As root they are installed by apt-get; anybody else is told what to
install. Exit status: 0 all there, 1 something is missing.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

OWN = Path(sys.executable).parent
PACKAGES = {
    "redis-server": "redis-server",
    "nginx": "nginx",
    "promtool": "prometheus",
    "systemd-analyze": "systemd",
    "chromium": "chromium",
    "groff": "groff-base",
}
# Where Debian puts what only an administrator starts; and not where wheels put their programs.
PATH = os.pathsep.join(
    [*(each for each in os.environ["PATH"].split(os.pathsep) if Path(each) != OWN), "/usr/sbin"]
)


def missing() -> list[str]:
    """The packages whose program is not there."""
    return [
        package for program, package in PACKAGES.items() if not shutil.which(program, path=PATH)
    ]


def install(packages: list[str]) -> None:
    """Installs Debian packages without starting what is in them."""
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages],
    ):
        subprocess.run(command, env=environ, check=False, stdout=subprocess.DEVNULL)  # noqa: S603


def main() -> int:
    """Installs what it may, and says what is still missing."""
    if missing() and os.geteuid() == 0 and shutil.which("apt-get"):
        install(missing())
    if packages := missing():
        sys.stderr.write(f"the tests need more programs: apt-get install {' '.join(packages)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
