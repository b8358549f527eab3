"""The processes of the mesh, each behind a link of its own: started, frozen, killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from pathlib import Path

from penstock import processes
from tests.chaos.torture.link import Link
from tests.chaos.torture.plan import Plan
from tests.processes import ROOT

_DEATH = 1.5  # seconds of silence after which a process may be taken for dead: it beats every second, for three
_STOPS_WITHIN = 40.0  # seconds for a SIGTERM: the drain time of 3 s, and what Redis makes it wait for


class Member:
    """One process of a service; there may be another one in its place after each fault."""

    def __init__(self, service: str, link: Link) -> None:
        self.service = service
        self.link = link
        self.wanted = False
        self.starting = asyncio.Lock()
        self.process: asyncio.subprocess.Process | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def send(self, number: signal.Signals) -> int:
        """Send a signal; return the process's id, 0 if there is none."""
        if self.process is None or self.process.returncode is not None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)  # Popen.send_signal would collect the exit code that asyncio waits for
        return self.process.pid


class Fleet:
    """All processes of a mesh. `deaths` are the ids of those that were seen to die, by service."""

    def __init__(self, plan: Plan, folder: Path, upstream: Path) -> None:
        self._folder = folder
        self._upstream = upstream
        self.diary = folder / "diary"
        self.members: list[Member] = []
        self.deaths: dict[str, list[int]] = {one.name: [] for one in plan.services}
        self.disturbed: set[int] = set()
        """Processes to which something was done: what they had in flight may be another's now."""
        self._killed: set[int] = set()
        self._stopped: set[int] = set()
        self.exits: list[str] = []
        """What ended though nobody ended it, or did not end though it was told to."""
        self._watchers: set[asyncio.Task[None]] = set()
        self.diary.mkdir()
        (folder / "streams.yaml").write_text(plan.streams_yaml())

    async def add(self, service: str) -> Member:
        """Start another process of `service`."""
        link = Link(self._upstream)
        await link.start()
        member = Member(service, link)
        self.members.append(member)
        await self.start(member)
        return member

    async def start(self, member: Member) -> None:
        """Start a process in the place of `member`, unless there is one."""
        member.wanted = True
        async with member.starting:  # two faults may end at once
            if member.process is not None and member.process.pid in self._killed:
                await member.process.wait()
            if not member.running:
                await self._spawn(member)

    async def _spawn(self, member: Member) -> None:
        log = self._folder / f"{member.service}.{self.members.index(member)}.log"
        with log.open("ab") as output:
            member.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "penstock", "run", "tests.chaos.torture.service:service"),
                cwd=ROOT,
                env=self.environment(member.link.url, TORTURE_SERVICE=member.service),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=processes.dies_with_parent(signal.SIGKILL),
            )
        watcher = asyncio.create_task(self._watch(member, member.process, log))
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)

    def environment(self, url: str, **more: str) -> dict[str, str]:
        """Return what a process of this mesh needs in its environment."""
        clean = {name: value for name, value in os.environ.items() if not re.match("PENSTOCK_|REDIS_|TASK_|DLQ_", name)}
        return {
            **clean,
            "REDIS_URL": url,
            "PENSTOCK_TOPOLOGY": str(self._folder / "streams.yaml"),
            "PENSTOCK_DRAIN_TIMEOUT": "3",
            "PENSTOCK_LOG_FORMAT": "json",
            "TORTURE_PLAN": str(self._folder / "plan.json"),
            "TORTURE_DIARY": str(self.diary),
            **more,
        }

    def kill(self, member: Member) -> bool:
        """SIGKILL; return whether there was a process."""
        member.wanted = False
        pid = member.send(signal.SIGKILL)
        self._killed.add(pid)
        return self.died(member, pid)

    def died(self, member: Member, pid: int) -> bool:
        """Write down that process `pid` was seen to die, or was as good as dead to the others."""
        if pid:
            self.deaths[member.service].append(pid)
            self.disturbed.add(pid)
        return bool(pid)

    def silence(self, member: Member, seconds: float) -> None:
        """Write down that nobody will hear of a process for `seconds`."""
        if member.process is not None and member.running:
            self.disturbed.add(member.process.pid)
            if seconds > _DEATH:
                self.died(member, member.process.pid)

    async def stop(self, member: Member) -> bool:
        """SIGTERM; return whether there was a process."""
        member.wanted = False
        process = member.process
        if process is None or not member.running:
            return False
        self.disturbed.add(process.pid)
        if process.pid not in self._stopped:  # a second one would end it at once, and as an error
            self._stopped.add(process.pid)
            member.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOPS_WITHIN):
                await process.wait()
        except TimeoutError:
            self.exits.append(f"{member.service}: still there {_STOPS_WITHIN:g} s after SIGTERM")
            self.kill(member)
        return True

    async def aclose(self) -> None:
        """Kill everything."""
        for member in self.members:
            self.kill(member)
        if self._watchers:
            await asyncio.wait(self._watchers)
        for member in self.members:
            await member.link.aclose()

    async def _watch(self, member: Member, process: asyncio.subprocess.Process, log: Path) -> None:
        code = await process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # children that it left
        # While it is just starting the signal itself ends it.
        stopped = process.pid in self._stopped and code in (0, -signal.SIGTERM)
        if stopped or process.pid in self._killed:
            pass
        elif code == -signal.SIGKILL and self._was_poisoned(member.service, process.pid):
            self.died(member, process.pid)
        else:
            last = _last_words(log)
            self.exits.append(f"{member.service}: {processes.describe_exit(code)}; it last said: {last}")
        if member.wanted and member.process is process:
            await self.start(member)

    def _was_poisoned(self, service: str, pid: int) -> bool:
        diary = self.diary / f"{service}.{pid}"
        return diary.exists() and "poison " in diary.read_text()


def _last_words(log: Path) -> str:
    return log.read_text(errors="replace").strip().rpartition("\n")[2][-500:]
