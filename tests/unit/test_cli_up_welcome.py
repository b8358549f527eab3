"""What `penstock up` greets with must be true, and must work when it is pasted."""

from __future__ import annotations

import shlex

import msgspec
import pytest

from penstock import topology
from penstock.cli.up.welcome import welcome
from penstock.settings import Settings
from penstock_services.worker.ticket import Ticket

MESH = topology.parse("""
streams: {ingest: {}, events: {}}
services:
  gateway: {run: penstock_services.gateway, publishes: [ingest]}
  worker: {consumes: {ingest: {}}}
  audit: {consumes: {ingest: {unhandled: skip}, events: {}}}
webhooks: {demo: {scheme: github, secret: S, type: t}}
""")


def commands(text: str) -> list[list[str]]:
    """Return the commands it tells to try, split as a shell would."""
    pasted = text.partition("Try")[2].partition("\n")[2].partition("\n\n")[0]
    return [shlex.split(line) for line in pasted.replace("\\\n", " ").splitlines()]


def test_it_says_where_everything_is() -> None:
    settings = Settings(
        gateway_host="0.0.0.0", gateway_open=True, gateway_port=99, redis_url="redis://u:secret@redis:1/0"
    )
    text = welcome(settings, MESH, None, coloured=False)
    for part in (
        "http://127.0.0.1:99  POST /v1/events, /webhooks/demo; OPEN to whoever reaches it",
        "redis://u:***@redis:1/0",
        "ingest > worker + audit, events > audit, dlq",
    ):
        assert part in text
    assert "secret" not in text
    assert "\x1b" not in text


def test_it_shows_where_traces_are_drawn_if_they_are() -> None:
    assert "http://127.0.0.1:8080/traces" in welcome(Settings(), MESH, None, coloured=False)
    assert "/traces" not in welcome(Settings(gateway_host="0.0.0.0"), MESH, None, coloured=False)
    assert "/traces" in welcome(Settings(gateway_host="0.0.0.0", gateway_traces=True), MESH, None, coloured=False)


@pytest.mark.parametrize("tool", [None, "redis-cli", "valkey-cli"])
def test_its_commands_publish_a_good_ticket(tool: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name in (tool, "penstock") else None)
    curl, publish, status = commands(welcome(Settings(redis_port=7, prefix="m1:"), MESH, None, coloured=False))

    event = msgspec.json.decode(curl[curl.index("-d") + 1])
    assert curl[:2] == ["curl", "http://127.0.0.1:8080/v1/events"]
    assert event["type"] == "ticket.created"
    msgspec.convert(event["data"], Ticket)

    expected = [tool, "-p", "7", "XADD", "m1:ingest", "*", "type", "ticket.created", "data"] if tool else None
    assert publish[:-1] == (expected or ["penstock", "emit", "ticket.created"])
    msgspec.json.decode(publish[-1], type=Ticket)
    assert status == ["penstock", "status"]


def test_a_mesh_without_gateway_has_no_address_to_show() -> None:
    text = welcome(
        Settings(), topology.parse("services: {worker: {run: penstock_services.worker}}"), None, coloured=False
    )
    assert "curl" not in text
    assert "8080" not in text
