"""Time limits of handler runs: one sweep for all of a process, rather than a timer each."""

from __future__ import annotations

import asyncio
import math
import time

_SWEEP = 0.05  # seconds between looks: how late a time limit may be


class TimeLimit:
    """The time one handler run has. `over` says that it ran out, and the task was cancelled for it."""

    __slots__ = ("at", "over", "seconds", "task")

    def __init__(self, task: asyncio.Task[object], seconds: float, *, begun: bool) -> None:
        self.task = task
        self.seconds = seconds
        self.at = time.monotonic() + seconds if begun else math.inf
        self.over = False

    def begin(self) -> None:
        """Let the time run from now on; a thread may say so, too."""
        self.at = time.monotonic() + self.seconds


class TimeLimits:
    """Cancels tasks whose time is over. A limit costs a place in a set; only one timer runs, while there are any."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._limits: set[TimeLimit] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, seconds: float, *, begun: bool = True) -> TimeLimit:
        """Give the current task `seconds`, from now on, or from when the limit begins."""
        # To ask which loop runs is a system call, in Python 3.11: ask the one of last time whether it is still that.
        loop = self._loop
        task = None if loop is None else asyncio.current_task(loop)
        if loop is None or task is None:
            loop = self._loop = asyncio.get_running_loop()
            task = asyncio.current_task(loop)
            assert task is not None
        limit = TimeLimit(task, seconds, begun=begun)
        self._limits.add(limit)
        if self._timer is None:
            self._timer = loop.call_later(min(_SWEEP, seconds), self._sweep, loop)
        return limit

    def end(self, limit: TimeLimit) -> None:
        """Lift a limit."""
        self._limits.discard(limit)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        for limit in [limit for limit in self._limits if limit.at <= now]:
            self._limits.discard(limit)
            limit.over = True
            limit.task.cancel()
        self._timer = loop.call_later(_SWEEP, self._sweep, loop) if self._limits else None
