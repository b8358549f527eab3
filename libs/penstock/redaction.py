"""Redaction: what may be shown of addresses and headers, and of texts that others wrote about them.

Secrets are found by where they stand (a password, a query, an Authorization header) and taken out by value,
wherever the text has them: an endpoint that echoes one does not say what it is.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import parse_qsl, quote, unquote, urlsplit

HIDDEN = "***"
_SHORTEST = 6  # characters; taking shorter ones out would riddle every text, and they are no secrets
_SHORTEST_PART = 8  # of one that is part of another
_USER = re.compile(r"://[^/?#@:]*:")
_SAFE_QUERY = frozenset({"db", "protocol", "timeout", "socket_timeout", "ssl_cert_reqs", "ssl_check_hostname"})
_VALUE = re.compile(r'=\s*"?([^\s,;="]+)')  # of a cookie, or a parameter
_TELLING = re.compile(r"auth|token|key|secret|cookie|signature|password|session", re.IGNORECASE)


def hide_url(url: str) -> str:
    """Return an address without password and without what its query holds, also if it is malformed."""
    head, question, query = url.partition("?")
    shown = _hide_password(head)
    if not question:
        return shown
    if "@" in query:  # a password with a question mark
        place = query.rpartition("@")[2]
        return f"{url.partition('://')[0]}://{HIDDEN}@{place.partition('?')[0]}"
    return f"{shown}?{hide_query(query)}"


def _hide_password(head: str) -> str:
    # The last @ ends what may be a password: one that should have been percent-encoded has / # or @ in it.
    end = head.rfind("@")
    user = _USER.search(head, 0, max(0, end))
    return head if user is None else f"{head[: user.end()]}{HIDDEN}{head[end:]}"


def hide_query(query: str) -> str:
    """Return a query without what it holds."""
    return "&".join(map(_hide_parameter, query.split("&")))


def _hide_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    return parameter if name in _SAFE_QUERY or not value else f"{name}{equals}{HIDDEN}"


def url_secrets(url: str) -> set[str]:
    """Return every part of an address that may be secret, in every form: login, query, what in its path is no word."""
    try:
        parts = urlsplit(url)
        query, path = parts.query, parts.path
        named = [parts.username, parts.password, *(value for _, value in parse_qsl(query))]
    except ValueError:
        query = path = ""
        named = []
    userinfo = url.partition("://")[2].rpartition("@")[0]
    as_sent = [parameter.partition("=")[2] for parameter in query.split("&")]
    segments = [segment for segment in re.split(r"[/;]", path) if looks_secret(segment)]
    return _long_enough(forms([userinfo, unquote(userinfo), *userinfo.split(":"), *named, *as_sent, *segments]))


def header_secrets(headers: Mapping[str, str]) -> set[str]:
    """Return every part of headers that may be secret, in every form.

    That is, of those that authenticate the whole and each part, and of others what looks like a token.
    """
    found: list[str] = []
    for name, value in headers.items():
        if _TELLING.search(name):
            found += [value, *parts_of(value)]
        elif looks_secret(value):
            found.append(value)
    return _long_enough(forms(found))


def forms(secrets: Iterable[str | None]) -> tuple[str, ...]:
    """Return each secret in every form that may be echoed: as it is, and as addresses, JSON and HTML write it."""
    found: dict[str, None] = {}
    for secret in filter(None, secrets):
        raw = _bytes(secret)
        encoded = base64.b64encode(raw).decode()
        found.update(dict.fromkeys((secret, quote(raw, safe=""), unquote(secret), encoded, encoded.rstrip("="))))
        found.update(dict.fromkeys((json.dumps(secret, ensure_ascii=False)[1:-1], html.escape(secret))))
    return tuple(found)


def _bytes(secret: str) -> bytes:
    """Return the bytes that text came as: those of a header that are no UTF-8 stand in it as surrogates."""
    try:
        return secret.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # half a character, as JSON can write one
        return secret.encode(errors="replace")


def parts_of(value: str) -> Iterator[str]:
    """Yield the parts of a header that authenticates: what follows its scheme, a login, the values of cookies."""
    scheme, _, rest = value.partition(" ")
    if rest and scheme.isalpha():
        yield rest
        if scheme.lower() == "basic":
            yield from _of_basic(rest)
    else:
        rest = value
    yield from _VALUE.findall(rest)
    yield from (part for part in re.split(r"[\s,;=\"]+", rest) if len(part) >= _SHORTEST_PART and part != scheme)
    if ":" in value:
        yield value.rpartition(":")[2].strip()


def looks_secret(text: str) -> bool:
    """Whether a part of an address is more likely a token than a word."""
    mixed = bool(re.search(r"\d", text)) and bool(re.search(r"[A-Za-z]", text))
    return len(text) >= 16 or (mixed and len(text) >= 10)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Put *** in place of every secret."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _long_enough(secrets: Iterable[str]) -> set[str]:
    return {secret for secret in secrets if len(secret) >= _SHORTEST}


def _of_basic(encoded: str) -> Iterator[str]:
    try:
        login = base64.b64decode(encoded).decode()
    except (binascii.Error, UnicodeDecodeError):
        return
    yield login
    yield login.partition(":")[2]
