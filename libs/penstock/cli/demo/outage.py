"""The last chapter of the demo's story: jobs begin to fail, an alert tells of it, and is over by itself."""

from __future__ import annotations

import asyncio
import itertools
import os
import time

import msgspec
from rich.console import Console
from rich.text import Text

from penstock.event import decode, encode_data
from penstock.keys import ALERTS, INGEST, Keys
from penstock.redis.connection import AsyncRedis
from penstock.schemas import Alert

_FAILING, _WELL = 15, 350  # jobs; enough to be above the starter rule's threshold, and below it again
_DEADLINE = 60.0  # seconds: a window of 10 s must close twice
_BLOCK_MS = 1_000


class Outage:
    """Lets jobs fail, and be well again, and tells what the alert manager makes of it."""

    def __init__(self, redis: AsyncRedis, keys: Keys, out: Console) -> None:
        self._redis = redis
        self._keys = keys
        self._out = out
        self._type = f"demo.outage.{os.urandom(2).hex()}"  # a series of its own: earlier demos count for nothing
        self._last = b"0"
        self._begun = 0.0

    async def tell(self, number: int) -> bool:
        """Tell the chapter; return whether a promise was broken."""
        self._out.print(f"\n{number}. Jobs that begin to fail, and are well again", style="bold")
        rows = await self._redis.xrevrange(self._keys.stream(ALERTS), count=1)
        self._last = rows[0][0] if rows else b"0"
        self._begun = time.monotonic()
        try:
            await self._send(_FAILING, fail_times=1)
            alert = await self._wait_for("alert.triggered")
            self._step("", f"because: {alert.reason}")
            self._step("", f"traces:  {', '.join(alert.exemplars) or 'none'}")
            await self._send(_WELL, fail_times=0)
            await self._wait_for("alert.resolved")
        except TimeoutError:
            self._out.print(f"   NOT AS PROMISED: no such alert within {_DEADLINE:g} s", style="bold red")
            return True
        self._out.print("   as promised: alert.triggered > alert.resolved, by itself", style="green")
        return False

    async def _send(self, count: int, *, fail_times: int) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for _ in range(count):
                fields = {"type": self._type, "data": encode_data({"fail_times": fail_times})}
                pipeline.xadd(self._keys.stream(INGEST), fields)
            await pipeline.execute()
        what = "that fail once each" if fail_times else "that succeed"
        self._step(self._now(), f"{count} x {self._type} {what}", where=f"XADD {INGEST}")

    async def _wait_for(self, kind: str) -> Alert:
        key = self._keys.stream(ALERTS)
        async with asyncio.timeout(_DEADLINE):
            while True:
                rows = await self._redis.xread({key: self._last}, block=_BLOCK_MS)
                for entry_id, fields in rows[0][1] if rows else ():
                    self._last = entry_id
                    event = decode(ALERTS, entry_id.decode(), itertools.chain.from_iterable(fields.items()))
                    if event.type != kind:
                        continue  # word of the alert manager itself, and of acknowledgements, stands there too
                    alert = msgspec.json.decode(event.data, type=Alert)
                    if alert.labels.get("job_type") == self._type:
                        style = "bold red" if kind == "alert.triggered" else "green"
                        self._step(self._now(), f"{kind}: {alert.summary}", style=style)
                        return alert

    def _now(self) -> str:
        return f"{time.monotonic() - self._begun:.1f} s"

    def _step(self, when: str, what: str, *, where: str = ALERTS, style: str = "") -> None:
        self._out.print(Text.assemble((f"   {when:>7}  {where:<22} ", "dim"), (what, style)))
