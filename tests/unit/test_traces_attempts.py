"""How a group fared with an event, put together from reports, dead dead and what still waits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.traces.attempts import Evidence, Timeline, hop
from penstock.traces.model import Attempt, Hop
from penstock.traces.progress import Progress
from penstock.traces.records import DeadRecord, Parked
from penstock.traces.reports import AttemptReport, read
from tests.unit.test_traces_graph import entry

EVENT = entry("1000-0", "job")


def reported(ms: int, kind: str, **data: Any) -> AttemptReport:
    return AttemptReport(entry(f"{ms}-0", f"report-{ms}", "job", type=kind), read(json.dumps(data).encode()))


def dead_letter(ms: int, attempts: int = 3, *, replayed: str | None = None) -> DeadRecord:
    return DeadRecord(EVENT, "worker", f"{ms}-0", ms, attempts, "failed", "KeyError: 'x'", replayed)


def history(*reports: AttemptReport, now: int = 5000, **more: Any) -> Hop:
    return hop(Evidence(event=EVENT, group="worker", reports=reports, **more), Timeline(1000, now))


def outcomes(found: Hop) -> list[tuple[int, str]]:
    return [(attempt.number, attempt.outcome) for attempt in found.attempts]


def test_a_report_tells_how_long_the_event_waited_and_the_handler_ran() -> None:
    found = history(reported(1500, "job.completed", attempt=1, queue_wait=0.1, duration=0.3))

    assert found.state == "completed"
    assert found.attempts == (
        Attempt(number=1, outcome="completed", offset=0.0, elapsed=0.5, queue_wait=0.1, duration=0.3),
    )


def test_a_later_attempt_begins_when_it_came_back_to_be_read() -> None:
    found = history(
        reported(1500, "job.failed", attempt=1, duration=0.3, error="E", next_attempt_at="2026-11-22T11:00:00Z"),
        reported(3000, "job.completed", attempt=2, queue_wait=0.2, duration=0.3),
    )

    first, second = found.attempts
    assert (first.error, first.due, second.due) == ("E", "2026-11-22T11:00:00.000Z", None)
    assert (second.offset, second.elapsed) == (1.5, 0.5)


@pytest.mark.parametrize(
    ("runs", "progress"), [(0, Progress("queued")), (0, Progress("settled")), (1, Progress("settled"))]
)
def test_a_job_that_was_cancelled_is_not_completed_and_nothing_more_becomes_of_it(
    runs: int, progress: Progress
) -> None:
    failed = [reported(1500, "job.failed", attempt=1)][:runs]
    found = history(*failed, reported(2000, "job.cancelled", attempt=runs), progress=progress)

    assert outcomes(found) == [*[(1, "failed")][:runs], (runs + 1, "cancelled")]
    assert found.state == "completed"


def test_clocks_that_disagree_never_turn_time_around() -> None:
    found = history(
        reported(1200, "job.failed", attempt=1, queue_wait=5, duration=5),
        reported(1300, "job.completed", attempt=2, queue_wait=9, duration=9),
    )

    assert [(attempt.offset, attempt.elapsed) for attempt in found.attempts] == [(0.0, 0.2), (0.2, 0.1)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"attempt": -1}',
        b'{"attempt": 1e99}',
        b'{"duration": 1e300}',
        b'{"duration": -1}',
        b'{"error": 7}',
        b'{"next_attempt_at": "soon"}',
    ],
)
def test_a_report_that_makes_no_sense_still_says_how_it_ended(data: bytes) -> None:
    report = AttemptReport(entry("1500-0", "r", "job", type="job.dead"), read(data))

    assert history(report).attempts == (Attempt(number=1, outcome="dead", offset=0.0, elapsed=0.5),)


def test_a_dead_letter_and_the_report_of_the_death_are_one_attempt() -> None:
    found = history(reported(2000, "job.dead", attempt=3, duration=0.1, error="e"), dead=[dead_letter(2000)])

    [attempt] = found.attempts
    assert (found.state, attempt.number, attempt.reason, attempt.dead_letter) == ("dead", 3, "failed", "2000-0")
    assert attempt.duration == 0.1


def test_after_a_replay_attempts_count_from_one_again() -> None:
    found = history(
        reported(2000, "job.dead", attempt=1),
        reported(4000, "job.dead", attempt=1),
        dead=[dead_letter(2000, 1, replayed="2026-11-22T11:00:00Z"), dead_letter(4000, 1)],
    )

    assert outcomes(found) == [(1, "dead"), (1, "dead")]
    assert [attempt.dead_letter for attempt in found.attempts] == ["2000-0", "4000-0"]
    assert found.state == "dead"


def test_a_replay_that_nobody_reports_on_leaves_no_death_behind() -> None:
    assert history(dead=[dead_letter(2000, replayed="2026-11-22T11:00:00Z")]).state == "completed"


def test_what_waits_for_its_next_attempt_follows_those_that_are_over() -> None:
    failed = reported(1500, "job.failed", attempt=1, error="E")
    found = history(failed, parked=Parked(EVENT, "worker", 2, 0, "E", due=9000), now=4000)

    last = found.attempts[-1]
    assert outcomes(found) == [(1, "failed"), (2, "delayed")]
    assert (found.state, last.offset, last.elapsed, last.due) == ("delayed", 0.5, 2.5, "1970-01-01T00:00:09.000Z")
    assert last.error is None, "the attempt before has it"


def test_without_reports_a_waiting_event_says_why_it_failed_and_how_often_its_process_died() -> None:
    found = history(parked=Parked(EVENT, "worker", 2, 1, "E", retry_id="3000-0"), progress=Progress("queued"))

    [attempt] = found.attempts
    assert (attempt.number, attempt.outcome, attempt.offset) == (2, "queued", 2.0)
    assert (attempt.error, attempt.crashes) == ("E", 1)


def test_an_event_in_hand_says_whose() -> None:
    found = history(progress=Progress("running", "worker-1"), now=2000)

    assert (found.state, found.attempts[0].consumer, found.attempts[0].elapsed) == ("running", "worker-1", 1.0)
    assert (found.attempts[0].queue_wait, found.attempts[0].duration) == (None, None)


def test_a_start_that_is_reported_says_how_long_the_event_waited() -> None:
    started = reported(1400, "job.started", attempt=1, queue_wait=0.4)
    [attempt] = history(started, progress=Progress("running", "w"), now=2000).attempts

    assert (attempt.queue_wait, attempt.duration) == (0.4, 0.6)


def test_the_start_of_an_attempt_before_a_crash_says_nothing_of_the_next() -> None:
    started = reported(1400, "job.started", attempt=1, queue_wait=0.4)
    again = Parked(EVENT, "worker", 1, 1, "", retry_id="3000-0")
    [attempt] = history(started, parked=again, progress=Progress("running", "w")).attempts

    assert (attempt.offset, attempt.queue_wait, attempt.crashes) == (2.0, None, 1)


def test_a_delivery_ran_last_before_it_was_reported() -> None:
    [attempt] = history(
        reported(1500, "delivery.failed", attempt=1, latency=0.2, channel="slack", error="503")
    ).attempts

    assert (attempt.outcome, attempt.channel) == ("failed", "slack")
    assert (attempt.queue_wait, attempt.duration) == (0.3, 0.2)


def test_a_group_that_only_published_something_is_timed_by_that() -> None:
    [attempt] = history(effect=entry("1250-0", "effect", "job")).attempts

    assert (attempt.outcome, attempt.elapsed, attempt.duration) == ("completed", 0.25, None)


def test_a_group_that_left_nothing_has_done_with_it() -> None:
    assert history() == Hop(group="worker", state="completed", attempts=())
