"""Counting: to which window an event belongs, when it is late, and what is measured of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.event import Event, decode
from penstock.metrics.rollup import roll_up
from penstock.metrics.tally import SeriesKey, Tallies, encode
from penstock.metrics.tally import decode as decode_tallies
from penstock_services.metrics.count import tally
from tests.metrics import EPOCH_MS, NOW, job

LATENESS = 2_000
START = EPOCH_MS // 1000


def raw_event(**fields: str) -> Event:
    return decode("events", f"{EPOCH_MS}-0", [part.encode() for pair in fields.items() for part in pair])


def only(tallies: dict[int, Tallies]) -> tuple[int, Tallies]:
    ((start, found),) = tallies.items()
    return start, found


@pytest.mark.parametrize(
    ("taken", "start"), [(EPOCH_MS, START), (EPOCH_MS + 9_999, START), (EPOCH_MS + 10_000, START + 10)]
)
def test_an_event_without_a_time_belongs_to_the_window_in_which_the_server_took_it(taken: int, start: int) -> None:
    found, tallies = only(tally([job(taken)], LATENESS, NOW))
    assert (found, tallies.count, tallies.late) == (start, 1, 0)


def test_an_event_belongs_to_the_window_of_its_time_up_to_the_allowed_lateness() -> None:
    taken = EPOCH_MS + 10_000 + LATENESS - 1
    start, tallies = only(tally([job(taken, time_ms=EPOCH_MS)], LATENESS, NOW))
    assert (start, tallies.count, tallies.late) == (START, 1, 0)


def test_an_event_that_is_taken_later_counts_when_it_is_taken_and_as_late() -> None:
    taken = EPOCH_MS + 10_000 + LATENESS
    start, tallies = only(tally([job(taken, time_ms=EPOCH_MS + 9_999)], LATENESS, NOW))
    assert (start, tallies.count, tallies.late) == (START + 10, 1, 1)


def test_an_id_of_a_time_that_has_not_come_says_nothing_of_when_an_event_was_taken() -> None:
    far = 9_999_999_999_999
    assert set(tally([job(far)], LATENESS, EPOCH_MS)) == {START}
    start, tallies = only(tally([job(far, time_ms=EPOCH_MS - 10_000)], LATENESS, EPOCH_MS))
    assert (start, tallies.count, tallies.late) == (START - 10, 1, 0), "its own time does"
    start, tallies = only(tally([job(far, time_ms=EPOCH_MS - 60_000)], LATENESS, EPOCH_MS))
    assert (start, tallies.count, tallies.late) == (START, 1, 1)


def test_failures_of_a_producer_whose_clock_is_slow_are_counted_and_its_clock_is_told() -> None:
    events = [
        job(EPOCH_MS + at, "job.failed", source="slow", time_ms=EPOCH_MS + at - 300_000 - 7 * at) for at in range(3)
    ]
    events += [job(EPOCH_MS, source="fast", time_ms=EPOCH_MS + 60_000), job(EPOCH_MS, source="right", time_ms=EPOCH_MS)]
    events += [job(EPOCH_MS, source="right", time_ms=EPOCH_MS - 300_000)]  # one straggler is no clock
    start, tallies = only(tally(events, LATENESS, NOW))
    assert start == START
    assert tallies.series[SeriesKey("job.failed", "slow", "", "ticket.created")].errors == 3
    series = roll_up(decode_tallies(encode(tallies).encode()), 10)
    assert {one.labels["service"]: one.value for one in series if one.name == "skew"} == {"slow": 300, "fast": 60}


def test_an_event_from_the_future_counts_when_it_was_taken() -> None:
    start, tallies = only(tally([job(EPOCH_MS, time_ms=EPOCH_MS + 86_400_000)], LATENESS, NOW))
    assert (start, tallies.count) == (START, 1)


@pytest.mark.parametrize("time", ["yesterday", "2026-11-22T10:00:00", "2026-11-22", "0000-00-00T00:00:00Z", "12"])
def test_what_is_no_time_with_an_offset_counts_when_it_was_taken(time: str) -> None:
    start, tallies = only(tally([raw_event(type="x", time=time)], LATENESS, NOW))
    assert (start, tallies.count) == (START, 1)


def test_offsets_are_understood() -> None:
    start, tallies = only(tally([raw_event(type="x", time="2023-11-15T02:14:05.5+04:00")], 10**9, NOW))
    assert (start, tallies.count) == (START, 1)


def test_a_series_is_type_service_tenant_and_job_type() -> None:
    _, tallies = only(tally([job(EPOCH_MS, "job.dead", source="crm", tenant="acme", job_type="sync")], LATENESS, NOW))
    assert list(tallies.series) == [SeriesKey("job.dead", "crm", "acme", "sync")]


@pytest.mark.parametrize(
    ("kind", "errors"), [("job.failed", 1), ("job.dead", 1), ("job.completed", 0), ("x.failed", 0)]
)
def test_failed_and_dead_jobs_are_errors(kind: str, errors: int) -> None:
    _, tallies = only(tally([job(EPOCH_MS, kind)], LATENESS, NOW))
    assert [one.errors for one in tallies.series.values()] == [errors]


def test_durations_of_other_events_are_not_taken_for_those_of_jobs() -> None:
    _, tallies = only(tally([raw_event(type="call.ended", data='{"duration": 12, "job_type": "x"}')], LATENESS, NOW))
    (key,) = tallies.series
    assert key == SeriesKey("call.ended", "redis-cli")
    assert tallies.series[key].duration is None


@pytest.mark.parametrize(
    "data",
    [
        "",
        "null",
        "not json",
        '{"duration": 1e300}',
        '{"duration": "long"}',
        '{"job_type": 5}',
        '{"job_type": "\\ud800"}',
        "[" * 5_000,
    ],
)
def test_job_events_with_data_that_does_not_fit_are_counted_by_their_type(data: str) -> None:
    _, tallies = only(tally([raw_event(type="job.failed", data=data)], LATENESS, NOW))
    (key,) = tallies.series
    assert (key, tallies.series[key].count, tallies.series[key].errors) == (SeriesKey("job.failed", "redis-cli"), 1, 1)
    assert tallies.sources["redis-cli"].malformed == 1


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "-1", "1e300", '"long"', "[1]", "true", "1" * 400])
def test_a_field_that_cannot_be_counted_takes_nothing_from_the_others(bad: str) -> None:
    data = f'{{"job_type": "t", "duration": 2, "queue_wait": {bad}, "error": "why"}}'
    _, tallies = only(tally([raw_event(type="job.failed", data=data, source="worker")], LATENESS, NOW))
    ((key, found),) = tallies.series.items()
    assert (key.job_type, found.errors, found.queue_wait) == ("t", 1, None)
    assert found.duration is not None
    assert found.failed[0].error == "why"
    (told,) = [one for one in roll_up(tallies, 10) if one.name == "malformed"]
    assert (told.labels, told.value) == ({"service": "worker"}, 1)


def test_long_names_ids_and_errors_are_cut() -> None:
    data = json.dumps({"job_type": "t" * 10_000, "duration": 1, "error": "e" * 10_000})
    event = raw_event(type="job.failed", id="i" * 10_000, source="s" * 10_000, tenant="t" * 10_000, data=data)
    _, tallies = only(tally([event], LATENESS, NOW))
    assert len(encode(tallies)) < 2_500


@given(
    st.text(min_size=1).filter(str.strip),
    st.text(),
    st.one_of(st.binary(), st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps).map(str.encode)),
)
def test_whatever_an_event_holds_it_is_counted_once_and_can_be_kept(kind: str, time: str, data: bytes) -> None:
    pairs = (b"type", ("job." + kind).encode(errors="replace"), b"time", time.encode(errors="replace"), b"data", data)
    _, tallies = only(tally([decode("events", f"{EPOCH_MS}-0", pairs)], 10**18, NOW))
    assert decode_tallies(encode(tallies).encode()).count == 1
