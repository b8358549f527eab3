"""Spool directories of tests: what lies in them, and mischief with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from penstock.keys import Keys
from penstock.redis.connection import AsyncRedis
from penstock.spool.directory import Directory, Owner
from penstock.spool.spool import Bounds
from penstock.spool.spooling import Spooling
from penstock.streams.publish import Publisher

OWNER = Owner(program="shop", server="redis://here", prefix="")
ROOMY = Bounds(most_bytes=1_000_000_000, most_age=86_400, least_free=0)


def spooling(folder: Path, *, owner: Owner = OWNER, bounds: Bounds = ROOMY) -> Spooling:
    return Spooling(Directory(folder), owner, bounds)


def publisher(client: AsyncRedis, spool: Spooling, **options: Any) -> Publisher:
    return Publisher(client, Keys(), spooling=spool, **options)


def segment_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.seg"))


def aside(folder: Path) -> list[Path]:
    return sorted((folder / "aside").iterdir())
