"""`penstock dlq` shows, replays and deletes dead letters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.command_line import Cli
from tests.servers import Server

TRACE = "a" * 32


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    return Cli(server.url, tmp_path)


def bury(raw: Any, number: int) -> str:
    """Add a dead letter as the atomic commit writes it; return its id."""
    letter: bytes = raw.xadd(
        "dlq",
        {
            "type": "ticket.created",
            "data": '{"n": 1}',
            "id": f"job-{number}",
            "dlq.stream": "ingest",
            "dlq.group": "worker",
            "dlq.entry": f"{number}-0",
            "dlq.reason": "failed",
            "dlq.error": f"KeyError: 'n[{number}]'\nsecond line",
            "dlq.attempts": "5",
            "dlq.time": "2026-11-22T10:00:00.000Z",
            "dlq.fingerprint": "ticket.created:failed:f",
            "dlq.traceback": "Traceback of the handler",
            "dlq.traceparent": f"00-{TRACE}-{'b' * 16}-01",
        },
    )
    return letter.decode()


def test_letters_are_listed_with_the_newest_first(cli: Cli, raw: Any) -> None:
    older, newer = bury(raw, 1), bury(raw, 2)
    found = cli.json("dlq", "ls")
    assert [letter["letter"] for letter in found] == [newer, older]
    assert found[1] == {
        "letter": older,
        "event_id": "job-1",
        "type": "ticket.created",
        "stream": "ingest",
        "group": "worker",
        "entry": "1-0",
        "reason": "failed",
        "error": "KeyError: 'n[1]'\nsecond line",
        "attempts": 5,
        "time": "2026-11-22T10:00:00.000Z",
        "fingerprint": "ticket.created:failed:f",
        "traceback": "Traceback of the handler",
        "traceparent": f"00-{TRACE}-{'b' * 16}-01",
        "replayed": None,
        "event": {"type": "ticket.created", "data": '{"n": 1}', "id": "job-1"},
    }
    table = cli("dlq", "ls", "--letters", "--limit", "1").stdout
    assert newer in table
    assert older not in table
    assert "KeyError: 'n[2]'" in table
    assert "second line" not in table


def test_an_empty_queue_is_no_error(cli: Cli) -> None:
    assert cli.json("dlq", "ls") == []
    assert cli("dlq", "ls").stdout == "no dead letters\n"


def test_one_letter_is_shown_whole(cli: Cli, raw: Any) -> None:
    letter = bury(raw, 1)
    shown = cli("dlq", "show", letter).stdout
    for part in (
        "KeyError: 'n[1]'",
        "second line",
        "worker on ingest (entry 1-0)",
        '{"n": 1}',
        "Traceback of the",
        TRACE,
    ):
        assert part in shown
    assert cli.json("dlq", "show", letter)["letter"] == letter


def test_a_letter_is_replayed_once(cli: Cli, raw: Any) -> None:
    letter = bury(raw, 1)
    first = cli("dlq", "replay", letter)
    ((_, fields),) = raw.xrange("ingest:worker:retry")
    trace = fields[b"traceparent"].decode().split("-")[1]
    assert (first.returncode, first.stdout) == (0, f"{letter} replayed in trace {trace}\n")
    assert (fields[b"id"], fields[b"attempt"], fields[b"retry.entry"]) == (b"job-1", b"1", b"1-0")

    second = cli("dlq", "replay", letter)
    assert second.returncode == 1
    assert "was replayed before" in second.stdout
    assert raw.xlen("ingest:worker:retry") == 1
    assert cli.json("dlq", "ls") == []
    assert "(replayed)" in cli("dlq", "ls", "--letters", "--replayed").stdout


def test_all_are_replayed_the_oldest_first(cli: Cli, raw: Any) -> None:
    for number in range(3):
        bury(raw, number)
    assert cli("dlq", "replay", "--all").returncode == 0
    assert cli("dlq", "replay", "--all").returncode == 1
    replayed = [fields[b"id"] for _, fields in raw.xrange("ingest:worker:retry")]
    assert replayed == [b"job-0", b"job-1", b"job-2"]


def test_purging_asks_unless_told_not_to(cli: Cli, raw: Any) -> None:
    letters = [bury(raw, number) for number in range(3)]
    refused = cli("dlq", "purge", letters[0], stdin="n\n")
    assert refused.returncode == 1
    assert raw.xlen("dlq") == 3

    assert cli("dlq", "purge", letters[0], stdin="y\n").stdout.endswith("deleted 1\n")
    assert cli("dlq", "purge", "--all", "--yes").stdout == "deleted 2\n"
    assert raw.xlen("dlq") == 0


@pytest.mark.parametrize("command", [("show",), ("replay",), ("purge", "--yes")])
def test_a_letter_that_is_not_there_is_a_no(cli: Cli, command: tuple[str, ...]) -> None:
    done = cli("dlq", *command, "1-0")
    assert done.returncode == 1
    assert "no dead letter 1-0" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("replay",), ("replay", "1-0", "--all"), ("purge",), ("show", "job-1"), ("ls", "--limit", "0")]
)
def test_a_mistake_is_told_apart_from_a_no(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert cli("dlq", *arguments).returncode == 2
