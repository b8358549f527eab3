"""What is secret in a channel's settings, in every form in which the other side may repeat it.

A credential is taken apart: whoever answers `token SECRET is not valid` repeats a part of a header. Words that are
no secret (hosts, `webhooks` in a path, `Bearer`) are not among the parts: they would riddle every text with stars.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

from penstock.redaction import forms, looks_secret, parts_of

_TELLING = re.compile(r"auth|token|key|secret|cookie|passw|pwd|sign|credential|^code$|^sig$", re.IGNORECASE)
_WEB = ("http", "https")


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
            found += [value, *parts_of(value)]
        elif looks_secret(value):
            found.append(value)
    return forms(found)


def login_secrets(username: str | None, password: str | None) -> tuple[str, ...]:
    """Return what is secret of a login, also as HTTP Basic and SMTP PLAIN write it."""
    if not password:
        return ()
    return forms((password, f"{username}:{password}", f"\0{username}\0{password}"))
