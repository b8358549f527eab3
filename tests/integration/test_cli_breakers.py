"""`penstock breakers` shows circuit breakers and works them by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.command_line import Cli
from tests.servers import Server


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    return Cli(server.url, tmp_path)


def test_a_breaker_is_opened_and_closed_by_hand_and_events_tell_of_it(cli: Cli, raw: Any) -> None:
    assert cli("breakers", "ls").stdout == "no circuit breaker was used yet\n"
    assert cli("breakers", "open", "crm", "--reason", "maintenance").stdout == "crm is open\n"
    [shown] = cli.json("breakers", "ls")
    assert (shown["name"], shown["state"], shown["healthy"], shown["reason"]) == ("crm", "open", False, "maintenance")
    assert "maintenance" in cli("breakers", "ls").stdout
    assert cli("breakers", "close", "crm").stdout == "crm is closed\n"
    [shown] = cli.json("breakers", "ls")
    assert (shown["state"], shown["healthy"]) == ("closed", True)
    assert [fields[b"type"] for _, fields in raw.xrange("events")] == [b"breaker.opened", b"breaker.closed"]
