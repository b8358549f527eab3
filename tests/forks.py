"""Programs forked from an interpreter that has imported Penstock already.

Most of what a program costs is starting Python and importing; the tests start hundreds. `start` makes processes
like any others, with an environment, a folder and a session of their own, but from a *seed*: an interpreter that does
nothing but import, once, and fork. Tests of starting itself (`penstock up`, the wheel, containers) use real
interpreters.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_ROOT = Path(__file__).parent.parent
_SERVICES = ("alerts", "gateway", "metrics", "notifier", "worker")
_LATE = ("penstock.redis.pool", "rich.markdown", "typer.rich_utils")  # what programs import once they run
_MOST = 200_000  # bytes of a request: arguments and environment
_SUBREAPER = 36  # prctl(2), PR_SET_CHILD_SUBREAPER
_one_at_a_time = threading.Lock()  # of the threads of a test


class Forked(subprocess.Popen[bytes]):
    """A program that the seed forked. It is a child of ours, so that Popen can wait for it and signal it."""

    def __init__(self, pid: int, arguments: Sequence[str]) -> None:
        self.args, self.pid, self.returncode = arguments, pid, None
        self.stdin = self.stdout = self.stderr = None
        self._child_created = True
        self._waitpid_lock = threading.Lock()


def start(
    arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path = _ROOT, stdin: int, stdout: int, stderr: int
) -> subprocess.Popen[bytes]:
    """Run `python -m <arguments>` in a session of its own; the last three are file descriptors."""
    request = json.dumps({"arguments": list(arguments), "env": dict(env), "cwd": str(cwd)})
    ours, theirs = socket.socketpair()
    with ours, _one_at_a_time:
        with theirs:
            _adopt(orphans=True)
            socket.send_fds(_seed(), [request.encode()], [theirs.fileno(), stdin, stdout, stderr])
        try:
            with ours.makefile() as answer:
                pid = answer.read()  # to its end: whoever forked it has ended, and the program is ours
        finally:
            _adopt(orphans=False)
    return Forked(int(pid), arguments)


def run(
    arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path = _ROOT, stdin: str = "", timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run `python -m <arguments>` to its end; return its code and what it said.

    Raises:
        subprocess.TimeoutExpired: it has not ended within `timeout` seconds, and was killed.
    """
    with contextlib.ExitStack() as stack:
        given, said, complained = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(stdin.encode())
        given.seek(0)
        process = start(
            arguments, env=env, cwd=cwd, stdin=given.fileno(), stdout=said.fileno(), stderr=complained.fileno()
        )
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        for file in (said, complained):
            file.seek(0)
        return subprocess.CompletedProcess(arguments, code, said.read().decode(), complained.read().decode())


@functools.cache
def _seed() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", "tests.forks", str(theirs.fileno())]
        process = subprocess.Popen(command, cwd=_ROOT, pass_fds=[theirs.fileno()], start_new_session=True)

    @atexit.register
    def end() -> None:
        ours.close()
        process.wait()

    return ours


def _adopt(*, orphans: bool) -> None:
    """Say whether processes whose parent ends become ours: as the seed's forks do."""
    ctypes.CDLL(None).prctl(_SUBREAPER, int(orphans), 0, 0, 0)


def _serve(seed: socket.socket) -> list[str]:
    """Fork a program for each request; return its arguments in the fork, and exit at the end of this test run."""
    while True:
        message, files, _, _ = socket.recv_fds(seed, _MOST, 4)
        if not message:
            os._exit(0)
        answer = files.pop(0)
        between = os.fork()  # its end makes the program a child of who asked
        if between == 0:
            program = os.fork()
            if program == 0:
                seed.close()
                os.close(answer)
                return _become(json.loads(message), files)
            os.write(answer, str(program).encode())
            os._exit(0)
        os.waitpid(between, 0)
        for file in (answer, *files):
            os.close(file)


def _become(request: dict[str, object], files: Sequence[int]) -> list[str]:
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    time.tzset()
    os.chdir(str(request["cwd"]))
    sys.path[0] = str(request["cwd"])
    arguments = request["arguments"]
    assert isinstance(arguments, list)
    return arguments


def _import_all() -> None:
    from penstock.cli.main import COMMANDS, load  # noqa: PLC0415 - only the seed wants it

    for command in COMMANDS:
        load(command)
    load("secret").make_context("secret", [])  # Typer imports Pydantic when it parses
    names = [f"penstock_services.{service}.service" for service in _SERVICES]
    for name in [*names, *_LATE, "penstock.testing", "redis.asyncio", "structlog"]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that a fork's first collection does not copy what it shares


class _End:
    """The end of a program: all that Python does then, but for taking everything apart, which copies what is shared."""

    def __init__(self) -> None:
        self._code = 1
        atexit.register(self._leave)  # before anybody else's: it is called last

    def run(self, module: str) -> None:
        """Run a module as `python -m` does."""
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            self._code = 0
        except SystemExit as asked:
            self._code = asked.code if isinstance(asked.code, int) else int(asked.code is not None)
            raise

    def _leave(self) -> None:
        gc.collect()  # what complains when it is freed shall do so
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self._code)


if __name__ == "__main__":
    end = _End()
    _import_all()
    program, *sys.argv[1:] = _serve(socket.socket(fileno=int(sys.argv[1])))
    end.run(program)
