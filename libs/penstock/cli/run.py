"""`penstock run`: one service in this process."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.service import lifecycle
from penstock.service.importing import load_service
from penstock.service.runtime import Runtime
from penstock.settings import Settings
from penstock.web import server as http


def run(
    target: Annotated[str, typer.Argument(metavar="MODULE:SERVICE", help="Such as shop.tickets:service.")],
    *,
    reload: Annotated[bool, typer.Option("--reload", help="Start it anew when its sources change.")] = False,
) -> None:
    """Run one service until SIGTERM or Ctrl-C.

    It reads and publishes what streams.yaml declares for a service of its name, on the Redis of REDIS_URL
    (by default the one that `penstock up` starts). Several of the same share the work. With
    PENSTOCK_HEALTH_PORT it serves /livez, /readyz and /metrics there. With --reload, for development, it is drained
    and started anew when its sources or streams.yaml change; what would not start is told of, and what runs goes on.
    """
    if reload:
        from penstock.cli.reload.command import run_reloading  # noqa: PLC0415 - of this option only

        run_reloading(target)
        return
    service = load_service(target)
    settings = Settings.from_env()
    if settings.health_port:
        service.task(_health)
    lifecycle.run(service, settings)


async def _health(runtime: Runtime) -> None:
    settings = runtime.settings
    await http.serve(runtime, [], host=settings.health_host, port=settings.health_port, variable="PENSTOCK_HEALTH_PORT")
