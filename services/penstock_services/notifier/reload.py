"""The configuration while the notifier runs: read again when its files change, at SIGHUP, or when somebody asks.

What is read anew is checked as at the start. If it is wrong the old one stays, and the error is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import structlog

from penstock.errors import ConfigurationError
from penstock.event import encode, encode_data
from penstock.keys import DELIVERIES
from penstock.mesh.deliveries import RELOAD, RELOADED, SERVICE, ReloadRequest
from penstock.redis.connection import unavailable
from penstock.schemas import NotifyReloaded
from penstock.service.runtime import Runtime
from penstock.settings import Settings
from penstock_services.notifier.config import notify_file
from penstock_services.notifier.config.config import Config, load
from penstock_services.notifier.delivery import channel_health

_TICK = 3.0  # seconds between two looks at the files
_log = structlog.get_logger("notifier.config")
Stamp = tuple[tuple[str, int, int, int], ...]


class LiveConfig:
    """Holds the configuration that is valid now; `again` reads it anew."""

    def __init__(self, config: Config, again: Callable[[], Config] | None = None) -> None:
        self.current = config
        self._load = again or (lambda: config)
        self._sooner = asyncio.Event()
        self._files: Stamp | None = None

    @classmethod
    def read(cls, settings: Settings) -> LiveConfig:
        """Read the configuration for the first time; from here on no change is missed.

        Raises:
            ConfigurationError: it is wrong.
        """
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until somebody listens it must not end the process
        files = _stamp(settings.notify, os.environ)
        made = cls(load(settings), functools.partial(load, settings))
        made._files = files
        return made

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
        files = self._files or _stamp(runtime.settings.notify, os.environ)
        with _hangup(self._sooner):
            asked = await self._asked(runtime)
            while not runtime.stopping.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(_either(self._sooner, runtime.stopping), _TICK)
                hangup = self._sooner.is_set()
                self._sooner.clear()
                now, request = _stamp(runtime.settings.notify, os.environ), await self._asked(runtime)
                if request is not None and request != asked:
                    await self._again(runtime, request.by, request.id)
                elif hangup or now != files:
                    await self._again(runtime, "SIGHUP" if hangup else _owner(runtime.settings.notify))
                files, asked = now, request or asked

    async def _again(self, runtime: Runtime, by: str, cause: str | None = None) -> None:
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
        with contextlib.suppress(Exception):  # it is told in the log too
            await runtime.publisher.publish(DELIVERIES, fields)
            await channel_health.review_at_start(runtime)

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


def _stamp(path: str | None, environ: Mapping[str, str]) -> Stamp:
    """Return what tells whether notify.yaml, or a file that holds a secret, was written since."""
    watched = [path or notify_file.FILE, *(value for name, value in sorted(environ.items()) if name.endswith("_FILE"))]
    found = []
    for name in watched:
        with contextlib.suppress(OSError):
            stat = Path(name).stat()
            found.append((name, stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)


def _owner(path: str | None) -> str:
    try:
        return f"{Path(path or notify_file.FILE).owner()} (the file changed)"
    except (OSError, KeyError):
        return "somebody (the file changed)"


@contextlib.contextmanager
def _hangup(event: asyncio.Event) -> Iterator[None]:
    """Set `event` at SIGHUP."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, event.set)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


async def _either(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()
