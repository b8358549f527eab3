"""`manage.py penstock_relay`: publish what transactions put into the outbox."""

from __future__ import annotations

import signal
import threading
from typing import Any

import structlog
from django.apps import apps
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, InterfaceError, OperationalError, close_old_connections

from penstock.django.relay import Relay
from penstock.errors import Unavailable
from penstock.sync import Penstock

_PAUSE = 1.0  # seconds while Redis or the database is away
_log = structlog.get_logger("penstock.relay")


class Command(BaseCommand):
    """The relay as a process."""

    help = "Publish what transactions put into the outbox, each event exactly once, until SIGTERM or SIGINT."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="whose outbox it is")
        parser.add_argument("--interval", type=float, default=0.5, help="seconds between looks at an empty outbox")
        parser.add_argument("--once", action="store_true", help="end when the outbox is empty")
        parser.add_argument("--refused", action="store_true", help="try those again first that were put aside")

    def handle(self, *_: Any, database: str, interval: float, once: bool, refused: bool, **__: Any) -> None:
        """Run it."""
        mesh: Penstock = apps.get_app_config("penstock").relay_mesh
        relay = Relay(mesh, using=database)
        if refused:
            self.stdout.write(f"{relay.take_again()} events are tried again")
        if once:
            self._empty(relay)
            return
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        self.stdout.write(f"publishing the outbox of {database}")
        self.stdout.flush()
        while not stopping.is_set():
            pause = _turn(relay, interval)
            if pause:
                stopping.wait(pause)
        mesh.close()

    def _empty(self, relay: Relay) -> None:
        try:
            while relay.turn():
                pass
        except Unavailable as error:
            raise CommandError(str(error)) from error


def _turn(relay: Relay, interval: float) -> float:
    """Publish some events; return the seconds until there may be more."""
    try:
        return 0.0 if relay.turn() == relay.batch else interval
    except (Unavailable, OperationalError, InterfaceError) as error:
        _log.warning("nothing can be published now", reason=str(error))
        close_old_connections()
        return _PAUSE
