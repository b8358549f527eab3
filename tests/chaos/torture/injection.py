"""Doing to the mesh what a schedule of faults says."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from tests.chaos.torture.faults import Fault
from tests.chaos.torture.fleet import Fleet, Member
from tests.chaos.torture.link import Pipe
from tests.chaos.torture.plan import Root, payload
from tests.servers import Server

_REPLIES = 3.0


class Injector:
    """Injects faults; `injected` counts those that hit something, by kind."""

    def __init__(self, fleet: Fleet, server: Server, publish: Callable[[Root], Awaitable[None]]) -> None:
        self._fleet = fleet
        self._server = server
        self._publish = publish
        self._redis_down = asyncio.Lock()
        self.injected: Counter[str] = Counter()
        self.harmful: list[Root] = []

    async def inject(self, fault: Fault) -> None:
        """Inject one fault, to its end."""
        kind = fault.kind.replace("-", "_").removesuffix("_long").removesuffix("_late")
        try:
            hit = await getattr(self, f"_{kind}")(fault)
        except (RedisError, OSError):  # Redis was away: another fault came first
            hit = False
        self.injected[fault.kind] += bool(hit)

    # Processes

    def _member(self, fault: Fault) -> Member:
        members = self._fleet.members
        return members[int(fault.how["process"]) % len(members)]

    async def _kill(self, fault: Fault) -> bool:
        member = self._member(fault)
        hit = self._fleet.kill(member)
        await asyncio.sleep(fault.how["seconds"])
        await self._fleet.start(member)
        return hit

    async def _freeze(self, fault: Fault) -> bool:
        member, seconds = self._member(fault), fault.how["seconds"]
        self._fleet.silence(member, seconds)
        pid = member.send(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        member.send(signal.SIGCONT)
        return bool(pid)

    async def _stop(self, fault: Fault) -> bool:
        member = self._member(fault)
        hit = await self._fleet.stop(member)
        await asyncio.sleep(fault.how["seconds"])
        await self._fleet.start(member)
        return hit

    async def _scale_up(self, fault: Fault) -> bool:
        more = await self._fleet.add(self._member(fault).service)
        await asyncio.sleep(fault.how["seconds"])
        return await self._fleet.stop(more)

    async def _harm(self, fault: Fault) -> bool:
        """Publish an event that does harm to whoever handles it."""
        key = f"{fault.kind}{len(self.harmful)}"
        root = Root(key=key, at=0, type=fault.kind, data=payload(key), subject=fault.kind, tenant=None)
        self.harmful.append(root)
        await self._publish(root)
        return True

    _poison = _hog = _fork = _cancel = _exit = _harm

    # The network

    def _pipe(self, fault: Fault) -> Pipe | None:
        pipes = self._member(fault).link.pipes
        return pipes[int(fault.how["connection"]) % len(pipes)] if pipes else None

    async def _cut(self, fault: Fault) -> bool:
        pipe = self._pipe(fault)
        if pipe is not None:
            pipe.cut()
        return pipe is not None

    async def _cut_all(self, fault: Fault) -> bool:
        link = self._member(fault).link
        hit = bool(link.pipes)
        link.cut()
        return hit

    async def _lose_commit(self, fault: Fault) -> bool:
        return await self._member(fault).link.lose_reply(b"EVALSHA", within=_REPLIES)

    async def _lose_read(self, fault: Fault) -> bool:
        return await self._member(fault).link.lose_reply(b"XREADGROUP", within=_REPLIES)

    async def _lose_any(self, fault: Fault) -> bool:
        return await self._member(fault).link.lose_reply(b"", within=_REPLIES)

    async def _delay(self, fault: Fault) -> bool:
        link = self._member(fault).link
        link.delay = fault.how["milliseconds"] / 1000
        await asyncio.sleep(fault.how["seconds"])
        link.delay = 0.0
        return bool(link.pipes)

    async def _slow(self, fault: Fault) -> bool:
        for member in self._fleet.members:
            member.link.delay = fault.how["milliseconds"] / 2000
        await asyncio.sleep(fault.how["seconds"])
        for member in self._fleet.members:
            member.link.delay = 0.0
        return True

    async def _drop(self, fault: Fault) -> bool:
        """Nothing gets through; then what was open is gone (or, late, all of it arrives)."""
        member, seconds = self._member(fault), fault.how["seconds"]
        self._fleet.silence(member, seconds)
        member.link.flowing.clear()
        await asyncio.sleep(seconds)
        if not fault.kind.endswith("late"):
            member.link.cut()
        member.link.flowing.set()
        return True

    async def _blackout(self, fault: Fault) -> bool:
        members = list(self._fleet.members)
        for member in members:
            member.link.flowing.clear()
        await asyncio.sleep(fault.how["seconds"])
        for member in members:
            member.link.cut()
            member.link.flowing.set()
        return True

    async def _drop_one(self, fault: Fault) -> bool:
        pipe = self._pipe(fault)
        if pipe is None:
            return False
        self._fleet.silence(self._member(fault), fault.how["seconds"])
        pipe.flowing.clear()
        await asyncio.sleep(fault.how["seconds"])
        pipe.cut()
        return True

    _mute = _drop_one

    async def _refuse(self, fault: Fault) -> bool:
        member = self._member(fault)
        link = member.link
        self._fleet.silence(member, fault.how["seconds"])
        link.refusing = True
        link.cut()
        await asyncio.sleep(fault.how["seconds"])
        link.refusing = False
        return True

    # Redis

    async def _redis_kill(self, fault: Fault) -> bool:
        if self._redis_down.locked():
            return False
        async with self._redis_down:
            self._server.kill()
            await asyncio.sleep(fault.how["seconds"])
            await asyncio.to_thread(self._server.start)
        return True

    async def _redis_freeze(self, fault: Fault) -> bool:
        process = self._server.process
        if self._redis_down.locked() or process is None:
            return False
        async with self._redis_down:
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(fault.how["seconds"])
            process.send_signal(signal.SIGCONT)
        return True

    async def _pause(self, fault: Fault) -> bool:
        async with self._control() as control:
            await control.client_pause(round(fault.how["seconds"] * 1000), all=not fault.how["writes"])
        return True

    async def _client_kill(self, _: Fault) -> bool:
        async with self._control() as control:
            return bool(await control.client_kill_filter(_type="normal", skipme=True))

    async def _out_of_memory(self, fault: Fault) -> bool:
        return await self._configure("maxmemory", "1", "0", fault.how["seconds"])

    async def _too_few_replicas(self, fault: Fault) -> bool:
        return await self._configure("min-replicas-to-write", "1", "0", fault.how["seconds"])

    async def _configure(self, name: str, value: str, back: str, seconds: float) -> bool:
        try:
            async with self._control() as control:
                await control.config_set(name, value)
            await asyncio.sleep(seconds)
            return True
        finally:  # also when it seems to have failed: only its reply may be late
            await self._insist(lambda control: control.config_set(name, back))

    async def _insist(self, command: Callable[[Any], Awaitable[object]]) -> None:
        """Run a command until Redis has taken it: other faults may be in the way."""
        while True:
            try:
                async with self._control() as control:
                    await command(control)
                return
            except (RedisError, OSError):
                await asyncio.sleep(0.2)

    async def _script_flush(self, _: Fault) -> bool:
        async with self._control() as control:
            return bool(await control.script_flush("SYNC"))

    @contextlib.asynccontextmanager
    async def _control(self) -> AsyncIterator[Any]:
        control: Any = redis.asyncio.Redis(
            unix_socket_path=str(self._server.socket), protocol=2, socket_timeout=2.0, retry=Retry(NoBackoff(), 0)
        )
        async with control:
            yield control

    # The operator

    async def _replay(self, fault: Fault) -> bool:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "penstock", "dlq", "replay", "--all"),
            env=self._fleet.environment(self._member(fault).link.url),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        return await process.wait() == 0

    async def heal(self) -> None:
        """End whatever is still under way, so that what is left has no excuse."""
        for member in self._fleet.members:
            member.send(signal.SIGCONT)
            link = member.link
            link.delay, link.refusing = 0.0, False
            link.flowing.set()
        await self._insist(lambda control: control.client_unpause())
        await self._insist(lambda control: control.config_set("maxmemory", "0"))
        await self._insist(lambda control: control.config_set("min-replicas-to-write", "0"))


async def run_schedule(injector: Injector, faults: list[Fault]) -> None:
    """Inject each fault at its time; return once all of them are over."""

    async def one(fault: Fault) -> None:
        await asyncio.sleep(fault.at)
        await injector.inject(fault)

    async with asyncio.TaskGroup() as tasks:
        for fault in faults:
            tasks.create_task(one(fault))
