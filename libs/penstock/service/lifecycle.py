"""Running a service: start in order, stop in reverse, hand back what is not done."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import structlog

from penstock.dlq.retention import DeadLetterRetention
from penstock.errors import RestartNeeded
from penstock.keys import DEAD_LETTERS, Keys
from penstock.redis.checks import check_server, wait_until_ready
from penstock.redis.connection import AsyncRedis, hide_password, unavailable
from penstock.redis.lanes import Lanes
from penstock.resilience.checkpoint import Checkpoints, NoCheckpoints, RedisCheckpoints
from penstock.service.app import Service, check_streams
from penstock.service.dispatch import Dispatcher
from penstock.service.effects import Scope
from penstock.service.ending import AFTER_DRAIN, Ending, signals
from penstock.service.forks import children_are_strangers
from penstock.service.intake import Intake
from penstock.service.main import RESTART
from penstock.service.runs import Runs
from penstock.service.runtime import Runtime, events_key
from penstock.service.threads import Threads
from penstock.settings import Settings, redis_url
from penstock.streams.commit import Committer
from penstock.streams.delay import Promoter
from penstock.streams.groups import Groups
from penstock.streams.heartbeat import INTERVAL, Heartbeat
from penstock.streams.memory import MemoryRelief
from penstock.streams.publish import Durability, Publisher, check_durability
from penstock.streams.read import Reader
from penstock.streams.renaming import FormerGroup, sources_of
from penstock.streams.rescue import Rescuer
from penstock.streams.retention import Retention
from penstock.streams.running_topology import store
from penstock.telemetry import logs
from penstock.telemetry.measures import Measures
from penstock.telemetry.setup import telemetry
from penstock.topology import ServiceSpec, Topology, load

_LAST_WORDS = 3.0  # seconds each: for the last commits, for handing back, and for cancelled handlers to end
_CLOSING = 1.0  # seconds for what handlers have begun and left behind
_FEWEST_HUNG, _MOST_HUNG = 4, 32  # threads: between them it is `concurrency` that may hang before a restart
_PAUSE = 0.5  # seconds between tries while Redis is away
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
    with contextlib.ExitStack() as stack:
        measures = stack.enter_context(telemetry(service.name))
        _run(functools.partial(serve, service, settings, topology, measures), Ending(stack.close))


def _run(main: Callable[[Ending], Coroutine[Any, Any, None]], ending: Ending) -> None:
    runner = asyncio.Runner(loop_factory=_loop_factory())
    try:
        loop = runner.get_loop()
        task = loop.create_task(main(ending))
        while not task.done():
            try:
                loop.run_until_complete(task)
            except (KeyboardInterrupt, SystemExit) as error:
                # Once signals are ours it can only be that of a task that a handler has made, and of no concern to us.
                if task.done() or not ending.has_signals:
                    raise
                _log.error("a task of a handler raised what ends a program; it is ignored", exc_info=error)
        ending.code = 0
    except BaseException as error:
        ending.error = error
        raise
    finally:
        ending.within(_CLOSING, "something that a handler began goes on")
        runner.close()
        if all(thread.daemon or thread is threading.main_thread() for thread in threading.enumerate()):
            ending.cancel()


def _spare_the_collector() -> None:
    """Keep what has been imported out of garbage collection.

    Looking through it again and again is a third of a busy worker's CPU, in pauses of tens of milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


async def serve(
    service: Service,
    settings: Settings,
    topology: Topology,
    measures: Measures | None = None,
    ending: Ending | None = None,
) -> None:
    """Run `service` in the current event loop until a signal asks it to stop; count what it does in `measures`.

    With `ending` it ends in time whatever its handlers do.

    Raises:
        RestartNeeded: too many threads hang.
        ConfigurationError: the service or streams.yaml is wrong.
        UnsuitableRedis: the server would lose events.
    """
    spec = topology.service(service.name)
    check_streams(service, spec)
    async with _runtime(service, settings, topology, measures or Measures(), ending) as runtime:
        hanging = _Hanging(runtime, ending)
        try:
            if not spec.consumes:
                await _serve_tasks(service, runtime)
            else:
                await _Consumption(service, runtime, spec).serve()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None if len(group.exceptions) == 1 else group
    hanging.check()


