"""Seeds: what is meant to come, of every kind that something here reads."""

from __future__ import annotations

import msgspec

from penstock import event
from penstock.metrics import tally
from penstock.spool import segment
from penstock_services.metrics import count
from tests.fuzz.inputs import NEXT, pairs

SALT = 7
"""That of the spool's checksums."""
EVENT = b'{"type":"t","id":"1","source":"s","time":"2026-01-01T00:00:00Z","data":{"a":[1,2.5,null,"x"]},"extra":1}'
CLOUD = EVENT.replace(b'"type"', b'"specversion":"1.0","type"')
JOB_EVENT = b'{"job_id":"1","job_type":"t","attempt":1,"duration":0.5,"queue_wait":1e-9,"error":"E: x","other":1}'
ENTRY = NEXT.join((b"type", b"t", b"data", b"{}", b"id", b"1", b"time", b"2026-01-01T00:00:00Z", b"links", b"a b"))
DELAYED = NEXT.join((ENTRY, b"in", b"90.5"))
SCHEDULED = NEXT.join((ENTRY, b"at", b"2026-11-22T10:00:00+01:00"))
FAILED = NEXT.join((b"type", b"job.failed", b"data", JOB_EVENT, b"tenant", b"acme", b"time", b"2026-01-01T00:00:00Z"))
RETRY = NEXT.join((ENTRY, b"retry.entry", b"1-0", b"attempt", b"2", b"retry.crashes", b"1"))
DEAD = NEXT.join((ENTRY, b"dlq.stream", b"ingest", b"dlq.entry", b"1-0", b"dlq.attempts", b"3", b"dlq.error", b"E: x"))
TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HOOK = b"Content-Type: application/json\r\nStripe-Signature: t=1,v1=2\r\nwebhook-id: m" + NEXT + EVENT
SLACK_HELLO = b"Content-Type: application/json" + NEXT + b'{"type":"url_verification","challenge":"\\ud83d"}'
GRID_HELLO = b"aeg-event-type: SubscriptionValidation" + NEXT + b'[{"data":{"validationCode":"\\ud83d"}}]'
FORM = b"Content-Type: application/x-www-form-urlencoded\r\nX-Slack-Signature: v0=1" + NEXT + b"a=1&b=%20&b"
TEXT = b"Content-Type: text/xml; charset=iso-8859-1" + NEXT + b"<a>\xe4</a>"
PRESS = (
    b'{"type":"interactive","envelope_id":"e","payload":{"type":"block_actions","other":1,"user":{"id":"U1","team_id":"T0"},'
    b'"team":{"id":"T0"},"container":{"message_ts":"1.2"},"response_url":"https://h/a","actions":[{"action_id":'
    b'"penstock","value":"chat ack 2026-11-22T10:00:00.000Z f1","action_ts":"1.3"}]}}'
)
UPDATE = (
    b'{"ok":true,"other":1,"result":[{"update_id":1,"callback_query":{"id":"q","from":{"id":7,"first_name":"A"},"message":'
    b'{"chat":{"id":42}},"data":"ack 2026-11-22T10:00:00.000Z f1"}}]}'
)
RESUME = b'{"type":"resume","sub":"a","position":"e-1.1-0","types":["order.*"],"subject":"s"}'
SILENCE = b'{"matchers":["rule=a*","type!=[b-c]"],"duration":"2h","author":"me","comment":"c"}'
ACK = b'{"alert":"f1","by":"me","comment":"c"}'
WINDOW = (
    b'{"start":"2026-01-15T08:00:00Z","seconds":10,"scope":"events","part":1,"parts":1,"other":1,"series":[{"name":"jobs",'
    b'"labels":{"service":"a"},"count":20,"errors":9,"rate":2.0,"error_rate":0.45,"duration":{"p50":1,"p90":1,'
    b'"p95":1,"p99":1,"max":1}},{"name":"lag","labels":{"stream":"ingest"},"value":2000}]}'
)
ROLL_UP = NEXT.join((b"type", b"metrics.window", b"data", WINDOW))
TICK = NEXT.join((b"type", b"alerts.tick", b"data", b'{"time":"2026-01-15T08:00:00Z","other":1}'))
PROGRESS = NEXT.join((b"job", b"1", b"source", b"s", b"type", b"t", b"attempt", b"2", b"share", b"0.25", b"note", b"n"))
JOB = (
    b'1-0 {"state":"completed","type":"t","attempts":2,"result":{"a":[1]},"duration":0.5,"trace_id":"4b","tenant":"a"}'
)
RECORD = segment.Record(1, 1, 1_800_000_000_000, "ingest", 0, ["type", "t", "data", "{}"], [("k", 60, "-")])
SEGMENT = segment.frame(RECORD, SALT) + segment.frame(msgspec.structs.replace(RECORD, number=2), SALT)
TALLIES = tally.encode(next(iter(count.tally([event.decode("events", "1-0", pairs(FAILED))], 5_000, 10**13).values())))
ALERTS = b"""rules:
  r: {kind: threshold, series: lag, above: 10, for: 30s, where: ["stream=a*"], severity: critical}
  b: {kind: burn_rate, series: jobs, objective: 99.9%, rates: [14.4, 6]}
inhibit: [{source: [rule=r], target: [severity=info], equal: [stream]}]
"""
NOTIFYING = b"""channels: {a: {type: webhook, url: "https://h/x", rate: 1/s}, b: {type: console}}
routes: [{match: ["rule=x*"], channels: [a], min_severity: warning, then: ["b after 5m unless acknowledged"]}]
on_call: {w: {rotation: [a, b], every: 7d, starts: 2026-01-05T09:00:00, timezone: UTC}}
quiet: [{hours: "22:00-07:00", timezone: UTC, below: critical}]
retry: [1, 2s]
templates: {title: "{{ rule }}"}
"""
YAML = b"streams: {ingest: {retention: {age: 7d}}}\nservices: {a: {consumes: {ingest: {}}, publishes: [ingest]}}\n"
