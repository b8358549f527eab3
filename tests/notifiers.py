"""Running notifiers, alerts for them, and a look at what they left in Redis."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from penstock.schemas import Alert, DeliveryAttempt
from tests.processes import eventually, service_process
from tests.servers import Server, free_port

DELAYED = "notifications:notifier:delayed"
_numbers = itertools.count(1)


class Mesh:
    """A Redis, a notify.yaml and the notifiers that use them."""

    def __init__(self, server: Server, raw: Any, folder: Path, notify: str, **env: str) -> None:
        self._file = folder / "notify.yaml"
        self._file.write_text(notify)
        self.raw = raw
        self.log = folder / "log"
        self.port = free_port()
        self.env = {
            "REDIS_URL": server.url,
            "PENSTOCK_NOTIFY": str(self._file),
            "PENSTOCK_NOTIFIER_PORT": str(self.port),
            "PENSTOCK_ALLOW_PRIVATE_TARGETS": "true",
            **env,
        }

    def write(self, notify: str) -> None:
        """Put another notify.yaml in place of this one."""
        self._file.write_text(notify)

    def configure(self, line: str) -> None:
        """Put a line of notify.yaml in place of the one with the same key."""
        key = line.partition(":")[0]
        lines = self._file.read_text().splitlines()
        self._file.write_text("\n".join(line if one.startswith(f"{key}:") else one for one in lines))

    @contextlib.contextmanager
    def notifier(self, *command: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a notifier; it reads its streams by the time the context begins."""
        began = self.logged('"started"')
        given = command or ("-m", "penstock_services.notifier")
        with service_process(*given, env={**self.env, **env}, log=self.log) as process:
            eventually(lambda: self.logged('"started"') > began or process.poll() is not None)
            assert process.poll() is None, self.log.read_text()
            yield process

    def logged(self, text: str) -> int:
        return self.log.read_text().count(text) if self.log.exists() else 0

    def tell(self, alert: Alert, kind: str | None = None) -> None:
        """Publish an alert as the alert manager does."""
        kind = kind or ("resolved" if alert.status == "resolved" else "triggered")
        data = msgspec.json.encode(alert)
        self.raw.xadd("alerts", {"type": f"alert.{kind}", "data": data, "id": f"alert-{next(_numbers)}"})

    def attempts(self, channel: str | None = None) -> list[DeliveryAttempt]:
        """Return the attempts on record, the oldest first; those of the console only if asked for."""
        rows = [fields for _, fields in self.raw.xrange("deliveries") if fields[b"type"].startswith(b"delivery.")]
        found = [msgspec.json.decode(fields[b"data"], type=DeliveryAttempt) for fields in rows]
        return [one for one in found if one.channel == channel or (channel is None and one.channel != "console")]

    def has_attempts(self, channel: str, count: int) -> bool:
        return len(self.attempts(channel)) == count

    def statuses(self, channel: str | None = None) -> list[str]:
        return [one.status for one in self.attempts(channel)]

    def alerts_about(self, channel: str) -> list[str]:
        """Return what the notifier told on `alerts` of one of its own channels."""
        told = [(fields[b"type"].decode(), json.loads(fields[b"data"])) for _, fields in self.raw.xrange("alerts")]
        return [kind for kind, alert in told if channel in alert.get("labels", {}).get("channel", "").split(", ")]

    @property
    def settled(self) -> bool:
        """Whether nothing is under way any more: everything read, handled and acknowledged, nothing delayed."""
        if self.raw.zcard(DELAYED):
            return False
        for stream in ("alerts", "notifications", "notifications:notifier:retry", "alerts:notifier:retry"):
            if not self.raw.exists(stream):
                continue
            group = next(one for one in self.raw.xinfo_groups(stream) if one["name"] == b"notifier")
            newest = self.raw.xrevrange(stream, count=1)
            if group["pending"] or (newest and _number(newest[0][0]) > _number(group["last-delivered-id"])):
                return False
        return True

    @property
    def waiting(self) -> list[float]:
        """When deliveries that have to wait for more than a minute are due, in ms."""
        soon = self.now_ms + 60_000
        return [score for _, score in self.raw.zrange(DELAYED, 0, -1, withscores=True) if score > soon]

    def let_time_pass(self) -> None:
        """Make everything due that waits: what a clock would do, given its time."""
        for key in self.raw.scan_iter("state:notifier:blocked:*"):
            self.raw.delete(key)
        for key in self.raw.scan_iter("state:notifier:log:*"):
            if self.raw.hexists(key, "slot"):
                self.raw.hset(key, "slot", str(self.now_ms))
        for member in self.raw.zrange(DELAYED, 0, -1):
            self.raw.zadd(DELAYED, {member: 0}, xx=True)

    @property
    def now_ms(self) -> int:
        seconds, micros = self.raw.time()
        return int(seconds * 1000 + micros // 1000)


def _number(entry_id: bytes) -> tuple[int, int]:
    ms, _, sequence = entry_id.decode().partition("-")
    return int(ms), int(sequence)