class _Hanging:
    """The threads of a service, and its end when too many of them hang."""

    def __init__(self, runtime: Runtime, ending: Ending | None) -> None:
        self._runtime = runtime
        self._ending = ending
        self._loop = asyncio.get_running_loop()
        self._exhausted = False
        concurrency = runtime.spec.concurrency
        # Plain handlers run in threads, as many at once as others; one more is for our own use.
        self._threads = Threads(
            concurrency + 1,
            name=runtime.name,
            most_hung=min(max(_FEWEST_HUNG, concurrency), _MOST_HUNG),
            exhausted=lambda: self._loop.call_soon_threadsafe(self._restart),
        )
        self._loop.set_default_executor(self._threads)
        runtime.hung = lambda: self._threads.hung

    def check(self) -> None:
        """Say that the process has ended only to be started again.

        Raises:
            RestartNeeded: it has.
        """
        if self._exhausted:
            raise RestartNeeded(f"{self._threads.hung} threads of plain handlers hang: start it again")

    def _restart(self) -> None:
        stopping = self._runtime.stopping
        if not stopping.is_set():
            self._exhausted = True
            if self._ending is not None:
                self._ending.code = RESTART
                self._ending.within(self._runtime.settings.drain_timeout + AFTER_DRAIN, "threads hang")
            stopping.set()


def _loop_factory() -> Any:
    try:
        import uvloop  # noqa: PLC0415 - absent on Windows
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


@contextlib.asynccontextmanager
async def _runtime(
    service: Service, settings: Settings, topology: Topology, measures: Measures, ending: Ending | None
) -> AsyncIterator[Runtime]:
    url = redis_url(settings)
    consumer = f"{service.name}-{socket.gethostname()}-{os.getpid()}-{os.urandom(3).hex()}"
    lanes = Lanes(url, name=consumer)
    redis = lanes.client()
    try:
        durability = await _introduce(redis, url, settings, topology)
        publisher = Publisher(
            redis,
            Keys(settings.prefix),
            durability=durability,
            durability_timeout=settings.durability_timeout,
            observe=functools.partial(measures.operated, "send"),
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
                telemetry=measures,
            )
            loop = asyncio.get_running_loop()
            stop = functools.partial(loop.call_soon_threadsafe, runtime.stopping.set)
            with children_are_strangers(), signals(stop, ending, grace=settings.drain_timeout):
                yield runtime
    finally:
        await lanes.aclose()


async def _introduce(redis: AsyncRedis, url: str, settings: Settings, topology: Topology) -> Durability:
    """Check the server and tell it the topology, however often it goes away meanwhile."""
    said = ""
    while True:
        await wait_until_ready(redis, url)
        try:
            await check_server(redis)
            await store(redis, Keys(settings.prefix), topology)
            return await check_durability(redis, settings.durability)
        except Exception as error:
            away = unavailable(error)
            if away is None:
                raise
            if away.reason != said:
                said = away.reason
                _log.warning("waiting for Redis", url=hide_password(url), reason=said)
        await asyncio.sleep(_PAUSE)


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
        self._sources = sources_of(runtime.keys, self._group, list(spec.consumes))

    async def serve(self) -> None:
        """Serve until asked to stop."""
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
        former = None
        if self._spec.formerly:
            former = FormerGroup(
                runtime.redis,
                runtime.keys,
                group=self._group,
                former=self._spec.formerly,
                consumer=self._consumer,
            )
        groups = Groups(
            runtime.redis,
            runtime.keys,
            group=self._group,
            sources=self._sources,
            starts={stream: subscription.start for stream, subscription in self._spec.consumes.items()},
            former=former,
        )
        rescuer = Rescuer(
            runtime.redis,
            runtime.keys,
            group=self._group,
            consumer=self._consumer,
            sources=self._sources,
            dlq=runtime.keys.stream(DEAD_LETTERS),
            lease=self._spec.lease,
            note=groups.note,
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
            reading = Intake(reader, dispatcher, heartbeat, groups, sources=self._sources, hand_back=rescuer.hand_back)
            runtime.reading = lambda: reading.ready
            intake = tasks.create_task(reading.run())
            background = [tasks.create_task(_named(task(runtime))) for task in self._service.tasks]
            children += [intake, *background, *support]
            await runtime.stopping.wait()
            await _end([intake])
            await self._drain(dispatcher, committer, background)
            await self._hand_back(rescuer, groups)
        finally:  # also when a task of the service has failed
            if left := await runs.end(_LAST_WORDS):
                _log.warning("handlers swallow being cancelled; their entries are handed back", handlers=left)
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
