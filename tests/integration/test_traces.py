"""The tree of a trace, rebuilt from the streams of a mesh of real processes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from penstock.times import entry_time
from penstock.trace_context import TraceContext
from penstock.traces import Trace
from tests.command_line import Cli
from tests.processes import eventually
from tests.servers import Server
from tests.tracing import TOPOLOGY, attempts_of, look, recent, shipping, wait_for, worker


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    command = Cli(server.url, tmp_path)
    command.env["PENSTOCK_TOPOLOGY"] = str(TOPOLOGY)
    return command


def publish(raw: Any, event_type: str, stream: str = "ingest", **fields: str) -> str:
    """Publish an event as redis-cli does; return its id."""
    entry: bytes = raw.xadd(stream, {"type": event_type, "data": "{}", **fields})
    return fields.get("id", f"{stream}-{entry.decode()}")


def wait_until_sent(server: Server, order: str) -> Trace:
    """Wait until the parcel of an order is sent."""
    eventually(lambda: (trace := look(server, order)) is not None and len(trace.events) == 3)
    return wait_for(server, order, "completed")


def test_every_hop_of_a_good_trace_is_told_with_where_its_time_went(server: Server, raw: Any) -> None:
    with worker(server), shipping(server):
        event_id = publish(raw, "order.placed", data='{"order": 1, "seconds": 0.05}', subject="order-1")
        trace = wait_until_sent(server, event_id)

    placed, requested, sent = trace.events
    assert [(event.type, event.stream, event.parent, event.depth) for event in trace.events] == [
        ("order.placed", "ingest", None, 0),
        ("parcel.requested", "parcels", placed.id, 1),
        ("parcel.sent", "events", requested.id, 2),
    ]
    assert (trace.type, trace.attempts, trace.notes) == ("order.placed", 2, ())
    assert trace.trace_ids == (TraceContext.for_text(event_id).trace_id,)
    assert {event.trace_id for event in trace.events} == {trace.trace_id}
    assert placed.subject == "order-1"
    [attempt] = attempts_of(placed)
    assert (attempt.number, attempt.outcome, attempt.error) == (1, "completed", None)
    assert attempt.duration is not None
    assert attempt.duration >= 0.05
    assert attempt.queue_wait is not None
    assert attempt.queue_wait + attempt.duration <= attempt.elapsed + 0.002  # the server counts in ms
    assert 0.05 <= requested.offset <= sent.offset <= trace.duration
    [unreported] = attempts_of(requested, "shipping")
    assert (unreported.outcome, unreported.queue_wait, unreported.duration) == ("completed", None, None)
    assert unreported.elapsed == pytest.approx(sent.offset - requested.offset)
    assert sent.hops == ()


def test_each_attempt_of_a_retried_job_has_a_line_with_its_error_and_when_the_next_was_due(
    server: Server, raw: Any
) -> None:
    with worker(server):
        event_id = publish(raw, "demo.flaky", data='{"fail_times": 2}')
        trace = wait_for(server, event_id, "completed")

    first, second, third = attempts_of(trace.events[0])
    assert [one.outcome for one in (first, second, third)] == ["failed", "failed", "completed"]
    assert [one.number for one in (first, second, third)] == [1, 2, 3]
    assert first.error == "RuntimeError: failing on purpose (1 of 2)"
    assert first.due is not None
    assert trace.started < first.due < trace.now
    assert third.error is None
    assert third.due is None
    assert first.offset + first.elapsed < second.offset
    assert second.offset + second.elapsed < third.offset
    assert len(trace.events) == 1, "reports are reported with their attempts"


def test_a_dead_letter_and_its_replay_are_one_story(server: Server, raw: Any, cli: Cli) -> None:
    with worker(server), shipping(server):
        event_id = publish(raw, "card.charged")
        dead = wait_for(server, event_id, "dead")
        raw.set("bank", "open")
        assert cli("dlq", "replay", "--all").returncode == 0
        trace = wait_for(server, event_id, "completed")

    assert [one.outcome for one in attempts_of(dead.events[0])] == ["failed", "failed", "dead"]
    [summary] = recent(server).traces
    assert (summary.state, summary.attempts, summary.error) == ("completed", 5, None)
    attempts = attempts_of(trace.events[0])
    assert [(one.number, one.outcome) for one in attempts] == [
        (1, "failed"),
        (2, "failed"),
        (3, "dead"),
        (1, "completed"),
    ]
    buried = attempts[2]
    assert (buried.reason, buried.error) == ("failed", "ConnectionError: the bank does not answer")
    assert buried.dead_letter == raw.xrevrange("dlq", count=1)[0][0].decode()
    assert buried.replayed is not None
    assert [event.type for event in trace.events] == ["card.charged", "parcel.requested", "parcel.sent"]
    assert len(trace.trace_ids) == 2, "a replay is a trace of its own"
    replay = trace.trace_ids[1]
    by_replay = look(server, replay)
    assert by_replay is not None
    assert by_replay.events == trace.events


def test_the_dead_letter_of_a_group_that_does_not_report_is_told_too(server: Server, raw: Any) -> None:
    with shipping(server):
        event_id = publish(raw, "parcel.requested", "parcels", data='{"heavy": true}')
        trace = wait_for(server, event_id, "dead")

    [attempt] = attempts_of(trace.events[0], "shipping")
    assert (attempt.number, attempt.reason, attempt.error) == (3, "failed", "ValueError: too heavy to carry")
    [summary] = recent(server).traces
    assert summary.error == "failed: ValueError: too heavy to carry"


def test_what_still_waits_says_for_what(server: Server, raw: Any) -> None:
    queued = publish(raw, "order.placed", data='{"order": 1}')
    assert [one.outcome for one in attempts_of(wait_for(server, queued, "queued").events[0])] == ["queued"]
    raw.xtrim("ingest", maxlen=0)

    with worker(server):
        running, delayed = publish(raw, "report.asked"), publish(raw, "invoice.due")
        [attempt] = attempts_of(wait_for(server, running, "running").events[0])
        assert (attempt.number, attempt.queue_wait) == (1, None)
        assert attempt.consumer is not None
        assert attempt.consumer.startswith("worker-")
        snoozed, parked = attempts_of(wait_for(server, delayed, "delayed").events[0])
        due = raw.zrange("ingest:worker:delayed", 0, -1, withscores=True)[0][1]
        assert (snoozed.outcome, parked.outcome, parked.number) == ("snoozed", "delayed", 1)
        assert parked.due == entry_time(f"{due:.0f}-0")
        raw.rpush("go", "now")
        wait_for(server, running, "completed")
    assert {trace.state for trace in recent(server).traces} == {"completed", "delayed"}


def test_a_job_that_says_when_it_started_shows_how_long_it_has_run(server: Server, raw: Any) -> None:
    with worker(server, PENSTOCK_JOB_STARTED="true"):
        event_id = publish(raw, "report.asked")
        eventually(lambda: raw.xlen("events"))
        [attempt] = attempts_of(wait_for(server, event_id, "running").events[0])
        assert attempt.queue_wait is not None
        assert attempt.duration is not None
        assert attempt.elapsed >= attempt.duration
        raw.rpush("go", "now")
        wait_for(server, event_id, "completed")


def test_an_event_that_is_yet_to_be_published_is_delayed(server: Server, raw: Any) -> None:
    with worker(server):
        event_id = publish(raw, "order.placed", data='{"order": 1, "ship_in": 3600}')
        trace = wait_for(server, event_id, "delayed")

    placed, requested = trace.events
    assert (requested.type, requested.parent, requested.entry) == ("parcel.requested", placed.id, "")
    assert requested.due is not None
    assert requested.due > trace.now
    assert trace.duration < 60, "what lies ahead does not stretch the picture"


def test_any_event_of_a_trace_leads_to_it(server: Server, raw: Any, cli: Cli) -> None:
    with worker(server), shipping(server):
        event_id = publish(raw, "order.placed", data='{"order": 1}')
        wait_until_sent(server, event_id)
    trace = cli.json("trace", TraceContext.for_text(event_id).trace_id)
    report = raw.xrange("events")[0][1][b"id"].decode()

    assert [event["type"] for event in trace["events"]] == ["order.placed", "parcel.requested", "parcel.sent"]
    for wanted in (event_id, trace["events"][2]["id"], report):
        assert cli.json("trace", "--event", wanted)["events"] == trace["events"]


def test_an_unknown_id_is_a_no_in_one_sentence(cli: Cli) -> None:
    for arguments in (("0" * 32,), ("--event", "ingest-1-0"), ("--event", "nobody's \x1b[31m id")):
        done = cli("trace", *arguments)
        assert done.returncode == 1
        assert done.stdout == ""
        assert re.fullmatch(r"penstock: no (trace|event) .* is among the newest 10000 entries of .*\n", done.stderr)
        assert "\x1b" not in done.stderr


def test_a_trace_must_be_named(cli: Cli) -> None:
    for arguments in ((), ("0" * 32, "--event", "x")):
        done = cli("trace", *arguments)
        assert done.returncode == 2
        assert "--event ID" in done.stderr


def test_a_bounded_search_says_where_it_ended(server: Server, raw: Any, cli: Cli) -> None:
    old = publish(raw, "order.placed", id="chosen")
    found_by_place = publish(raw, "order.placed")
    for number in range(300):
        publish(raw, "filler", data=str(number))

    trace = cli.json("trace", TraceContext.for_text(found_by_place).trace_id, "--newest", "301")
    assert trace["notes"] == ["ingest: only the newest 301 of 302 entries were searched"]
    assert cli("trace", "--event", old, "--newest", "300").returncode == 1
    assert cli.json("trace", "--event", old)["notes"] == []
    by_place = look(server, found_by_place, newest=10)
    assert by_place is not None, "its id says where it lies"
    assert by_place.notes
    listed = recent(server, newest=10)
    assert len(listed.traces) == 10
    assert listed.notes == ("ingest: only the newest 10 of 302 entries were searched",)


def test_what_began_before_the_search_is_not_listed_as_a_trace(server: Server, raw: Any) -> None:
    with worker(server), shipping(server):
        event_id = publish(raw, "order.placed", data='{"order": 1}')
        wait_until_sent(server, event_id)
    for number in range(3):
        publish(raw, "filler", data=str(number))

    assert [trace.type for trace in recent(server, newest=3).traces] == ["filler"] * 3


def test_a_job_that_was_trimmed_is_told_from_its_reports(server: Server, raw: Any) -> None:
    with worker(server), shipping(server):
        event_id = publish(raw, "order.placed", data='{"order": 1, "seconds": 0.05}')
        wait_until_sent(server, event_id)
    raw.xtrim("ingest", maxlen=0)

    trace = look(server, event_id)
    assert trace is not None
    job, requested, _ = trace.events
    assert (job.missing, job.type, job.id) == (True, "order.placed", event_id)
    assert (requested.type, requested.parent) == ("parcel.requested", event_id)
    assert attempts_of(job)[0].elapsed >= 0.05


def test_what_a_report_led_to_hangs_below_its_job(server: Server, raw: Any) -> None:
    with worker(server):
        event_id = publish(raw, "nobody.knows")
        wait_for(server, event_id, "dead")
    [(_, report)] = raw.xrange("events")
    publish(raw, "alert.triggered", "events", cause=report[b"id"].decode(), traceparent=report[b"traceparent"].decode())

    trace = look(server, event_id)
    assert trace is not None
    job, alert = trace.events
    assert (alert.type, alert.parent, alert.depth, alert.via) == ("alert.triggered", job.id, 1, "job.dead")


def test_two_sources_that_use_one_id_have_a_trace_each(server: Server, raw: Any, cli: Cli) -> None:
    with worker(server), shipping(server):
        for order, source in enumerate(("shop-a", "shop-b")):
            publish(raw, "order.placed", id="o-1", source=source, data=json.dumps({"order": order}))
        eventually(lambda: sum(fields[b"type"] == b"parcel.sent" for _, fields in raw.xrange("events")) == 2)

    sent = {fields[b"id"].decode(): json.loads(fields[b"data"]) for _, fields in raw.xrange("events")}
    for order, source in enumerate(("shop-a", "shop-b")):
        trace = cli.json("trace", "--event", "o-1", "--source", source)
        assert [event["source"] for event in trace["events"]] == [source, "worker", "shipping"]
        assert sent[trace["events"][-1]["id"]] == {"order": order}
        assert [hop["state"] for hop in trace["events"][0]["hops"]] == ["completed"]
    refused = cli("trace", "--event", "o-1")
    assert refused.returncode == 1
    assert "2 sources have an event o-1: shop-a, shop-b; say which one is meant with --source" in refused.stderr


def test_several_events_that_were_sent_in_one_trace_are_shown_together(server: Server, raw: Any) -> None:
    traceparent = f"00-{'c' * 32}-{'d' * 16}-01"
    for number in range(3):
        publish(raw, "order.placed", traceparent=traceparent, id=f"o{number}")

    trace = look(server, "C" * 32)
    assert trace is not None
    assert [(event.id, event.depth) for event in trace.events] == [("o0", 0), ("o1", 0), ("o2", 0)]
    assert len(recent(server).traces) == 1


def test_looking_writes_nothing(server: Server, raw: Any) -> None:
    event_id = publish(raw, "order.placed")
    before = {key: raw.dump(key) for key in raw.keys()}  # noqa: SIM118 - it is the command

    assert look(server, event_id) is not None
    assert recent(server).traces
    assert {key: raw.dump(key) for key in raw.keys()} == before  # noqa: SIM118


# The picture

HOSTILE = (
    "<script>alert(1)</script>",
    "\x1b]0;owned\x07\x1b[2J red",
    "\u202edesrever",
    "日本語の出来事" * 9,
    "x" * 300,
    "two\nlines",
)


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_picture_fits_the_terminal_whatever_events_say(raw: Any, cli: Cli, columns: int) -> None:
    cause = ""
    for event_type in HOSTILE:
        cause = publish(raw, event_type, "parcels", id=f"id {event_type}", subject=event_type, cause=cause)
    raw.xadd(
        "dlq",
        {"type": HOSTILE[1], "dlq.stream": "parcels", "dlq.group": HOSTILE[0], "dlq.entry": "1-1"}
        | {"dlq.reason": "failed", "dlq.error": "\x1b[2J" + "long " * 100, "dlq.attempts": "many", "id": "x"},
    )

    for arguments in (("traces",), ("trace", "--event", "id <script>alert(1)</script>"), ("trace", "--event", "x")):
        done = cli(*arguments, COLUMNS=str(columns))
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert max(map(cell_len, lines)) <= columns
        assert all(line.isprintable() for line in lines), done.stdout


def test_the_picture_shows_attempts_outcomes_and_reasons(server: Server, raw: Any, cli: Cli) -> None:
    with worker(server):
        event_id = publish(raw, "card.charged", data='{"seconds": 0.02}')
        wait_for(server, event_id, "dead")
    picture = cli("trace", "--event", event_id, COLUMNS="100").stdout

    assert re.search(r"^card\.charged  ✗ dead$", picture, re.MULTILINE)
    assert re.search(r"├─ ↻ worker #1 failed +[\d.<]+ m?s +[\d.]+ m?s  [░ ]*█", picture)
    assert re.search(r"└─ ✗ worker #3 dead +[\d.<]+ m?s +[\d.]+ m?s[░ ]+█", picture)
    assert picture.count("ConnectionError: the bank does not answer") == 3
    assert "dead letter " in picture
    [line] = [line for line in cli("traces").stdout.splitlines() if "card.charged" in line]
    assert re.search(r"✗ dead +[\d.]+ m?s [0-9a-f]{32}$", line)


def test_an_empty_mesh_has_no_traces(cli: Cli) -> None:
    assert cli("traces").stdout == "no traces yet\n"
    assert cli.json("traces") == {"traces": [], "notes": []}


def test_json_has_every_key_whether_it_applies_or_not(raw: Any, cli: Cli) -> None:
    event_id = publish(raw, "order.placed")
    found = cli.json("trace", "--event", event_id)

    assert found["events"][0]["parent"] is None
    assert found["events"][0]["hops"][0]["attempts"][0]["error"] is None
    assert json.dumps(found)
