"""One spool: events go in at the end and come out at the start, through segment files.

Nothing here is asyncio's: whoever uses a spool calls it from one thread at a time.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from penstock.errors import SpoolFull
from penstock.spool.directory import Directory, Place
from penstock.spool.disk import Disk
from penstock.spool.segment import Damage, Found, Record, frame, walk

SEGMENT = 4_000_000
"""Bytes after which the next segment is begun."""
_NAME = re.compile(r"(\d{8})-([0-9a-f]{8})\.seg")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_log = structlog.get_logger("penstock.spool")


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much a spool may hold: bytes of the whole directory, seconds of the oldest event, bytes left on the disk."""

    most_bytes: int
    most_age: float
    least_free: int


class Accepted(NamedTuple):
    """An event to keep; what its parts mean, `Record` says."""

    sequence: int
    key: str
    due: int
    fields: list[str]
    guards: list[tuple[str, int, str]]


class Portion(msgspec.Struct, frozen=True):
    """The first records of a spool, and where the next one lies in its segment."""

    records: list[Record]
    end: int


class _Segment(msgspec.Struct):
    path: Path
    salt: int
    size: int = 0  # bytes that the disk has for sure
    left: int = 0  # records that are still to be published
    damaged: bool = False
    inherited: bool = False  # `left` counts what could be read, not what was written


