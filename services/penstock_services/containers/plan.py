"""The planner: from what is declared and what there is to the next step, and what a step leaves in the record.

It does nothing outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from penstock_services.containers.model import Container, Instance, Record

STABLE = 60.0  # seconds of working after which earlier failures count no more
CRASHES = 5  # failures without such a time after which a service is said to be in a crash loop
_FIRST, _LONGEST = 1.0, 300.0  # seconds before a failed container is started again: doubled each time
_LOOK = 0.5  # seconds between two looks at a container that is not healthy yet

Phase = Literal["pull", "create", "start", "run", "health", "drift"]


class Create(msgspec.Struct, frozen=True):
    """Make the container of an ordinal; the host ports are claimed first, in a step of their own."""

    ordinal: int


class Claim(msgspec.Struct, frozen=True):
    """Choose host ports for an ordinal."""

    ordinal: int


class Start(msgspec.Struct, frozen=True):
    """Start a container."""

    container: Container


class Unpause(msgspec.Struct, frozen=True):
    """Let a container go on that somebody has paused."""

    container: Container


class Stop(msgspec.Struct, frozen=True):
    """Stop a container."""

    container: Container


class Remove(msgspec.Struct, frozen=True):
    """Remove a container that does not run."""

    container: Container


class Failed(msgspec.Struct, frozen=True):
    """Record, and tell, that a container does not do what it should. Nothing outside changes."""

    ordinal: int
    phase: Phase
    container: Container | None


class Adopt(msgspec.Struct, frozen=True):
    """Record that a container runs which is not known to: whoever has started it did not live to say so."""

    container: Container


class Ended(msgspec.Struct, frozen=True):
    """Record that a container has ended and is not to be started again."""

    container: Container


class Halted(msgspec.Struct, frozen=True):
    """Record that a container does not run, as is wanted: whoever has stopped it did not live to say so."""

    container: Container


class Tell(msgspec.Struct, frozen=True):
    """Record, and tell, that the service as a whole has come so far."""

    what: Literal["created", "started", "stopped", "deleted"]


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do for so many seconds; None: until something happens."""

    seconds: float | None


Step = Claim | Create | Start | Unpause | Stop | Remove | Failed | Adopt | Ended | Halted | Tell | Wait


def plan(record: Record, observed: Sequence[Container], now: float) -> Step:
    """Return the next step towards what `record` declares. `now` is in seconds since the epoch."""
    mine = {one.ordinal: one for one in observed if _is_current(record, one)}
    others = [one for one in observed if not _is_current(record, one)]
    in_the_way = [one for one in others if one.generation == record.generation and one.digest != record.declared.digest]
    match record.wanted:
        case "deleted":
            return _clear(observed) or Tell("deleted")
        case "stopped":
            return _stop(record, mine, others)
        case _ if in_the_way:  # of a record that is lost: the names that ours need are theirs
            return _clear(in_the_way) or Wait(_LOOK)
        case _ if others and record.declared.strategy == "recreate":
            return _clear(others) or Wait(_LOOK)
        case _:
            return _run(record, mine, others, now)


def _run(record: Record, mine: dict[int, Container], others: Sequence[Container], now: float) -> Step:
    steps = [_raise(record, ordinal, mine.get(ordinal), now) for ordinal in range(record.declared.replicas)]
    if record.created < record.generation and len(mine) == record.declared.replicas:
        return Tell("created")
    acting = [step for step in steps if not isinstance(step, Wait)]
    if acting:  # all are made before the first is started: that is told in between
        return next((step for step in acting if isinstance(step, Claim | Create)), acting[0])
    waiting = [step.seconds for step in steps if isinstance(step, Wait) and step.seconds is not None]
    if all(record.instance(ordinal).state == "ended" for ordinal in range(record.declared.replicas)):
        return _clear(others) or Wait(None)
    if _all_work(record, mine):
        due = record.drain_until if record.state == "started" else _quiet_at(record)
        if record.state != "started" or others:
            if due <= now:
                return (_clear(others) or Wait(_LOOK)) if record.state == "started" else Tell("started")
            waiting.append(due - now)
    return Wait(min(waiting, default=None))


def note(step: Step, record: Record, now: float) -> None:
    """Record that a step was taken."""
    match step:
        case Create(ordinal):
            record.known(ordinal).state = "created"
        case Start(container) | Adopt(container):
            instance = record.known(container.ordinal)
            instance.state, instance.started_at = "started", now
        case Stop(container) | Halted(container):
            _end_run(record, container)
        case Failed(ordinal, _, container):
            _note_failure(record.known(ordinal), container, now)
            record.state = "failed"
        case Ended(container):
            record.known(container.ordinal).state = "ended"
            _end_run(record, container)
            if all(one.state == "ended" for one in record.instances.values()):
                record.state = "stopped"
        case Tell(what):
            _note_told(what, record, now)
        case _:
            pass


