"""Jobs that treat their process roughly: they fork, hang, cancel themselves and raise what ends programs."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from penstock import BatchContext, Context, Event, Retry, Service

jobs = Service("rough")
_forking = multiprocessing.get_context("fork")
TWICE = Retry(attempts=2, base=0.05, jitter=0)


class OwnError(BaseException):
    """A handler's own, and no Exception."""


@jobs.on("ingest", type="good")
async def good(_: Any, ctx: Context) -> None:
    ctx.emit("events", "good.done")


@jobs.on("ingest", type="good.plain")
def good_plain(_: Any, ctx: Context) -> None:
    ctx.emit("events", "good.done", {"attempt": ctx.attempt})


# Forks


@jobs.on("ingest", type="fork.pool")
async def pool(_: Any, ctx: Context) -> None:
    with _forking.Pool(2) as workers:
        ctx.emit("events", "forked", workers.map(abs, [-1, -2]))


@jobs.on("ingest", type="fork.pool.plain")
def pool_plain(_: Any, ctx: Context) -> None:
    with _forking.Pool(2) as workers:
        ctx.emit("events", "forked", workers.map(abs, [-1, -2]))


@jobs.on("ingest", type="fork.terminate")
async def terminate(_: Any, ctx: Context) -> None:
    child = _forking.Process(target=time.sleep, args=(600,))
    child.start()
    child.terminate()
    child.join()
    ctx.emit("events", "forked", child.exitcode)


@jobs.on("ingest", type="fork.bare")
async def bare(_: Any, ctx: Context) -> None:
    child = os.fork()
    if child:
        ctx.emit("events", "forked", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))  # noqa: ASYNC222


@jobs.on("ingest", type="fork.stays")
async def stays(_: Any, ctx: Context) -> None:
    child = os.fork()
    if not child:
        time.sleep(600)  # noqa: ASYNC251
        os._exit(0)
    await ctx.redis.set("child", child)
    await asyncio.Event().wait()


# What never ends


@jobs.on("ingest", type="hang", timeout=0.1, retry=Retry(attempts=1))
def hang(_: Any) -> None:
    threading.Event().wait()


@jobs.on("ingest", type="hang.threads", timeout=0.1, retry=Retry(attempts=1))
async def hang_in_own_thread(_: Any) -> None:
    await asyncio.to_thread(threading.Event().wait)


@jobs.on("ingest", type="swallow")
async def swallow(_: Any, ctx: Context) -> None:
    await ctx.redis.set("under way", 1)
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            continue


@jobs.on("ingest", type="block")
async def block(_: Any, ctx: Context) -> None:
    await ctx.redis.set("under way", 1)
    time.sleep(600)  # noqa: ASYNC251 - what it is for


@jobs.on("ingest", type="block.6s")
async def block_for_a_while(_: Any, ctx: Context) -> None:
    await asyncio.sleep(0.2)  # by then the process waits for more
    time.sleep(6)  # noqa: ASYNC251 - longer than a reply may take
    ctx.emit("events", "block.done")


@jobs.on("ingest", type="long")
def long(_: Any, ctx: Context) -> None:
    asyncio.run_coroutine_threadsafe(_mark(ctx), _loop[0]).result()
    threading.Event().wait()


_loop: list[asyncio.AbstractEventLoop] = []


@jobs.task
async def remember_loop(_: Any) -> None:
    _loop.append(asyncio.get_running_loop())


async def _mark(ctx: Context) -> None:
    await ctx.redis.set("under way", 1)


# What ends a program


async def _cancelled(_: Any) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def _cancelled_late(_: Any) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def _raising(error: type[BaseException]) -> Callable[[Any], Any]:
    async def handler(_: Any) -> None:
        raise error

    return handler


def _raising_in_thread(error: type[BaseException]) -> Callable[[Any], Any]:
    def handler(_: Any) -> None:
        raise error

    return handler


def _raising_in_task(error: type[BaseException]) -> Callable[[Any], Any]:
    async def fail() -> None:
        raise error

    async def handler(_: Any) -> None:
        await asyncio.create_task(fail())

    return handler


ENDS: dict[str, Callable[[Any], Any]] = {"cancel": _cancelled}
for _error in (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit, OwnError):
    ENDS[_error.__name__] = _raising(_error)
    ENDS[f"{_error.__name__}.thread"] = _raising_in_thread(_error)
    ENDS[f"{_error.__name__}.task"] = _raising_in_task(_error)
for _name, _function in ENDS.items():
    jobs.on("ingest", type=f"ends.{_name}", retry=TWICE)(_function)
jobs.on("ingest", type="cancel.late", retry=TWICE)(_cancelled_late)


@jobs.on("ingest", type="batch", batch=10, retry=TWICE)
async def batch(events: list[Event], ctx: BatchContext) -> None:
    for event in events:
        if event.subject:
            raise KeyboardInterrupt
        ctx.emit(event, "events", "good.done")


@jobs.on("ingest", type="surrogate", retry=TWICE)
async def surrogate(_: Any) -> None:
    raise ValueError("half of a pair: \ud83d")


class Unspeakable(Exception):
    """Neither what it says nor how it is written can be had."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@jobs.on("ingest", type="unspeakable", retry=TWICE)
async def unspeakable(_: Any) -> None:
    raise Unspeakable


@jobs.on("ingest", type="logs", retry=TWICE)
async def logs(_: Any, ctx: Context) -> None:
    circle: list[Any] = []
    circle.append(circle)
    for value in ("half of a pair: \ud83d", {"a": ["\ud83d"]}, Unspeakable(), [Unspeakable()], circle, 2**70):
        ctx.log.info("an odd value", value=value)
    ctx.log.info("half of a pair: \ud83d", **{"half \ud83d": 1})
    ctx.emit("events", "good.done")
