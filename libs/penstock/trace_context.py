"""W3C Trace Context: the one id that follows an event through every hop.

Source of the format: https://www.w3.org/TR/trace-context/ (version 00).
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence

import msgspec

LINKS = "links"
"""Field of an event that comes from other traces besides its own: their traceparents, separated by spaces."""
_MOST_LINKS = 32
_NO_TEXT = hashlib.blake2b(digest_size=16, person=b"penstock-trace")  # to copy one is cheaper than to make one
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """The trace an event belongs to and the span that published it.

    `span_id` is empty at the root of a trace that no producer started.
    """

    trace_id: str
    span_id: str = ""
    flags: str = "00"

    @classmethod
    def parse(cls, traceparent: str | None) -> TraceContext | None:
        """Read a traceparent header; None when absent or malformed (a new trace then starts)."""
        found = _TRACEPARENT.match(traceparent) if traceparent else None
        if found is None:
            return None
        version, trace_id, span_id, flags, more = found.groups()
        if trace_id == "0" * 32 or span_id == "0" * 16 or (version == "00" and more):  # later versions may have more
            return None
        return cls(trace_id, span_id, flags)

    @classmethod
    def for_text(cls, text: str) -> TraceContext:
        """Start the trace whose id follows from `text`."""
        digest = _NO_TEXT.copy()
        digest.update(text.encode())
        return cls(digest.hexdigest())

    @classmethod
    def new(cls) -> TraceContext:
        """Start a trace at random, for work that no event caused."""
        return cls(f"{random.getrandbits(128) or 1:032x}")

    def child(self) -> TraceContext:
        """Return the context of a new span within this trace."""
        return TraceContext(self.trace_id, "%016x" % (random.getrandbits(64) or 1), self.flags)

    @property
    def sampled(self) -> bool:
        """Whether spans of this trace are kept."""
        return self.flags[-1] in "13579bdf"

    def keep(self) -> TraceContext:
        """Return this context with its spans to be kept from here on."""
        return TraceContext(self.trace_id, self.span_id, "01")

    @property
    def traceparent(self) -> str:
        """The header that carries this context to the next hop."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def format_links(links: Sequence[TraceContext]) -> str:
    """Write traces for the field `LINKS`."""
    return " ".join(link.traceparent for link in links[:_MOST_LINKS])


def parse_links(field: str | None) -> tuple[TraceContext, ...]:
    """Read the traces of the field `LINKS`; what is malformed is left out."""
    found = map(TraceContext.parse, (field or "").split()[:_MOST_LINKS])
    return tuple(trace for trace in found if trace is not None)
