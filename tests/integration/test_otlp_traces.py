"""One trace through everything, as a receiver of OTLP sees it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from penstock.dlq.queue import DeadLetters
from penstock.keys import Keys
from penstock.redis.connection import client
from tests.otlp import ReceivedSpan, Receiver, otlp_receiver
from tests.processes import eventually, service_process
from tests.servers import Server, free_port

METRICS = {
    "messaging.client.operation.duration",
    "messaging.client.consumed.messages",
    "messaging.client.sent.messages",
    "messaging.process.duration",
}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def environment(server: Server, receiver_url: str, **more: str) -> dict[str, str]:
    return {
        "REDIS_URL": server.url,
        "PENSTOCK_JOBS": "tests.integration.otlp_jobs:jobs",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver_url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
        **more,
    }


def spans(receiver: Receiver, trace_id: str, name: str) -> list[ReceivedSpan]:
    return sorted((s for s in receiver.spans if s.trace_id == trace_id and s.name == name), key=lambda s: s.start)


def wait_for(receiver: Receiver, trace_id: str, name: str, count: int = 1) -> list[ReceivedSpan]:
    eventually(lambda: len(spans(receiver, trace_id, name)) >= count, what=f"{count} spans {name} of {trace_id}")
    return spans(receiver, trace_id, name)


def add(raw: Any, kind: str, flags: str = "01") -> None:
    raw.xadd("ingest", {"type": kind, "id": f"{kind}-1", "traceparent": f"00-{TRACE}-{PARENT}-{flags}"})


def done(raw: Any, kind: str = "job.completed") -> bool:
    return any(fields[b"type"] == kind.encode() for _, fields in raw.xrange("events"))


def test_the_good_path_is_one_connected_tree(server: Server, raw: Any) -> None:
    with (
        otlp_receiver() as receiver,
        service_process("-m", "penstock_services.worker", env=environment(server, receiver.url)),
    ):
        add(raw, "good")
        [process] = wait_for(receiver, TRACE, "process ingest")
        [step] = wait_for(receiver, TRACE, "step add")
        [sent] = wait_for(receiver, TRACE, "send events")
        [theirs] = wait_for(receiver, TRACE, "their own span")
        eventually(lambda: set(receiver.metrics) >= METRICS)
    assert (process.kind, process.parent, process.links) == ("consumer", PARENT, [(TRACE, PARENT)])
    assert (
        process.attributes.items()
        >= {
            "messaging.system": "redis",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": "ingest",
            "messaging.consumer.group.name": "worker",
            "messaging.message.id": "good-1",
            "messaging.redis.attempt": 1,
        }.items()
    )
    assert not process.failed
    assert process.start < process.end
    assert (step.kind, step.parent) == ("internal", process.span_id)
    assert theirs.parent == process.span_id
    assert (sent.kind, sent.parent) == ("producer", process.span_id)
    [event] = [fields for _, fields in raw.xrange("events") if fields[b"type"] == b"job.completed"]
    assert event[b"traceparent"].decode() == f"00-{TRACE}-{sent.span_id}-01"
    about = receiver.resources[0]
    assert (about["service.name"], about["service.namespace"]) == ("worker", "penstock")
    assert about["service.version"]
    assert about["service.instance.id"]


def test_a_batch_of_one_names_its_event(server: Server, raw: Any) -> None:
    with (
        otlp_receiver() as receiver,
        service_process("-m", "penstock_services.worker", env=environment(server, receiver.url)),
    ):
        add(raw, "batch")
        [process] = wait_for(receiver, TRACE, "process ingest")
    about = {"messaging.message.id": "batch-1", "messaging.batch.message_count": 1}
    assert process.attributes.items() >= about.items()
    assert process.attributes["server.address"] == server.url.removeprefix("unix://")


def post(port: int, path: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **headers},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        taken: dict[str, Any] = json.load(answer)
        return taken


def test_http_in_and_http_out_are_in_one_trace(server: Server, raw: Any) -> None:
    port = free_port()
    with otlp_receiver() as receiver, otlp_receiver() as target:  # any server that answers 200 will do as a target
        more = {"PENSTOCK_GATEWAY_PORT": str(port), "PENSTOCK_ALLOWED_TARGETS": "127.0.0.0/8"}
        env = environment(server, receiver.url, **more)
        with (
            service_process("-m", "penstock_services.gateway", env=env),
            service_process("-m", "penstock_services.worker", env=env),
        ):
            eventually(lambda: answers(port))
            job = {"type": "http.request", "data": {"url": f"{target.url}/hook", "method": "POST", "json": {}}}
            accepted = post(port, "/v1/events", job, traceparent=f"00-{TRACE}-{PARENT}-01")
            [http] = wait_for(receiver, TRACE, "POST /v1/events")
            [sent] = wait_for(receiver, TRACE, "send ingest")
            [process] = wait_for(receiver, TRACE, "process ingest")
            [call] = wait_for(receiver, TRACE, "POST")
            [report] = wait_for(receiver, TRACE, "send events")
    assert accepted["trace_id"] == TRACE
    assert (http.service, http.kind, http.parent) == ("gateway", "server", PARENT)
    assert (sent.service, sent.kind, sent.parent) == ("gateway", "producer", http.span_id)
    assert (process.service, process.kind, process.parent) == ("worker", "consumer", sent.span_id)
    assert (call.kind, call.parent) == ("client", process.span_id)
    assert call.attributes["http.response.status_code"] == 200
    assert report.parent == process.span_id


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
            return True
    except OSError:
        return False


def test_a_plain_xadd_starts_a_trace_whose_id_every_reader_agrees_on(server: Server, raw: Any) -> None:
    with (
        otlp_receiver() as receiver,
        service_process("-m", "penstock_services.worker", env=environment(server, receiver.url)),
    ):
        raw.xadd("ingest", {"type": "good"})
        eventually(lambda: [s for s in receiver.spans if s.name == "send events"])
    [process] = [s for s in receiver.spans if s.name == "process ingest"]
    assert process.parent == ""
    [(_, event)] = raw.xrange("events")
    assert event[b"traceparent"].decode().split("-")[1] == process.trace_id


def test_a_retry_stays_in_the_trace_with_its_attempt(server: Server, raw: Any) -> None:
    with (
        otlp_receiver() as receiver,
        service_process("-m", "penstock_services.worker", env=environment(server, receiver.url)),
    ):
        add(raw, "flaky")
        first, second = wait_for(receiver, TRACE, "process ingest", 2)
    assert (first.attributes["messaging.redis.attempt"], second.attributes["messaging.redis.attempt"]) == (1, 2)
    assert (first.failed, second.failed) == (True, False)
    assert first.error == "ConnectionError: not yet"
    assert first.attributes["error.type"] == "ConnectionError"
    assert first.parent == second.parent == PARENT


async def test_a_replay_is_a_new_trace_that_links_to_the_one_that_failed(server: Server, raw: Any) -> None:
    with (
        otlp_receiver() as receiver,
        service_process("-m", "penstock_services.worker", env=environment(server, receiver.url)),
    ):
        add(raw, "hopeless")
        [failed] = wait_for(receiver, TRACE, "process ingest")
        assert (failed.failed, failed.error) == (True, "never")
        raw.set("mended", 1)
        redis = client(server.url)
        letters = DeadLetters(redis, Keys())
        [letter] = [letter async for letter in letters.newest()]
        replayed = await letters.replay(letter)
        await redis.aclose()
        assert replayed is not None
        assert replayed.trace_id != TRACE
        [again] = wait_for(receiver, replayed.trace_id, "process ingest")
    assert (TRACE, failed.span_id) in again.links
    assert not again.failed


@pytest.mark.parametrize("broken", ["garbage", "00-zz-00-01", f"00-{'0' * 32}-{PARENT}-01"])
def test_a_broken_traceparent_starts_a_new_trace_and_fails_nothing(server: Server, raw: Any, broken: str) -> None:
    with (
        otlp_receiver() as receiver,
        service_process("-m", "penstock_services.worker", env=environment(server, receiver.url)),
    ):
        raw.xadd("ingest", {"type": "good", "traceparent": broken})
        eventually(lambda: raw.exists("events") and done(raw))
        eventually(lambda: [s for s in receiver.spans if s.name == "process ingest"])


def test_unsampled_traces_cost_no_spans_but_failures_are_kept(server: Server, raw: Any) -> None:
    env = environment(server, "", OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0")
    with otlp_receiver() as receiver:
        env["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.url
        with service_process("-m", "penstock_services.worker", env=env) as process:
            raw.xadd("ingest", {"type": "good"})
            add(raw, "good", flags="00")
            add(raw, "hopeless", flags="00")
            eventually(lambda: raw.exists("events") and done(raw) and done(raw, "job.dead"))
            wait_for(receiver, TRACE, "process ingest")
            process.terminate()
            assert process.wait(20) == 0
        kept = [s for s in receiver.spans if s.attributes.get("messaging.message.id") == "good-1"]
    assert kept == []
    assert {s.name for s in receiver.spans} == {"process ingest", "send events"}
    assert all(s.trace_id == TRACE for s in receiver.spans)


class Refusing(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_error(403)

    def log_message(self, *_: Any) -> None:
        pass


def test_a_receiver_that_refuses_stops_nobody(server: Server, raw: Any) -> None:
    with HTTPServer(("127.0.0.1", 0), Refusing) as refusing:
        thread = threading.Thread(target=refusing.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            url = f"http://127.0.0.1:{refusing.server_address[1]}"
            with service_process("-m", "penstock_services.worker", env=environment(server, url)) as process:
                for _ in range(100):
                    raw.xadd("ingest", {"type": "good"})
                eventually(lambda: raw.exists("events") and raw.xlen("events") == 100)
                process.terminate()
                assert process.wait(20) == 0
        finally:
            refusing.shutdown()
            thread.join()


@pytest.mark.parametrize("receiver_is", ["down", "hanging"])
def test_a_receiver_that_is_away_slows_nothing_and_stops_nobody(server: Server, raw: Any, receiver_is: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts connections and never answers
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if receiver_is == "down":
            listener.close()
        with service_process("-m", "penstock_services.worker", env=environment(server, url)) as process:
            for _ in range(500):
                raw.xadd("ingest", {"type": "good"})
            eventually(lambda: raw.exists("events") and raw.xlen("events") == 500)
            process.terminate()
            assert process.wait(20) == 0


RULES = """
rules:
  a-job-died: {kind: event, type: job.dead, severity: critical, summary: a job died}
  jobs-fail:
    {kind: ratio, series: jobs, by: [job_type], over: 1m, above: 10%, min_count: 1, severity: info, summary: jobs fail}
