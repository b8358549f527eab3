"""Times as text: RFC 3339, durations for people, ids of stream entries."""

from __future__ import annotations

import pytest

from penstock.times import (
    duration,
    entry_id_at,
    entry_ms,
    entry_order,
    entry_time,
    is_entry_id,
    ms_of,
    rfc3339,
    seconds_of,
    short_duration,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_700_000_000.1239, "2023-11-14T22:13:20.123Z"),
        (-5, "1970-01-01T00:00:00.000Z"),
        (1e18, "9999-12-31T23:59:59.000Z"),
    ],
)
def test_a_time_is_written_whatever_a_producer_says_it_is(seconds: float, text: str) -> None:
    assert rfc3339(seconds) == text


def test_what_is_written_is_read() -> None:
    assert seconds_of(rfc3339(1_700_000_000.123)) == pytest.approx(1_700_000_000.123)
    assert seconds_of("2023-11-15T00:13:20+02:00") == 1_700_000_000


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2023-11-14T22:13:20.123999Z", 1_700_000_000_123),  # a window's end is not rounded into the next
        ("2023-11-14T22:13:59.999999Z", 1_700_000_039_999),
        ("1969-12-31T23:59:59.999Z", -1),
        ("0001-01-01T00:00:00+14:00", -62_135_647_200_000),
    ],
)
def test_ms_are_whole_and_cut(text: str, ms: int) -> None:
    assert ms_of(text) == ms


@pytest.mark.parametrize("text", ["", "yesterday", "2023-11-14T22:13:20", "1700000000"])
def test_what_is_no_time_is_refused(text: str) -> None:
    for read in (seconds_of, ms_of):
        with pytest.raises(ValueError, match=r"isoformat|time zone"):
            read(text)


@pytest.mark.parametrize(
    ("seconds", "words", "short"),
    [
        (0, "0 s", "0 s"),
        (0.00001, "<0.1 ms", "<0.1 ms"),
        (0.00042, "0.4 ms", "0.4 ms"),
        (0.0085, "8.5 ms", "8.5 ms"),
        (0.9996, "1 s", "1 s"),
        (45, "45 s", "45 s"),
        (59.96, "1 min", "1m 00s"),
        (61, "1 min 1 s", "1m 01s"),
        (3_600, "1 h", "1h 00m"),
        (7_199.7, "2 h", "2h 00m"),
        (90_061, "1 d 1 h", "1d 01h"),
        (8_640_000, "100 d", "100d 00h"),
        (-120, "-2 min", "0 s"),
    ],
)
def test_durations_read_well(seconds: float, words: str, short: str) -> None:
    assert duration(seconds) == words
    assert short_duration(seconds) == short
    assert len(short) <= 8


def test_entry_ids_are_read_as_the_server_orders_them() -> None:
    ids = ["0-0", "5-0", "5-2", "5-10", "40-1", f"{2**64 - 1}-{2**64 - 1}"]

    assert sorted({*ids}, key=entry_order) == ids
    assert entry_ms(b"1700000000000-3") == entry_ms("1700000000000-3") == 1_700_000_000_000
    assert entry_id_at(1_700_000_000.0001) == "1700000000000-0"
    assert entry_id_at(-1) == "0-0"


@pytest.mark.parametrize("text", ["", "5", "5-", "-5", "a-1", "5-1-1", "5-1 ", b"\xff-1"])
def test_what_is_no_entry_id_is_as_old_as_can_be(text: str | bytes) -> None:
    assert entry_order(text) == (0, 0)
    assert isinstance(text, bytes) or not is_entry_id(text)


def test_an_id_beyond_64_bits_is_none_and_has_a_time_all_the_same() -> None:
    assert is_entry_id(f"{2**64 - 1}-0")
    assert not is_entry_id(f"{2**64}-0")
    assert entry_time("99999999999999999999-0") == "9999-12-31T23:59:59.000Z"
