"""The client: what a program needs of a mesh that is no service of it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from penstock.client.backend import Backend, RedisBackend
from penstock.client.handle import JobHandle
from penstock.dlq.dead_letter import DeadLetter
from penstock.errors import ConfigurationError, InvalidEvent
from penstock.event import encode, encode_data
from penstock.jobs.watch import Watch
from penstock.keys import INGEST, Keys
from penstock.redis.connection import AsyncRedis, check_url, telling_unavailable
from penstock.settings import Settings, redis_url
from penstock.streams.durability import Durability
from penstock.streams.publish import Deduplication, Published
from penstock.telemetry.current import Parent, parent
from penstock.telemetry.measures import Measures
from penstock.telemetry.setup import telemetry
from penstock.telemetry.spans import Span, send_span
from penstock.times import rfc3339, seconds_of
from penstock.topology import Topology, is_given, load
from penstock.trace_context import TraceContext

if TYPE_CHECKING:
    from penstock.memory.mesh import MemoryMesh
    from penstock.service.app import Service

_CLOSED = "the client is not open: use it inside `async with Penstock.connect() as mesh:`"


class NewJob(msgspec.Struct, frozen=True):
    """A job to submit with others; the attributes are those of `Penstock.submit`."""

    type: str
    data: Any = None
    stream: str | None = None
    subject: str | None = None
    tenant: str | None = None
    idempotency_key: str | None = None
    delay: float | None = None
    at: datetime | str | None = None
    extra: Mapping[str, str] | None = None


class _Outgoing(msgspec.Struct):
    """An event on its way; `watch` keeps what is told of it meanwhile."""

    stream: str
    event_id: str
    fields: list[str]
    delay: float
    span: Span | None
    watch: Watch | None


class Penstock:
    """A way into the mesh, for as long as it is open.

    ```python
    async with Penstock.connect() as mesh:
        job = await mesh.submit("order.placed", order, subject=order.id)
        receipt = await job.result(timeout=30, type=Receipt)
    ```
    Any number of tasks may use it at once: what they publish while one call is under way goes out with the next.
    It belongs to the event loop in which it was opened; `penstock.sync.Penstock` has no loop and is for any thread.
    """

    def __init__(
        self,
        settings: Settings,
        topology: Topology | None,
        *,
        source: str,
        services: Sequence[Service] | None = None,
    ) -> None:
        """Use `connect`."""
        self._settings = settings
        self._topology = topology
        self._source = source
        self._services = services
        self._stack = contextlib.AsyncExitStack()
        self.telemetry = Measures()
        """Where it counts what it does; spans go there too, while it is open."""
        self._backend: Backend | None = None
        self._is_open = False
        self._under_way = 0
        self._idle = asyncio.Event()

    @classmethod
    def connect(
        cls,
        url: str | None = None,
        *,
        topology: Topology | str | None = None,
        source: str = "client",
        settings: Settings | None = None,
        services: Iterable[Service] | None = None,
    ) -> Self:
        """Return a client to enter with `async with`.

        `url` is where Redis is, else REDIS_URL says it. `topology` is a streams.yaml, as a path or parsed; else the one
        of PENSTOCK_TOPOLOGY, the one here, or the one that the running services go by. `source` says in every event
        where it comes from: the name of the program.

        With PENSTOCK_BACKEND=memory there is no Redis: the mesh is in this process, and runs these `services`, or those
        of the `run:` entries in streams.yaml, for as long as the client is open.

        Raises:
            ConfigurationError: the environment or streams.yaml is wrong.
        """
        settings = settings or Settings.from_env()
        _check_backend(settings, url, services)
        if url is not None:
            settings = msgspec.structs.replace(settings, redis_url=url)
        if settings.backend == "redis":
            check_url(redis_url(settings))
        if topology is None and is_given(settings.topology):
            topology = load(settings.topology, include=settings.included)
        if isinstance(topology, str):
            topology = load(topology)
        return cls(settings, topology, source=source, services=None if services is None else list(services))

    def anew(self) -> Self:
        """Return another client of the same settings."""
        return type(self)(self._settings, self._topology, source=self._source, services=self._services)

    async def __aenter__(self) -> Self:
        """Open it.

        Raises:
            Unavailable: Redis is away, and with it the topology, which is nowhere else.
            ConfigurationError: nobody has kept a topology there, or Redis does not give the durability asked for.
                In memory: a service and its declaration do not fit together.
        """
        async with contextlib.AsyncExitStack() as stack:
            self.telemetry = stack.enter_context(telemetry(self._source, self._server, is_guest=True))
            self._backend = await stack.enter_async_context(self._make_backend())
            self._stack = stack.pop_all()
        self._is_open = True
        return self

    async def __aexit__(self, *_: object) -> None:
        """Send what is being sent, and close it."""
        self._is_open = False
        while self._under_way:
            self._idle.clear()
            await self._idle.wait()
        await self._stack.aclose()
        self._backend = None

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        """Have the client stay open until what is inside is done: it takes a bounded time."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            self._idle.set()

    @property
    def backend(self) -> Backend:
        """What keeps the mesh, for as long as the client is open."""
        if self._backend is None:
            raise RuntimeError(_CLOSED)
        return self._backend

    @property
    def topology(self) -> Topology:
        """What is known of the mesh."""
        if not self._is_open:
            raise RuntimeError(_CLOSED)
        return self.backend.topology

    @property
    def keys(self) -> Keys:
        """What the keys of the mesh are called."""
        return Keys(self._settings.prefix)

    @property
    def redis(self) -> AsyncRedis:
        """Its client of Redis, for those who ask what no call here tells.

        Raises:
            ConfigurationError: there is no Redis.
        """
        if not isinstance(self.backend, RedisBackend):
            raise ConfigurationError("this needs Redis, and PENSTOCK_BACKEND=memory has none")
        return self.backend.redis

    @property
    def durability(self) -> Durability | Literal["process"]:
        """What has an event once it is accepted: Redis, as PENSTOCK_DURABILITY says, or this process alone."""
        return "process" if self._settings.backend == "memory" else self._settings.durability

    @property
    def memory(self) -> MemoryMesh:
        """The mesh itself where it is in this process (PENSTOCK_BACKEND=memory), for tests that look into it.

        Raises:
            ConfigurationError: it is in Redis.
        """
        from penstock.memory.mesh import MemoryMesh  # noqa: PLC0415 - it is of no use to others

        if not isinstance(self.backend, MemoryMesh):
            raise ConfigurationError("this mesh is in Redis: mesh.memory is for PENSTOCK_BACKEND=memory")
        return self.backend

    @property
    def spools(self) -> bool:
        """Whether it keeps on local disk what Redis cannot take."""
        return self.backend.spools

    @property
    def is_told(self) -> bool:
        """Whether it is told on a stream what becomes of jobs."""
        return all(self.topology.reports(stream) for stream in self.topology.work)

    async def submit(
        self,
        type: str,  # noqa: A002 - the attribute's name
        data: Any = None,
        *,
        stream: str | None = None,
        subject: str | None = None,
        tenant: str | None = None,
        idempotency_key: str | None = None,
        delay: float | None = None,
        at: datetime | str | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> JobHandle:
        """Hand a job to the mesh; return once Redis has it, or the spool (PENSTOCK_SPOOL_DIR) while Redis is away.

        It goes to `stream`: `ingest`, unless only another one carries work. With an `idempotency_key` a job is
        submitted once, however often this is called (for PENSTOCK_DEDUPE_TTL); the others get the handle of the first.
        It runs after `delay` seconds, or `at` a time (RFC 3339 or an aware datetime).

        Raises:
            Unavailable: Redis could not take it; whether it did is not known only if the reply was lost, and then the
                same idempotency key finds out.
            ConfigurationError: there is no such stream, or it carries no work.
            InvalidEvent: the data cannot be written as JSON, or another attribute is senseless.
            DuplicateConflict: the idempotency key was used for another type or other data.
        """
        stream = self.stream_for(stream)
        text = encode_data(data)
        event_id, once = await self._identify(idempotency_key, [type, text])
        outgoing = self._outgoing(
            stream, type, text, event_id, subject=subject, tenant=tenant, extra=extra, delay=delay_of(delay, at)
        )
        return self._handle(type, outgoing, await self._send(outgoing, once))

    async def submit_all(self, jobs: Iterable[NewJob]) -> list[JobHandle]:
        """Submit many jobs at once; return their handles once Redis has them all; those for a stream keep their order.

        Raises:
            PenstockError: what `submit` raises, of the first that could not be submitted; the others may have been.
        """
        given = list(jobs)
        plain: dict[str, list[int]] = {}
        alone: list[int] = []
        for index, job in enumerate(given):
            if job.idempotency_key is None and job.delay is None and job.at is None:
                plain.setdefault(self.stream_for(job.stream), []).append(index)
            else:
                alone.append(index)
        if any(job.idempotency_key is not None for job in given):  # those with a key must not fall behind the others
            with telling_unavailable():
                await self.backend.identities.prepare()
        handles: dict[int, JobHandle] = {}

        async def submit_plain(stream: str, indexes: list[int]) -> None:
            some = [given[index] for index in indexes]
            outgoing = [self._plain(stream, job) for job in some]
            published = await self.backend.publish_all(stream, [one.fields for one in outgoing])
            for index, job, one, done in zip(indexes, some, outgoing, published, strict=True):
                self._sent(one, done)
                handles[index] = self._handle(job.type, one, done)

        async def submit_alone(index: int) -> None:
            handles[index] = await self.submit(**msgspec.structs.asdict(given[index]))

        submitting = [asyncio.ensure_future(submit_plain(*one)) for one in plain.items()]
        submitting += [asyncio.ensure_future(submit_alone(index)) for index in alone]
        with self._sending():
            if submitting:
                await asyncio.wait(submitting)
        for one in submitting:
            one.result()
        return [handles[index] for index in range(len(given))]

    async def publish(
        self,
        stream: str,
        type: str,  # noqa: A002 - the attribute's name
        data: Any = None,
        *,
        subject: str | None = None,
        tenant: str | None = None,
        event_id: str | None = None,
        idempotency_key: str | None = None,
        delay: float | None = None,
        at: datetime | str | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> str:
        """Publish an event to any stream; return its id once Redis has it. The rest is as for `submit`.

        Raises:
            Unavailable: as for `submit`.
            ConfigurationError: there is no such stream.
            InvalidEvent: as for `submit`.
            DuplicateConflict: as for `submit`.
        """
        self.check_stream(stream)
        text = encode_data(data)
        made, once = await self._identify(idempotency_key, [stream, type, text])
        chosen, wait = event_id or made, delay_of(delay, at)
        await self.send(stream, type, text, chosen, subject=subject, tenant=tenant, extra=extra, delay=wait, once=once)
        return chosen

    async def send(
        self,
        stream: str,
        type: str,  # noqa: A002 - the attribute's name
        data: str,
        event_id: str,
        *,
        subject: str | None,
        tenant: str | None,
        extra: Mapping[str, str] | None,
        delay: float,
        once: Sequence[Deduplication],
    ) -> Published:
        """Publish an event whose data is JSON already, unless one of `once` has seen it. The rest is as for `submit`.

        Raises:
            Unavailable: as for `submit`.
            InvalidEvent: as for `submit`.
            DuplicateConflict: as for `submit`.
        """
        outgoing = self._outgoing(
            stream, type, data, event_id, subject=subject, tenant=tenant, extra=extra, delay=delay
        )
        return await self._send(outgoing, once)

    def job(self, job_id: str, *, source: str | None = None) -> JobHandle:
        """Return the handle of a job that was submitted before, here or elsewhere; `source` tells which of that id."""
        return JobHandle(self, job_id, source=source)

    async def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        """Return the dead letters that were not replayed, the newest first, `limit` of them at most.

        Raises:
            Unavailable: Redis is away.
        """
        with telling_unavailable():
            return await self.backend.dead_letters(limit)

    async def watch(self, job_id: str) -> Watch:
        """Have what is told of a job kept from now on; what was told before, its record knows.

        Raises:
            Unavailable: Redis is away.
        """
        with telling_unavailable():
            await self.backend.watches.start()
        watch = self.backend.watches.watch(job_id)
        watch.is_complete = False
        return watch

    async def follow_progress(self) -> None:
        """Have what handlers say of their progress told to watches too, from now on.

        Raises:
            Unavailable: Redis is away.
        """
        with telling_unavailable():
            await self.backend.watches.follow_progress()
            await self.backend.watches.start()

    @property
    def _server(self) -> str:
        return redis_url(self._settings) if self._settings.backend == "redis" else ""

    def _make_backend(self) -> AbstractAsyncContextManager[Backend]:
        if self._settings.backend == "redis":
            return RedisBackend(self._settings, self._topology, source=self._source)
        from penstock.memory.mesh import MemoryMesh  # noqa: PLC0415 - it is of no use to others

        return MemoryMesh(self._settings, self._topology or load(), self._services, telemetry=self.telemetry)

    def stream_for(self, stream: str | None) -> str:
        """Return the stream that jobs go to if `stream` is said.

        Raises:
            ConfigurationError: there is no such stream, it carries no work, or it must be said which.
        """
        work = self.topology.work
        if stream is None:
            others = [name for name in work if name != INGEST]
            if INGEST not in work and len(others) != 1:
                raise ConfigurationError(f"submit: say which stream: {', '.join(others) or 'none'} carry work")
            return INGEST if INGEST in work else others[0]
        self.check_stream(stream)
        if stream not in work:
            raise ConfigurationError(
                f"submit: {stream} carries facts, so nobody would do the job; declare kind: work in streams.yaml, or "
                f"publish it there"
            )
        return stream

    def check_stream(self, stream: str) -> None:
        """Refuse a stream that there is not.

        Raises:
            ConfigurationError: with those that there are.
        """
        if stream not in self.topology.streams:
            known = ", ".join(self.topology.streams)
            raise ConfigurationError(f"streams.yaml has no stream {stream} (it has {known})")

    async def _identify(self, key: str | None, content: list[str]) -> tuple[str, list[Deduplication]]:
        if key is None:
            return self.backend.identities.fresh(), []
        with telling_unavailable():
            event_id = await self.backend.identities.same("client", [self._source, key])
        digest = hashlib.sha256(msgspec.json.encode(content)).hexdigest()
        name = msgspec.json.encode([self._source, key]).decode()
        return event_id, [Deduplication("client", name, self._settings.dedupe_ttl, digest)]

    def _plain(self, stream: str, job: NewJob) -> _Outgoing:
        text, event_id = encode_data(job.data), self.backend.identities.fresh()
        return self._outgoing(stream, job.type, text, event_id, subject=job.subject, tenant=job.tenant, extra=job.extra)

    def _outgoing(
        self,
        stream: str,
        type: str,  # noqa: A002 - the attribute's name
        data: str,
        event_id: str,
        *,
        subject: str | None,
        tenant: str | None,
        extra: Mapping[str, str] | None,
        delay: float = 0.0,
    ) -> _Outgoing:
        """Return an event of the caller's trace, ready to be published, and have what is told of it kept."""
        if not type:
            raise InvalidEvent("the event has no type")
        above = parent() or Parent(TraceContext.new())
        trace = above.trace if above.trace.span_id else self.telemetry.begin(above.trace)
        sent = send_span(trace, stream, event_id) if trace.sampled else None
        fields = encode(
            type,
            data,
            event_id=event_id,
            source=self._source,
            # Else its entry tells it.
            time=rfc3339(time.time()) if delay or self.backend.spools else None,
            subject=subject,
            tenant=tenant,
            traceparent=(trace.child() if sent is None else sent.context).traceparent,
            tracestate=above.tracestate,
            extra=extra,
        )
        watches = self.backend.watches
        watch = watches.watch(event_id) if watches.is_running else None
        return _Outgoing(stream, event_id, fields, delay, sent, watch)

    async def _send(self, outgoing: _Outgoing, once: Sequence[Deduplication]) -> Published:
        with self._sending():
            published = await self.backend.publish(outgoing.stream, outgoing.fields, delay=outgoing.delay, dedupe=once)
        self._sent(outgoing, published)
        return published

    def _handle(self, type: str, outgoing: _Outgoing, published: Published) -> JobHandle:  # noqa: A002
        watch, duplicate = outgoing.watch, published.duplicate
        if duplicate and watch is not None:
            watch.is_complete = False
        return JobHandle(
            self,
            outgoing.event_id,
            type=type,
            source=self._source,
            duplicate=duplicate,
            spooled=published.spooled,
            watch=watch,
            is_new=True,
        )

    def _sent(self, outgoing: _Outgoing, published: Published) -> None:
        if published.duplicate:
            return
        self.telemetry.sent(1, stream=outgoing.stream)
        if outgoing.span is not None:
            outgoing.span.end = time.time_ns()
            self.telemetry.record(outgoing.span)


def _check_backend(settings: Settings, url: str | None, services: Iterable[Service] | None) -> None:
    """Refuse what is asked of the one backend and is the other's.

    Raises:
        ConfigurationError: with what to do about it.
    """
    if settings.backend == "memory" and url is not None:
        raise ConfigurationError(
            "connect() is given a server, and PENSTOCK_BACKEND=memory (or REDIS_ENABLED=false, "
            "TASK_QUEUE_BACKEND=memory) says that there is none: take one of the two away"
        )
    if settings.backend == "redis" and services is not None:
        raise ConfigurationError(
            "connect(services=...) runs them in this process, which is for PENSTOCK_BACKEND=memory; beside Redis a "
            "service is a process of its own: penstock run, or penstock up"
        )


def delay_of(delay: float | None, at: datetime | str | None) -> float:
    """Return the seconds until an event is due.

    Raises:
        InvalidEvent: both are given, or one of them is none.
    """
    if at is None:
        return delay or 0.0
    if delay is not None:
        raise InvalidEvent("delay and at: give one of them")
    try:
        due = seconds_of(at.isoformat() if isinstance(at, datetime) else at)
    except ValueError as error:
        raise InvalidEvent(f"at: {at!r} is no time such as 2026-11-22T10:00:00Z: {error}") from None
    return max(0.0, due - time.time())
