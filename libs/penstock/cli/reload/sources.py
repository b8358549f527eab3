"""Sources: the files that services are made of, and how one hears of changes that are sound."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from penstock import processes
from penstock.cli.reload.check import Report
from penstock.errors import UNREADABLE
from penstock.topology import FILE

_POLL = 0.2  # seconds between looks at the files
_PATIENCE = 60.0  # seconds that importing them may take

Part = Literal["all", "code", "topology"]


class Sources:
    """The files of some targets (`service=module:name`, `jobs=...`, `module=...`), and their streams.yaml.

    `mesh=JOBS` is everything that the streams.yaml says, with the jobs of PENSTOCK_JOBS.

    They are found by importing the targets, in a process of its own. `part` is what is watched of them: while
    something is wrong it is everything, for the remedy may be anywhere.
    """

    def __init__(self, targets: Sequence[str], topology: str | None, *, part: Part = "all") -> None:
        self._targets = targets
        self._topology = topology
        self._part = part
        self._seen: dict[str, object] = {}

    async def check(self) -> str:
        """Look at the files as they are now; return what is wrong with them in one line, empty if nothing."""
        before = _stamps(self._seen)
        found = await self._report()
        files = found.files if found.error else [path for path in found.files if self._counts(path)]
        self._seen = {**_stamps(files), **{path: before[path] for path in files if path in before}}
        return found.error

    async def handled(self) -> dict[str, tuple[str, str]]:
        """Return for each service a stream and a type that it handles there, as far as that is known."""
        return (await self._report()).handled

    async def change(self) -> None:
        """Wait until a file is another than the last check saw, and no longer changes."""
        before = self._seen
        while True:
            now = _stamps(self._seen)
            if now == before and now != self._seen:
                return
            before = now
            await asyncio.sleep(_POLL)

    async def sound_change(self, tell: Callable[[str], object]) -> None:
        """Wait until there is another version that would run; `tell` is called with what is wrong with others."""
        while True:
            await self.change()
            error = await self.check()
            if not error:
                return
            tell(error)

    def _counts(self, path: str) -> bool:
        is_topology = path == str(Path(self._topology or FILE).absolute())
        return self._part == "all" or is_topology == (self._part == "topology")

    async def _report(self) -> Report:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "penstock.cli.reload.check", self._topology or "", *self._targets),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=processes.dies_with_parent(signal.SIGKILL),
        )
        try:
            async with asyncio.timeout(_PATIENCE):
                said, _ = await process.communicate()
            return msgspec.json.decode(said, type=Report)
        except TimeoutError:
            return Report([*self._seen], f"importing {', '.join(self._targets)} takes longer than {_PATIENCE:g} s")
        except UNREADABLE:
            return Report([*self._seen], f"importing {', '.join(self._targets)} ends the process")
        finally:
            await processes.kill(process)


def _stamps(paths: Iterable[str]) -> dict[str, object]:
    """Return for each path what is another once it is written to, or gone."""
    return {path: _stamp(path) for path in paths}


def _stamp(path: str) -> object:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
