"""Running a service: start in order, stop in reverse, hand back what is not done."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from penstock.dlq.retention import DeadLetterRetention
from penstock.keys import DEAD_LETTERS, Keys
from penstock.redis.checks import check_server, wait_until_ready
from penstock.redis.connection import unavailable
from penstock.redis.lanes import Lanes
from penstock.resilience.checkpoint import Checkpoints, NoCheckpoints, RedisCheckpoints
from penstock.service.app import Service, check_streams
from penstock.service.dispatch import Dispatcher
from penstock.service.effects import Scope
from penstock.service.intake import Intake
from penstock.service.runs import Runs
from penstock.service.runtime import Runtime, events_key
from penstock.settings import Settings, redis_url
from penstock.streams.commit import Committer, Source
from penstock.streams.delay import Promoter
from penstock.streams.heartbeat import INTERVAL, Heartbeat
from penstock.streams.memory import MemoryRelief
from penstock.streams.publish import Publisher, check_durability
from penstock.streams.read import Reader
from penstock.streams.rescue import Rescuer
from penstock.streams.retention import Retention
from penstock.streams.running_topology import store
from penstock.telemetry import logs
from penstock.telemetry.setup import telemetry
from penstock.telemetry.spans import NullTelemetry, Telemetry
from penstock.topology import ServiceSpec, Topology, load

_LAST_WORDS = 5.0  # seconds that cancelled handlers have to end, and the last commits to be taken
_log = structlog.get_logger("penstock.service")


def run(service: Service, settings: Settings | None = None, topology: Topology | None = None) -> None:
    """Run `service` until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: the service, streams.yaml or the environment is wrong.
        UnsuitableRedis: the server would lose events.
    """
    settings = settings or Settings.from_env()
    logs.configure(level=settings.log_level, form=settings.log_format, service=service.name)
    topology = topology or load(settings.topology)
    _spare_the_collector()
    with telemetry(service.name) as listener, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(service, settings, topology, listener))


def _spare_the_collector() -> None:
    """Keep what has been imported out of garbage collection.

    Looking through it again and again is a third of a busy worker's CPU, in pauses of tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


async def serve(service: Service, settings: Settings, topology: Topology, listener: Telemetry | None = None) -> None:
    """Run `service` in the current event loop until a signal asks it to stop; tell `listener` what it does.

    Raises:
        ConfigurationError: the service or streams.yaml is wrong.
        UnsuitableRedis: the server would lose events.
    """
    spec = topology.service(service.name)
    check_streams(service, spec)
    async with _runtime(service, settings, topology, listener or NullTelemetry()) as runtime:
        try:
            if not spec.consumes:
                await _serve_tasks(service, runtime)
            else:
                await _Consumption(service, runtime, spec).serve()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None if len(group.exceptions) == 1 else group


def _loop_factory() -> Any:
    try:
        import uvloop  # noqa: PLC0415 - absent on Windows
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


@contextlib.asynccontextmanager
async def _runtime(
    service: Service, settings: Settings, topology: Topology, listener: Telemetry
) -> AsyncIterator[Runtime]:
    url = redis_url(settings)
    consumer = f"{service.name}-{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
    lanes = Lanes(url, name=consumer)
    redis = lanes.client()
    try:
        await wait_until_ready(redis, url)
        await check_server(redis)
        await store(redis, Keys(settings.prefix), topology)
        durability = await check_durability(redis, settings.durability)
        publisher = Publisher(
            redis,
            Keys(settings.prefix),
            durability=durability,
            durability_timeout=settings.durability_timeout,
            observe=functools.partial(listener.operated, "send"),
        )
        async with publisher:
            runtime = Runtime(
                service.name,
                needs=service.handlers.needs,
                settings=settings,
                topology=topology,
                lanes=lanes,
                consumer=consumer,
                publisher=publisher,
                telemetry=listener,
            )
            with _signals(runtime.stopping):
                yield runtime
    finally:
        await lanes.aclose()


@contextlib.contextmanager
def _signals(stopping: asyncio.Event) -> Any:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _serve_tasks(service: Service, runtime: Runtime) -> None:
    async with asyncio.TaskGroup() as tasks:
        for task in service.tasks:
            tasks.create_task(_named(task(runtime)))
        promoter = Promoter(runtime.redis, _scheduled(runtime))
        support = [tasks.create_task(coroutine) for coroutine in (promoter.run(), *_trimming(runtime))]
        _log.info("started")
        try:
            await runtime.stopping.wait()
        finally:  # also when a task of the service has failed
            await _end(support)
    _log.info("stopped")


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks until they end: on Python 3.11 `asyncio.wait_for`, which redis-py uses, may swallow a cancel."""
    remaining = set(tasks)
    while remaining:
        for task in remaining:
            task.cancel()
        _, remaining = await asyncio.wait(remaining, timeout=0.5)


async def _named(awaitable: Any) -> None:
    await awaitable


def _published(runtime: Runtime) -> list[str]:
    return [stream for stream in runtime.spec.publishes if stream != DEAD_LETTERS]


def _scheduled(runtime: Runtime) -> list[tuple[str, str]]:
    """Return where this service's delayed publications wait, and where they go."""
    keys = runtime.keys
    return [(keys.scheduled(stream), keys.stream(stream)) for stream in _published(runtime)]


