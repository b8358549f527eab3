"""What is in flight here: the event and span that the code running now belongs to."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

from penstock.event import Event
from penstock.trace_context import TraceContext


class InHand(Protocol):
    """What a log line wants to know of the handler that writes it."""

    @property
    def event(self) -> Event:
        """The event being handled."""

    @property
    def trace(self) -> TraceContext:
        """The span of this run of the handler."""


current: ContextVar[InHand | None] = ContextVar("penstock_current", default=None)
