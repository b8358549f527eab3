"""Finding one's way among many dead letters: by what they have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import msgspec

from penstock.dlq.dead_letter import DeadLetter
from penstock.dlq.queue import DeadLetters
from penstock.times import entry_ms


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters are meant: those that fit everything given. `since` is in seconds since the epoch."""

    fingerprint: str | None = None
    type: str | None = None
    group: str | None = None
    since: float | None = None

    def holds(self, letter: DeadLetter) -> bool:
        """Return whether a letter is meant."""
        return (
            self.fingerprint in (None, letter.fingerprint)
            and self.type in (None, letter.type)
            and self.group in (None, letter.group)
            and (self.since is None or died_at(letter) >= self.since)
        )


class Cause(msgspec.Struct, kw_only=True):
    """Dead letters of one fingerprint: how many, since when, and the newest as an example."""

    fingerprint: str
    count: int
    type: str
    group: str
    reason: str
    error: str
    first: str
    last: str
    example: str


async def select(letters: DeadLetters, selection: Selection, *, replayed: bool = False) -> AsyncIterator[DeadLetter]:
    """Yield the letters meant, the newest first."""
    async for letter in letters.newest(replayed=replayed):
        if selection.since is not None and died_at(letter) < selection.since:
            return  # the queue is in the order in which they died
        if selection.holds(letter):
            yield letter


class CauseTally:
    """Groups letters, given the newest first, by fingerprint, and keeps none of them."""

    def __init__(self) -> None:
        self._found: dict[str, Cause] = {}

    def add(self, letter: DeadLetter) -> None:
        """Count a letter."""
        cause = self._found.get(letter.fingerprint)
        if cause is None:
            cause = self._found[letter.fingerprint] = Cause(
                fingerprint=letter.fingerprint,
                count=0,
                type=letter.type,
                group=letter.group,
                reason=letter.reason,
                error=letter.error,
                first=letter.time,
                last=letter.time,
                example=letter.letter,
            )
        cause.count += 1
        cause.first = letter.time

    @property
    def causes(self) -> list[Cause]:
        """The causes, the most frequent first."""
        return sorted(self._found.values(), key=lambda cause: -cause.count)


def causes(letters: Iterable[DeadLetter]) -> list[Cause]:
    """Group letters, given the newest first, by fingerprint; the most frequent cause first."""
    tally = CauseTally()
    for letter in letters:
        tally.add(letter)
    return tally.causes


def died_at(letter: DeadLetter) -> float:
    """Return when a letter was written, in seconds since the epoch: its id is the server's time."""
    return entry_ms(letter.letter) / 1000
