"""Traces read from the streams alone: what an event led to, how each hop went, and what is still open."""

from penstock.traces.lookup import Traces
from penstock.traces.model import Attempt, Hop, Outcome, State, Trace, TracedEvent, TraceList, TraceSummary

__all__ = ["Attempt", "Hop", "Outcome", "State", "Trace", "TraceList", "TraceSummary", "TracedEvent", "Traces"]
