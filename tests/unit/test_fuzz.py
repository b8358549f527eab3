"""The fuzzer feeds every target, and finds what is neither read nor refused."""

from __future__ import annotations

import pytest

from tests.fuzz import doors
from tests.fuzz.targets import TARGETS, Target, feed


@pytest.mark.parametrize("name", TARGETS)
def test_every_decoder_reads_or_refuses_what_it_is_given(name: str) -> None:
    assert feed(TARGETS[name], examples=300) == 300


@pytest.mark.parametrize("name", TARGETS)
def test_the_first_seed_of_a_target_is_read(name: str) -> None:
    if name in ("webhooks", "authorization"):  # theirs are signed by nobody
        return
    TARGETS[name].read(TARGETS[name].seeds[0])


@pytest.mark.parametrize("name", ["press in Slack", "press in Telegram"])
def test_a_press_as_it_is_meant_to_come_counts(name: str) -> None:
    before = doors.published.count
    TARGETS[name].read(TARGETS[name].seeds[0])
    assert doors.published.count == before + 1


def test_an_error_that_is_no_refusal_is_found_with_its_input() -> None:
    with pytest.raises(UnicodeDecodeError) as found:
        feed(Target((b"seed",), bytes.decode, (KeyError,)), examples=1_000)
    assert found.value.__notes__[0].startswith("input ")
