"""A Docker engine for tests: the one that is running, else one of our own with everything in a temporary folder.

An engine of our own may be on a machine that reaches no registry. Images that cannot be pulled are then made
with debootstrap, from the Debian packages of the same release; they are the test's own and leave with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from penstock.processes import dies_with_parent
from tests.deploy.debian import debian_archive
from tests.processes import ROOT, eventually

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
_STAND_INS = Path(__file__).parent / "stand_ins"
_STARTS_WITHIN, _STOPS_WITHIN = 60.0, 60.0


class NoEngine(Exception):
    """There is no Docker engine and none can be started; the message says what is missing."""


class Engine:
    """An engine that answers. `ours` says whether its images may be made up."""

    def __init__(self, host: str | None = None) -> None:
        self.ours = host is not None
        self.env = os.environ | ({"DOCKER_HOST": host} if host else {})

    def docker(self, *arguments: str, stdin: str | None = None) -> str:
        """Run a docker command and return what it printed."""
        return self.run("docker", *arguments, stdin=stdin)

    def run(
        self, *command: str, stdin: str | None = None, cwd: Path = ROOT, env: Mapping[str, str] | None = None
    ) -> str:
        """Run a program that uses the engine and return what it printed."""
        done = subprocess.run(
            command, input=stdin, env={**self.env, **(env or {})}, cwd=cwd, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
        return done.stdout

    def provide(self, image: str) -> None:
        """Make sure that `image` is there."""
        if self.docker("image", "ls", "--quiet", image):
            return
        try:
            self.docker("pull", "--quiet", image)
        except AssertionError:
            if not self.ours:
                raise
            self._make(image)

    def _make(self, image: str) -> None:
        repository, _, tag = image.partition(":")
        suite = tag.removesuffix("-slim").rpartition("-")[2]
        debian = f"debian:{suite}-slim"
        if repository == "debian":
            with debian_archive(suite) as (archive, env):
                changes = [f"--change=ENV {name}={value}" for name, value in env.items()]
                self.docker("import", '--change=CMD ["bash"]', *changes, str(archive), image)
        else:
            self.provide(debian)
            recipe = (_STAND_INS / f"{repository.replace('/', '-')}.Dockerfile").read_text()
            self.docker("build", "--quiet", "--build-arg", f"BASE={debian}", "--tag", image, "-", stdin=recipe)


def base_images() -> set[str]:
    """Return the images that the Dockerfile starts from."""
    named = re.findall(r"^FROM (\S+)(?: AS (\S+))?", DOCKERFILE.read_text(), re.MULTILINE)
    return {image for image, _ in named} - {stage for _, stage in named}


@contextlib.contextmanager
def running_engine() -> Iterator[Engine]:
    """Run an engine for the length of the context, unless one is running already.

    Raises:
        NoEngine: what it takes is not there.
    """
    try:
        present = Engine()
        present.docker("info")
    except (AssertionError, FileNotFoundError):
        _check_programs()
        folder = Path(tempfile.mkdtemp(prefix="penstock-docker-", dir="/tmp"))  # a socket's path has 107 characters
        try:
            with _alone(), _network_as_it_was(), _daemon(folder) as engine:
                yield engine
        finally:
            shutil.rmtree(folder)
    else:
        yield present


def _check_programs() -> None:
    if os.geteuid():
        raise NoEngine("no Docker engine answers, and only root can start one")
    programs = ("docker", "dockerd", "debootstrap", "iptables-save", "ip")
    missing = [name for name in programs if not shutil.which(name)]
    if missing:
        raise NoEngine(
            f"no Docker engine answers, and {', '.join(missing)} is missing to start one: "
            "apt-get install --no-install-recommends docker.io docker-compose iptables iproute2 debootstrap"
        )


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Wait for another test run on this machine: two daemons would take each other's bridge and rules."""
    with (Path(tempfile.gettempdir()) / "penstock-docker.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _daemon(folder: Path) -> Iterator[Engine]:
    host = f"unix://{folder}/docker.sock"
    command = ["dockerd", "--host", host, "--pidfile", str(folder / "pid"), "--storage-driver", "overlay2"]
    folders = ["--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *folders],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=dies_with_parent(signal.SIGTERM),  # noqa: PLW1509 - no threads; holds if this run is killed
        )
        try:
            eventually(lambda: process.poll() is not None or _answers(host), deadline=_STARTS_WITHIN)
            if process.poll() is not None:
                raise NoEngine(f"dockerd does not start: {(folder / 'log').read_text()[-2000:]}")
            yield Engine(host)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_STOPS_WITHIN)


def _answers(host: str) -> bool:
    done = subprocess.run(["docker", "--host", host, "version"], capture_output=True, check=False)
    return done.returncode == 0


@contextlib.contextmanager
def _network_as_it_was() -> Iterator[None]:
    """Undo what a Docker daemon leaves behind: its chains, a FORWARD policy of DROP, IP forwarding and a bridge."""
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    forwarded = forwarding.read_text()
    tables = [_output("iptables-save", "--table", table) for table in ("filter", "nat")]
    bridge = Path("/sys/class/net/docker0")
    bridged = bridge.exists()
    try:
        yield
    finally:
        for table in tables:
            subprocess.run(["iptables-restore"], input=table, text=True, check=True)
        forwarding.write_text(forwarded)
        if bridge.exists() and not bridged:
            subprocess.run(["ip", "link", "delete", "docker0"], check=True)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
