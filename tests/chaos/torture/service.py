"""The services under torture, run as `penstock run tests.chaos.torture.service:service`.

TORTURE_PLAN names the plan's file, TORTURE_SERVICE the service to be, TORTURE_DIARY the folder in which each
process writes down what it starts: what must survive its SIGKILL to tell an innocent event from a culprit.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import multiprocessing
import os
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import redis

from penstock import BatchContext, Context, Event, Reject, Retry, Service, Snooze
from penstock.service.outcome import Dead, Outcome, Retried
from tests.chaos.torture.behaviour import Behaviour, behaviour
from tests.chaos.torture.plan import (
    CANCEL,
    EXIT,
    FORK,
    HARMFUL,
    HARMFUL_ATTEMPTS,
    HOG,
    POISON,
    WORK,
    Plan,
    Reads,
    payload,
)

plan = msgspec.json.decode(Path(os.environ["TORTURE_PLAN"]).read_bytes(), type=Plan)
me = plan.service(os.environ["TORTURE_SERVICE"])
service = Service(me.name)
_diary = os.open(Path(os.environ["TORTURE_DIARY"]) / f"{me.name}.{os.getpid()}", os.O_CREAT | os.O_APPEND | os.O_WRONLY)


class Work(msgspec.Struct):
    """The data of an event."""

    key: str
    padding: str = ""


class Planned(Exception):
    """A failure that the plan asks for."""


def key_of(event: Event) -> str:
    try:
        return msgspec.json.decode(event.data, type=Work).key
    except msgspec.DecodeError:
        return event.id


@service.on_outcome
def count(context: Context, outcome: Outcome) -> None:
    """Count what the commit of a failed attempt must count exactly once."""
    key = key_of(context.event)
    if nonce := context.notes.get("nonce"):
        context.state.hset("nonces", {f"{key} {nonce}": 1})
    match outcome:
        case Dead():
            context.state.hincrby("died", key)
            if outcome.reason == "failed":
                _note_surprise(context, key, outcome.error)
        case Retried(snoozed=False):
            context.state.hincrby("retried", key)
            _note_surprise(context, key, outcome.error)
        case Retried():  # unless it was planned, Redis was away
            context.state.hincrby("snoozed" if context.notes.get("planned") else "waited", key)


def _note_surprise(context: Context, key: str, error: str) -> None:
    """Keep an error that no plan asked for: it says what else went wrong."""
    if Planned.__name__ not in error and context.event.type not in (CANCEL, EXIT):
        context.state.hset("surprises", {f"{key}, attempt {context.attempt}": error})


async def work(reads: Reads, data: Work, context: Context) -> None:
    """Handle an event of a stream that is read by an `async def`."""
    does = _begin(reads, data)
    died, snoozed = await _past(context, data.key) if does.deaths or does.snoozes else (0, 0)
    if does.step:
        context.notes["nonce"] = await context.step("draw", draw_nonce)
    await asyncio.sleep(does.seconds)
    if snoozed < does.snoozes:
        context.notes["planned"] = True
        raise Snooze(0.1)
    _fail(does, context, died)
    if plan.sabotaged:
        await _betray(does, context, data.key)
    else:
        _finish(does, context, context.event, data.key)


def plain(reads: Reads, data: Work, context: Context) -> None:
    """Handle an event of a stream that is read by a `def`."""
    does = _begin(reads, data)
    time.sleep(does.seconds)
    _wait(does, context.event)
    _fail(does, context, 0)
    _finish(does, context, context.event, data.key)


async def batch(reads: Reads, items: list[Work], context: BatchContext) -> None:
    """Handle events of a stream that is read in batches."""
    planned = [_begin(reads, data) for data in items]
    await asyncio.sleep(max(does.seconds for does in planned))
    for does, event in zip(planned, context.events, strict=True):
        _wait(does, event)
        if does.deaths:
            _die(does, context)
    for does, event, data in zip(planned, context.events, items, strict=True):
        _finish(does, context, event, data.key)


def register(reads: Reads) -> None:
    """Let one of these handle the events of a stream."""
    handlers: dict[str, Callable[..., Any]] = {"async": work, "plain": plain, "batch": batch}
    most = reads.batch if reads.kind == "batch" else None
    service.on(reads.stream, type=WORK, batch=most)(functools.partial(handlers[reads.kind], reads))


@service.on(me.reads[0].stream, type=HARMFUL, retry=Retry(attempts=HARMFUL_ATTEMPTS, base=0.1))
async def harmful(event: Event, context: Context) -> None:
    """Do harm to this process, as the event's type says."""
    key = key_of(event)
    _note("started", key)
    if event.type == POISON:
        _note(POISON, key)
        os.kill(os.getpid(), signal.SIGKILL)
    elif event.type == HOG:
        ctypes.PyDLL(None).sleep(5)  # and nobody else gets the interpreter
    elif event.type == FORK:
        with multiprocessing.get_context("fork").Pool(1):
            pass  # leaving it terminates the child
    elif event.type == EXIT:
        raise KeyboardInterrupt
    elif task := asyncio.current_task():
        task.cancel()  # as old libraries for time limits do
        await asyncio.sleep(0)
    _finish(Behaviour(seconds=0), context, event, key)


async def draw_nonce() -> str:
    return secrets.token_hex(8)


def _note(what: str, key: str) -> None:
    os.write(_diary, f"{what} {key}\n".encode())


def _begin(reads: Reads, data: Work) -> Behaviour:
    _note("started", data.key)
    return behaviour(plan, me, reads, data.key)


async def _past(context: Context, key: str) -> tuple[int, int]:
    """Return how often this event died and snoozed: its own commits say so."""
    try:
        died, snoozed = [await context.redis.hget(context.state.key(name), key) for name in ("died", "snoozed")]
    except (redis.RedisError, OSError):
        raise Snooze(0.1) from None
    return int(died or 0), int(snoozed or 0)


def _wait(does: Behaviour, event: Event) -> None:
    left = int(event.entry_id.partition("-")[0]) / 1000 + does.wait - time.time()
    if does.wait and left > 0:
        raise Snooze(left)


def _fail(does: Behaviour, context: Context, died: int) -> None:
    if died < does.deaths:
        _die(does, context)
    elif context.attempt <= does.failures:
        raise Planned(f"attempt {context.attempt}")


def _die(does: Behaviour, context: Context | BatchContext) -> None:
    if does.ending == "rejected":
        raise Reject("planned")
    if does.ending == "failed":
        raise Planned("for good")
    context.state.sadd("typed", "what a hash cannot take")


def _finish(does: Behaviour, context: Any, event: Event, key: str) -> None:
    cause = (event,) if isinstance(context, BatchContext) else ()
    for child in does.children:
        data = {"key": child.key, "padding": "", "not_before": time.time() + child.delay}
        context.emit(*cause, child.stream, WORK, data, delay=child.delay)
    context.state.hincrby("done", key)
    context.state.incrby("total")
    context.state.append("order", key)
    context.state.zadd("scores", {key: len(key)})


async def _betray(does: Behaviour, context: Context, key: str) -> None:
    """Do what a handler must not: publish outside the commit."""
    for number, child in enumerate(does.children):
        fields = {"type": WORK, "data": payload(child.key), "id": f"{context.event.id}.{number}"}
        await context.redis.xadd(child.stream, fields)
    await asyncio.sleep(0.3)
    _finish(msgspec.structs.replace(does, children=()), context, context.event, key)


for one in me.reads:
    register(one)
