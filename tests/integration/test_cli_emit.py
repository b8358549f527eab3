"""`penstock emit` publishes one event, and `penstock job` finds it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import Cli
from tests.servers import Server


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    return Cli(server.url, tmp_path)


def test_the_event_lies_in_its_stream_and_its_id_is_printed(cli: Cli, raw: Any) -> None:
    done = cli("emit", "ticket.created", ' {"n": 1}\n', "--subject", "T-1", "--tenant", "acme")
    ((_, fields),) = raw.xrange("ingest")
    assert done.stdout == f"{fields[b'id'].decode()}\n"
    assert {name: fields[name] for name in (b"type", b"data", b"source", b"subject", b"tenant")} == {
        b"type": b"ticket.created",
        b"data": b'{"n": 1}',
        b"source": b"penstock-cli",
        b"subject": b"T-1",
        b"tenant": b"acme",
    }


def test_an_event_may_be_due_later_and_published_once(cli: Cli, raw: Any) -> None:
    printed = {cli("emit", "t", "--delay", "60", "--key", "k").stdout for _ in range(2)}
    refused = cli("emit", "t", "--at", "tomorrow")
    assert (len(printed), raw.zcard("ingest:scheduled"), raw.exists("ingest")) == (1, 1, 0)
    assert "at: 'tomorrow' is no time such as" in refused.stderr


def test_stream_and_id_are_mine_to_choose_and_data_may_come_from_stdin(cli: Cli, raw: Any) -> None:
    done = cli("emit", "t", "-", "--stream", "events", "--id", "mine", stdin="[1]")
    assert done.stdout == "mine\n"
    ((_, fields),) = raw.xrange("events")
    assert (fields[b"id"], fields[b"data"]) == (b"mine", b"[1]")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("t", "{bad}"), "JSON"),
        (("", "{}"), "TYPE"),
        (("t", "{}", "--stream", "ingset"), "ingset"),
        (("t", "{}", "--nonsense"), "--nonsense"),
        (("t", "{}", "--delay", "-1"), "delay is 0 to 31,536,000 seconds, not -1.0"),
        (("t", "{}", "--delay", "nan"), "delay is 0 to 31,536,000 seconds, not nan"),
    ],
)
def test_a_mistake_is_named_and_publishes_nothing(cli: Cli, raw: Any, arguments: tuple[str, ...], named: str) -> None:
    done = cli("emit", *arguments)
    assert done.returncode == 2
    assert named in done.stderr
    assert raw.keys("*") == []


def test_a_job_is_queued_then_running_then_what_its_record_says(cli: Cli, raw: Any) -> None:
    job_id = cli("emit", "t").stdout.strip()
    assert cli.json("job", job_id)["state"] == "queued"

    raw.xgroup_create("ingest", "worker", "0")
    raw.xreadgroup("worker", "c", {"ingest": ">"})
    assert cli.json("job", job_id)["state"] == "running"

    record = {"state": "dead", "type": "t", "attempts": 3, "error": "no [ink] left", "duration": 0.25}
    raw.hset(f"job:{job_id}", "penstock-cli", f"{job_id} {json.dumps(record)}")
    assert cli.json("job", job_id) == {
        "job_id": job_id,
        "state": "dead",
        "type": "t",
        "attempts": 3,
        "result": None,
        "error": "no [ink] left",
        "reason": None,
        "next_attempt_at": None,
        "finished_at": None,
        "duration": 0.25,
        "queue_wait": None,
        "trace_id": None,
        "tenant": None,
        "progress": None,
        "note": None,
    }
    shown = cli("job", job_id).stdout
    assert f"{job_id} dead" in shown
    assert "no [ink] left" in shown
    assert "250.0 ms" in shown


def test_a_job_that_left_no_record_is_settled(cli: Cli, raw: Any) -> None:
    job_id = cli("emit", "t").stdout.strip()
    raw.xgroup_create("ingest", "worker", "0")
    raw.xreadgroup("worker", "c", {"ingest": ">"}, noack=True)

    assert cli.json("job", job_id)["state"] == "settled"
    shown = cli("job", job_id).stdout
    assert shown.splitlines()[0] == f"{job_id} settled"
    assert "no record" in shown


def test_a_job_nobody_knows_is_a_no(cli: Cli) -> None:
    done = cli("job", "nix", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nix" in done.stderr


def test_a_job_whose_id_several_sources_have_wants_one_named(cli: Cli, raw: Any) -> None:
    for source in ("a", "b"):
        raw.hset("job:o-1", source, f'ingest-1-0 {{"state": "completed", "result": "{source}"}}')

    refused = cli("job", "o-1")
    assert refused.returncode == 1
    assert "2 sources have an event o-1: a, b; say which one is meant with --source" in refused.stderr
    assert cli.json("job", "o-1", "--source", "b")["result"] == "b"
