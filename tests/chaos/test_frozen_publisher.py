"""A publisher that is frozen between two tries, for longer than anybody remembers the first."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.cutter import cutter
from tests.hands import Raw
from tests.processes import ROOT, eventually
from tests.servers import Server

TOKENS = "dedupe:batch:*"


@contextmanager
def frozen(server: Server, raw: Raw, *, token_seconds: int) -> Iterator[subprocess.Popen[str]]:
    """Run a publisher that has lost the reply to its first try, and is stopped before the second."""
    with cutter(server) as wire:
        wire.cut_reply_to(b"order.placed")
        command = [sys.executable, "-m", "tests.chaos.frozen_publisher", wire.url, str(token_seconds)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            try:
                eventually(lambda: is_stopped(process.pid), what="it is frozen")
                assert (wire.cuts, raw.xlen("ingest")) == (1, 1), "the first try has arrived, and its reply has not"
                yield process
            finally:
                process.kill()


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_it_does_not_publish_twice(server: Server, raw: Raw) -> None:
    with frozen(server, raw, token_seconds=2) as process:
        eventually(lambda: not raw.keys(TOKENS), what="nobody remembers the first try")
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate(timeout=20)

    assert raw.xlen("ingest") == 1
    assert said == "Redis is unavailable: it is not known whether it took them"


def test_one_that_wakes_up_in_time_learns_what_came_of_the_first_try(server: Server, raw: Raw) -> None:
    with frozen(server, raw, token_seconds=60) as process:
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate(timeout=20)

    [(entry, _)] = raw.xrange("ingest")
    assert said == entry.decode()
