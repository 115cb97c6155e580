"""Builds the image and runs it as Kubernetes would. Needs root, and podman or buildah.

    make image-test        apt-get install podman runc debootstrap

podman does all of it, with runc if that is there. buildah alone builds the same image and runs
what is in it, but can take nothing away from a process: no capabilities, no right to write.

The base is the Dockerfile's own where a registry can be reached. Where none can, Debian's Python
is made into a stand-in by debootstrap, once, in a minute and 300 MB. Everything is kept in
/var/tmp/mingus-health-image and may be deleted at any time.

Exit status: 0 all is as it should be, 1 something is not, 2 it could not be tried.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent
STORE = Path("/var/tmp/mingus-health-image")  # noqa: S108 - outside the checkout: it is a whole system
IMAGE = "localhost/mingus-health:test"
STAND_IN = "localhost/mingus-base:bookworm"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
PREFIX = "/api/system/health"
WEB, HEALTH = 25003, 25004
USER = 10001
OK, UNAVAILABLE = 200, 503
DRAIN = 4
PATIENCE = 60.0


class FailedError(Exception):
    """The image is not as it should be."""


def run(*command: str, **more: object) -> str:
    """What a command prints; ends the test with its output when it fails."""
    result = subprocess.run(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **more
    )
    if result.returncode:
        raise FailedError(f"{' '.join(command)}: {result.returncode}\n{result.stdout[-4000:]}")
    return result.stdout


def say(what: str, seen: str = "") -> None:
    """One line for each thing that is as it should be."""
    sys.stdout.write(f"ok  {what}  {seen}".rstrip() + "\n")
    sys.stdout.flush()


def check(what: str, right: object) -> None:
    """Says it, or ends the test."""
    if not right:
        raise FailedError(f"not so: {what}")
    say(what)


class Images:
    """podman or buildah with a store of its own, which it needs no kernel support for.

    Args:
        store: Directory for everything they write.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.runs = shutil.which("podman") is not None
        self._where = (
            *("--root", str(store / "root"), "--runroot", str(store / "run")),
            *("--storage-driver", "vfs"),
        )

    def command(self, *arguments: str) -> list[str]:
        """A command of buildah's."""
        return ["buildah", *self._where, *arguments]

    def buildah(self, *arguments: str) -> str:
        """Runs buildah."""
        return run(*self.command(*arguments))

    def podman(self, *arguments: str) -> str:
        """Runs podman."""
        # crun and systemd's control groups fail on hosts with both versions of those.
        runtime = ("--runtime", "runc") if shutil.which("runc") else ()
        return run("podman", *self._where, "--cgroup-manager=cgroupfs", *runtime, *arguments)

    def either(self, *arguments: str) -> str:
        """Runs whichever there is, for what both can do."""
        return (self.podman if self.runs else self.buildah)(*arguments)

    def base(self) -> str:
        """An image with Python: the Dockerfile's own, or a stand-in."""
        text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
        own = next(line[9:] for line in text.splitlines() if line.startswith("ARG BASE="))
        try:
            self.either("pull", "--quiet", f"docker.io/library/{own}")
        except FailedError:
            pass
        else:
            return f"docker.io/library/{own}"
        if STAND_IN.partition(":")[0] not in self.either("images"):
            self._make_stand_in()
        return STAND_IN

    def _make_stand_in(self) -> None:
        if shutil.which("debootstrap") is None:
            raise SystemExit("no registry and no debootstrap: give an image by --base")
        rootfs, archive = self.store / "rootfs", self.store / "rootfs.tar"
        shutil.rmtree(rootfs, ignore_errors=True)
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(rootfs))
        (rootfs / "usr" / "bin" / "python").symlink_to("python3")
        run("tar", "-C", str(rootfs), "-cf", str(archive), ".")
        if self.runs:
            self.podman("import", str(archive), STAND_IN)
        else:
            container = self.buildah("from", "scratch").strip()
            self.buildah("add", "--quiet", container, str(archive), "/")
            self.buildah("commit", "--quiet", "--rm", container, STAND_IN)
        shutil.rmtree(rootfs)
        archive.unlink()

    def build(self, base: str) -> None:
        """Builds the image, with the packages, certificates and name servers of the host."""
        passed = [
            f"--build-arg={name}={os.environ[name]}"
            for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX")
            if name in os.environ
        ]
        mounted = [Path("/etc/ssl/certs"), Path(os.environ.get("PIP_FIND_LINKS", "/nowhere"))]
        volumes = [f"--volume={path}:{path}:ro" for path in mounted if path.is_dir()]
        self.either(
            *("build", "--isolation", "chroot", "--network", "host", "--pull=never"),
            # The other format has no HEALTHCHECK.
            *("--format", "docker", "--build-arg", f"BASE={base}"),
            *(*passed, *volumes, "--tag", IMAGE, str(ROOT)),
        )

    def config(self) -> dict[str, Any]:
        """What the image says of itself."""
        if self.runs:
            (image,) = json.loads(self.podman("inspect", IMAGE))
            return {"Healthcheck": image["Healthcheck"], **image["Config"]}
        image = json.loads(self.buildah("inspect", "--type", "image", IMAGE))
        return dict(image["Docker"]["config"])

    @contextmanager
    def container(self, *options: str, **settings: str) -> Iterator[str]:
        """A container that may do as little as in Kubernetes, and is gone afterwards."""
        given = {"PORT": str(WEB), "HEALTH_PORT": str(HEALTH), **settings}
        name = f"mingus-health-test-{os.getpid()}"
        self.podman(
            *("run", "--detach", "--name", name, "--pull=never", "--network", "host"),
            *("--no-healthcheck", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"),
            *("--read-only", "--read-only-tmpfs=false", "--tmpfs", "/tmp"),  # noqa: S108
            *("--cap-drop=ALL", "--security-opt=no-new-privileges", "--memory", "512m"),
            *(f"--env={key}={value}" for key, value in given.items()),
            *options,
            IMAGE,
        )
        try:
            yield name
        except FailedError:
            sys.stderr.write(self.podman("logs", name)[-4000:])
            raise
        finally:
            self.podman("rm", "--force", "--time", "0", name)


def get(path: str, port: int = HEALTH) -> int | None:
    """The HTTP status of a path, None without an answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def wait(what: str, look: Callable[[], object]) -> float:
    """Waits until something is so; the seconds it took."""
    begun, never = time.monotonic(), threading.Event()
    while not look():
        if time.monotonic() - begun > PATIENCE:
            raise FailedError(f"never: {what}")
        never.wait(0.02)
    return time.monotonic() - begun


def started() -> float:
    """Seconds until the startup probe passes."""
    return wait("startup passes", lambda: get(f"{PREFIX}/startup") == OK)


# -- what is looked at


def look_at_the_image(images: Images) -> None:
    """What the image says of itself."""
    config = images.config()
    check("a number as user", config["User"] == "10001:10001")
    check("entry point without a shell", config["Entrypoint"] == ["mingus-health", "serve"])
    test = config["Healthcheck"]["Test"]
    wanted = ["CMD", "mingus-health", "check", "--kind", "liveness"]
    check("health check without a shell", test == wanted)
    check("both ports", set(config["ExposedPorts"]) == {"5003/tcp", "5004/tcp"})


def look_at_a_pod(images: Images) -> None:
    """With nothing configured, nothing writable but /tmp, and every shell taken away."""
    shells = [f"--volume=/dev/null:/usr/bin/{shell}:ro" for shell in ("dash", "bash")]
    with images.container(*shells, HEALTH_DRAIN_SECONDS=str(DRAIN)) as name:
        say("it starts without any setting", f"{started():.1f} s")
        for port in (WEB, HEALTH):
            for kind in ("startup", "liveness", "readiness"):
                check(f"{kind} on port {port}", get(f"{PREFIX}/{kind}", port) == OK)
        look_inside(images, name)
        for kind in ("startup", "liveness", "readiness"):
            images.podman("exec", name, "mingus-health", "check", "--kind", kind)
            say(f"mingus-health check --kind {kind}")
        look_at_the_end(images, name)


def look_inside(images: Images, name: str) -> None:
    """What the process may do."""
    program = "print(open('/proc/1/status').read()); open('/app/file', 'w')"
    try:
        images.podman("exec", name, "python3", "-c", program)
    except FailedError as error:
        said = str(error)
    else:
        raise FailedError("the root file system can be written to")
    check("read-only root", "Read-only file system" in said)
    for line in ("Uid:\t10001", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
        check(line.replace("\t", " "), line in said)
    try:
        images.podman("exec", name, "python3", "-m", "pip", "--version")
    except FailedError as error:
        check("no pip", "No module named pip" in str(error))
    else:
        raise FailedError("pip is in the image")


def look_at_the_end(images: Images, name: str) -> None:
    """SIGTERM drains, and then it ends by itself."""
    begun = time.monotonic()
    images.podman("kill", "--signal", "TERM", name)
    late = wait("readiness says no", lambda: get(f"{PREFIX}/readiness") == UNAVAILABLE)
    say("SIGTERM: not ready", f"after {late:.2f} s")
    alive = [get(f"{PREFIX}/{kind}") for kind in ("liveness", "startup")]
    check("SIGTERM: alive and answering", [*alive, get("/", WEB)] == [OK, OK, OK])
    images.podman("wait", name)
    lasted = time.monotonic() - begun
    state = json.loads(images.podman("inspect", name))[0]["State"]
    check("SIGTERM: ended by itself", state["ExitCode"] == 0)
    check(f"SIGTERM: it drained, and ended after {lasted:.1f} s", DRAIN <= lasted < DRAIN + 30)


def look_at_a_restart(images: Images, directory: Path) -> None:
    """A killed container comes back to the files it left, its processes numbered as before."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    directory.chmod(0o1777)  # as an emptyDir is: root's, and open
    mount = f"--volume={directory}:/run/mingus-health"
    with images.container(mount, RUN_DIR="/run/mingus-health/pod", REDIS_EMBEDDED="off") as name:
        started()
        images.podman("kill", "--signal", "KILL", name)
        images.podman("wait", name)
        left = sorted(path.name for path in (directory / "pod").iterdir())
        check(f"SIGKILL leaves {' '.join(left)}", "scoreboard.1" in left)
        images.podman("start", name)
        say("and it starts over them", f"{started():.1f} s")
        check("ready", get(f"{PREFIX}/readiness") == OK)
        check("metrics", get("/metrics") == OK)


def look_at_an_application(images: Images) -> None:
    """Somebody's own application and checks, put where the Dockerfile says."""
    mount = f"--volume={ROOT / 'examples'}:/app/examples:ro"
    with images.container(
        mount,
        APP_MODULE="examples.shop:app",
        HEALTH_CHECKS="examples.shop:checks",
        STARTUP_TASKS="examples.shop:tasks",
        APP_RELEASE="1",
        DATABASE_URL="sqlite:////tmp/shop.sqlite3",
    ):
        started()
        check("an application in /app", get("/products", WEB) == OK)


def look_at_a_process(images: Images) -> None:
    """What buildah can show: that it starts as its user, answers, drains and ends."""
    container = images.buildah("from", "--pull-never", IMAGE).strip()
    settings = {"PORT": WEB, "HEALTH_PORT": HEALTH, "HEALTH_DRAIN_SECONDS": DRAIN}
    given = [f"--env={name}={value}" for name, value in settings.items()]
    command = [*given, container, "--", *images.config()["Entrypoint"]]
    log = images.store / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(  # noqa: S603
            images.command("run", "--isolation", "chroot", *command),
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            say("it starts without any setting", f"{started():.1f} s")
            look_at_its_end(process)
        except FailedError:
            sys.stderr.write(log.read_text()[-4000:])
            raise
        finally:
            if process.poll() is None:
                for each in psutil.Process(process.pid).children(recursive=True):
                    each.kill()
                process.kill()
                process.wait()
            images.buildah("rm", container)
    say("not tried without podman: read-only root, no capabilities, restart over what is left")


def look_at_its_end(process: subprocess.Popen[bytes]) -> None:
    """The user it runs as, its probes, and a SIGTERM to its master."""
    served = [
        each
        for each in psutil.Process(process.pid).children(recursive=True)
        # Not the one of buildah's that stands before it, by the user it becomes.
        if each.uids().real == USER and "python" in Path(each.exe()).name
    ]
    check(f"Uid {USER}", served)
    for port in (WEB, HEALTH):
        for kind in ("startup", "liveness", "readiness"):
            check(f"{kind} on port {port}", get(f"{PREFIX}/{kind}", port) == OK)
    begun = time.monotonic()
    served[0].terminate()
    late = wait("readiness says no", lambda: get(f"{PREFIX}/readiness") == UNAVAILABLE)
    say("SIGTERM: not ready", f"after {late:.2f} s")
    check("SIGTERM: ended by itself", process.wait(PATIENCE) == 0)
    lasted = time.monotonic() - begun
    check(f"SIGTERM: it drained, and ended after {lasted:.1f} s", DRAIN <= lasted < DRAIN + 30)


def main() -> int:
    """Builds, runs, looks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", help="image with Python to build on")
    parser.add_argument("--store", type=Path, default=STORE)
    options = parser.parse_args()
    if os.geteuid() or not any(map(shutil.which, ("podman", "buildah"))):
        sys.stderr.write("needs root, and podman or buildah\n")
        return 2
    options.store.mkdir(parents=True, exist_ok=True)
    images = Images(options.store.resolve())
    try:
        base = options.base or images.base()
        begun = time.monotonic()
        images.build(base)
        say("it builds", f"on {base}, {time.monotonic() - begun:.0f} s")
        look_at_the_image(images)
        if images.runs:
            look_at_a_pod(images)
            look_at_a_restart(images, options.store / "volume")
            look_at_an_application(images)
        else:
            look_at_a_process(images)
    except FailedError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
