"""The commit, in memory: what commit.lua does, between two turns of the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from penstock.event import own_fields
from penstock.memory.streams import Streams, encoded
from penstock.memory.values import Values
from penstock.streams.commit import DEAD, RETRY, Commit, Settled, Source, UnitOfWork


class MemoryCommitter:
    """Settles the units of work of one service: each whole, or not at all."""

    def __init__(
        self,
        values: Values,
        streams: Streams,
        *,
        consumer: str,
        sources: Sequence[Source],
        scheduled: Mapping[str, str],
        dead_letters: str,
    ) -> None:
        """`scheduled` has, by the key where what is delayed waits, the key of its stream.

        Without `dead_letters`, the key of their stream, the dead are dropped.
        """
        self.consumer = consumer
        self._values = values
        self._streams = streams
        self.sources = sources
        self._retries = {source.stream: source.key for source in sources if source.is_retry}
        self._scheduled = scheduled
        self._dead_letters = dead_letters
        self._loop = asyncio.get_running_loop()
        self.settled = 0
        """How many entries it has settled."""

    def submit(self, unit: UnitOfWork) -> Commit:
        """Settle `unit` in the next turn of the loop: a handler that never waits lets others have theirs."""
        commit = Commit(unit)
        self._loop.call_soon(self._settle, commit)
        return commit

    def _settle(self, commit: Commit) -> None:
        commit.settle(self._carry_out(commit.unit))

    def _carry_out(self, unit: UnitOfWork) -> Settled:
        try:
            if not all(self._values.holds(*guard) for guard in unit.guards):
                return Settled(stale=True)
            outputs = [(output, encoded(output.fields)) for output in unit.outputs]
            added = [(entry, encoded(entry.fields)) for entry in unit.entries]
        except (TypeError, UnicodeEncodeError) as error:
            return Settled(invalid=str(error))
        why = self._values.change(unit.operations)
        if why is not None:
            return Settled(invalid=why)
        for output, fields in outputs:
            if output.delay_ms:
                self._streams.add_later(self._scheduled[output.key], fields, output.delay_ms / 1000)
            else:
                self._streams.add(output.key, fields)
        for entry, more in added:
            source = self.sources[entry.source]
            own = own_fields(entry.in_hand, most=len(entry.in_hand), is_parked=source.is_retry)
            if entry.disposition == RETRY:
                self._streams.add_later(self._retries[source.stream], [*own, *more], entry.delay_ms / 1000)
            elif entry.disposition == DEAD and self._dead_letters:
                self._streams.add(self._dead_letters, [*own, *more])
        self.settled += len(unit.entries)
        return Settled()
