"""Which addresses may be connected to, and how long a server asks us to wait."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import aiohttp
import pytest

from penstock.net import AddressGuard, TargetRefused, retry_after, special_range


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("0.0.0.0", "unspecified"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("10.1.2.3", "private"),
        ("172.16.0.1", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("169.254.169.254", "link-local"),
        ("192.0.0.8", "private"),
        ("192.88.99.1", "private"),
        ("198.18.0.1", "private"),
        ("224.0.0.1", "multicast"),
        ("240.0.0.1", "private"),
        ("255.255.255.255", "private"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("fc00::1", "private"),
        ("fd12:3456::1", "private"),
        ("fec0::1", "reserved"),
        ("ff02::1", "multicast"),
        ("2001:db8::1", "private"),
        ("3fff::1", "private"),
        ("5f00::1", "reserved"),
        ("4000::1", "reserved"),
        ("::ffff:127.0.0.1", "embedded"),
        ("::ffff:8.8.8.8", "embedded"),
        ("::ffff:0:8.8.8.8", "embedded"),
        ("::127.0.0.1", "reserved"),
        ("64:ff9b::10.0.0.1", "embedded"),
        ("64:ff9b::808:808", "embedded"),
        ("64:ff9b:1::1", "embedded"),
        ("2002:7f00:1::", "embedded"),
        ("2001:0:4136:e378::1", "embedded"),
    ],
)
def test_addresses_that_are_not_public_are_named(address: str, kind: str) -> None:
    assert kind in (special_range(address) or "")


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700:4700::1111", "2a00:1450::1"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert special_range(address) is None


def info(address: str) -> Any:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return (family, socket.SOCK_STREAM, 0, "", (address, 443))


def test_a_guard_opens_a_socket_for_a_public_address() -> None:
    with AddressGuard().open(info("8.8.8.8")) as opened:
        assert opened.family == socket.AF_INET


def test_a_guard_that_allows_private_addresses_allows_them() -> None:
    with AddressGuard(allow_private=True).open(info("127.0.0.1")):
        pass


def test_a_refusal_says_what_the_address_is_and_how_to_allow_it() -> None:
    with pytest.raises(TargetRefused, match=r"^10\.0\.0\.1 is a private .* PENSTOCK_ALLOW_PRIVATE_TARGETS=true"):
        AddressGuard().open(info("10.0.0.1"))


def test_one_public_address_is_enough() -> None:
    guard = AddressGuard()
    with pytest.raises(TargetRefused):
        guard.open(info("10.0.0.1"))
    assert guard.refusal is not None
    guard.open(info("8.8.8.8")).close()

    assert guard.refusal is None


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "[::ffff:127.0.0.1]"])
async def test_aiohttp_connects_to_no_address_that_is_refused(host: str) -> None:
    guard = AddressGuard()
    async with aiohttp.ClientSession(connector=guard.connector()) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"http://{host}:1/")

    assert guard.refusal is not None


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1"])
async def test_other_spellings_of_an_address_do_not_get_by(host: str) -> None:
    guard = AddressGuard()
    async with aiohttp.ClientSession(connector=guard.connector()) as session:
        with pytest.raises((aiohttp.ClientConnectorError, aiohttp.InvalidURL)):
            await session.get(f"http://{host}:1/")


async def test_a_socket_is_connected_to_an_address_that_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connected = await AddressGuard(allow_private=True).connect("127.0.0.1", server.getsockname()[1])
        with connected:
            assert connected.getpeername() == server.getsockname()


async def test_a_host_without_a_public_address_is_not_connected_to() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(TargetRefused):
        await AddressGuard().connect("localhost", server.getsockname()[1])


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("0", 0.0), ("17", 17.0), (" 120 ", 120.0), ("1.5", 1.5), ("9" * 40, 7 * 86_400.0)],
)
def test_retry_after_in_seconds(header: str, seconds: float) -> None:
    assert retry_after(header) == seconds


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "soon",
        "Fri, 31 Dec 1999 23:59:5900000000000000000000 GMT",
        "-1",
        "inf",
        "nan",
        "1e9",
        ".",
        "²",
        "1.2.3",
    ],
)
def test_what_is_no_retry_after_asks_for_nothing(header: str | None) -> None:
    assert retry_after(header) is None


def test_retry_after_as_a_date() -> None:
    header = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    seconds = retry_after(header)

    assert seconds is not None
    assert 7_000 < seconds <= 7_200  # the date has whole seconds


def test_a_date_that_has_passed_asks_for_no_wait() -> None:
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
