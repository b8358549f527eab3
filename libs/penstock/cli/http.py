"""Plain HTTP to our own services on this machine; no proxy of the environment comes between."""

from __future__ import annotations

import http.client
from typing import Any

import msgspec

from penstock.settings import Settings

GATEWAY = "gateway"
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - what to connect to, not to bind


def address(settings: Settings, service: str = GATEWAY) -> tuple[str, int] | None:
    """Return host and port at which a shipped service answers HTTP on this machine, None if it does not."""
    host: str | None = getattr(settings, f"{service}_host", None)
    port: int = getattr(settings, f"{service}_port", 0)
    return None if host is None else (_ANYWHERE.get(host, host), port)


def url(settings: Settings, service: str = GATEWAY) -> str:
    """Return the base URL of a shipped service that answers HTTP."""
    host, port = address(settings, service) or ("", 0)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_ready(settings: Settings, service: str = GATEWAY) -> bool:
    """Return whether a shipped service says that it is ready."""
    try:
        return request(settings, "GET", "/readyz", service=service, timeout=1.0)[0] == 200
    except OSError:
        return False


def request(
    settings: Settings, method: str, path: str, data: Any = None, *, service: str = GATEWAY, timeout: float = 5.0
) -> tuple[int, bytes]:
    """Send a service a request, with `data` as JSON and PENSTOCK_CLIENT_SECRET if set, and return status and body.

    Raises:
        OSError: nothing answers there, or not in HTTP.
    """
    host, port = address(settings, service) or ("", 0)
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        headers = {"Authorization": f"Bearer {settings.client_secret}"} if settings.client_secret else {}
        if data is None:
            connection.request(method, path, headers=headers)
        else:
            headers["Content-Type"] = "application/json"
            connection.request(method, path, msgspec.json.encode(data), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"no HTTP answer: {error!r}") from error
    finally:
        connection.close()
