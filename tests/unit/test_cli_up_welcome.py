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
  worker: {run: penstock_services.worker, consumes: {ingest: {}}}
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


OWN = topology.parse("""
streams: {ingest: {}, orders: {}}
services:
  gateway: {run: penstock_services.gateway, publishes: [ingest]}
  shop: {run: "own:service", consumes: {orders: {}}}
""")


@pytest.mark.parametrize("tool", [None, "redis-cli"])
def test_to_services_of_ones_own_it_names_the_stream_and_leaves_the_type_open(
    tool: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}" if name in (tool, "penstock") else None)
    text = welcome(Settings(), OWN, None, coloured=False)

    assert "Try, in another terminal, with a TYPE and data that shop takes:" in text
    assert "ticket" not in text
    by_hand = ["redis-cli", "XADD", "orders", "*", "type", "TYPE", "data", "{}"]
    assert commands(text) == [
        by_hand if tool else ["penstock", "emit", "TYPE", "{}", "--stream", "orders"],
        ["penstock", "status"],
    ]


def test_a_type_that_is_known_is_named_and_goes_through_a_gateway_that_takes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/bin/penstock" if name == "penstock" else None)
    mesh = topology.parse("""
streams: {orders: {kind: work}, facts: {}}
services:
  gateway: {run: penstock_services.gateway, publishes: [orders]}
  audit: {run: "own:audit", consumes: {facts: {}}}
  shop: {run: "own:service", consumes: {orders: {}}}
""")
    text = welcome(Settings(), mesh, None, coloured=False, handled={"shop": ("orders", "order.placed")})

    assert "Try, in another terminal, with data that shop takes:" in text
    curl, *others = commands(text)
    assert curl[1] == "http://127.0.0.1:8080/v1/events?stream=orders"
    assert msgspec.json.decode(curl[-1]) == {"type": "order.placed", "data": {}}
    assert others == [["penstock", "emit", "order.placed", "{}", "--stream", "orders"], ["penstock", "status"]]


@pytest.mark.parametrize(
    ("services", "curl"),
    [
        ('{gateway: {run: penstock_services.gateway}, shop: {run: "own:service", consumes: {ingest: {}}}}', True),
        ('{shop: {run: "own:service", consumes: {ingest: {}}}}', False),
        ('{gateway: {run: penstock_services.gateway}, worker: {run: "own:jobs", consumes: {ingest: {}}}}', True),
    ],
)
def test_through_the_gateway_goes_what_is_read_of_ingest(services: str, curl: bool) -> None:
    text = welcome(Settings(), topology.parse(f"streams: {{ingest: {{}}}}\nservices: {services}"), None, coloured=False)

    assert ('"type":"TYPE","data":{}' in text) == curl
    assert "ticket" not in text


@pytest.mark.parametrize(
    "services",
    [
        "{gateway: {run: penstock_services.gateway}}",  # nobody reads
        "{gateway: {run: penstock_services.gateway}, worker: {consumes: {ingest: {}}}}",  # not here
        "{notifier: {run: penstock_services.notifier, consumes: {alerts: {}}}}",  # nothing to send by hand
    ],
)
def test_where_nothing_reads_what_a_person_would_send_nothing_is_offered(services: str) -> None:
    mesh = topology.parse(f"streams: {{ingest: {{}}, alerts: {{}}}}\nservices: {services}")
    assert [command[-1] for command in commands(welcome(Settings(), mesh, None, coloured=False))] == ["status"]


def test_an_own_service_under_the_name_of_one_that_ships_has_no_address() -> None:
    mesh = topology.parse('{streams: {ingest: {}}, services: {worker: {run: "own:jobs", consumes: {ingest: {}}}}}')
    assert "http://" not in welcome(Settings(), mesh, None, coloured=False)


def test_it_says_who_is_not_ready_yet() -> None:
    text = welcome(Settings(), MESH, None, coloured=False, late=["worker", "shop"])
    assert "Penstock runs, and waits for worker, shop" in text
    assert "is ready" not in text


def test_a_mesh_without_gateway_has_no_address_to_show() -> None:
    text = welcome(
        Settings(), topology.parse("services: {worker: {run: penstock_services.worker}}"), None, coloured=False
    )
    assert "curl" not in text
    assert "8080" not in text
