"""Reconciling: one look, one step, one commit. Whatever dies between two of them, the next look finds what was done."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import msgspec

from penstock import Context, Snooze
from penstock.keys import EVENTS
from penstock.schemas import ContainerServiceChanged, ContainerServiceFailed, EngineChanged
from penstock.times import rfc3339
from penstock_services.containers.engine import Engine, EngineAway, EngineRefuses, NameTaken, NoSuchImage, PortTaken
from penstock_services.containers.model import Container, Record
from penstock_services.containers.plan import (
    CRASHES,
    Claim,
    Create,
    Failed,
    Remove,
    Start,
    Step,
    Stop,
    Tell,
    Unpause,
    Wait,
    note,
    plan,
)
from penstock_services.containers.policy import ContainerSettings
from penstock_services.containers.ports import NoPort, claim, mark_bad, owner, release

SERVICE = "containers"
COMMANDS = "containers"  # the stream
RECONCILE = "reconcile"  # the stream
CALL = "containers.reconcile"  # what comes there for this service
SERVICES = "services"  # hash: name, and its record
ENGINE = "engine"  # hash: what is known of the engine
_AWAY = 10.0  # seconds without an answer after which it is told that the engine is away
_AT_HAND = 1.0  # seconds around which a step that is due is about to be taken, or being taken
_LOOK_AGAIN = 2.0  # seconds between two tries to reach it
_SHORTEST = 0.05  # seconds between two looks


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call to look at a service. One with a number belongs to the steps under way, and is void when they go on."""

    service: str
    number: int | None = None


class EngineState(msgspec.Struct, omit_defaults=True):
    """Since when the engine has not answered (seconds since the epoch; 0: it answers), and whether that was told."""

    away_since: float = 0.0
    told: bool = False
    looks: int = 0


async def load(ctx: Context, name: str) -> Record | None:
    """Return the record of a service, and have the commit depend on it; None if there is none."""
    raw = await ctx.redis.hget(ctx.state.key(SERVICES), name)
    ctx.state.expect(SERVICES, name, None if raw is None else raw.decode())
    return None if raw is None else msgspec.json.decode(raw, type=Record)


def call_again(ctx: Context, record: Record, delay: float = 0.0) -> None:
    """Save a record, and call for the next step; calls that are under way are void."""
    record.call += 1
    record.due = time.time() + delay
    _save(ctx, record)
    ctx.emit(RECONCILE, CALL, Call(record.declared.name, record.call), delay=delay)


def _rest(ctx: Context, record: Record) -> None:
    """Save a record that calls for nothing more."""
    record.call += 1
    record.due = 0.0
    _save(ctx, record)


def _save(ctx: Context, record: Record) -> None:
    ctx.state.hset(SERVICES, {record.declared.name: msgspec.json.encode(record).decode()})


