"""ntfy, on ntfy.sh or a server of one's own.

Rules: https://docs.ntfy.sh/publish (publishing as JSON, priorities, access tokens) and https://docs.ntfy.sh/config
(limits: 4,096 bytes for a message, 60 requests at once and one more every five seconds).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from penstock.redaction import forms
from penstock_services.notifier.channels.base import Channel, Delivery, Limit, Receipt, checked_url
from penstock_services.notifier.channels.credentials import header_secrets
from penstock_services.notifier.channels.wire import request
from penstock_services.notifier.message.text import cut

SERVER = "https://ntfy.sh"
_TITLE, _MESSAGE = 250, 4_000  # of the message, in bytes
_TOPIC = re.compile(r"[-_A-Za-z0-9]{1,64}")
_PRIORITIES = {"info": 2, "warning": 4, "critical": 5}
_TAGS = {"info": "information_source", "warning": "warning", "critical": "rotating_light"}


class Ntfy(Channel, frozen=True, kw_only=True, tag="ntfy"):
    """Publishes to a topic. `token` is an access token (tk_...) where the topic is protected."""

    topic: str
    server: str = SERVER
    token: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_url(self.server)
        if not _TOPIC.fullmatch(self.topic):
            raise ValueError("topic: expected up to 64 letters, digits, hyphens and underscores")
        if self.token is not None and not re.fullmatch(r"[\x21-\x7e]+", self.token):
            raise ValueError("token: expected an access token such as tk_...")

    @property
    def target(self) -> str:
        """Server and topic."""
        return f"{self.server}/{self.topic}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The token; and the topic, which is all one must know of an open one."""
        return (*forms((self.topic,)), *header_secrets(self._headers))

    @property
    def usual_limits(self) -> tuple[Limit, ...]:
        """What an anonymous visitor may send."""
        return (Limit(self.scope, 10, 50.0),)

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def payload(self, delivery: Delivery) -> dict[str, Any]:
        """Return the message; only what fires is loud."""
        message, severity = delivery.message, delivery.alert.severity
        told = {
            "topic": self.topic,
            "title": cut(message.title, _TITLE),
            "message": cut(message.plain, _MESSAGE, measure=lambda text: len(text.encode())),
            "priority": delivery.choose(_PRIORITIES[severity], 3, 3),
            "tags": [delivery.choose(_TAGS[severity], "eyes", "white_check_mark")],
        }
        return {**told, "click": message.runbook} if message.runbook else told

    async def send(self, delivery: Delivery, *, allow_private: bool) -> Receipt:
        """Publish it. 200 is success; 4xx but 429 are final."""
        answer = await request(
            "POST",
            f"{self.server.rstrip('/')}/",
            msgspec.json.encode(self.payload(delivery)),
            headers=self._headers,
            timeout=self.timeout,
            allow_private=allow_private,
        )
        if answer.status == 200:
            return Receipt(code=200, answer=f"message {answer.json().get('id', '')}".strip(), latency=answer.latency)
        raise answer.failure()