def _trimming(runtime: Runtime) -> list[Any]:
    """Return what keeps the streams of this service, and the dead letters, within their bounds."""
    settings = runtime.settings
    spec = runtime.spec
    streams = sorted({*spec.consumes, *_published(runtime)})
    dead_letters = DeadLetterRetention(
        runtime.redis,
        runtime.keys,
        days=settings.dlq_retention_days,
        entries=settings.dlq_max_entries,
        events=events_key(runtime.keys, runtime.topology),
    )
    events = events_key(runtime.keys, runtime.topology)
    retention = Retention(runtime.redis, runtime.keys, runtime.topology, streams, events=events)
    relief = MemoryRelief(
        runtime.redis, runtime.keys, runtime.topology, share=settings.memory_share, job_ttl=settings.job_ttl
    )
    return [retention.run(), dead_letters.run(), relief.run()]


class _Consumption:
    """The part of a service that reads: everything one process runs for its consumer group."""

    def __init__(self, service: Service, runtime: Runtime, spec: ServiceSpec) -> None:
        self._service = service
        self._runtime = runtime
        self._spec = spec
        self._group = service.name
        self._consumer = runtime.consumer
        self._sources = list(_sources(runtime.keys, self._group, list(spec.consumes)))

    async def serve(self) -> None:
        """Serve until asked to stop."""
        # Plain handlers run in threads, as many at once as others; one more is for our own use.
        threads = ThreadPoolExecutor(self._spec.concurrency + 1, thread_name_prefix=self._group)
        asyncio.get_running_loop().set_default_executor(threads)
        async with asyncio.TaskGroup() as tasks:
            await self._serve_in(tasks)
        _log.info("stopped")

    async def _serve_in(self, tasks: asyncio.TaskGroup) -> None:
        runtime = self._runtime
        retries = [(source.delayed, source.key) for source in self._sources if source.is_retry]
        promoter = Promoter(runtime.redis, [*retries, *_scheduled(runtime)])
        committer = self._committer(promoter)
        runs = Runs()
        dispatcher = Dispatcher(
            self._scope(),
            self._spec,
            self._service.handlers,
            consumer=self._consumer,
            hooks=self._service.hooks,
            client=runtime.redis,
            committer=committer,
            runs=runs,
        )
        reader = Reader(runtime.redis, group=self._group, consumer=self._consumer, sources=self._sources)
        rescuer = Rescuer(
            runtime.redis,
            runtime.keys,
            group=self._group,
            consumer=self._consumer,
            sources=self._sources,
            dlq=runtime.keys.stream(DEAD_LETTERS),
            lease=self._spec.lease,
        )
        heartbeat = Heartbeat(
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
        heartbeat.start()
        children: list[asyncio.Task[None]] = []
        try:
            support = [
                tasks.create_task(coroutine)
                for coroutine in (
                    committer.run(),
                    rescuer.run(),
                    promoter.run(),
                    runtime.breakers.run(),
                    runs.failure(),
                    *_trimming(runtime),
                )
            ]
            reading = Intake(reader, dispatcher, heartbeat, sources=self._sources, hand_back=rescuer.hand_back)
            runtime.reading = lambda: reading.ready
            intake = tasks.create_task(reading.run())
            background = [tasks.create_task(_named(task(runtime))) for task in self._service.tasks]
            children += [intake, *background, *support]
            await runtime.stopping.wait()
            await _end([intake])
            await self._drain(dispatcher, committer, background)
            await self._hand_back(rescuer)
        finally:  # also when a task of the service has failed
            await runs.end(_LAST_WORDS)
            await _end(children)
            await heartbeat.stop()
            await reader.aclose()

    def _scope(self) -> Scope:
        runtime = self._runtime
        settings = runtime.settings
        checkpoints: Checkpoints = NoCheckpoints()
        if settings.checkpoint_enabled:
            checkpoints = RedisCheckpoints(runtime.redis, runtime.keys, group=self._group, ttl=settings.checkpoint_ttl)
        return Scope(
            service=self._group,
            keys=runtime.keys,
            publishes=frozenset(self._spec.publishes),
            checkpoints=checkpoints,
            outlet=runtime.publisher,
            breakers=runtime.breakers,
            redis=runtime.redis,
            telemetry=runtime.telemetry,
        )

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

    async def _hand_back(self, rescuer: Rescuer) -> None:
        try:
            async with asyncio.timeout(5.0):
                handed_back = await rescuer.release(self._consumer)
        except Exception as error:
            if unavailable(error) is None and not isinstance(error, TimeoutError):
                raise
            _log.warning("Redis is away: others take over what was in hand once it is back")
        else:
            if handed_back:
                _log.info("handed back", entries=handed_back)


def _sources(keys: Keys, group: str, streams: list[str]) -> list[Source]:
    sources: list[Source] = []
    for stream in streams:
        delayed = keys.delayed(stream, group)
        sources.append(Source(len(sources), stream, keys.retry(stream, group), delayed, is_retry=True))
        sources.append(Source(len(sources), stream, keys.stream(stream), delayed, is_retry=False))
    return sources
