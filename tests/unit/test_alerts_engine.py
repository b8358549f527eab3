"""Folding: windows in order, windows nobody publishes, and rules that fail without harm to others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import pytest

from penstock.schemas import MetricsWindow, Series, Tick
from penstock_services.alerts.evaluate.evaluate import evaluate
from penstock_services.alerts.input import Item, entries, whole
from penstock_services.alerts.rules.file import load
from penstock_services.alerts.rules.model import SeriesRule
from tests.alerting import EPOCH, Mesh, gauge, jobs, make_window, rules_text
from tests.fuzz.doubles import Redis
from tests.processes import ROOT

LAG = "kind: threshold\nseries: lag_age\nabove: 30s"
FAILING = "kind: ratio\nseries: jobs\nby: [service]\nover: 1m\nabove: 10%\nmin_count: 10"


def processor(behind: float = 0.0) -> list[Series]:
    """The gauges of the metrics processor itself."""
    return [
        gauge("lag_age", behind, stream="events", group="metrics"),
        gauge("oldest_pending", 0, stream="events", group="metrics"),
    ]


def test_a_window_that_comes_twice_is_judged_once() -> None:
    mesh = Mesh(rules_text(failing=FAILING))
    for _ in range(2):
        mesh.window(jobs(9, 9, service="worker"), start=EPOCH)

    assert mesh.told == []


def test_an_older_window_changes_nothing() -> None:
    mesh = Mesh(rules_text(lag=LAG))
    mesh.window(gauge("lag_age", 40, stream="a", group="b"), start=EPOCH)
    mesh.window(gauge("lag_age", 4, stream="a", group="b"), start=EPOCH - 10)

    assert mesh.told == ["triggered lag a/b"]


def test_windows_of_the_two_scopes_and_lengths_do_not_get_in_each_others_way() -> None:
    mesh = Mesh(rules_text(lag=LAG, failing=FAILING, slow=f"{LAG}\nwindow: 60s"))
    lagging = gauge("lag_age", 40, stream="a", group="b")
    mesh.window(lagging, start=EPOCH + 60)
    mesh.window(jobs(10, 10, service="worker"), start=EPOCH + 50)
    assert mesh.told == ["triggered lag a/b", "triggered failing worker"]

    mesh.window(lagging, start=EPOCH, seconds=60)
    assert mesh.told[2:] == ["triggered slow a/b"]


def test_windows_in_which_nothing_happened_count_once_the_processor_is_past_them() -> None:
    mesh = Mesh(rules_text(failing=FAILING))
    mesh.window(jobs(10, 10, service="worker"), start=EPOCH)
    assert mesh.told == ["triggered failing worker"]

    mesh.window(*processor(), start=EPOCH + 70, scope="mesh")  # proves all that ended before +60
    assert mesh.told == ["triggered failing worker"]
    mesh.window(*processor(), start=EPOCH + 80, scope="mesh")
    assert mesh.told == ["triggered failing worker", "resolved failing worker"]


@pytest.mark.parametrize("name", ["delayed", "retry"])
def test_a_processor_that_has_to_try_again_proves_nothing(name: str) -> None:
    mesh = Mesh(rules_text(failing=FAILING))
    mesh.window(jobs(10, 10, service="worker"), start=EPOCH)
    waiting = gauge(name, 1, stream="events", group="metrics")
    mesh.window(*processor(), waiting, start=EPOCH + 600, scope="mesh")

    assert mesh.told == ["triggered failing worker"]


def test_a_processor_that_lags_proves_nothing() -> None:
    mesh = Mesh(rules_text(failing=FAILING))
    mesh.window(jobs(10, 10, service="worker"), start=EPOCH)
    for at in range(10, 400, 10):
        mesh.window(*processor(behind=at + 10), start=EPOCH + at, scope="mesh")
        mesh.window(gauge("lag_age", 0, stream="events", group="other"), start=EPOCH + at, scope="mesh")
    assert mesh.told == ["triggered failing worker"]

    mesh.window(jobs(10, 10, service="worker"), start=EPOCH + 10)  # late, but it counts
    assert mesh.last.value == 1


def test_after_a_long_gap_only_the_last_hour_is_gone_through() -> None:
    mesh = Mesh(rules_text(drop="kind: anomaly\nseries: jobs\nby: []"))
    for _ in range(40):
        mesh.window(jobs(50))
    mesh.window(*processor(), start=mesh.now + 7 * 86_400, scope="mesh")

    assert mesh.told == ["triggered drop"]
    assert mesh.state.watermarks.windows["events:10"] > EPOCH + 7 * 86_400


def test_traffic_that_stops_altogether_is_an_anomaly() -> None:
    mesh = Mesh(rules_text(drop="kind: anomaly\nseries: jobs\nby: []\ndirection: down"))
    for _ in range(40):
        mesh.window(jobs(10))
    for _ in range(4):
        mesh.window(*processor(), scope="mesh")

    assert mesh.told == ["triggered drop"]
    assert mesh.last.value == 0


def test_a_rule_that_breaks_does_not_silence_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(rule: SeriesRule, *rest: Any) -> Any:
        if rule.name == "broken":
            raise ZeroDivisionError
        return evaluate(rule, *rest)

    monkeypatch.setattr("penstock_services.alerts.engine.evaluate", broken)
    mesh = Mesh(rules_text(broken=LAG, lag=LAG))
    mesh.window(gauge("lag_age", 40, stream="a", group="b"))

    assert mesh.told == ["triggered lag a/b"]
    assert "broken" in capsys.readouterr().out


def test_a_time_that_goes_back_takes_nothing_back() -> None:
    mesh = Mesh(rules_text(silent="kind: absence\nseries: jobs\nafter: 2m"))
    mesh.tick()
    mesh.tick(after=3_600)
    mesh.tick(after=-7_200)

    assert mesh.told == ["triggered silent"]
    assert mesh.state.watermarks.now == EPOCH + 3_600


def test_what_was_not_there_for_long_is_forgotten() -> None:
    mesh = Mesh(rules_text(failing=FAILING))
    mesh.window(jobs(1, 0, service="worker"))
    mesh.tick(after=3_590)
    assert len(mesh.state.memory) == 1

    mesh.tick(after=30)
    assert len(mesh.state.memory) == 0


def test_memory_is_bounded_however_long_it_runs() -> None:
    mesh = Mesh(
        rules_text(
            failing=FAILING,
            burning="kind: burn_rate\nseries: jobs\nobjective: 99%\nrates: [14.4, 6, 3, 1]",
            odd="kind: anomaly\nseries: jobs",
            growing="kind: threshold\nseries: jobs\nfield: count\nabove: 1000\nchange: 1h",
        )
    )
    sizes = []
    for _ in range(3):
        for _ in range(1_000):
            mesh.window(jobs(5, 1, service="worker"))
        sizes.append(sum(len(str(row)) for _, row in mesh.state.memory.items()))

    assert sizes[2] < 1.2 * sizes[1]


def minutes(mesh: Mesh) -> list[str]:
    """Let ten minutes pass by ticks; return the signs of life."""
    seen = []
    for _ in range(60):
        mesh.tick(after=10)
        if mesh.state.watchdog:
            seen.append(mesh.state.watchdog.time)
            mesh.state.watchdog = None
    return seen


def test_a_sign_of_life_comes_every_minute_while_there_is_something_to_go_by() -> None:
    mesh = Mesh(rules_text(lag=LAG))
    assert minutes(mesh) == []

    for _ in range(30):
        mesh.window(gauge("lag_age", 4, stream="a", group="b"))
        mesh.tick()
    assert mesh.state.watchdog is not None
    mesh.state.watchdog = None
    assert len(minutes(mesh)) == 1  # no window comes any more
    for _ in range(30):
        mesh.window(gauge("lag_age", 4, stream="a", group="b"))
    assert mesh.state.watchdog is None


def test_who_catches_up_with_the_past_gives_no_sign_of_life() -> None:
    mesh = Mesh(rules_text(lag=LAG))
    mesh.state.wall = mesh.now + 3_600
    for _ in range(30):
        mesh.window(gauge("lag_age", 40, stream="a", group="b"))
        mesh.tick()

    assert mesh.state.watchdog is None
    (fired, notified) = mesh.state.history
    assert (fired.what, fired.time, fired.recorded) == ("firing", EPOCH + 10, EPOCH + 3_600)
    assert (notified.what, notified.time, notified.recorded) == ("notified", EPOCH + 3_600, None)


def test_series_that_are_measured_come_with_the_counted_ones() -> None:
    mesh = Mesh(rules_text(skew="kind: threshold\nseries: skew\nabove: 30s"))
    mesh.window(jobs(5, service="worker"), gauge("skew", 300, service="worker"))

    assert mesh.told == ["triggered skew worker"]
    assert mesh.last.reason == "skew of worker is 5 min, above 30 s"


@pytest.mark.parametrize("every", [10, 30, 70, 120, 300], ids="every {} s".format)
@pytest.mark.parametrize(
    ("rule", "series"),
    [
        ("clock-skew", gauge("skew", 300, service="worker")),
        ("series-overflow", gauge("overflow", 5)),
        ("numbers-malformed", gauge("malformed", 3, service="worker")),
    ],
    ids=["clock-skew", "series-overflow", "numbers-malformed"],
)
def test_what_ships_tells_what_is_wrong_with_what_is_counted_however_seldom_it_comes(
    rule: str, series: Series, every: int
) -> None:
    mesh = Mesh((ROOT / "alerts.yaml").read_text())
    for second in range(0, 1_800, 10):
        mesh.window(*([series] if second % every == 0 else []), scope="events")
    told = [one.split()[:2] for one in mesh.told]
    assert told == [["triggered", rule]]

    for _ in range(61):
        mesh.window(scope="events")
    assert mesh.told[-1].split()[:2] == ["resolved", rule]


GROUP = {"stream": "ingest", "group": "worker"}
ALIVE = gauge("consumers", 1, **GROUP)
WHAT_SHIPS: dict[str, Callable[[int], Sequence[Series] | str]] = {
    # rule: what the window that begins after so many seconds holds, or the event that comes then
    "dead-letters-growing": lambda second: [ALIVE, gauge("dead", second // 60, **GROUP)],
    "dead-letters-dropped": lambda _: "dlq.dropped",
    "redis-filling": lambda _: [ALIVE, gauge("memory_share", 0.9)],
    "redis-full-soon": lambda second: [ALIVE, gauge("time_to_full", 3_000 - second)],
    "trimming-held": lambda second: "retention.held" if second % 60 == 0 else [ALIVE],
    "unread-dropped": lambda _: "retention.dropped",
    "spool-waiting": lambda second: [ALIVE, gauge("spool_age", second, program="gateway", host="a")],
    "spool-aside": lambda _: [ALIVE, gauge("spool_aside", 1, program="gateway", host="a")],
    "lag": lambda _: [ALIVE, gauge("lag_age", 40, **GROUP)],
    "stuck": lambda second: [ALIVE, gauge("lag_age", second, **GROUP)],
    "pending-too-long": lambda second: [ALIVE, gauge("oldest_pending", second, **GROUP)],
    "jobs-failing": lambda _: [jobs(100, 50, service="worker", job_type="t")],
    "breaker-open": lambda _: "breaker.opened",
    "service-gone": lambda _: [gauge("consumers", 0, **GROUP)],
    "metrics-gone": lambda second: [ALIVE] if second < 60 else [],
    "clock-skew": lambda _: [gauge("skew", 300, service="worker")],
    "series-overflow": lambda _: [gauge("overflow", 5)],
    "numbers-malformed": lambda _: [gauge("malformed", 3, service="worker")],
    "jobs-slow": lambda second: [jobs(100, p95=0.1 if second < 7_200 else 5.0, service="worker", job_type="t")],
}
COUNTED = {"jobs-failing", "jobs-slow", "clock-skew", "series-overflow", "numbers-malformed"}


def test_each_rule_that_ships_is_tried() -> None:
    assert set(WHAT_SHIPS) == set(load(ROOT / "alerts.yaml").rules)


@pytest.mark.parametrize("rule", WHAT_SHIPS)
def test_a_rule_that_ships_fires_when_what_it_is_for_happens(rule: str) -> None:
    mesh = Mesh((ROOT / "alerts.yaml").read_text())
    about = {**GROUP, "name": "crm", "from": "closed", "to": "open", "reason": "r", "epoch": 1, "count": 3}
    for second in range(0, 9_000 if rule == "jobs-slow" else 1_800, 10):
        given = WHAT_SHIPS[rule](second)
        if isinstance(given, str):
            mesh.event(given, about)
            given = [ALIVE]
        mesh.window(*given, scope="events" if rule in COUNTED else "mesh")
        if not given:
            mesh.tick()

    assert f"triggered {rule}" in {" ".join(one.split()[:2]) for one in mesh.told}


async def pieces(*items: Item) -> list[tuple[str, Item]]:
    async def entries() -> AsyncIterator[tuple[str, Item]]:
        for at, item in enumerate(items):
            yield f"{at}-0", item

    return [found async for found in whole(entries())]


def part(start: float, number: int, of: int, scope: str = "mesh") -> MetricsWindow:
    window = make_window(start, gauge("lag", number, stream="s", group="g"), scope=scope)
    return MetricsWindow(
        start=window.start, seconds=10, scope=window.scope, series=window.series, part=number, parts=of
    )


async def test_a_window_is_put_together_from_its_parts() -> None:
    tick = Tick("2027-01-15T08:00:00Z")
    found = await pieces(
        part(EPOCH, 1, 2),
        part(EPOCH, 2, 2),
        part(EPOCH, 1, 1, "events"),
        tick,
        part(EPOCH + 10, 1, 1),
        part(EPOCH, 1, 1),
    )

    assert [entry_id for entry_id, _ in found] == ["1-0", "2-0", "3-0", "4-0", "5-0"]
    first = found[0][1]
    assert isinstance(first, MetricsWindow)
    assert [series.value for series in first.series] == [1, 2]
    assert found[2][1] == tick


async def test_the_same_window_twice_is_two_windows() -> None:
    found = await pieces(part(EPOCH, 1, 1), part(EPOCH, 1, 1))

    assert [entry_id for entry_id, _ in found] == ["0-0", "1-0"]


@pytest.mark.parametrize("data", [b"{", b'{"time":"\xff"}', b'{"x":' + b"[" * 5_000, b'{"time":"soon"}'])
async def test_what_cannot_be_read_is_passed_over_and_what_follows_counts(data: bytes) -> None:
    redis = Redis()
    tick = b'{"time":"2026-01-15T08:00:00Z"}'
    redis.rows = [(b"1-0", {b"type": b"alerts.tick", b"data": data}), (b"2-0", {b"type": b"x"})]
    redis.rows.append((b"1768464000000-0", {b"type": b"alerts.tick", b"data": tick}))
    found = [item async for _, item in entries(cast(Any, redis), "metrics", "0-0")]
    assert found == [Tick("2026-01-15T08:00:00Z")]
