"""Alerts: what the alert manager writes down and others may read, and what others write for it to heed.

Silences, acknowledgements and rules are written by people; it heeds them at its next tick, and a tick follows each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, get_args, overload

import msgspec

from penstock.config import convert
from penstock.errors import ConfigurationError
from penstock.event import encode, encode_data
from penstock.keys import METRICS, Keys
from penstock.matchers import Matcher, impossible
from penstock.redis.connection import AsyncRedis
from penstock.schemas import Alert, Severity, Tick
from penstock.times import rfc3339, seconds_of

SERVICE = "alerts"
ALERTS, NOTICES, HISTORY, SILENCES, ACKNOWLEDGEMENTS = "alerts", "notices", "history", "silences", "acknowledgements"
RULES, REFUSED = "rules", "rules_refused"
TICK = "alerts.tick"
MOST_HISTORY = 1_000
MOST_SILENCES = 1_000
_LONGEST_SILENCE = 10 * 365 * 86_400.0

LifecycleState = Literal["inactive", "pending", "firing", "resolved"]
_Notified = Literal["notified", "renotified", "notified resolved", "acknowledged", "unacknowledged"]
_OfRule = Literal["rule added", "rule changed", "rule removed"]
Happening = Literal[LifecycleState, _Notified, _OfRule]
Text = Annotated[str, msgspec.Meta(max_length=1_000)]


class AlertRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One alert, latched: the state it is in and why. Times are seconds since the epoch.

    `since` is when it came into its state, `fired` when it last began to fire, `resolved` when that last
    ended, `clear_since` since when its condition has not suppressed although it still fires. `triggers` are the
    times it began to fire lately; `flapping` says there were too many. `suppressed` says why nobody is notified,
    `acknowledged_by` who has taken it on.
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
    acknowledged_by: str | None = None


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened to an alert, and why: it came into a state, or somebody was notified; or to a rule.

    `time` is that of the data it follows from; `recorded` is when it was found, where that was later by more
    than a minute: after a pause.
    """

    time: float
    what: Happening
    fingerprint: str
    rule: str
    severity: Severity
    labels: dict[str, str] = {}
    why: str
    value: float | None = None
    recorded: float | None = None


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """What people were notified of and must be notified of the end of: the alert as last sent, and its members.

    `members` are the fingerprints of all alerts it ever stood for, `known` of those that have fired ever since
    people were notified of them; `sent` is when that last was.
    """

    alert: Alert
    members: tuple[str, ...]
    known: tuple[str, ...] = ()
    sent: float


