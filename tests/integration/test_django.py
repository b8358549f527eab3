"""Django: jobs after a commit and with a transaction, and the relay, with SQLite and Django's own test client."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import django
import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import Client

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.integration.django_shop.settings"
django.setup()

from penstock import ConfigurationError, InvalidEvent  # noqa: E402
from penstock.client.outbox import DELETED, KEPT  # noqa: E402
from penstock.django import mesh, submit_in_transaction, submit_on_commit  # noqa: E402
from penstock.django.models import OutboxEvent  # noqa: E402
from penstock.django.relay import Relay  # noqa: E402
from penstock.telemetry.current import parent  # noqa: E402
from tests.command_line import environment  # noqa: E402
from tests.hands import fields_of  # noqa: E402
from tests.integration.django_shop.models import Order  # noqa: E402
from tests.integration.test_asgi import SENDER, TRACE  # noqa: E402
from tests.integration.test_sync import MESH, SHOP  # noqa: E402
from tests.processes import DEADLINE, ROOT, eventually, service_process  # noqa: E402
from tests.servers import Server  # noqa: E402

Env = dict[str, str]


@contextlib.contextmanager
def shop(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Env]:
    """Have the project with a database and a Redis of this test's; yield the environment of its other processes."""
    (folder / "streams.yaml").write_text(MESH)
    env = {
        "REDIS_URL": server.url,
        "PENSTOCK_TOPOLOGY": str(folder / "streams.yaml"),
        "SHOP_DATABASE": str(folder / "db"),
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    config = apps.get_app_config("penstock")
    for name in ("mesh", "relay_mesh"):
        config.__dict__.pop(name, None)
    connection.close()
    connection.settings_dict["NAME"] = env["SHOP_DATABASE"]
    call_command("migrate", run_syncdb=True, verbosity=0)
    try:
        yield env | {"DJANGO_SETTINGS_MODULE": os.environ["DJANGO_SETTINGS_MODULE"], "PYTHONPATH": str(ROOT)}
    finally:
        mesh().close()
        config.relay_mesh.close()
        connection.close()


@pytest.fixture
def env(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Env]:
    with shop(server, tmp_path, monkeypatch) as env:
        yield env


def relay(env: Env, *options: str, script: str = "-m django penstock_relay") -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "error", *script.split(), *options]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def said_by(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    with process.stdout as output:
        return output.readline()


def prices(raw: Any) -> list[int]:
    return [json.loads(entry["data"])["price"] for entry in fields_of(raw, "orders")]


def fill(count: int) -> None:
    with transaction.atomic():
        for price in range(count):
            submit_in_transaction("order.placed", {"price": price})


@pytest.mark.usefixtures("env")
def test_a_job_goes_with_its_transaction_or_not_at_all(raw: Any) -> None:
    client = Client(raise_request_exception=False)
    placed = client.get("/place?price=7", headers=SENDER)
    assert parent() is None  # a thread answers one request after the other
    assert client.get("/place?price=-1").status_code == 500
    assert (Order.objects.count(), OutboxEvent.objects.count(), raw.exists("orders")) == (1, 1, 0)

    call_command("penstock_relay", "--once")

    (entry,) = fields_of(raw, "orders")
    assert OutboxEvent.objects.count() == 0
    assert entry["traceparent"].split("-")[1] == TRACE
    told = {name: entry[name] for name in ("id", "type", "data", "source", "subject", "tenant", "tracestate")}
    assert told == {
        "id": placed.json()["job"],
        "type": "order.placed",
        "data": '{"price":7}',
        "source": "shop-web",
        "subject": "o-7",
        "tenant": "acme",
        "tracestate": "vendor=1",
    }


def test_its_id_awaits_the_result(env: Env, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    with service_process("-m", "penstock", "run", "shop:service", cwd=tmp_path, env=env):
        job = submit_in_transaction("order.placed", {"price": 7})
        call_command("penstock_relay", "--once")
        assert mesh().job(job).result(DEADLINE) == {"paid": 7}


@pytest.mark.usefixtures("env")
def test_a_job_is_submitted_after_the_commit_as_it_was_before(raw: Any) -> None:
    client = Client(raise_request_exception=False)
    assert client.get("/after?price=7", headers=SENDER).status_code == 200
    assert client.get("/after?price=-1").status_code == 500

    (entry,) = fields_of(raw, "orders")
    assert entry["data"] == '{"price":7}'
    assert entry["traceparent"].split("-")[1] == TRACE


def test_while_redis_is_away_requests_go_on_and_the_outbox_keeps_jobs(
    own_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop(own_server, tmp_path, monkeypatch):
        mesh().publish("events", "here")
        own_server.kill()
        client = Client()
        assert [client.get(f"/{how}?price=7").status_code for how in ("place", "after")] == [200, 200]
        with pytest.raises(CommandError, match="Redis is unavailable"):
            call_command("penstock_relay", "--once")
        own_server.restart()
        call_command("penstock_relay", "--once")
        with own_server.client() as raw:
            assert prices(raw) == [7]  # of `place`; that of `after` is lost, as its docstring says
        assert Order.objects.count() == 2


def test_what_the_outbox_has_is_never_spooled(
    own_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_SPOOL_DIR", str(tmp_path / "spool"))
    with shop(own_server, tmp_path, monkeypatch):
        own_server.kill()
        fill(3)
        with pytest.raises(CommandError, match="Redis is unavailable"):
            call_command("penstock_relay", "--once")
        assert OutboxEvent.objects.count() == 3
        with pytest.raises(ConfigurationError, match="never to a spool"):
            Relay(mesh()).turn()
        own_server.restart()
        call_command("penstock_relay", "--once")
        with own_server.client() as raw:
            assert (prices(raw), OutboxEvent.objects.count()) == ([0, 1, 2], 0)


STEPS = [
    ("read", "after"),
    ("publish", "before"),
    ("publish", "amid"),
    ("publish", "after"),
    ("delete", "before"),
    ("delete", "after"),
    ("forget", "before"),
    ("forget", "after"),
]


@pytest.mark.parametrize(("step", "when"), STEPS)
def test_a_relay_that_is_killed_between_two_steps_loses_and_doubles_nothing(
    env: Env, raw: Any, step: str, when: str
) -> None:
    fill(20)
    dying = relay(env, step, when, script="tests/integration/django_shop/dying_relay.py")
    assert (said_by(dying), dying.wait(60)) == (b"", -signal.SIGKILL)

    call_command("penstock_relay", "--once")

    assert prices(raw) == list(range(20))
    assert OutboxEvent.objects.count() == 0


@pytest.mark.usefixtures("env")
def test_what_may_be_published_again_is_remembered_for_longer_than_a_relay_can_be_stuck(raw: Any) -> None:
    fill(3)
    stuck, other = Relay(mesh()), Relay(mesh())
    rows = stuck.read()
    assert other.publish(other.read()) == [None] * 3
    guards = raw.keys("dedupe:outbox:*")
    assert min(raw.ttl(guard) for guard in guards) > KEPT - 60 > 300 * 86_400

    assert other.turn() == 3
    assert stuck.publish(rows) == [None] * 3
    stuck.delete(rows)

    assert (prices(raw), OutboxEvent.objects.count()) == ([0, 1, 2], 0)
    assert DELETED - 60 < min(raw.ttl(guard) for guard in guards) <= max(raw.ttl(guard) for guard in guards) <= DELETED


def test_several_relays_one_of_which_is_killed_publish_each_event_once(env: Env, raw: Any) -> None:
    relays = [relay(env, "--interval", "0.01") for _ in range(3)]
    try:
        assert {said_by(process) for process in relays} == {b"publishing the outbox of default\n"}
        for turn in range(20):
            fill(100)
            if turn == 10:
                relays[0].kill()
        eventually(lambda: not OutboxEvent.objects.exists(), what="the outbox is empty", every=0.05, deadline=60)
    finally:
        for process in relays:
            process.terminate()
        codes = [process.wait(30) for process in relays]

    assert codes == [-signal.SIGKILL, 0, 0]
    assert sorted(prices(raw)) == sorted(list(range(100)) * 20)
    assert len({entry["id"] for entry in fields_of(raw, "orders")}) == 2_000


@pytest.mark.usefixtures("env")
def test_what_can_never_be_published_is_put_aside_and_holds_up_nothing(raw: Any) -> None:
    submit_in_transaction("order.placed", {"price": 1}, stream="ordres")
    fill(1)
    call_command("penstock_relay", "--once")

    (row,) = OutboxEvent.objects.all()
    assert row.refused.startswith("streams.yaml has no stream ordres")
    assert prices(raw) == [0]
    OutboxEvent.objects.update(stream="orders")  # by hand
    out = StringIO()
    call_command("penstock_relay", "--once", "--refused", stdout=out)
    assert out.getvalue() == "1 events are tried again\n"
    assert (prices(raw), OutboxEvent.objects.count()) == ([0, 1], 0)


@pytest.mark.usefixtures("env")
def test_an_event_may_be_due_later(raw: Any) -> None:
    submit_in_transaction("order.placed", {"price": 1}, delay=3_600)
    submit_in_transaction("order.placed", {"price": 2}, at="2020-01-01T00:00:00Z")
    call_command("penstock_relay", "--once")

    assert (prices(raw), raw.zcard("orders:scheduled")) == ([2], 1)


@pytest.mark.usefixtures("env")
@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"data": float("nan")}, "it holds nan"),
        ({"subject": 7}, "subject must be text"),
        ({"delay": 1.0, "at": "2030-01-01T00:00:00Z"}, "give one of them"),
        ({"delay": -1.0}, "delay is 0 to"),
        ({"type": ""}, "no type"),
    ],
)
def test_what_is_senseless_is_told_within_the_transaction(given: dict[str, Any], why: str) -> None:
    for call in (submit_in_transaction, submit_on_commit):
        with pytest.raises(InvalidEvent, match=why):
            call(**{"type": "order.placed", **given})
    assert not OutboxEvent.objects.exists()


@pytest.mark.usefixtures("env")
def test_the_migrations_are_those_of_the_model() -> None:
    call_command("makemigrations", "penstock", check=True, dry_run=True, verbosity=0)
    call_command("check", fail_level="WARNING")
