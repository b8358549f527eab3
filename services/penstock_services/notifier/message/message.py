"""An alert as a message, before any channel gives it its form: plain text in parts, nothing escaped yet."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

from penstock.schemas import Alert
from penstock.times import duration, rfc3339, seconds_of
from penstock_services.notifier.config.routing import CHANNEL_RULE, DIGEST_RULE
from penstock_services.notifier.message.text import cut, lines, one_line

_MOST_LABELS = 12
_MOST_TRACES = 5
_MOST_VALUE = 200
_MOST_TITLE = 600
_SEVERITIES = {  # emoji, colour
    "info": ("🔵", 0x2E90FA),
    "warning": ("🟠", 0xF79009),
    "critical": ("🔴", 0xD92D20),
}
_RESOLVED = ("✅", 0x12B76A)


class Fact(msgspec.Struct, frozen=True):
    """A name and what it is, short enough to stand beside another."""

    name: str
    value: str


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What to say. Every text is plain: channels escape it, and cut it to their limits.

    `notices` are about the message itself: why it is here and what it stands for. `runbook` is a URL with
    scheme http or https, or None. `time` is RFC 3339; `colour` is 0xRRGGBB.
    """

    title: str
    text: str
    facts: tuple[Fact, ...] = ()
    labels: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    runbook: str | None = None
    footer: str
    time: str
    colour: int
    resolved: bool

    def body(self, title_limit: int) -> str:
        """Return the text, headed by more of the title where only `title_limit` of it can be shown above."""
        return f"{cut(self.title, _MOST_TITLE)}\n\n{self.text}" if len(self.title) > title_limit else self.text

    @property
    def plain(self) -> str:
        """All of it but the title, in lines."""
        said = [self.text, "", *(f"{fact.name}: {fact.value}" for fact in self.facts)]
        for name, items in (("Labels", self.labels), ("Traces", self.traces)):
            if items:
                said.append(f"{name}: {', '.join(items)}")
        said += [f"Runbook: {self.runbook}"] if self.runbook else []
        return "\n".join([*said, *(["", *self.notices] if self.notices else [])])


class Remarks(msgspec.Struct, frozen=True, kw_only=True):
    """What a message says beside its alert: earlier changes it stands for, and the channel it replaces.

    `unrecorded`: an earlier message about it has arrived, or may have, and there is no record of that any more.
    """

    superseded: tuple[str, ...] = ()
    instead_of: str | None = None
    why: str | None = None
    escalated: str | None = None
    test: bool = False
    unrecorded: bool = False


def compose(
    alert: Alert, remarks: Remarks, *, now: float, title: str | None = None, text: str | None = None
) -> Message:
    """Make the message of an alert at `now` (seconds since the epoch); `title` and `text` replace the usual ones."""
    resolved = alert.status == "resolved"
    emoji, colour = _RESOLVED if resolved else _SEVERITIES[alert.severity]
    return Message(
        title=one_line(title if title is not None else f"{emoji} {label(alert)}: {alert.summary}"),
        text=lines(text) if text is not None else _reason(alert),
        facts=tuple(_facts(alert, now)),
        labels=_labels(alert.labels),
        traces=_some(alert.exemplars, _MOST_TRACES),
        notices=tuple(_notices(alert, remarks)),
        runbook=web_address(alert.runbook),
        footer=f"Penstock · {one_line(alert.rule)}",
        time=alert.resolved_at or alert.since,
        colour=colour,
        resolved=resolved,
    )


def _reason(alert: Alert) -> str:
    """Return the reason: on one line, since what events are called stands in it, unless it is of our own making."""
    return lines(alert.reason) if alert.rule in (CHANNEL_RULE, DIGEST_RULE) else one_line(alert.reason)


def label(alert: Alert) -> str:
    """Return the word that leads the title: RESOLVED, ACKNOWLEDGED, or the severity."""
    if alert.status == "resolved":
        return "RESOLVED"
    return "ACKNOWLEDGED" if alert.acknowledged_by else alert.severity.upper()


def emoji(alert: Alert) -> str:
    """Return the sign that leads the title."""
    return _RESOLVED[0] if alert.status == "resolved" else _SEVERITIES[alert.severity][0]


