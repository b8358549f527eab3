"""Assembling a trace: from linked events to what people and programs see."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

import msgspec

from penstock.keys import EVENTS
from penstock.topology import Topology
from penstock.traces import attempts
from penstock.traces.attempts import SETTLED, UNREAD, Evidence, Timeline
from penstock.traces.graph import Node, TraceGraph
from penstock.traces.model import Hop, Trace, TracedEvent, TraceState, TraceSummary
from penstock.traces.progress import Progress, ProgressKey
from penstock.traces.records import DeadRecord, Parked, Place, Record
from penstock.traces.reports import REPORTS, STARTED, AttemptReport, Reported

_OVER = frozenset({"completed", "failed", "snoozed", "dead", "cancelled"})
_GRAVEST: tuple[TraceState, ...] = ("dead", "running", "delayed", "queued", "completed")
assert set(_GRAVEST) == set(get_args(TraceState))


class Assembler:
    """Assembles traces of a graph, seen at `now` (ms).

    `progress` answers `unknown`; what is not in it is too new to have been read. `reported` is
    what reports say, by their places; without it there is still an overview.
    """

    def __init__(self, graph: TraceGraph, topology: Topology, now: int) -> None:
        self._graph = graph
        self._topology = topology
        self._now = now
        self.progress: dict[ProgressKey, Progress] = {}
        self.reported: dict[Place, Reported] = {}

    def unknown(self, nodes: Iterable[Node]) -> list[ProgressKey]:
        """Return what must be asked of Redis about `nodes`."""
        asked = [self._progress_key(node.event, group) for node in nodes for group in self._groups(node.event)]
        return [wanted for wanted in asked if wanted is not None]

    def reports(self, nodes: Iterable[Node]) -> list[Record]:
        """Return the reports whose data says more of `nodes`."""
        return [report for node in nodes for report in self._reports(node.event)]

    def trace(self, nodes: Sequence[Node], notes: Iterable[str]) -> Trace:
        """Assemble a whole trace."""
        timeline, events = self._events(nodes)
        summary = _summary(timeline, events, self._topology)
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
        """Sum a trace up in one line."""
        return _summary(*self._events(nodes), self._topology)

    def _events(self, nodes: Sequence[Node]) -> tuple[Timeline, tuple[TracedEvent, ...]]:
        begun = [self._restored(node.event) for node in nodes]
        timeline = Timeline(min(event.time for event in begun), self._now)
        return timeline, tuple(self._event(node, event, timeline) for node, event in zip(nodes, begun, strict=True))

    def _restored(self, event: Record) -> Record:
        """Return an event as the trace shows it: a missing one with what its reports say of it, none later than now."""
        if event.place not in self._graph.missing:
            return event if event.time <= self._now else msgspec.structs.replace(event, time=self._now)
        reported = [(report.time, self.reported.get(report.place, Reported())) for report in self._reports(event)]
        begun = min(end - round(one.spent_ms) for end, one in reported)
        return msgspec.structs.replace(event, time=begun, type=reported[0][1].job_type)

    def _event(self, node: Node, event: Record, timeline: Timeline) -> TracedEvent:
        return TracedEvent(
            id=event.id,
            type=event.type,
            stream=event.stream,
            entry=event.entry_id,
            source=event.source,
            time=attempts.time(event.time),
            offset=timeline.offset(event.time),
            depth=node.depth,
            parent=node.parent.id if node.parent else None,
            via=node.via,
            subject=event.subject or None,
            tenant=event.tenant or None,
            trace_id=event.trace_id,
            links=event.links,
            missing=event.place in self._graph.missing,
            due=attempts.time(event.due) if event.due is not None else None,
            hops=tuple(attempts.hop(self._evidence(event, group), timeline) for group in self._groups(event)),
        )

    def _groups(self, event: Record) -> list[str]:
        """Return the groups that read an event, first those that streams.yaml declares."""
        declared = [] if event.due is not None else self._topology.groups(event.stream)
        others = [report.source for report in self._reports(event)]
        others += [parked.group for parked in self._parked(event)]
        others += [dead_letter.group for dead_letter in self._dead(event)]
        return list(dict.fromkeys([*declared, *others]))

    def _evidence(self, event: Record, group: str) -> Evidence:
        wanted = self._progress_key(event, group)
        effects = [one for one in self._graph.children(event) if one.source == group and one.type not in REPORTS]
        return Evidence(
            event=event,
            group=group,
            reports=[
                AttemptReport(report, self.reported.get(report.place, Reported()))
                for report in self._reports(event)
                if report.source == group
            ],
            dead=[dead_letter for dead_letter in self._dead(event) if dead_letter.group == group],
            parked=next((parked for parked in reversed(self._parked(event)) if parked.group == group), None),
            progress=self.progress.get(wanted, UNREAD) if wanted else SETTLED,
            effect=effects[0] if effects else None,
        )

    def _progress_key(self, event: Record, group: str) -> ProgressKey | None:
        """Return what to ask of where a group stands with an event, unless that is known already."""
        for parked in reversed(self._parked(event)):
            if parked.group == group:
                retry_id = parked.retry_id
                return ProgressKey(event.stream, group, event.entry_id, retry_id) if retry_id else None
        if event.place not in self._graph.published or group not in self._topology.groups(event.stream):
            return None
        ended = any(report.source == group and report.type != STARTED for report in self._reports(event))
        if ended or any(dead_letter.group == group for dead_letter in self._dead(event)):
            return None
        return ProgressKey(event.stream, group, event.entry_id)

    def _reports(self, event: Record) -> list[Record]:
        return [child for child in self._graph.children(event) if child.type in REPORTS]

    def _parked(self, event: Record) -> Sequence[Parked]:
        return self._graph.parked.get(event.place, ())

    def _dead(self, event: Record) -> Sequence[DeadRecord]:
        return self._graph.dead.get(event.place, ())


def _summary(timeline: Timeline, events: Sequence[TracedEvent], topology: Topology) -> TraceSummary:
    hops = [hop for event in events for hop in event.hops]
    ends = [event.offset for event in events]
    ends += [attempt.offset + attempt.elapsed for hop in hops for attempt in hop.attempts]
    state = _state(events, topology)
    known = [event for event in events if not event.missing]
    return TraceSummary(
        trace_id=events[0].trace_id,
        state=state,
        type=(known or events)[0].type,
        started=attempts.time(timeline.start),
        duration=round(max(ends), 6),
        events=len(events),
        attempts=sum(attempt.outcome in _OVER for hop in hops for attempt in hop.attempts),
        error=_error(hops) if state == "dead" else None,
    )


def _state(events: Sequence[TracedEvent], topology: Topology) -> TraceState:
    """Return the gravest state there is. Who reads reports only watches: nobody waits for it but if it is dead."""
    reports = {EVENTS, *map(topology.reports, topology.work)}
    states: set[TraceState] = {
        hop.state
        for event in events
        for hop in event.hops
        if hop.state == "dead" or event.stream not in reports or event.parent is None
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