"""


def test_an_alert_is_traced_to_the_channel_and_back_to_its_cause(server: Server, raw: Any, tmp_path: Path) -> None:
    rules = tmp_path / "alerts.yaml"
    rules.write_text(RULES)
    with otlp_receiver() as receiver, otlp_receiver() as target, contextlib.ExitStack() as stack:
        more = {
            "PENSTOCK_ALERTS": str(rules),
            "OPS_ALERT_WEBHOOK_URL": f"{target.url}/hook",
            "PENSTOCK_ALLOW_PRIVATE_TARGETS": "true",
        }
        env = environment(server, receiver.url, **more)
        for name in ("worker", "metrics", "alerts", "notifier"):
            stack.enter_context(service_process("-m", f"penstock_services.{name}", env=env))
        add(raw, "hopeless")
        [failed] = wait_for(receiver, TRACE, "process ingest")
        # By an event: one tree, from the job that died to the channel.
        sent = {span.span_id: span for span in wait_for(receiver, TRACE, "send events")}
        judges = wait_for(receiver, TRACE, "process events", 2)  # the metrics processor reads events too
        [judged] = [span for span in judges if span.service == "alerts"]
        [raised] = wait_for(receiver, TRACE, "send alerts")
        [taken] = wait_for(receiver, TRACE, "process alerts")
        wait_for(receiver, TRACE, "send notifications")
        delivered = wait_for(receiver, TRACE, "process notifications", 2)  # on the console, and to the webhook
        eventually(lambda: len(calls(receiver)) == 2)
        # By a roll-up: a trace of its own, with links to the exemplars.
        eventually(lambda: rolled_up(receiver), deadline=40.0, what="an alert by roll-up")
    assert sent[judged.parent].parent == failed.span_id
    assert raised.parent == judged.span_id
    assert (taken.service, taken.parent) == ("notifier", raised.span_id)
    assert {call.kind for call in calls(receiver)} == {"client"}
    assert {call.parent for call in calls(receiver)} == {span.span_id for span in delivered}
    [other] = rolled_up(receiver)
    assert other.trace_id != TRACE
    assert TRACE in {trace_id for trace_id, _ in other.links}


def calls(receiver: Receiver) -> list[ReceivedSpan]:
    return [span for span in receiver.spans if span.trace_id == TRACE and span.name.startswith("deliver ")]


def rolled_up(receiver: Receiver) -> list[ReceivedSpan]:
    return [span for span in receiver.spans if span.name == "send alerts" and span.trace_id != TRACE and span.links]


def test_what_has_no_form_in_otlp_costs_no_span_of_its_batch(server: Server, raw: Any) -> None:
    with otlp_receiver() as receiver:
        env = environment(server, receiver.url, OTEL_BSP_SCHEDULE_DELAY="60000")  # all in one batch, at the end
        with service_process("-m", "penstock_services.worker", env=env) as process:
            add(raw, "unwritable")
            add(raw, "good")
            eventually(lambda: raw.exists("events") and done(raw) and done(raw, "job.failed"))
            process.terminate()
            assert process.wait(20) == 0
    found = {span.name: span for span in receiver.spans}
    assert set(found) == {"process ingest", "send events", "step add", "their own span", "their ?", "ours ?"}
    theirs, ours = found["their ?"], found["ours ?"]
    assert (theirs.error, theirs.attributes["half"]) == ("why ?", "a?")
    assert [value.string_value for value in theirs.attributes["list"].values] == ["?", "b"]
    assert theirs.events == [("met ?", {"half": "?"})]
    assert ours.error == "ValueError: because ?"
    assert ours.attributes == {"half?": "c?", "large": str(2**64), "error.type": "ValueError"}
