"""Redis that pauses, and processes that do, beside others: nobody died, so nothing is moved, charged or cancelled."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.test_crashes import all_done_once, completed, worker
from tests.hands import Raw, fields_of
from tests.processes import eventually
from tests.servers import Server

BEATS = "beats:worker"


class Pair:
    """Two workers with jobs that run until `release`."""

    def __init__(self, raw: Raw, folder: Path) -> None:
        self.raw = raw
        self._folder = folder
        self._notes, self._until = folder / "notes", folder / "until"
        self._notes.touch()
        self.count = 0

    def add(self, kind: str = "held", **more: Any) -> int:
        """Add a job; return its number."""
        number, self.count = self.count, self.count + 1
        data = {"n": number, "notes": str(self._notes), "until": str(self._until), **more}
        self.raw.xadd("ingest", {"type": kind, "data": json.dumps(data)})
        return number

    def begun(self) -> list[tuple[int, int]]:
        """Return the number of each job that has begun, and its process."""
        lines = [line.split() for line in self._notes.read_text().splitlines()]
        return [(int(number), int(pid)) for word, number, pid in lines if word == "begun"]

    def occupy(self) -> None:
        """Add jobs until each process has three."""
        for _ in range(100):
            if sorted(Counter(pid for _, pid in self.begun()).values())[:2] >= [3, 3]:
                return
            self.add()
            eventually(lambda: len(self.begun()) == self.count, what="it has begun")
        raise AssertionError(f"one process takes everything: {self.begun()}")

    def let_them_watch(self) -> None:
        """Wait until both have seen each other's beats for longer than silence may last."""

        def counts() -> dict[bytes, int]:
            return {name: int(beat.partition(b":")[0]) for name, beat in self.raw.hgetall(BEATS).items()}

        before = counts()
        eventually(lambda: [name for name, count in counts().items() if count >= before.get(name, 0) + 5][1:])

    def release(self) -> None:
        """Let all jobs end, and see that each has run once, undisturbed."""
        self._until.touch()
        all_done_once(self.raw, self.count)
        assert sorted(number for number, _ in self.begun()) == list(range(self.count)), "each has begun once"
        assert "cancelled" not in self._notes.read_text()
        assert [fields["type"] for fields in fields_of(self.raw, "events")] == ["job.completed"] * self.count
        assert {json.loads(fields["data"])["attempt"] for fields in fields_of(self.raw, "events")} == {1}
        assert self.raw.xinfo_stream("ingest:worker:retry")["entries-added"] == 0, "nothing was moved"
        assert not self.raw.exists("dlq", "ingest:worker:delayed")
        logs = "".join(log.read_text() for log in self._folder.glob("log.*"))
        assert "took over" not in logs
        assert "lost" not in logs


@contextmanager
def pair(server: Server, folder: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        raw = stack.enter_context(server.client())
        for name in ("a", "b"):
            stack.enter_context(worker(server, log=folder / f"log.{name}"))
        eventually(lambda: raw.hlen(BEATS) == 2, what="both workers are alive")
        made = Pair(raw, folder)
        made.occupy()
        yield made


@pytest.mark.parametrize("mode", ["ALL", "WRITE"])
def test_a_redis_that_pauses_costs_nothing(own_server: Server, tmp_path: Path, mode: str) -> None:
    with pair(own_server, tmp_path) as both:
        for milliseconds in (3_500, 3_580, 4_000):
            both.raw.execute_command("CLIENT PAUSE", milliseconds, mode)
            both.raw.set("written", 1)  # which waits for the end of the pause
            both.let_them_watch()
        both.release()


@pytest.mark.parametrize("kind", ["lock.plain", "lock.loop"])
def test_a_handler_that_keeps_the_interpreters_lock_is_not_taken_for_dead(
    own_server: Server, tmp_path: Path, kind: str
) -> None:
    with pair(own_server, tmp_path) as both:
        number = both.add(kind, seconds=5)
        eventually(lambda: completed(both.raw)[number], what="it is done")
        both.let_them_watch()
        both.release()
