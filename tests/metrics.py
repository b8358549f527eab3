"""Job events for tests of the metrics service, and the exact model that its counts are held against."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
from collections import Counter, defaultdict
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from penstock.event import Event, decode
from penstock.schemas import MetricsWindow, Quantiles, Series
from penstock.times import rfc3339
from tests.mesh import waiting
from tests.processes import eventually, service_process
from tests.servers import Server

EPOCH_MS = 1_700_000_040_000  # 2023-11-14T22:14:00Z, a whole minute
NOW = EPOCH_MS + 10 * 365 * 86_400_000  # ms: after all that is taken in tests
TOPOLOGY = Path(__file__).with_name("metrics.yaml")
_numbers = itertools.count()
_Key = tuple[str, str, str]  # type, tenant and job type


def service(server: Server, *, log: Path | None = None, **env: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Run the metrics service in a mesh that keeps what is of EPOCH_MS."""
    given = {"REDIS_URL": server.url, "PENSTOCK_TOPOLOGY": str(TOPOLOGY), **env}
    return service_process("-m", "penstock_services.metrics", env=given, log=log)


def fields(
    kind: str,
    *,
    event_id: str | None = None,
    source: str = "worker",
    tenant: str | None = None,
    time_ms: int | None = None,
    job_type: str = "ticket.created",
    **data: Any,
) -> dict[str, str]:
    """Return the fields of an event; of a job event if its type says so."""
    event_id = event_id or f"event-{next(_numbers):09}"
    if kind.startswith("job."):
        data = {"job_id": f"job of {event_id}", "job_type": job_type, "attempt": 1, **data}
    made = {"type": kind, "id": event_id, "source": source, "data": json.dumps(data)}
    if tenant:
        made["tenant"] = tenant
    if time_ms is not None:
        made["time"] = rfc3339(time_ms / 1000)
    return made


def job(taken_ms: int, kind: str = "job.completed", **rest: Any) -> Event:
    """Return an event as a handler gets it that the server took at `taken_ms`."""
    pairs = fields(kind, **rest).items()
    return decode("events", f"{taken_ms}-0", [part.encode() for pair in pairs for part in pair])


class Model:
    """Publishes events with entry ids of its choosing and knows exactly what must be counted of them."""

    def __init__(self, raw: Any, *, lateness_ms: int = 2_000) -> None:
        self._raw = raw
        self._lateness_ms = lateness_ms
        self._waiting: list[tuple[str, dict[str, str]]] = []
        self._counted: list[tuple[int, _Key, float | None]] = []
        self._late: list[int] = []

    @property
    def late(self) -> int:
        """How many events come too late for their window."""
        return len(self._late)

    def add(
        self, taken_ms: int, kind: str, *, time_ms: int | None = None, duration: float | None = None, **rest: Any
    ) -> None:
        """Note an event that is to be published at `taken_ms`, and what must become of it."""
        if duration is not None:
            rest["duration"] = duration
        self._waiting.append((f"{taken_ms}-{len(self._waiting)}", fields(kind, time_ms=time_ms, **rest)))
        happened = taken_ms if time_ms is None else min(time_ms, taken_ms)
        end = (happened // 10_000 + 1) * 10_000
        if taken_ms - end >= self._lateness_ms:
            self._late.append(taken_ms)
            happened = taken_ms
        is_job = kind.startswith("job.")
        key = kind, rest.get("tenant") or "", rest.get("job_type", "ticket.created") if is_job else ""
        self._counted.append((happened, key, duration if is_job else None))

    def publish(self) -> None:
        """Publish what was added since the last time, with the entry ids it asked for."""
        pipeline = self._raw.pipeline(transaction=False)
        for entry_id, made in self._waiting:
            pipeline.xadd("events", made, id=entry_id)
        pipeline.execute()
        self._waiting.clear()

    def look_with(self, raw: Any) -> None:
        """Use another client: the server was restarted."""
        self._raw = raw

    def check(self, seconds: int) -> None:
        """Compare with the model every window of `seconds` that was published."""

        def window(ms: int) -> int:
            return ms // 1000 // seconds * seconds

        wanted: dict[int, dict[_Key, list[float | None]]] = defaultdict(lambda: defaultdict(list))
        late = Counter(map(window, self._late))
        for happened, key, duration in self._counted:
            wanted[window(happened)][key].append(duration)
        found = published(self._raw, seconds)
        assert sorted(found) == sorted(wanted), (found.keys() - wanted.keys(), wanted.keys() - found.keys())
        for start, (series, late_ones) in found.items():
            assert late_ones == late[start]
            _check_window([one for one in series if one.name == "events"], wanted[start])


def _check_window(found: list[Series], wanted: dict[_Key, list[float | None]]) -> None:
    by_key = {tuple(one.labels.get(name, "") for name in ("type", "tenant", "job_type")): one for one in found}
    assert {key: one.count for key, one in by_key.items()} == {key: len(events) for key, events in wanted.items()}
    for key, events in wanted.items():
        durations = [duration for duration in events if duration is not None]
        quantiles = by_key[key].duration
        assert (quantiles is not None) == bool(durations)
        if quantiles is not None:
            assert_close(quantiles, durations)


def assert_close(found: Quantiles, values: list[float]) -> None:
    """Compare quantiles with the exact ones: within 1 % and what rounding adds, the greatest exactly."""
    ordered = sorted(values)
    for share, quantile in ((0.5, found.p50), (0.9, found.p90), (0.95, found.p95), (0.99, found.p99)):
        exact = ordered[math.floor(share * (len(ordered) - 1))]
        assert abs(quantile - exact) <= max(exact * 0.01001, 1e-6)
    assert found.max == ordered[-1]


def published(raw: Any, seconds: int, scope: str = "events") -> dict[int, tuple[list[Series], int]]:
    """Return series and late count of every closed window on `metrics`, by its start; none may be there twice."""
    parts: dict[int, dict[int, MetricsWindow]] = defaultdict(dict)
    for _, entry in raw.xrange("metrics"):
        window = msgspec.json.decode(entry[b"data"], type=MetricsWindow)
        assert entry[b"type"] == b"metrics.window"
        if window.seconds == seconds and window.scope == scope:
            start = _seconds(window.start)
            assert window.part not in parts[start], f"window {window.start} of {seconds} s was published twice"
            parts[start][window.part] = window
    for found in parts.values():
        assert sorted(found) == list(range(1, next(iter(found.values())).parts + 1))
    return {
        start: ([one for part in sorted(found) for one in found[part].series], found[1].late)
        for start, found in parts.items()
    }


def settled(raw: Any, stream: str = "events", group: str = "metrics") -> bool:
    """Return whether the group has read and settled everything."""
    groups = {info["name"].decode(): info for info in raw.xinfo_groups(stream)} if raw.exists(stream) else {}
    done = group in groups and groups[group]["lag"] == 0 and groups[group]["pending"] == 0
    return done and not waiting(raw, stream, group)


def until_closed(raw: Any, *, deadline: float = 60.0) -> None:
    """Wait until every event is counted and every window of the past is closed."""
    eventually(lambda: settled(raw), deadline=deadline, what="everything counted")
    eventually(
        lambda: raw.zcard("state:metrics:open") + raw.zcard("state:metrics:minutes") == 0,
        deadline=deadline,
        what="every window closed",
    )


def _seconds(time: str) -> int:
    return round(datetime.fromisoformat(time).timestamp())
