"""Discord, through a webhook.

Rules: https://discord.com/developers/docs/resources/webhook (execute, edit), /resources/message (embed limits),
/topics/rate-limits (429, X-RateLimit-*, and the ban of addresses that go on after 401, 403 and 429).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from penstock.net import seconds
from penstock_services.notifier.channels.base import Channel, Delivery, Limit, Receipt, checked_url
from penstock_services.notifier.channels.credentials import url_secrets
from penstock_services.notifier.channels.wire import Answer, SendFailed, request
from penstock_services.notifier.message.message import Message
from penstock_services.notifier.message.text import cut, utf16_units

_TITLE, _DESCRIPTION, _NAME, _VALUE, _FOOTER, _TOTAL = 256, 4_096, 256, 1_024, 2_048, 6_000
_LINK = 2_048
_API_VERSION = 10  # without one Discord takes its default, which changes: /developers/docs/reference#api-versioning
_UNKNOWN_MESSAGE, _UNKNOWN_WEBHOOK, _BAD_TOKEN = 10008, 10015, 50027
_MARKUP = re.compile(r"([\\*_~`|>#\[\]<])")
_URL = re.compile(r"(https?://\S+)")


class Discord(Channel, frozen=True, kw_only=True, tag="discord"):
    """Posts one embed; what follows about the alert edits it."""

    url: str

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_url(self.url)

    @property
    def target(self) -> str:
        """The URL."""
        return self.url

    @property
    def secrets(self) -> tuple[str, ...]:
        """The URL: whoever has it may post."""
        return url_secrets(self.url)

    @property
    def usual_limits(self) -> tuple[Limit, ...]:
        """Five messages in two seconds for each webhook, thirty in a minute for its channel."""
        return (Limit(self.scope, 5, 2.0), Limit(f"{self.scope}:minute", 30, 60.0))

    def payload(self, delivery: Delivery) -> dict[str, Any]:
        """Return the message: one embed, and nobody is mentioned."""
        return {"embeds": [_embed(delivery.message)], "allowed_mentions": {"parse": []}}

    async def send(self, delivery: Delivery, *, allow_private: bool) -> Receipt:
        """Edit the alert's message if there is one, else post one.

        wait=true: without it Discord reports success for messages it has not saved.
        """
        body = msgspec.json.encode(self.payload(delivery))
        if delivery.previous:
            answer = await self._request("PATCH", self._address(f"/messages/{delivery.previous}"), body, allow_private)
            if answer.status == 200:
                return _receipt(answer)
            if not _may_post_anew(answer):
                raise _failure(answer)
            body = msgspec.json.encode(self.payload(delivery.anew()))
        answer = await self._request("POST", self._address(wait="true"), body, allow_private)
        if answer.status == 200:
            return _receipt(answer)
        raise _failure(answer)

    async def _request(self, method: str, url: str, body: bytes, allow_private: bool) -> Answer:
        return await request(method, url, body, timeout=self.timeout, allow_private=allow_private)

    def _address(self, path: str = "", **query: str) -> str:
        parts = urlsplit(self.url)
        path = parts.path.rstrip("/").replace("/api/webhooks/", f"/api/v{_API_VERSION}/webhooks/") + path
        asked = {**dict(parse_qsl(parts.query)), **query}  # a thread_id stays
        return urlunsplit(parts._replace(path=path, query=urlencode(asked)))


def escape(text: str, limit: int) -> str:
    """Escape Markdown, but not within URLs, which the backslashes would break, and cut."""
    return _escaped(cut(text, limit, measure=lambda part: utf16_units(_escaped(part))))


def _escaped(text: str) -> str:
    return "".join(
        part if index % 2 else _MARKUP.sub(r"\\\1", part)  # split() puts the URLs at the odd places
        for index, part in enumerate(_URL.split(text))
    )


def _embed(message: Message) -> dict[str, Any]:
    fields = [_field(fact.name, fact.value, inline=True) for fact in message.facts]
    for name, items, separator in (
        ("Labels", message.labels, " · "),
        ("Traces", message.traces, "\n"),
        ("Note", message.notices, "\n"),
    ):
        if items:
            fields.append(_field(name, separator.join(items), inline=False))
    embed: dict[str, Any] = {
        "title": escape(message.title, _TITLE),
        "color": message.colour,
        "fields": fields,
        "footer": {"text": cut(message.footer, _FOOTER // 8, measure=utf16_units)},
    }
    if message.runbook and len(message.runbook) <= _LINK:
        embed["url"] = message.runbook
        fields.append(_field("Runbook", message.runbook, inline=False))
    room = _TOTAL - _size(embed)
    embed["description"] = escape(message.body(_TITLE), min(_DESCRIPTION, max(0, room)))
    return embed


def _field(name: str, value: str, *, inline: bool) -> dict[str, Any]:
    return {"name": escape(name, _NAME), "value": escape(value, _VALUE) or "-", "inline": inline}


def _size(embed: dict[str, Any]) -> int:
    texts = [embed["title"], embed["footer"]["text"]]
    texts += [part for field in embed["fields"] for part in (field["name"], field["value"])]
    return sum(map(utf16_units, texts))


def _receipt(answer: Answer) -> Receipt:
    said = answer.json()
    return Receipt(
        code=answer.status,
        answer=f"message {said['id']}" if "id" in said else answer.body,
        latency=answer.latency,
        reference=str(said["id"]) if "id" in said else None,
        pause=_pause(answer.headers),
    )


def _pause(headers: Mapping[str, str]) -> float:
    """Return the seconds until the webhook's bucket fills again, if this message was the last it held."""
    if headers.get("X-RateLimit-Remaining") != "0":
        return 0.0
    return seconds(headers.get("X-RateLimit-Reset-After")) or 0.0


def _may_post_anew(answer: Answer) -> bool:
    """Whether only the message is at fault: somebody deleted it, or it cannot be edited."""
    said = answer.json()
    return answer.status in (400, 403, 404) and said.get("code") not in (_UNKNOWN_WEBHOOK, _BAD_TOKEN)


def _failure(answer: Answer) -> SendFailed:
    said = answer.json()
    if answer.status in (401, 404) or said.get("code") in (_UNKNOWN_WEBHOOK, _BAD_TOKEN):
        return answer.refused(gone=True)  # a webhook that is gone must never be used again
    after = seconds(said.get("retry_after"))
    if after is None and answer.status == 429 and "Retry-After" not in answer.headers:
        after = seconds(answer.headers.get("X-RateLimit-Reset-After"))
    return answer.failure(after=after)
