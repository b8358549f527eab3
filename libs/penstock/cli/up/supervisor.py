"""The supervisor: keeps each service running in a process of its own, and stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import structlog

from penstock import processes
from penstock.cli.reload.sources import Sources
from penstock.cli.up.programs import Program
from penstock.errors import ConfigurationError
from penstock.tasks import end

_CONFIGURATION_EXIT = 2  # penstock.cli.errors.USAGE
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_STEADY = 30.0  # seconds after which a process that dies is not one that cannot start
_LAST_OUTPUT = 1.0  # seconds to read what is left in the pipe of a process that ended
_ERROR = "penstock: "  # how the command line reports an error before it exits
_log = structlog.get_logger("penstock.supervisor")

Show = Callable[[str, str], None]


class Supervisor:
    """Starts programs, passes on what they print line by line, and starts again those that die.

    `show(name, line)` is called for each line. `grace` is how many seconds a program has to stop in before
    it is killed; setting `hurry` ends all patience. With `sources` a program is started anew when what it returns
    for it has changed and is sound; one that is not is told of, and what runs goes on.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        environment: Mapping[str, str],
        grace: float,
        hurry: asyncio.Event,
        show: Show,
        sources: Callable[[Program], Sources | None] | None = None,
    ) -> None:
        self._programs = programs
        self._environment = {**os.environ, **environment}
        self._grace = grace
        self._hurry = hurry
        self._show = show
        self._sources = sources or (lambda _: None)
        self.running: dict[str, int] = {}
        """The process of each program that has one now."""

    async def run(self) -> None:
        """Keep all programs running until cancelled, then stop them.

        Raises:
            ConfigurationError: one of them exited with status 2 at its first start; the others are stopped.
        """
        async with task_group() as keepers:
            for program in self._programs:
                keepers.create_task(self._keep(program))

    async def _keep(self, program: Program) -> None:
        sources = self._sources(program)
        if sources is None:
            await self._keep_running(program)
        else:
            await self._keep_current(program, sources)

    async def _keep_current(self, program: Program, sources: Sources) -> None:
        """Keep a program running from its sources as they last were sound."""

        def tell(error: str) -> None:
            how = "the last sound version goes on" if program.name in self.running else "waiting for it to be mended"
            _log.error(f"{program.name}: {error}", so=how)

        if error := await sources.check():
            tell(error)
            await sources.sound_change(tell)
        while True:
            keeping = asyncio.create_task(self._keep_running(program, insist=True))
            changing = asyncio.create_task(sources.sound_change(tell))
            try:
                await asyncio.wait({keeping, changing}, return_when=asyncio.FIRST_COMPLETED)
                if keeping.done():
                    keeping.result()
                changing.result()
                _log.info(f"{program.name} has changed, starting it anew")
            finally:
                await end([changing])
                await drained(keeping)

    async def _keep_running(self, program: Program, *, insist: bool = False) -> None:
        """Start a program again and again; with `insist` also if it says at first that only a person can mend it."""
        pause = _FIRST_PAUSE
        starts = 0
        while True:
            loop = asyncio.get_running_loop()
            began = loop.time()
            starts += 1
            code, last_words = await self._run_once(program)
            if code == _CONFIGURATION_EXIT and starts == 1 and not insist:
                raise ConfigurationError(f"{program.name} cannot start: {last_words or 'it exited with status 2'}")
            if loop.time() - began > _STEADY:
                pause = _FIRST_PAUSE
            how = processes.describe_exit(code)
            _log.warning(f"{program.name} ended, starting it again", how=how, after=f"{pause:g} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _run_once(self, program: Program) -> tuple[int, str]:
        """Run a program to its end; return its exit status and the error it reported last."""
        # A pipe of our own: with asyncio's, a process counts as running while anything it started holds its output.
        output, its_end = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *program.command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=its_end,
                stderr=its_end,
                start_new_session=True,  # a terminal's Ctrl-C is for us: we stop them in order
                preexec_fn=processes.dies_with_parent(signal.SIGKILL),
            )
        finally:
            os.close(its_end)
        last_words: list[str] = []
        copying = asyncio.create_task(self._copy(program.name, output, last_words))
        self.running[program.name] = process.pid
        try:
            await process.wait()
        finally:
            if process.returncode is None and not await processes.stop(process, grace=self._grace, hurry=self._hurry):
                _log.warning(f"{program.name} did not stop in time and was killed")
            del self.running[program.name]
            await processes.kill(process)  # what it started and left behind
            await asyncio.wait({copying}, timeout=_LAST_OUTPUT)
            copying.cancel()
        assert process.returncode is not None
        return process.returncode, "\n".join(last_words)

    async def _copy(self, name: str, output: int, last_words: list[str]) -> None:
        """Show what a program prints; keep the last error it reported and what follows."""
        async for line in _lines(output):
            self._show(name, line)
            if line.startswith(_ERROR):
                last_words[:] = [line.removeprefix(_ERROR)]
            elif last_words:
                last_words.append(line)


async def drained(keeping: asyncio.Task[None]) -> None:
    """Cancel once, and wait for what that takes, whoever loses patience meanwhile: `hurry` is the way to end it."""
    keeping.cancel()
    cancelled = False
    while not keeping.done():
        try:
            await asyncio.wait({keeping})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError


@contextlib.asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Open a task group that raises the first error of its tasks as it is, without a group around it."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _lines(descriptor: int) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb")
    )
    rest = b""
    try:
        while chunk := await reader.read(65_536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")
    finally:
        transport.close()
    if rest:
        yield rest.decode(errors="replace")
