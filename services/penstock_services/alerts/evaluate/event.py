"""Event rules: an event that should not be, or too many within a time, and how that ends."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

import msgspec

from penstock.errors import InvalidEvent
from penstock.event import Event
from penstock.matchers import all_match
from penstock.mesh.alerts import AlertRecord
from penstock.times import duration
from penstock_services.alerts.evaluate.observation import fingerprint
from penstock_services.alerts.rules.model import EventRule, own_labels
from penstock_services.alerts.state.evaluation import Arrivals, Evaluation, Finding, Level, subject
from penstock_services.alerts.state.state import AlertState, of_rule

_KEEP = 600.0
_MOST_ALERTS = 500  # label sets of one rule; labels come from outside
_OTHERS = "(others)"
_MOST_TEXT = 300


def concerns(rule: EventRule, event_type: str) -> bool:
    """Return whether the rule looks at events of this type."""
    return fnmatch.fnmatchcase(event_type, rule.type) or _resolves(rule, event_type)


def evaluate(rule: EventRule, state: AlertState, event: Event, at: float) -> Finding | None:
    """Take one event that arrived at `at`; return what it says, None if nothing."""
    said = _said(event)
    if _resolves(rule, event.type):
        return _end(rule, state, event, said)
    if not all_match(rule.where, said):
        return None
    key, labels = _identify(rule, state, said)
    known = state.arrivals.get(key)
    times = tuple(time for time in (known.times if known else ()) if at - time < rule.within)
    times = (*times, at)[-rule.at_least :]
    state.arrivals.put(key, Arrivals(rule=rule.name, labels=labels, times=times))
    if len(times) < rule.at_least:
        return None
    reason = _reason(rule, event, said)
    evaluation = Evaluation(
        level="bad",
        reason=reason,
        value=float(len(times)),
        threshold=float(rule.at_least),
        exemplars=(event.trace.trace_id,),
    )
    return Finding(key, labels, evaluation)


def expired(rule: EventRule, state: AlertState, now: float) -> Iterator[Finding]:
    """Yield, for each alert of the rule, what the time that has passed says of it; forget what is old."""
    active = set()
    for key, record in of_rule(state.alerts, rule.name):
        labels = own_labels(rule, record.labels)
        known = state.arrivals.get(key)
        if record.state in ("pending", "firing") and known is not None and _lasts(rule, known, now):
            active.add(key)
            yield Finding(key, labels, _goes_on(record))
        else:
            yield Finding(key, labels, _over(rule, labels, known, now))
    for key, known in of_rule(state.arrivals, rule.name):
        record_of = state.alerts.get(key)
        settled = record_of is None or record_of.state not in ("pending", "firing")
        if key not in active and settled and now - known.times[-1] >= rule.within:
            state.arrivals.drop(key)


def standing(rule: EventRule, arrived: Arrivals, now: float) -> Evaluation:
    """Say how one label set stands: how many events there were lately, and when the last one came."""
    last = duration(max(0.0, now - arrived.times[-1]))
    lately = sum(1 for time in arrived.times if now - time < rule.within)
    within = duration(rule.within)
    reason = f"{lately} {rule.type} of {subject(arrived.labels)} within {within}, the last one {last} ago"
    level: Level = "bad" if len(arrived.times) >= rule.at_least and _lasts(rule, arrived, now) else "good"
    return Evaluation(level=level, reason=reason, value=float(lately), threshold=float(rule.at_least))


def _goes_on(record: AlertRecord) -> Evaluation:
    return Evaluation(
        level="between" if record.state == "firing" else "bad",
        reason=record.reason,
        value=record.value,
        threshold=record.threshold,
    )


def _over(rule: EventRule, labels: dict[str, str], known: Arrivals | None, now: float) -> Evaluation:
    """Return that no event has come for long enough: for as long as is known, since the last one."""
    what = f"no {rule.type} of {subject(labels)}"
    if known is None:
        return Evaluation(level="good", reason=f"{what} any more")
    last = known.times[-1]
    return Evaluation(level="good", reason=f"{what} for {duration(now - last)}", ceased=last)


def _keep(rule: EventRule) -> float:
    return _KEEP if rule.keep_firing is None else float(rule.keep_firing)


def _lasts(rule: EventRule, known: Arrivals, now: float) -> bool:
    """Return whether what has arrived still holds: until it is told to be over, or for some time."""
    until_told = rule.resolved_by is not None and rule.keep_firing is None
    until_told = until_told and _OTHERS not in known.labels.values()  # nothing tells the end of what is nameless
    return until_told or now - known.times[-1] < _keep(rule)


def _resolves(rule: EventRule, event_type: str) -> bool:
    return rule.resolved_by is not None and fnmatch.fnmatchcase(event_type, rule.resolved_by)


def _end(rule: EventRule, state: AlertState, event: Event, said: dict[str, str]) -> Finding | None:
    labels = {name: said[name] for name in rule.by if name in said}
    key = fingerprint(rule.name, labels)
    state.arrivals.drop(key)
    if state.alerts.get(key) is None:
        return None
    return Finding(key, labels, Evaluation(level="good", reason=f"{event.type} of {subject(labels)}"))


def _identify(rule: EventRule, state: AlertState, said: dict[str, str]) -> tuple[str, dict[str, str]]:
    labels = {name: said[name] for name in rule.by if name in said}
    key = fingerprint(rule.name, labels)
    if state.arrivals.get(key) is None and sum(1 for _ in of_rule(state.arrivals, rule.name)) >= _MOST_ALERTS:
        labels = dict.fromkeys(rule.by, _OTHERS)
        key = fingerprint(rule.name, labels)
    return key, labels


def _said(event: Event) -> dict[str, str]:
    """Return what an event says, as labels: its attributes, and what its data holds at the top level."""
    try:
        data = event.json()
    except InvalidEvent:
        data = None
    said = {name: _text(value) for name, value in data.items() if _plain(value)} if isinstance(data, dict) else {}
    attributes = {"type": event.type, "source": event.source, "tenant": event.tenant, "subject": event.subject}
    return {**said, **{name: value for name, value in attributes.items() if value is not None}}


def _plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool)


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _reason(rule: EventRule, event: Event, said: dict[str, str]) -> str:
    about = said.get("job_type") or event.subject
    words = event.type + (f" of {about}" if about else "")
    because = said.get("error") or said.get("reason")
    words += f": {because.strip().splitlines()[0][:_MOST_TEXT]}" if because and because.strip() else ""
    if rule.at_least == 1:
        return words
    return f"{rule.at_least} within {duration(rule.within)}, the last one {words}"
