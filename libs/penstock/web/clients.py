"""Clients: the callers that streams.yaml declares, known by secrets of which only hashes are kept."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from penstock.config import read_secret
from penstock.errors import ConfigurationError
from penstock.settings import Settings
from penstock.topology import ClientSpec, Topology
from penstock.web.problems import Problem

SHORTEST: Final = 24  # characters: what is made at random with so many cannot be guessed, so that one hash is enough
_HASHED = re.compile(r"sha256:[0-9a-f]{64}")
_log = structlog.get_logger("penstock.access")


class Caller:
    """Who sent a request. Without a name it is whoever reaches an open address, or nobody."""

    def __init__(
        self,
        name: str,
        *,
        scopes: frozenset[str] = frozenset(),
        spec: ClientSpec | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.scopes = scopes
        self._spec = spec
        self._clock = clock
        self._left = spec.rate if spec and spec.rate else math.inf
        self._at = clock()

    @property
    def tenant(self) -> str | None:
        """The tenant it is bound to."""
        return self._spec.tenant if self._spec else None

    @property
    def max_body(self) -> int | None:
        """The largest body it may send, in bytes, if it has a limit of its own."""
        return self._spec.max_body if self._spec else None

    @property
    def source(self) -> str:
        """What the events that it sends have as their source."""
        return f"client/{self.name}" if self.name else "gateway"

    def check_publishing(self, stream: str, event_type: str) -> None:
        """Refuse a stream or type that it may not publish.

        Raises:
            Problem: 403.
        """
        if self._spec is None:
            return
        if stream not in self._spec.streams:
            raise Problem(403, f"client {self.name} may not publish to {stream}; streams.yaml says where to")
        if not any(fnmatch.fnmatchcase(event_type, pattern) for pattern in self._spec.types):
            raise Problem(403, f"client {self.name} may not publish {event_type!r}; streams.yaml says which types")

    def spend(self, count: int) -> None:
        """Count requests or events against its rate; a whole second's worth may come at once.

        Raises:
            Problem: 429, with what is allowed.
        """
        rate = self._spec.rate if self._spec else None
        if rate is None:
            return
        now = self._clock()
        self._left = min(rate, self._left + (now - self._at) * rate)
        self._at = now
        if self._left < min(count, rate):
            wait = math.ceil((min(count, rate) - self._left) / rate)
            detail = f"client {self.name} may send {rate:g} events a second at this process"
            raise Problem(429, detail, headers={"Retry-After": str(max(1, wait))})
        self._left -= count


class Clients:
    """Finds a caller by what a request presents."""

    def __init__(self, callers: Mapping[bytes, Caller], *, declared: bool) -> None:
        self._callers = callers
        self._named = {caller.name: caller for caller in callers.values()}
        self.declared = declared

    @classmethod
    def of(cls, topology: Topology, settings: Settings) -> Clients:
        """Return the clients of streams.yaml, and the one that only scrapes (PENSTOCK_SCRAPE_SECRET).

        Raises:
            ConfigurationError: a secret cannot be used, or two clients share one.
        """
        callers: dict[bytes, Caller] = {}
        for name, spec in topology.clients.items():
            caller = Caller(name, scopes=frozenset(spec.scopes), spec=spec)
            digests = _digests(name, spec)
            if not digests:
                _log.warning(f"nobody can be this client here: {spec.secret} is not set", client=name)
            for digest in digests:
                if callers.setdefault(digest, caller) is not caller:
                    other = callers[digest].name
                    raise ConfigurationError(f"streams.yaml: clients.{name}: has a secret of {other}; give it another")
        scraper = Caller("prometheus", scopes=frozenset({"scrape"}))
        for secret in (settings.scrape_secret or "").split():
            callers.setdefault(_digest("PENSTOCK_SCRAPE_SECRET", secret), scraper)
        return cls(callers, declared=bool(topology.clients))

    def find(self, authorization: str | None) -> Caller | None:
        """Return who presents this, None for a request that presents nothing, or anything where there are no clients.

        Raises:
            Problem: 401 it is no client's secret.
        """
        if authorization is None:
            return None
        kind, _, value = authorization.strip().partition(" ")
        secret = value.strip() if kind.lower() == "bearer" else _password(value) if kind.lower() == "basic" else ""
        # Looked up by hash: how long that takes says nothing of any secret.
        caller = self._callers.get(hashlib.sha256(secret.encode(errors="surrogateescape")).digest())
        if caller is None and self.declared:
            # A browser asks its user again for what it was told to be wrong.
            again = (
                'Basic realm="penstock"'
                if kind.lower() == "basic"
                else 'Bearer realm="penstock", error="invalid_token"'
            )
            raise Problem(401, "this is no client's secret", headers={"WWW-Authenticate": again})
        return caller

    def named(self, name: str) -> Caller | None:
        """Return the client of a name, None if nobody can be that one here."""
        return self._named.get(name)


def _password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded.strip(), validate=True).partition(b":")[2].decode(errors="surrogateescape")
    except (binascii.Error, ValueError):
        return ""


def _digests(name: str, spec: ClientSpec) -> list[bytes]:
    digests = [bytes.fromhex(text.removeprefix("sha256:")) for text in spec.sha256]
    if spec.secret is not None:
        digests += [_digest(spec.secret, secret) for secret in (read_secret(spec.secret) or "").split()]
    if not digests and spec.secret is None:
        raise ConfigurationError(
            f"streams.yaml: clients.{name}: has neither `secret` (the variable that holds it) nor `sha256`; add one"
        )
    return digests


def _digest(variable: str, secret: str) -> bytes:
    """Return the hash of a secret, which may be given as its hash already."""
    if _HASHED.fullmatch(secret):
        return bytes.fromhex(secret.removeprefix("sha256:"))
    if len(secret) < SHORTEST:
        raise ConfigurationError(
            f"{variable}: a secret has at least {SHORTEST} characters made at random; `penstock secret` makes one"
        )
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()
