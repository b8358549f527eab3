"""Matchers: `label=value` and `label!=value`, with * ? and [...] in the value, as shells know them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Self

_FORM = re.compile(r"([A-Za-z_][\w.\-]*)\s*(!?=)\s*(.+)", re.DOTALL)


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
            ValueError: it has not one of the two forms.
        """
        found = _FORM.fullmatch(text.strip()) if isinstance(text, str) else None
        if found is None:
            raise ValueError(f"expected a matcher such as stream=ingest or type!=test.*, got {text!r}")
        label, operator, pattern = found.groups()
        matcher = cls(f"{label}{operator}{pattern}")
        matcher.label, matcher.pattern, matcher.negated = label, pattern, operator == "!="
        return matcher

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether `labels` meet the condition."""
        value = labels.get(self.label)
        return (value is not None and fnmatch.fnmatchcase(value, self.pattern)) != self.negated


def all_match(matchers: Iterable[Matcher], labels: Mapping[str, str]) -> bool:
    """Return whether `labels` meet every condition; no condition is always met."""
    return all(matcher.matches(labels) for matcher in matchers)
