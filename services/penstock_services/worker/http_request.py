"""The job people need most: an HTTP request that is tried until it succeeds or cannot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import aiohttp
import msgspec

from penstock import Context, Reject, Service, TryAgain
from penstock.net import AddressGuard, retry_after
from penstock.redaction import header_secrets, hide_url, redact, url_secrets
from penstock.settings import Settings
from penstock.telemetry.spans import Active, Attributes

_MOST_SAID = 240  # characters of it that a failure says
_MOST_BODY = 64_000  # bytes of the answer kept in the result
_PORTS = {"http": 80, "https": 443}
_RETRIED = frozenset({408, 425, 429})


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to make. `timeout` is in seconds and covers everything from connecting to the last byte."""

    url: Annotated[str, msgspec.Meta(pattern=r"^https?://\S+$", max_length=8_000)]
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "POST"
    headers: dict[str, str] = {}
    json: Any = None
    timeout: Annotated[float, msgspec.Meta(gt=0, le=300)] = 30.0


def jobs(settings: Settings) -> Service:
    """Return the handler of http.request, which connects to public addresses and to those that settings allow."""
    service = Service("http")

    @service.on("ingest", type="http.request", timeout=310)
    async def send(request: HttpRequest, ctx: Context) -> dict[str, Any]:
        guard = AddressGuard(allow_private=settings.allow_private_targets, networks=settings.target_networks)
        return await _send(request, ctx, guard)

    return service


async def _send(request: HttpRequest, ctx: Context, guard: AddressGuard) -> dict[str, Any]:
    """Send the request; 2xx is success, 408, 425, 429, 5xx and network errors are tried again.

    What is said of a failure goes on record, so it is said without the request's secrets.
    """
    secrets = url_secrets(request.url) | header_secrets(request.headers)
    address = redact(hide_url(request.url), secrets)
    about: Attributes = {"http.request.method": request.method, "url.full": address, **_server(request.url)}
    with ctx.span(request.method, kind="client", attributes=about) as call:
        headers = {
            "Idempotency-Key": ctx.idempotency_key(),
            "traceparent": call.context.traceparent,
            **request.headers,
        }
        try:
            async with _answer(request, headers, guard) as answer:
                call.attributes["http.response.status_code"] = answer.status
                body = (await _start_of(answer)).decode(errors="replace")
                _evaluate(answer, body, secrets)
                return {"status": answer.status, "body": body}
        except (Reject, TryAgain) as outcome:
            raise _failed(call, str(call.attributes["http.response.status_code"]), outcome) from None
        except (aiohttp.InvalidURL, ValueError) as error:
            why = f"the request to {address} cannot be made: {_why(error, secrets)}"
            raise _failed(call, _name(error), Reject(why)) from None
        except TimeoutError as error:
            why = f"no complete answer within {request.timeout:g} s"
            raise _failed(call, _name(error), TryAgain(why)) from None
        except aiohttp.ClientError as error:
            refused, why = guard.refusal, f"{_name(error)}: {_why(error, secrets)}"
            raise _failed(call, _name(error), TryAgain(why) if refused is None else Reject(str(refused))) from None


def _failed(call: Active, kind: str, outcome: Reject | TryAgain) -> Reject | TryAgain:
    """Say of a call why it failed, as the outcome does: without secrets."""
    call.error = outcome.reason
    call.attributes["error.type"] = kind
    return outcome


def _name(error: Exception) -> str:
    return type(error).__name__


def _why(error: Exception, secrets: set[str]) -> str:
    return "it is no address" if isinstance(error, aiohttp.InvalidURL) else redact(str(error), secrets)


def _server(url: str) -> Attributes:
    try:
        parts = urlsplit(url)
        return {"server.address": parts.hostname or "", "server.port": parts.port or _PORTS[parts.scheme]}
    except ValueError:
        return {}


@asynccontextmanager
async def _answer(
    request: HttpRequest, headers: dict[str, str], guard: AddressGuard
) -> AsyncIterator[aiohttp.ClientResponse]:
    timeout = aiohttp.ClientTimeout(total=request.timeout)
    body = None if request.json is None else msgspec.json.encode(request.json)
    if body is not None:
        headers.setdefault("Content-Type", "application/json")
    async with (
        aiohttp.ClientSession(
            connector=guard.connector(), timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
        ) as session,
        session.request(request.method, request.url, headers=headers, data=body, allow_redirects=False) as answer,
    ):
        yield answer


async def _start_of(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) >= _MOST_BODY:
            break
    return body[:_MOST_BODY]


def _evaluate(answer: aiohttp.ClientResponse, body: str, secrets: set[str]) -> None:
    status = answer.status
    if 200 <= status < 300:
        return
    said = redact(f"{status} {answer.reason or ''}: {body}", secrets)[:_MOST_SAID].strip()
    if status >= 500 or status in _RETRIED:
        raise TryAgain(said, after=retry_after(answer.headers.get("Retry-After")))
    raise Reject(said)
