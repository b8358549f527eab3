"""Segments: files of records, each with its length and checksums, so that damage costs what is damaged and no more."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import msgspec

from penstock.errors import UNREADABLE

_MARK = b"\xf5SPL"
_HEAD = struct.Struct("<4sIII")  # the mark, the length of what follows, its checksum, the checksum of the head so far


class Record(msgspec.Struct, frozen=True, array_like=True):
    """An event that was accepted and is still to be published, with what it must not have been seen under.

    `sequence` is its place among all that its publisher has sent, `number` its place in the spool, counted from 1
    without a gap. `kept_at` and `due` are in ms since the epoch; an event that is due at once has a `due` of 0.
    """

    sequence: int
    number: int
    kept_at: int
    key: str
    due: int
    fields: list[str]
    guards: list[tuple[str, int, str]]


class Found(msgspec.Struct, frozen=True):
    """A whole record, and where it lies in its segment."""

    record: Record
    end: int


class Damage(msgspec.Struct, frozen=True):
    """Bytes of a segment that are no record; `torn`: none follows, as where a process died while it wrote."""

    start: int
    end: int
    torn: bool


_decoder = msgspec.msgpack.Decoder(Record)


def frame(record: Record, salt: int) -> bytes:
    """Return a record as it lies in a segment.

    The salt goes into every checksum. Senders do not know it, so no event can hold what would pass for a record.
    """
    payload = msgspec.msgpack.encode(record)
    head = struct.pack("<4sII", _MARK, len(payload), zlib.crc32(payload, salt))
    return head + struct.pack("<I", zlib.crc32(head, salt)) + payload


def walk(data: bytes, salt: int, start: int = 0) -> Iterator[Found | Damage]:
    """Yield what is in a segment from `start` on, in order: records, and damage between or behind them."""
    at = start
    while at < len(data):
        found: Found | Damage | None = _record_at(data, at, salt)
        if found is None:
            following = _next_record(data, at + 1, salt)
            found = Damage(at, following or len(data), torn=following is None)
        yield found
        at = found.end


def _record_at(data: bytes, at: int, salt: int) -> Found | None:
    start = at + _HEAD.size
    if start > len(data):
        return None
    mark, length, checksum, of_head = _HEAD.unpack_from(data, at)
    if mark != _MARK or zlib.crc32(data[at : start - 4], salt) != of_head:
        return None
    payload = data[start : start + length]
    if len(payload) != length or zlib.crc32(payload, salt) != checksum:
        return None
    try:
        return Found(_decoder.decode(payload), start + length)
    except UNREADABLE:  # a bug of whoever wrote it, or one chance in four thousand million
        return None


def _next_record(data: bytes, at: int, salt: int) -> int | None:
    while (at := data.find(_MARK, at)) >= 0:
        if _record_at(data, at, salt) is not None:
            return at
        at += 1
    return None
