"""Telling a trace: from linked events to what people and programs see."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

import msgspec

from penstock.topology import EVENTS, Topology
from penstock.traces import attempts
from penstock.traces.attempts import SETTLED, UNREAD, Clock, Evidence
from penstock.traces.graph import Forest, Node
from penstock.traces.model import Hop, State, Trace, TracedEvent, TraceSummary
from penstock.traces.progress import Question, Standing
from penstock.traces.records import Entry, Letter, Parked, Place
from penstock.traces.reports import REPORTS, STARTED, Report, Told

_OVER = frozenset({"completed", "failed", "snoozed", "dead"})
_GRAVEST: tuple[State, ...] = ("dead", "running", "delayed", "queued", "completed")
assert set(_GRAVEST) == set(get_args(State))


class Teller:
    """Tells traces of a forest, seen at `now` (ms).

    `standings` are the answers to `questions`; what none was asked of is too new to have been read. `told` is
    what reports say, by their places; without it there is still an overview.
    """

    def __init__(self, forest: Forest, topology: Topology, now: int) -> None:
        self._forest = forest
        self._topology = topology
        self._now = now
        self.standings: dict[Question, Standing] = {}
        self.told: dict[Place, Told] = {}

    def questions(self, nodes: Iterable[Node]) -> list[Question]:
        """Return what must be asked of Redis to tell of `nodes`."""
        asked = [self._question(node.event, group) for node in nodes for group in self._groups(node.event)]
        return [question for question in asked if question is not None]

    def reports(self, nodes: Iterable[Node]) -> list[Entry]:
        """Return the reports whose data says more of `nodes`."""
        return [report for node in nodes for report in self._reports(node.event)]

    def trace(self, nodes: Sequence[Node], notes: Iterable[str]) -> Trace:
        """Tell a whole trace."""
        clock, events = self._events(nodes)
        summary = _summary(clock, events)
        trace_ids = {summary.trace_id: None, **dict.fromkeys(event.trace_id for event in events)}
        trace_ids |= dict.fromkeys(report.trace_id for report in self.reports(nodes))
        return Trace(
            trace_id=summary.trace_id,
            trace_ids=tuple(trace_ids),
            state=summary.state,
            type=summary.type,
            started=summary.started,
            now=attempts.time(self._now),
            duration=summary.duration,
            attempts=summary.attempts,
            events=events,
            notes=tuple(notes),
        )

    def summary(self, nodes: Sequence[Node]) -> TraceSummary:
        """Tell a trace in one line."""
        return _summary(*self._events(nodes))

    def _events(self, nodes: Sequence[Node]) -> tuple[Clock, tuple[TracedEvent, ...]]:
        begun = [self._restored(node.event) for node in nodes]
        clock = Clock(min(event.time for event in begun), self._now)
        return clock, tuple(self._event(node, event, clock) for node, event in zip(nodes, begun, strict=True))

    def _restored(self, event: Entry) -> Entry:
        """Return an event as it is told: a missing one with what its reports tell of it, none later than now."""
        if event.place not in self._forest.missing:
            return event if event.time <= self._now else msgspec.structs.replace(event, time=self._now)
        told = [(report.time, self.told.get(report.place, Told())) for report in self._reports(event)]
        begun = min(end - round(one.spent_ms) for end, one in told)
        return msgspec.structs.replace(event, time=begun, type=told[0][1].job_type)

    def _event(self, node: Node, event: Entry, clock: Clock) -> TracedEvent:
        return TracedEvent(
            id=event.id,
            type=event.type,
            stream=event.stream,
            entry=event.entry_id,
            source=event.source,
            time=attempts.time(event.time),
            offset=clock.offset(event.time),
            depth=node.depth,
            parent=node.parent.id if node.parent else None,
            via=node.via,
            subject=event.subject or None,
            tenant=event.tenant or None,
            trace_id=event.trace_id,
            links=event.links,
            missing=event.place in self._forest.missing,
            due=attempts.time(event.due) if event.due is not None else None,
            hops=tuple(attempts.hop(self._evidence(event, group), clock) for group in self._groups(event)),
        )

    def _groups(self, event: Entry) -> list[str]:
        """Return the groups that read an event, first those that streams.yaml declares."""
        declared = [] if event.due is not None else self._topology.groups(event.stream)
        others = [report.source for report in self._reports(event)]
        others += [parked.group for parked in self._parked(event)]
        others += [letter.group for letter in self._letters(event)]
        return list(dict.fromkeys([*declared, *others]))

    def _evidence(self, event: Entry, group: str) -> Evidence:
        question = self._question(event, group)
        effects = [one for one in self._forest.children(event) if one.source == group and one.type not in REPORTS]
        return Evidence(
            event=event,
            group=group,
            reports=[
                Report(report, self.told.get(report.place, Told()))
                for report in self._reports(event)
                if report.source == group
            ],
            letters=[letter for letter in self._letters(event) if letter.group == group],
            parked=next((parked for parked in reversed(self._parked(event)) if parked.group == group), None),
            standing=self.standings.get(question, UNREAD) if question else SETTLED,
            effect=effects[0] if effects else None,
        )

    def _question(self, event: Entry, group: str) -> Question | None:
        """Return what to ask of where a group stands with an event, unless that is known already."""
        for parked in reversed(self._parked(event)):
            if parked.group == group:
                retry_id = parked.retry_id
                return Question(event.stream, group, event.entry_id, retry_id) if retry_id else None
        if event.place not in self._forest.published or group not in self._topology.groups(event.stream):
            return None
        ended = any(report.source == group and report.type != STARTED for report in self._reports(event))
        if ended or any(letter.group == group for letter in self._letters(event)):
            return None
        return Question(event.stream, group, event.entry_id)

    def _reports(self, event: Entry) -> list[Entry]:
        return [child for child in self._forest.children(event) if child.type in REPORTS]

    def _parked(self, event: Entry) -> Sequence[Parked]:
        return self._forest.parked.get(event.place, ())

    def _letters(self, event: Entry) -> Sequence[Letter]:
        return self._forest.letters.get(event.place, ())


def _summary(clock: Clock, events: Sequence[TracedEvent]) -> TraceSummary:
    hops = [hop for event in events for hop in event.hops]
    ends = [event.offset for event in events]
    ends += [attempt.offset + attempt.elapsed for hop in hops for attempt in hop.attempts]
    state = _state(events)
    known = [event for event in events if not event.missing]
    return TraceSummary(
        trace_id=events[0].trace_id,
        state=state,
        type=(known or events)[0].type,
        started=attempts.time(clock.start),
        duration=round(max(ends), 6),
        events=len(events),
        attempts=sum(attempt.outcome in _OVER for hop in hops for attempt in hop.attempts),
        error=_error(hops) if state == "dead" else None,
    )


def _state(events: Sequence[TracedEvent]) -> State:
    """Return the gravest state there is. Who reads `events` only watches: nobody waits for it but if it is dead."""
    states: set[State] = {
        hop.state
        for event in events
        for hop in event.hops
        if hop.state == "dead" or event.stream != EVENTS or event.parent is None
    }
    if any(event.due for event in events):
        states.add("delayed")
    return next(state for state in _GRAVEST if state in states or state == "completed")


def _error(hops: Iterable[Hop]) -> str | None:
    for hop in hops:
        if hop.state == "dead":
            last = hop.attempts[-1]
            return ": ".join(filter(None, (last.reason, last.error))) or None
    return None
