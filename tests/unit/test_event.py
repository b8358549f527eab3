"""The event codec: what each field of a stream entry means, and what it means when it is absent."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import InvalidEvent
from penstock.event import (
    Event,
    decode,
    decode_retry,
    derived_id,
    encode,
    encode_data,
    encode_retry,
    identity,
    parse_identity,
)
from penstock.times import entry_time, rfc3339
from penstock.trace_context import TraceContext

ENTRY = "1700000000123-4"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
KNOWN = {
    "type",
    "data",
    "id",
    "source",
    "time",
    "subject",
    "tenant",
    "traceparent",
    "tracestate",
    "cause",
    "causesource",
}

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
optional = st.none() | text


def entry(fields: Mapping[str, str | bytes]) -> list[bytes]:
    """Return the fields as Redis gives them."""
    parts = [part for pair in fields.items() for part in pair]
    return [part if isinstance(part, bytes) else part.encode() for part in parts]


def added(entry_id: str = "5-6", *, attempt: str = "2") -> dict[str, str]:
    """Return what parking an entry puts behind its own fields."""
    return {"retry.entry": entry_id, "attempt": attempt, "retry.crashes": "0", "retry.error": ""}


def read(**fields: str | bytes) -> Event:
    return decode("ingest", ENTRY, entry({"type": "t", **fields}))


def test_an_entry_of_a_type_alone_gets_every_default() -> None:
    event = decode("ingest", ENTRY, entry({"type": "ticket.created"}))

    assert event == Event(
        type="ticket.created",
        id="ingest-1700000000123-4",
        data=b"null",
        source="redis-cli",
        stated_time=None,
        subject=None,
        tenant=None,
        cause=None,
        causesource=None,
        traceparent=None,
        tracestate=None,
        entry_id=ENTRY,
        extra={},
    )
    assert event.time == "2023-11-14T22:13:20.123Z"
    assert event.trace == TraceContext.for_text("ingest-1700000000123-4")
    assert event.json() is None


def test_every_field_that_is_given_is_taken() -> None:
    event = read(
        id="T-1",
        data='{"a": 1}',
        source="shop",
        time="2026-11-22T10:00:00Z",
        subject="ticket/1",
        tenant="acme",
        traceparent=TRACEPARENT,
        tracestate="vendor=1",
        cause="T-0",
        causesource="crm",
    )

    assert (event.id, event.source, event.time) == ("T-1", "shop", "2026-11-22T10:00:00Z")
    assert (event.subject, event.tenant, event.cause, event.causesource) == ("ticket/1", "acme", "T-0", "crm")
    assert event.json() == {"a": 1}
    assert event.trace.traceparent == TRACEPARENT
    assert event.tracestate == "vendor=1"


@pytest.mark.parametrize("fields", [{}, {"type": ""}, {"data": "1", "id": "x"}])
def test_an_entry_without_a_type_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(InvalidEvent, match="no type"):
        decode("ingest", ENTRY, entry(fields))


@pytest.mark.parametrize("name", ["id", "time"])
def test_an_empty_id_or_time_counts_as_absent(name: str) -> None:
    assert read(**{name: ""}) == read()


def test_unknown_fields_are_kept() -> None:
    assert read(priority="high", attempt="7", **{"x-y": "é"}).extra == {"priority": "high", "attempt": "7", "x-y": "é"}


@pytest.mark.parametrize("fields", [{b"tenant": b"\xff"}, {b"x\xff": b"1"}, {b"type": b"t\xfe"}])
def test_an_attribute_that_is_not_utf8_is_refused_by_name(fields: dict[bytes, bytes]) -> None:
    raw = [b"type", b"t", *(part for pair in fields.items() for part in pair)]
    with pytest.raises(InvalidEvent, match=r"field .* is not UTF-8"):
        decode("ingest", ENTRY, raw)


def test_data_that_is_not_utf8_is_left_to_the_handler() -> None:
    event = read(data=b'"\xff"')

    assert event.data == b'"\xff"'
    with pytest.raises(InvalidEvent, match="data is not JSON"):
        event.json()


@pytest.mark.parametrize("data", [b"{", b"", b"nope", b"[" * 5000 + b"]" * 5000])
def test_data_that_is_not_json_is_an_invalid_event_when_it_is_looked_at(data: bytes) -> None:
    with pytest.raises(InvalidEvent, match="data is not JSON"):
        read(data=data).json()


@pytest.mark.parametrize(
    "traceparent",
    ["", "garbage", TRACEPARENT[:-1], TRACEPARENT.upper(), "00-" + "0" * 32 + "-b7ad6b7169203331-01"],
)
def test_a_malformed_traceparent_starts_a_new_trace_and_drops_the_tracestate(traceparent: str) -> None:
    event = read(id="T-1", traceparent=traceparent, tracestate="vendor=1")

    assert event.trace == TraceContext.for_text("T-1")
    assert event.tracestate is None


def test_a_trace_that_begins_with_an_event_belongs_to_its_source_and_id() -> None:
    sources = ("shop-a", "shop-b", "redis-cli")
    ids = [read(id="o-1", source=source).trace.trace_id for source in sources]
    ids += [read(id=f"{source}:o-1").trace.trace_id for source in sources]

    assert len(set(ids)) == 6
    assert read(id="o-1").trace == TraceContext.for_text("o-1"), "as of releases that knew events by id alone"


def test_an_event_is_caused_by_the_one_of_that_source_and_id() -> None:
    event, older = read(cause="o-1", causesource="shop-a"), read(cause="o-1")

    assert [event.is_caused_by(source, "o-1") for source in ("shop-a", "shop-b")] == [True, False]
    assert [older.is_caused_by(source, "o-1") for source in ("shop-a", "shop-b")] == [True, True], "it does not say"
    assert not event.is_caused_by("shop-a", "o-2")


def test_a_tracestate_without_a_traceparent_is_dropped() -> None:
    assert read(tracestate="vendor=1").tracestate is None


def test_the_trace_of_an_event_that_came_without_one_is_the_same_for_every_reader() -> None:
    assert read(id="T-1").trace == read(id="T-1").trace
    assert read(id="T-1").trace != read(id="T-2").trace


@pytest.mark.parametrize(
    ("entry_id", "time"),
    [
        ("0-1", "1970-01-01T00:00:00.000Z"),
        (ENTRY, "2023-11-14T22:13:20.123Z"),
        ("18446744073709551615-18446744073709551615", "9999-12-31T23:59:59.000Z"),  # ids may be chosen by producers
    ],
)
def test_the_time_of_an_entry_is_that_of_its_id(entry_id: str, time: str) -> None:
    assert entry_time(entry_id) == time
    assert decode("s", entry_id, entry({"type": "t"})).time == time


@given(st.floats(0, 4_000_000_000))
def test_times_are_rfc3339_in_utc_with_milliseconds(timestamp: float) -> None:
    written = rfc3339(timestamp)

    assert len(written) == len("2026-11-22T10:00:00.000Z")
    assert abs((datetime.fromisoformat(written) - datetime.fromtimestamp(timestamp, UTC)).total_seconds()) < 0.0011


@given(
    event_type=text,
    data=st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**63) | text, st.lists, max_leaves=5),
    attributes=st.fixed_dictionaries(
        dict.fromkeys(("event_id", "source", "time", "subject", "tenant", "cause", "causesource"), optional)
    ),
    traceparent=st.none() | st.just(TRACEPARENT),
    extra=st.dictionaries(text.filter(lambda name: name not in KNOWN), text, max_size=3),
)
def test_what_is_encoded_is_read_back(
    event_type: str,
    data: object,
    attributes: dict[str, str | None],
    traceparent: str | None,
    extra: dict[str, str],
) -> None:
    fields = encode(event_type, encode_data(data), traceparent=traceparent, extra=extra, **attributes)
    event = decode("ingest", ENTRY, [part.encode() for part in fields])

    assert (event.type, event.json(), event.extra) == (event_type, data, extra)
    assert event.id == attributes["event_id"] or attributes["event_id"] is None
    assert event.source == (attributes["source"] or "redis-cli")
    assert event.time == (attributes["time"] or "2023-11-14T22:13:20.123Z")
    for name in ("subject", "tenant", "cause", "causesource"):
        assert getattr(event, name) == attributes[name]
    assert traceparent is None or event.trace.traceparent == traceparent


def test_absent_attributes_are_not_written() -> None:
    assert encode("t", "null") == ["type", "t", "data", "null"]


def test_an_extra_field_cannot_pass_for_an_attribute() -> None:
    assert encode("t", "null", extra={"type": "other", "id": "x", "mine": "1"}) == [
        *("type", "t", "data", "null"),
        *("mine", "1"),
    ]


@pytest.mark.parametrize(
    ("attributes", "complaint"),
    [
        ({"subject": "\ud800"}, "subject holds what UTF-8 cannot"),
        ({"extra": {"mine": "\udfff"}}, "mine holds what UTF-8 cannot"),
        ({"tenant": 5}, "tenant must be text, not int"),
        ({"subject": b"x"}, "subject must be text, not bytes"),
    ],
)
def test_an_attribute_that_no_entry_can_hold_is_refused_by_name(attributes: dict[str, object], complaint: str) -> None:
    with pytest.raises(InvalidEvent, match=complaint):
        encode("t", "null", **attributes)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [object(), "\ud800", {"a": {1, 2}, "b": object()}])
def test_data_that_json_cannot_hold_is_refused(data: object) -> None:
    with pytest.raises(InvalidEvent, match="cannot be written as JSON"):
        encode_data(data)


def test_json_that_is_written_already_goes_out_as_it_is() -> None:
    assert encode_data({"a": msgspec.Raw(b"null")}) == '{"a":null}'


def test_a_retry_entry_tells_where_it_first_lay_and_how_it_fared() -> None:
    fields = {
        "type": "t",
        "mine": "1",
        "retry.entry": "5-6",
        "attempt": "3",
        "retry.crashes": "1",
        "retry.error": "KeyError: 'x'",
    }
    event, origin = decode_retry("ingest", ENTRY, entry(fields))

    assert (event.id, event.entry_id) == ("ingest-5-6", "5-6")  # as they were on the first attempt
    assert event.time == "1970-01-01T00:00:00.005Z"
    assert event.extra == {"mine": "1"}
    assert (origin.entry_id, origin.attempt, origin.crashes, origin.error) == ("5-6", 3, 1, "KeyError: 'x'")


@pytest.mark.parametrize("attempt", ["", "-1", "x", "1.5", "²"])
def test_a_retry_entry_with_a_senseless_attempt_counts_as_the_first(attempt: str) -> None:
    _, origin = decode_retry("ingest", ENTRY, entry({"type": "t", **added(attempt=attempt)}))

    assert origin.attempt == 1
    assert origin.entry_id == "5-6"


@pytest.mark.parametrize("origin", ["", "x", "1-x", "-", "99999999999999999999999-0"])
def test_a_retry_entry_that_names_no_real_entry_is_refused(origin: str) -> None:
    with pytest.raises(InvalidEvent, match=r"retry\.entry"):
        decode_retry("ingest", ENTRY, entry({"type": "t", **added(origin)}))


def test_what_was_put_on_a_retry_stream_by_hand_is_a_first_attempt() -> None:
    event, origin = decode_retry("ingest", ENTRY, entry({"type": "t", "attempt": "3"}))

    assert (origin.entry_id, origin.attempt) == (ENTRY, 1)
    assert event.extra == {"attempt": "3"}


def test_fields_that_bear_the_names_of_ours_are_the_producers_own() -> None:
    own = {"type": "t", "attempt": "own", "retry.entry": "own", "retry.error": "own"}
    parked = [part.encode() for part in encode_retry("5-6", attempt=2, error="KeyError: 1")]
    event, origin = decode_retry("ingest", ENTRY, [*entry(own), *parked])

    assert event.extra == {"attempt": "own", "retry.entry": "own", "retry.error": "own"}
    assert (origin.entry_id, origin.attempt, origin.error) == ("5-6", 2, "KeyError: 1")


def test_the_ids_of_what_an_event_leads_to_are_always_the_same() -> None:
    assert derived_id("worker", "T-1", "0") == "793e86b969142a9c3f1ce50797189af4"
    assert derived_id("worker", "T-1", "0") != derived_id("worker", "T-1", "1")


@given(st.tuples(text, text, text), st.tuples(text, text, text))
def test_ids_of_different_origin_differ(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    no_separator = all("\0" not in part for part in (*one, *other))
    if one != other and no_separator:
        assert derived_id(*one) != derived_id(*other)


@given(st.from_regex(r"[a-z0-9][a-z0-9._\-]{0,20}", fullmatch=True), st.integers(0, 2**64 - 1), st.integers(0, 99))
def test_an_identity_leads_back_to_its_entry(stream: str, ms: int, sequence: int) -> None:
    assert parse_identity(identity(stream, f"{ms}-{sequence}")) == (stream, f"{ms}-{sequence}")


@pytest.mark.parametrize(
    "event_id", ["", "T-1", "-1-2", "ingest-1", "ingest-1-x", "ingest-\u0661-\u0662", f"ingest-{2**64}-0"]
)
def test_an_id_that_is_no_identity_is_told_from_one(event_id: str) -> None:
    assert parse_identity(event_id) is None


@pytest.mark.parametrize("folded", [b"x", b"4:type", b"99:type1:t", b"4:type1", b"\xff:a", b":", b"99999999999:a"])
def test_folded_fields_that_somebody_else_wrote_are_refused(folded: bytes) -> None:
    parked = [part.encode() for part in encode_retry("5-6", attempt=1, error="")]
    with pytest.raises(InvalidEvent):
        decode_retry("ingest", ENTRY, [b"retry.fields", folded, *parked])


def test_names_behind_a_parked_entry_may_be_anything() -> None:
    parked = [b"retry.entry", b"5-6", b"attempt", b"2", b"\xff", b"0", b"retry.error", b""]

    assert decode_retry("ingest", ENTRY, [b"type", b"t", *parked])[1].attempt == 2
