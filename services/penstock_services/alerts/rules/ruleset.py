"""The rules in force: one text in Redis for all replicas, given by whoever started, changed the file or reloaded last.

So no two replicas ever evaluate by different rules, whichever file each has. A file that is wrong is refused, and
the rules before it stay in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from penstock.errors import ConfigurationError
from penstock.mesh.alerts import AlertStore, RulesGiven, RulesRefused
from penstock.redis.connection import unavailable
from penstock.service.runtime import Runtime
from penstock_services.alerts.rules.file import parse, read
from penstock_services.alerts.rules.model import Rules

_LOOK_AGAIN = 3.0  # seconds
_log = structlog.get_logger("penstock.alerts")


class Ruleset:
    """What one replica knows of the rules in force, and the file it watches; `changed` is called with new ones."""

    def __init__(self, path: Path | str | None, changed: Callable[[Rules], None]) -> None:
        """Read the file.

        Raises:
            ConfigurationError: it is wrong; a sentence for each mistake.
        """
        self._path = path
        self._changed = changed
        self._seen = ""
        self.given = self._read()
        changed(parse(self.given.text, name=self.given.name))
        self._unusable: RulesGiven | None = None

    async def follow(self, store: AlertStore) -> RulesGiven | None:
        """Use the rules that are to be in force; return them, None if this version cannot read them.

        Raises:
            redis.exceptions.RedisError: Redis is away.
        """
        wanted = await store.rules() or self.given
        if wanted.text != self.given.text:
            try:
                self._changed(parse(wanted.text, name=wanted.name))
            except ConfigurationError as error:
                if wanted != self._unusable:
                    _log.error("rules given by another version cannot be read", by=wanted.by, error=str(error))
                self._unusable = wanted
                return None
        self.given = wanted
        return wanted

    async def watch(self, runtime: Runtime) -> None:
        """Put the file in force now, whenever it changes, and on SIGHUP."""
        store = AlertStore(runtime.redis, runtime.keys)
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, asked.set)
        again = True
        try:
            while not runtime.stopping.is_set():
                again = again or asked.is_set()
                asked.clear()
                try:
                    await self._look(store, again=again)
                    again = False
                    await self.follow(store)
                except Exception as error:  # the reader says so when Redis is away
                    if unavailable(error) is None:
                        raise
                    again = True
                await _first_of(asked, runtime.stopping)
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def _look(self, store: AlertStore, *, again: bool) -> None:
        seen = self._seen
        try:
            found = self._read()
            if found.text == seen and not again:
                return
            parse(found.text, name=found.name)
        except ConfigurationError as error:
            if again or self._seen != seen:
                _log.error("rules refused; those before stay in force", error=str(error))
                await store.refuse_rules(
                    RulesRefused(name=str(self._path or "alerts.yaml"), why=str(error), at=time.time())
                )
            return
        wanted = await store.rules()
        if wanted is None or wanted.text != found.text:
            await store.give_rules(found)
            _log.info("rules given", file=found.name)
        else:
            await store.refuse_rules(None)

    def _read(self) -> RulesGiven:
        try:
            name, text = read(self._path)
        except ConfigurationError as error:
            self._seen = str(error)  # what cannot be read is told once, too
            raise
        self._seen = text
        return RulesGiven(name=name, text=text, by=f"{name} on {socket.gethostname()}", at=time.time())


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=_LOOK_AGAIN, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await wait
