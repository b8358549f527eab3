"""Forks: a child that a handler forks, as multiprocessing does, must not speak for the process it came from."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path


class _Process:
    """What this process is."""

    serves = False
    is_child = False


class _Thread(threading.local):
    """What a thread that forks has set aside; several may fork at once."""

    mask: set[int] | None = None


_this = _Process()
_thread = _Thread()


@contextlib.contextmanager
def children_are_strangers() -> Iterator[None]:
    """While inside, children that are forked have the default signal handlers and none of our connections.

    With ours, the signal that ends a child would be read by its parent as a word to itself: they share the pipe that
    wakes the event loop. Connections that a child keeps open would make its parent look alive after its death, and a
    port that it keeps open would take connections that nobody answers.
    """
    _this.serves, _this.is_child = True, False
    try:
        yield
    finally:
        _this.serves = False


def end_if_child() -> None:
    """End a child that returns from a handler, as after a bare `os.fork()`, into an event loop that is its parent's."""
    if _this.is_child:
        error = sys.exc_info()[1]
        code = error.code if isinstance(error, SystemExit) else error and 1
        os._exit(code if isinstance(code, int) else bool(code))


def _before() -> None:
    """Let signals wait: one that comes to a child before its handlers are its own would be told to its parent."""
    if _this.serves:
        _thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def _after() -> None:
    mask, _thread.mask = _thread.mask, None
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _after_in_child() -> None:
    if _this.serves:
        _become_a_stranger()
    _after()


def _become_a_stranger() -> None:
    _this.serves, _this.is_child = False, True
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    _let_go_of_sockets()


def _let_go_of_sockets() -> None:
    """Put nothing in the place of each socket with an address; whoever closes them later closes nothing else.

    Nameless ones are pairs, such as multiprocessing's own pipes.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for path in list(Path("/dev/fd").iterdir()):
        number = int(path.name)
        with contextlib.suppress(OSError):
            if number > 2 and stat.S_ISSOCK(os.fstat(number).st_mode) and _has_address(number):
                os.dup2(nothing, number, inheritable=False)
    os.close(nothing)


def _has_address(number: int) -> bool:
    with socket.socket(fileno=os.dup(number)) as one:
        if one.family != socket.AF_UNIX:
            return True
        if one.getsockname():
            return True
        with contextlib.suppress(OSError):
            return bool(one.getpeername())
        return False


os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after_in_child)
