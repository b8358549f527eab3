"""Looking traces up: what a trace id or an event led to, and which traces there were lately."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice

from penstock.event import parse_identity
from penstock.keys import METRICS, Keys
from penstock.redis.connection import AsyncRedis
from penstock.topology import Topology
from penstock.traces.assemble import Assembler
from penstock.traces.graph import Node, TraceGraph
from penstock.traces.model import Trace, TraceList
from penstock.traces.progress import find_progress
from penstock.traces.records import Place, Record
from penstock.traces.reports import Reported, read
from penstock.traces.scan import Findings, Scanner

NEWEST = 10_000
_MOST_EVENTS = 1_000  # of one trace; a picture of more helps nobody
_PAGE = 50  # reports read in one call: each may hold a result of 64 kB
_TICKS = METRICS  # the stream of roll-ups, and of the ticks by which they are closed
_Choice = Callable[[TraceGraph], list[list[Node]]]


class Traces:
    """Finds traces in a mesh. Nothing but the streams is needed, and nothing is written.

    Each look reads what the `newest` entries of every stream say: some 15 us of this process for each, in
    portions that hold neither Redis nor this event loop for more than a few ms.
    """

    def __init__(self, client: AsyncRedis, keys: Keys, topology: Topology) -> None:
        self._client = client
        self._keys = keys
        self._topology = topology
        self._scanner = Scanner(client, keys, topology)

    async def find(self, wanted: str, *, source: str | None = None, newest: int = NEWEST) -> Trace | None:
        """Return the trace of that id, else that of the event of that id (and source); None if neither is found.

        The id of a replay's own trace leads to the trace that was replayed.

        Raises:
            AmbiguousEvent: events of several sources have this id, and `source` is None.
            redis.exceptions.RedisError: Redis is away.
        """
        found = await self._scanner.scan(newest)
        await self._add(wanted, found)

        def choose(graph: TraceGraph) -> list[list[Node]]:
            return [list(graph.walk(graph.roots_of(wanted, source)))]

        assembler, traces = await self._look(found, newest, choose)
        nodes = traces[0][:_MOST_EVENTS]
        if not nodes:
            return None
        assembler.reported = await self._read(assembler.reports(nodes))
        left = len(traces[0]) - len(nodes)
        return assembler.trace(nodes, [*found.notes, *([f"{left} more events are not shown"] if left else [])])

    async def recent(self, *, limit: int = 50, newest: int = NEWEST) -> TraceList:
        """Return the latest traces, but for roll-ups of metrics that led to nothing.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        found = await self._scanner.scan(newest)
        is_cut = bool(found.notes)
        assembler, traces = await self._look(found, newest, lambda graph: list(islice(_latest(graph, is_cut), limit)))
        return TraceList(traces=tuple(map(assembler.summary, traces)), notes=tuple(found.notes))

    async def _look(self, found: Findings, newest: int, choose: _Choice) -> tuple[Assembler, list[list[Node]]]:
        """Choose from what was found, ask where groups stand with it, and read what has happened meanwhile.

        What a group has settled by the second step has left its traces by the third. Without it, an event that
        fails between two steps would look as if all was done.
        """
        graph = await asyncio.to_thread(TraceGraph, found)
        traces = choose(graph)
        unknown = Assembler(graph, self._topology, 0).unknown(chain.from_iterable(traces))
        answers = await find_progress(self._client, self._keys, unknown)
        if await self._scanner.catch_up(newest, found):
            graph = await asyncio.to_thread(TraceGraph, found)
            traces = choose(graph)
        assembler = Assembler(graph, self._topology, await self._now())
        assembler.progress = answers
        return assembler, traces

    async def _add(self, event_id: str, found: Findings) -> None:
        """Find an event that its id leads to, however old it is."""
        place = parse_identity(event_id)
        if place is not None and place not in {event.place for event in found.events}:
            event = await self._scanner.entry(*place)
            if event is not None:
                found.events.append(event)

    async def _read(self, reports: Sequence[Record]) -> dict[Place, Reported]:
        reported = {}
        for at in range(0, len(reports), _PAGE):
            page = reports[at : at + _PAGE]
            async with self._client.pipeline(transaction=False) as pipeline:
                for report in page:
                    pipeline.xrange(self._keys.stream(report.stream), report.entry_id, report.entry_id)
                replies = await pipeline.execute()
            for report, rows in zip(page, replies, strict=True):
                reported[report.place] = read(rows[0][1].get(b"data", b"") if rows else b"")
        return reported

    async def _now(self) -> int:
        seconds, microseconds = await self._client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000


def _latest(graph: TraceGraph, is_cut: bool) -> Iterator[list[Node]]:
    """Yield the nodes of each trace, the latest first; if the search was cut, only of those it saw begin."""
    by_trace: dict[str, list[Record]] = {}
    for root in graph.roots():
        is_fragment = is_cut and (root.cause or root.place in graph.missing)
        if not is_fragment:
            by_trace.setdefault(root.trace_id, []).append(root)
    for roots in by_trace.values():
        nodes = list(islice(graph.walk(roots), _MOST_EVENTS))
        if any(node.event.stream != _TICKS for node in nodes):
            yield nodes