class Spool:
    """Events of one publisher, in the order in which it accepted them."""

    def __init__(self, place: Place, directory: Directory, bounds: Bounds, disk: Disk | None = None) -> None:
        """Take over what is in `place`."""
        self.place = place
        self._directory = directory
        self._bounds = bounds
        self._disk = disk or Disk()
        self._segments: deque[_Segment] = deque()
        self._segment_number = 0
        self._file: int | None = None  # of the last segment, if it is written to
        self._offset = 0  # in the first segment
        self._known: tuple[Path, bytes] | None = None
        self._written = self._seen = 0  # numbers of records
        self._last = 0  # the sequence of the last one
        self.others = 0
        """Bytes in the directory that are not this spool's, as last seen."""
        self.waiting = 0
        """Events that are still to be published."""
        self.oldest = 0
        """When the first of them was accepted, or one shortly before it; in ms since the epoch."""
        self._load()

    @property
    def id(self) -> str:
        """Names it."""
        return self.place.id

    @property
    def size(self) -> int:
        """Bytes in its segments."""
        return sum(segment.size for segment in list(self._segments))

    @property
    def age(self) -> float:
        """Seconds that the first event has waited."""
        return max(0.0, time.time() - self.oldest / 1000) if self.waiting else 0.0

    def append(self, events: Sequence[Accepted]) -> None:
        """Add events; return once the disk has them.

        Raises:
            SpoolFull: it holds all it may, or the disk takes no more; none of them was added.
        """
        now = time.time_ns() // 1_000_000
        new = [one for one in events if one.sequence > self._last]  # a caller that was cancelled may come twice
        records = [Record(one.sequence, self._written + place, now, *one[1:]) for place, one in enumerate(new, 1)]
        if not records:
            return
        why = self.why_full()
        if why:
            raise SpoolFull(why)
        try:
            self._add(records)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise SpoolFull(f"no room on the disk of its spool ({error.strerror})") from None
            try:  # the kernel forgets what it could not write, so what was there is written anew, elsewhere
                self._add(records)
            except OSError as again:
                raise SpoolFull(f"the disk of its spool fails ({again.strerror})") from None
        self._written += len(records)
        self._last = records[-1].sequence
        if not self.waiting:
            self.oldest = now
        self.waiting += len(records)

    def why_full(self) -> str:
        """Return why it takes nothing now, in a phrase; nothing if it does."""
        bounds = self._bounds
        if (held := self.size + self.others) >= bounds.most_bytes:
            return f"its spool is full with {held:,} bytes (PENSTOCK_SPOOL_MAX_BYTES)"
        if self.age > bounds.most_age:
            return f"its spool is full with what is {self.age:,.0f} s old (PENSTOCK_SPOOL_MAX_AGE)"
        if (free := self._disk.free(self.place.path)) < bounds.least_free:
            return f"the disk of its spool has only {free:,} bytes left (PENSTOCK_SPOOL_MIN_FREE)"
        return ""

    def first(self, *, most_events: int, most_bytes: int) -> Portion | None:
        """Return the first events, at least one and all from one segment; None if there is none."""
        while self._segments:
            segment = self._segments[0]
            records: list[Record] = []
            start = end = self._offset
            for found in self._walk(segment):
                if isinstance(found, Damage):
                    if not records:
                        self._tell_damage(segment, found)
                        start = end = self._offset = found.end
                        continue
                    break
                if records and (len(records) >= most_events or found.end - start > most_bytes):
                    break
                records.append(found.record)
                end = found.end
            if records:
                return Portion(records, end)
            self._drop()
        return None

    def confirm(self, portion: Portion) -> None:
        """Forget the events of `first`: they are published, or put aside."""
        segment = self._segments[0]
        count = len(portion.records)
        self._offset = portion.end
        last = portion.records[-1]
        missing = last.number - self._seen - count
        if missing > 0 and segment.inherited:
            _log.error("events of the spool are lost", spool=self.id, events=missing, before=last.number)
        self._seen = max(self._seen, last.number)
        self.oldest = last.kept_at
        segment.left -= count
        self.waiting -= count
        if self._offset >= segment.size:
            self._drop()

    def close(self) -> None:
        """Close its files; what is in it stays."""
        self._stop_writing()
        self.place.leave()

    def remove(self) -> None:
        """Delete it, empty as it is."""
        assert not self.waiting
        self._stop_writing()
        self.place.remove()

    # Writing

    def _add(self, records: list[Record]) -> None:
        if self._file is None:
            self._begin()
        assert self._file is not None
        segment = self._segments[-1]
        data = b"".join(frame(record, segment.salt) for record in records)
        try:
            self._disk.write(self._file, data, segment.size)
            self._disk.sync(self._file)
        except OSError:
            self._give_up()
            raise
        segment.size += len(data)
        segment.left += len(records)
        if segment.size >= SEGMENT:
            self._stop_writing()

    def _begin(self) -> None:
        self._segment_number += 1
        salt = int.from_bytes(os.urandom(4), "big")
        path = self.place.path / f"{self._segment_number:08}-{salt:08x}.seg"
        self._file = self._disk.create(path)
        self._segments.append(_Segment(path, salt))

    def _give_up(self) -> None:
        """Write no more to a segment on which that failed, and take back what may have got there."""
        segment = self._segments[-1]
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._disk.truncate(self._file, segment.size)
        self._stop_writing()
        if not segment.size:
            self._segments.pop()
            with contextlib.suppress(OSError):
                self._disk.unlink(segment.path)

    def _stop_writing(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                self._disk.close(file)

    # Reading

    def _walk(self, segment: _Segment) -> Iterator[Found | Damage]:
        if self._known is None or self._known[0] != segment.path or len(self._known[1]) < segment.size:
            try:
                self._known = segment.path, self._disk.read(segment.path)[: segment.size]
            except OSError as error:
                segment.damaged = True
                _log.error("a segment of the spool cannot be read", spool=self.id, path=str(segment.path), why=error)
                return
            if len(self._known[1]) < segment.size:
                if not segment.damaged:
                    _log.error("a segment of the spool is cut off", spool=self.id, path=str(segment.path))
                segment.damaged = True
        yield from walk(self._known[1], segment.salt, self._offset)

    def _tell_damage(self, segment: _Segment, damage: Damage) -> None:
        segment.damaged = True
        what = (
            "the end of a segment is no record: it was being written when its process died, and then nobody was told "
            "that it is kept; or the disk has lost it"
            if damage.torn
            else "a segment of the spool is damaged; what lies around the damage is published"
        )
        _log.error(what, spool=self.id, path=str(segment.path), start=damage.start, end=damage.end)

    def _drop(self) -> None:
        """Be done with the first segment; one that is damaged is put aside whole."""
        segment = self._segments[0]
        if len(self._segments) == 1:
            self._stop_writing()
        if segment.left:
            _log.error("events of the spool are lost", spool=self.id, events=segment.left)
        if segment.damaged and segment.path.exists():
            self._directory.move_aside(segment.path, f"{self.id}-{segment.path.name}")
        else:
            self._disk.unlink(segment.path)
        self._segments.popleft()
        self._known = None
        self._offset = 0
        self.waiting -= segment.left

    def _load(self) -> None:
        for segment in segments(self.place.path):
            segment.inherited = True
            with contextlib.suppress(OSError):  # it is told when it is that segment's turn
                data = self._disk.read(segment.path)
                segment.size = len(data)
                for found in walk(data, segment.salt):
                    if isinstance(found, Found):
                        if not self._written:
                            self.oldest, self._seen = found.record.kept_at, found.record.number - 1
                        self._written = max(self._written, found.record.number)
                        segment.left += 1
            self._segments.append(segment)
            self._segment_number = int(segment.path.name[:8])
            self.waiting += segment.left


def segments(folder: Path) -> list[_Segment]:
    """Return the segments in a folder, in their order, without a look into them."""
    with contextlib.suppress(FileNotFoundError):
        names = [(path, _NAME.fullmatch(path.name)) for path in sorted(folder.iterdir())]
        return [_Segment(path, int(name[2], 16)) for path, name in names if name]
    return []
