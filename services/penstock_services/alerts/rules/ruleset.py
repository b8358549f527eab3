"""The rules in force: one text in Redis for all replicas, given by whoever started, changed the file or reloaded last.

So no two replicas ever evaluate by different rules, whichever file each has. A file that is wrong is refused, and
the rules before it stay in force.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from penstock.errors import ConfigurationError
from penstock.mesh.alerts import AlertStore, RulesGiven, RulesRefused
from penstock.service.reload import Reason, ReloadWatcher
from penstock.service.runtime import Runtime
from penstock_services.alerts.rules.file import FILE, parse, read
from penstock_services.alerts.rules.model import Rules

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
        self._watcher = ReloadWatcher(lambda: [str(path or FILE)])
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
        given = False

        async def look(reason: Reason | None) -> None:
            nonlocal given
            if reason is not None or not given:
                await self._give(store)
                given = True
            await self.follow(store)

        await self._watcher.watch(runtime.stopping, look)

    async def _give(self, store: AlertStore) -> None:
        try:
            found = self._read()
            parse(found.text, name=found.name)
        except ConfigurationError as error:
            _log.error("rules refused; those before stay in force", error=str(error))
            await store.refuse_rules(RulesRefused(name=str(self._path or FILE), why=str(error), at=time.time()))
            return
        wanted = await store.rules()
        if wanted is None or wanted.text != found.text:
            await store.give_rules(found)
            _log.info("rules given", file=found.name)
        else:
            await store.refuse_rules(None)

    def _read(self) -> RulesGiven:
        name, text = read(self._path)
        return RulesGiven(name=name, text=text, by=f"{name} on {socket.gethostname()}", at=time.time())
