"""The relay: takes events from the outbox to Redis, each exactly once; `penstock.client.outbox` says why it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import structlog

from penstock.client.outbox import KeptEvent, forget, is_final, publish_kept
from penstock.django.models import OutboxEvent
from penstock.sync import Penstock

_log = structlog.get_logger("penstock.relay")


class Relay:
    """Publishes what lies in the outbox of one database. Any number may run: what two take is published once."""

    def __init__(self, mesh: Penstock, *, using: str = "default", batch: int = 500) -> None:
        self.batch = batch
        """How many events are taken at once."""
        self._mesh = mesh
        self._using = using

    def turn(self) -> int:
        """Publish the oldest events; return how many were there.

        Raises:
            Unavailable: Redis could not take them all. The others are still in the outbox.
            django.db.Error: the database is away.
        """
        rows = self.read()
        if not rows:
            return 0
        outcomes = dict(zip(rows, self.publish(rows), strict=True))
        published = [row for row, outcome in outcomes.items() if outcome is None]
        self.delete(published)
        self.forget(published)
        for row, outcome in outcomes.items():
            if outcome is not None and is_final(outcome):
                self.refuse(row, outcome)
        for outcome in outcomes.values():
            if outcome is not None and not is_final(outcome):
                raise outcome
        return len(rows)

    def read(self) -> list[OutboxEvent]:
        """Return the oldest events that are not refused."""
        return list(self._rows().filter(refused="").order_by("pk")[: self.batch])

    def publish(self, rows: Sequence[OutboxEvent]) -> list[Exception | None]:
        """Publish events; return as `publish_kept` does."""
        return self._mesh.run(publish_kept(self._mesh.client(), [_kept(row) for row in rows]))

    def delete(self, rows: Sequence[OutboxEvent]) -> None:
        """Delete events that Redis has."""
        self._rows().filter(pk__in=[row.pk for row in rows]).delete()

    def forget(self, rows: Sequence[OutboxEvent]) -> None:
        """Let Redis forget events that are deleted."""
        self._mesh.run(forget(self._mesh.client(), [row.event_id for row in rows]))

    def refuse(self, row: OutboxEvent, why: Exception) -> None:
        """Put an event aside that can never be published."""
        _log.error("an event of the outbox is put aside", id=row.event_id, type=row.type, reason=str(why))
        self._rows().filter(pk=row.pk).update(refused=str(why))

    def take_again(self) -> int:
        """Have events tried again that were put aside; return how many."""
        return int(self._rows().exclude(refused="").update(refused=""))

    def _rows(self) -> Any:
        return OutboxEvent.objects.using(self._using)


def _kept(row: OutboxEvent) -> KeptEvent:
    return KeptEvent(
        id=row.event_id,
        type=row.type,
        data=row.data,
        stream=row.stream or None,
        subject=row.subject,
        tenant=row.tenant,
        extra=row.extra,
        delay=max(0.0, row.due - time.time()) if row.due else 0.0,
        traceparent=row.traceparent or None,
        tracestate=row.tracestate or None,
    )
