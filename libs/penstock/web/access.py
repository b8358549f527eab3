"""Access: who sent a request, and what they may do.

Three things are decided for every request of every service, in this order:

1. A browser must not act for a page of somebody else: what another site sends is refused (`Sec-Fetch-Site`,
   `Origin`), and where the service takes callers by where they are, `Host` must be a name of this machine, so that
   no foreign name can be pointed at it (DNS rebinding).
2. Who it is: a client of streams.yaml by its secret; else, while there are no clients, whoever reaches a loopback
   address; else nobody.
3. Whether they have the scope of the route.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from penstock.web.clients import Caller, Clients
from penstock.web.problems import Problem
from penstock.web.scopes import SCOPES, Scope, include

EVERYBODY = Caller("", scopes=frozenset(SCOPES))
"""Whoever reaches an open address."""
NOBODY = Caller("")
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
_HOST = re.compile(r"\[([^\[\]]+)\](?::\d*)?|([^:]*)(?::\d*)?")
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="penstock", Basic realm="penstock"'}


class AccessPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How one port takes callers.

    `loopback`: it listens on this machine only. `opened`: an operator has said that everybody may do everything.
    `names` are further values of Host, such as those a proxy passes on.
    """

    loopback: bool
    opened: bool = False
    names: frozenset[str] = frozenset()


class Access:
    """Decides for one port."""

    def __init__(self, clients: Clients, policy: AccessPolicy) -> None:
        self._clients = clients
        self._policy = policy
        self._local_names = _local_names()

    def check_origin(self, request: web.BaseRequest, *, navigable: bool) -> None:
        """Refuse what a page of another site sends, and names that are not this machine's.

        A link from elsewhere may open a `navigable` page: it holds nothing that its address does not say.

        Raises:
            Problem: 403, 421.
        """
        headers = request.headers
        host = headers.get("Host", "")
        site = headers.get("Sec-Fetch-Site", "none")
        followed = headers.get("Sec-Fetch-Mode") == "navigate" and request.method in ("GET", "HEAD")
        if site not in ("none", "same-origin") and not (navigable and followed):
            raise Problem(403, "this comes from a page of another site, which may not speak for whoever reads it")
        origin = headers.get("Origin")
        if origin is not None and _authority(origin) != host.lower():
            raise Problem(403, "this comes from a page of another origin, which may not speak for whoever reads it")
        if (self._policy.loopback or self._policy.names) and not self._is_known(host):
            raise Problem(
                421, f"{host!r} is no name of this service; PENSTOCK_HOSTS names those under which it may be asked"
            )

    def admit(self, request: web.BaseRequest, scope: Scope, *, own_tenant: bool, holder: str | None = None) -> Caller:
        """Return who sent a request; `own_tenant`: the route itself keeps callers to their tenant.

        `holder` is whom a ticket stands for that it came with; '' is a caller without a name.

        Where nobody is asked who they are, what a request says of it is not for us: a webhook has its secret there.

        Raises:
            Problem: 401 nobody knows them, 403 they lack the scope, 429 they ask too often.
        """
        if scope == "public":
            return NOBODY
        caller = self._of_ticket(holder) if holder else self._caller(request)
        if not include(caller.scopes, scope):
            if not caller.name:
                raise Problem(401, self._how_to_enter(scope), headers=_CHALLENGE)
            raise Problem(403, f"client {caller.name} has no scope {scope}; streams.yaml gives it under clients")
        if caller.tenant is not None and not own_tenant:
            raise Problem(403, f"client {caller.name} is bound to tenant {caller.tenant}; this concerns all tenants")
        caller.spend(1)
        return caller

    def _of_ticket(self, holder: str) -> Caller:
        caller = self._clients.named(holder)
        if caller is None:
            raise Problem(401, f"this ticket is of {holder}, which is no client any more", headers=_CHALLENGE)
        return caller

    def _caller(self, request: web.BaseRequest) -> Caller:
        found = self._clients.find(request.headers.get("Authorization"))
        if found is not None:
            return found
        if self._clients.declared:
            return NOBODY
        if self._policy.opened or (self._policy.loopback and self._is_local(request)):
            return EVERYBODY
        return NOBODY

    def _is_local(self, request: web.BaseRequest) -> bool:
        """Whether nothing says that a proxy passes on what came from elsewhere."""
        return not _forwarded(request) and self._is_ours(_name(request.headers.get("Host", "")))

    def _is_known(self, host: str) -> bool:
        name = _name(host)
        # A name can be pointed at us by whoever owns it; an address cannot.
        return self._is_ours(name) or name in self._policy.names or (not self._policy.loopback and _is_address(name))

    def _is_ours(self, name: str) -> bool:
        return name in self._local_names or _is_loopback_address(name)

    def _how_to_enter(self, scope: Scope) -> str:
        if self._clients.declared:
            return f"this asks for a client of scope {scope}: send Authorization: Bearer and its secret"
        return (
            f"this asks for scope {scope}, and only callers on this machine have it without a secret; declare clients "
            "in streams.yaml, and send Authorization: Bearer and the secret of one"
        )


def _local_names() -> frozenset[str]:
    names = {"localhost", socket.gethostname().lower()}
    return frozenset(names | {f"{name}." for name in names})


def _name(host: str) -> str:
    """Return a Host without its port, in lower case; what is none is nobody's name as it stands."""
    found = _HOST.fullmatch(host)
    return (host if found is None else found[1] or found[2]).lower()


def _authority(origin: str) -> str | None:
    """Return host and port of an Origin; None of one that has none, such as `null`."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback_address(name: str) -> bool:
    return _is_address(name) and ipaddress.ip_address(name).is_loopback


def _forwarded(request: web.BaseRequest) -> bool:
    return any(name in request.headers for name in _FORWARDED)
