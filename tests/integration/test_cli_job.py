"""`penstock job --follow`: lines, JSON or a bar, until the job has ended."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock import Context, Reject, Service
from tests.command_line import Cli
from tests.hands import Raw, fields_of
from tests.mesh import eventually, running
from tests.servers import Server

MESH = """
streams: {ingest: {}, events: {}}
services: {worker: {consumes: {ingest: {}}, publishes: [events]}}
"""


class Followed:
    """A job under way, and a command that follows it."""

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        self._say: asyncio.Queue[Any] = asyncio.Queue()
        self.service = Service("worker")

        @self.service.on("ingest")
        async def handle(_: Any, ctx: Context) -> str:
            while (said := await self._say.get()) != "end":
                if said == "die":
                    raise Reject("not with us")
                ctx.progress(*said)
            return "parsed"

    async def begin(self) -> None:
        self._raw.xadd("ingest", {"type": "t", "id": "J-1"})
        await self.say(0.4, "parsing\x1b[2J")

    async def say(self, share: float, note: str) -> None:
        self._say.put_nowait((share, note))
        await eventually(lambda: f"{share}" in {entry["share"] for entry in fields_of(self._raw, "progress")})

    def end(self, how: str = "end") -> None:
        self._say.put_nowait(how)

    async def is_followed(self) -> None:
        def reads() -> bool:
            return any(
                client["name"].startswith("penstock-client-penstock-cli") and client["cmd"].startswith("xread")
                for client in self._raw.client_list()
            )

        await eventually(reads, what="the command reads along")


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    return Cli(server.url, tmp_path)


@pytest.mark.parametrize("as_json", [False, True])
async def test_each_change_is_a_line(as_json: bool, cli: Cli, server: Server, raw: Raw) -> None:
    job = Followed(raw)
    async with running(job.service, MESH, server):
        await job.begin()
        options = ["--json"] if as_json else []
        following = asyncio.create_task(asyncio.to_thread(cli, "job", "J-1", "--follow", *options))
        await job.is_followed()
        await job.say(0.8, "half")
        job.end()
        done = await following

    assert done.returncode == 0, done.stderr
    if as_json:
        told = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(one["job_id"], one["state"], one["progress"]) for one in told] == [
            ("J-1", "running", 0.4),
            ("J-1", "running", 0.8),
            ("J-1", "completed", None),
        ]
    else:
        lines = done.stdout.splitlines()
        assert lines[:3] == ["running 40% parsing\N{REPLACEMENT CHARACTER}[2J", "running 80% half", "J-1 completed"]
        assert any(line.split() == ["result", "parsed"] for line in lines[3:])


async def test_a_running_job_shows_its_progress_and_one_that_dies_is_an_exit_code(
    cli: Cli, server: Server, raw: Raw
) -> None:
    job = Followed(raw)
    async with running(job.service, MESH, server):
        await job.begin()
        shown = await asyncio.to_thread(cli, "job", "J-1")
        following = asyncio.create_task(asyncio.to_thread(cli, "job", "J-1", "-f"))
        await job.is_followed()
        job.end("die")
        done = await following
        unknown = await asyncio.to_thread(cli, "job", "J-2", "--follow")

    assert [line.split() for line in shown.stdout.splitlines()] == [
        ["J-1", "running"],
        ["type", "t"],
        ["attempts", "1"],
        ["progress", "40%"],
        ["note", "parsing\N{REPLACEMENT CHARACTER}[2J"],
    ]
    assert (done.returncode, done.stdout.splitlines()[1], done.stderr) == (1, "J-1 dead", "penstock: job J-1 is dead\n")
    assert (unknown.returncode, unknown.stderr) == (1, "penstock: nothing is known of a job J-2\n")


async def test_a_terminal_has_a_bar(cli: Cli, server: Server, raw: Raw) -> None:
    job = Followed(raw)
    ours, its_own = pty.openpty()
    async with running(job.service, MESH, server):
        await job.begin()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "penstock", "job", "J-1", "--follow"),
            env={**cli.env, "TERM": "xterm", "COLUMNS": "100"},
            stdout=its_own,
            stderr=its_own,
        )
        os.close(its_own)
        await job.is_followed()
        await job.say(0.8, "half")
        reading = asyncio.create_task(asyncio.to_thread(read_until, ours, b"80%"))
        shown = await reading
        job.end()
        shown += await asyncio.to_thread(read_until, ours, b"completed")
        await process.wait()
    os.close(ours)

    assert process.returncode == 0
    assert "━".encode() in shown
    assert b"half" in shown
    assert b"parsing\x1b" not in shown


def read_until(descriptor: int, wanted: bytes) -> bytes:
    read = b""
    while wanted not in read:
        try:
            part = os.read(descriptor, 10_000)
        except OSError:  # the other end is closed
            part = b""
        assert part, read
        read += part
    return read
