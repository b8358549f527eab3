"""Text that fits: cut where a reader would cut it, on one line where it must be, without secrets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_ELLIPSIS, _JOINER = "…", "\u200d"
_MOST_ANSWER = 300
# Controls of both ranges, separators that some readers break lines at, marks that turn text around, lone surrogates.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
_SHORTEST_SECRET = 4  # redacting shorter ones would riddle every text with stars


def utf16_units(text: str) -> int:
    """Return the length of a text as Telegram counts it: characters beyond U+FFFF are two."""
    return len(text) + sum(character > "\uffff" for character in text)


def cut(text: str, limit: int, *, measure: Callable[[str], int] = len) -> str:
    """Return `text`, cut to `limit` with an ellipsis where it is longer: between words if one ends near.

    `measure` counts a text the way the receiver does; it must grow with each character.
    """
    if measure(text) <= limit:
        return text
    room = limit - measure(_ELLIPSIS)
    kept = text[: max(0, room)]  # no character measures less than 1
    while kept and measure(kept) > room:
        kept = kept[: len(kept) - max(1, (measure(kept) - room) // 2)]
    while kept and (_joins(text[len(kept)]) or kept[-1] == _JOINER):  # a letter keeps its accent, an emoji its parts
        kept = kept[:-1]
    words = kept.rsplit(maxsplit=1)
    if len(words) == 2 and len(words[1]) < len(kept) // 5 and not text[len(kept)].isspace():
        kept = kept[: len(kept) - len(words[1])]
    return kept.rstrip() + _ELLIPSIS if limit > 0 else ""


def one_line(text: str) -> str:
    """Collapse white space, line breaks included, and drop what is no character: what a title or header may hold."""
    return _UNPRINTABLE.sub("", " ".join(text.split()))


def lines(text: str) -> str:
    """Return a text of several lines with nothing in it but lines: no control characters, no other line breaks."""
    return "\n".join(one_line(line) for line in re.split(r"\r\n|\n", text))


def redact(text: str, secrets: Iterable[str]) -> str:
    """Put *** in place of every secret."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text


def excerpt(text: str, secrets: Iterable[str]) -> str:
    """Return what the other side said as it may go on record: without secrets, on one line, cut."""
    return cut(one_line(redact(text, secrets)), _MOST_ANSWER)


def _joins(character: str) -> bool:
    """Whether a character belongs to the one before it: combining marks, joiners, skin tones, variation selectors."""
    return bool(re.match("[\u0300-\u036f\u200d\ufe00-\ufe0f\u20d0-\u20ff\U0001f3fb-\U0001f3ff]", character))
