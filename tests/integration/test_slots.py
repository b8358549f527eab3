"""Two processes with one slot each, and several streams: none keeps what another could do."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.hands import Raw, fields_of
from tests.mesh import settled
from tests.processes import eventually, service_process
from tests.servers import Server

TOPOLOGY = """
streams: {ingest: {}, other: {}, events: {}}
services:
  slots: {consumes: {ingest: {}, other: {}}, publishes: [events], concurrency: 1}
"""
STREAMS = ("ingest", "other")
SOURCES = (*STREAMS, *(f"{stream}:slots:retry" for stream in STREAMS))


@contextmanager
def slots(server: Server, folder: Path, processes: int = 1) -> Iterator[None]:
    """Run processes with one slot each."""
    topology = folder / "streams.yaml"
    topology.write_text(TOPOLOGY)
    env = {"REDIS_URL": server.url, "PENSTOCK_TOPOLOGY": str(topology)}
    with ExitStack() as stack:
        raw = stack.enter_context(server.client())
        before = raw.hlen("beats:slots")
        for _ in range(processes):
            stack.enter_context(service_process("-m", "penstock", "run", "tests.integration.slot_jobs:jobs", env=env))
        eventually(lambda: raw.hlen("beats:slots") == before + processes, what="they are alive")
        eventually(lambda: raw.exists(*SOURCES) == len(SOURCES), what="their groups are there")
        yield


def add(raw: Raw, until: Path, *jobs: tuple[str, str, int]) -> None:
    """Add jobs, each given as stream, type and number, in one step."""
    with raw.pipeline(transaction=True) as pipeline:
        for stream, kind, number in jobs:
            data = {"n": number, "until": str(until), "begun": str(until.parent / "begun")}
            pipeline.xadd(stream, {"type": kind, "data": json.dumps(data)})
        pipeline.execute()


def done(raw: Raw, kind: str) -> list[int]:
    found = [json.loads(fields["data"]) for fields in fields_of(raw, "events") if fields["type"] == f"{kind}.done"]
    return sorted(found)


def begun(folder: Path) -> list[tuple[int, int]]:
    """Return the number of each long job that has begun, and its process."""
    notes = folder / "begun"
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [(int(number), int(pid)) for number, pid in map(str.split, lines)]


def pending(raw: Raw) -> int:
    """Return how many entries are in anybody's hands."""
    return sum(raw.xpending(source, "slots")["pending"] for source in SOURCES)


def unread(raw: Raw) -> int:
    """Return how many entries are there for whoever is free."""
    groups = [(raw.xinfo_groups(source)[0], source) for source in SOURCES]
    return sum(len(raw.xrange(source, f"({group['last-delivered-id'].decode()}")) for group, source in groups)


def has_done(raw: Raw, short: int) -> bool:
    return len(done(raw, "short")) == short


def has_begun(folder: Path, long: int) -> bool:
    return len(begun(folder)) == long


def all_settled(raw: Raw) -> bool:
    return all(settled(raw, stream, "slots") for stream in STREAMS)


def test_a_short_job_does_not_wait_behind_a_long_one_while_another_process_is_free(
    server: Server, raw: Raw, tmp_path: Path
) -> None:
    with slots(server, tmp_path, processes=2):
        for turn in range(4):
            busy, until = tmp_path / f"busy.{turn}", tmp_path / f"until.{turn}"
            here, there = STREAMS[turn % 2 :] + STREAMS[: turn % 2]
            add(raw, busy, *((here, "long", 3 * turn + at) for at in range(2)))
            eventually(functools.partial(has_begun, tmp_path, 3 * turn + 2), what="both are busy")
            shorts = [(stream, "short", 3 * turn + at) for at, stream in enumerate((here, there, here))]
            add(raw, until, (here, "long", 3 * turn + 2), *shorts)
            busy.touch()
            eventually(functools.partial(has_done, raw, 3 * turn + 3), what="the short ones are done")
            eventually(functools.partial(has_begun, tmp_path, 3 * turn + 3), what="the long one has begun")
            assert len(done(raw, "long")) == 3 * turn + 2, "it still runs"
            until.touch()
            eventually(functools.partial(all_settled, raw), what="all is done")

    assert done(raw, "short") == done(raw, "long") == list(range(12))


def test_no_more_is_taken_than_there_are_slots_over_all_streams(server: Server, raw: Raw, tmp_path: Path) -> None:
    until = tmp_path / "until"
    with slots(server, tmp_path):
        add(raw, until, *((STREAMS[number % 2], "long", number) for number in range(6)))
        eventually(
            lambda: (len(begun(tmp_path)), pending(raw), unread(raw)) == (1, 1, 5), what="one is taken, five are free"
        )
        with slots(server, tmp_path):
            eventually(lambda: (len(begun(tmp_path)), pending(raw), unread(raw)) == (2, 2, 4), what="another is taken")
            assert len({pid for _, pid in begun(tmp_path)}) == 2
            until.touch()
            eventually(lambda: all_settled(raw), what="all is done")

    assert done(raw, "long") == sorted(number for number, _ in begun(tmp_path)) == list(range(6))
