"""Clients, made from a URL, and what their errors mean.

Nothing here retries by itself: a lost reply to XADD would become a duplicate, and one to XREADGROUP would
strand entries. Callers resend where sending twice is safe.

The client is imported when one is made, or one of its errors has to be understood: it costs a fifth of a second
of CPU, which those who only write handlers, and test them, need not pay.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from penstock.errors import ConfigurationError, Unavailable
from penstock.redaction import hide_url
from penstock.redis.tls import greet, greet_blocking, tls_problem

if TYPE_CHECKING:
    from redis.exceptions import RedisError

SCHEMES = ("redis", "rediss", "unix")
# What a server answers while it cannot take writes, and how we say it.
_REFUSALS = {
    "OOM": "out of memory",
    "LOADING": "loading its data",
    "READONLY": "a read-only replica",
    "MISCONF": "cannot persist to disk",
    "NOREPLICAS": "too few replicas",
    "MASTERDOWN": "its primary is down",
    "CLUSTERDOWN": "the cluster is down",
    "TRYAGAIN": "a slot is moving",
    "BUSY": "running a long script",
    "UNBLOCKED": "changing roles",
    "NOAUTH": "it asks for a password",
    "WRONGPASS": "wrong user name or password",
}
_COMMAND = re.compile(r"run the '([^']+)' command")

_MOST_CONNECTIONS = 64  # of one client: a server works off one command at a time anyhow

# redis-py annotates every reply as a union over all its modes. Ours is one mode: bytes, RESP2.
AsyncRedis: TypeAlias = Any


def client(
    url: str, *, timeout: float | None = 5.0, connect_timeout: float = 5.0, name: str | None = None
) -> AsyncRedis:
    """Return a client for commands; `timeout` bounds each reply, in seconds (None: the caller does).

    Raises:
        ConfigurationError: the URL's scheme is not one of `SCHEMES`.
    """
    import redis.asyncio  # noqa: PLC0415 - see above
    from redis.backoff import NoBackoff  # noqa: PLC0415

    from penstock.redis.pool import Pool  # noqa: PLC0415

    _speaks_as(url)
    pool = Pool.from_url(
        url,
        max_connections=_MOST_CONNECTIONS,
        socket_timeout=timeout,
        socket_connect_timeout=connect_timeout,
        retry=redis.asyncio.retry.Retry(NoBackoff(), 0),
        redis_connect_func=greet if _speaks_tls(url) else None,
        client_name=name,
        protocol=2,
    )
    return redis.asyncio.Redis.from_pool(pool)


def blocking_client(url: str, *, timeout: float, name: str | None = None) -> Any:
    """Return a client for a thread of its own.

    Raises:
        ConfigurationError: as for `client`.
    """
    import redis  # noqa: PLC0415 - see above
    from redis.backoff import NoBackoff  # noqa: PLC0415

    _speaks_as(url)
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=redis.retry.Retry(NoBackoff(), 0),
        redis_connect_func=greet_blocking if _speaks_tls(url) else None,
        client_name=name,
        protocol=2,
    )


async def server_ms(client: AsyncRedis) -> int:
    """Return the server's clock, in ms since the epoch.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    seconds, microseconds = await client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def check_url(url: str) -> None:
    """Refuse a URL that no client here understands.

    Raises:
        ConfigurationError: with the forms that are.
    """
    from redis.connection import parse_url  # noqa: PLC0415 - as in `client`

    try:
        understood = urlsplit(url).scheme in SCHEMES
        parse_url(url)  # type: ignore[no-untyped-call]
    except ValueError:
        understood = False
    if not understood:
        raise ConfigurationError(
            f"REDIS_URL: {hide_url(url)!r} is not understood; use redis://host:port/db, "
            "rediss://host:port/db (TLS) or unix:///path/to/socket, and percent-encode a password with / ? # or @"
        )


def hide_password(url: str) -> str:
    """Return the URL with its password masked, for messages."""
    return hide_url(url)


def unavailable(error: BaseException) -> Unavailable | None:
    """Return what `error` means if trying again later can help, else None."""
    from redis import exceptions  # noqa: PLC0415 - see above

    if isinstance(error, exceptions.TimeoutError):
        return Unavailable("no reply in time")
    if isinstance(error.__cause__, exceptions.AuthenticationError):
        error = error.__cause__  # redis-py makes a ConnectionError of what is said as a connection is made
    if isinstance(error, exceptions.ResponseError | exceptions.ConnectionError):
        if (reason := _REFUSALS.get(_code(error))) is not None:
            return Unavailable(reason)
        if (denial := _denial(error)) is not None:
            return Unavailable(denial, is_denial=True)
    # redis-py makes its ConnectionError of every OSError of its sockets; the others come from beside it, and
    # are about files, or ours or a handler's own.
    if isinstance(error, exceptions.ConnectionError | ConnectionError | TimeoutError | socket.gaierror):
        return Unavailable(tls_problem(error) or "cannot connect")
    return None


@contextlib.contextmanager
def telling_unavailable() -> Iterator[None]:
    """Raise Unavailable for what is inside where trying again later can help.

    Raises:
        Unavailable: Redis is away, or refuses.
    """
    try:
        yield
    except Exception as error:
        away = unavailable(error)
        if away is None:
            raise
        raise away from error


class _This:
    """As whom this program speaks to Redis: it has one REDIS_URL."""

    user = "default"


def _speaks_as(url: str) -> None:
    from redis.connection import parse_url  # noqa: PLC0415 - as in `client`

    check_url(url)
    _This.user = parse_url(url).get("username") or "default"  # type: ignore[no-untyped-call]


def _speaks_tls(url: str) -> bool:
    return urlsplit(url).scheme == "rediss"


def _denial(error: RedisError) -> str | None:
    """Say what this user may not do, if that is what the server answers.

    Its words differ by version, and within scripts, where it names neither code nor user; what the caller knows of
    the call is among the error's notes.
    """
    text = str(error)
    if (
        _code(error) != "NOPERM"
        and "The user executing the script can't" not in text
        and "ACL failure in script" not in text
    ):
        return None
    command = _COMMAND.search(text)
    if command is not None:
        what = f"run {command[1]}"
    elif "channel" in text:
        what = "use a channel that is needed"
    elif "key" in text:
        what = "use a key that is needed"
    else:
        what = "run a command that is needed"
    about = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return f"user {_This.user} may not {what}{about}: give it that right with ACL SETUSER"


def _code(error: RedisError) -> str:
    """Return the first word of the server's answer; redis-py takes it away from those it has a class for.

    In a pipeline it puts the command before the answer, and its asyncio client the answer in a tuple; a
    transaction that the server gave up says why after its own word.
    """
    if error.status_code not in (None, "EXECABORT"):
        return error.status_code
    answer = str(error).rpartition(" caused error: ")[2].lstrip("('\"")
    return answer.rpartition(" because of: ")[2].partition(" ")[0]
