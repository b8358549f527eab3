"""Request bodies: their media type, their bytes within limits, and strict JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import HttpVersion11, web

from penstock.web.problems import Problem

_DEEPEST = 100  # far from what any JSON reader down the line can take
FORM = "application/x-www-form-urlencoded"


def media_type(request: web.BaseRequest) -> str:
    """Return the Content-Type without parameters, in lower case; empty if there is none."""
    return media_type_of(request.headers)


def media_type_of(headers: Mapping[str, str]) -> str:
    """Return the media type that headers name, as `media_type` does."""
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Return whether a media type is one of JSON."""
    return kind == "application/json" or kind.endswith("+json")


def require_json(request: web.BaseRequest) -> None:
    """Refuse a body that is compressed, or not declared to be JSON.

    Browsers send other types, or none, across origins without asking: this keeps them out, too.

    Raises:
        Problem: 415.
    """
    kind = media_type(request)
    if not is_json(kind):
        hint = "; choose application/json where the webhook is set up" if kind == FORM else ""
        raise Problem(
            415,
            f"the body must be JSON: send Content-Type: application/json{hint}",
            headers={"Accept": "application/json"},
        )
    refuse_compressed(request)


def refuse_compressed(request: web.BaseRequest) -> None:
    """Refuse a body that would have to be unpacked.

    Raises:
        Problem: 415.
    """
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise Problem(
            415,
            "compressed bodies are not taken: send it without Content-Encoding",
            headers={"Accept-Encoding": "identity"},
        )


async def read(request: web.BaseRequest, *, most: int, timeout: float) -> bytes:
    """Return the body's bytes: at most so many, within so many seconds.

    Raises:
        Problem: 413 it is too large, 408 it is too slow, 400 it breaks off.
    """
    if (request.content_length or 0) > most:
        raise _too_large(most)
    await _say_continue(request)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > most:
                    raise _too_large(most)
    except TimeoutError:
        raise Problem(408, "the body did not arrive in time") from None
    except (web.RequestPayloadError, ConnectionError):
        raise Problem(400, "the body breaks off") from None
    return bytes(body)


async def _say_continue(request: web.BaseRequest) -> None:
    """Ask for the body, if the client waits for that (RFC 9110, 10.1.1)."""
    expect = request.headers.get("Expect", "").lower()
    if expect == "100-continue" and request.version >= HttpVersion11 and not request.content.is_eof():
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


def _too_large(most: int) -> Problem:
    return Problem(413, f"the body is larger than {most} bytes; put large data elsewhere and send its address")


def parse(body: bytes) -> Any:
    """Decode strict JSON (RFC 8259): UTF-8, no NaN, numbers in range.

    Raises:
        Problem: 400.
    """
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
    # A body with few brackets cannot be deep, which spares most bodies the walk.
    if body.count(b"[") + body.count(b"{") > _DEEPEST and _deeper([value], _DEEPEST):
        raise _too_deep()
    return value


def _deeper(level: list[Any], most: int) -> bool:
    for _ in range(most):
        if not level:
            return False
        level = [child for node in level for child in _children(node) if isinstance(child, dict | list)]
    return bool(level)


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _too_deep() -> Problem:
    return Problem(400, f"the body is nested more than {_DEEPEST} levels deep")
