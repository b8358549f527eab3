"""Service processes that tests start, watch, freeze and kill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from tests.forks import start

DEADLINE = 20.0
ROOT = Path(__file__).parent.parent


def eventually(
    check: Callable[[], object], *, deadline: float = DEADLINE, what: str = "", every: float = 0.005
) -> None:
    """Wait until `check` is true; fail with what it last returned after `deadline` seconds."""
    until = time.monotonic() + deadline
    while not (last := check()):
        if time.monotonic() > until:
            raise AssertionError(f"not within {deadline} s: {what or check}; last: {last!r}")
        time.sleep(every)  # a poll of something that sends no signal


def is_running(pid: int) -> bool:
    """Return whether the process exists and has not ended; one that nobody has waited for yet has."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


@contextlib.contextmanager
def service_process(
    *command: str, env: dict[str, str], log: Path | None = None, python: str = sys.executable, cwd: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `python <command>` with `env` added to a clean environment; killed at the end if still there.

    Ports are whatever is free unless `env` says otherwise.
    """
    ports = {f"PENSTOCK_{name}_PORT": "0" for name in ("WORKER", "METRICS", "ALERTS", "NOTIFIER")}
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PENSTOCK_", "REDIS_", "TASK_", "DLQ_"))
    }
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("ab")) if log else None
        process = _started(
            command, python=python, cwd=cwd, env={**clean, **ports, "PENSTOCK_LOG_FORMAT": "json", **env}, log=output
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


def _started(
    command: Sequence[str], *, python: str, cwd: Path, env: dict[str, str], log: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    if python == sys.executable and command[0] == "-m" and sys.platform == "linux":
        stderr = 2 if log is None else log.fileno()
        with Path(os.devnull).open("rb") as nothing:
            return start(command[1:], env=env, cwd=cwd, stdin=nothing.fileno(), stdout=1, stderr=stderr)
    return subprocess.Popen(
        [python, *command], cwd=cwd, env=env, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True
    )
