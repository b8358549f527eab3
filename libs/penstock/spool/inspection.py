"""A look into a spool directory that changes nothing."""

from __future__ import annotations

import contextlib

import msgspec

from penstock.spool.directory import Directory, Owner
from penstock.spool.segment import Damage, walk
from penstock.spool.spool import segments


class Inspected(msgspec.Struct, kw_only=True):
    """One spool as it lies on disk: events that can be read, since when (ms since the epoch), and what is wrong.

    A process that still publishes it may have published the first of them.
    """

    name: str
    owner: Owner
    in_use: bool
    events: int = 0
    bytes: int = 0
    oldest: int | None = None
    damage: list[str] = []


def inspect(directory: Directory) -> list[Inspected]:
    """Look into every spool, the oldest first."""
    found = []
    for name in directory.names():
        owner = directory.owner(name)
        if owner is not None:
            one = Inspected(name=name, owner=owner, in_use=directory.is_owned(name))
            _look(directory, one)
            found.append(one)
    return found


def _look(directory: Directory, one: Inspected) -> None:
    for segment in segments(directory.path / one.name):
        data = b""
        with contextlib.suppress(FileNotFoundError):  # its process was faster
            data = segment.path.read_bytes()
        one.bytes += len(data)
        for found in walk(data, segment.salt):
            if isinstance(found, Damage):
                if found.torn and one.in_use:
                    continue  # it is being written
                where = f"{segment.path.name}, bytes {found.start} to {found.end}"
                one.damage.append(f"{where} are no record{', nor is there one behind' if found.torn else ''}")
            else:
                one.events += 1
                one.oldest = one.oldest or found.record.kept_at
