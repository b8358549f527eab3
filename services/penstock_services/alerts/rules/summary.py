"""Summaries: a sentence with {placeholders}, filled in without any code in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

ALWAYS = ("rule", "severity", "value", "threshold", "reason")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_MOST_VALUES = 3


def placeholders(template: str) -> set[str]:
    """Return the names in braces.

    Raises:
        ValueError: a brace has no partner.
    """
    if re.search(r"[{}]", _PLACEHOLDER.sub("", template)):
        raise ValueError("a brace has no partner; write placeholders as {name}")
    return set(_PLACEHOLDER.findall(template))


def render(template: str, values: Mapping[str, str], labels: Sequence[Mapping[str, str]]) -> str:
    """Fill in `values`, and the labels of one alert or of several that are told as one."""

    def fill(found: re.Match[str]) -> str:
        name = found[1]
        return values[name] if name in values else _joined([own[name] for own in labels if name in own])

    return _PLACEHOLDER.sub(fill, template)


def _joined(values: list[str]) -> str:
    distinct = list(dict.fromkeys(values))
    if len(distinct) <= _MOST_VALUES:
        return ", ".join(distinct) or "-"
    return f"{', '.join(distinct[:_MOST_VALUES])} and {len(distinct) - _MOST_VALUES} more"
