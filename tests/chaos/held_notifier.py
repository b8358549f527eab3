"""A notifier that is held between the record of a confirmation and the commit, where it can be killed."""

from __future__ import annotations

import asyncio
from typing import Any

from penstock.service.lifecycle import run
from penstock.settings import Settings
from penstock.streams import commit as settle
from penstock_services.notifier.config.config import load
from penstock_services.notifier.service import build

_commit = settle._commit


class Held:
    """The commit script, which never gets to run for a delivery that was sent."""

    async def __call__(self, client: Any, keys: Any, arguments: Any) -> Any:
        if b"delivery.sent" in arguments[-1] and b"error-rate" in arguments[-1]:
            await asyncio.Event().wait()
        return await _commit(client, keys, arguments)


if __name__ == "__main__":
    settle._commit = Held()  # type: ignore[assignment]
    settings = Settings.from_env()
    run(build(load(settings)), settings)
