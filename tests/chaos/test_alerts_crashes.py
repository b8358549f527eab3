"""The alert manager killed at the worst of times: no alert is repeated, none is forgotten, no event counts twice."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import pytest

from penstock.schemas import MetricsWindow
from tests.alerting import Mesh, is_caught_up, lagging, manager, publish, records, replicas, rules_text, told
from tests.hands import Raw
from tests.processes import eventually
from tests.servers import Server

LAG = "kind: threshold\nseries: lag_age\nabove: 30s\nclear: 10s\nfor: 20s\nkeep_firing: 20s\nflap: {triggers: 50}"
LIFE = (5.0, 31.0, 40.0, 50.0, 20.0, 9.0, 8.0, 7.0, 31.0, 31.0, 31.0)
STATES = (
    None,
    "pending",
    "pending",
    "firing",
    "firing",
    "firing",
    "firing",
    "resolved",
    "pending",
    "pending",
    "firing",
)


@pytest.fixture
def start() -> float:
    return time.time() // 10 * 10 - 3_600


def rules_in(folder: Path, **bodies: str) -> Path:
    path = folder / "alerts.yaml"
    path.write_text(rules_text(**bodies))
    return path


def expected(rules: Path, windows: list[MetricsWindow]) -> Mesh:
    """Return what comes of these windows where nothing ever fails."""
    model = Mesh(rules.read_text())
    for window in windows:
        model.engine.window(model.state, window)
    return model


@pytest.mark.parametrize("at", [1, 3, 4, 7, 8, 10])
def test_killed_in_any_state_it_goes_on_from_there(
    server: Server, raw: Raw, tmp_path: Path, start: float, at: int
) -> None:
    rules = rules_in(tmp_path, lag=LAG)
    windows = [lagging(start + 10 * number, value) for number, value in enumerate(LIFE)]
    with manager(server, rules) as process:
        publish(raw, *windows[:at])
        eventually(lambda: is_caught_up(raw))
        process.kill()
    assert records(raw).get("lag ingest/a") == STATES[at - 1]
    publish(raw, *windows[at:])
    with manager(server, rules):
        eventually(lambda: is_caught_up(raw))

    assert told(raw) == expected(rules, windows).told
    assert records(raw) == {"lag ingest/a": STATES[-1]}


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_again_and_again_two_replicas_tell_what_one_that_never_fails_would(
    server: Server, raw: Raw, tmp_path: Path, start: float, seed: int
) -> None:
    rng = random.Random(seed)
    rules = rules_in(tmp_path, lag=LAG, high="kind: threshold\nseries: lag_age\nabove: 50s\nflap: {triggers: 50}")
    windows = [lagging(start + 10 * number, *(rng.uniform(0, 80) for _ in range(5))) for number in range(300)]
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(manager(server, rules)) for _ in range(2)]
        eventually(lambda: replicas(raw) == 2)
        for at in range(0, len(windows), 50):
            victim = running.pop(0)
            seen = len(told(raw))
            publish(raw, *windows[at : at + 25])
            eventually(lambda seen=seen: len(told(raw)) > seen)  # type: ignore[misc] # in the midst of it
            victim.kill()
            publish(raw, *windows[at + 25 : at + 50])
            running.append(stack.enter_context(manager(server, rules)))
        eventually(lambda: is_caught_up(raw), deadline=60)

    model = expected(rules, windows)
    assert len(model.told) > 200
    assert told(raw) == model.told
    assert records(raw) == model.states


def test_no_event_is_counted_twice_or_lost_when_it_is_killed(server: Server, raw: Raw, tmp_path: Path) -> None:
    rules = rules_in(tmp_path, dying="kind: event\ntype: job.dead\nat_least: 300\nwithin: 1h")
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            process = stack.enter_context(manager(server, rules))
            for _ in range(99):
                raw.xadd("events", {"type": "job.dead"})
            eventually(lambda: raw.xinfo_groups("events") and raw.xinfo_groups("events")[0]["entries-read"])
            process.kill()
        stack.enter_context(manager(server, rules))
        for _ in range(2):
            raw.xadd("events", {"type": "job.dead"})
        group = "events:alerts:retry"
        eventually(
            lambda: (
                raw.xinfo_groups("events")[0]["lag"] == 0
                and not raw.xinfo_groups("events")[0]["pending"]
                and not raw.xlen(group)
            )
        )
        assert told(raw) == []  # 299
        raw.xadd("events", {"type": "job.dead"})
        eventually(lambda: told(raw) == ["triggered dying"])


def test_redis_killed_in_the_middle_changes_nothing(own_server: Server, tmp_path: Path, start: float) -> None:
    rules = rules_in(tmp_path, lag=LAG)
    windows = [lagging(start + 10 * number, *([40] * 3 if number % 12 < 5 else [4] * 3)) for number in range(120)]
    with manager(own_server, rules):
        with own_server.client() as raw:
            publish(raw, *windows[:60])
            eventually(lambda: told(raw))
        own_server.kill()
        own_server.start()
        with own_server.client() as raw:
            present = raw.xlen("metrics")
            held = [fields for _, fields in raw.xrange("metrics") if fields[b"type"] == b"metrics.window"]
            publish(raw, *windows[len(held) :])  # what the kill took of the log's last second
            assert present
            eventually(lambda: is_caught_up(raw), deadline=60)

            assert told(raw) == expected(rules, windows).told