def back_off(failures: int) -> float:
    """Return the seconds to wait after so many failures in a row."""
    return float(min(_LONGEST, _FIRST * 2 ** min(max(0, failures - 1), 30)))


def _end_run(record: Record, container: Container) -> None:
    if _is_current(record, container):
        record.known(container.ordinal).ended = container.run


def _note_failure(instance: Instance, container: Container | None, now: float) -> None:
    if instance.state == "started" and now - instance.started_at >= STABLE:
        instance.failures = 0
    instance.failures += 1
    instance.state, instance.retry_at = "failed", now + back_off(instance.failures)
    if container is not None:
        instance.ended = container.run


def _note_told(what: str, record: Record, now: float) -> None:
    match what:
        case "created":
            record.created = record.generation
        case "started":
            record.state = "started"
            record.drain_until = now + record.declared.drain if record.declared.strategy == "rolling" else 0.0
        case "stopped":
            record.state = "stopped"
            for instance in record.instances.values():
                instance.state, instance.failures, instance.retry_at = "created", 0, 0.0


def _is_current(record: Record, container: Container) -> bool:
    return (
        container.generation == record.generation
        and container.digest == record.declared.digest
        and container.ordinal < record.declared.replicas
    )


def _all_work(record: Record, mine: dict[int, Container]) -> bool:
    """Whether each works that has not come to its end."""
    return all(
        record.instance(ordinal).state == "ended" or (ordinal in mine and mine[ordinal].works)
        for ordinal in range(record.declared.replicas)
    )


def _quiet_at(record: Record) -> float:
    """Return when a service may be said to work: one that was in a crash loop has to show it for a while."""
    looping = [one.started_at for one in record.instances.values() if one.failures >= CRASHES]
    return max(looping) + STABLE if looping else 0.0


def _clear(unwanted: Sequence[Container]) -> Step | None:
    """Return the next step to be rid of containers; None if there are none."""
    for one in sorted(unwanted, key=lambda one: (one.generation, one.ordinal, one.id)):
        if one.runs:
            return Stop(one)
        if one.state != "removing":
            return Remove(one)
    return Wait(_LOOK) if unwanted else None


def _stop(record: Record, mine: dict[int, Container], others: Sequence[Container]) -> Step:
    for one in mine.values():
        if one.runs:
            return Stop(one)
        if one.state != "created" and one.run != record.instance(one.ordinal).ended:
            return Halted(one)
    return _clear(others) or (Wait(None) if record.state == "stopped" else Tell("stopped"))


def _raise(record: Record, ordinal: int, container: Container | None, now: float) -> Step:
    """Return the next step to have the container of one ordinal work."""
    known = record.instance(ordinal)
    if known.state == "ended":
        return Wait(None)
    if container is None:
        return Failed(ordinal, "drift", None) if known.state == "started" else _make(record, ordinal, now)
    match container.state:
        case "running":
            return _watch(known, container)
        case "paused":
            return Unpause(container)
        case "created" | "exited" | "dead":
            return _begin(record, container, now)
        case _:  # restarting or removing: somebody else is at it
            return Wait(_LOOK)


def _make(record: Record, ordinal: int, now: float) -> Step:
    known = record.instance(ordinal)
    if known.retry_at > now:
        return Wait(known.retry_at - now)
    return Create(ordinal) if _has_ports(record, known) else Claim(ordinal)


def _begin(record: Record, container: Container, now: float) -> Step:
    known = record.instance(container.ordinal)
    if container.state != "created" and container.run != known.ended:
        return _end(record, container)
    if container.state == "dead" or not _has_ports(record, known):  # it cannot be started, or its ports are others'
        return Remove(container)
    return Wait(known.retry_at - now) if known.retry_at > now else Start(container)


def _has_ports(record: Record, known: Instance) -> bool:
    return known.ports.keys() >= record.declared.ports.keys()


def _watch(known: Instance, container: Container) -> Step:
    if container.health == "unhealthy":
        return Stop(container) if known.ended == container.run else Failed(container.ordinal, "health", container)
    if known.state != "started":
        return Adopt(container)
    return Wait(None if container.works else _LOOK)


def _end(record: Record, container: Container) -> Step:
    restart = record.declared.restart
    if restart == "no" or (restart == "on-failure" and container.exit_code == 0):
        return Ended(container)
    return Failed(container.ordinal, "run", container)
