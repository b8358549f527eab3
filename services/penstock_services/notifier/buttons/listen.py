"""Who listens to presses: of all notifiers one for each app or bot, and for as long as notify.yaml wants buttons."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
from collections.abc import Callable

import structlog

from penstock.redis.connection import unavailable
from penstock.service.runtime import Runtime
from penstock.streams.election import Lease
from penstock_services.notifier.buttons.listener import Listener
from penstock_services.notifier.buttons.slack_socket import SlackSocket
from penstock_services.notifier.buttons.telegram_updates import TelegramUpdates
from penstock_services.notifier.channels import Slack, Telegram
from penstock_services.notifier.reload import LiveConfig

_LIFETIME, _TICK = 10.0, 2.0  # seconds: of a lease, between two renewals
_log = structlog.get_logger("notifier.buttons")


async def listen(live: LiveConfig, runtime: Runtime) -> None:
    """Listen to what notify.yaml has buttons for, until the service is asked to stop."""
    posts: dict[str, _Post] = {}
    try:
        while not runtime.stopping.is_set():
            wanted = _wanted(live, runtime)
            for key in [key for key in posts if key not in wanted]:
                await posts[key].leave()  # it stays in hand until then, should the service be stopped meanwhile
                del posts[key]
            for key, listener in wanted.items():
                post = posts.get(key) or posts.setdefault(key, _Post(runtime, key, listener))
                await post.see_to()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(runtime.stopping.wait(), _TICK)
    finally:
        for post in posts.values():
            await post.leave()


def _wanted(live: LiveConfig, runtime: Runtime) -> dict[str, Callable[[], Listener]]:
    """Return who is to listen, by a name that changes with all that matters for it."""
    wanted: dict[str, Callable[[], Listener]] = {}
    for name, channel in live.current.channels.items():
        if channel.presses is None:
            continue
        private = live.current.may_be_private(channel)
        match channel:
            case Slack():
                key = _key("slack", channel.api, channel.app_token, private)
                wanted.setdefault(key, functools.partial(SlackSocket, live, runtime, name, channel))
            case Telegram():
                key = _key("telegram", channel.api, channel.token, private)
                wanted.setdefault(key, functools.partial(TelegramUpdates, live, runtime, name, channel))
    return wanted


def _key(kind: str, *parts: object) -> str:
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8)
    return f"buttons:{kind}:{digest.hexdigest()}"


class _Post:
    """Where one process listens: whoever holds the lease."""

    def __init__(self, runtime: Runtime, key: str, listener: Callable[[], Listener]) -> None:
        self._key = key
        self._make = listener
        self._lease = Lease(runtime.redis, runtime.keys, key, lifetime=_LIFETIME)
        self._until = 0.0  # on the loop's clock: when somebody else may have the lease
        self._task: asyncio.Task[None] | None = None

    async def see_to(self) -> None:
        """Listen if the lease is ours, else do not; while Redis is away, for as long as it was given."""
        now = asyncio.get_running_loop().time()
        try:
            held = await self._lease.held()
        except Exception as error:
            if unavailable(error) is None:
                raise
            held = now < self._until
        else:
            self._until = now + _LIFETIME if held else 0.0
        if self._task is not None and self._task.done():  # by a fault of ours: it is begun anew
            _log.error("a listener to buttons has ended", post=self._key, exc_info=self._task.exception())
            self._task = None
        if held and self._task is None:
            _log.info("listening to presses of buttons", post=self._key)
            self._task = asyncio.create_task(self._make().listen())
        elif not held:
            await self._stop()

    async def leave(self) -> None:
        """Listen no more, and let somebody else do it at once."""
        await self._stop()
        with contextlib.suppress(Exception):  # it ends by itself
            await self._lease.release()

    async def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
