"""What reads what others write: each target takes any bytes and either reads them or refuses them by its own error.

`feed(target, begin=N, examples=1)` gives it input N again.
"""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Callable
from email import message_from_bytes
from typing import NamedTuple

import msgspec

from penstock import event
from penstock.config import Duration
from penstock.dlq import dead_letter
from penstock.errors import UNREADABLE, PenstockError
from penstock.jobs import progress, record
from penstock.live import websocket
from penstock.matchers import Matcher
from penstock.metrics import rollup, tally
from penstock.net import retry_after
from penstock.redaction import header_secrets, hide_url, redact, url_secrets
from penstock.schemas import Alert
from penstock.spool import segment
from penstock.topology import HmacOptions, Webhook, parse
from penstock.trace_context import TraceContext, parse_links
from penstock.traces.reports import read
from penstock.web.body import parse as parse_body
from penstock.web.clients import Clients
from penstock.web.problems import Problem
from penstock_services.alerts.rules import file as alerts_file
from penstock_services.gateway import cloudevents, handshakes, submission
from penstock_services.gateway.acceptance import idempotency_key
from penstock_services.gateway.schemes import SCHEMES, Signed
from penstock_services.gateway.sources import WebhookSource
from penstock_services.metrics import count
from penstock_services.notifier import preview
from penstock_services.notifier.channels import mail
from penstock_services.notifier.config import config as notify_config
from tests.alerts import ALERT, make_delivery
from tests.fuzz import doors, seeds
from tests.fuzz.inputs import NEXT, message, mutated, pairs, text

SECRET = "whsec_" + "c2VjcmV0" * 4
_MAIL_HEADERS = {
    *("Content-Type", "MIME-Version", "From", "To", "Subject", "Date", "Message-ID", "References", "In-Reply-To"),
    "Auto-Submitted",
}
_LOOK = 100  # inputs between two looks at the clock


class Target(NamedTuple):
    """`seeds` are what is meant to come; `read` takes any bytes, and may raise `refusals` and nothing else."""

    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...] = ()


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


def _yaml(data: bytes) -> str:
    """Return text of a length at which the deepest nesting takes PyYAML no second."""
    return data.decode(errors="replace")[:700]


def _event(data: bytes) -> None:
    """Read an entry, and count it, as whoever is behind it does."""
    found = event.decode("ingest", "1800000000000-0", pairs(data))
    counted = count.tally([found], lateness_ms=5_000, now_ms=1_800_000_000_000)
    for window in counted.values():
        assert tally.unpack(tally.pack(window)).series == window.series
        msgspec.json.encode(rollup.roll_up(window, 10.0))
    _ = found.trace, found.due


def _progress(data: bytes) -> None:
    fields = pairs(data)
    told = progress.read_progress("1800000000000-0", dict(zip(fields[::2], fields[1::2], strict=True)))
    assert b"null" not in msgspec.json.encode(told[2].share)


def _spooled(data: bytes) -> None:
    """Read a segment: records and damage, one behind the other, to its end."""
    ends = [0, *(found.end for found in segment.walk(data, seeds.SALT))]
    assert ends[-1] == len(data)
    assert ends == sorted(set(ends))


def _mail(data: bytes) -> None:
    """Write a mail about an alert: whatever that holds, it has the headers that we gave it, and two parts."""
    delivery = make_delivery(msgspec.json.decode(data, type=Alert))
    addressed = mail.envelope(delivery, sender="a@example.com", to=("b@example.com",), recipient="b@example.com")
    written = message_from_bytes(mail.write(addressed).as_bytes())
    assert set(written.keys()) <= _MAIL_HEADERS
    assert [part.get_content_type() for part in written.walk()] == ["multipart/alternative", "text/plain", "text/html"]


