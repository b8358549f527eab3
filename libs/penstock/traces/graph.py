"""Linking: which event led to which, among all that a scan has found."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator

import msgspec

from penstock.errors import AmbiguousEvent
from penstock.event import unique_id
from penstock.times import entry_order
from penstock.traces.records import DeadRecord, Parked, Place, Record
from penstock.traces.reports import REPORTS
from penstock.traces.scan import Findings


class Node(msgspec.Struct, frozen=True, eq=False):
    """An event in its tree, `depth` below the root. `via` is the type of the report through which it came about."""

    event: Record
    depth: int = 0
    parent: Record | None = None
    via: str | None = None


class TraceGraph:
    """Every event that was found, below the one that led to it.

    A report belongs to the attempt it is about, so it is no node of its own, unless a group has trouble with
    it; what it led to lies below the event it reports on. An event that only reports tell of is `missing`.
    """

    def __init__(self, found: Findings) -> None:
        self.parked: dict[Place, list[Parked]] = defaultdict(list)
        self.dead: dict[Place, list[DeadRecord]] = defaultdict(list)
        for parked in found.parked:
            self.parked[parked.event.place].append(parked)
        for dead_letter in sorted(found.dead, key=lambda dead_letter: dead_letter.time):
            self.dead[dead_letter.event.place].append(dead_letter)
        self._sightings = [
            *found.events,
            *(parked.event for parked in found.parked),
            *(dead_letter.event for dead_letter in found.dead),
        ]
        self.published = {event.place for event in found.events if event.due is None}
        self.missing: set[Place] = set()
        self._events = self._known()
        self._children: dict[Place, list[Record]] = defaultdict(list)
        self._parents: dict[Place, Place] = {}
        self._roots: dict[Place, Place] = {}
        self._link()

    def roots(self) -> list[Record]:
        """Return the events that nothing is known to have led to, the latest first."""
        found = [event for place, event in self._events.items() if place not in self._parents]
        return sorted(found, key=_order, reverse=True)

    def roots_of(self, wanted: str, source: str | None = None) -> list[Record]:
        """Return the roots of a trace; `wanted` is its id, that of a replay, or the id of one of its events.

        Raises:
            AmbiguousEvent: events of several sources have this id, each in another trace; say the `source`.
        """
        places = {event.place for event in self._sightings if event.trace_id == wanted.lower()}
        ids = {self._root(place).trace_id for place in places & self._events.keys()}
        if not ids:
            named = [event for event in self._events.values() if event.id == wanted and source in (None, event.source)]
            ids = {self._root(event.place).trace_id for event in named}
            sources = sorted({event.source for event in named})
            if len(ids) > 1 and len(sources) > 1:
                raise AmbiguousEvent(wanted, sources)
        return [root for root in self.roots() if root.trace_id in ids]

    def walk(self, roots: Iterable[Record]) -> Iterator[Node]:
        """Yield the nodes from `roots` on, each before what it led to."""
        stack = [Node(root) for root in sorted(roots, key=_order, reverse=True)]
        while stack:
            node = stack.pop()
            event = node.event
            if self._belongs_to_its_cause(event):
                above = Node(event, node.depth, node.parent, event.type)
            else:
                yield node
                above = Node(event, node.depth + 1, event)
            stack += [Node(child, above.depth, above.parent, above.via) for child in reversed(self.children(event))]

    def children(self, event: Record) -> list[Record]:
        """Return what an event led to, reports included, in order."""
        return [
            child
            for child in sorted(self._children.get(event.place, ()), key=_order)
            if self._parents.get(child.place) == event.place
        ]

    def _known(self) -> dict[Place, Record]:
        """Return one entry for each event; those trimmed or beyond the search may still be parked or dead."""
        published = {(event.stream, event.source, event.id) for event in self._sightings if event.due is None}
        known: dict[Place, Record] = {}
        for event in self._sightings:
            # else it moved on while we looked
            if event.due is None or (event.stream, event.source, event.id) not in published:
                known.setdefault(event.place, event)
        return known

    def _link(self) -> None:
        index = _Index()
        ordered = sorted(self._events.values(), key=_order)
        for event in ordered:
            index.add(event)
        for event in sorted(ordered, key=lambda event: not event.causesource):  # they say more of what is missing
            if event.type in REPORTS and event.cause and not index.causes(event):
                index.add(self._miss(event))
        for event in self._events.values():
            cause = _latest_before(event, index.causes(event))
            if cause is not None and cause is not event:
                self._parents[event.place] = cause.place
                self._children[cause.place].append(event)
        for place in self._events:
            self._root(place)

    def _miss(self, report: Record) -> Record:
        place = unique_id(report.causesource, report.cause) if report.causesource else report.cause
        missing = Record(
            stream="",
            entry_id=place,
            time=report.time,
            type="",
            id=report.cause,
            source=report.causesource,
            subject="",
            tenant="",
            cause="",
            trace_id=report.trace_id,
        )
        self._events[missing.place] = missing
        self.missing.add(missing.place)
        return missing

    def _belongs_to_its_cause(self, event: Record) -> bool:
        trouble = event.place in self.parked or event.place in self.dead
        return event.type in REPORTS and event.place in self._parents and not trouble

    def _root(self, place: Place) -> Record:
        """Return the topmost event above a place; a circle of causes, which a producer may draw, is cut open."""
        path: dict[Place, None] = {}
        while place not in self._roots and place in self._parents:
            if place in path:
                del self._parents[place]
                break
            path[place] = None
            place = self._parents[place]
        root = self._roots.get(place, place)
        self._roots.update(dict.fromkeys([*path, place], root))
        return self._events[root]


class _Index:
    """Events by what an effect may say of its cause: id and source, or the id alone, as older releases wrote it."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], list[Record]] = defaultdict(list)

    def add(self, event: Record) -> None:
        """Add an event; to be added in the order of time."""
        for key in ((event.id, event.source, ""), (event.id, "", event.trace_id), (event.id, "", "")):
            self._found[key].append(event)

    def causes(self, event: Record) -> list[Record]:
        """Return what may have led to an event; where it does not say of which source, rather of the same trace."""
        if event.causesource:
            return self._found.get((event.cause, event.causesource, ""), [])
        same_trace = self._found.get((event.cause, "", event.trace_id))
        return same_trace or self._found.get((event.cause, "", ""), [])


def _latest_before(event: Record, candidates: list[Record]) -> Record | None:
    """Return the cause of an event: of those that it may be, the latest until then, else the first."""
    if not candidates:
        return None
    return candidates[max(0, bisect_right(candidates, event.time, key=lambda one: one.time) - 1)]


def _order(event: Record) -> tuple[int, int]:
    return event.time, entry_order(event.entry_id)[1]
