"""HTTP as channels speak it: one request, a bounded answer, no redirects, only to addresses that are allowed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec

from penstock.errors import UNREADABLE
from penstock.net import AddressGuard, retry_after

_BODY_SECONDS = 3.0  # for the body of an answer whose headers are there
_MOST_BODY = 64_000  # bytes of an answer that are read
_USER_AGENT = "Penstock-Notifier/1"


class SendFailed(Exception):
    """A message was not confirmed; trying again may help.

    `after` is how many seconds the other side asked us to wait, if it did. `code` (of HTTP or SMTP) and `answer`
    are what it said, `latency` how long that took in seconds.
    """

    def __init__(
        self,
        reason: str,
        *,
        code: int | None = None,
        answer: str = "",
        latency: float | None = None,
        after: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
        self.answer = answer
        self.latency = latency
        self.after = after


class SendRefused(SendFailed):
    """A message that trying again cannot deliver; with `gone`, no other message to this target either."""

    def __init__(self, reason: str, *, gone: bool = False, **said: Any) -> None:
        super().__init__(reason, **said)
        self.gone = gone


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer, read to its end or to the limit; not `complete`: its body broke off, or never ended."""

    status: int
    headers: Mapping[str, str]
    body: str
    latency: float
    complete: bool = True

    def json(self) -> dict[str, Any]:
        """Return the body as a JSON object, empty if it is none."""
        try:
            found = msgspec.json.decode(self.body)
        except UNREADABLE:
            return {}
        return found if isinstance(found, dict) else {}

    def failed(self, reason: str = "", *, after: float | None = None) -> SendFailed:
        """Return the error for an answer after which trying again may help."""
        return SendFailed(reason or self._said, **self._facts, after=after)

    def refused(self, reason: str = "", *, gone: bool = False) -> SendRefused:
        """Return the error for an answer after which trying again cannot help."""
        return SendRefused(reason or self._said, **self._facts, gone=gone)

    def failure(self, *, transient: frozenset[int] = frozenset(), after: float | None = None) -> SendFailed:
        """Return the error for an answer that is no success, by its status alone.

        429, 5xx and those in `transient` may be tried again, when Retry-After says or else `after`.
        """
        status = self.status
        if 300 <= status < 400:
            return self.refused(f"{self._said}; redirects are not followed: configure the final address")
        if status == 429 or status in transient or not 400 <= status < 500:
            asked = retry_after(self.headers.get("Retry-After"))
            return self.failed(after=after if after is not None else asked)
        return self.refused()

    @property
    def _said(self) -> str:
        return f"{self.status}: {self.body[:200]}".rstrip(": ")

    @property
    def _facts(self) -> dict[str, Any]:
        return {"code": self.status, "answer": self.body, "latency": self.latency}


async def request(
    method: str,
    url: str,
    body: bytes,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float,
    allow_private: bool,
    most: int = _MOST_BODY,
) -> Answer:
    """Send a request with a JSON body and return the answer, whatever its status, with at most `most` bytes of body.

    Raises:
        SendRefused: the address is not allowed, or the request cannot be made at all.
        SendFailed: there is no complete answer within `timeout` seconds.
    """
    guard = AddressGuard(allow_private=allow_private)
    started = time.perf_counter()
    try:
        async with (
            aiohttp.ClientSession(
                connector=guard.connector(),
                timeout=aiohttp.ClientTimeout(total=timeout),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Content-Type": "application/json", "User-Agent": _USER_AGENT},
            ) as session,
            session.request(method, url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            body, complete = await _start_of(answer, most)
            latency = time.perf_counter() - started
            return Answer(answer.status, answer.headers, body.decode(errors="replace"), latency, complete)
    except TimeoutError:
        raise SendFailed(f"no answer within {timeout:g} s", latency=time.perf_counter() - started) from None
    except aiohttp.InvalidURL as error:
        raise SendRefused(f"the request cannot be made: {error}") from error
    except aiohttp.ClientError as error:  # a certificate that does not fit is one: whose it is will replace it
        latency = time.perf_counter() - started
        if guard.refusal is not None:
            raise SendRefused(str(guard.refusal), latency=latency) from error
        raise SendFailed(f"{type(error).__name__}: {error}", latency=latency) from error
    except ValueError as error:
        raise SendRefused(f"the request cannot be made: {error}") from error


async def _start_of(answer: aiohttp.ClientResponse, most: int) -> tuple[bytes, bool]:
    """Return the start of the body, and whether it came as it should: what became of the request, the status says."""
    body = b""
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) >= most:
                    break
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return body[:most], False
    return body[:most], True
