"""Alerts: what the alert manager writes down and others may read, and the silences that others write."""

from __future__ import annotations

import os
import time
from typing import Annotated, Any, Literal, overload

import msgspec

from penstock.config import convert
from penstock.errors import ConfigurationError
from penstock.keys import Keys
from penstock.matchers import Matcher
from penstock.redis.connection import AsyncRedis
from penstock.schemas import Severity
from penstock.times import rfc3339

SERVICE = "alerts"
ALERTS, HISTORY, SILENCES = "alerts", "history", "silences"
MOST_HISTORY = 1_000
MOST_SILENCES = 1_000
_LONGEST_SILENCE = 10 * 365 * 86_400.0

LifecycleState = Literal["inactive", "pending", "firing", "resolved"]
Happening = Literal["inactive", "pending", "firing", "resolved", "notified", "renotified", "notified resolved"]
Text = Annotated[str, msgspec.Meta(max_length=1_000)]


class AlertRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One alert, latched: the state it is in and why. Times are seconds since the epoch.

    `since` is when it came into its state, `fired` when it last began to fire, `resolved` when that last
    ended, `clear_since` since when its condition has not suppressed although it still fires. `triggers` are the
    times it began to fire lately; `flapping` says there were too many. `suppressed` says why nobody is told.
    """

    fingerprint: str
    rule: str
    severity: Severity = "warning"
    labels: dict[str, str] = {}
    state: LifecycleState = "inactive"
    since: float = 0.0
    fired: float | None = None
    resolved: float | None = None
    clear_since: float | None = None
    triggers: tuple[float, ...] = ()
    flapping: bool = False
    value: float | None = None
    threshold: float | None = None
    reason: str = ""
    summary: str = ""
    exemplars: tuple[str, ...] = ()
    suppressed: str | None = None


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened to an alert, and why: it came into a state, or somebody was told."""

    time: float
    what: Happening
    fingerprint: str
    rule: str
    severity: Severity
    labels: dict[str, str] = {}
    why: str
    value: float | None = None


class Silence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Alerts that match all of `matchers` are told to nobody before `until` (seconds since the epoch).

    `rule` and `severity` can be matched like labels.
    """

    id: str
    matchers: Annotated[list[Text], msgspec.Meta(min_length=1, max_length=20)]
    until: float
    author: Text
    comment: Text = ""
    created: float = 0.0

    def parsed(self) -> list[Matcher]:
        """Return the matchers.

        Raises:
            ValueError: one of them is none.
        """
        return [Matcher.parse(text) for text in self.matchers]


class ShownAlert(msgspec.Struct, frozen=True, kw_only=True):
    """An alert as others are to see it: times in RFC 3339, without what serves the state machine alone."""

    fingerprint: str
    rule: str
    severity: Severity
    labels: dict[str, str]
    state: LifecycleState
    since: str
    fired: str | None
    resolved: str | None
    flapping: bool
    value: float | None
    threshold: float | None
    reason: str
    summary: str
    exemplars: tuple[str, ...]
    suppressed: str | None


class ShownHistory(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to an alert; its time in RFC 3339."""

    time: str
    what: Happening
    fingerprint: str
    rule: str
    severity: Severity
    labels: dict[str, str]
    why: str
    value: float | None


class ShownSilence(msgspec.Struct, frozen=True, kw_only=True):
    """A silence; its times in RFC 3339."""

    id: str
    matchers: list[str]
    until: str
    author: str
    comment: str
    created: str


@overload
def present(what: AlertRecord) -> ShownAlert: ...
@overload
def present(what: HistoryEntry) -> ShownHistory: ...
@overload
def present(what: Silence) -> ShownSilence: ...
def present(what: AlertRecord | HistoryEntry | Silence) -> ShownAlert | ShownHistory | ShownSilence:
    """Return a record as others are to see it."""
    shown = msgspec.structs.asdict(what)
    for name in ("time", "since", "fired", "resolved", "until", "created"):
        if isinstance(shown.get(name), float):
            shown[name] = rfc3339(shown[name])
    found: ShownAlert | ShownHistory | ShownSilence = msgspec.convert(shown, _SHOWN[type(what)])
    return found


_SHOWN: dict[type, Any] = {AlertRecord: ShownAlert, HistoryEntry: ShownHistory, Silence: ShownSilence}


class AlertStore:
    """Reads alerts and their history, and works the silences."""

    def __init__(self, client: AsyncRedis, keys: Keys) -> None:
        self._client = client
        self._alerts = keys.state(SERVICE, ALERTS)
        self._history = keys.state(SERVICE, HISTORY)
        self._silences = keys.state(SERVICE, SILENCES)

    async def alerts(self) -> list[AlertRecord]:
        """Return the alerts that are not inactive, the latest change first."""
        rows = (await self._client.hgetall(self._alerts)).values()
        found = [msgspec.json.decode(row, type=AlertRecord) for row in rows]
        return sorted(found, key=lambda record: (-record.since, record.fingerprint))

    async def history(self, *, limit: int = MOST_HISTORY) -> list[HistoryEntry]:
        """Return what happened, the newest first."""
        rows = await self._client.lrange(self._history, 0, limit - 1)
        return [msgspec.json.decode(row, type=HistoryEntry) for row in rows]

    async def silences(self) -> list[Silence]:
        """Return the silences, those that are over too until they are forgotten; the first to end first."""
        rows = (await self._client.hgetall(self._silences)).values()
        return sorted((msgspec.json.decode(row, type=Silence) for row in rows), key=lambda found: found.until)

    async def add_silence(self, matchers: list[str], *, seconds: float, author: str, comment: str = "") -> Silence:
        """Silence what matches for `seconds` from now on.

        Raises:
            ConfigurationError: a matcher is none, there is none, it is for too long, or there are too many silences.
        """
        if seconds > _LONGEST_SILENCE:
            raise ConfigurationError("silence: duration: at most 10 years")
        now = time.time()
        raw: dict[str, Any] = {
            "id": os.urandom(4).hex(),
            "matchers": matchers,
            "until": now + seconds,
            "author": author,
            "comment": comment,
            "created": now,
        }
        silence = convert(raw, Silence, "silence")
        try:
            silence.parsed()
        except ValueError as error:
            raise ConfigurationError(f"silence: {error}") from None
        if await self._client.hlen(self._silences) >= MOST_SILENCES:
            raise ConfigurationError(
                f"silence: there are {MOST_SILENCES} already; remove some with `penstock silence rm`"
            )
        await self._client.hset(self._silences, silence.id, msgspec.json.encode(silence))
        return silence

    async def remove_silence(self, silence_id: str) -> bool:
        """End a silence now; False if there is none of that id."""
        return bool(await self._client.hdel(self._silences, silence_id))
