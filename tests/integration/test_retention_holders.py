"""Retention says which group holds it up, and only when there is something to hold."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from penstock.keys import Keys
from penstock.redis.connection import client
from penstock.streams.retention import Retention
from penstock.topology import parse
from tests.servers import Server

MESH = parse("streams: {ingest: {}}\nservices: {worker: {consumes: {ingest: {}}}}")


@pytest.mark.parametrize("entries", [[], ["*", "*"]])
async def test_a_group_that_keeps_nothing_back_is_not_blamed(server: Server, raw: Any, entries: list[str]) -> None:
    raw.xgroup_create("ingest", "worker", "0", mkstream=True)
    for entry in entries:
        raw.xadd("ingest", {"type": "t"}, id=entry)
    with capture_logs() as logs:
        assert await trim(server) == 0
    assert logs == []


async def test_a_group_that_has_not_read_what_is_too_old_keeps_it_and_is_named(server: Server, raw: Any) -> None:
    raw.xgroup_create("ingest", "worker", "0", mkstream=True)
    raw.xadd("ingest", {"type": "t"}, id="1-1")
    with capture_logs() as logs:
        assert await trim(server) == 0
    assert [(line["stream"], line["group"]) for line in logs] == [("ingest", "worker")]
    assert raw.xlen("ingest") == 1


async def trim(server: Server) -> int:
    redis = client(server.url)
    try:
        return await Retention(redis, Keys(), MESH, ["ingest"]).trim("ingest")
    finally:
        await redis.aclose()
