"""Working through many dead letters: causes, careful replays, two operators at once."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import Cli
from tests.processes import service_process
from tests.servers import Server

CAUSES = {"crm": 6000, "bank": 3500, "bug": 500}


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    return Cli(server.url, tmp_path)


def bury(raw: Any, count: int, cause: str = "crm", data: str = "{}", kind: str = "mend", **more: str) -> list[str]:
    """Add dead letters of one cause, as the atomic commit writes them."""
    pipeline = raw.pipeline(transaction=False)
    for n in range(count):
        pipeline.xadd(
            "dlq",
            {
                "type": kind,
                "data": data,
                "id": f"{cause}-{n}",
                "dlq.stream": "ingest",
                "dlq.group": "worker",
                "dlq.entry": f"{n + 1}-0",
                "dlq.reason": "failed",
                "dlq.error": f"{cause} {n} is down",
                "dlq.attempts": "5",
                "dlq.time": "2026-11-22T10:00:00.000Z",
                "dlq.fingerprint": f"mend:failed:{cause}",
                "dlq.traceback": "x" * 2000,
            }
            | more,
        )
    return [letter.decode() for letter in pipeline.execute()]


def test_ten_thousand_letters_show_their_three_causes(cli: Cli, raw: Any) -> None:
    for cause, count in CAUSES.items():
        bury(raw, count, cause)
    said = cli("dlq", "ls").stdout
    lines = said.splitlines()
    for line, (cause, count) in zip(lines[1:], CAUSES.items(), strict=False):
        assert line.split()[:2] == [str(count), f"mend:failed:{cause}"]
        assert f"{cause} {count - 1} is down" in line
    assert "10000 letters of 3 causes" in said


def test_only_what_was_selected_is_replayed_and_a_dry_run_replays_nothing(cli: Cli, raw: Any) -> None:
    bury(raw, 3, "crm")
    bury(raw, 2, "bank")
    dry = cli("dlq", "replay", "--fingerprint", "mend:failed:bank", "--dry-run").stdout
    assert "bank 1 is down" in dry
    assert "crm" not in dry
    assert not raw.exists("ingest:worker:retry")
    assert cli("dlq", "replay", "--fingerprint", "mend:failed:bank").returncode == 0
    assert [fields[b"id"] for _, fields in raw.xrange("ingest:worker:retry")] == [b"bank-0", b"bank-1"]
    assert {letter["event_id"] for letter in cli.json("dlq", "ls")} == {"crm-0", "crm-1", "crm-2"}


def test_since_and_type_select(cli: Cli, raw: Any) -> None:
    bury(raw, 1, "crm")
    bury(raw, 1, "bank", kind="other")
    assert [one["type"] for one in cli.json("dlq", "ls", "--type", "other")] == ["other"]
    assert len(cli.json("dlq", "ls", "--since", "1h")) == 2
    assert cli.json("dlq", "ls", "--since", "2999-01-01T00:00:00Z") == []
    refused = cli("dlq", "ls", "--since", "yesterday")
    assert refused.returncode == 2
    assert "neither a duration before now" in refused.stderr


def test_two_operators_at_once_replay_each_letter_once(cli: Cli, raw: Any) -> None:
    bury(raw, 200)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: cli("dlq", "replay", "--all").stdout, range(2)))
    assert raw.xlen("ingest:worker:retry") == 200
    assert sum(said.count("replayed in trace") for said in both) == 200


def test_canaries_that_fail_again_stop_the_rest(cli: Cli, server: Server, raw: Any) -> None:
    bury(raw, 10)
    env = {"REDIS_URL": server.url, "PENSTOCK_JOBS": "tests.integration.dlq_jobs:jobs"}
    with service_process("-m", "penstock_services.worker", env=env):
        stopped = cli("dlq", "replay", "--all", "--canary", "2", "--stop-on-failure")
        assert stopped.returncode == 1
        assert stopped.stdout.count("failed again") == 1
        assert "9 left alone" in stopped.stderr
        raw.set("mended", 1)
        went_on = cli("dlq", "replay", "--all", "--canary", "2", "--stop-on-failure", "--rate", "100")
        assert went_on.returncode == 0
        assert went_on.stdout.count("done this time") == 2
        assert went_on.stdout.count("replayed in trace") == 10, "nine, and the canary that had died again"
    assert cli.json("dlq", "ls") == []


def test_a_newer_letter_of_another_source_is_not_a_canary_that_failed_again(cli: Cli, server: Server, raw: Any) -> None:
    shops = {"shop-a": "1-0", "shop-b": "2-0"}
    letter, _ = [bury(raw, 1, **{"source": source, "dlq.entry": entry})[0] for source, entry in shops.items()]
    raw.set("mended", 1)
    env = {"REDIS_URL": server.url, "PENSTOCK_JOBS": "tests.integration.dlq_jobs:jobs"}
    with service_process("-m", "penstock_services.worker", env=env):
        replayed = cli("dlq", "replay", letter, "--canary", "1", "--stop-on-failure")

    assert (replayed.returncode, replayed.stdout.count("done this time")) == (0, 1), replayed.stdout


def test_an_edited_letter_is_replayed_with_the_new_data(cli: Cli, raw: Any, tmp_path: Path) -> None:
    [letter] = bury(raw, 1, data='{"priority": "hgih"}')
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i s/hgih/high/ $1\n")
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    assert cli("dlq", "replay", letter, "--edit", EDITOR=str(editor)).returncode == 0
    [(_, fields)] = raw.xrange("ingest:worker:retry")
    assert json.loads(fields[b"data"]) == {"priority": "high"}
    assert fields[b"id"] == b"crm-0"


def test_an_editor_left_without_a_change_replays_nothing(cli: Cli, raw: Any) -> None:
    [letter] = bury(raw, 1)
    left = cli("dlq", "replay", letter, "--edit", EDITOR="true")
    assert (left.returncode, raw.exists("ingest:worker:retry")) == (1, 0)
    assert "nothing was changed" in left.stderr


def test_letters_are_exported_as_json_lines(cli: Cli, raw: Any) -> None:
    letters = bury(raw, 3)
    lines = cli("dlq", "export").stdout.splitlines()
    assert [json.loads(line)["letter"] for line in lines] == letters


@pytest.mark.parametrize(
    "arguments", [("replay",), ("replay", "--all", "--type", "x"), ("replay", "--all", "--stop-on-failure")]
)
def test_an_unclear_wish_is_refused_with_a_sentence(cli: Cli, arguments: tuple[str, ...]) -> None:
    refused = cli("dlq", *arguments)
    assert refused.returncode == 2
    assert refused.stderr.startswith("penstock: ")


def test_what_an_event_says_cannot_steer_the_terminal(cli: Cli, raw: Any) -> None:
    steering = "\x1b\x07\x7f\x9b\u202e"
    [letter] = bury(raw, 1, cause=f"{steering}[2J", kind=f"{steering}[31mred")
    for line in ("ls", "ls --letters", f"show {letter}", "ls --json", f"show {letter} --json", "export"):
        shown = cli("dlq", *line.split())
        assert not set(steering) & set(shown.stdout), (line, shown)
        assert "[2J" in shown.stdout, (line, shown)
