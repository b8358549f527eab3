"""Traces read from the streams alone: what an event led to, how each hop went, and what is still open."""

from penstock.traces.lookup import Traces
from penstock.traces.model import Attempt, AttemptState, Hop, Trace, TracedEvent, TraceList, TraceState, TraceSummary

__all__ = [
    "Attempt",
    "AttemptState",
    "Hop",
    "Trace",
    "TraceList",
    "TraceState",
    "TraceSummary",
    "TracedEvent",
    "Traces",
]
