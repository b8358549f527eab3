"""What one process runs for its consumer group: intake and dispatch, commits, heartbeat, rescue, and their end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Sequence
from typing import Protocol

import structlog

from penstock.keys import DEAD_LETTERS
from penstock.redis.connection import AsyncRedis, unavailable
from penstock.resilience.checkpoint import Checkpoints, NoCheckpoints, RedisCheckpoints
from penstock.service.app import Service
from penstock.service.chores import named, scheduled, trimming
from penstock.service.dispatch import Dispatcher
from penstock.service.effects import Scope
from penstock.service.execute import Concluded
from penstock.service.intake import Intake
from penstock.service.process import Work
from penstock.service.progress import ProgressWriter
from penstock.service.reports import Reports
from penstock.service.runs import Runs
from penstock.service.runtime import Runtime
from penstock.settings import Settings
from penstock.streams.commit import Commits, Committer
from penstock.streams.delay import Promoter
from penstock.streams.groups import Groups
from penstock.streams.heartbeat import INTERVAL, Heartbeat
from penstock.streams.read import Cancelled, Reader
from penstock.streams.renaming import FormerGroup, sources_of
from penstock.streams.rescue import Rescuer
from penstock.tasks import end
from penstock.topology import ServiceSpec, Topology

_LAST_WORDS = 3.0  # seconds each: for the last commits, for handing back, and for cancelled handlers to end
_log = structlog.get_logger("penstock.service")


class Observer(Protocol):
    """Who looks on from within the process: `penstock.testing`."""

    def scope(self, scope: Scope) -> Scope:
        """Return what contexts shall share instead."""

    def settled(self, works: Sequence[Work], concluded: Concluded) -> None:
        """Hear what became of entries, once it is committed."""


def work_of(group: str, spec: ServiceSpec, topology: Topology) -> list[str]:
    """Return the streams whose entries are jobs of this service."""
    return [stream for stream in spec.consumes if group in topology.workers(stream)]


def make_dispatcher(
    service: Service,
    spec: ServiceSpec,
    scope: Scope,
    *,
    settings: Settings,
    topology: Topology,
    consumer: str,
    client: AsyncRedis,
    committer: Commits,
    runs: Runs,
    cancelled: Cancelled | None = None,
    observer: Observer | None = None,
) -> Dispatcher:
    """Return what starts the handlers of a service, with what is done around them where a stream carries work."""
    reports = {
        stream: Reports(topology.reports(stream), ttl=settings.job_ttl)
        for stream in work_of(service.name, spec, topology)
    }
    hooks = service.hooks
    return Dispatcher(
        scope,
        spec,
        service.handlers,
        consumer=consumer,
        hooks={
            stream: reports[stream].around(hooks, starts=settings.job_started) if stream in reports else hooks
            for stream in spec.consumes
        },
        reports=reports,
        skips=[stream for stream in spec.consumes if topology.unhandled(service.name, stream) == "skip"],
        client=client,
        committer=committer,
        runs=runs,
        cancelled=cancelled,
        observe=observer.settled if observer else None,
    )


class Consumption:
    """The part of a service that reads: everything one process runs for its consumer group."""

    def __init__(self, service: Service, runtime: Runtime, spec: ServiceSpec, observer: Observer | None = None) -> None:
        self._service = service
        self._runtime = runtime
        self._spec = spec
        self._observer = observer
        self._group = service.name
        self._consumer = runtime.consumer
        self._sources = sources_of(runtime.keys, self._group, list(spec.consumes))

    async def serve(self) -> None:
        """Serve until asked to stop."""
        async with asyncio.TaskGroup() as tasks:
            await self._serve_in(tasks)
        _log.info("stopped")

    async def _serve_in(self, tasks: asyncio.TaskGroup) -> None:
        runtime = self._runtime
        retries = [(source.delayed, source.key) for source in self._sources if source.is_retry]
        promoter = Promoter(runtime.redis, [*retries, *scheduled(runtime)])
        committer = self._committer(promoter)
        runs = Runs()
        progress = self._progress()
        reader = self._reader()
        dispatcher = self._dispatcher(committer, runs, self._scope(progress), reader)
        groups = self._groups()
        rescuer = self._rescuer(groups)
        heartbeat = self._heartbeat(dispatcher, rescuer)
        intake = Intake(reader, dispatcher, heartbeat, groups, sources=self._sources, hand_back=rescuer.hand_back)
        heartbeat.start()
        running: list[asyncio.Task[None]] = []
        try:
            support = [
                tasks.create_task(coroutine)
                for coroutine in (
                    committer.run(),
                    progress.run(),
                    rescuer.run(),
                    promoter.run(),
                    runtime.breakers.run(),
                    runs.failure(),
                    *trimming(runtime),
                )
            ]
            runtime.trouble = lambda: intake.trouble or committer.trouble
            reading = tasks.create_task(intake.run())
            background = [tasks.create_task(named(task(runtime))) for task in self._service.tasks]
            running += [reading, *background, *support]
            await runtime.stopping.wait()
            await end([reading])
            await self._drain(dispatcher, committer, background)
            await self._hand_back(rescuer, groups)
        finally:  # also when a task of the service has failed
            if left := await runs.end(_LAST_WORDS):
                _log.warning("handlers swallow being cancelled; their entries are handed back", handlers=left)
            await end(running)
            await heartbeat.stop()
            await reader.aclose()

    def _reader(self) -> Reader:
        work = work_of(self._group, self._spec, self._runtime.topology)
        return Reader(
            self._runtime.redis,
            group=self._group,
            consumer=self._consumer,
            sources=self._sources,
            cancelled={stream: self._runtime.keys.cancelled(stream) for stream in work},
        )

    def _dispatcher(self, committer: Committer, runs: Runs, scope: Scope, reader: Reader) -> Dispatcher:
        runtime = self._runtime
        return make_dispatcher(
            self._service,
            self._spec,
            scope,
            settings=runtime.settings,
            topology=runtime.topology,
            consumer=self._consumer,
            client=runtime.redis,
            committer=committer,
            runs=runs,
            cancelled=reader.cancelled,
            observer=self._observer,
        )

    def _progress(self) -> ProgressWriter:
        return ProgressWriter(
            self._runtime.redis, self._runtime.keys, streams=work_of(self._group, self._spec, self._runtime.topology)
        )

    def _groups(self) -> Groups:
        runtime = self._runtime
        former = None
        if self._spec.formerly:
            former = FormerGroup(
                runtime.redis,
                runtime.keys,
                group=self._group,
                former=self._spec.formerly,
                consumer=self._consumer,
            )
        return Groups(
            runtime.redis,
            runtime.keys,
            group=self._group,
            sources=self._sources,
            starts={stream: subscription.start for stream, subscription in self._spec.consumes.items()},
            former=former,
        )

    def _rescuer(self, groups: Groups) -> Rescuer:
        runtime = self._runtime
        return Rescuer(
            runtime.redis,
            runtime.keys,
            group=self._group,
            consumer=self._consumer,
            sources=self._sources,
            dlq=runtime.keys.stream(DEAD_LETTERS),
            lease=self._spec.lease,
            note=groups.note,
        )

    def _heartbeat(self, dispatcher: Dispatcher, rescuer: Rescuer) -> Heartbeat:
        runtime = self._runtime
        return Heartbeat(
            runtime.lanes.blocking_client(timeout=INTERVAL, name=f"{self._consumer}:heartbeat"),
            runtime.keys,
            group=self._group,
            consumer=self._consumer,
            sources=self._sources,
            lease=self._spec.lease,
            in_flight=lambda: dispatcher.in_flight,
            lost=dispatcher.lost,
            observe=rescuer.observe,
        )

    def _scope(self, progress: ProgressWriter) -> Scope:
        runtime = self._runtime
        settings = runtime.settings
        checkpoints: Checkpoints = NoCheckpoints()
        if settings.checkpoint_enabled:
            checkpoints = RedisCheckpoints(runtime.redis, runtime.keys, group=self._group, ttl=settings.checkpoint_ttl)
        scope = Scope(
            service=self._group,
            keys=runtime.keys,
            publishes=frozenset(self._spec.publishes),
            checkpoints=checkpoints,
            outlet=runtime.publisher,
            breakers=runtime.breakers,
            redis=runtime.lanes.handlers_client(),
            telemetry=runtime.telemetry,
            progress=progress,
        )
        return self._observer.scope(scope) if self._observer else scope

    def _committer(self, promoter: Promoter) -> Committer:
        runtime = self._runtime
        return Committer(
            runtime.redis,
            group=self._group,
            consumer=self._consumer,
            sources=self._sources,
            dead_letters=runtime.keys.stream(DEAD_LETTERS) if runtime.settings.dlq_enabled else "",
            parked=promoter.look_again,
            observe=functools.partial(runtime.telemetry.operated, "settle"),
        )

    async def _drain(self, dispatcher: Dispatcher, committer: Committer, background: list[asyncio.Task[None]]) -> None:
        """Let handlers finish within the grace time, then cancel them; settle what is finished."""
        grace = self._runtime.settings.drain_timeout
        try:
            async with asyncio.timeout(grace):
                await dispatcher.drained()
                if background:
                    await asyncio.wait(background)
        except TimeoutError:
            orphans = dispatcher.cancel()
            _log.warning("grace time is over: handing back what still ran", events=orphans[:100])
            for task in background:
                task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(grace, _LAST_WORDS)):
                await committer.drain()

    async def _hand_back(self, rescuer: Rescuer, groups: Groups) -> None:
        try:
            async with asyncio.timeout(_LAST_WORDS):
                handed_back = await rescuer.release(self._consumer)
                await groups.note()
        except Exception as error:
            if unavailable(error) is None and not isinstance(error, TimeoutError):
                raise
            _log.warning("Redis is away: others take over what was in flight once it is back")
        else:
            if handed_back:
                _log.info("handed back", entries=handed_back)
