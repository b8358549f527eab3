"""A Redis server of our own: for a machine on which `penstock up` shall be all it takes."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import msgspec
import structlog
from redis.exceptions import RedisError

from penstock import processes
from penstock.errors import UNREADABLE, ConfigurationError
from penstock.redis.binaries import Binary, choose_binary
from penstock.redis.connection import blocking_client, client, unavailable
from penstock.settings import Settings

HOST = "127.0.0.1"
LOG_FILE = "redis.log"
_LOCK_WAIT = 5.0  # seconds for a server whose supervisor was killed to be gone
_STOP_GRACE = 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_POLL = 0.02
_UNREADABLE = re.compile(r"Can't handle RDB format|Bad file format|Wrong signature|Unrecoverable error|Short read")
_log = structlog.get_logger("penstock.redis")


class OwnServer:
    """One server process on the loopback, its data in the data folder. It ends when this process does.

    The data outlives it: what it wrote is there again when it is started on the same folder.
    """

    def __init__(self, settings: Settings) -> None:
        """Choose the program to run.

        Raises:
            ConfigurationError: the data folder cannot be used, or there is no server program.
        """
        self.folder = Path(settings.data_dir).absolute()
        self.port = settings.redis_port
        self.url = f"redis://{HOST}:{self.port}/0"
        self._shown = settings.data_dir
        self._mark = self.folder / "server.json"
        self._lock: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._wrote = _read_mark(self._mark)
        except OSError as error:
            raise ConfigurationError(
                f"PENSTOCK_DATA_DIR: {self._shown} cannot be used ({error.strerror}); name a folder to write to"
            ) from None
        self.binary = choose_binary(like=self._wrote)

    async def start(self) -> None:
        """Start the server; return once it answers, which takes a while if it has much to load.

        Raises:
            ConfigurationError: the port or the data is in use, or the server cannot read the data.
        """
        await self._take_lock()
        await asyncio.to_thread(self._check_port)
        log = self.folder / LOG_FILE
        logged = log.stat().st_size if log.exists() else 0
        assert self._lock is not None
        self._process = await asyncio.create_subprocess_exec(
            self.binary.path,
            *("--bind", HOST, "--port", str(self.port), "--pidfile", "redis.pid", "--logfile", LOG_FILE),
            *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--maxmemory-policy", "noeviction"),
            cwd=self.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is not for it: it goes last
            preexec_fn=processes.dies_with_parent(signal.SIGTERM),
            pass_fds=(self._lock,),  # the folder stays locked until the server itself is gone
        )
        if not await self._answers(self._process):
            raise ConfigurationError(self._why_not(log, logged))
        self._mark.write_bytes(msgspec.json.encode(self.binary))

    async def keep_running(self) -> None:
        """Start the server again whenever it ends, until cancelled."""
        assert self._process is not None
        pause = _FIRST_PAUSE
        while True:
            how = processes.describe_exit(await self._process.wait())
            _log.error("Redis ended, starting it again", how=how, after=f"{pause:g} s")
            await asyncio.sleep(pause)
            try:
                await self.start()
                pause = _FIRST_PAUSE
            except ConfigurationError as error:
                _log.error(str(error))
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def stop(self) -> None:
        """Stop the server, if it runs, and let go of the folder."""
        if self._process is not None and not await processes.stop(self._process, grace=_STOP_GRACE):
            _log.warning("Redis did not stop and was killed", after=_STOP_GRACE)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _take_lock(self) -> None:
        if self._lock is not None:
            return
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = asyncio.get_running_loop().time() + _LOCK_WAIT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if asyncio.get_running_loop().time() > deadline:
                    os.close(lock)
                    raise ConfigurationError(self._in_use()) from None
            else:
                self._lock = lock
                return
            await asyncio.sleep(_POLL)

    def _in_use(self) -> str:
        try:
            pid = int((self.folder / "redis.pid").read_text())
            who = f" (process {processes.up_of(pid) or pid})"
        except (OSError, ValueError):  # it is about to start, or to end
            who = ""
        return (
            f"another `penstock up`{who} works on the data in {self._shown}: stop that one first, "
            "or set PENSTOCK_DATA_DIR and PENSTOCK_REDIS_PORT for a second mesh"
        )

    def _check_port(self) -> None:
        if not is_listening(HOST, self.port):
            return
        taken = f"port {self.port} on {HOST} is taken by {processes.listener(self.port)}"
        if _answers_as_redis(self.url):
            raise ConfigurationError(
                f"{taken}, a Redis: set REDIS_URL={self.url} to use that one, or PENSTOCK_REDIS_PORT to a free port"
            )
        raise ConfigurationError(
            f"{taken}: set PENSTOCK_REDIS_PORT to a free port, or REDIS_URL to a server that runs already"
        )

    async def _answers(self, process: asyncio.subprocess.Process) -> bool:
        """Wait until the server takes commands; return False if it ended instead."""
        redis = client(self.url, timeout=1.0)
        said = ""
        try:
            while process.returncode is None:
                try:
                    await redis.ping()
                    return True
                except Exception as error:
                    away = unavailable(error)
                    if away is None:
                        raise
                    if away.reason not in (said, "cannot connect"):
                        said = away.reason
                        _log.info(f"Redis is {said}")
                await asyncio.sleep(_POLL)
        finally:
            await redis.aclose()
        return False

    def _why_not(self, log: Path, logged: int) -> str:
        said = _since(log, logged)
        where = f"{self._shown}/{LOG_FILE}"
        if not _UNREADABLE.search(said):
            last = said.strip().rpartition("\n")[2] or "it said nothing"
            return f"{self.binary} did not start: {last} (more in {where})"
        if self._wrote and str(self._wrote) != str(self.binary):
            return (
                f"{self._shown} holds the data of {self._wrote}, which {self.binary} cannot read: install "
                f"{self._wrote.name} {self._wrote.version} or newer, or set PENSTOCK_DATA_DIR to another folder"
            )
        return f"{self.binary} cannot read its data in {self._shown}: see {where}, or set PENSTOCK_DATA_DIR to another"


def is_listening(host: str, port: int) -> bool:
    """Return whether something takes connections at this address."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def _answers_as_redis(url: str) -> bool:
    probe: Any = blocking_client(url, timeout=1.0)
    try:
        probe.ping()
    except RedisError as error:
        away = unavailable(error)
        return away is not None and away.reason not in ("cannot connect", "no reply in time")
    finally:
        probe.close()
    return True


def _since(log: Path, offset: int) -> str:
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(offset)
        return file.read().decode(errors="replace")


def _read_mark(mark: Path) -> Binary | None:
    """Return the program that last ran on this data, None if that is not known."""
    try:
        return msgspec.json.decode(mark.read_bytes(), type=Binary)
    except (FileNotFoundError, *UNREADABLE):
        return None
