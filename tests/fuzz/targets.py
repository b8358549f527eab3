"""What reads what others write: each target takes any bytes and either reads them or refuses them by its own error.

Inputs are made by mutating seeds, from a number that names each of them: `feed(target, begin=N, examples=1)` makes
input N again.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from multidict import CIMultiDict

from penstock import event
from penstock.config import Duration
from penstock.dlq import dead_letter
from penstock.errors import PenstockError
from penstock.matchers import Matcher
from penstock.net import retry_after
from penstock.redaction import header_secrets, hide_url, redact, url_secrets
from penstock.topology import HmacOptions, Webhook, parse
from penstock.trace_context import TraceContext, parse_links
from penstock.traces.reports import read
from penstock.web.body import parse as parse_body
from penstock.web.clients import Clients
from penstock.web.problems import Problem
from penstock_services.gateway import cloudevents, handshakes, submission
from penstock_services.gateway.acceptance import idempotency_key
from penstock_services.gateway.schemes import SCHEMES, Signed
from penstock_services.gateway.sources import WebhookSource

SECRET = "whsec_" + "c2VjcmV0" * 4
_NEXT = b"\x1f"  # between fields, and between a head and its body
_LOOK = 100  # inputs between two looks at the clock
_TOKENS = (
    *(b'"', b"\\", b"%", b"{", b"}", b"[", b"]", b":", b";", b",", b"=", b"&", b"?", b"/", b"@", b"#", b"-", b"*"),
    *(
        b"\x00",
        b"\x1b",
        b"\xff",
        b"\xed\xa0\x80",
        b"\\ud800",
        b"\xe2\x80\xae",
        b"\r\n",
        _NEXT,
        b"null",
        b"1e999",
        b"NaN",
    ),
    *(b"-0", b"9" * 30, b"0" * 30, b"type", b"data", b"id", b"true", b"[" * 5_000, b'{"a":' * 5_000, b"\xd9\xa1"),
)


class Target(NamedTuple):
    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...] = ()


def text(data: bytes) -> str:
    """Return bytes as a header or a YAML file brings them: what is no UTF-8 stays as surrogates."""
    return data.decode(errors="surrogateescape")


def pairs(data: bytes) -> list[bytes]:
    fields = data.split(_NEXT)
    return fields[: len(fields) // 2 * 2]


def message(data: bytes) -> tuple[CIMultiDict[str], bytes]:
    head, _, body = data.partition(_NEXT)
    lines = (line.partition(b":") for line in head.split(b"\r\n"))
    return CIMultiDict((text(name), text(value.strip())) for name, _, value in lines), body


SOURCES = [
    WebhookSource(
        name,
        Webhook(scheme=name, secret="S", type="t", url="https://h/?a=1", hmac=HmacOptions(header="X-Sig")),
        [SECRET],
    )
    for name in SCHEMES
]
for _source in SOURCES:
    _source._said = float("inf")  # refusals are what most of this is about: they are not logged here


def _webhook(data: bytes) -> None:
    headers, body = message(data)
    source = SOURCES[len(body) % len(SOURCES)]
    request = Signed(headers=headers, body=body, now=time.time())
    if len(data) % 2:
        signed = source.verifiers[0].sign(body, request.now)
        headers.update(signed.headers)
        request = msgspec.structs.replace(request, query=signed.query)
    incoming = source.receive(request)
    if handshakes.answer(incoming, headers) is None:
        source.event_type(headers, incoming.content)


def _shown(data: bytes) -> None:
    url = text(data)
    redact(hide_url(url), url_secrets(url) | header_secrets({"Authorization": url}))


EVENT = b'{"type":"t","id":"1","source":"s","time":"2026-01-01T00:00:00Z","data":{"a":[1,2.5,null,"x"]},"extra":1}'
CLOUD = EVENT.replace(b'"type"', b'"specversion":"1.0","type"')
ENTRY = _NEXT.join((b"type", b"t", b"data", b"{}", b"id", b"1", b"time", b"2026-01-01T00:00:00Z", b"links", b"a b"))
RETRY = _NEXT.join((ENTRY, b"retry.entry", b"1-0", b"attempt", b"2", b"retry.crashes", b"1"))
DEAD = _NEXT.join((ENTRY, b"dlq.stream", b"ingest", b"dlq.entry", b"1-0", b"dlq.attempts", b"3", b"dlq.error", b"E: x"))
TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HOOK = b"Content-Type: application/json\r\nStripe-Signature: t=1,v1=2\r\nwebhook-id: m" + _NEXT + EVENT
SLACK_HELLO = b"Content-Type: application/json" + _NEXT + b'{"type":"url_verification","challenge":"\\ud83d"}'
GRID_HELLO = b"aeg-event-type: SubscriptionValidation" + _NEXT + b'[{"data":{"validationCode":"\\ud83d"}}]'
FORM = b"Content-Type: application/x-www-form-urlencoded\r\nX-Slack-Signature: v0=1" + _NEXT + b"a=1&b=%20&b"
TEXT = b"Content-Type: text/xml; charset=iso-8859-1" + _NEXT + b"<a>\xe4</a>"
YAML = b"streams: {ingest: {retention: {age: 7d}}}\nservices: {a: {consumes: {ingest: {}}, publishes: [ingest]}}\n"

TARGETS: dict[str, Target] = {
    "entry": Target((ENTRY,), lambda data: event.decode("ingest", "1-0", pairs(data)), (PenstockError,)),
    "retry entry": Target((RETRY,), lambda data: event.decode_retry("ingest", "1-0", pairs(data)), (PenstockError,)),
    "dead letter": Target(
        (DEAD,), lambda data: dead_letter.decode(b"1-0", dict(zip(*[iter(pairs(data))] * 2, strict=True)), None)
    ),
    "body": Target((EVENT,), parse_body, (Problem,)),
    "submission": Target((EVENT, b"[" + EVENT + b"]"), submission.read, (Problem,)),
    "cloudevents": Target((CLOUD,), lambda data: cloudevents.read(cloudevents.MEDIA_TYPES[1], data), (Problem,)),
    "cloudevents, batched": Target(
        (b"[" + CLOUD + b"," + CLOUD + b"]",), lambda data: cloudevents.read(cloudevents.BATCH, data), (Problem,)
    ),
    "cloudevents, binary": Target(
        (b"ce-specversion: 1.0\r\nce-id: 1\r\nce-source: s%20\r\nce-type: t" + _NEXT + b"{}",),
        lambda data: cloudevents.read_binary(*message(data)),
        (Problem,),
    ),
    "webhooks": Target((HOOK, FORM, TEXT, SLACK_HELLO, GRID_HELLO), _webhook, (Problem,)),
    "idempotency key": Target(
        (b'Idempotency-Key: "a\\"b"',), lambda data: idempotency_key(message(data)[0]), (Problem,)
    ),
    "authorization": Target(
        (b"Bearer x", b"Basic YTpi"), lambda data: Clients({}, declared=True).find(text(data)), (Problem,)
    ),
    "trace context": Target((TRACE,), lambda data: (TraceContext.parse(text(data)), parse_links(text(data)))),
    "job id": Target((b"ingest-1-0",), lambda data: event.parse_identity(text(data))),
    "report": Target((b'{"attempt":1,"duration":0.1,"next_attempt_at":"2026-01-01T00:00:00Z"}',), read),
    "address": Target((b"redis://u:pw@h:1/0?db=1", b"https://u:p%40@h/a?b=c"), _shown),
    "retry-after": Target((b"120", b"Fri, 31 Dec 1999 23:59:59 GMT"), lambda data: retry_after(text(data))),
    "duration": Target((b"30s", b"1.5h"), lambda data: Duration.parse(text(data)), (ValueError,)),
    "matcher": Target(
        (b"a=b*", b"a!=[b-c]?"), lambda data: Matcher.parse(text(data)).matches({"a": text(data)}), (ValueError,)
    ),
    "streams.yaml": Target((YAML,), lambda data: parse(data.decode(errors="replace")), (PenstockError,)),
}


def feed(target: Target, *, examples: int, begin: int = 0, until: float = float("inf")) -> int:
    """Give a target so many inputs, or what there is time for; return how many. What is no refusal is raised."""
    for number in range(begin, begin + examples):
        if number > begin and number % _LOOK == 0 and time.monotonic() > until:
            return number - begin
        data = mutated(target.seeds, number)
        try:
            with contextlib.suppress(*target.refusals):
                target.read(data)
        except Exception as error:
            error.add_note(f"input {number}: {data[:500]!r}")
            raise
    return examples


def mutated(seeds: tuple[bytes, ...], number: int) -> bytes:
    """Return input `number`: the seeds themselves first, then what a few changes make of one."""
    if number < len(seeds):
        return seeds[number]
    dice = random.Random(number)
    data = bytearray(dice.choice(seeds))
    for _ in range(dice.randint(1, 6)):
        begin = dice.randint(0, len(data))
        end = min(len(data), begin + dice.choice((0, 0, 1, 2, 8, 64)))
        data[begin:end] = dice.choice(
            (b"", dice.choice(_TOKENS), dice.randbytes(dice.randint(1, 4)), bytes(data[begin:end]) * 2)
        )
    return bytes(data)
