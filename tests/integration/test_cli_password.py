"""No command shows the password of REDIS_URL, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.cli.main import COMMANDS
from tests.command_line import Cli
from tests.processes import ROOT
from tests.servers import BINARIES, Server, free_port, running_server

SECRET = "open-sesame-0123"
LINES = """
emit t
status
status --json
metrics
job ingest-1-0
trace 11111111111111111111111111111111
traces
alerts
alerts history
alerts explain dead_letters
alerts ack 1111111111111111
alerts unack 1111111111111111
silence ls
deliveries
notify preview
notify history
dlq ls
dlq show 1-0
dlq replay --yes
dlq purge --yes
dlq export
breakers ls
breakers open x
breakers close x
connections
containers ls
spool ls
spool check
spool drain
topology check
topology acl
"""
ENDLESS = {"up", "run", "demo"}
"""Those that start what asks Redis."""
APART = {"init", "secret", "webhook"}
"""Those that ask Redis nothing."""


@pytest.fixture(scope="module")
def locked() -> Iterator[Server]:
    """A server with a user that has a password."""
    kind = next(name for name, binary in BINARIES.items() if binary)
    port = free_port()
    with running_server(kind, port=port) as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "ada", "on", f">{SECRET}", "~*", "&*", "+@all")
        yield server


def urls(port: int) -> dict[str, str]:
    place = f"127.0.0.1:{port}/0"
    return {
        "right": f"redis://ada:{SECRET}@{place}",
        "wrong, in the query": f"redis://{place}?username=ada&password={SECRET}-not",
        "away": f"redis://ada:{SECRET}@127.0.0.1:{free_port()}/0",
        "malformed": f"redis://ada:{SECRET}/x@{place}",
    }


CASES = list(urls(1))


@pytest.fixture(params=CASES)
def url(request: pytest.FixtureRequest, locked: Server) -> str:
    return urls(locked.port)[request.param]


def test_the_walk_has_every_command() -> None:
    assert {line.split()[0] for line in LINES.splitlines() if line} | ENDLESS | APART == set(COMMANDS)


def test_no_command_shows_it(url: str, tmp_path: Path) -> None:
    cli = Cli(url, tmp_path)
    shipped = str(ROOT / "streams.yaml")
    for line in filter(None, LINES.splitlines()):
        done = cli(*line.split(), PENSTOCK_TOPOLOGY=shipped, PENSTOCK_DATA_DIR=str(tmp_path / "data"))
        assert SECRET not in done.stdout + done.stderr, (line, done)
