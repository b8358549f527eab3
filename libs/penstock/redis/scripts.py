"""Lua scripts: one file each, beside the module that calls it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from penstock.redis.connection import AsyncRedis

Argument = str | bytes | int | float


class Script:
    """One Lua file. Calling it sends its digest, and its text only where the server does not know it yet."""

    def __init__(self, package: str, name: str, *, read_only: bool = False) -> None:
        """`read_only` has the server refuse every write in it."""
        self.name = name
        self._by_digest, self._by_text = ("EVALSHA_RO", "EVAL_RO") if read_only else ("EVALSHA", "EVAL")
        self._text = resources.files(package).joinpath(f"{name}.lua").read_text()
        self._digest = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, client: AsyncRedis, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> Any:
        """Run the script; its reply is whatever the file's head says it returns."""
        try:
            try:
                return await client.execute_command(self._by_digest, self._digest, len(keys), *keys, *arguments)
            except Exception as error:
                if not _is_unknown(error):
                    raise
            return await client.execute_command(self._by_text, self._text, len(keys), *keys, *arguments)
        except Exception as error:
            error.add_note(f"script {self.name} on {', '.join(keys)}")  # what Redis denies in it does not say so
            raise

    def run(self, client: Any, keys: Sequence[str], arguments: Sequence[Argument] = ()) -> Any:
        """Run the script from a thread."""
        try:
            try:
                return client.execute_command(self._by_digest, self._digest, len(keys), *keys, *arguments)
            except Exception as error:
                if not _is_unknown(error):
                    raise
            return client.execute_command(self._by_text, self._text, len(keys), *keys, *arguments)
        except Exception as error:
            error.add_note(f"script {self.name} on {', '.join(keys)}")  # what Redis denies in it does not say so
            raise


def _is_unknown(error: Exception) -> bool:
    """Return whether the server does not know the script yet."""
    from redis.exceptions import NoScriptError  # noqa: PLC0415 - see penstock.redis.connection

    return isinstance(error, NoScriptError)
