"""Child processes that cannot outlive the process that started them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # prctl(2)


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
