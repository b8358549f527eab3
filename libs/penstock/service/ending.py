"""The end of a process: in order, or after a while by force."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import structlog

AFTER_DRAIN = 10.0  # seconds after the grace time in which a process has ended, whatever its handlers do
_FLUSH = 2.0  # seconds for the last telemetry
_HELD = "handlers do not end, or something blocks the event loop"
_log = structlog.get_logger("penstock.service")


class Ending:
    """Sees to it that a process that should end does, from a thread of its own.

    Handlers may swallow being cancelled, threads may hang, something may block the event loop: none of them holds it.
    """

    def __init__(self, flush: Callable[[], object]) -> None:
        """`flush` sends what telemetry is left."""
        self._flush = flush
        self._bounds: queue.SimpleQueue[tuple[float, str, str] | None] = queue.SimpleQueue()  # a signal handler may put
        self.code = 1
        """The exit status of an end by force."""
        self.error: BaseException | None = None
        """What the process ends of."""
        self.has_signals = False
        """Whether SIGTERM and SIGINT come to `signals`."""
        threading.Thread(target=self._watch, name="ending", daemon=True).start()

    def within(self, seconds: float, why: str, *, signal: str = "") -> None:
        """End the process by force unless it has ended after `seconds`; the last word counts.

        `signal` is what has asked for it; a signal handler may call this.
        """
        self._bounds.put((time.monotonic() + seconds, why, signal))

    def cancel(self) -> None:
        """Let the process live."""
        self._bounds.put(None)

    def _watch(self) -> None:
        until, why = None, ""
        while True:
            try:
                bound = self._bounds.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            until, why, asked = bound or (None, "", "")
            if asked:  # not by the signal handler: it may have interrupted a log line
                _log.info("asked to stop", signal=asked)
        _log.error("ending by force", reason=why, exc_info=self.error)
        flushing = threading.Thread(target=self._flush, daemon=True)
        flushing.start()
        flushing.join(_FLUSH)
        _exit(self.code)


@contextlib.contextmanager
def signals(stop: Callable[[], object], ending: Ending | None, *, grace: float) -> Iterator[None]:
    """Call `stop` at the first SIGTERM or SIGINT, and end within `grace` seconds and a bound; at the second, at once.

    Handlers of Python's own, not the event loop's: they are called while something blocks it, too.
    """
    asked = False

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if asked and ending is not None:
            _exit(128 + number)
        asked = True
        if ending is not None:
            ending.within(grace + AFTER_DRAIN, _HELD, signal=signal.Signals(number).name)
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    if ending is not None:
        ending.has_signals = True
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
