"""Threads for plain handlers, and for what others give to `asyncio.to_thread`.

A thread cannot be stopped. One whose call nobody waits for any more hangs: it is counted, and another takes its place,
so that the calls that wait have their turn. No thread keeps a process from ending.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import structlog

from penstock.service import forks

_log = structlog.get_logger("penstock.threads")


class _Call(Future[Any]):
    """A call on its way to a thread, and in it."""

    def __init__(
        self, function: Callable[[], Any], left: Callable[[_Call], None], ended: Callable[[_Call], None]
    ) -> None:
        super().__init__()
        self._function = function
        self._left = left
        self._ended = ended
        self.over = False
        self.hangs = False

    def cancel(self) -> bool:
        """Take back a call that no thread has begun; one that has begun hangs from now on."""
        cancelled = super().cancel()
        if not cancelled:
            self._left(self)
        return cancelled

    def run(self) -> None:
        """Run it, in a thread."""
        result, error = None, None
        try:
            result = self._function()
        except BaseException as raised:  # noqa: BLE001 - it is the caller's
            error = raised
            forks.end_if_child()
        else:
            forks.end_if_child()
        self._ended(self)
        if error is None:
            self.set_result(result)
        else:
            self.set_exception(error)


class Threads(ThreadPoolExecutor):
    """Up to `size` threads, besides those that hang.

    It is a ThreadPoolExecutor because an event loop takes no other, and has nothing of one but its name.
    """

    def __init__(self, size: int, *, name: str, most_hung: int, exhausted: Callable[[], object]) -> None:
        """Call `exhausted` when `most_hung` threads hang, from whichever thread."""
        super().__init__(1)  # which starts no thread before something is submitted to it
        self._size = size
        self._name = name
        self._most_hung = most_hung
        self._exhausted = exhausted
        self._changed = threading.Condition()
        self._calls: deque[_Call] = deque()
        self._idle = 0
        self._count = 0
        self._closed = False
        self.hung = 0
        """How many threads hang."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a thread call `fn`, as soon as one is free.

        Raises:
            RuntimeError: the pool is closed.
        """
        call = _Call(functools.partial(fn, *args, **kwargs), self._hangs, self._over)
        with self._changed:
            if self._closed:
                raise RuntimeError("the threads have ended")
            self._calls.append(call)
            self._find_thread()
        return call

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Begin nothing more, and wait for nothing: a thread that hangs would hold the end of its process."""
        with self._changed:
            self._closed = True
            calls, self._calls = self._calls, deque()
            self._changed.notify_all()
        for call in calls:
            call.cancel()

    def _find_thread(self) -> None:
        if self._idle >= len(self._calls):
            self._changed.notify()
        elif self._count - self.hung < self._size:
            try:
                threading.Thread(target=self._work, name=f"{self._name}-{self._count}", daemon=True).start()
            except RuntimeError as error:  # too many for this machine: the call waits for one of ours
                _log.warning("no thread can be started", reason=str(error))
            else:
                self._count += 1

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._count - self.hung > self._size:  # others took our place while we hung
                    self._count -= 1
                    return
                self._idle += 1
                while not self._calls and not self._closed:
                    self._changed.wait()
                self._idle -= 1
                if not self._calls:
                    self._count -= 1
                    return
                call = self._calls.popleft()
            if call.set_running_or_notify_cancel():
                call.run()
            del call

    def _over(self, call: _Call) -> None:
        with self._changed:
            call.over = True
            self.hung -= call.hangs

    def _hangs(self, call: _Call) -> None:
        with self._changed:
            if call.over or call.hangs or not call.running():
                return
            call.hangs = True
            self.hung += 1
            hung = self.hung
            if self._calls:
                self._find_thread()
        if hung == 1:
            _log.warning("a thread hangs: its time is over, and nothing but a new process can end it; see what failed")
        if hung == self._most_hung:
            _log.error("too many threads hang: ending, to be started again", threads=hung)
            self._exhausted()
