"""The containers service, put together: commands change records, calls bring containers to where records say."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import Any

import msgspec
import structlog

from penstock import ConfigurationError, Context, Reject, Service, Unavailable
from penstock.event import derived_id, encode, encode_data
from penstock.keys import EVENTS
from penstock.service.runtime import Runtime
from penstock.settings import Settings, read_variables
from penstock.streams.publish import Deduplication
from penstock.topology import Topology
from penstock_services.containers.engine import Engine, EngineAway, EngineRefuses
from penstock_services.containers.model import Declaration, Name, Record, Wanted
from penstock_services.containers.policy import ContainerSettings, read
from penstock_services.containers.reconcile import (
    CALL,
    COMMANDS,
    RECONCILE,
    SERVICE,
    SERVICES,
    Call,
    Reconciler,
    call_again,
    load,
)

_SWEEP = 30.0  # seconds between two looks at everything: what the engine says meanwhile are hints
_log = structlog.get_logger(SERVICE)


class Named(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which service is meant."""

    name: Name


class Accepted(msgspec.Struct, frozen=True):
    """What a command has changed: `generation` counts the declarations that needed other containers."""

    service: str
    generation: int
    changed: bool


def build(settings: Settings, topology: Topology) -> Service:
    """Return the containers service.

    Raises:
        ConfigurationError: a variable does not fit, or streams.yaml does not let it publish what it must.
    """
    for stream in (EVENTS, RECONCILE):
        if stream not in topology.service(SERVICE).publishes:
            raise ConfigurationError(f"streams.yaml: services.{SERVICE}.publishes does not list {stream}; add it")
    own = read_variables(ContainerSettings)
    engine = Engine(own.engine, mesh=mesh_label(settings))
    reconciler = Reconciler(engine, own, prefix=f"{mesh_label(settings)}-".replace(":", "-"))
    service = Service(SERVICE)

    @service.on(COMMANDS, type="service.apply")
    async def apply(asked: dict[str, Any], ctx: Context) -> Accepted:
        try:
            declared = read(asked, own)
        except ConfigurationError as error:
            raise Reject(str(error)) from None
        return await _apply(declared, ctx)

    @service.on(COMMANDS, type="service.start")
    async def start(asked: Named, ctx: Context) -> Accepted:
        return await _want("running", asked.name, ctx)

    @service.on(COMMANDS, type="service.stop")
    async def stop(asked: Named, ctx: Context) -> Accepted:
        return await _want("stopped", asked.name, ctx)

    @service.on(COMMANDS, type="service.delete")
    async def delete(asked: Named, ctx: Context) -> Accepted:
        return await _want("deleted", asked.name, ctx)

    @service.on(RECONCILE, type=CALL)
    async def reconcile(call: Call, ctx: Context) -> None:
        await reconciler.take_step(call, ctx)

    async def watch(runtime: Runtime) -> None:
        await _Watch(runtime, engine).run()

    service.task(watch)
    return service


def mesh_label(settings: Settings) -> str:
    """Return what tells this mesh's containers from others on the engine."""
    return settings.prefix or "penstock"


async def _apply(declared: Declaration, ctx: Context) -> Accepted:
    record = await load(ctx, declared.name)
    if record is None:
        record = Record(declared=declared)
    elif record.declared == declared and record.wanted == "running":
        call_again(ctx, record)
        return Accepted(declared.name, record.generation, changed=False)
    elif record.declared.digest != declared.digest or record.wanted == "deleted":
        record.generation += 1
        record.instances, record.state = {}, ""
    record.instances = {number: one for number, one in record.instances.items() if number < declared.replicas}
    if record.declared.replicas != declared.replicas:
        record.state = ""  # it is told anew when all of them work, and where
    _begin_afresh(record)
    record.declared, record.wanted, record.traceparent = declared, "running", ctx.trace.traceparent
    call_again(ctx, record)
    return Accepted(declared.name, record.generation, changed=True)


async def _want(wanted: Wanted, name: str, ctx: Context) -> Accepted:
    record = await load(ctx, name)
    if record is None or (record.wanted == "deleted" and wanted != "deleted"):
        raise Reject(f"there is no service {name}; service.apply makes one")
    changes = record.wanted != wanted
    if changes or wanted == "running":
        _begin_afresh(record)
    if changes:
        record.wanted, record.state, record.traceparent = wanted, "", ctx.trace.traceparent
    call_again(ctx, record)
    return Accepted(name, record.generation, changed=changes)


def _begin_afresh(record: Record) -> None:
    """Somebody wants it now: no waiting, no failures from before, and what has come to its end runs again."""
    for instance in record.instances.values():
        instance.failures, instance.retry_at = 0, 0.0
        if instance.state == "ended":
            instance.state = "created"


class _Watch:
    """Calls for a look at a service when the engine says that something is with it, and at all of them now and then."""

    def __init__(self, runtime: Runtime, engine: Engine) -> None:
        self._runtime = runtime
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._changes: asyncio.Queue[tuple[str, int]] = asyncio.Queue()

    async def run(self) -> None:
        """Watch until the service is asked to stop."""
        threading.Thread(target=self._listen, name="engine-events", daemon=True).start()
        telling = asyncio.create_task(self._tell())
        try:
            while not self._runtime.stopping.is_set():
                with contextlib.suppress(Unavailable):  # the reader says so; there is a next time
                    await self._sweep()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_SWEEP):
                        await self._runtime.stopping.wait()
        finally:
            telling.cancel()  # the engine stays: handlers have time to finish
            await asyncio.gather(telling, return_exceptions=True)

    async def _sweep(self) -> None:
        key = self._runtime.keys.state(SERVICE, SERVICES)
        names = [name.decode() for name in await self._runtime.redis.hkeys(key)]
        for name in names:
            await self._call(name, f"{time.time() // _SWEEP:.0f}")
        with contextlib.suppress(EngineAway, EngineRefuses):
            for one in {one.service for one in await self._engine.containers()} - set(names):
                _log.warning("containers without a declaration", container_service=one, left="as they are")

    async def _tell(self) -> None:
        while True:
            name, at = await self._changes.get()
            with contextlib.suppress(Unavailable):
                await self._call(name, str(at))

    async def _call(self, name: str, moment: str) -> None:
        """Publish a call, once for all replicas, in the trace of the command that asked for what is there."""
        raw = await self._runtime.redis.hget(self._runtime.keys.state(SERVICE, SERVICES), name)
        if raw is None:
            return
        record = msgspec.json.decode(raw, type=Record)
        once = Deduplication(CALL, f"{name}@{moment}", 600, digest=name)  # in whichever trace: the look is the same
        fields = encode(
            CALL,
            encode_data(Call(name)),
            event_id=derived_id(SERVICE, CALL, once.key),
            source=SERVICE,
            subject=name,
            traceparent=record.traceparent,
        )
        await self._runtime.publisher.publish(RECONCILE, fields, dedupe=[once])

    def _listen(self) -> None:
        """Pass on what the engine says, in a thread that ends with the process."""
        since = int(time.time())
        while True:
            try:
                for name, at in self._engine.changes(since):
                    since = at // 1_000_000_000
                    self._loop.call_soon_threadsafe(self._changes.put_nowait, (name, at))
            except EngineAway:
                time.sleep(1.0)
            except RuntimeError:  # the loop is closed
                return
