"""`penstock status` tells what Redis knows, and no more."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import Cli
from tests.servers import Server, free_port


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    return Cli(server.url, tmp_path)


def group(state: dict[str, Any], stream: str, name: str) -> dict[str, Any]:
    return next(one for one in state["groups"] if (one["stream"], one["group"]) == (stream, name))


def test_every_unsettled_event_is_counted_in_one_place(cli: Cli, raw: Any) -> None:
    for number in range(10):
        raw.xadd("ingest", {"type": "t", "data": str(number)})
    raw.xgroup_create("ingest", "worker", "0")
    raw.xgroup_create("ingest:worker:retry", "worker", "0", mkstream=True)
    raw.xreadgroup("worker", "alive", {"ingest": ">"}, count=3)
    raw.xreadgroup("worker", "gone", {"ingest": ">"}, count=1)
    raw.hset("beats:worker", "alive", f"1:{round(time.time() * 1000)}")
    for _ in range(4):
        raw.xadd("ingest:worker:retry", {"type": "t"})
    raw.xreadgroup("worker", "alive", {"ingest:worker:retry": ">"}, count=1)
    raw.zadd("ingest:worker:delayed", {"a": 1.0, "b": 2.0})
    raw.zadd("events:scheduled", {"c": 1.0})
    letters = [
        raw.xadd("dlq", {"type": "t", "dlq.stream": "ingest", "dlq.group": name}) for name in ("worker", "worker", "x")
    ]
    raw.hset("dlq:replayed", letters[0], "2026-11-22T10:00:00Z")

    state = cli.json("status")

    assert state["streams"] == [
        {"name": "ingest", "length": 10, "scheduled": 0, "declared": True},
        {"name": "events", "length": 0, "scheduled": 1, "declared": True},
        {"name": "dlq", "length": 3, "scheduled": 0, "declared": True},
    ]
    assert state["groups"] == [
        {
            "stream": "ingest",
            "group": "worker",
            "lag": 6,
            "pending": 5,
            "delayed": 2,
            "retry": 3,
            "dead": 1,
            "consumers": 1,
            "declared": True,
            "exists": True,
            "ids_ahead": 0.0,
            "position": None,
        }
    ]
    assert state["redis"]["name"] in {"Redis", "Valkey"}
    assert state["redis"]["memory"] > 0


def test_lag_is_counted_where_the_server_has_lost_track(cli: Cli, raw: Any) -> None:
    entries = [raw.xadd("ingest", {"type": "t"}) for _ in range(1_500)]
    raw.xgroup_create("ingest", "worker", "0")
    raw.xreadgroup("worker", "c", {"ingest": ">"}, count=100)
    raw.xdel("ingest", *entries[500:510])
    assert raw.xinfo_groups("ingest")[0]["lag"] is None

    assert group(cli.json("status"), "ingest", "worker")["lag"] == 1_390


def test_ids_of_a_time_that_has_not_come_are_told(cli: Cli, raw: Any) -> None:
    raw.xadd("ingest", {"type": "t"}, id="9999999999999-0")
    raw.xgroup_create("ingest", "worker", "$")
    ahead = group(cli.json("status"), "ingest", "worker")["ids_ahead"]
    assert ahead == pytest.approx(9_999_999_999.999 - raw.time()[0], abs=60)
    assert "ingest: its ids are" in cli("status").stdout


def test_a_group_that_was_never_made_has_everything_before_it(cli: Cli, raw: Any) -> None:
    raw.xadd("ingest", {"type": "t"})
    state = group(cli.json("status"), "ingest", "worker")
    assert (state["lag"], state["exists"], state["consumers"]) == (1, False, 0)


def test_groups_that_streams_yaml_does_not_know_are_shown_as_such(cli: Cli, raw: Any) -> None:
    raw.xadd("events", {"type": "t"})
    raw.xgroup_create("events", "stranger", "0")
    state = group(cli.json("status"), "events", "stranger")
    assert (state["lag"], state["declared"]) == (1, False)
    assert "stranger (not in streams.yaml)" in cli("status").stdout


def test_dead_letters_beyond_one_page_are_all_counted(cli: Cli, raw: Any) -> None:
    with raw.pipeline(transaction=False) as pipeline:
        for _ in range(2_300):
            pipeline.xadd("dlq", {"type": "t", "dlq.stream": "ingest", "dlq.group": "worker"})
        pipeline.execute()
    assert group(cli.json("status"), "ingest", "worker")["dead"] == 2_300


def test_large_dead_letters_are_looked_at_a_few_at_a_time(cli: Cli, raw: Any) -> None:
    for _ in range(12):
        raw.xadd("dlq", {"type": "t", "data": "x" * 1_000_000, "dlq.stream": "ingest", "dlq.group": "worker"})
    before = raw.info("commandstats").get("cmdstat_xrange", {"calls": 0})["calls"]
    assert group(cli.json("status"), "ingest", "worker")["dead"] == 12
    assert raw.info("commandstats")["cmdstat_xrange"]["calls"] - before >= 6


def test_people_get_a_table(cli: Cli, raw: Any) -> None:
    raw.xadd("ingest", {"type": "t"})
    lines = cli("status").stdout.splitlines()
    titles = next(line for line in lines if line.startswith("stream"))
    row = next(line for line in lines if line.startswith("ingest"))
    assert titles.split() == ["stream", "length", "group", "lag", "pending", "delayed", "retry", "dead", "consumers"]
    assert row.split() == ["ingest", "1", "worker", "1", "0", "0", "0", "0", "0"]


def test_without_redis_it_says_where_it_looked_and_exits_with_3(tmp_path: Path) -> None:
    url = f"redis://user:hunter2@127.0.0.1:{free_port()}/0"
    done = Cli(url, tmp_path)("status")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("penstock: Redis is unavailable: cannot connect (redis://user:***@127.0.0.1:")
    assert "REDIS_URL" in done.stderr


def test_a_key_that_is_no_stream_is_named(cli: Cli, raw: Any) -> None:
    raw.set("ingest", "text")
    done = cli("status")
    assert done.returncode == 2
    assert "WRONGTYPE" in done.stderr


def test_its_table_fits_eighty_columns(cli: Cli, raw: Any) -> None:
    raw.xadd("notifications-of-a-long-name", {"type": "t"})
    raw.xgroup_create("notifications-of-a-long-name", "notifier", "0")
    raw.xadd("ingest", {"type": "t"})
    raw.xgroup_create("ingest", "worker", "0")

    lines = cli("status", COLUMNS="80").stdout.splitlines()

    assert max(map(len, lines)) <= 80
    [header] = [line.split() for line in lines if line.startswith("stream ")]
    assert header == ["stream", "length", "group", "lag", "pending", "delayed", "retry", "dead", "consumers"]
    [row] = [line.split() for line in lines if line.startswith("ingest")]
    assert row == ["ingest", "1", "worker", "1", "0", "0", "0", "0", "0"]
