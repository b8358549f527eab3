"""Scopes: what a route asks of whoever calls, and which of them include which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

Scope = Literal["public", "scrape", "publish", "read", "operate", "admin"]
"""What a route asks for: `public` of nobody, `scrape` is /metrics, `operate` changes what the mesh does."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
_IMPLIED: Mapping[str, frozenset[str]] = {
    "read": frozenset({"scrape"}),
    "operate": frozenset({"scrape", "read"}),
    "admin": frozenset({"scrape", "read", "operate", "publish"}),
}


def include(scopes: Iterable[str], asked: Scope) -> bool:
    """Return whether one of `scopes` is, or includes, what is asked for."""
    return any(asked == one or asked in _IMPLIED.get(one, ()) for one in scopes)