TARGETS: dict[str, Target] = {
    "entry": Target((seeds.ENTRY, seeds.DELAYED, seeds.SCHEDULED, seeds.FAILED), _event, (PenstockError,)),
    "retry entry": Target(
        (seeds.RETRY,), lambda data: event.decode_retry("ingest", "1-0", pairs(data)), (PenstockError,)
    ),
    "dead letter": Target(
        (seeds.DEAD,), lambda data: dead_letter.decode(b"1-0", dict(zip(*[iter(pairs(data))] * 2, strict=True)), None)
    ),
    "body": Target((seeds.EVENT,), parse_body, (Problem,)),
    "submission": Target(
        (seeds.EVENT, b"[" + seeds.EVENT + b"]", b'{"type":"t","in":90}', b'{"type":"t","at":"2026-01-01T00:00Z"}'),
        submission.read,
        (Problem,),
    ),
    "cloudevents": Target((seeds.CLOUD,), lambda data: cloudevents.read(cloudevents.MEDIA_TYPES[1], data), (Problem,)),
    "cloudevents, batched": Target(
        (b"[" + seeds.CLOUD + b"," + seeds.CLOUD + b"]",),
        lambda data: cloudevents.read(cloudevents.BATCH, data),
        (Problem,),
    ),
    "cloudevents, binary": Target(
        (b"ce-specversion: 1.0\r\nce-id: 1\r\nce-source: s%20\r\nce-type: t" + NEXT + b"{}",),
        lambda data: cloudevents.read_binary(*message(data)),
        (Problem,),
    ),
    "webhooks": Target((seeds.HOOK, seeds.FORM, seeds.TEXT, seeds.SLACK_HELLO, seeds.GRID_HELLO), _webhook, (Problem,)),
    "idempotency key": Target(
        (b'Idempotency-Key: "a\\"b"',), lambda data: idempotency_key(message(data)[0]), (Problem,)
    ),
    "authorization": Target(
        (b"Bearer x", b"Basic YTpi"), lambda data: Clients({}, declared=True).find(text(data)), (Problem,)
    ),
    "trace context": Target((seeds.TRACE,), lambda data: (TraceContext.parse(text(data)), parse_links(text(data)))),
    "job id": Target((b"ingest-1-0",), lambda data: event.parse_identity(text(data))),
    "report": Target((b'{"attempt":1,"duration":0.1,"next_attempt_at":"2026-01-01T00:00:00Z"}',), read),
    "address": Target((b"redis://u:pw@h:1/0?db=1", b"https://u:p%40@h/a?b=c"), _shown),
    "retry-after": Target((b"120", b"Fri, 31 Dec 1999 23:59:59 GMT"), lambda data: retry_after(text(data))),
    "duration": Target((b"30s", b"1.5h"), lambda data: Duration.parse(text(data)), (ValueError,)),
    "matcher": Target(
        (b"a=b*", b"a!=[b-c]?"), lambda data: Matcher.parse(text(data)).matches({"a": text(data)}), (ValueError,)
    ),
    "streams.yaml": Target((seeds.YAML,), lambda data: parse(_yaml(data)), (PenstockError,)),
    "alerts.yaml": Target((seeds.ALERTS,), lambda data: alerts_file.parse(_yaml(data)), (PenstockError,)),
    "notify.yaml": Target(
        (seeds.NOTIFYING,), lambda data: notify_config.parse(_yaml(data), environ={}), (PenstockError,)
    ),
    "press in Slack": Target((seeds.PRESS, b'{"type":"hello"}'), doors.slack),
    "press in Telegram": Target((seeds.UPDATE,), doors.telegram, UNREADABLE),
    "silence": Target((seeds.SILENCE,), doors.posted("/v1/silences"), (Problem, PenstockError)),
    "acknowledgement": Target((seeds.ACK,), doors.posted("/v1/acknowledgements"), (Problem, PenstockError)),
    "withdrawal": Target((b"f2?by=me&comment=c",), doors.withdrawn, (Problem, PenstockError)),
    "window query": Target((b"window=10&since=15m&until=2026-01-01T00:00:00Z",), doors.window_query, (PenstockError,)),
    "history query": Target((b"limit=100",), doors.history_query, (PenstockError,)),
    "delivery query": Target((b"limit=50&status=sent&channel=a",), doors.delivery_query, (PenstockError,)),
    "roll-up": Target((seeds.ROLL_UP, seeds.TICK), lambda data: doors.roll_up(pairs(data))),
    "live command": Target((seeds.RESUME,), lambda data: websocket.read_command(data.decode()), (Problem, ValueError)),
    "Last-Event-ID": Target((doors.POSITION,), doors.last_event_id),
    "host and origin": Target(
        (b"localhost:80" + NEXT + b"http://localhost:80", b"[::1]" + NEXT + b"http://[::1]"),
        lambda data: doors.headers(*map(text, (data.partition(NEXT)[0], data.partition(NEXT)[2]))),
        (Problem,),
    ),
    "progress": Target((seeds.PROGRESS,), _progress, (ValueError,)),
    "job record": Target((seeds.JOB,), lambda data: msgspec.json.encode(record.decode(data)), UNREADABLE),
    "tallies": Target((seeds.TALLIES.encode(),), tally.decode, UNREADABLE),
    "closed window": Target((zlib.compress(seeds.TALLIES.encode()),), tally.unpack, (zlib.error, *UNREADABLE)),
    "spool": Target((seeds.SEGMENT,), _spooled),
    "alert": Target(
        (msgspec.json.encode(ALERT),), lambda data: preview.render_all(doors.CONFIG, data, only=[]), (PenstockError,)
    ),
    "mail": Target((msgspec.json.encode(ALERT),), _mail, UNREADABLE),
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
