"""Processes: children that cannot outlive the process that started them, and who has a port."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)
_TCP_LISTEN = "0A"  # in /proc/net/tcp


def dies_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """Return a `preexec_fn` that makes the kernel send `number` to the child once its parent is gone.

    That holds for a SIGKILL of the parent too. Only Linux can do it (None elsewhere). The parent is the
    thread that starts the child, so start children from the main thread.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # found before the fork: less can go wrong after it
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it went before we could ask
            os.kill(os.getpid(), number)

    return ask


async def stop(process: asyncio.subprocess.Process, *, grace: float, hurry: asyncio.Event | None = None) -> bool:
    """SIGTERM `process`, which leads a session; after `grace` seconds, or once `hurry` is set, kill it.

    Return whether it ended by itself.
    """
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    ended = asyncio.create_task(process.wait())
    hurried = asyncio.create_task((hurry or asyncio.Event()).wait())
    await asyncio.wait({ended, hurried}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    if not ended.done():
        await kill(process)
        return False
    return True


async def kill(process: asyncio.subprocess.Process) -> None:
    """SIGKILL `process` and all it started, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def describe_exit(code: int) -> str:
    """Return what an exit status means in words: `exit code 3`, or the signal that ended it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def listener(port: int) -> str:
    """Return who listens on a TCP port of this machine: "another `penstock up` (process 7)", or another program.

    Only Linux tells which, and only of processes of this user.
    """
    pid = next(_listening(port), None)
    if pid is None:
        return "another program"
    started_by = up_of(pid)
    if started_by is None:
        return f"another program ({Path(_command(pid)[0]).name}, process {pid})"
    return f"another `penstock up` (process {started_by})"


def up_of(pid: int) -> int | None:
    """Return the process of the `penstock up` that has started a process, if one has and the system tells."""
    return next((ancestor for ancestor in _ancestors(pid) if _is_up(ancestor)), None)


def _listening(port: int) -> Iterator[int]:
    """Yield the processes that have a socket listening on a port."""
    sockets = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening_inodes(table, port)}
    for link in Path("/proc").glob("[0-9]*/fd/*") if sockets else ():
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if str(link.readlink()) in sockets:
                yield int(link.parts[2])


def _listening_inodes(table: str, port: int) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == _TCP_LISTEN and int(local.rpartition(":")[2], 16) == port:
                yield rest[5]


def _ancestors(pid: int) -> Iterator[int]:
    """Yield a process, its parent, and so on."""
    with contextlib.suppress(OSError):
        while pid > 0:
            yield pid
            # The name in parentheses may hold anything.
            pid = int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])


def _is_up(pid: int) -> bool:
    program = [Path(part).name for part in _command(pid)]
    return ("penstock", "up") in itertools.pairwise(program)


def _command(pid: int) -> list[str]:
    try:
        return Path("/proc", str(pid), "cmdline").read_text(errors="replace").split("\0") or [""]
    except OSError:
        return [""]
