"""The codec of dead letters: what it writes it reads, and every script spells its fields as it does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from penstock import event
from penstock.dlq import dead_letter

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for folder in ("libs", "services") for path in (ROOT / folder).rglob("*.lua"))
MODULES = sorted(path for folder in ("libs", "services") for path in (ROOT / folder).rglob("*.py"))
PARKED = {event.RETRY_ENTRY, event.RETRY_ATTEMPT, event.RETRY_CRASHES, event.RETRY_ERROR, event.RETRY_FIELDS}
FIELD = re.compile(r"""['"]((?:dlq|retry)\.[a-z]+)['"]""")


def written() -> list[str]:
    return dead_letter.encode(
        stream="ingest",
        group="worker",
        entry="5-0",
        reason="failed",
        error="KeyError: 'x'",
        attempts=3,
        time=1_700_000_000.5,
        fingerprint="t:failed",
        traceparent="00-a-b-01",
        traceback="Traceback",
    )


def names() -> set[str]:
    return set(written()[::2])


def test_what_is_written_is_read() -> None:
    fields = [*written(), "type", "t", "id", "e-1", "mine", "x", "attempt", "the producer's own"]
    pairs = zip(fields[::2], fields[1::2], strict=True)
    letter = dead_letter.decode(b"7-0", {name.encode(): value.encode() for name, value in pairs}, None)

    assert (letter.letter, letter.event_id, letter.type) == ("7-0", "e-1", "t")
    assert (letter.stream, letter.group, letter.entry) == ("ingest", "worker", "5-0")
    assert (letter.reason, letter.error, letter.attempts) == ("failed", "KeyError: 'x'", 3)
    assert (letter.time, letter.fingerprint) == ("2023-11-14T22:13:20.500Z", "t:failed")
    assert (letter.traceparent, letter.traceback) == ("00-a-b-01", "Traceback")
    assert letter.event == {"type": "t", "id": "e-1", "mine": "x", "attempt": "the producer's own"}


@pytest.mark.parametrize("attempts", ["", "-1", "\N{SUPERSCRIPT TWO}", "9" * 5_000])
def test_attempts_that_are_no_number_are_none(attempts: str) -> None:
    assert dead_letter.decode(b"7-0", {dead_letter.ATTEMPTS.encode(): attempts.encode()}, None).attempts == 0


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_names_no_field_that_the_codec_does_not_know(script: Path) -> None:
    assert set(FIELD.findall(script.read_text())) <= names() | PARKED


def test_no_other_module_spells_the_fields() -> None:
    known = names() | PARKED
    spelt = {path.name for path in MODULES if known & set(FIELD.findall(path.read_text()))}

    assert spelt == {"dead_letter.py", "event.py"}
