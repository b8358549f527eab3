"""The configuration while the notifier runs: read again when its files change, at SIGHUP, or when somebody asks.

What is read anew is checked as at the start. If it is wrong the old one stays, and the error is told.
"""

from __future__ import annotations

import functools
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import structlog

from penstock.errors import ConfigurationError, Unavailable
from penstock.event import encode, encode_data
from penstock.keys import DELIVERIES
from penstock.mesh.deliveries import RELOAD, RELOADED, SERVICE, ReloadRequest
from penstock.redis.connection import unavailable
from penstock.schemas import NotifyReloaded
from penstock.service.reload import Reason, ReloadWatcher
from penstock.service.runtime import Runtime
from penstock.settings import Settings
from penstock_services.notifier.config import notify_file
from penstock_services.notifier.config.config import Config, load
from penstock_services.notifier.delivery import channel_health

_log = structlog.get_logger("notifier.config")


class LiveConfig:
    """Holds the configuration that is valid now; `again` reads it anew."""

    def __init__(
        self, config: Config, again: Callable[[], Config] | None = None, watcher: ReloadWatcher | None = None
    ) -> None:
        self.current = config
        self._load = again or (lambda: config)
        self._watcher = watcher
        self._untold: deque[list[str]] = deque()

    @classmethod
    def read(cls, settings: Settings) -> LiveConfig:
        """Read the configuration for the first time; from here on no change is missed.

        Raises:
            ConfigurationError: it is wrong.
        """
        watcher = ReloadWatcher(functools.partial(_files, settings.notify, os.environ))
        return cls(load(settings), functools.partial(load, settings), watcher)

    def reload(self) -> list[str]:
        """Read the configuration anew and return what has changed, in words.

        Raises:
            ConfigurationError: it is wrong; the one before stays.
        """
        fresh = self._load()
        changes = changed(self.current, fresh)
        self.current = fresh
        return changes

    async def watch(self, runtime: Runtime) -> None:
        """Reload when there is reason to, until the service is asked to stop."""
        path = runtime.settings.notify
        asked = await self._asked(runtime)

        async def look(reason: Reason | None) -> None:
            nonlocal asked
            request = await self._asked(runtime)
            if request is not None and request != asked:
                self._again(request.by, request.id)
            elif reason is not None:
                self._again("SIGHUP" if reason == "SIGHUP" else _owner(path))
            asked = request or asked
            await self._tell(runtime)

        watcher = self._watcher or ReloadWatcher(functools.partial(_files, path, os.environ))
        await watcher.watch(runtime.stopping, look)

    def _again(self, by: str, cause: str | None = None) -> None:
        try:
            changes, error = self.reload(), None
        except ConfigurationError as problem:
            changes, error = [], str(problem)
            _log.error("notify.yaml is wrong; the one before stays", error=error, by=by)
        else:
            _log.info("notify.yaml was read again", changes=changes, by=by)
        told = NotifyReloaded(process=f"{socket.gethostname()}:{os.getpid()}", by=by, changes=changes, error=error)
        fields = encode(
            RELOADED, encode_data(told), event_id=f"reload-{os.urandom(8).hex()}", source=SERVICE, cause=cause
        )
        self._untold.append(fields)

    async def _tell(self, runtime: Runtime) -> None:
        """Publish what was read and told to nobody so far, once failing channels that are gone are to be forgotten.

        While Redis is away it is kept for the next look.
        """
        try:
            while self._untold:
                await channel_health.request_review(runtime)
                await runtime.publisher.publish(DELIVERIES, self._untold[0])
                self._untold.popleft()
        except Exception as error:
            if not isinstance(error, Unavailable) and unavailable(error) is None:
                raise

    async def _asked(self, runtime: Runtime) -> ReloadRequest | None:
        """Return the last request to reload, None if there is none or Redis is away."""
        try:
            raw = await runtime.redis.get(runtime.keys.state(SERVICE, RELOAD))
        except Exception as error:
            if unavailable(error) is None:
                raise
            return None
        return msgspec.json.decode(raw, type=ReloadRequest) if raw else None


def changed(before: Config, after: Config) -> list[str]:
    """Say what differs between two configurations, without repeating what may be secret."""
    sentences = []
    for name in sorted(before.channels.keys() | after.channels.keys()):
        old, new = before.channels.get(name), after.channels.get(name)
        if old != new:
            sentences.append(
                f"channels.{name} " + ("added" if old is None else "removed" if new is None else "changed")
            )
    others = [field.name for field in msgspec.structs.fields(Config) if field.name != "channels"]
    return sentences + [f"{name} changed" for name in others if getattr(before, name) != getattr(after, name)]


def _files(path: str | None, environ: Mapping[str, str]) -> list[str]:
    """Return the files that the configuration comes from: notify.yaml, and those that hold a secret."""
    return [path or notify_file.FILE, *(value for name, value in sorted(environ.items()) if name.endswith("_FILE"))]


def _owner(path: str | None) -> str:
    try:
        return f"{Path(path or notify_file.FILE).owner()} (the file changed)"
    except (OSError, KeyError):
        return "somebody (the file changed)"
