"""Attempts: how a group fared with an event, put together from all that tells of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.times import rfc3339
from penstock.traces.model import Attempt, AttemptState, Hop, TraceState
from penstock.traces.progress import Progress
from penstock.traces.records import DeadRecord, Parked, Record
from penstock.traces.reports import OUTCOMES, STARTED, AttemptReport

SETTLED, UNREAD = Progress("settled"), Progress("queued")


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of an event as a group fared with it. `effect` is the first event it published for it."""

    event: Record
    group: str
    reports: Sequence[AttemptReport] = ()
    dead: Sequence[DeadRecord] = ()
    parked: Parked | None = None
    progress: Progress = SETTLED
    effect: Record | None = None


class Timeline(msgspec.Struct, frozen=True):
    """When a trace started and when it was looked at, in ms by the server's clock."""

    start: float
    now: float

    def offset(self, ms: float) -> float:
        """Return the seconds between the start and `ms`."""
        return _seconds(ms - self.start)


def hop(evidence: Evidence, timeline: Timeline) -> Hop:
    """Return what is known of an event as a group fared with it."""
    history = _History(evidence, timeline)
    history.assemble()
    return Hop(group=evidence.group, state=history.state, attempts=tuple(history.attempts))


def time(ms: float) -> str:
    """Format ms since the epoch as RFC 3339."""
    return rfc3339(ms / 1000)


class _History:
    """The course of events in one group, from what is certain to what is still open."""

    def __init__(self, evidence: Evidence, timeline: Timeline) -> None:
        self._evidence = evidence
        self._timeline = timeline
        self._end: float = evidence.event.time  # of the last attempt, in ms
        self.attempts: list[Attempt] = []

    @property
    def state(self) -> TraceState:
        if not self.attempts:
            return "completed"
        last = self.attempts[-1]
        if last.replayed:
            return "completed"  # by a group that does not report, else that would be here
        if last.outcome == "failed" or last.outcome == "snoozed":  # noqa: PLR1714 - mypy narrows this way only
            return "delayed"
        return "completed" if last.outcome == "cancelled" else last.outcome  # nothing more becomes of it

    def assemble(self) -> None:
        reported: list[tuple[int, AttemptReport | DeadRecord]] = [
            (report.event.time, report) for report in self._evidence.reports
        ]
        reported += [(dead_letter.time, dead_letter) for dead_letter in self._evidence.dead]
        for _, one in sorted(reported, key=lambda pair: pair[0]):  # stable: a report comes before its dead letter
            if isinstance(one, DeadRecord):
                self._bury(one)
            elif one.event.type in OUTCOMES:
                self._report(one)
        effect = self._evidence.effect
        if self._evidence.parked is not None:
            self._park(self._evidence.parked)
        elif not self.attempts and self._evidence.progress.state != "settled":
            self._wait(1, self._end)
        elif not self.attempts and effect is not None:
            self._add(1, "completed", self._end, effect.time)

    def _report(self, report: AttemptReport) -> None:
        reported, end = report.reported, report.event.time
        # The first attempt begins to wait when the event is published. The group's clock may disagree a little.
        begin = max(self._end, end - reported.spent_ms) if self.attempts else self._end
        queue_wait = reported.queue_wait
        if queue_wait is None and reported.ran is not None:  # it ran last
            queue_wait = _seconds(max(0.0, end - reported.spent_ms - begin))
        outcome = OUTCOMES[report.event.type]
        self._add(
            max(1, reported.attempt + (outcome == "cancelled")),  # the next one is what there will not be
            outcome,
            begin,
            end,
            channel=reported.channel,
            queue_wait=queue_wait,
            duration=reported.ran,
            error=reported.error,
            reason=reported.reason,
            due=time(reported.next_attempt_at.timestamp() * 1000) if reported.next_attempt_at else None,
        )

    def _bury(self, dead_letter: DeadRecord) -> None:
        last = self.attempts[-1] if self.attempts else None
        why: dict[str, Any] = {
            "reason": dead_letter.reason,
            "error": dead_letter.error,
            "dead_letter": dead_letter.dead_letter,
            "replayed": dead_letter.replayed,
        }
        if last is not None and last.outcome == "dead" and last.dead_letter is None:
            self.attempts[-1] = msgspec.structs.replace(last, **why)
        else:
            self._add(max(1, dead_letter.attempts), "dead", self._end, dead_letter.time, **why)

    def _park(self, parked: Parked) -> None:
        last = self.attempts[-1].error if self.attempts else None
        known = {last, "snoozed", ""}
        more: dict[str, Any] = {
            "crashes": parked.crashes,
            "error": None if parked.error in known else parked.error,
        }
        if parked.due is None:
            self._wait(parked.attempt, max(self._end, parked.retry_time), **more)
        else:
            self._add(parked.attempt, "delayed", self._end, self._timeline.now, due=time(parked.due), **more)

    def _wait(self, number: int, begin: float, **more: Any) -> None:
        if self._evidence.progress.state != "running":
            self._add(number, "queued", begin, self._timeline.now, **more)
            return
        started = self._started(number, begin)
        if started is not None:
            more["queue_wait"] = started.reported.queue_wait
            more["duration"] = _seconds(max(0, self._timeline.now - started.event.time))
        consumer = self._evidence.progress.consumer
        self._add(number, "running", begin, self._timeline.now, consumer=consumer, **more)

    def _started(self, number: int, begin: float) -> AttemptReport | None:
        """Return the report that the attempt has started, which only some meshes publish."""
        for report in self._evidence.reports:
            is_it = report.event.type == STARTED and report.reported.attempt == number
            if is_it and report.event.time >= begin:
                return report
        return None

    def _add(self, number: int, outcome: AttemptState, begin: float, end: float, **more: Any) -> None:
        end = max(begin, end)
        offset, elapsed = self._timeline.offset(begin), _seconds(end - begin)
        self.attempts.append(Attempt(number=number, outcome=outcome, offset=offset, elapsed=elapsed, **more))
        self._end = end


def _seconds(ms: float) -> float:
    return round(ms / 1000, 6)
