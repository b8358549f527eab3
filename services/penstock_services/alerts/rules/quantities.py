"""Numbers as people write them in alerts.yaml, and as they read them in a reason."""

from __future__ import annotations

import math
from typing import Self

from penstock.config import Duration
from penstock.times import duration

_SECONDS = ("lag_age", "oldest_pending", "skew", "ids_ahead", "time_to_full", "spool_age")


class DurationOrZero(Duration):
    """A duration that may be none: 0."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a duration or 0.

        Raises:
            ValueError: it is neither.
        """
        return cls(0.0) if value in (0, "0", "0s") and value is not False else cls(Duration.parse(value))


class Number(float):
    """A number, a percentage such as `5%`, or a duration such as `30s` (in seconds)."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a number.

        Raises:
            ValueError: it is none of the three.
        """
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return cls(value)
        if isinstance(value, str):
            if value.endswith("%"):
                return cls(_decimal(value[:-1]) / 100)
            return cls(Duration.parse(value))
        raise ValueError(f"expected a number, a percentage such as 5% or a duration such as 30s, got {value!r}")


class Share(Number):
    """A share of a whole: above 0 and below 1."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a share.

        Raises:
            ValueError: it is no number, or 0 or less, or 1 or more.
        """
        share = super().parse(value)
        if not 0 < share < 1:
            raise ValueError(f"expected a share between 0 and 1, such as 0.05 or 5%, got {value!r}")
        return share


def unit_of(series: str, field: str) -> str:
    """Return what a field of a series counts in: `s`, `share`, or nothing in particular."""
    if field.startswith(("duration.", "queue_wait.")) or (field == "value" and series in _SECONDS):
        return "s"
    return "share" if field == "error_rate" or series == "memory_share" else ""


def in_words(value: float | None, unit: str = "") -> str:
    """Write a number for people: `45 s`, `3 min`, `12 %`, `1,204`."""
    if value is None:
        return "nothing"
    if unit == "share":
        return f"{_short(value * 100)} %"
    if unit == "s":
        return duration(value)
    return _short(value)


def _short(value: float) -> str:
    if abs(value) >= 999.5:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _decimal(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"expected a percentage such as 5%, got {text + '%'!r}")
    return value
