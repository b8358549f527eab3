"""What is secret in a channel's settings, in every form in which the other side may repeat it.

A credential is taken apart: whoever answers `token SECRET is not valid` repeats a part of a header. Words that are
no secret (hosts, `webhooks` in a path, `Bearer`) are not among the parts: they would riddle every text with stars.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from urllib.parse import parse_qsl, quote, unquote, urlsplit

_TELLING = re.compile(r"auth|token|key|secret|cookie|passw|pwd|sign|credential|^code$|^sig$", re.IGNORECASE)
_WEB = ("http", "https")


def forms(secrets: Iterable[str | None]) -> tuple[str, ...]:
    """Return each secret as it is, percent-encoded, and in base64."""
    found: dict[str, None] = {}
    for secret in filter(None, secrets):
        encoded = base64.b64encode(secret.encode(errors="replace")).decode()
        found.update(dict.fromkeys((secret, quote(secret, safe=""), unquote(secret), encoded, encoded.rstrip("="))))
    return tuple(found)


def url_secrets(url: str) -> tuple[str, ...]:
    """Return what is secret in a URL: itself, its password, and what in path and query looks like a token."""
    try:
        parts = urlsplit(url)
        password, host = parts.password, parts.hostname or ""
    except ValueError:
        return forms((url,))
    named = [value for name, value in parse_qsl(parts.query) if _TELLING.search(name) or looks_secret(value)]
    segments = [part for part in re.split(r"[/;]", parts.path) if looks_secret(part)]
    if parts.scheme not in _WEB and looks_secret(host):  # apprise puts tokens there
        segments.append(parts.netloc.rpartition("@")[2])
    login = [f"{parts.username}:{password}"] if parts.username and password else []
    return forms((url, parts.path if segments else None, password, *login, *segments, *named))


def header_secrets(headers: dict[str, str]) -> tuple[str, ...]:
    """Return what is secret in headers: the values of those that authenticate, whole and in parts."""
    found: list[str] = []
    for name, value in headers.items():
        if _TELLING.search(name):
            found += [value, *_parts(value)]
        elif looks_secret(value):
            found.append(value)
    return forms(found)


def login_secrets(username: str | None, password: str | None) -> tuple[str, ...]:
    """Return what is secret of a login, also as HTTP Basic and SMTP PLAIN write it."""
    if not password:
        return ()
    return forms((password, f"{username}:{password}", f"\0{username}\0{password}"))


def looks_secret(text: str) -> bool:
    """Whether a part of an address is more likely a token than a word."""
    mixed = bool(re.search(r"\d", text)) and bool(re.search(r"[A-Za-z]", text))
    return len(text) >= 16 or (mixed and len(text) >= 10)


def _parts(value: str) -> Iterator[str]:
    scheme, _, rest = value.partition(" ")
    if rest and scheme.isalpha():
        yield rest
        if scheme.lower() == "basic":
            yield from _of_basic(rest)
    yield from (part for part in re.split(r"[\s,;=\"]+", rest or value) if len(part) >= 8 and part != scheme)
    if ":" in value:
        yield value.rpartition(":")[2].strip()


def _of_basic(encoded: str) -> Iterator[str]:
    try:
        login = base64.b64decode(encoded).decode()
    except (binascii.Error, UnicodeDecodeError):
        return
    yield login
    yield login.partition(":")[2]
