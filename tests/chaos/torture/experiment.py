"""One run: a mesh, its events and a list of faults, from the first process to the result."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from penstock.dlq.queue import DeadLetters
from penstock.keys import Keys
from tests.chaos.torture.behaviour import FOR_EVER
from tests.chaos.torture.check import Finding, check
from tests.chaos.torture.evidence import gather
from tests.chaos.torture.faults import Fault
from tests.chaos.torture.fleet import Fleet
from tests.chaos.torture.injection import Injector, run_schedule
from tests.chaos.torture.model import Expected, predict
from tests.chaos.torture.plan import FIRST, Plan, Root
from tests.chaos.torture.seen import dead_letters, look, unfinished
from tests.servers import BINARIES, Server

_LOOK_EVERY = 0.2


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an experiment."""

    findings: list[Finding]
    known: list[Finding]
    injected: Counter[str]
    events: int
    outputs: int
    crashed: int
    seconds: float


async def run(plan: Plan, faults: list[Fault], *, server_kind: str, patience: float, folder: Path) -> Result:
    """Run `plan` while `faults` happen to it; `folder` takes logs and the plan.

    `patience` is how many seconds nothing at all may change, once all faults are over, before what is not
    done is called stuck; so is what is not done in four times that.
    """
    (folder / "plan.json").write_bytes(msgspec.json.encode(plan))
    binary = BINARIES[server_kind]
    assert binary is not None
    began = asyncio.get_running_loop().time()
    with _server(binary) as server:
        async with _fleet(plan, folder, server) as fleet:
            running = _Experiment(plan, server, fleet, patience)
            await running.start()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(running.publish_roots())
                tasks.create_task(run_schedule(running.injector, faults))
            findings = await running.settle()
            result = await asyncio.to_thread(running.result, findings)
    return msgspec.structs.replace(result, seconds=asyncio.get_running_loop().time() - began)


@contextlib.contextmanager
def _server(binary: str) -> Any:
    folder = Path(tempfile.mkdtemp(prefix="penstock-test-"))
    server = Server(binary, folder, "--appendfsync", "always")
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def _fleet(plan: Plan, folder: Path, server: Server) -> AsyncIterator[Fleet]:
    fleet = Fleet(plan, folder, server.socket)
    try:
        yield fleet
    finally:
        await fleet.aclose()


class _Experiment:
    def __init__(self, plan: Plan, server: Server, fleet: Fleet, patience: float) -> None:
        self._plan = plan
        self._server = server
        self._fleet = fleet
        self._patience = patience
        self.injector = Injector(fleet, server, self._publish)

    async def start(self) -> None:
        """Start every process, and wait until each has shown itself alive."""
        with self._server.client() as raw:
            for service in self._plan.services:
                raw.hset(Keys().state(service.name, "typed"), "a", "hash")
                for _ in range(service.replicas):
                    await self._fleet.add(service.name)
            while sum(raw.hlen(key) for key in raw.keys(Keys().beats("*"))) < len(self._fleet.members):
                assert not self._fleet.exits, self._fleet.exits
                await asyncio.sleep(_LOOK_EVERY)

    async def publish_roots(self) -> None:
        """Publish each event from outside at its time."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        for root in self._plan.roots:
            await asyncio.sleep(began + root.at - loop.time())
            await self._publish(root)

    async def _publish(self, root: Root) -> None:
        """Publish once, however often it takes: what a lost reply left is looked for."""
        fields = {"type": root.type, "data": root.data, "id": root.key, "subject": root.subject}
        if root.tenant:
            fields["tenant"] = root.tenant
        client: Any = redis.asyncio.Redis(
            unix_socket_path=str(self._server.socket), protocol=2, retry=Retry(NoBackoff(), 0)
        )
        tried = False
        async with client:
            while True:
                try:
                    if not tried or not await self._is_there(client, root.key):
                        tried = True
                        await client.xadd(FIRST, fields)
                    return
                except (RedisError, OSError):
                    await asyncio.sleep(0.05)

    async def _is_there(self, client: Any, key: str) -> bool:
        return any(fields.get(b"id") == key.encode() for _, fields in await client.xrevrange(FIRST, count=1000))

    async def settle(self) -> list[Finding]:
        """Wait until all is done, with every death that is not for ever replayed; return what is stuck."""
        await self.injector.heal()
        for member in self._fleet.members[:]:
            if member.wanted:
                await self._fleet.start(member)
        expected = self.expected()
        until = asyncio.get_running_loop().time() + 4 * self._patience
        while True:
            stuck = await self._rest(until)
            if stuck:
                return [Finding("stuck", what) for what in stuck]
            again = [
                dead.id
                for dead in await asyncio.to_thread(self._dead_letters)
                if not dead.replayed
                and (handled := expected.handled.get((dead.service, dead.key))) is not None
                and not handled.kills
                and (dead.reason == "crashed" or handled.deaths < FOR_EVER)
            ]
            if not again:
                return []
            await self._replay(again)

    async def _replay(self, ids: list[str]) -> None:
        async with redis.asyncio.Redis(unix_socket_path=str(self._server.socket), protocol=2) as client:
            queue = DeadLetters(client, Keys())
            for one in ids:
                found = await queue.get(one)
                assert found is not None
                await queue.replay(found)

    def _dead_letters(self) -> Any:
        with self._server.client() as raw:
            return dead_letters(raw)

    async def _rest(self, until: float) -> list[str]:
        """Wait until nothing is left to do; return what is, if nothing has changed for too long or it is `until`."""
        loop = asyncio.get_running_loop()
        last: object = None
        changed = loop.time()
        while True:
            left, progress = await asyncio.to_thread(self._progress)
            if not left:  # the looks at one stream are several: what moves meanwhile may be missed, but not twice
                await asyncio.sleep(_LOOK_EVERY)
                left, progress = await asyncio.to_thread(self._progress)
            if not left:
                return []
            if progress != last:
                last, changed = progress, loop.time()
            if min(changed + self._patience, until) < loop.time():
                return left
            await asyncio.sleep(_LOOK_EVERY)

    def _progress(self) -> tuple[list[str], object]:
        with self._server.client() as raw:
            left = unfinished(raw)
            return left, (left, [raw.xlen(stream) for stream in (*self._plan.streams, "dlq")])

    def expected(self) -> Expected:
        return predict(self._plan, self.injector.harmful)

    def result(self, stuck: list[Finding]) -> Result:
        """Look at everything and judge it."""
        with self._server.client() as raw:
            seen = look(raw, self._plan)
        expected = self.expected()
        # What is stuck is lost too, so to speak; the one finding says it.
        findings = stuck or check(expected, seen, gather(self._fleet))
        findings = [*findings, *(Finding("exit", what) for what in self._fleet.exits)]
        return Result(
            findings=[finding for finding in findings if not finding.known],
            known=[finding for finding in findings if finding.known],
            injected=self.injector.injected,
            events=len(self._plan.roots) + len(self.injector.harmful),
            outputs=expected.outputs,
            crashed=sum(dead.reason == "crashed" for dead in seen.dead_letters),
            seconds=0.0,
        )
