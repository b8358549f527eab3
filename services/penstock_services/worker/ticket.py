"""The example job: a support ticket."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from penstock import Context, Service

jobs = Service("ticket")

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """A support ticket as a shop's back end reports it."""

    ticket_id: Text
    description: Annotated[str, msgspec.Meta(max_length=10_000)]
    priority: Literal["low", "medium", "high", "critical"]
    tenant_id: Text
    timestamp: datetime


class Triaged(msgspec.Struct, frozen=True, kw_only=True):
    """ticket.triaged, on `events`: by when somebody must have answered a ticket."""

    ticket_id: str
    priority: str
    respond_within_hours: int


_HOURS = {"critical": 1, "high": 4, "medium": 24, "low": 72}


@jobs.on("ingest", type="ticket.created")
async def triage(ticket: Ticket, ctx: Context) -> dict[str, Any]:
    """Say until when somebody must have answered."""
    respond_within = _HOURS[ticket.priority]
    ctx.emit(
        "events",
        "ticket.triaged",
        Triaged(ticket_id=ticket.ticket_id, priority=ticket.priority, respond_within_hours=respond_within),
        subject=ticket.ticket_id,
        tenant=ticket.tenant_id,
    )
    return {"ticket_id": ticket.ticket_id, "respond_within_hours": respond_within}
