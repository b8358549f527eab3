"""Services of a team that uses Penstock, for the tests to run beside the shipped ones."""

from __future__ import annotations

import asyncio
import os
import signal

from penstock import Event, Service
from penstock.service.runtime import Runtime

service = Service("shop")
undeclared = Service("undeclared")
stubborn = Service("stubborn")
broken = Service("broken")


@service.on("events", type="job.completed")
async def see(event: Event) -> None:
    print("saw", event.cause, flush=True)  # noqa: T201 - what `up` is to pass on


@stubborn.task
async def never_stop(_: Runtime) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
    print("stubborn", flush=True)  # noqa: T201
    await asyncio.Event().wait()


@broken.task
async def die(_: Runtime) -> None:
    os._exit(7)
