"""The demo's outage: it tells of its own alert, whatever else is said on the stream of alerts."""

from __future__ import annotations

import asyncio
import io
import json

from rich.console import Console

from penstock.cli.demo.outage import Outage
from penstock.keys import Keys
from tests.hands import Raw, connected
from tests.servers import Server

ALERT = {
    "fingerprint": "f",
    "rule": "jobs-fail",
    "severity": "warning",
    "status": "firing",
    "since": "2026-11-26T00:00:00Z",
    "summary": "jobs fail",
    "reason": "too many",
}


async def test_a_sign_of_life_among_the_alerts_is_passed_over(server: Server, raw: Raw) -> None:
    said = io.StringIO()
    async with connected(server) as client:
        outage = Outage(client, Keys(), Console(file=said))
        ours = {**ALERT, "labels": {"job_type": outage._type}}
        for kind, data in (("alert.watchdog", {"every": 60}), ("alert.triggered", {**ALERT, "labels": {}})):
            raw.xadd("alerts", {"type": kind, "data": json.dumps(data)})
        raw.xadd("alerts", {"type": "alert.triggered", "data": json.dumps(ours)})
        async with asyncio.timeout(10):
            alert = await outage._wait_for("alert.triggered")
    assert alert.labels == {"job_type": outage._type}
