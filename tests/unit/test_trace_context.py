"""W3C Trace Context, version 00: https://www.w3.org/TR/trace-context/#traceparent-header"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.trace_context import TraceContext

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
lower_hex = st.text("0123456789abcdef", min_size=32, max_size=32)


def test_a_traceparent_is_read_and_written_as_it_was() -> None:
    context = TraceContext.parse(f"00-{TRACE}-{SPAN}-01")

    assert context == TraceContext(TRACE, SPAN, "01")
    assert context.traceparent == f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        f"00-{TRACE}-{SPAN}",  # no flags
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN[1:]}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",  # lower case only
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",  # the forbidden version
        f"0-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",  # version 00 has four fields
        f"00-{TRACE}-{SPAN}-01-",
        f"01-{TRACE}-{SPAN}-01.",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-०१",
    ],
)
def test_a_malformed_traceparent_is_none_at_all(traceparent: str | None) -> None:
    assert TraceContext.parse(traceparent) is None


@pytest.mark.parametrize("more", ["", "-what-the-future-will-be-like"])
def test_of_a_later_version_what_version_00_has_is_read(more: str) -> None:
    assert TraceContext.parse(f"cc-{TRACE}-{SPAN}-01{more}") == TraceContext(TRACE, SPAN, "01")


@given(lower_hex.filter(lambda trace: trace != "0" * 32), st.integers(1, 2**64 - 1), st.integers(0, 255))
def test_every_valid_context_survives_the_wire(trace_id: str, span: int, flags: int) -> None:
    context = TraceContext(trace_id, f"{span:016x}", f"{flags:02x}")

    assert TraceContext.parse(context.traceparent) == context


@given(st.text())
def test_no_text_makes_the_parser_fail(text: str) -> None:
    context = TraceContext.parse(text)
    assert context is None or TraceContext.parse(context.traceparent) == context


def test_a_child_stays_in_the_trace_with_its_flags_under_a_span_of_its_own() -> None:
    parent = TraceContext(TRACE, SPAN, "01")
    child = parent.child()

    assert (child.trace_id, child.flags) == (TRACE, "01")
    assert child.span_id != SPAN
    assert TraceContext.parse(child.traceparent) == child


def test_a_trace_without_a_root_span_is_carried_on_by_its_children() -> None:
    root = TraceContext.for_text("T-1")

    assert TraceContext.parse(root.traceparent) is None  # nobody published it as a span
    assert TraceContext.parse(root.child().traceparent) is not None
    assert root.child().trace_id == root.trace_id


def test_new_traces_differ() -> None:
    assert TraceContext.new() != TraceContext.new()
    assert TraceContext.parse(TraceContext.new().child().traceparent) is not None
