"""The supervisor keeps programs running, passes on what they print, and leaves none behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from penstock.cli.up.programs import Program
from penstock.cli.up.supervisor import Supervisor
from penstock.errors import ConfigurationError
from tests.processes import DEADLINE, eventually, is_running

PATIENT = 60.0


class Watched:
    """A supervisor under test and the lines it has shown so far."""

    def __init__(self, scripts: dict[str, str], *, grace: float = PATIENT) -> None:
        self.lines: list[tuple[str, str]] = []
        self.hurry = asyncio.Event()
        self._more = asyncio.Event()
        self.supervisor = Supervisor(
            [Program(name, (sys.executable, "-u", "-c", script)) for name, script in scripts.items()],
            environment={"GREETING": "hello"},
            grace=grace,
            hurry=self.hurry,
            show=self._show,
        )

    def _show(self, name: str, line: str) -> None:
        self.lines.append((name, line))
        self._more.set()

    async def until(self, check: Callable[[], bool]) -> None:
        """Wait until `check` is true of the lines."""
        async with asyncio.timeout(DEADLINE):
            while not check():
                self._more.clear()
                await self._more.wait()

    def of(self, name: str) -> list[str]:
        return [line for who, line in self.lines if who == name]


@contextlib.asynccontextmanager
async def running(watched: Watched) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(watched.supervisor.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_lines_of_both_streams_come_whole_and_under_their_names() -> None:
    watched = Watched(
        {
            "a": "import os, sys, time; print(os.environ['GREETING']);"
            " print('é' * 100_000, file=sys.stderr); time.sleep(99)",
            "b": "import time; print('no newline', end='', flush=True); time.sleep(0)",
        }
    )
    async with running(watched):
        await watched.until(lambda: len(watched.of("a")) == 2 and "no newline" in watched.of("b"))
    assert watched.of("a") == ["hello", "é" * 100_000]


async def test_what_dies_is_started_again_and_the_others_do_not_notice() -> None:
    watched = Watched(
        {
            "mortal": "import os, time; print(os.getpid()); time.sleep(99)",
            "other": "import os, time; print(os.getpid()); time.sleep(99)",
        }
    )
    async with running(watched):
        await watched.until(lambda: len(watched.lines) == 2)
        os.kill(int(watched.of("mortal")[0]), signal.SIGKILL)
        await watched.until(lambda: len(watched.of("mortal")) == 2)
    assert len(watched.of("other")) == 1


async def test_stopping_lets_programs_finish_and_shows_what_they_say() -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('drained'), sys.exit(0)))\n"
        "print('up')\n"
        "time.sleep(99)"
    )
    watched = Watched({"a": script, "b": script})
    async with running(watched):
        await watched.until(lambda: len(watched.lines) == 2)
    assert watched.of("a") == watched.of("b") == ["up", "drained"]
    assert watched.supervisor.running == {}


STUBBORN = (
    "import os, signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: print('no'))\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)'])\n"
    "print(os.getpid(), child.pid)\n"
    "while True: time.sleep(1)"
)


async def test_whoever_does_not_stop_in_time_is_killed_with_all_it_started() -> None:
    watched = Watched({"stubborn": STUBBORN}, grace=0.3)
    async with running(watched):
        await watched.until(lambda: bool(watched.lines))
    pid, child = map(int, watched.of("stubborn")[0].split())
    assert not is_running(pid)
    await asyncio.to_thread(eventually_gone, child)


async def test_hurry_ends_all_patience() -> None:
    watched = Watched({"stubborn": STUBBORN}, grace=PATIENT)
    async with running(watched) as task:
        await watched.until(lambda: bool(watched.lines))
        task.cancel()
        await watched.until(lambda: "no" in watched.of("stubborn"))
        watched.hurry.set()
        done, _ = await asyncio.wait({task}, timeout=DEADLINE)  # less than its patience
        assert done
    assert not is_running(int(watched.of("stubborn")[0].split()[0]))


async def test_a_program_counts_as_dead_though_a_child_of_it_holds_its_output() -> None:
    script = (
        "import subprocess, sys\n"
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']).pid)\n"
        "sys.exit(1)"
    )
    watched = Watched({"a": script})
    async with running(watched):
        await watched.until(lambda: len(watched.of("a")) == 2)
    for orphan in watched.of("a"):
        await asyncio.to_thread(eventually_gone, int(orphan))


def eventually_gone(pid: int) -> None:
    eventually(lambda: not is_running(pid), what=f"process {pid} is gone")


async def test_a_mistake_at_the_first_start_stops_everything_with_its_message() -> None:
    watched = Watched(
        {
            "good": "import os, time; print(os.getpid()); time.sleep(99)",
            "bad": "import sys; print('starting'); sys.stderr.write('penstock: first\\nsecond\\n'); sys.exit(2)",
        }
    )
    with pytest.raises(ConfigurationError, match=r"^bad cannot start: first\nsecond$"):
        await watched.supervisor.run()
    for pid in watched.of("good"):
        assert not is_running(int(pid))


async def test_a_mistake_later_on_is_a_death_like_any_other(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time\n"
        f"mark = pathlib.Path({str(tmp_path / 'mark')!r})\n"
        "seen = mark.read_text() if mark.exists() else ''\n"
        "mark.write_text(seen + 'x'); print(len(seen))\n"
        "sys.exit(1 if not seen else 2) if len(seen) < 2 else time.sleep(99)"
    )
    watched = Watched({"a": script})
    async with running(watched) as task:
        await watched.until(lambda: "2" in watched.of("a"))
        assert not task.done()
