"""The alert manager, put together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from penstock import BatchContext, ConfigurationError, Event, Service, Unavailable
from penstock.event import derived_id, encode, encode_data
from penstock.keys import ALERTS, EVENTS, METRICS, Keys
from penstock.mesh.alerts import SERVICE
from penstock.schemas import Alert, MetricsWindow
from penstock.service.runtime import Runtime
from penstock.settings import Settings
from penstock.streams.publish import Deduplication
from penstock.times import rfc3339, seconds_of
from penstock.topology import Topology
from penstock.trace_context import LINKS, TraceContext, parse_links
from penstock_services.alerts.api import serve_api
from penstock_services.alerts.engine import Engine
from penstock_services.alerts.input import TICK, TICK_SECONDS, WINDOW, Tick, entries, whole
from penstock_services.alerts.rules.file import load
from penstock_services.alerts.rules.model import EventRule, Rules
from penstock_services.alerts.state.state import AlertState
from penstock_services.alerts.state.store import StateStore

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
    rules = load(settings.alerts)
    engine = Engine(rules, lateness=settings.metrics_lateness)
    metrics = Keys(settings.prefix).stream(METRICS)
    service = Service(SERVICE)

    @service.on(METRICS, type=WINDOW, batch=_BATCH)
    async def windows(_: list[MetricsWindow], ctx: BatchContext) -> None:
        await _catch_up(engine, metrics, ctx)

    @service.on(METRICS, type=TICK, batch=_BATCH)
    async def ticks(_: list[Tick], ctx: BatchContext) -> None:
        await _catch_up(engine, metrics, ctx)

    @service.on(EVENTS, type=_types(rules), batch=_BATCH)
    async def events(arrived: list[Event], ctx: BatchContext) -> None:
        await _take(engine, arrived, ctx)

    service.task(_tick)
    service.task(serve_api)
    return service


def _types(rules: Rules) -> list[str]:
    """Return the types of events that rules ask for; the library wants a handler even if there are none."""
    asked = [rule for rule in rules.rules.values() if isinstance(rule, EventRule)]
    return sorted({kind for rule in asked for kind in (rule.type, rule.resolved_by) if kind}) or ["*"]


async def _catch_up(engine: Engine, metrics: str, ctx: BatchContext) -> None:
    """Fold what has come to `metrics` since the position of the state: at least what this call was made for."""
    store = StateStore(ctx)
    position = await store.position()
    state: AlertState | None = None
    cursor = position.cursor
    async for entry_id, item in whole(entries(ctx.redis, metrics, position.cursor)):
        state = state or await store.load(memory=True)
        engine.fold(state, item)
        cursor = entry_id
    if state is None:
        return  # another replica, or the other handler, has been here before
    store.save(state, position, cursor=cursor)
    for kind, alert in state.outbox:
        _emit(ctx, ctx.events[-1], kind, alert)


async def _take(engine: Engine, arrived: list[Event], ctx: BatchContext) -> None:
    wanted = [event for event in arrived if engine.wants(event)]
    if not wanted:
        return
    store = StateStore(ctx)
    position = await store.position()
    state = await store.load(memory=False)
    for event in wanted:
        engine.event(state, event, _arrival(event))
        for kind, alert in state.outbox:
            _emit(ctx, event, kind, alert)
        state.outbox.clear()
    store.save(state, position)


def _arrival(event: Event) -> float:
    """Return when an event happened, as it says; never later than now."""
    now = time.time()
    try:
        return min(seconds_of(event.time), now)
    except ValueError:
        return now


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
