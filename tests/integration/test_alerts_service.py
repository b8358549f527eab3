"""The alert manager as a process: exactly once through replicas, by event and by roll-up, and by the clock."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import msgspec
import pytest

from penstock.mesh.alerts import HistoryEntry
from penstock.schemas import Alert
from penstock.times import rfc3339, seconds_of
from penstock.trace_context import TraceContext
from tests.alerting import (
    Mesh,
    is_caught_up,
    jobs,
    lagging,
    make_window,
    manager,
    publish,
    publish_tick,
    records,
    replicas,
    rules_text,
    told,
)
from tests.command_line import environment
from tests.forks import run
from tests.hands import Raw, fields_of
from tests.processes import eventually
from tests.servers import Server

LAG = "kind: threshold\nseries: lag_age\nabove: 30s\nclear: 10s\nflap: {triggers: 50}"
FAILING = "kind: ratio\nseries: jobs\nby: [service]\nover: 1m\nabove: 10%\nmin_count: 10"
DYING = "kind: event\ntype: job.dead\nby: [job_type]\nkeep_firing: 60s"


@pytest.fixture
def start() -> float:
    """The start of a window an hour ago: nothing here waits for the clock."""
    return time.time() // 10 * 10 - 3_600


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / "alerts.yaml"
    path.write_text(rules_text(lag=LAG, failing=FAILING, dying=DYING))
    return path


def history(raw: Raw) -> list[HistoryEntry]:
    return [msgspec.json.decode(row, type=HistoryEntry) for row in raw.lrange("state:alerts:history", 0, -1)]


def happened(raw: Raw) -> list[str]:
    return [entry.what for entry in history(raw)]


def alerts_of(raw: Raw) -> list[Alert]:
    return [msgspec.json.decode(fields["data"], type=Alert) for fields in fields_of(raw, "alerts")]


def test_jobs_that_fail_raise_an_alert_and_jobs_that_are_well_end_it(
    server: Server, raw: Raw, rules: Path, start: float
) -> None:
    with manager(server, rules):
        failing = jobs(40, 10, service="worker", tenant="acme", traces=["a" * 32, "b" * 32])
        publish(raw, make_window(start, failing, scope="events"))
        eventually(lambda: told(raw) == ["triggered failing worker"])
        publish(raw, make_window(start + 10, jobs(400, 0, service="worker"), scope="events"))
        eventually(lambda: told(raw)[1:] == ["resolved failing worker"])

    fired, ended = alerts_of(raw)
    assert fired.reason == "worker: 10 of 40 failed within 1 min (25 %), above 10 %"
    assert fired.exemplars == ["a" * 32, "b" * 32]
    assert ended.fingerprint == fired.fingerprint
    assert ended.since == fired.since
    assert [fields["subject"] for fields in fields_of(raw, "alerts")] == [fired.fingerprint] * 2


def test_two_replicas_raise_one_alert_each_time(server: Server, raw: Raw, rules: Path, start: float) -> None:
    windows = [lagging(start + 10 * at, 40 if at % 4 < 2 else 4, 40 if at % 6 < 3 else 4, at % 60) for at in range(120)]
    model = Mesh(rules.read_text())
    for window in windows:
        model.engine.window(model.state, window)
    with manager(server, rules), manager(server, rules):
        eventually(lambda: replicas(raw) == 2)
        publish(raw, *windows)
        eventually(lambda: is_caught_up(raw))

    assert told(raw) == model.told
    assert len(model.told) > 80


def test_an_event_raises_an_alert_in_its_own_trace_and_time_alone_ends_it(
    server: Server, raw: Raw, rules: Path
) -> None:
    trace = TraceContext.new().child()
    data = msgspec.json.encode({"job_type": "mail", "error": "no such box"})
    with manager(server, rules):
        raw.xadd("events", {"type": "job.completed", "data": data})
        raw.xadd("events", {"type": "job.dead", "data": data, "traceparent": trace.traceparent, "tenant": "acme"})
        eventually(lambda: told(raw) == ["triggered dying mail"])
        (fields,) = fields_of(raw, "alerts")
        carried = TraceContext.parse(fields["traceparent"])
        publish_tick(raw, time.time() + 61)
        eventually(lambda: told(raw)[1:] == ["resolved dying mail"])

    assert carried is not None
    assert carried.trace_id == trace.trace_id
    assert alerts_of(raw)[0].exemplars == [trace.trace_id]
    assert alerts_of(raw)[0].reason == "job.dead of mail: no such box"


def test_what_an_event_states_as_its_time_does_not_count(server: Server, raw: Raw, tmp_path: Path) -> None:
    rules = tmp_path / "alerts.yaml"
    rules.write_text(rules_text(dying=f"{DYING}\nat_least: 3\nwithin: 5m"))
    slow = {"type": "job.dead", "data": '{"job_type": "mail"}', "time": rfc3339(time.time() - 3_600)}
    with manager(server, rules):
        for fields in ({**slow, "time": "1970-01-01T00:00:00Z"}, slow, {"type": "job.dead", "data": slow["data"]}):
            raw.xadd("events", fields)
        eventually(lambda: told(raw) == ["triggered dying mail"])
        publish_tick(raw, time.time())
        eventually(lambda: is_caught_up(raw))

    assert told(raw) == ["triggered dying mail"]
    assert abs(seconds_of(alerts_of(raw)[0].since) - time.time()) < 60


def test_an_entry_with_an_id_of_a_time_to_come_is_seen_and_ends(server: Server, raw: Raw, rules: Path) -> None:
    with manager(server, rules):
        raw.xadd("events", {"type": "job.dead", "data": '{"job_type": "mail"}'}, id="9999999999999-0")
        eventually(lambda: told(raw) == ["triggered dying mail"])
        publish_tick(raw, time.time() + 61)
        eventually(lambda: told(raw)[1:] == ["resolved dying mail"])
    assert abs(seconds_of(alerts_of(raw)[0].since) - time.time()) < 60


def test_a_file_that_changes_is_in_force_at_once_in_all_replicas_and_the_history_says_so(
    server: Server, raw: Raw, rules: Path, start: float
) -> None:
    mine = rules.with_name("mine.yaml")
    mine.write_text(rules.read_text())
    with manager(server, rules), manager(server, mine):
        eventually(lambda: replicas(raw) == 2)
        publish(raw, lagging(start, 40))
        eventually(lambda: told(raw) == ["triggered lag ingest/a"])
        rules.write_text(rules_text(lag=LAG.replace("30s", "1h").replace("10s", "1h"), failing=FAILING))
        eventually(lambda: "rule changed" in happened(raw))
        for at in range(1, 30):  # whichever replica is handed it, none goes by the other file
            publish(raw, lagging(start + 10 * at, 50))
        eventually(lambda: is_caught_up(raw))

    assert told(raw)[1:] == ["resolved lag ingest/a"]
    assert happened(raw).count("rule removed") == 1
    (why,) = [entry.why for entry in history(raw) if entry.what == "rule changed"]
    assert why.startswith("above: 30 -> 3600; clear: 10 -> 3600; by alerts.yaml on ")


def test_a_file_that_becomes_wrong_is_refused_until_it_is_right_again(
    server: Server, raw: Raw, rules: Path, start: float
) -> None:
    right = rules.read_text()
    with manager(server, rules):
        eventually(lambda: raw.exists("state:alerts:rules"))
        rules.write_text(right.replace("above: 30s", "abvoe: 30s"))
        eventually(lambda: raw.exists("state:alerts:rules_refused"))
        publish(raw, lagging(start, 40))
        eventually(lambda: told(raw) == ["triggered lag ingest/a"])
        rules.write_text(right)
        eventually(lambda: not raw.exists("state:alerts:rules_refused"))

    assert "rule changed" not in happened(raw)


def test_sighup_puts_the_file_in_force_again(server: Server, raw: Raw, rules: Path) -> None:
    with manager(server, rules) as process:
        eventually(lambda: raw.exists("state:alerts:rules"))
        given = raw.getdel("state:alerts:rules")
        process.send_signal(signal.SIGHUP)
        eventually(lambda: raw.exists("state:alerts:rules"))

    assert given


def test_a_sign_of_life_goes_out_while_windows_come(server: Server, raw: Raw, rules: Path) -> None:
    with manager(server, rules):
        publish(raw, lagging(time.time() // 10 * 10 - 10, 4))
        eventually(lambda: is_caught_up(raw))
        publish_tick(raw, time.time() + 1)
        eventually(lambda: "alert.watchdog" in [fields["type"] for fields in fields_of(raw, "alerts")])


def test_a_flood_of_events_over_two_replicas_is_one_alert(server: Server, raw: Raw, rules: Path) -> None:
    with manager(server, rules), manager(server, rules):
        eventually(lambda: replicas(raw) == 2)
        with raw.pipeline(transaction=False) as pipeline:
            for _ in range(5_000):
                pipeline.xadd("events", {"type": "job.dead", "data": '{"job_type": "mail"}'})
            pipeline.execute()
        eventually(lambda: raw.xinfo_groups("events")[0]["lag"] == 0 and not raw.xinfo_groups("events")[0]["pending"])

    assert told(raw) == ["triggered dying mail"]


def test_the_clock_ticks_once_for_all_replicas(server: Server, raw: Raw, rules: Path) -> None:
    def ticks() -> list[str]:
        return [fields["data"] for fields in fields_of(raw, "metrics") if fields["type"] == "alerts.tick"]

    with manager(server, rules), manager(server, rules):
        eventually(lambda: replicas(raw) == 2)
        eventually(lambda: len(ticks()) >= 2, what="it ticks twice")

    assert len(set(ticks())) == len(ticks())


def test_absence_is_noticed_although_the_metrics_processor_is_gone(server: Server, raw: Raw, tmp_path: Path) -> None:
    rules = tmp_path / "alerts.yaml"
    rules.write_text(rules_text(silent="kind: absence\nseries: consumers\nafter: 2m"))
    now = time.time()
    with manager(server, rules):
        publish_tick(raw, now + 20)
        publish_tick(raw, now + 139)
        eventually(lambda: is_caught_up(raw))
        assert told(raw) == []
        publish_tick(raw, now + 145)
        eventually(lambda: told(raw) == ["triggered silent"])


def test_the_first_start_does_not_dig_up_old_trouble(server: Server, raw: Raw, rules: Path, start: float) -> None:
    old = round((time.time() - 3_600) * 1_000)
    raw.xadd("metrics", {"type": "metrics.window", "data": msgspec.json.encode(lagging(start, 40))}, id=f"{old}-0")
    with manager(server, rules):
        publish(raw, lagging(start + 10, 4))
        eventually(lambda: is_caught_up(raw))

    assert told(raw) == []


def test_what_cannot_be_read_is_a_dead_letter_and_stops_nothing(
    server: Server, raw: Raw, rules: Path, start: float
) -> None:
    with manager(server, rules):
        raw.xadd("metrics", {"type": "metrics.window", "data": '{"start": 5}'})
        raw.xadd("metrics", {"type": "metrics.window", "data": '{"start": "noon", "seconds": 10, "series": []}'})
        raw.xadd("metrics", {"type": "something.else"})
        publish(raw, lagging(time.time() + 10_000, 40))  # no clock is so wrong
        publish(raw, lagging(start, 40))
        eventually(lambda: told(raw) == ["triggered lag ingest/a"])
        eventually(lambda: raw.xlen("dlq") == 1)

    (letter,) = fields_of(raw, "dlq")
    assert letter["dlq.group"] == "alerts"
    assert letter["dlq.reason"] == "invalid"


def test_a_rule_that_is_taken_out_ends_its_alerts_at_the_next_start(
    server: Server, raw: Raw, rules: Path, start: float
) -> None:
    with manager(server, rules):
        publish(raw, lagging(start, 40))
        eventually(lambda: told(raw) == ["triggered lag ingest/a"])
    rules.write_text(rules_text(failing=FAILING))
    with manager(server, rules):
        eventually(lambda: told(raw)[1:] == ["resolved lag ingest/a"])

    assert records(raw) == {}


def test_wrong_rules_end_the_start_with_every_mistake(server: Server, tmp_path: Path) -> None:
    rules = tmp_path / "mine.yaml"
    rules.write_text(rules_text(a="kind: event", b=f"{LAG}\nfour: 5m"))
    env = environment(REDIS_URL=server.url, PENSTOCK_ALERTS=str(rules))
    done = run(["penstock_services.alerts"], env=env)

    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "penstock: mine.yaml: rules.a.type: it is missing",
        "mine.yaml: rules.b.four: there is no such key; did you mean for?",
    ]


def test_a_window_of_a_thousand_series_fits(server: Server, raw: Raw, tmp_path: Path, start: float) -> None:
    rules = tmp_path / "alerts.yaml"
    rules.write_text(
        rules_text(
            failing="kind: ratio\nseries: jobs\nabove: 10%\nmin_count: 1\ngroup_by: []",
            odd="kind: anomaly\nseries: jobs",
        )
    )
    with manager(server, rules):
        for at in range(3):
            many = [jobs(10, 5, service="worker", job_type=f"t{number}") for number in range(1_000)]
            publish(raw, make_window(start + 10 * at, *many, scope="events"))
        eventually(lambda: is_caught_up(raw))

    assert told(raw) == ["triggered failing"]
    assert alerts_of(raw)[0].reason.startswith("1000 alerts: ")
    assert raw.hlen("state:alerts:memory") == 2_000
