"""Scopes and contexts for tests of what needs no Redis."""

from __future__ import annotations

import itertools

from penstock.event import Event, decode, encode, encode_data
from penstock.keys import Keys
from penstock.service.context import Context
from penstock.service.effects import Scope
from penstock.testing.doubles import Breakers, Checkpoints, Outlet

_entries = itertools.count(1)


def make_scope(
    *,
    service: str = "worker",
    publishes: tuple[str, ...] = ("events",),
    checkpoints: Checkpoints | None = None,
    outlet: Outlet | None = None,
    breakers: Breakers | None = None,
) -> Scope:
    return Scope(
        service=service,
        keys=Keys(),
        publishes=frozenset(publishes),
        checkpoints=checkpoints or Checkpoints(),
        outlet=outlet or Outlet(),
        breakers=breakers or Breakers(),
    )


def make_event(
    event_type: str = "t",
    data: object = None,
    *,
    id: str | None = None,  # noqa: A002 - the attribute's name
    **attributes: str,
) -> Event:
    """Return an event as read from `ingest`; bytes are its data as they are."""
    raw = data if isinstance(data, bytes) else encode_data(data).encode()
    fields = [field.encode() for field in encode(event_type, "", event_id=id, **attributes)]  # type: ignore[arg-type]
    return decode("ingest", f"1700000000000-{next(_entries)}", [*fields, b"data", raw])


def make_context(event: Event | None = None, scope: Scope | None = None, *, attempt: int = 1) -> Context:
    return Context(scope or make_scope(), event or make_event(id="T-1"), stream="ingest", attempt=attempt)
