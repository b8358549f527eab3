"""The way of one process to Redis, and what may befall it there."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

_CHUNK = 65_536


class Pipe:
    """One connection through a link."""

    def __init__(self, down: asyncio.StreamWriter, up: asyncio.StreamWriter) -> None:
        self._ends = down.transport, up.transport
        self.doomed = False
        self.flowing = asyncio.Event()
        self.flowing.set()

    def cut(self) -> None:
        """Drop the connection, and all that is under way on it."""
        for end in self._ends:
            end.abort()
        self.flowing.set()


class Link:
    """Forwards TCP from the loopback to a server's socket, until it is told not to."""

    def __init__(self, upstream: Path) -> None:
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self.port = 0
        self.pipes: list[Pipe] = []
        self._connections: set[asyncio.Task[None]] = set()
        self.delay = 0.0
        """Seconds that everything takes longer, each way."""
        self.refusing = False
        self.flowing = asyncio.Event()
        """While it is not set nothing gets through, and nobody is told."""
        self.flowing.set()
        self._needle: bytes | None = None
        self._lost = asyncio.Event()
        self._to_hold: tuple[bytes, asyncio.Future[Pipe]] | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
        while self._connections:
            self.cut()
            await asyncio.wait(self._connections, timeout=0.1)  # one may have been about to be made

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """Cut every connection."""
        for pipe in list(self.pipes):
            pipe.cut()

    async def lose_reply(self, needle: bytes, *, within: float) -> bool:
        """Lose the reply to the next request that holds `needle`: it is carried out, and its sender never knows.

        Return whether there was one.
        """
        self._needle = needle
        self._lost.clear()
        try:
            async with asyncio.timeout(within):
                await self._lost.wait()
                return True
        except TimeoutError:
            return False
        finally:
            self._needle = None

    async def hold_request(self, needle: bytes) -> Pipe:
        """Wait for the next request that holds `needle`, and hold it back until its pipe, returned, flows again."""
        held: asyncio.Future[Pipe] = asyncio.get_running_loop().create_future()
        self._to_hold = needle, held
        return await held

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        self._connections.add(serving)
        serving.add_done_callback(self._connections.discard)
        with contextlib.suppress(OSError):
            await self.flowing.wait()
            if self.refusing:
                writer.transport.abort()
                return
            try:
                replies, requests = await asyncio.open_unix_connection(self._upstream)
            except OSError:
                writer.transport.abort()
                return
            pipe = Pipe(writer, requests)
            self.pipes.append(pipe)
            try:
                await asyncio.gather(self._forward(pipe, reader, requests), self._return(pipe, replies, writer))
            finally:
                self.pipes.remove(pipe)
                pipe.cut()

    async def _forward(self, pipe: Pipe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self._to_hold is not None and self._to_hold[0] in data:
                    pipe.flowing.clear()
                    self._to_hold[1].set_result(pipe)
                    self._to_hold = None
                await self._travel(pipe)
                if self._needle is not None and self._needle in data:
                    self._needle = None
                    pipe.doomed = True
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _return(self, pipe: Pipe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if pipe.doomed:
                    self._lost.set()
                    break
                await self._travel(pipe)
                writer.write(data)
                await writer.drain()
        pipe.cut()

    async def _travel(self, pipe: Pipe) -> None:
        if self.delay:
            await asyncio.sleep(self.delay)
        await self.flowing.wait()
        await pipe.flowing.wait()
