"""Spooling: keeping events while Redis is away, and publishing them in order once it is back.

First come the events of processes that have died, the oldest first, then our own. As long as any wait, what is new goes
behind them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import structlog

from penstock.errors import Unavailable
from penstock.settings import Settings
from penstock.spool.directory import Directory, Owner
from penstock.spool.segment import Record
from penstock.spool.spool import Accepted, Bounds, Spool

T = TypeVar("T")
_MOST_EVENTS, _MOST_BYTES = 500, 1_000_000  # in one call
_LOOK_ROUND = 10.0  # seconds between two looks for orphans
_PAUSE = 0.25  # seconds between two tries while Redis is away
_CLOSING = 2.0  # seconds that are given to what waits when the process ends
_log = structlog.get_logger("penstock.spool")


class State(msgspec.Struct, frozen=True, kw_only=True):
    """How a process stands with its spool. `oldest` is in ms since the epoch, 0 if nothing waits."""

    program: str
    host: str
    events: int = 0
    bytes: int = 0
    oldest: int = 0
    aside: int = 0

    @property
    def age(self) -> float:
        """Seconds that the first of them has waited."""
        return max(0.0, time.time() - self.oldest / 1000) if self.oldest else 0.0

    def joined(self, other: State) -> State:
        """Return how two processes of one program and host stand together; they share a directory."""
        return msgspec.structs.replace(
            self,
            events=self.events + other.events,
            bytes=self.bytes + other.bytes,
            oldest=min(self.oldest or other.oldest, other.oldest or self.oldest),
            aside=max(self.aside, other.aside),
        )

    @property
    def is_quiet(self) -> bool:
        """Whether there is nothing to tell."""
        return not (self.events or self.aside)


class Outlet(Protocol):
    """Where kept events go. Each raises Unavailable."""

    async def publish(self, spool: str, records: Sequence[Record]) -> list[str]:
        """Publish records of a spool that are not published yet; return of each why it never can be, or nothing."""

    async def retire(self, spool: str) -> None:
        """Forget a spool that is empty for good."""

    async def tell(self, spool: str, state: State) -> None:
        """Let the mesh know."""


class Spooling:
    """The spool of one publisher, and those that it adopts."""

    def __init__(self, directory: Directory, owner: Owner, bounds: Bounds) -> None:
        self.id = os.urandom(12).hex()
        """Names the publisher's own spool."""
        self.kept = 0
        """Events kept since it was opened."""
        self.replayed = 0
        """Events published out of a spool since then."""
        self._directory = directory
        self._owner = owner
        self._bounds = bounds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._own: Spool | None = None
        self._adopted: list[Spool] = []
        self._aside = 0
        self._told = State(program=owner.program, host=owner.host)
        self.away = ""
        """Why what waits is not published now, as far as is known."""
        self._wake = asyncio.Event()
        self._looked = 0.0

    @classmethod
    def of(cls, settings: Settings, program: str, server: str) -> Spooling | None:
        """Return what the settings ask for, if they do; `server` tells the Redis apart that the events belong to."""
        if not settings.spool_dir:
            return None
        owner = Owner(program=program, server=server, prefix=settings.prefix)
        return cls(Directory(settings.spool_dir), owner, bounds_of(settings))

    async def open(self) -> None:
        """Take up the directory, and what dead processes left in it.

        Raises:
            ConfigurationError: it cannot be used.
        """
        place = await self._do(lambda: self._directory.claim(self.id, self._owner))
        self._own = await self._do(lambda: Spool(place, self._directory, self._bounds))
        await self._do(self._look_round)

    async def close(self, outlet: Outlet) -> None:
        """Publish what waits, if that can be done at once; leave the rest to whoever adopts it."""
        try:
            async with asyncio.timeout(_CLOSING):
                await self._drain(outlet)
                await outlet.retire(self.id)
                await self._do(self.own.remove)
                self._own = None
        except Exception as error:  # noqa: BLE001 - what is left is for the next one
            _log.warning("left in the spool", why=str(error), events=self.waiting)
        finally:
            for spool in filter(None, [*self._adopted, self._own]):
                await self._do(spool.close)
            self._thread.shutdown(wait=False)

    @property
    def own(self) -> Spool:
        """The publisher's own spool."""
        assert self._own is not None, "it is open"
        return self._own

    @property
    def waiting(self) -> int:
        """Events that are to be published before any new one."""
        return self.own.waiting + sum(spool.waiting for spool in self._adopted)

    @property
    def state(self) -> State:
        """How it stands now."""
        spools = [spool for spool in (*self._adopted, self.own) if spool.waiting]
        return State(
            program=self._owner.program,
            host=self._owner.host,
            events=sum(spool.waiting for spool in spools),
            bytes=sum(spool.size for spool in spools),
            oldest=min((spool.oldest for spool in spools), default=0),
            aside=self._aside,
        )

    @property
    def secret_path(self) -> Path:
        """A file for what this mesh must know of its Redis while that is away."""
        return self._directory.path / f"identity-{self._owner.mesh}"

    @property
    def why_full(self) -> str:
        """Why it takes nothing now; nothing if it does."""
        return self.own.why_full()

    async def keep(self, events: Sequence[Accepted]) -> None:
        """Add events; return once the disk has them.

        Raises:
            SpoolFull: none of them was added.
        """
        await self._do(lambda: self.own.append(events))
        self.kept += len(events)
        self._wake.set()

    async def drain(self, outlet: Outlet, names: Sequence[str] | None = None) -> None:
        """Without a spool of our own: publish what dead processes left, or those of `names` of whatever mesh.

        Raises:
            Unavailable: Redis does not take it; what is left stays.
        """
        try:
            await self._do(functools.partial(self._adopt, names))
            await self._drain(outlet)
        finally:
            for spool in self._adopted:
                await self._do(spool.close)
            self._thread.shutdown(wait=False)

    async def run(self, outlet: Outlet) -> None:
        """Publish what waits, whenever Redis takes it, until cancelled."""
        while True:
            try:
                await self._once(outlet)
            except Unavailable as error:
                self._note(error.reason)
                await asyncio.sleep(_PAUSE)
                continue
            except Exception as error:  # noqa: BLE001 - what waits must not wait for a restart
                self._note(f"{type(error).__name__}: {error}")
                await asyncio.sleep(_PAUSE)
                continue
            self._note("")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_ROUND):
                    await self._wake.wait()
            self._wake.clear()

    def exposition(self) -> str:
        """Return the gauges in Prometheus' text format."""
        state = self.state
        rows = (
            ("spool_events", "gauge", "Accepted events that wait on local disk for Redis.", state.events),
            ("spool_bytes", "gauge", "Bytes that they take.", state.bytes),
            ("spool_age_seconds", "gauge", "Seconds that the first of them has waited.", f"{state.age:.3f}"),
            ("spool_aside", "gauge", "Files of what was put aside because it cannot be published.", state.aside),
            ("spool_kept_events_total", "counter", "Events that were kept on local disk.", self.kept),
            ("spool_replayed_events_total", "counter", "Events that were published from there.", self.replayed),
        )
        return "".join(
            f"# HELP penstock_{name} {text}\n# TYPE penstock_{name} {kind}\npenstock_{name} {value}\n"
            for name, kind, text, value in rows
        )

    async def _once(self, outlet: Outlet) -> None:
        if time.monotonic() - self._looked > _LOOK_ROUND:
            await self._do(self._look_round)
        await self._tell(outlet)
        await self._drain(outlet)
        await self._tell(outlet)

    async def _tell(self, outlet: Outlet) -> None:
        state = self.state
        if state != self._told:
            with contextlib.suppress(Unavailable):  # what is published matters more than what is told of it
                await outlet.tell(self.id, state)
                self._told = state

    async def _drain(self, outlet: Outlet) -> None:
        while self._adopted:
            spool = self._adopted[0]
            await self._replay(spool, outlet)
            await outlet.retire(spool.id)
            await self._do(spool.remove)
            self._adopted.pop(0)
        if self._own is not None:
            await self._replay(self._own, outlet)

    async def _replay(self, spool: Spool, outlet: Outlet) -> None:
        while (
            portion := await self._do(functools.partial(spool.first, most_events=_MOST_EVENTS, most_bytes=_MOST_BYTES))
        ) is not None:
            refusals = await outlet.publish(spool.id, portion.records)
            for record, why in zip(portion.records, refusals, strict=True):
                if why:
                    await self._put_aside(spool, record, why)
            await self._do(functools.partial(spool.confirm, portion))
            self.replayed += len(portion.records)
            self._note("")
        await self._do(self._measure)

    async def _put_aside(self, spool: Spool, record: Record, why: str) -> None:
        name = f"{spool.id}-{record.sequence}.json"
        fields = dict(zip(record.fields[::2], record.fields[1::2], strict=False))
        text = msgspec.json.format(msgspec.json.encode({"why": why, "key": record.key, "fields": fields}))
        await self._do(lambda: self._directory.put_aside(name, text))
        _log.error("an event of the spool can never be published: put aside", why=why, path=name)

    def _look_round(self) -> None:
        self._adopt(None)
        self._measure()
        self._looked = time.monotonic()

    def _adopt(self, names: Sequence[str] | None) -> None:
        for name in self._directory.names():
            owner = self._directory.owner(name)
            if owner is None or (owner.mesh != self._owner.mesh if names is None else name not in names):
                continue
            place = self._directory.adopt(name)
            if place is not None:
                adopted = Spool(place, self._directory, self._bounds)
                _log.info("took over the spool of a process that is gone", spool=name, events=adopted.waiting)
                self._adopted.append(adopted)

    def _measure(self) -> None:
        self._aside = len(self._directory.put_aside_names())
        if self._own is not None:
            self._own.others = self._directory.size() - self._own.size

    def _note(self, reason: str) -> None:
        if reason != self.away and (reason or not self.waiting):
            if reason:
                if self.waiting:
                    _log.warning("events wait in the spool", why=reason, events=self.waiting)
            else:
                _log.info("the spool is empty", after=self.away, replayed=self.replayed)
            self.away = reason

    async def _do(self, work: Callable[[], T]) -> T:
        """Run what touches the disk in the thread for it, one after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def bounds_of(settings: Settings) -> Bounds:
    """Return what the settings bound a spool to."""
    return Bounds(
        most_bytes=settings.spool_max_bytes,
        most_age=settings.spool_max_age,
        least_free=settings.spool_min_free,
    )
