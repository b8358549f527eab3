"""A spool under failing disks and crashes, against a model: what it said is kept is there, once and in order."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from penstock.errors import SpoolFull
from penstock.spool.directory import Directory, Owner
from penstock.spool.disk import Disk
from penstock.spool.spool import Accepted, Bounds, Spool

OWNER = Owner(program="p", server="redis://s", prefix="")
ROOMY = Bounds(most_bytes=10**9, most_age=10**9, least_free=0)
FAILURES = ("create", "write", "half", "sync", "truncate", "sync_folder")


class FailingDisk(Disk):
    """Fails the next call of the kinds it is told; notes how much of each file is on the disk for sure."""

    def __init__(self) -> None:
        self.failing: set[str] = set()
        self.error = errno.EIO
        self.written: dict[int, int] = {}
        self.synced: dict[str, int] = {}

    def create(self, path: Path) -> int:
        self._fail("create")
        file = super().create(path)
        self.written[file] = 0
        self.synced[path.name] = 0
        return file

    def write(self, file: int, data: bytes, at: int) -> None:
        if "half" in self.failing:
            super().write(file, data[: len(data) // 2], at)
        self._fail("half")
        self._fail("write")
        super().write(file, data, at)
        self.written[file] = at + len(data)

    def sync(self, file: int) -> None:
        self._fail("sync")
        name = Path(f"/proc/self/fd/{file}").readlink().name
        self.synced[name] = os.fstat(file).st_size

    def truncate(self, file: int, size: int) -> None:
        self._fail("truncate")
        super().truncate(file, size)

    def sync_folder(self, folder: Path) -> None:
        self._fail("sync_folder")

    def _fail(self, what: str) -> None:
        if what in self.failing:
            self.failing.discard(what)
            raise OSError(self.error, os.strerror(self.error))


class SpoolMachine(RuleBasedStateMachine):
    """Appends, reads, confirms, fails and crashes."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-spool-"))
        self.directory = Directory(self.folder)
        self.disk = FailingDisk()
        self.spool = Spool(self.directory.claim("s", OWNER), self.directory, ROOMY, self.disk)
        self.sequence = 0
        self.kept: list[int] = []  # promised, and not confirmed yet
        self.doubtful: set[int] = set()  # refused, and may be there all the same
        self.position = 0  # as Redis has it

    @rule(count=st.integers(1, 5), size=st.sampled_from([1, 1_000, 3_000_000]))
    def append(self, count: int, size: int) -> None:
        first = self.sequence + 1
        self.sequence += count
        numbers = range(first, self.sequence + 1)
        events = [Accepted(number, "ingest", 0, ["data", "x" * (size // count)], []) for number in numbers]
        try:
            self.spool.append(events)
        except SpoolFull:
            self.doubtful.update(numbers)
        else:
            self.kept += numbers

    @rule(what=st.sets(st.sampled_from(FAILURES), min_size=1), error=st.sampled_from([errno.EIO, errno.ENOSPC]))
    def fail_next(self, what: set[str], error: int) -> None:
        self.disk.failing, self.disk.error = set(what), error

    @rule(most=st.integers(1, 4), confirmed=st.booleans())
    def replay(self, most: int, confirmed: bool) -> None:
        self.disk.failing.clear()
        portion = self.spool.first(most_events=most, most_bytes=10**9)
        if portion is None:
            assert self.kept == []
            return
        for record in portion.records:
            if record.sequence > self.position:  # what Redis takes
                self.position = record.sequence
                if self.kept and self.kept[0] == record.sequence:
                    self.kept.pop(0)
                else:
                    assert record.sequence in self.doubtful
        if confirmed:
            self.spool.confirm(portion)
        else:
            self.crash(0.0)  # after Redis took it, before that was noted

    @rule(share=st.floats(0, 1))
    def crash(self, share: float) -> None:
        """Lose what was not synced, but for a share of it; another process takes over."""
        self.spool.close()
        for path in (self.folder / "s").glob("*.seg"):
            size, synced = path.stat().st_size, self.disk.synced.get(path.name, path.stat().st_size)
            if size > synced:
                os.truncate(path, synced + round((size - synced) * share))
        place = self.directory.adopt("s")
        assert place is not None
        self.disk = FailingDisk()
        self.spool = Spool(place, self.directory, ROOMY, self.disk)

    @invariant()
    def counts(self) -> None:
        if hasattr(self, "spool"):
            assert self.spool.waiting >= len(self.kept)

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.disk.failing.clear()
            while self.kept:
                self.replay(1_000, confirmed=True)
            self.spool.close()
            shutil.rmtree(self.folder)


TestSpool = SpoolMachine.TestCase
TestSpool.settings = hypothesis_settings(max_examples=60, stateful_step_count=30, deadline=None)
