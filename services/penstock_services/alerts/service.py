"""The alert manager, put together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from penstock import BatchContext, ConfigurationError, Event, Service, Unavailable
from penstock.event import derived_id, encode, encode_data
from penstock.keys import ALERTS, METRICS, Keys
from penstock.mesh.alerts import SERVICE, TICK, AlertStore, RulesGiven
from penstock.schemas import Alert, MetricsWindow, Tick
from penstock.service.runtime import Runtime
from penstock.settings import Settings
from penstock.streams.publish import Deduplication
from penstock.times import entry_ms, rfc3339
from penstock.topology import Topology
from penstock.trace_context import LINKS, TraceContext, parse_links
from penstock_services.alerts.adopt import adopt
from penstock_services.alerts.api import serve_api
from penstock_services.alerts.engine import Engine
from penstock_services.alerts.input import TICK_SECONDS, WINDOW, entries, whole
from penstock_services.alerts.rules.file import readable
from penstock_services.alerts.rules.model import Rules
from penstock_services.alerts.rules.ruleset import Ruleset
from penstock_services.alerts.state.state import AlertState
from penstock_services.alerts.state.store import StatePosition, StateStore, name_of

_WATCHDOG = "alert.watchdog"
_BATCH = 500


def build(settings: Settings, topology: Topology) -> Service:
    """Return the alert manager with the rules of PENSTOCK_ALERTS.

    Raises:
        ConfigurationError: alerts.yaml is wrong, with a sentence for each mistake, or streams.yaml does not let it
            publish what it must.
    """
    for stream in (ALERTS, METRICS):
        if stream not in topology.service(SERVICE).publishes:
            raise ConfigurationError(f"streams.yaml: services.{SERVICE}.publishes does not list {stream}; add it")
    manager = _Manager(settings)
    service = Service(SERVICE)

    @service.on(METRICS, type=WINDOW, batch=_BATCH)
    async def windows(_: list[MetricsWindow], ctx: BatchContext) -> None:
        await manager.catch_up(ctx)

    @service.on(METRICS, type=TICK, batch=_BATCH)
    async def ticks(_: list[Tick], ctx: BatchContext) -> None:
        await manager.catch_up(ctx)

    async def events(arrived: list[Event], ctx: BatchContext) -> None:
        await manager.take(arrived, ctx)

    for stream in topology.service(SERVICE).consumes:
        if stream != METRICS:
            service.on(stream, batch=_BATCH)(events)

    service.task(manager.ruleset.watch)
    service.task(_tick)
    service.task(serve_api)
    return service


class _Manager:
    """Folds what comes into the alert state, by the rules in force."""

    def __init__(self, settings: Settings) -> None:
        self._lateness = settings.metrics_lateness
        self._keys = Keys(settings.prefix)
        self._engine = Engine(Rules(), lateness=self._lateness)
        self.ruleset = Ruleset(settings.alerts, self._use)

    def _use(self, rules: Rules) -> None:
        self._engine = Engine(rules, lateness=self._lateness)

    async def catch_up(self, ctx: BatchContext) -> None:
        """Fold what has come to `metrics` since the state's position: at least what this call was made for."""
        store = StateStore(ctx)
        position = await store.position()
        given = await self.ruleset.follow(AlertStore(ctx.redis, self._keys))
        engine = self._engine
        state: AlertState | None = None
        cursor = position.cursor
        async for entry_id, item in whole(entries(ctx.redis, self._keys.stream(METRICS), position.cursor)):
            if state is None:
                state = await self._load(store, position, engine, given, memory=True)
            engine.fold(state, item)
            cursor = entry_id
        if state is None:
            return  # another replica, or the other handler, has been here before
        store.save(state, position, cursor=cursor, rules=_other(position, given))
        for kind, alert in state.outbox:
            _emit(ctx, ctx.events[-1], kind, alert)
        if state.watchdog:
            ctx.emit(ctx.events[-1], ALERTS, _WATCHDOG, state.watchdog)

    async def take(self, arrived: list[Event], ctx: BatchContext) -> None:
        """Fold events that rules ask for."""
        if not any(self._engine.wants(event) for event in arrived):
            return
        store = StateStore(ctx)
        position = await store.position()
        given = await self.ruleset.follow(AlertStore(ctx.redis, self._keys))
        engine = self._engine
        state = await self._load(store, position, engine, given, memory=False)
        cause = ctx.events[0]
        for event in arrived:
            for kind, alert in state.outbox:
                _emit(ctx, cause, kind, alert)
            state.outbox.clear()
            if engine.wants(event):
                cause = event
                engine.event(state, event, _arrival(event))
        for kind, alert in state.outbox:
            _emit(ctx, cause, kind, alert)
        store.save(state, position, rules=_other(position, given))

    async def _load(
        self, store: StateStore, position: StatePosition, engine: Engine, given: RulesGiven | None, *, memory: bool
    ) -> AlertState:
        """Return the state, as it is under the rules in force."""
        others = _other(position, given)
        state = await store.load(memory=memory or others is not None)
        if others is not None:
            before = await store.rules_in_force()
            adopt(engine.rules, state, readable(before), others.by)
        return state


def _other(position: StatePosition, given: RulesGiven | None) -> RulesGiven | None:
    """Return the rules to be in force if the state does not follow from them yet."""
    return None if given is None or name_of(given) == position.rules else given


def _arrival(event: Event) -> float:
    """Return when an event arrived: what its producer's clock says proves nothing, nor an id of a time to come."""
    return min(entry_ms(event.entry_id) / 1000, time.time())


def _emit(ctx: BatchContext, cause: Event, kind: str, alert: Alert) -> None:
    ctx.emit(
        cause,
        ALERTS,
        kind,
        alert,
        subject=alert.fingerprint,
        tenant=alert.labels.get("tenant"),
        links=_links(ctx.events, alert),
    )


def _links(events: Sequence[Event], alert: Alert) -> list[TraceContext]:
    """Return the traces of the alert's exemplars, as far as the roll-ups at hand know their spans."""
    known = {link.trace_id: link for event in events for link in parse_links(event.extra.get(LINKS))}
    return [known[trace_id] for trace_id in alert.exemplars if trace_id in known]


async def _tick(runtime: Runtime) -> None:
    """Publish the time every 10 s, once for all replicas: the clock of what happens when nothing comes."""
    while not runtime.stopping.is_set():
        now = time.time()
        due = now // TICK_SECONDS * TICK_SECONDS
        with contextlib.suppress(Unavailable):  # the reader says so; there is a next tick
            await _publish_tick(runtime, due)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(due + TICK_SECONDS - now):
                await runtime.stopping.wait()


async def _publish_tick(runtime: Runtime, due: float) -> None:
    name = f"{round(due)}"
    fields = encode(TICK, encode_data(Tick(rfc3339(due))), event_id=derived_id(SERVICE, TICK, name), source=SERVICE)
    once = Deduplication(TICK, name, 10 * TICK_SECONDS)
    await runtime.publisher.publish(METRICS, fields, dedupe=[once])
