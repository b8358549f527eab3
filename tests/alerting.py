"""What tests of the alert manager share: rules from a few lines of YAML, windows, and a state that is folded."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import indent
from typing import TypeVar

import msgspec

from penstock.event import Event
from penstock.mesh.alerts import Acknowledgement, AlertRecord, Silence
from penstock.schemas import Alert, Exemplar, MetricsWindow, Quantiles, Series
from penstock.times import rfc3339
from penstock_services.alerts.adopt import adopt
from penstock_services.alerts.engine import Engine
from penstock_services.alerts.rules.file import parse
from penstock_services.alerts.rules.model import Rule
from penstock_services.alerts.state.state import AlertState
from tests.hands import Raw, fields_of
from tests.processes import service_process
from tests.servers import Server

T = TypeVar("T")
EPOCH = 1_800_000_000.0
"""A Friday in 2027, on the edge of every window: the time that tests begin at."""


def rules_text(**bodies: str) -> str:
    """Return alerts.yaml with a rule for each keyword; _ in names becomes -."""
    rules = "".join(f"  {name.replace('_', '-')}:\n{indent(body.strip(), '    ')}\n" for name, body in bodies.items())
    return f"rules:\n{rules}"


def one_rule(body: str) -> Rule:
    """Return the only rule of a file."""
    (rule,) = parse(rules_text(rule="\n".join(line.strip() for line in body.strip().splitlines()))).rules.values()
    return rule


def gauge(name: str, value: float, **labels: str) -> Series:
    return Series(name=name, labels=labels, value=value)


def jobs(
    count: int, errors: int = 0, *, p95: float = 0.1, name: str = "jobs", traces: Sequence[str] = (), **labels: str
) -> Series:
    exemplars = [Exemplar(trace_id=trace, event_id=trace, kind="failed", error="boom") for trace in traces]
    return Series(
        name=name,
        labels=labels,
        count=count,
        rate=count / 10,
        errors=errors,
        error_rate=errors / count if count else 0.0,
        duration=Quantiles(p50=p95 / 2, p90=p95 * 0.9, p95=p95, p99=p95 * 1.2, max=p95 * 2),
        exemplars=exemplars,
    )


class Mesh:
    """Feeds an engine one window after another, and keeps what people were told."""

    def __init__(self, text: str, *, start: float = EPOCH) -> None:
        self.engine = Engine(parse(text))
        self.state = AlertState()
        self.now = start

    def use(self, text: str) -> None:
        """Go on with other rules."""
        before, self.engine = self.engine.rules, Engine(parse(text))
        adopt(self.engine.rules, self.state, before, "ada")

    def acknowledge(self, fingerprint: str, by: str = "ada", *, withdrawn: bool = False) -> None:
        said = Acknowledgement(fingerprint=fingerprint, by=by, at=self.now, withdrawn=withdrawn)
        self.state.acknowledgements.put(fingerprint, said)

    def restart(self) -> None:
        """Forget everything but what is written down, as JSON, in Redis."""
        old, self.state = self.state, AlertState()
        self.state.watermarks = again(old.watermarks)
        for table in ("alerts", "memory", "arrivals", "notices", "silences", "acknowledgements"):
            for key, row in getattr(old, table).items():
                getattr(self.state, table).put(key, again(row))
        self.state.history, self.state.outbox = old.history, old.outbox

    def window(self, *series: Series, scope: str | None = None, seconds: int = 10, start: float | None = None) -> None:
        """Fold the next window of 10 s, or one at `start`."""
        at = self.now if start is None else start
        counted = scope == "events" if scope else bool(series) and series[0].name in ("jobs", "events")
        self.engine.window(self.state, make_window(at, *series, seconds=seconds, scope="events" if counted else "mesh"))
        if start is None:
            self.now += seconds

    def tick(self, after: float = 0.0) -> None:
        """Let `after` seconds pass, and tick."""
        self.now += after
        self.engine.tick(self.state, self.now)

    def event(self, event_type: str, data: object = None, *, at: float | None = None, **fields: str) -> None:
        """Fold an event that arrives now."""
        self.engine.event(self.state, make_event(event_type, data, **fields), self.now if at is None else at)

    def silence(self, *matchers: str, seconds: float) -> None:
        silence = Silence(
            id=f"s{len(self.state.silences)}", matchers=list(matchers), until=self.now + seconds, author="ops"
        )
        self.state.silences.put(silence.id, silence)

    @property
    def states(self) -> dict[str, str]:
        """The state of each alert, by its rule and labels."""
        return {name_of(record): record.state for _, record in self.state.alerts.items()}

    @property
    def told(self) -> list[str]:
        """What people were told so far: `triggered lag ingest/worker`."""
        return [f"{kind.removeprefix('alert.')} {name_of(alert)}" for kind, alert in self.state.outbox]

    @property
    def last(self) -> Alert:
        return self.state.outbox[-1][1]


def name_of(alert: AlertRecord | Alert) -> str:
    return " ".join((alert.rule, "/".join(alert.labels.values()))).strip()


def make_window(start: float, *series: Series, seconds: int = 10, scope: str = "mesh") -> MetricsWindow:
    return msgspec.convert(
        {"start": rfc3339(start), "seconds": seconds, "scope": scope, "series": list(series)}, MetricsWindow
    )


def make_event(event_type: str, data: object = None, *, event_id: str = "e-1", tenant: str | None = None) -> Event:
    return Event(
        type=event_type, data=msgspec.json.encode(data), id=event_id, stated_time=rfc3339(EPOCH), tenant=tenant
    )


def again(value: T) -> T:
    """Return what comes back from Redis for `value`."""
    return msgspec.json.decode(msgspec.json.encode(value), type=type(value))


# A real alert manager on a real Redis


def lagging(start: float, *values: float) -> MetricsWindow:
    """Return a window of the mesh in which groups a, b, ... lag by those seconds."""
    return make_window(
        start, *(gauge("lag_age", value, stream="ingest", group=chr(97 + at)) for at, value in enumerate(values))
    )


def publish(raw: Raw, *windows: MetricsWindow, at: float | None = None) -> None:
    """Publish windows as the metrics processor does, now or, before anything newer is there, at another time."""
    for window in windows:
        entry_id = "*" if at is None else f"{round(at * 1000)}-*"
        raw.xadd("metrics", {"type": "metrics.window", "data": msgspec.json.encode(window)}, id=entry_id)


def publish_tick(raw: Raw, now: float) -> None:
    """Let it be `now`, whatever the clock says."""
    raw.xadd("metrics", {"type": "alerts.tick", "data": msgspec.json.encode({"time": rfc3339(now)})})


def told(raw: Raw) -> list[str]:
    """Return what people were told on `alerts`: `triggered lag ingest/worker`."""
    return [
        f"{fields['type'].removeprefix('alert.')} {name_of(msgspec.json.decode(fields['data'], type=Alert))}"
        for fields in fields_of(raw, "alerts")
        if fields["type"] != "alert.watchdog"
    ]


def records(raw: Raw) -> dict[str, str]:
    """Return the state of each alert that is latched in Redis."""
    rows = [msgspec.json.decode(row, type=AlertRecord) for row in raw.hvals("state:alerts:alerts")]
    return {name_of(record): record.state for record in rows}


def is_caught_up(raw: Raw) -> bool:
    """Return whether everything on `metrics` is folded and settled."""
    newest = raw.xrevrange("metrics", count=1)
    groups = {group["name"]: group for group in raw.xinfo_groups("metrics")}
    alerts = groups.get(b"alerts")
    idle = alerts is not None and not alerts["pending"] and not raw.xlen("metrics:alerts:retry")
    return bool(idle and newest and raw.hget("state:alerts:meta", "cursor") == newest[0][0])


def replicas(raw: Raw) -> int:
    """Return how many alert managers have begun to read."""
    groups = raw.xinfo_groups("events") if raw.exists("events") else []
    return sum(len(raw.xinfo_consumers("events", "alerts")) for group in groups if group["name"] == b"alerts")


@contextlib.contextmanager
def manager(server: Server, rules: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run an alert manager, as `penstock up` does."""
    given = {"REDIS_URL": server.url, "PENSTOCK_ALERTS": str(rules), **env}
    with service_process("-m", "penstock_services.alerts", env=given) as process:
        yield process
