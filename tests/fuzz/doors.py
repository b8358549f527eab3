"""What comes in by other doors than the gateway's: presses of buttons, what is posted of alerts, what programs ask."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, cast

import msgspec

from penstock.keys import Keys
from penstock.live.connection import Follower
from penstock.live.live import Live
from penstock.live.topic import Filter
from penstock.mesh.alerts import ACKNOWLEDGEMENTS, ALERTS, NOTICES, SERVICE, Acknowledgement, AlertRecord, Notice
from penstock.mesh.deliveries import DeliveryQuery
from penstock.metrics.report import WindowQuery
from penstock.schemas import Alert
from penstock.web.access import Access, AccessPolicy
from penstock.web.clients import Clients
from penstock_services.alerts import api as alerts_api
from penstock_services.alerts.engine import Engine
from penstock_services.alerts.input import entries, whole
from penstock_services.alerts.rules import file as alerts_file
from penstock_services.alerts.state.state import AlertState
from penstock_services.notifier.buttons.slack_socket import SlackSocket, read_envelope
from penstock_services.notifier.buttons.telegram_updates import TelegramUpdates, Updates
from penstock_services.notifier.channels import Slack, Telegram
from penstock_services.notifier.config import config as notify_config
from penstock_services.notifier.reload import LiveConfig
from tests.fuzz.doubles import Asked, Publisher, Redis, ask, drive, make_runtime

FINGERPRINT, SINCE = "f1", "2026-11-22T10:00:00.000Z"
NOTIFY = """
channels:
  chat: {type: slack, url: "https://hooks.slack.com/services/T0/B0/x", app_token: xapp-1}
  bot: {type: telegram, token: "1:a", chat_id: "42", buttons: true}
routes: [{channels: [chat, bot]}]
"""
CONFIG = notify_config.parse(NOTIFY, environ={})
ALERT = Alert(
    fingerprint=FINGERPRINT, rule="r", severity="critical", status="firing", summary="s", reason="r", since=SINCE
)
HASHES = {
    Keys().state(SERVICE, ALERTS): {
        FINGERPRINT: msgspec.json.encode(AlertRecord(fingerprint=FINGERPRINT, rule="r", state="firing"))
    },
    Keys().state(SERVICE, NOTICES): {
        FINGERPRINT: msgspec.json.encode(Notice(alert=ALERT, members=(FINGERPRINT,), sent=1.0))
    },
    Keys().state(SERVICE, ACKNOWLEDGEMENTS): {
        "f2": msgspec.json.encode(Acknowledgement(fingerprint="f2", by="you", at=1.0)),
    },
}


def _make_live() -> Live:
    runtime = make_runtime("gateway")
    return Live(runtime.redis, runtime.keys, runtime.topology, stopping=cast(Any, None))


_live = _make_live()
POSITION = _live.position.encode()


class _Slack(SlackSocket):
    def _refuse(self, *_: object) -> bool:
        return True


class _Telegram(TelegramUpdates):
    async def refuse(self, answer_to: str, text: str, *, by: str, where: str) -> None:
        pass


_notifier = make_runtime("notifier")
published = cast(Publisher, _notifier.publisher)
"""What presses lead to."""
_slack = _Slack(LiveConfig(CONFIG), _notifier, "chat", cast(Slack, CONFIG.channels["chat"]))
_telegram = _Telegram(LiveConfig(CONFIG), _notifier, "bot", cast(Telegram, CONFIG.channels["bot"]))
_alerts = {(route.method, route.path): route for route in alerts_api.routes(make_runtime("alerts", Redis(HASHES)))}
_rules = alerts_file.load()


def slack(data: bytes) -> None:
    """Take a message of the WebSocket."""
    envelope = read_envelope(data)
    if envelope is not None:
        drive(_slack.take(envelope))


def telegram(data: bytes) -> None:
    """Take an answer of getUpdates."""
    for update in msgspec.json.decode(data, type=Updates).result:
        if update.callback_query is not None:
            drive(_telegram.take(update.callback_query))


def posted(path: str) -> Callable[[bytes], None]:
    """Return what takes the body of a POST to the alert manager; what it answers is JSON."""
    route = _alerts["POST", path]

    def take(data: bytes) -> None:
        msgspec.json.decode(ask(route, Asked(body=data)))

    return take


def withdrawn(data: bytes) -> None:
    """Take the address of a DELETE of an acknowledgement, and of a silence."""
    rest, _, query = data.decode(errors="replace").partition("?")
    ask(_alerts["DELETE", "/v1/silences/{id}"], Asked(rest=rest))
    ask(_alerts["DELETE", "/v1/acknowledgements/{fingerprint}"], Asked(rest=rest, query=query))


def window_query(data: bytes) -> None:
    """Take the query of GET /v1/metrics: the windows that it asks for can be counted."""
    query = WindowQuery.parse(Asked(query=data.decode(errors="replace")).query)
    first, last = query.span(1_800_000_000.0)
    int(first), int(last)


def history_query(data: bytes) -> None:
    """Take the query of GET /v1/alerts/history."""
    ask(_alerts["GET", "/v1/alerts/history"], Asked(query=data.decode(errors="replace")))


def roll_up(data: list[bytes]) -> None:
    """Fold an entry of the stream `metrics` into the alert state."""
    redis = Redis()
    redis.rows = [(b"1768464000000-0", dict(zip(data[::2], data[1::2], strict=True)))]

    async def fold() -> None:
        engine, state = Engine(_rules), AlertState()
        async for _, item in whole(entries(cast(Any, redis), "metrics", "0-0")):
            engine.fold(state, item)

    drive(fold())


def delivery_query(data: bytes) -> None:
    """Take the query of GET /v1/deliveries."""
    query = DeliveryQuery.parse(Asked(query=data.decode(errors="replace")).query)
    assert 1 <= query.limit <= 1_000


def last_event_id(data: bytes) -> None:
    """Take the position with which somebody comes back to a live stream."""
    follower = Follower(Filter())
    drive(_live.resume(follower, data.decode(errors="surrogateescape")))
    _live.leave(follower)


def headers(host: str, origin: str) -> None:
    """Take what a request says of where it comes from."""
    asked = types.SimpleNamespace(method="GET", headers={"Host": host, "Origin": origin})
    access = Access(Clients({}, declared=False), AccessPolicy(loopback=True))
    access.check_origin(cast(Any, asked), navigable=False)
