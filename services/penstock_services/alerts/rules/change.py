"""A change of the rules: what it is in words, and what of all that is remembered fits the new ones no longer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from penstock.matchers import Matcher
from penstock_services.alerts.rules.model import Rule, Rules, SeriesRule, alert_labels

_WHAT = ("series", "type", "field", "only")  # is measured: another one is another rule of the same name
_MEANING = ("window", "change")  # of what is remembered


class RuleChange(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to one rule: `rule` as it is now, or was last; `why` says it in words."""

    what: Literal["rule added", "rule changed", "rule removed"]
    rule: Rule
    why: str


def changes(old: Rules | None, new: Rules) -> Iterator[RuleChange]:
    """Yield what is different in `new`; nothing if it is not known what was before."""
    if old is None:
        return
    for name, rule in new.rules.items():
        before = old.rules.get(name)
        if before is None:
            yield RuleChange(what="rule added", rule=rule, why="it is new")
        elif before != rule:
            yield RuleChange(what="rule changed", rule=rule, why=_difference(before, rule))
    for name, rule in old.rules.items():
        if name not in new.rules:
            yield RuleChange(what="rule removed", rule=rule, why=f"the rule {name} is not in alerts.yaml any more")


def fits(old: Rule | None, new: Rule, labels: Mapping[str, str]) -> bool:
    """Return whether an alert with these labels, which `old` made, is certainly one that `new` would make.

    What cannot be told is no alert of the new rule: if it is wrong still, that is found at once.
    """
    if not set(labels) <= set(alert_labels(new)):
        return False
    if old is None:
        return all(matcher.matches(labels) for matcher in _where(new) if matcher.label in labels)
    if type(old) is not type(new) or _values(old, _WHAT) != _values(new, _WHAT):
        return False
    if set(alert_labels(old)) != set(alert_labels(new)):
        return False
    added = set(_where(new)).difference(_where(old))
    taken = set(_where(old)).difference(_where(new))
    return all(matcher.label in alert_labels(new) and matcher.matches(labels) for matcher in added) and all(
        matcher.label in alert_labels(new) for matcher in taken
    )


def memory_fits(old: Rule | None, new: Rule, labels: Mapping[str, str]) -> bool:
    """Return whether what is remembered under these labels means to `new` what it meant to `old`."""
    return isinstance(new, SeriesRule) and fits(old, new, labels) and _same_meaning(old, new)


def _same_meaning(old: Rule | None, new: Rule) -> bool:
    return old is None or _values(old, _MEANING) == _values(new, _MEANING)


def _where(rule: Rule) -> tuple[Matcher, ...]:
    found: tuple[Matcher, ...] = getattr(rule, "where", ())
    return found


def _values(rule: Rule, names: tuple[str, ...]) -> list[object]:
    return [getattr(rule, name, None) for name in names]


def _difference(old: Rule, new: Rule) -> str:
    """Return what was changed in words: `above: 30 -> 10`."""
    before, after = _written(old), _written(new)
    changed = [name for name in dict.fromkeys((*before, *after)) if before.get(name) != after.get(name)]
    return "; ".join(f"{name}: {before.get(name)} -> {after.get(name)}" for name in changed)


def _written(rule: Rule) -> dict[str, str]:
    fields = {field.encode_name: _word(getattr(rule, field.name)) for field in msgspec.structs.fields(rule)}
    return {"kind": str(rule.__struct_config__.tag), **fields}


def _word(value: Any) -> str:
    match value:
        case None:
            return "none"
        case float():
            return f"{value:g}"
        case tuple():
            return f"[{', '.join(map(_word, value))}]"
        case msgspec.Struct():
            return _word(msgspec.structs.asdict(value))
        case dict():
            return f"{{{', '.join(f'{name}: {_word(inner)}' for name, inner in value.items())}}}"
    return str(value)
