"""Attempts: how a group fared with an event, put together from all that tells of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.times import rfc3339
from penstock.traces.model import Attempt, Hop, Outcome, State
from penstock.traces.progress import Standing
from penstock.traces.records import Entry, Letter, Parked
from penstock.traces.reports import OUTCOMES, STARTED, Report

_LAST_MS = 253_402_300_799_000  # 9999-12-31T23:59:59Z, the end of RFC 3339; a producer may choose an entry's id
SETTLED, UNREAD = Standing("settled"), Standing("queued")


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of an event in the hands of a group. `effect` is the first event it published for it."""

    event: Entry
    group: str
    reports: Sequence[Report] = ()
    letters: Sequence[Letter] = ()
    parked: Parked | None = None
    standing: Standing = SETTLED
    effect: Entry | None = None


class Clock(msgspec.Struct, frozen=True):
    """When a trace started and when it was looked at, in ms by the server's clock."""

    start: float
    now: float

    def offset(self, ms: float) -> float:
        """Return the seconds between the start and `ms`."""
        return _seconds(ms - self.start)


def hop(evidence: Evidence, clock: Clock) -> Hop:
    """Return what is known of an event in the hands of a group."""
    course = _Course(evidence, clock)
    course.tell()
    return Hop(group=evidence.group, state=course.state, attempts=tuple(course.attempts))


def time(ms: float) -> str:
    """Format ms since the epoch as RFC 3339."""
    return rfc3339(min(ms, _LAST_MS) / 1000)


class _Course:
    """The course of events in one group, from what is certain to what is still open."""

    def __init__(self, evidence: Evidence, clock: Clock) -> None:
        self._evidence = evidence
        self._clock = clock
        self._end: float = evidence.event.time  # of the last attempt, in ms
        self.attempts: list[Attempt] = []

    @property
    def state(self) -> State:
        if not self.attempts:
            return "completed"
        last = self.attempts[-1]
        if last.replayed:
            return "completed"  # by a group that does not report, else that would be here
        if last.outcome == "failed" or last.outcome == "snoozed":  # noqa: PLR1714 - mypy narrows this way only
            return "delayed"
        return last.outcome

    def tell(self) -> None:
        told: list[tuple[int, Report | Letter]] = [(report.event.time, report) for report in self._evidence.reports]
        told += [(letter.time, letter) for letter in self._evidence.letters]
        for _, one in sorted(told, key=lambda pair: pair[0]):  # stable: a report comes before its dead letter
            if isinstance(one, Letter):
                self._bury(one)
            elif one.event.type in OUTCOMES:
                self._report(one)
        effect = self._evidence.effect
        if self._evidence.parked is not None:
            self._park(self._evidence.parked)
        elif not self.attempts and self._evidence.standing.state != "settled":
            self._wait(1, self._end)
        elif not self.attempts and effect is not None:
            self._add(1, "completed", self._end, effect.time)

    def _report(self, report: Report) -> None:
        told, end = report.told, report.event.time
        # The first attempt begins to wait when the event is published. The group's clock may disagree a little.
        begin = max(self._end, end - told.spent_ms) if self.attempts else self._end
        queue_wait = told.queue_wait
        if queue_wait is None and told.ran is not None:  # it ran last
            queue_wait = _seconds(max(0.0, end - told.spent_ms - begin))
        self._add(
            told.attempt,
            OUTCOMES[report.event.type],
            begin,
            end,
            channel=told.channel,
            queue_wait=queue_wait,
            duration=told.ran,
            error=told.error,
            reason=told.reason,
            due=time(told.next_attempt_at.timestamp() * 1000) if told.next_attempt_at else None,
        )

    def _bury(self, letter: Letter) -> None:
        last = self.attempts[-1] if self.attempts else None
        why: dict[str, Any] = {
            "reason": letter.reason,
            "error": letter.error,
            "letter": letter.letter,
            "replayed": letter.replayed,
        }
        if last is not None and last.outcome == "dead" and last.letter is None:
            self.attempts[-1] = msgspec.structs.replace(last, **why)
        else:
            self._add(max(1, letter.attempts), "dead", self._end, letter.time, **why)

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
            self._add(parked.attempt, "delayed", self._end, self._clock.now, due=time(parked.due), **more)

    def _wait(self, number: int, begin: float, **more: Any) -> None:
        if self._evidence.standing.state != "running":
            self._add(number, "queued", begin, self._clock.now, **more)
            return
        started = self._started(number, begin)
        if started is not None:
            more["queue_wait"] = started.told.queue_wait
            more["duration"] = _seconds(max(0, self._clock.now - started.event.time))
        consumer = self._evidence.standing.consumer
        self._add(number, "running", begin, self._clock.now, consumer=consumer, **more)

    def _started(self, number: int, begin: float) -> Report | None:
        """Return the report that the attempt has started, which only some meshes publish."""
        for report in self._evidence.reports:
            is_it = report.event.type == STARTED and report.told.attempt == number
            if is_it and report.event.time >= begin:
                return report
        return None

    def _add(self, number: int, outcome: Outcome, begin: float, end: float, **more: Any) -> None:
        end = max(begin, end)
        offset, elapsed = self._clock.offset(begin), _seconds(end - begin)
        self.attempts.append(Attempt(number=number, outcome=outcome, offset=offset, elapsed=elapsed, **more))
        self._end = end


def _seconds(ms: float) -> float:
    return round(ms / 1000, 6)
