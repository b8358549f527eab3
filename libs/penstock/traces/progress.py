"""Where groups stand with single entries: not read yet, in hand, or settled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis, ResponseError
from penstock.traces.records import entry_order

_PAGE = 500


class Question(msgspec.Struct, frozen=True):
    """Where does `group` stand with an entry of `stream`, or with `retry_id` of its retry stream for it?"""

    stream: str
    group: str
    entry_id: str
    retry_id: str | None = None


class Standing(msgspec.Struct, frozen=True):
    """The answer; `consumer` is who has it in hand."""

    state: Literal["queued", "running", "settled"]
    consumer: str | None = None


async def standings(client: AsyncRedis, keys: Keys, questions: Iterable[Question]) -> dict[Question, Standing]:
    """Answer each question.

    Raises:
        redis.exceptions.RedisError: Redis is away.
    """
    asked = list(dict.fromkeys(questions))
    positions = await _positions(client, keys, {question.stream for question in asked})
    answers: dict[Question, Standing] = {}
    for at in range(0, len(asked), _PAGE):
        page = asked[at : at + _PAGE]
        async with client.pipeline(transaction=False) as pipeline:
            for question in page:
                key, entry_id = _place(keys, question)
                pipeline.xpending_range(key, question.group, entry_id, entry_id, 1)
            replies = await pipeline.execute(raise_on_error=False)
        for question, reply in zip(page, replies, strict=True):
            answers[question] = _standing(question, reply, positions.get((question.stream, question.group)))
    return answers


def _place(keys: Keys, question: Question) -> tuple[str, str]:
    if question.retry_id is not None:
        return keys.retry(question.stream, question.group), question.retry_id
    return keys.stream(question.stream), question.entry_id


def _standing(question: Question, reply: Any, position: str | None) -> Standing:
    if isinstance(reply, Exception) and not isinstance(reply, ResponseError):
        raise reply
    if isinstance(reply, list) and reply:
        return Standing("running", reply[0]["consumer"].decode(errors="replace"))
    if question.retry_id is not None:
        return Standing("queued")  # it is deleted once it is settled
    unread = position is None or entry_order(question.entry_id) > entry_order(position)
    return Standing("queued" if unread else "settled")


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
