"""Text of whatever others made: what no log, span or entry could hold is replaced, and nothing raises."""

from __future__ import annotations


def writable(text: str) -> str:
    """Return the text itself, or one with what UTF-8 cannot hold (lone surrogates) replaced."""
    if text.isascii():
        return text
    replaced = text.encode(errors="replace").decode()
    return text if replaced == text else replaced


def written_out(text: str) -> str:
    """Return the text with what could steer a terminal, or turn its text around, written out; lines stay lines."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode() for one in text)


def shown(value: object) -> str:
    """Return the repr of a value, or the name of its class if that has none."""
    try:
        return writable(repr(value))
    except Exception:  # noqa: BLE001 - whatever a class of somebody else's does
        return f"<{type(value).__name__}>"


def number(text: str, otherwise: int = 0) -> int:
    """Return the whole of a count or a time in ms that others wrote, `otherwise` for what is none."""
    whole = text.partition(".")[0]
    return int(whole) if whole.isascii() and whole.isdecimal() and len(whole) <= 20 else otherwise


def described(error: BaseException, *, most: int) -> str:
    """Return the class of an error and what it says, in `most` characters."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - as for `shown`
        said = "(it cannot be said)"
    return writable(f"{type(error).__name__}: {said}"[:most])
