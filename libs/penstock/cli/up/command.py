"""`penstock up`: the whole mesh in the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Annotated

import structlog
import typer

from penstock import processes
from penstock.cli.http import address
from penstock.cli.reload.sources import Sources
from penstock.cli.terminal import Lines
from penstock.cli.up.programs import Program, programs
from penstock.cli.up.readiness import Readiness
from penstock.cli.up.supervisor import Supervisor, drained, task_group
from penstock.cli.up.welcome import welcome
from penstock.errors import ConfigurationError
from penstock.redis.checks import check_server, wait_until_ready
from penstock.redis.lanes import Lanes
from penstock.redis.server import OwnServer, is_listening
from penstock.settings import Settings, redis_url, unknown_variables
from penstock.tasks import end
from penstock.telemetry import logs
from penstock.topology import Topology, load

OURS = "penstock"
SETTLE_GRACE = 15.0  # seconds beyond the drain timeout in which a service settles and hands back
_REDIS_DEADLINE = 10.0
_PATIENCE = 10.0  # seconds that the greeting waits for services: they may have trouble of their own, and say so
_log = structlog.get_logger(OURS)


def up(
    *,
    reload: Annotated[bool, typer.Option("--reload", help="Start anew what has changed, for development.")] = False,
) -> None:
    """Start Redis and every service of streams.yaml, each as its own process, until Ctrl-C.

    Redis is the one of REDIS_URL; without it a server of our own is started on port 6379 (PENSTOCK_REDIS_PORT),
    its data in .penstock (PENSTOCK_DATA_DIR), so that the next `up` goes on where this one was. What dies is
    started again. It says that it is ready when every service is. Ctrl-C drains the services and stops them, then
    Redis; a second Ctrl-C does not wait.

    With --reload a service whose sources change is drained and started anew, all are when streams.yaml does. What
    would not start is told of in a line, and what runs goes on.
    """
    settings = Settings.from_env()
    topology = load(settings.topology, include=settings.included)
    started = programs(topology, jobs=settings.jobs)
    server = None if settings.redis_url else OwnServer(settings)
    asyncio.run(_Mesh(settings, topology, started, server, reload=reload).run())


class _Mesh:
    """The mesh while it runs in front of somebody."""

    def __init__(
        self,
        settings: Settings,
        topology: Topology,
        started: list[Program],
        server: OwnServer | None,
        *,
        reload: bool = False,
    ) -> None:
        as_json = settings.log_format == "json"
        self._settings = settings
        self._topology = topology
        self._server = server
        self._programs = started
        self._reload = reload
        self._lines = Lines([OURS, *(program.name for program in started)], prefixed=not as_json)
        self._as_json = as_json
        self._stopping, self._hurry = asyncio.Event(), asyncio.Event()
        self._environment = {
            "REDIS_URL": redis_url(settings),
            "PENSTOCK_LOG_FORMAT": "json" if as_json else "console",
            "PYTHONUNBUFFERED": "1",
            **({"FORCE_COLOR": "1"} if self._lines.coloured else {}),
        }

    async def run(self) -> None:
        """Run until a signal comes, or something is wrong that only a person can mend."""
        form = "json" if self._as_json else "console"
        logs.configure(level=self._settings.log_level, form=form, stream=self._lines.stream(OURS))
        with self._signals():
            try:
                await self._until_stopped()
            finally:
                if self._server is not None:
                    await self._server.stop()
        _log.info("stopped")

    async def _until_stopped(self) -> None:
        running = asyncio.create_task(self._run())
        stopped = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    async def _run(self) -> None:
        self._check_ports()
        self._warn_of_unknown_variables()
        if self._server is not None:
            await self._server.start()
        await self._check_redis()
        async with task_group() as tasks:
            if self._server is not None:
                tasks.create_task(self._server.keep_running())
            tasks.create_task(self._run_reloading() if self._reload else self._run_services())

    async def _run_services(self) -> None:
        supervisor = Supervisor(
            self._programs,
            environment=self._environment,
            grace=self._settings.drain_timeout + SETTLE_GRACE,
            hurry=self._hurry,
            show=self._lines.show,
            sources=self._sources if self._reload else None,
        )
        async with task_group() as tasks:
            tasks.create_task(supervisor.run())
            tasks.create_task(self._welcome(supervisor))

    def _sources(self, program: Program) -> Sources | None:
        return Sources(program.sources, self._settings.topology, part="code") if program.sources else None

    async def _run_reloading(self) -> None:
        """Run the services, and start all anew when streams.yaml has changed and is sound."""
        while True:
            changing = asyncio.create_task(self._another_topology())
            running = asyncio.create_task(self._run_services())
            try:
                await asyncio.wait({changing, running}, return_when=asyncio.FIRST_COMPLETED)
                if running.done():
                    running.result()
                self._topology, self._programs = changing.result()
                self._lines.name(program.name for program in self._programs)
                _log.info("streams.yaml has changed, starting all services anew")
            finally:
                await end([changing])
                await drained(running)

    async def _another_topology(self) -> tuple[Topology, list[Program]]:
        """Wait until there is another that is sound, and return it with the programs to run.

        While something is wrong everything is watched, and code that is mended is no other topology.
        """

        def tell(error: str) -> None:
            _log.error(error, so="services go on as they are")

        sources = Sources([f"mesh={self._settings.jobs}"], self._settings.topology, part="topology")
        await sources.check()
        while True:
            await sources.sound_change(tell)
            try:
                topology = load(self._settings.topology, include=self._settings.included)
                found = topology, programs(topology, jobs=self._settings.jobs)
            except ConfigurationError as error:
                tell(str(error))
            else:
                if found != (self._topology, self._programs):
                    return found

    def _check_ports(self) -> None:
        """Refuse to start a service whose address somebody else has: with SO_REUSEPORT two would share it."""
        for program in self._programs:
            name = program.name
            host, port = (program.ships and address(self._settings, name)) or ("", 0)
            if port and is_listening(host, port):
                raise ConfigurationError(
                    f"port {port} on {host} is taken by {processes.listener(port)}: stop that one first, "
                    f"or set PENSTOCK_{name.upper()}_PORT to a free port for {name}"
                )

    def _warn_of_unknown_variables(self) -> None:
        secrets = {hook.secret for hook in self._topology.webhooks.values()}
        secrets |= {spec.secret for spec in self._topology.clients.values() if spec.secret}
        given = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in secrets}
        for sentence in unknown_variables(given):
            _log.warning(sentence)

    async def _check_redis(self) -> None:
        url = redis_url(self._settings)
        lanes = Lanes.of(self._settings, name="penstock-up")
        try:
            await wait_until_ready(lanes.client(), url, deadline=_REDIS_DEADLINE)
            await check_server(lanes.client())
        finally:
            await lanes.aclose()

    async def _welcome(self, supervisor: Supervisor) -> None:
        """Once all services are ready, or some are not for long, say where everything is and what to try."""
        readiness = Readiness(self._settings, self._topology, self._programs, supervisor.running)
        asking = asyncio.create_task(self._handled())
        try:
            late = await readiness.wait(_PATIENCE)
            handled = {} if late else await asking  # who is late may be so in its imports
        finally:
            await end([asking])
        if not self._as_json:
            places = self._settings, self._topology, self._server
            self._lines.write(welcome(*places, late=late, handled=handled, coloured=self._lines.coloured))
        if late:
            _log.warning("not ready yet", services=late)
            await readiness.wait()
        if late or self._as_json:
            _log.info("ready" if self._as_json else "Penstock is ready now")

    async def _handled(self) -> dict[str, tuple[str, str]]:
        """Return for services of one's own a stream and a type that each handles there."""
        own = [part for one in self._programs for part in one.sources if part.startswith("service=")]
        return await Sources(own, self._settings.topology).handled() if own and not self._as_json else {}

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        for number in numbers:
            loop.add_signal_handler(number, self._asked_to_stop)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _asked_to_stop(self) -> None:
        if self._stopping.is_set():
            self._hurry.set()
            return
        self._stopping.set()
        if self._lines.coloured:
            self._lines.write("\r")  # over the ^C that the terminal has written
        _log.info("stopping: services finish what is in flight; Ctrl-C again stops them at once")
