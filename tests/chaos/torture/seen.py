"""What lies in Redis: what has come of the events, and what is not done yet."""

from __future__ import annotations

import collections
from typing import Any

import msgspec

from penstock.keys import DEAD_LETTERS, Keys
from tests.chaos.torture.plan import Plan

_KEYS = Keys()


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of a stream. `not_before` is when it was to be published at the earliest, in ms."""

    stream: str
    entry_ms: int
    id: str
    key: str
    type: str
    subject: str | None
    tenant: str | None
    cause: str | None
    not_before: float = 0.0


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter."""

    id: str
    service: str
    key: str
    reason: str
    attempts: int
    replayed: bool


class State(msgspec.Struct, kw_only=True):
    """What a service has counted, by key of the event; `surprises` are errors that no plan asked for."""

    done: dict[str, int] = {}
    retried: dict[str, int] = {}
    snoozed: dict[str, int] = {}
    waited: dict[str, int] = {}
    died: dict[str, int] = {}
    nonces: dict[str, int] = {}
    surprises: dict[str, str] = {}
    total: int = 0
    order: list[str] = []
    scores: int = 0


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """All there is to see once a mesh has come to rest."""

    entries: list[Entry]
    dead_letters: list[DeadLetter]
    states: dict[str, State]
    leftovers: list[str]


def look(raw: Any, plan: Plan) -> Seen:
    """Read it all."""
    return Seen(
        entries=[_entry(stream, *row) for stream in plan.streams for row in raw.xrange(stream)],
        dead_letters=dead_letters(raw),
        states={one.name: _state(raw, one.name) for one in plan.services},
        leftovers=[key.decode() for key in raw.scan_iter(_KEYS.checkpoint("*", "*"))],
    )


def dead_letters(raw: Any) -> list[DeadLetter]:
    """Read the dead letters."""
    replayed = raw.hgetall(_KEYS.replayed)
    return [
        DeadLetter(
            id=entry_id.decode(),
            service=fields[b"dlq.group"].decode(),
            key=_data(fields).get("key") or fields[b"id"].decode(),
            reason=fields[b"dlq.reason"].decode(),
            attempts=int(fields[b"dlq.attempts"]),
            replayed=entry_id in replayed,
        )
        for entry_id, fields in raw.xrange(DEAD_LETTERS)
    ]


def unfinished(raw: Any) -> list[str]:
    """Return a sentence for each thing that is not done: unread, in flight, waiting, or not cleared away."""
    found = []
    alive = {name.decode() for key in raw.scan_iter(_KEYS.beats("*")) for name in raw.hkeys(key)}
    for key in raw.scan_iter(_type="stream"):
        stream = key.decode()
        last = raw.xrevrange(key, count=1)
        for group in raw.xinfo_groups(key):
            name = group["name"].decode()
            if group["pending"]:
                found.append(f"{stream}: {name} has {group['pending']} pending")
            if last and _order(group["last-delivered-id"]) < _order(last[0][0]):
                found.append(f"{stream}: {name} has read up to {group['last-delivered-id'].decode()} only")
            consumers = {row["name"].decode() for row in raw.xinfo_consumers(key, group["name"])}
            found += [f"{stream}: {one} of {name} is gone and still there" for one in sorted(consumers - alive)]
    for key in raw.scan_iter(_type="zset"):
        if not key.startswith(b"state:"):
            found.append(f"{key.decode()}: {raw.zcard(key)} wait")
    return sorted(found)


def _order(entry_id: bytes) -> tuple[int, int]:
    ms, _, number = entry_id.partition(b"-")
    return int(ms), int(number)


def _data(fields: dict[bytes, bytes]) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(fields[b"data"])
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _entry(stream: str, entry_id: bytes, fields: dict[bytes, bytes]) -> Entry:
    text = {name.decode(): value.decode() for name, value in fields.items()}
    data = _data(fields)
    return Entry(
        stream=stream,
        entry_ms=_order(entry_id)[0],
        id=text.get("id", ""),
        key=data.get("key") or text.get("id", ""),
        type=text.get("type", ""),
        subject=text.get("subject"),
        tenant=text.get("tenant"),
        cause=text.get("cause"),
        not_before=data.get("not_before", 0.0) * 1000,
    )


def _state(raw: Any, service: str) -> State:
    def texts(name: str) -> dict[str, str]:
        return {key.decode(): value.decode() for key, value in raw.hgetall(_KEYS.state(service, name)).items()}

    def counts(name: str) -> dict[str, int]:
        return {key: int(value) for key, value in texts(name).items()}

    return State(
        done=counts("done"),
        retried=counts("retried"),
        snoozed=counts("snoozed"),
        waited=counts("waited"),
        died=counts("died"),
        nonces=dict(collections.Counter(pair.partition(" ")[0] for pair in counts("nonces"))),
        surprises=texts("surprises"),
        total=int(raw.get(_KEYS.state(service, "total")) or 0),
        order=[key.decode() for key in raw.lrange(_KEYS.state(service, "order"), 0, -1)],
        scores=raw.zcard(_KEYS.state(service, "scores")),
    )
