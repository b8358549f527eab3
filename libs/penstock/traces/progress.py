"""Where groups stand with single entries: not read yet, in flight, or settled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from redis.exceptions import ResponseError

from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis
from penstock.times import entry_order

_PAGE = 500


class ProgressKey(msgspec.Struct, frozen=True):
    """Where does `group` stand with an entry of `stream`, or with `retry_id` of its retry stream for it?"""

    stream: str
    group: str
    entry_id: str
    retry_id: str | None = None


class Progress(msgspec.Struct, frozen=True):
    """The answer; `consumer` is whose process it is in flight in."""

    state: Literal["queued", "running", "settled"]
    consumer: str | None = None


async def find_progress(client: AsyncRedis, keys: Keys, unknown: Iterable[ProgressKey]) -> dict[ProgressKey, Progress]:
    """Answer each key.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    asked = list(dict.fromkeys(unknown))
    positions = await _positions(client, keys, {wanted.stream for wanted in asked})
    answers: dict[ProgressKey, Progress] = {}
    for at in range(0, len(asked), _PAGE):
        page = asked[at : at + _PAGE]
        async with client.pipeline(transaction=False) as pipeline:
            for wanted in page:
                key, entry_id = _place(keys, wanted)
                pipeline.xpending_range(key, wanted.group, entry_id, entry_id, 1)
            replies = await pipeline.execute(raise_on_error=False)
        for wanted, reply in zip(page, replies, strict=True):
            answers[wanted] = _progress(wanted, reply, positions.get((wanted.stream, wanted.group)))
    return answers


def _place(keys: Keys, wanted: ProgressKey) -> tuple[str, str]:
    if wanted.retry_id is not None:
        return keys.retry(wanted.stream, wanted.group), wanted.retry_id
    return keys.stream(wanted.stream), wanted.entry_id


def _progress(wanted: ProgressKey, reply: Any, position: str | None) -> Progress:
    if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
        raise reply
    if isinstance(reply, list) and reply:
        return Progress("running", reply[0]["consumer"].decode(errors="replace"))
    if wanted.retry_id is not None:
        return Progress("queued")  # it is deleted once it is settled
    unread = position is None or entry_order(wanted.entry_id) > entry_order(position)
    return Progress("queued" if unread else "settled")


async def _positions(client: AsyncRedis, keys: Keys, streams: Iterable[str]) -> dict[tuple[str, str], str]:
    """Return the last entry that was given to each group."""
    positions = {}
    for stream in streams:
        try:
            groups = await client.xinfo_groups(keys.stream(stream))
        except ResponseError as error:
            if "no such key" not in str(error):
                raise
            continue
        for group in groups:
            positions[stream, group["name"].decode()] = group["last-delivered-id"].decode()
    return positions
