"""State, job records, checkpoints: values by key, as the operations of a commit change them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal


class Scores(dict[str, float]):
    """A sorted set: scores by member."""


class _Value:
    """What a key holds: a dict, Scores, a set, a list, a text; nothing if the key is not there."""

    __slots__ = ("held", "until")

    def __init__(self, held: Any = None, until: float | None = None) -> None:
        self.held = held
        self.until = until
        """When it expires, on the monotonic clock."""

    def of(self, kind: type[Any]) -> Any:
        """Return it as one of a kind, begun if it is not there.

        Raises:
            TypeError: it is of another kind.
        """
        if self.held is None:
            self.held = kind()
        if type(self.held) is not kind:
            raise TypeError(f"the key holds a {_NAMES[type(self.held)]}, not a {_NAMES[kind]}")
        return self.held

    def expire(self, ms: str, *, only_later: bool = False) -> None:
        """Let it expire."""
        until = time.monotonic() + int(ms) / 1000
        if self.held is not None and (not only_later or (self.until is not None and until > self.until)):
            self.until = until


_NAMES: dict[type[Any], str] = {dict: "hash", Scores: "sorted set", set: "set", list: "list", str: "text"}


class Values:
    """All values of a mesh."""

    def __init__(self) -> None:
        self._values: dict[str, _Value] = {}
        self._most = 1_000
        """How many there may be before those that have expired are looked for."""

    def get(self, key: str) -> Any:
        """Return what a key holds, None if it is not there."""
        value = self._values.get(key)
        if value is None or (value.until is not None and value.until <= time.monotonic()):
            self._values.pop(key, None)
            return None
        return value.held

    def holds(self, key: str, field: str, expected: str | Literal[False]) -> bool:
        """Whether a field of a hash holds a value; False stands for its not being there.

        Raises:
            TypeError: the key holds something else.
        """
        fields = _Value(self.get(key)).of(dict)
        return bool(fields.get(field, False) == expected)

    def change(self, operations: Iterable[Sequence[Any]]) -> str | None:
        """Carry out all of these operations, or none and say why not."""
        changed: dict[str, _Value] = {}
        for command, key, *arguments in operations:
            if key not in changed:
                held = self.get(key)
                changed[key] = _Value() if held is None else _Value(copy.copy(held), self._values[key].until)
            value = changed[key]
            try:
                _OPERATIONS[command](value, *map(str, arguments))
            except (TypeError, ValueError) as error:
                return f"{command} {key}: {error}"
        for key, value in changed.items():
            if value.held is None or (value.held != "" and not value.held):  # what has become empty is not there
                self._values.pop(key, None)
            else:
                self._values[key] = value
        self._sweep()
        return None

    def _sweep(self) -> None:
        if len(self._values) > self._most:
            for key in list(self._values):
                self.get(key)
            self._most = max(1_000, 2 * len(self._values))


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an integer") from None


def _hincrby(value: _Value, field: str, by: str) -> None:
    fields = value.of(dict)
    fields[field] = str(_integer(fields.get(field, "0")) + int(by))


def _hincrbyfloat(value: _Value, field: str, by: str) -> None:
    fields = value.of(dict)
    fields[field] = f"{float(fields.get(field, '0')) + float(by):.17g}"


def _hset(value: _Value, *parts: str) -> None:
    value.of(dict).update(zip(parts[::2], parts[1::2], strict=True))


def _hdel(value: _Value, *fields: str) -> None:
    for field in fields:
        value.of(dict).pop(field, None)


def _hsetown(value: _Value, field: str, owner: str, text: str, ms: str) -> None:
    fields = value.of(dict)
    if fields.get(field, owner).partition(" ")[0] == owner:
        fields[field] = f"{owner} {text}"
        value.expire(ms)


def _zadd(value: _Value, *parts: str) -> None:
    value.of(Scores).update(zip(parts[1::2], map(float, parts[::2]), strict=True))


def _zrem(value: _Value, *members: str) -> None:
    for member in members:
        value.of(Scores).pop(member, None)


def _ltrim(value: _Value, first: str, last: str) -> None:
    value.held = value.of(list)[int(first) : int(last) + 1]


def _lpush(value: _Value, *texts: str) -> None:
    value.held = [*reversed(texts), *value.of(list)]


def _set(value: _Value, text: str, px: str = "", ms: str = "") -> None:
    value.held, value.until = text, None
    if px:
        value.expire(ms)


def _incrby(value: _Value, by: str) -> None:
    value.held = str(_integer(value.of(str) or "0") + int(by))


def _del(value: _Value) -> None:
    value.held = value.until = None


_OPERATIONS: dict[str, Callable[..., None]] = {
    "HINCRBY": _hincrby,
    "HINCRBYFLOAT": _hincrbyfloat,
    "HSET": _hset,
    "HDEL": _hdel,
    "HSETOWN": _hsetown,
    "ZADD": _zadd,
    "ZREM": _zrem,
    "SADD": lambda value, *members: value.of(set).update(members),
    "SREM": lambda value, *members: value.of(set).difference_update(members),
    "RPUSH": lambda value, *texts: value.of(list).extend(texts),
    "LPUSH": _lpush,
    "LTRIM": _ltrim,
    "SET": _set,
    "INCRBY": _incrby,
    "DEL": _del,
    "PEXPIRE": lambda value, ms, only="": value.expire(ms, only_later=only == "GT"),
}