class Reconciler:
    """Brings containers to where their records say."""

    def __init__(self, engine: Engine, settings: ContainerSettings, *, prefix: str) -> None:
        """`prefix` begins the names of containers."""
        self.engine = engine
        self._settings = settings
        self._prefix = prefix

    async def take_step(self, call: Call, ctx: Context) -> None:
        """Take the next step for a service, if there is one."""
        record = await load(ctx, call.service)
        if record is None or call.number not in (None, record.call):
            return
        if call.number is None and abs(record.due - time.time()) < _AT_HAND:
            ctx.emit(RECONCILE, CALL, call, delay=_AT_HAND)  # steps are being taken: one look at a time, and one after
            return
        try:
            observed = await self.engine.containers(call.service)
        except EngineAway as error:
            await _engine_is_away(ctx, str(error))
            call_again(ctx, record, _LOOK_AGAIN)
            return
        await _engine_is_back(ctx)
        step = plan(record, observed, time.time())
        ctx.log.debug("step", container_service=call.service, step=type(step).__name__)
        try:
            await self._carry_out(step, record, observed, ctx)
        except EngineAway:
            raise Snooze(_LOOK_AGAIN) from None

    async def _carry_out(self, step: Step, record: Record, observed: Sequence[Container], ctx: Context) -> None:
        owners = _owners(record, observed)
        if isinstance(step, Wait):
            if step.seconds is not None:
                call_again(ctx, record, max(step.seconds, _SHORTEST))
            else:
                await release(ctx, record.declared.name, owners=owners)
                _rest(ctx, record)
            return
        delay = 0.0
        try:
            await self._do(step, record, owners, ctx)
        except (EngineRefuses, NoPort) as error:
            if isinstance(step, Claim | Create | Start):
                await self._fail(_failed(step, error), str(error), record, ctx)
            else:
                ctx.log.warning("the engine refuses", step=type(step).__name__, says=str(error))
                delay = _LOOK_AGAIN
            if isinstance(step, Start) and isinstance(error, PortTaken):
                _give_up_ports(step.container.ordinal, record, ctx)
        if step == Tell("deleted"):
            await release(ctx, record.declared.name, owners=())
            ctx.state.hdel(SERVICES, record.declared.name)
        else:
            call_again(ctx, record, delay)

    async def _do(self, step: Step, record: Record, owners: Collection[str], ctx: Context) -> None:
        """Take a step: outside, in the record, and in what is told."""
        if isinstance(step, Failed):
            await self._fail(step, _why(step), record, ctx)
            return
        if isinstance(step, Claim):
            record.known(step.ordinal).ports = await claim(
                ctx, record, step.ordinal, owners=owners, allowed=self._settings.port_range, now=time.time()
            )
        await self._act(step, record)
        state = record.state
        note(step, record, time.time())
        if isinstance(step, Tell):
            _tell(step.what, record, ctx)
        elif record.state == "stopped" != state:  # all have ended by themselves
            _tell("stopped", record, ctx)

    async def _act(self, step: Step, record: Record) -> None:
        """Do what a step does outside."""
        match step:
            case Create(ordinal):
                await self._create(ordinal, record)
            case Start(container):
                await self.engine.start(container.id)
            case Unpause(container):
                await self.engine.unpause(container.id)
            case Stop(container):
                await self.engine.stop(container.id, timeout=record.declared.stop_timeout)
            case Remove(container):
                await self.engine.remove(container.id)
            case _:
                pass

    async def _create(self, ordinal: int, record: Record) -> None:
        """Make the container of an ordinal. One of its name that is just that was made by whoever died after it."""
        name = record.container_name(self._prefix, ordinal)
        try:
            await self.engine.create(
                name,
                record.declared,
                generation=record.generation,
                ordinal=ordinal,
                ports=record.instance(ordinal).ports,
                volumes=self._settings.directory,
            )
        except NameTaken:
            there = [one for one in await self.engine.containers(record.declared.name) if one.name == name]
            if not there and await self.engine.is_strange(name):
                raise EngineRefuses(f"a container that is not ours is called {name}; rename or remove it") from None
            if not there:  # somebody is about to make it
                raise Snooze(_LOOK_AGAIN) from None
            if there[0].digest != record.declared.digest:
                raise EngineRefuses(f"{name} is made from another declaration") from None

    async def _fail(self, failed: Failed, error: str, record: Record, ctx: Context) -> None:
        """Record a failure, and tell it unless it is one of many."""
        note(failed, record, time.time())
        instance, container = record.known(failed.ordinal), failed.container
        if instance.failures > CRASHES:
            return
        died = container is not None and failed.phase == "run"
        ctx.emit(
            EVENTS,
            "service_failed",
            ContainerServiceFailed(
                service=record.declared.name,
                generation=record.generation,
                replica=failed.ordinal,
                phase=failed.phase,
                error=error,
                exit_code=container.exit_code if container is not None and died else None,
                out_of_memory=container is not None and container.out_of_memory,
                log=await self.engine.log_of(container) if container is not None else "",
                attempt=instance.failures,
                next_attempt_at=rfc3339(instance.retry_at),
                crash_loop=instance.failures == CRASHES,
            ),
            subject=record.declared.name,
        )


