"""What is known of a job together with what its handler said, and what it said as an entry has it."""

from __future__ import annotations

import pytest

from penstock.jobs.progress import Progress, advanced, commands, make_progress, read_progress
from penstock.jobs.record import Job
from penstock.keys import Keys
from penstock.times import rfc3339
from tests.scopes import make_event

SAID = Progress(share=0.4, note="parsing", attempt=2, at=1_000.0, tenant="acme")


@pytest.mark.parametrize(
    "job",
    [
        Job(state="queued", tenant="acme"),  # it lies in a retry stream after a crash
        Job(state="running", tenant="acme"),
        Job(state="retrying", attempts=1, next_attempt_at=rfc3339(2_000), tenant="acme"),
        Job(state="retrying", attempts=2, next_attempt_at=rfc3339(999), tenant="acme"),  # a snooze
    ],
)
def test_a_job_that_runs_shows_it(job: Job) -> None:
    assert advanced(job, SAID) == Job(state="running", attempts=2, tenant="acme", progress=0.4, note="parsing")


@pytest.mark.parametrize(
    "job",
    [
        Job(state="completed", attempts=2, tenant="acme"),
        Job(state="dead", attempts=2, tenant="acme"),
        Job(state="running", attempts=3, tenant="acme"),
        Job(state="retrying", attempts=2, next_attempt_at=rfc3339(1_001), tenant="acme"),
        Job(state="retrying", attempts=2, tenant="acme"),
        Job(state="running", tenant="other"),
        Job(state="running"),
    ],
)
def test_what_is_said_of_another_run_or_tenant_adds_nothing(job: Job) -> None:
    assert advanced(job, SAID) == job


@pytest.mark.parametrize("note", ["", "50 % of Käse", "a\nb", "\ud800"])
def test_an_entry_says_what_was_said(note: str) -> None:
    event = make_event("t", id="J-1", tenant="acme")
    said = make_progress(event, 2, 0.4, note)
    _, _, (_, _, _, _, _, _, *flat) = commands(Keys(), event, said)
    parts = [str(part).encode() for part in flat]

    job_id, source, read = read_progress("5000-0", dict(zip(parts[::2], parts[1::2], strict=True)))

    assert (job_id, source, read.share, read.attempt, read.at, read.tenant) == ("J-1", "redis-cli", 0.4, 2, 5.0, "acme")
    assert read.note == note.encode(errors="replace").decode()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {b"job": b"J-1", b"source": b"s", b"attempt": b"1"},
        {b"job": b"J-1", b"share": b"x", b"attempt": b"1"},
        {b"job": b"J-1", b"share": b"nan", b"attempt": b"1", b"source": b"s"},
        {b"job": b"J-1", b"share": b"1.5", b"attempt": b"1", b"source": b"s"},
        {b"job": b"\xff", b"share": b"1", b"attempt": b"1"},
    ],
)
def test_somebody_elses_words_are_none(fields: dict[bytes, bytes]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        read_progress("1-0", fields)
