"""Matchers: `label=value` and `label!=value`, with * ? and [...] in the value, as shells know them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Self

_FORM = re.compile(r"([A-Za-z_][\w.\-]*)\s*(!?=|!(?=~))\s*(.+)", re.DOTALL)


class Matcher(str):
    """One condition on a set of labels, as it is written.

    `=` asks that the label is there; `!=` holds for a label that is absent too.
    """

    __slots__ = ("label", "negated", "pattern")
    label: str
    pattern: str
    negated: bool

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read a matcher.

        Raises:
            ValueError: it has not one of the two forms, or its pattern is of another language and would never match.
        """
        found = _FORM.fullmatch(text.strip()) if isinstance(text, str) else None
        if found is None:
            raise ValueError(f"expected a matcher such as stream=ingest or type!=test.*, got {text!r}")
        label, operator, pattern = found.groups()
        if pattern.startswith("~"):  # `!~` is Prometheus' for `!=~`
            plain = f"{label}{operator.rstrip('=')}={_as_glob(pattern[1:].strip())}"
            raise ValueError(
                f"{text!r}: regular expressions are not understood; write {plain}, "
                "with * ? and [...] as shells know them"
            )
        if pattern.startswith("="):
            raise ValueError(f"{text!r}: write one =, as in {label}{operator}{pattern.lstrip('= ')}")
        if len(pattern) > 1 and pattern[0] == pattern[-1] and pattern[0] in "\"'":
            raise ValueError(f"{text!r}: quotes would be part of the value; write {label}{operator}{pattern[1:-1]}")
        if _open_bracket(pattern):
            raise ValueError(f"{text!r}: a [ without its ] never matches; a bracket itself is written [[]")
        matcher = cls(f"{label}{operator}{pattern}")
        matcher.label, matcher.pattern, matcher.negated = label, pattern, operator == "!="
        return matcher

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether `labels` meet the condition."""
        value = labels.get(self.label)
        return (value is not None and fnmatch.fnmatchcase(value, self.pattern)) != self.negated


def impossible(matchers: Iterable[Matcher], values: Mapping[str, Iterable[str]]) -> str | None:
    """Return why no labels can meet all the conditions, None if some can; `values` are all that a label may have."""
    given = list(matchers)
    for matcher in given:
        label = matcher.label
        about_it = [one for one in given if one.label == label]
        if label in values:
            known = list(values[label])
            if not any(all_match(about_it, {label: value}) for value in known):
                return f"{matcher} never matches; {label} is one of {', '.join(known)}"
        elif not matcher.negated and not set(matcher.pattern) & set("*?["):
            for other in about_it:
                if not other.matches({label: matcher.pattern}):
                    hint = "" if other.negated else "; a pattern has room for both"
                    return f"{matcher} and {other} cannot hold together{hint}"
    return None


def _as_glob(pattern: str) -> str:
    return pattern.replace(".*", "*").replace(".+", "?*").strip("^$") or "*"


def _open_bracket(pattern: str) -> bool:
    """Whether there is a [ that begins no set: fnmatch would take it for itself."""
    at = pattern.find("[")
    while at >= 0:
        start = at + 1 + (pattern[at + 1 : at + 2] == "!")
        end = pattern.find("]", start + 1)  # a ] that comes first stands for itself
        if end < 0:
            return True
        at = pattern.find("[", end + 1)
    return False


def all_match(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Return whether `labels` meet every condition; no condition is always met."""
    return all(matcher.matches(labels) for matcher in matchers)
