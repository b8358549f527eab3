"""Outgoing connections: which addresses may be connected to, and how long a server asks us to wait."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import math
import socket
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias

import aiohttp
from aiohttp.client_proto import ResponseHandler

from penstock.errors import PenstockError

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
AddressInfo: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]
"""One answer of getaddrinfo: family, type, protocol, canonical name, socket address."""

_LONGEST_WAIT = 7 * 86_400.0  # beyond this a Retry-After is a mistake of the sender
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")  # RFC 4291: all global unicast that has been handed out
# Ranges whose addresses carry an IPv4 address that a gateway or the kernel would unpack, past any check of ours.
_EMBEDDING = {
    "IPv4-mapped": ipaddress.ip_network("::ffff:0:0/96"),
    "IPv4-translated": ipaddress.ip_network("::ffff:0:0:0/96"),
    "NAT64": ipaddress.ip_network("64:ff9b::/96"),
    "local NAT64": ipaddress.ip_network("64:ff9b:1::/48"),
    "6to4": ipaddress.ip_network("2002::/16"),
    "Teredo": ipaddress.ip_network("2001::/32"),
}
# Not global by the IANA registries of special-purpose addresses, whatever this Python's tables say.
_RESERVED = (
    ipaddress.ip_network("192.0.0.0/24"),
    ipaddress.ip_network("192.88.99.0/24"),
    ipaddress.ip_network("3fff::/20"),
)


class TargetRefused(PenstockError, OSError):
    """A connection was not made: the address is not one of the public internet. The message says how to allow it."""

    def __init__(self, address: str, kind: str) -> None:
        super().__init__(
            f"{address} is {kind}, and only public addresses are connected to; "
            "PENSTOCK_ALLOW_PRIVATE_TARGETS=true allows every address"
        )


def special_range(address: str) -> str | None:
    """Return in words what keeps an IP address from being a public one, or None if it is public.

    Loopback, link-local, multicast, private and reserved addresses are not, nor is any IPv6 address that
    embeds an IPv4 address (mapped, translated, NAT64, 6to4, Teredo).
    """
    ip = ipaddress.ip_address(address)
    for kind, network in _EMBEDDING.items():
        if ip in network:
            return f"an embedded IPv4 address ({kind})"
    tests = (
        ("the unspecified address", ip.is_unspecified),
        ("a loopback address", ip.is_loopback),
        ("a link-local address", ip.is_link_local),
        ("a multicast address", ip.is_multicast),
        ("a private or reserved address", not ip.is_global or any(ip in network for network in _RESERVED)),
        ("a reserved address", ip.version == 6 and ip not in _GLOBAL_V6),
    )
    return next((kind for kind, holds in tests if holds), None)


class _HeadersFirst(ResponseHandler):
    """Has the head of an answer parsed by itself: what is wrong with a body must not take the status along.

    aiohttp parses what arrives as one, and where the body is broken (of a 204 with one, say) it raises and forgets
    the headers that came with it. It has no public place for this.
    """

    _headed = False

    def data_received(self, data: bytes) -> None:
        end = data.find(b"\r\n\r\n") + 4
        if not self._headed and 4 <= end < len(data):
            self._headed = True
            super().data_received(data[:end])
            data = data[end:]
        super().data_received(data)


class AddressGuard:
    """Lets the connections of one request be made to public addresses only, or to all if `allow_private`.

    The check is made on the very address that is connected to: a name cannot resolve to another one in
    between, and a literal address is checked like any other.
    """

    def __init__(self, *, allow_private: bool = False, networks: Iterable[Network] = ()) -> None:
        """`networks` are further ones whose addresses are allowed."""
        self._allow_private = allow_private
        self._networks = tuple(networks)
        self._allowed = False
        self._refused: TargetRefused | None = None

    @property
    def refusal(self) -> TargetRefused | None:
        """Why there was no connection, if every address was refused; aiohttp itself reports a ClientConnectorError."""
        return None if self._allowed else self._refused

    def open(self, info: AddressInfo) -> socket.socket:
        """Return a socket for an address, not yet connected: what aiohttp calls a socket factory.

        Raises:
            TargetRefused: the address is not public.
        """
        family, kind, protocol, _, address = info
        special = None if self._allow_private else special_range(str(address[0]))
        if special is not None and not self._is_listed(str(address[0])):
            self._refused = TargetRefused(str(address[0]), special)
            raise self._refused
        self._allowed = True
        return socket.socket(family, kind, protocol)

    def _is_listed(self, address: str) -> bool:
        ip = ipaddress.ip_address(address.partition("%")[0])
        return any(ip in network for network in self._networks)

    def connector(self) -> aiohttp.TCPConnector:
        """Return a connector for one aiohttp session, whose connections all pass the check."""
        # One address after the other: a race would mix refusals with what the others say.
        made = aiohttp.TCPConnector(socket_factory=self.open, happy_eyeballs_delay=None, use_dns_cache=False)
        factory: Any = functools.partial(_HeadersFirst, loop=asyncio.get_running_loop())
        made._factory = factory  # noqa: SLF001 - see there
        return made

    async def connect(self, host: str, port: int) -> socket.socket:
        """Return a socket that is connected to the first address of `host` that is allowed and answers.

        Raises:
            TargetRefused: no address of the host is public.
            OSError: the name does not resolve, or nothing answers.
        """
        failed: OSError | None = None
        for info in await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                return await self._connect(info)
            except TargetRefused:
                continue
            except OSError as error:
                failed = error
        raise failed or self._refused or OSError(f"{host} has no address")

    async def _connect(self, info: AddressInfo) -> socket.socket:
        opened = self.open(info)
        opened.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(opened, info[4])
        except BaseException:
            opened.close()
            raise
        return opened


def seconds(value: object) -> float | None:
    """Return what a server gives as a number of seconds, None if it is none; a week at most."""
    try:
        found = float(value) if isinstance(value, str | int | float) else math.nan
    except ValueError:
        return None
    except OverflowError:  # an integer beyond all floats
        return _LONGEST_WAIT
    return min(found, _LONGEST_WAIT) if found >= 0 else None


def retry_after(header: str | None) -> float | None:
    """Return the seconds a Retry-After header asks for (RFC 9110, 10.2.3: seconds or a date), else None."""
    text = (header or "").strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():  # some servers send fractions
        return min(float(text), _LONGEST_WAIT)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError, TypeError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return min(max(0.0, (when - datetime.now(UTC)).total_seconds()), _LONGEST_WAIT)
