"""Running a service: the process around it, from its first PING to its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import structlog

from penstock.errors import RestartNeeded
from penstock.keys import Keys
from penstock.redis.checks import check_server, wait_until_ready
from penstock.redis.connection import AsyncRedis, hide_password, unavailable
from penstock.redis.lanes import Lanes
from penstock.service.app import Service, check_streams
from penstock.service.chores import named, scheduled, trimming
from penstock.service.consumption import Consumption, Observer
from penstock.service.ending import AFTER_DRAIN, Ending, signals
from penstock.service.forks import children_are_strangers
from penstock.service.main import RESTART
from penstock.service.runtime import Runtime, spec_of
from penstock.service.threads import Threads
from penstock.settings import Settings, redis_url
from penstock.spool.spooling import Spooling
from penstock.streams.delay import Promoter
from penstock.streams.durability import Durability, check_durability
from penstock.streams.groups import consumer_prefix
from penstock.streams.publish import Publisher
from penstock.streams.running_topology import store
from penstock.tasks import end
from penstock.telemetry import logs
from penstock.telemetry.measures import Measures
from penstock.telemetry.setup import telemetry
from penstock.topology import Topology, load

_CLOSING = 1.0  # seconds for what handlers have begun and left behind
_FEWEST_HUNG, _MOST_HUNG = 4, 32  # threads: between them it is `concurrency` that may hang before a restart
_PATIENCE = 3.0  # seconds that a service with a spool waits for Redis before it takes events without it
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
    topology = topology or load(settings.topology, include=settings.included)
    _spare_the_collector()
    with contextlib.ExitStack() as stack:
        measures = stack.enter_context(telemetry(service.name, redis_url(settings)))
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
    *,
    observer: Observer | None = None,
) -> None:
    """Run `service` in the current event loop until a signal asks it to stop; count what it does in `measures`.

    With `ending` it ends in time whatever its handlers do. `observer` hears of each entry that is settled.

    Raises:
        RestartNeeded: too many threads hang.
        ConfigurationError: the service or streams.yaml is wrong.
        UnsuitableRedis: the server would lose events.
    """
    spec = spec_of(settings, topology, service.name)
    check_streams(service, spec)
    async with _runtime(service, settings, topology, measures or Measures(), ending) as runtime:
        hanging = _Hanging(runtime, ending)
        try:
            if not spec.consumes:
                await _serve_tasks(service, runtime)
            else:
                await Consumption(service, runtime, spec, observer).serve()
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
    consumer = consumer_prefix(service.name, os.getpid()) + os.urandom(3).hex()
    lanes = Lanes.of(settings, name=consumer)
    redis = lanes.client()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(lanes.aclose)
        publisher = Publisher(
            redis,
            Keys(settings.prefix),
            durability=settings.durability,
            durability_timeout=settings.durability_timeout,
            retry_for=settings.redis_retry,
            observe=functools.partial(measures.operated, "send"),
            spooling=Spooling.of(settings, service.name, hide_password(url)) if service.spools else None,
        )

        async def introduce() -> None:
            publisher.use(await _introduce(redis, url, settings, topology))

        introducing = asyncio.create_task(introduce())
        stack.push_async_callback(end, [introducing])
        await asyncio.wait({introducing}, timeout=None if publisher.spooling is None else _PATIENCE)
        if introducing.done():
            introducing.result()
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
            runtime.introduced = introducing
            loop = asyncio.get_running_loop()
            stop = functools.partial(loop.call_soon_threadsafe, runtime.stopping.set)
            with children_are_strangers(), signals(stop, ending, grace=settings.drain_timeout):
                yield runtime


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


async def _introduced(runtime: Runtime) -> None:
    """End when Redis knows us, at the latest with the process; it may turn out to be one that cannot be used."""
    if runtime.introduced is not None:
        await runtime.introduced


async def _serve_tasks(service: Service, runtime: Runtime) -> None:
    async with asyncio.TaskGroup() as tasks:
        for task in service.tasks:
            tasks.create_task(named(task(runtime)))
        promoter = Promoter(runtime.redis, scheduled(runtime))
        support = [
            tasks.create_task(coroutine) for coroutine in (promoter.run(), *trimming(runtime), _introduced(runtime))
        ]
        _log.info("started")
        try:
            await runtime.stopping.wait()
        finally:  # also when a task of the service has failed
            await end(support)
    _log.info("stopped")
