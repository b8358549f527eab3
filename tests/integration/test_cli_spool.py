"""`penstock spool` shows, checks and empties what was accepted while Redis was away."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.event import encode
from penstock.redis.connection import hide_password
from penstock.spool.directory import Owner
from tests.command_line import Cli
from tests.hands import Raw, connected, fields_of
from tests.servers import Server
from tests.spools import aside, publisher, segment_files, spooling


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def cli(own_server: Server, tmp_path: Path, folder: Path) -> Cli:
    made = Cli(own_server.url, tmp_path)
    made.env |= {"PENSTOCK_SPOOL_DIR": str(folder), "PENSTOCK_SPOOL_MIN_FREE": "0"}
    return made


async def leave_behind(server: Server, folder: Path, count: int, *, url: str | None = None) -> None:
    """Have a process spool events and end while Redis is away; Redis is back then."""
    owner = Owner(program="shop", server=hide_password(url or server.url), prefix="")
    async with connected(server) as client, publisher(client, spooling(folder, owner=owner)) as made:
        server.stop()
        for number in range(count):
            await made.publish("ingest", encode("order.placed", str(number), event_id=f"e-{number}"))
    server.start()


def numbers(raw: Raw) -> list[str]:
    return [fields["data"] for fields in fields_of(raw, "ingest")]


async def test_what_a_process_left_is_listed_checked_and_drained(cli: Cli, own_server: Server, folder: Path) -> None:
    await leave_behind(own_server, folder, 3)

    [one] = cli.json("spool", "ls")["spools"]
    assert (one["events"], one["in_use"], one["owner"]["program"], one["damage"]) == (3, False, "shop", [])
    assert one["name"] in cli("spool", "ls").stdout
    assert cli("spool", "check").stdout == "1 spools, 3 events: all can be read\n"
    assert cli("spool", "drain").stdout == "published 3 events\n"
    assert cli("spool", "ls").stdout == "nothing is spooled\n"
    with own_server.client() as raw:
        assert numbers(raw) == ["0", "1", "2"]


async def test_damage_is_found_without_touching_it_and_put_aside_by_draining(
    cli: Cli, own_server: Server, folder: Path
) -> None:
    await leave_behind(own_server, folder, 3)
    (segment,) = segment_files(folder)
    data = segment.read_bytes().replace(b"e-1", b"e-7")
    segment.write_bytes(data)

    checked = cli("spool", "check")
    assert checked.returncode == 1
    assert f"{segment.name}, bytes" in checked.stdout
    assert "1 of 1 spools are damaged" in checked.stderr
    assert segment.read_bytes() == data
    assert "events of the spool are lost" in cli("spool", "drain").stderr
    with own_server.client() as raw:
        assert numbers(raw) == ["0", "2"]
    assert "were put aside" in cli("spool", "check").stderr
    assert "a segment that was damaged" in cli("spool", "ls").stdout
    (kept,) = aside(folder)
    assert kept.read_bytes() == data
    kept.unlink()
    assert cli("spool", "check").returncode == 0


async def test_the_spool_of_a_running_process_is_left_to_it(cli: Cli, own_server: Server, folder: Path) -> None:
    async with connected(own_server) as client, publisher(client, spooling(folder)) as made:
        await made.publish("ingest", encode("t", "0"))
        [one] = cli.json("spool", "ls")["spools"]
        assert one["in_use"]
        refused = cli("spool", "drain", one["name"])
        assert refused.returncode == 1
        assert "publishes it itself" in refused.stderr
        assert cli("spool", "drain").stdout == "published 0 events\n"


async def test_the_spool_of_another_mesh_is_drained_only_by_name(cli: Cli, own_server: Server, folder: Path) -> None:
    await leave_behind(own_server, folder, 2, url="redis://elsewhere")
    [one] = cli.json("spool", "ls")["spools"]
    assert cli("spool", "drain").stdout == "published 0 events\n"
    assert cli("spool", "drain", one["name"]).stdout == "published 2 events\n"


async def test_while_redis_is_away_draining_says_so_and_keeps_all(cli: Cli, own_server: Server, folder: Path) -> None:
    await leave_behind(own_server, folder, 2)
    own_server.stop()
    assert cli("spool", "drain").returncode == 3
    assert cli.json("spool", "ls")["spools"][0]["events"] == 2


def test_what_is_missing_is_said(cli: Cli, tmp_path: Path) -> None:
    assert "set PENSTOCK_SPOOL_DIR" in cli("spool", "ls", PENSTOCK_SPOOL_DIR="").stderr
    (tmp_path / "spool").mkdir()
    unknown = cli("spool", "drain", "nothing")
    assert (unknown.returncode, "has no spool nothing" in unknown.stderr) == (2, True)
