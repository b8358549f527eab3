"""Events of megabytes: a process takes no more of them than it can bear."""

from __future__ import annotations

from pathlib import Path

from tests.hands import Raw
from tests.processes import eventually, service_process
from tests.servers import Server

TOPOLOGY = """
streams: {ingest: {kind: work, reports: events}, events: {}, dlq: {}}
services: {large: {consumes: {ingest: {}}, publishes: [events], concurrency: 200}}
"""
EVENTS, SIZE = 24, 5_000_000
BEARABLE = 64_000_000 // SIZE + 1  # reading stops once it is reached
PAYLOAD = b'"' + b"x" * (SIZE - 2) + b'"'


def pending(raw: Raw) -> int:
    return int(raw.xpending("ingest", "large")["pending"])


def beats(raw: Raw) -> int:
    """Return how often the process has beaten."""
    (beat,) = raw.hvals("beats:large")
    return int(beat.split(b":")[0])


def test_what_is_in_flight_is_bounded_by_bytes(server: Server, raw: Raw, tmp_path: Path) -> None:
    (tmp_path / "streams.yaml").write_text(TOPOLOGY)
    raw.xgroup_create("ingest", "large", "0", mkstream=True)
    for _ in range(EVENTS):
        raw.xadd("ingest", {"type": "t", "data": PAYLOAD})
    env = {"REDIS_URL": server.url, "PENSTOCK_TOPOLOGY": str(tmp_path / "streams.yaml")}
    with service_process("-m", "penstock", "run", "tests.integration.large_jobs:jobs", env=env):
        eventually(lambda: pending(raw) >= BEARABLE, what="it has taken what it can bear")
        before = beats(raw)
        eventually(lambda: beats(raw) >= before + 2, what="it goes on")
        assert BEARABLE <= pending(raw) <= BEARABLE + 1, "a read may bring one more than was missing"
        raw.xadd("gate", {"open": "yes"})
        eventually(lambda: raw.xlen("dlq") == EVENTS, deadline=60, what="all are buried")
        eventually(lambda: pending(raw) == 0 and raw.xlen("ingest:large:retry") == 0, what="all are settled")
    for number in range(EVENTS):
        ((_, fields),) = raw.xrange("dlq", count=1)
        assert (fields[b"data"], fields[b"dlq.attempts"]) == (PAYLOAD, b"2"), number
        raw.xtrim("dlq", maxlen=EVENTS - number - 1, approximate=False)