def _owners(record: Record, observed: Sequence[Container]) -> set[str]:
    """Return whose ports are not free: those of containers that are to be, and of those that there are."""
    name = record.declared.name
    wanted = {owner(name, record.generation, ordinal) for ordinal in range(record.declared.replicas)}
    return wanted | {owner(name, one.generation, one.ordinal) for one in observed}


def _failed(step: Claim | Create | Start, error: Exception) -> Failed:
    """Return the failure that a step has become."""
    if isinstance(step, Start):
        return Failed(step.container.ordinal, "start", step.container)
    return Failed(step.ordinal, "pull" if isinstance(error, NoSuchImage) else "create", None)


def _give_up_ports(ordinal: int, record: Record, ctx: Context) -> None:
    """Have other ports chosen: of several, the engine does not say which one is taken."""
    instance = record.known(ordinal)
    ours = {name: port for name, port in instance.ports.items() if record.declared.ports[name].host is None}
    mark_bad(ctx, ours, time.time())
    for name in ours:
        del instance.ports[name]


def _tell(what: str, record: Record, ctx: Context) -> None:
    ctx.emit(EVENTS, f"service_{what}", changed(record), subject=record.declared.name)


async def _engine(ctx: Context) -> EngineState:
    """Return what is known of the engine, and have the commit depend on it."""
    raw = await ctx.redis.hget(ctx.state.key(ENGINE), "state")
    ctx.state.expect(ENGINE, "state", None if raw is None else raw.decode())
    return EngineState() if raw is None else msgspec.json.decode(raw, type=EngineState)


async def _engine_is_away(ctx: Context, why: str) -> None:
    """Tell, once and not at once, that nobody knows what the containers do."""
    now, known = time.time(), await _engine(ctx)
    known.away_since = known.away_since or now
    tells = not known.told and now - known.away_since >= _AWAY
    known.told = known.told or tells
    _keep(ctx, known)
    if tells:
        ctx.emit(EVENTS, "engine.lost", EngineChanged(since=rfc3339(known.away_since), reason=why))


async def _engine_is_back(ctx: Context) -> None:
    if not await ctx.redis.hexists(ctx.state.key(ENGINE), "state"):
        return
    known = await _engine(ctx)
    if known.told:
        ctx.emit(EVENTS, "engine.back", EngineChanged(since=rfc3339(known.away_since)))
    ctx.state.hdel(ENGINE, "state")


def _keep(ctx: Context, known: EngineState) -> None:
    known.looks += 1  # a guarded field changes with every commit
    ctx.state.hset(ENGINE, {"state": msgspec.json.encode(known).decode()})


def changed(record: Record) -> ContainerServiceChanged:
    """Return what is told of a service: where it is to be reached, too."""
    declared = record.declared
    return ContainerServiceChanged(
        service=declared.name,
        generation=record.generation,
        image=declared.image,
        endpoints=endpoints(record) if record.state == "started" else {},
    )


def endpoints(record: Record) -> dict[str, list[str]]:
    """Return where replicas that run answer, by the name of the port."""
    return {
        name: [
            f"{port.address}:{instance.ports[name]}"
            for _, instance in sorted(record.instances.items())
            if name in instance.ports and instance.state == "started"
        ]
        for name, port in record.declared.ports.items()
    }


def _why(failed: Failed) -> str:
    container = failed.container
    if container is None:
        return "its container is gone, and nobody here has removed it"
    if failed.phase == "health":
        return "its health check fails"
    if container.out_of_memory:
        return "it needed more memory than limits.memory"
    return f"it has ended with exit code {container.exit_code}"
