"""Hours of random incidents: each channel is told exactly what a model says it must be told.

`just soak 24 7` runs 24 simulated hours from seed 7; here they are a few.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from penstock.redis.connection import client
from penstock_services.alerts.notify import grouping
from tests.alerts_soak import Soak
from tests.servers import Server

HOURS = float(os.environ.get("SOAK_HOURS", "2"))
SEED = int(os.environ.get("SOAK_SEED", "1"))


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[Any]:
    connected = client(server.url)
    yield connected
    await connected.aclose()


@pytest.mark.timeout(3_600)
async def test_each_channel_is_told_what_it_must_be_told_and_nothing_else(redis: Any) -> None:
    soak = Soak(redis, hours=HOURS, seed=SEED)
    await soak.run()

    sys.stdout.write(f"{HOURS:g} simulated hours from seed {SEED}: {soak.counts}\n")
    assert all(soak.counts[f"alert.{kind}"] for kind in ("triggered", "repeated", "resolved"))
    assert all(soak.counts[what] for what in ("restart", "edit", "silence", "acknowledgement", "withdrawal"))
    assert soak.counts["alert.unacknowledged"]


async def test_the_model_notices_a_group_that_joins_unheard(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "_forget_members_that_ended", lambda *_: None)

    with pytest.raises(AssertionError, match="at 20"):
        await Soak(redis, hours=12, seed=1).run()
