"""Opsgenie, through its Alert API.

Rules: https://docs.opsgenie.com/docs/alert-api (fields, limits, answers) and https://docs.opsgenie.com/docs/response
(codes). Alerts with one `alias` are one; requests are accepted with 202 and processed later.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from penstock.redaction import forms
from penstock_services.notifier.channels.base import Channel, Delivery, Limit, Receipt, checked_url, fingerprint_key
from penstock_services.notifier.channels.wire import request
from penstock_services.notifier.message.text import cut

ALERT_API = "https://api.opsgenie.com"
_MESSAGE, _DESCRIPTION, _ENTITY, _TAG, _TAGS, _DETAIL = 130, 15_000, 512, 50, 20, 300
_PRIORITIES = {"critical": "P1", "warning": "P3", "info": "P5"}


class Opsgenie(Channel, frozen=True, kw_only=True, tag="opsgenie"):
    """Creates, acknowledges and closes one alert. `api` is https://api.eu.opsgenie.com for accounts in the EU.

    `team` is the name of the team that is to respond, if not the integration's own.
    """

    key: str
    team: str | None = None
    api: str = ALERT_API

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_url(self.api)
        if not self.key.isascii() or not self.key.isprintable() or not self.key.strip() or " " in self.key:
            raise ValueError("key: expected the API key of an Opsgenie integration")

    @property
    def target(self) -> str:
        """The integration."""
        return self.key

    @property
    def secrets(self) -> tuple[str, ...]:
        """The API key."""
        return forms((self.key,))

    @property
    def usual_limits(self) -> tuple[Limit, ...]:
        """A rate that every plan allows."""
        return (Limit(self.scope, 2, 1.0),)

    def payload(self, delivery: Delivery) -> dict[str, Any]:
        """Return the alert, or the note that goes with its acknowledgement or end."""
        alert, message = delivery.alert, delivery.message
        if delivery.choose(False, True, True):
            return _note(delivery)
        responders = [{"type": "team", "name": self.team}] if self.team else []
        return {
            "message": cut(message.title, _MESSAGE),
            "alias": fingerprint_key(delivery),
            "description": cut(message.plain, _DESCRIPTION),
            "priority": _PRIORITIES[alert.severity],
            "entity": cut(alert.rule, _ENTITY),
            "source": "Penstock",
            "tags": [cut(tag, _TAG) for tag in (alert.severity, *message.labels)][:_TAGS],
            "details": {name: cut(value, _DETAIL) for name, value in list(alert.labels.items())[:_TAGS]},
            **({"responders": responders} if responders else {}),
        }

    async def send(self, delivery: Delivery, *, allow_private: bool) -> Receipt:
        """Send it. 202 is success; 4xx but 429 are final, 5xx are tried again.

        Where an acknowledgement is taken back Opsgenie may not know the alert yet, and an alert that it knows it only
        counts: so both are said.
        """
        said = self.payload(delivery)
        if delivery.alert.unacknowledged_by:
            await self._post("", said, allow_private)
            return await self._post(_action(delivery, "unacknowledge"), _note(delivery), allow_private)
        path = delivery.choose("", _action(delivery, "acknowledge"), _action(delivery, "close"))
        return await self._post(path, said, allow_private)

    async def _post(self, path: str, said: dict[str, Any], allow_private: bool) -> Receipt:
        answer = await request(
            "POST",
            f"{self.api.rstrip('/')}/v2/alerts{path}",
            msgspec.json.encode(said),
            headers={"Authorization": f"GenieKey {self.key}"},
            timeout=self.timeout,
            allow_private=allow_private,
        )
        if answer.status == 202:
            return Receipt(code=202, answer=answer.body, latency=answer.latency)
        raise answer.failure()


def _action(delivery: Delivery, name: str) -> str:
    return f"/{quote(fingerprint_key(delivery), safe='')}/{name}?identifierType=alias"


def _note(delivery: Delivery) -> dict[str, Any]:
    alert = delivery.alert
    by = alert.acknowledged_by or alert.unacknowledged_by or "Penstock"
    return {"source": "Penstock", "note": cut(delivery.message.plain, _DESCRIPTION), "user": cut(by, 100)}
