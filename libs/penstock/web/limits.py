"""Limits: what one port, and one caller of it, may take up."""

from __future__ import annotations

import msgspec

from penstock.settings import Settings


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes, times in seconds; `peer_connections` bounds those of one address."""

    body: int = 100_000
    head_timeout: float = 10.0
    body_timeout: float = 10.0
    send_timeout: float = 10.0
    connections: int = 1_000
    peer_connections: int = 800

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Return the gateway's; one address may have four connections in five unless set otherwise."""
        most = settings.gateway_max_connections
        return cls(
            body=settings.gateway_max_body,
            head_timeout=settings.gateway_head_timeout,
            body_timeout=settings.gateway_body_timeout,
            send_timeout=settings.gateway_send_timeout,
            connections=most,
            peer_connections=settings.gateway_max_peer_connections or max(1, most * 4 // 5),
        )