def lasted(alert: Alert) -> str | None:
    """Return how long a resolved alert fired, as far as its times can be read."""
    began, ended = moment(alert.since), moment(alert.resolved_at)
    return None if began is None or ended is None else duration(max(0, round(ended - began)))


def moment(text: str | None) -> float | None:
    """Read an RFC 3339 time, in seconds since the epoch; None if it is none."""
    try:
        return seconds_of(text or "")
    except ValueError:
        return None


def web_address(text: str | None) -> str | None:
    """Return the text if it is an address that a browser opens and nothing worse, else None."""
    if not text or one_line(text) != text or " " in text:
        return None
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    return text if parts.scheme in ("http", "https") and parts.hostname else None


def number(value: float) -> str:
    """Write a measured value for people: four significant digits, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def _facts(alert: Alert, now: float) -> list[Fact]:
    facts = []
    if alert.value is not None:
        limit = "" if alert.threshold is None else f" (threshold {number(alert.threshold)})"
        facts.append(Fact("Value", number(alert.value) + limit))
    facts += _times(alert, now)
    if alert.acknowledged_by:
        at = f", {when(alert.acknowledged_at)}" if alert.acknowledged_at else ""
        facts.append(Fact("Acknowledged by", cut(one_line(alert.acknowledged_by), _MOST_VALUE) + at))
    if alert.status == "resolved" or alert.acknowledged_by:
        facts.append(Fact("Severity", alert.severity))
    facts.append(Fact("Rule", cut(one_line(alert.rule), _MOST_VALUE)))
    if alert.runbook and web_address(alert.runbook) is None:
        facts.append(Fact("Runbook", cut(one_line(alert.runbook), _MOST_VALUE)))
    return facts


def _times(alert: Alert, now: float) -> list[Fact]:
    began = moment(alert.since)
    age = 0 if began is None else round(now - began)
    if alert.status == "firing":
        return [Fact("Since", when(alert.since) + (f" ({duration(age)} ago)" if age >= 1 else ""))]
    facts = [Fact("Since", when(alert.since))]
    if alert.resolved_at:
        took = lasted(alert)
        facts.append(Fact("Resolved", when(alert.resolved_at) + (f" (after {took})" if took else "")))
    return facts


def when(timestamp: str) -> str:
    """Write an RFC 3339 time for people; what is none stays as it is."""
    found = moment(timestamp)
    return cut(one_line(timestamp), _MOST_VALUE) if found is None else f"{rfc3339(found)[:19].replace('T', ' ')} UTC"


def _labels(labels: dict[str, str]) -> tuple[str, ...]:
    return _some([f"{name}={value}" for name, value in sorted(labels.items())], _MOST_LABELS)


def _some(items: list[str], most: int) -> tuple[str, ...]:
    """Return the first few items, each on one line and not too long, and how many more there are."""
    shown = tuple(cut(one_line(item), _MOST_VALUE) for item in items[:most])
    return (*shown, f"and {len(items) - most} more") if len(items) > most else shown


def _notices(alert: Alert, remarks: Remarks) -> list[str]:
    notices = []
    if remarks.test:
        notices.append("This is a test: nothing is wrong.")
    if alert.unacknowledged_by:
        who = cut(one_line(alert.unacknowledged_by), _MOST_VALUE)
        notices.append(f"Nobody is on it any more: {who} has taken the acknowledgement back.")
    if remarks.escalated:
        notices.append(remarks.escalated)
    if remarks.instead_of:
        why = f": {remarks.why}" if remarks.why else ""
        notices.append(cut(one_line(f"Sent here because channel {remarks.instead_of} failed{why}"), 500))
    if remarks.unrecorded:
        notices.append("There is no record here of an earlier message about it; if there is one, it stays as it is.")
    if alert.flapping:
        notices.append("It comes and goes so often that it counts as one alert until it has been calm (flapping).")
    if remarks.superseded:
        changes = ", ".join(_some(list(remarks.superseded), 5))
        notices.append(f"Stands also for earlier changes that could not be delivered here: {changes}")
    return notices
