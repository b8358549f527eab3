"""Suppression: alerts that fire, and of which nobody is to be notified for now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

from penstock.matchers import Matcher, all_match
from penstock.mesh.alerts import AlertRecord, Silence
from penstock.times import rfc3339
from penstock_services.alerts.rules.model import Inhibition


def suppressed(
    firing: Sequence[AlertRecord], silences: Iterable[Silence], inhibitions: Iterable[Inhibition], now: float
) -> dict[str, str]:
    """Return, by fingerprint, why nobody is notified of an alert: it is silenced, or another one says it all."""
    why = _inhibited(firing, inhibitions)
    for silence, matchers in _active(silences, now):
        reason = f"silenced until {rfc3339(silence.until)} by {silence.author}: {silence.comment or silence.id}"
        why |= {record.fingerprint: reason for record in firing if all_match(matchers, _matchable(record))}
    return why


def _active(silences: Iterable[Silence], now: float) -> Iterator[tuple[Silence, list[Matcher]]]:
    for silence in silences:
        if silence.until > now:
            with contextlib.suppress(ValueError):  # written by another version, which took it for a matcher
                yield silence, silence.parsed()


def _inhibited(firing: Sequence[AlertRecord], inhibitions: Iterable[Inhibition]) -> dict[str, str]:
    why: dict[str, str] = {}
    for inhibition in inhibitions:
        sources: dict[tuple[str, ...], list[AlertRecord]] = {}
        for record in firing:
            common = _common(record, inhibition)
            if common is not None and all_match(inhibition.source, _matchable(record)):
                sources.setdefault(common, []).append(record)
        for record in firing:
            common = _common(record, inhibition)
            if common is None or not all_match(inhibition.target, _matchable(record)):
                continue
            others = [one.rule for one in sources.get(common, ()) if one.fingerprint != record.fingerprint]
            if others:
                why[record.fingerprint] = f"{others[0]} fires, which says it all"
    return why


def _common(record: AlertRecord, inhibition: Inhibition) -> tuple[str, ...] | None:
    """Return the values both sides must have; None if a label is absent: absent on both sides is not equal."""
    labels = _matchable(record)
    if any(name not in labels for name in inhibition.equal):
        return None
    return tuple(labels[name] for name in inhibition.equal)


def _matchable(record: AlertRecord) -> dict[str, str]:
    return {**record.labels, "rule": record.rule, "severity": record.severity}
