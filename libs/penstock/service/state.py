"""State that a service keeps in Redis, changed with the hop commit and read when needed."""

from __future__ import annotations

from typing import Any, Literal

from penstock.keys import Keys

TOO_LATE = "this run of the handler is over: what it brings about now can have no effect"


class State:
    """State operations on keys of this service: they take effect together with the event, exactly once.

    Names are relative: `hincrby("counts", "a")` works on key `state:<service>:counts`.
    """

    def __init__(self, keys: Keys, service: str) -> None:
        self._keys = keys
        self._service = service
        self.operations: list[list[Any]] = []
        self.guards: list[tuple[str, str, str | Literal[False]]] = []
        self.sealed = False

    def key(self, name: str) -> str:
        """Return the full Redis key of `name`, for reading."""
        return self._keys.state(self._service, name)

    def expect(self, name: str, field: str, value: str | None) -> None:
        """Settle only if `field` of the hash `name` still holds `value` then; None: it is not there.

        Otherwise nothing of this run takes effect, no attempt is used up, and the handler runs again: what it
        reads, decides and writes is thus one step, however many replicas do the same. The handler must
        read the guarded field first, and change it with every commit.
        """
        self.guards.append((self.key(name), field, False if value is None else value))

    def hincrby(self, name: str, field: str, by: int = 1) -> None:
        """Add `by` to an integer in a hash."""
        self._add("HINCRBY", name, field, str(by))

    def hincrbyfloat(self, name: str, field: str, by: float) -> None:
        """Add `by` to a number in a hash."""
        self._add("HINCRBYFLOAT", name, field, repr(by))

    def hset(self, name: str, values: dict[str, str | float]) -> None:
        """Set fields of a hash."""
        if values:
            self._add("HSET", name, *(str(part) for pair in values.items() for part in pair))

    def hdel(self, name: str, *fields: str) -> None:
        """Delete fields of a hash."""
        if fields:
            self._add("HDEL", name, *fields)

    def zadd(self, name: str, scores: dict[str, float]) -> None:
        """Set the scores of members of a sorted set."""
        if scores:
            self._add("ZADD", name, *(part for member, score in scores.items() for part in (repr(score), member)))

    def zrem(self, name: str, *members: str) -> None:
        """Remove members of a sorted set."""
        if members:
            self._add("ZREM", name, *members)

    def sadd(self, name: str, *members: str) -> None:
        """Add members to a set."""
        if members:
            self._add("SADD", name, *members)

    def srem(self, name: str, *members: str) -> None:
        """Remove members of a set."""
        if members:
            self._add("SREM", name, *members)

    def append(self, name: str, *values: str) -> None:
        """Put values at the end of a list, in this order."""
        if values:
            self._add("RPUSH", name, *values)

    def push(self, name: str, *values: str, most: int) -> None:
        """Put values in front of a list, the last one foremost, and keep the first `most` of it."""
        if values:
            self._add("LPUSH", name, *values)
            self._add("LTRIM", name, "0", str(most - 1))

    def set(self, name: str, value: str, *, ttl: float | None = None) -> None:
        """Set a string; `ttl` in seconds."""
        self._add("SET", name, value, *(() if ttl is None else ("PX", str(round(ttl * 1000)))))

    def incrby(self, name: str, by: int = 1) -> None:
        """Add `by` to an integer."""
        self._add("INCRBY", name, str(by))

    def delete(self, name: str) -> None:
        """Delete a key."""
        self._add("DEL", name)

    def expire(self, name: str, ttl: float) -> None:
        """Let a key expire in `ttl` seconds."""
        self._add("PEXPIRE", name, str(round(ttl * 1000)))

    def _add(self, command: str, name: str, *arguments: str) -> None:
        if self.sealed:
            raise RuntimeError(TOO_LATE)
        self.operations.append([command, self.key(name), *arguments])
