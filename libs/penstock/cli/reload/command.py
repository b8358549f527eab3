"""`penstock run --reload`: one service, in a process that is started anew when its sources change."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

from penstock.cli.reload.sources import Sources
from penstock.cli.terminal import Lines
from penstock.cli.up.command import SETTLE_GRACE
from penstock.cli.up.programs import Program
from penstock.cli.up.supervisor import Supervisor
from penstock.errors import ConfigurationError
from penstock.settings import Settings
from penstock.telemetry import logs


def run_reloading(target: str) -> None:
    """Run `module:service` until SIGTERM or Ctrl-C; a second one does not wait for what is in flight.

    Raises:
        ConfigurationError: `target` is not of that form, or the environment is wrong.
    """
    if ":" not in target:
        raise ConfigurationError(f"{target!r} is not of the form module:service")
    asyncio.run(_run(target, Settings.from_env()))


async def _run(target: str, settings: Settings) -> None:
    program = Program(target, (sys.executable, "-m", "penstock", "run", target))
    lines = Lines([target], prefixed=False)
    form = settings.log_format
    if form == "auto":
        form = "console" if sys.stdout.isatty() else "json"
    logs.configure(level=settings.log_level, form=form, stream=lines.stream(target))
    hurry = asyncio.Event()
    supervisor = Supervisor(
        [program],
        environment={
            "PENSTOCK_LOG_FORMAT": form,
            "PYTHONUNBUFFERED": "1",
            **({"FORCE_COLOR": "1"} if lines.coloured else {}),
        },
        grace=settings.drain_timeout + SETTLE_GRACE,
        hurry=hurry,
        show=lines.show,
        sources=lambda _: Sources([f"service={target}"], settings.topology),
    )
    running = asyncio.create_task(supervisor.run())

    def stop() -> None:
        hurry.set() if running.cancelling() else running.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    with contextlib.suppress(asyncio.CancelledError):
        await running