class Acknowledgement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody has taken an alert on: until it resolves, nobody else needs to be called. Times as in `Silence`.

    `withdrawn`: an acknowledgement is taken back, `by` whom this says.
    """

    fingerprint: str
    by: Text
    at: float
    comment: Text = ""
    withdrawn: bool = False


class RulesGiven(msgspec.Struct, frozen=True, kw_only=True):
    """The text of alerts.yaml that is to be in force: what its file is called, who gave it, and when."""

    name: str
    text: str
    by: str
    at: float


class RulesRefused(msgspec.Struct, frozen=True, kw_only=True):
    """An alerts.yaml that is wrong, and why; the rules before it stay in force."""

    name: str
    why: str
    at: float


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
    acknowledged_by: str | None


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
    recorded: str | None


class ShownAcknowledgement(msgspec.Struct, frozen=True, kw_only=True):
    """An acknowledgement; its time in RFC 3339."""

    fingerprint: str
    by: str
    at: str
    comment: str


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
@overload
def present(what: Acknowledgement) -> ShownAcknowledgement: ...
def present(
    what: AlertRecord | HistoryEntry | Silence | Acknowledgement,
) -> ShownAlert | ShownHistory | ShownSilence | ShownAcknowledgement:
    """Return a record as others are to see it."""
    shown = msgspec.structs.asdict(what)
    for name in ("time", "since", "fired", "resolved", "until", "created", "recorded", "at"):
        if isinstance(shown.get(name), float):
            shown[name] = rfc3339(shown[name])
    found: ShownAlert | ShownHistory | ShownSilence | ShownAcknowledgement = msgspec.convert(shown, _SHOWN[type(what)])
    return found


_SHOWN: dict[type, Any] = {
    AlertRecord: ShownAlert,
    HistoryEntry: ShownHistory,
    Silence: ShownSilence,
    Acknowledgement: ShownAcknowledgement,
}


class AlertStore:
    """Reads alerts and their history; writes silences, acknowledgements and rules."""

    def __init__(self, client: AsyncRedis, keys: Keys) -> None:
        self._client = client
        self._alerts = keys.state(SERVICE, ALERTS)
        self._history = keys.state(SERVICE, HISTORY)
        self._silences = keys.state(SERVICE, SILENCES)
        self._notices = keys.state(SERVICE, NOTICES)
        self._acknowledgements = keys.state(SERVICE, ACKNOWLEDGEMENTS)
        self._rules = keys.state(SERVICE, RULES)
        self._refused = keys.state(SERVICE, REFUSED)
        self._metrics = keys.stream(METRICS)

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
            problem = impossible(silence.parsed(), {"severity": get_args(Severity)})
        except ValueError as error:
            raise ConfigurationError(f"silence: {error}") from None
        if problem:
            raise ConfigurationError(f"silence: {problem}")
        if await self._client.hlen(self._silences) >= MOST_SILENCES:
            raise ConfigurationError(
                f"silence: there are {MOST_SILENCES} already; remove some with `penstock silence rm`"
            )
        await self._client.hset(self._silences, silence.id, msgspec.json.encode(silence))
        await self._tick()
        return silence

    async def remove_silence(self, silence_id: str) -> bool:
        """End a silence now; False if there is none of that id."""
        removed = bool(await self._client.hdel(self._silences, silence_id))
        await self._tick()
        return removed

    async def acknowledge(
        self, fingerprint: str, *, by: str, comment: str = "", since: str | None = None
    ) -> Acknowledgement | None:
        """Say that somebody has taken on the alert whose fingerprint begins so; None if no such one fires.

        The fingerprint is an alert's or its group's. With `since` it is whole, and meant only in the episode that
        began then. Who was first stays: what is returned is the acknowledgement that holds.

        Raises:
            ConfigurationError: several begin so, or a text is too long.
        """
        notices = await self.notices()
        firing = {record.fingerprint for record in await self.alerts() if record.state == "firing"}
        found = _only(fingerprint, firing.union(notices)) if since is None else fingerprint
        notice = _notice_of(notices, found)
        if found is None or not _is_of(notice, since):
            return None
        said = await self._said(found)
        if said is None and notice is not None and notice.alert.acknowledged_by is not None:
            at = seconds_of(notice.alert.acknowledged_at or notice.alert.since)
            return Acknowledgement(fingerprint=found, by=notice.alert.acknowledged_by, at=at)
        if said is not None and not said.withdrawn:
            return said
        return await self._say(found, by, comment)

    async def withdraw(
        self, fingerprint: str, *, by: str, comment: str = "", since: str | None = None
    ) -> Acknowledgement | None:
        """Take back who has taken on the alert whose fingerprint begins so; None if nobody has taken on any.

        Raises:
            ConfigurationError: as for `acknowledge`.
        """
        notices = await self.notices()
        rows = (await self._client.hgetall(self._acknowledgements)).values()
        taken = {said.fingerprint for said in (_acknowledgement(row) for row in rows) if not said.withdrawn}
        for key, notice in notices.items():
            if notice.alert.acknowledged_by is not None:
                taken.update((key, *notice.known))
        found = _only(fingerprint, taken) if since is None else fingerprint
        if found not in taken or not _is_of(_notice_of(notices, found), since):
            return None
        said = await self._said(found)
        if said is not None and said.withdrawn:
            return None
        return await self._say(found, by, comment, withdrawn=True)

    async def notices(self) -> dict[str, Notice]:
        """Return what people were notified of and that is not over, by the fingerprint of its group."""
        rows = await self._client.hgetall(self._notices)
        return {key.decode(): msgspec.json.decode(row, type=Notice) for key, row in rows.items()}

    async def _said(self, fingerprint: str) -> Acknowledgement | None:
        """Return what was said of an alert and not yet heeded."""
        raw = await self._client.hget(self._acknowledgements, fingerprint)
        return None if raw is None else _acknowledgement(raw)

    async def _say(self, fingerprint: str, by: str, comment: str, *, withdrawn: bool = False) -> Acknowledgement:
        raw = {"fingerprint": fingerprint, "by": by, "at": time.time(), "comment": comment, "withdrawn": withdrawn}
        made = convert(raw, Acknowledgement, "acknowledgement")
        await self._client.hset(self._acknowledgements, fingerprint, msgspec.json.encode(made))
        await self._tick()
        return made

    async def rules(self) -> RulesGiven | None:
        """Return the rules that are to be in force, None if nobody gave any yet."""
        raw = await self._client.get(self._rules)
        return msgspec.json.decode(raw, type=RulesGiven) if raw else None

    async def give_rules(self, rules: RulesGiven) -> None:
        """Put rules in force, for all replicas of the alert manager; they must have been checked."""
        await self._client.set(self._rules, msgspec.json.encode(rules))
        await self._client.delete(self._refused)
        await self._tick()

    async def refused(self) -> RulesRefused | None:
        """Return the alerts.yaml that is refused at present."""
        raw = await self._client.get(self._refused)
        return msgspec.json.decode(raw, type=RulesRefused) if raw else None

    async def refuse_rules(self, refused: RulesRefused | None) -> None:
        """Say that an alerts.yaml is refused; None: that it is right again."""
        if refused is None:
            await self._client.delete(self._refused)
        else:
            await self._client.set(self._refused, msgspec.json.encode(refused))

    async def _tick(self) -> None:
        """Let the alert manager look at once: what a person did is to show within a moment."""
        fields = encode(TICK, encode_data(Tick(rfc3339(time.time()))), event_id=os.urandom(16).hex(), source="penstock")
        await self._client.execute_command("XADD", self._metrics, "*", *fields)


def _acknowledgement(raw: bytes) -> Acknowledgement:
    return msgspec.json.decode(raw, type=Acknowledgement)


def _only(beginning: str, fingerprints: Collection[str]) -> str | None:
    """Return the one fingerprint that begins so, None if none does."""
    found = [one for one in fingerprints if beginning and one.startswith(beginning)]
    if len(found) > 1:
        raise ConfigurationError(f"{beginning}: {len(found)} alerts have fingerprints that begin so; give more of it")
    return found[0] if found else None


def _notice_of(notices: Mapping[str, Notice], fingerprint: str | None) -> Notice | None:
    """Return what people were notified of an alert, or of a group."""
    return next((one for key, one in notices.items() if fingerprint in (key, *one.members)), None)


def _is_of(notice: Notice | None, since: str | None) -> bool:
    return since is None or (notice is not None and notice.alert.since == since)
