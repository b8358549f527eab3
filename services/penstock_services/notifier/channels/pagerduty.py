"""PagerDuty, through an integration of type Events API v2.

Rules: https://developer.pagerduty.com/docs/events-api-v2-overview (answers, limits) and
https://developer.pagerduty.com/docs/send-alert-event (fields). All events with one `dedup_key` are one alert there.
"""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.redaction import forms
from penstock_services.notifier.channels.base import Channel, Delivery, Limit, Receipt, checked_url, fingerprint_key
from penstock_services.notifier.channels.wire import request
from penstock_services.notifier.message.text import cut

EVENTS_API = "https://events.pagerduty.com"
_SUMMARY, _SOURCE = 1_024, 255


class PagerDuty(Channel, frozen=True, kw_only=True, tag="pagerduty"):
    """Triggers, acknowledges and resolves one alert. In the EU `api` is https://events.eu.pagerduty.com."""

    routing_key: str
    api: str = EVENTS_API

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_url(self.api)
        if len(self.routing_key) != 32 or not self.routing_key.isalnum():
            raise ValueError("routing_key: expected the 32 characters of an integration key (Events API v2)")

    @property
    def target(self) -> str:
        """The integration."""
        return self.routing_key

    @property
    def secrets(self) -> tuple[str, ...]:
        """The integration key."""
        return forms((self.routing_key,))

    @property
    def usual_limits(self) -> tuple[Limit, ...]:
        """120 events a minute for each integration."""
        return (Limit(self.scope, 120, 60.0),)

    def payload(self, delivery: Delivery) -> dict[str, Any]:
        """Return the event; an end and an acknowledgement need no more than its key."""
        told: dict[str, Any] = {
            "routing_key": self.routing_key,
            "event_action": delivery.choose("trigger", "acknowledge", "resolve"),
            "dedup_key": fingerprint_key(delivery),
        }
        if told["event_action"] != "trigger":
            return told
        alert, message = delivery.alert, delivery.message
        links = [{"href": message.runbook, "text": "Runbook"}] if message.runbook else []
        return {
            **told,
            "client": "Penstock",
            "links": links,
            "payload": {
                "summary": cut(message.title, _SUMMARY) or alert.rule,
                "source": cut(alert.labels.get("service", "penstock"), _SOURCE) or "penstock",
                "severity": alert.severity,  # its names are among theirs
                "timestamp": message.time,
                "class": alert.rule,
                "custom_details": {"text": message.plain, **alert.labels},
            },
        }

    async def send(self, delivery: Delivery, *, allow_private: bool) -> Receipt:
        """Send the event. 202 is success, 400 is final, 429 and 5xx are tried again."""
        body = msgspec.json.encode(self.payload(delivery))
        url = f"{self.api.rstrip('/')}/v2/enqueue"
        answer = await request("POST", url, body, timeout=self.timeout, allow_private=allow_private)
        if answer.status == 202:
            return Receipt(code=202, answer=answer.body, latency=answer.latency)
        raise answer.failure()
