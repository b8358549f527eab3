"""The story that the demo tells: what is sent, what is promised, and what Redis says has become of it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec
from rich.console import Console
from rich.text import Text

from penstock.cli.demo.outage import Outage
from penstock.cli.http import request
from penstock.dlq.dead_letter import DeadLetter
from penstock.dlq.queue import DeadLetters
from penstock.event import Event, decode, encode_data, identity
from penstock.keys import EVENTS, INGEST, Keys
from penstock.mesh.state import mesh_state
from penstock.redis.lanes import Lanes
from penstock.schemas import JobEvent
from penstock.settings import Settings
from penstock.times import duration, seconds_of
from penstock.topology import load

_DEADLINE = 30.0  # seconds until a job must have come to its end
_BLOCK_MS = 1_000
_WORKER = "worker"
_ENDS = ("job.completed", "job.dead")
_STYLES = {"job.completed": "green", "job.failed": "yellow", "job.dead": "red"}
_TICKET = {
    "ticket_id": "T-1",
    "description": "printer on fire",
    "priority": "high",
    "tenant_id": "acme",
    "timestamp": "2026-11-22T10:00:00Z",
}


class Chapter(msgspec.Struct, frozen=True):
    """One job: how it is sent, and which events about it are promised, in order.

    `reason` is the one its dead letter must have, None for a job that succeeds.
    """

    title: str
    way: Literal["HTTP", "XADD"]
    type: str
    data: dict[str, Any]
    promised: tuple[str, ...]
    reason: str | None = None


CHAPTERS = (
    Chapter("A good event over HTTP", "HTTP", "ticket.created", _TICKET, ("job.completed",)),
    Chapter("The same by XADD, as redis-cli does it", "XADD", "ticket.created", _TICKET, ("job.completed",)),
    Chapter(
        "One that fails twice and then succeeds",
        "HTTP",
        "demo.flaky",
        {"fail_times": 2},
        ("job.failed", "job.failed", "job.completed"),
    ),
    Chapter(
        "One that never succeeds",
        "XADD",
        "demo.hopeless",
        {},
        ("job.failed", "job.failed", "job.dead"),
        reason="failed",
    ),
    Chapter(
        "One with bad data",
        "HTTP",
        "ticket.created",
        {**_TICKET, "priority": "extreme"},
        ("job.dead",),
        reason="invalid",
    ),
)


class Storyteller:
    """Sends the jobs one after the other and tells what becomes of each, all of it as read from Redis."""

    def __init__(self, settings: Settings, out: Console, *, alone: bool) -> None:
        """`alone` says that nobody else uses the mesh, so that nothing may be left over in the end."""
        self._settings = settings
        self._out = out
        self._alone = alone
        self._keys = Keys(settings.prefix)
        self._lanes = Lanes.of(settings, name="penstock-demo")
        self._redis = self._lanes.client()
        services = load(settings.topology, include=settings.included).services
        self._alerting = all(name in services and services[name].run for name in ("metrics", "alerts"))

    @property
    def promises(self) -> int:
        """How many chapters there are: without metrics and alerts there is nobody to tell of an outage."""
        return len(CHAPTERS) + self._alerting

    async def run(self) -> int:
        """Tell all; return how many of the promises were broken."""
        try:
            broken = [await self._chapter(number, chapter) for number, chapter in enumerate(CHAPTERS, 1)]
            if self._alerting:
                broken.append(await Outage(self._redis, self._keys, self._out).tell(len(CHAPTERS) + 1))
            return sum(broken) + await self._epilogue()
        finally:
            await self._lanes.aclose()

    async def _chapter(self, number: int, chapter: Chapter) -> bool:
        """Tell of one job; return whether a promise was broken."""
        self._out.print(f"\n{number}. {chapter.title}", style="bold")
        seen_before = await self._newest_event()
        try:
            job_id, entry = await self._send(chapter)
            problems = await self._follow(chapter, job_id, entry, seen_before)
        except TimeoutError:
            problems = [f"it did not end within {_DEADLINE:g} s"]
        except (OSError, LookupError) as error:
            problems = [str(error)]
        for problem in problems:
            self._out.print(f"   NOT AS PROMISED: {problem}", style="bold red")
        if not problems:
            self._out.print(f"   as promised: {' > '.join(chapter.promised)}, one trace throughout", style="green")
        return bool(problems)

    async def _send(self, chapter: Chapter) -> tuple[str, Event]:
        """Send a job; return its id and the entry of it that lies in Redis."""
        if chapter.way == "HTTP":
            body = {"type": chapter.type, "data": chapter.data}
            status, answer = await asyncio.to_thread(request, self._settings, "POST", "/v1/events", body)
            if status != 202:
                raise ConnectionError(f"the gateway answered {status}: {answer.decode(errors='replace')}")
            job_id: str = msgspec.json.decode(answer)["job_id"]
            self._step("", "POST /v1/events", f"202 accepted, job {job_id}")
        else:
            fields = {"type": chapter.type, "data": encode_data(chapter.data)}
            entry_id = await self._redis.xadd(self._keys.stream(INGEST), fields)
            job_id = identity(INGEST, entry_id.decode())
            self._step("", f"XADD {INGEST}", f"{entry_id.decode()}, so job {job_id}")
        entry = await self._entry(job_id)
        self._step("0 ms", INGEST, f"{entry.type} from {entry.source}, trace {entry.trace.trace_id}")
        return job_id, entry

    async def _entry(self, job_id: str) -> Event:
        rows = await self._redis.xrevrange(self._keys.stream(INGEST), count=100)
        for entry_id, fields in rows:
            event = _decode(INGEST, entry_id, fields)
            if event.id == job_id:
                return event
        raise LookupError(f"job {job_id} is not on {INGEST}")

    async def _follow(self, chapter: Chapter, job_id: str, entry: Event, seen_before: bytes) -> list[str]:
        """Tell what was published because of the job until it ends; return what was not as promised."""
        happened: list[str] = []
        problems: list[str] = []
        async with asyncio.timeout(_DEADLINE):
            async for event in self._caused_by(entry, seen_before):
                self._step(_since(entry, event), EVENTS, _describe(event), _STYLES.get(event.type, ""))
                if event.trace.trace_id != entry.trace.trace_id:
                    problems.append(f"{event.type} has trace {event.trace.trace_id}, not the job's")
                if event.type.startswith("job.") and event.type != "job.started":
                    happened.append(event.type)
                await self._tell_of_delay(event)
        if tuple(happened) != chapter.promised:
            problems.append(f"promised was {', '.join(chapter.promised)}; it was {', '.join(happened)}")
        return problems + await self._check_letter(chapter, job_id, entry)

    async def _caused_by(self, job: Event, last: bytes) -> AsyncIterator[Event]:
        """Yield the events that the job has led to, until the one that ends it."""
        key = self._keys.stream(EVENTS)
        while True:
            rows = await self._redis.xread({key: last}, block=_BLOCK_MS)
            for entry_id, fields in rows[0][1] if rows else ():
                last = entry_id
                event = _decode(EVENTS, entry_id, fields)
                if event.is_caused_by(job.source, job.id):
                    yield event
                    if event.type in _ENDS:
                        return

    async def _tell_of_delay(self, event: Event) -> None:
        if event.type != "job.failed":
            return
        delayed = self._keys.delayed(INGEST, _WORKER)
        if waiting := await self._redis.zcard(delayed):  # not if it is due already
            due = msgspec.json.decode(event.data, type=JobEvent).next_attempt_at
            self._step("", delayed, f"{waiting} waiting, next try at {due}")

    async def _check_letter(self, chapter: Chapter, job_id: str, entry: Event) -> list[str]:
        letter = await self._letter(entry)
        if letter is None:
            return [f"there is no dead letter of {job_id}"] if chapter.reason else []
        said = f"letter {letter.letter}, {letter.reason} at attempt {letter.attempts}: {letter.error}"
        self._step("", "dlq", said)
        if letter.reason != chapter.reason:
            return [f"the dead letter's reason was to be {chapter.reason}, it is {letter.reason}"]
        return []

    async def _letter(self, job: Event) -> DeadLetter | None:
        async for letter in DeadLetters(self._redis, self._keys).newest(limit=100):
            if letter.unique_id == job.unique_id:
                return letter
        return None

    async def _epilogue(self) -> int:
        """Tell how the worker's group stands in the end; return 1 if work is left that nobody else can have sent."""
        found = await mesh_state(
            self._redis, self._keys, load(self._settings.topology, include=self._settings.included)
        )
        worker = next(state for state in found.groups if (state.stream, state.group) == (INGEST, _WORKER))
        self._out.print("\nIn the end", style="bold")
        counts = f"lag {worker.lag}, pending {worker.pending}, delayed {worker.delayed}, dead {worker.dead}"
        self._step("", f"{INGEST} > {_WORKER}", counts)
        left = worker.lag + worker.pending + worker.delayed + worker.retry
        return int(self._alone and left > 0)

    async def _newest_event(self) -> bytes:
        rows = await self._redis.xrevrange(self._keys.stream(EVENTS), count=1)
        return rows[0][0] if rows else b"0"

    def _step(self, when: str, where: str, what: str, style: str = "") -> None:
        self._out.print(Text.assemble((f"   {when:>7}  {where:<22} ", "dim"), (what, style)))


def _decode(stream: str, entry_id: bytes, fields: dict[bytes, bytes]) -> Event:
    return decode(stream, entry_id.decode(), itertools.chain.from_iterable(fields.items()))


def _since(entry: Event, event: Event) -> str:
    """Return the time between the two, by the server's clock."""
    return duration(seconds_of(event.time) - seconds_of(entry.time))


def _describe(event: Event) -> str:
    if not event.type.startswith("job."):
        return f"{event.type} {event.data.decode(errors='replace')}"
    job = msgspec.json.decode(event.data, type=JobEvent)
    return f"{event.type}, attempt {job.attempt}" + (f": {job.error}" if job.error else "")
