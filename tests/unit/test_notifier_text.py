"""Texts are cut where a reader would cut them, and hold no secrets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_services.notifier.message.text import cut, excerpt, one_line, redact, utf16_units


def test_a_text_that_fits_stays_as_it_is() -> None:
    assert cut("it fits", 7) == "it fits"


def test_a_long_text_is_cut_between_words() -> None:
    assert cut("the disk of the database is nearly full", 30) == "the disk of the database is…"


def test_a_word_longer_than_the_room_is_cut_within() -> None:
    assert cut("x" * 50, 10) == "x" * 9 + "…"


def test_an_emoji_counts_twice_for_telegram() -> None:
    assert utf16_units("🔴") == 2
    assert cut("🔴🔴🔴🔴", 5, measure=utf16_units) == "🔴🔴…"


@pytest.mark.parametrize("text", ["e\u0301", "👩\u200d🚒", "👍\U0001f3fd"])
def test_a_letter_is_not_torn_from_its_accent(text: str) -> None:
    for limit in range(1, 12):
        kept = cut(text * 6, limit)
        whole, rest = divmod(len(kept.removesuffix("…")), len(text))
        assert kept == text * whole + "…"
        assert rest == 0


@given(st.text(), st.integers(1, 60), st.sampled_from([len, utf16_units, lambda text: len(text.encode())]))
def test_a_cut_text_is_never_longer_than_allowed(text: str, limit: int, measure: object) -> None:
    assert callable(measure)
    if measure("…") <= limit:
        assert measure(cut(text, limit, measure=measure)) <= limit


def test_one_line_leaves_no_line_ends_or_control_characters() -> None:
    assert one_line("a\r\nBcc: b\t\x00\x1b[31mc") == "a Bcc: b [31mc"


def test_a_secret_is_redacted_also_where_it_is_part_of_another() -> None:
    assert redact("https://h/bot123:abc/x and 123:abc", ["123:abc", "https://h/bot123:abc/x"]) == "*** and ***"


def test_what_the_other_side_said_is_cut_and_on_one_line() -> None:
    said = excerpt("no such token s3cret\n" + "x" * 1000, ["s3cret"])

    assert said.startswith("no such token *** x")
    assert len(said) == 300
