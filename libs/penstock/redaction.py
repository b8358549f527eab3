"""Redaction: what may be shown of addresses and headers, and of texts that others wrote about them.

Secrets are found by where they stand (a password, a query, an Authorization header) and taken out by value,
wherever the text has them: an endpoint that echoes one does not say what it is.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

HIDDEN = "***"
_SHORTEST = 6  # characters; taking shorter ones out would riddle every text, and they are no secrets
_PASSWORD = re.compile(r"(?<=://)(?P<user>[^/?#@]*?):(?P<password>.*)(?=@)")
_SAFE_QUERY = frozenset({"db", "protocol", "timeout", "socket_timeout", "ssl_cert_reqs", "ssl_check_hostname"})
_TELLING = re.compile(r"auth|token|key|secret|cookie|signature|password|session", re.IGNORECASE)


def hide_url(url: str) -> str:
    """Return an address without password and without what its query holds, also if it is malformed."""
    head, question, query = url.partition("?")
    # The last @ ends what may be a password: one that should have been percent-encoded has / # or @ in it.
    shown = _PASSWORD.sub(rf"\g<user>:{HIDDEN}", head)
    if not question:
        return shown
    if "@" in query:  # a password with a question mark
        place = query.rpartition("@")[2]
        return f"{url.partition('://')[0]}://{HIDDEN}@{place.partition('?')[0]}"
    return f"{shown}?{hide_query(query)}"


def hide_query(query: str) -> str:
    """Return a query without what it holds."""
    return "&".join(map(_hide_parameter, query.split("&")))


def _hide_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    return parameter if name in _SAFE_QUERY or not value else f"{name}{equals}{HIDDEN}"


def url_secrets(url: str) -> set[str]:
    """Return every part of an address that may be secret: user and password, and each value of the query."""
    try:
        parts = urlsplit(url)
        named = [parts.username, parts.password, *(value for _, value in parse_qsl(parts.query))]
    except ValueError:
        named = []
    userinfo = url.partition("://")[2].rpartition("@")[0]
    found = {userinfo, *userinfo.split(":"), *(text for text in named if text)}
    return {form for text in found for form in (text, unquote(text)) if len(form) >= _SHORTEST}


def header_secrets(headers: Mapping[str, str]) -> set[str]:
    """Return every part of headers that may be secret: of those that authenticate, the whole and each word."""
    return {
        part
        for name, value in headers.items()
        if _TELLING.search(name)
        for part in _parts(value)
        if len(part) >= _SHORTEST
    }


def redact(text: str, secrets: Iterable[str]) -> str:
    """Put *** in place of every secret."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _parts(value: str) -> Iterator[str]:
    yield value
    scheme, _, credentials = value.partition(" ")
    if not credentials:
        return
    yield credentials
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(credentials.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return
        yield pair
        yield pair.partition(":")[2]
