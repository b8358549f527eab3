"""The spool directory: a sub-directory for each process that spools, and what was put aside.

Whoever owns a sub-directory holds the lock on its file `lock`, for as long as it lives. One without an owner is an
orphan: whoever gets its lock adopts it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from penstock.errors import UNREADABLE, ConfigurationError
from penstock.spool.disk import Disk

_OWNER, _LOCK, _ASIDE = "spool.json", "lock", "aside"
_held: set[int] = set()  # descriptors of locks: a forked child must not keep its parent's alive


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Whose a spool is, and on which server and under which prefix its events belong."""

    program: str
    server: str
    prefix: str
    host: str = msgspec.field(default_factory=socket.gethostname)
    pid: int = msgspec.field(default_factory=os.getpid)
    began: float = msgspec.field(default_factory=time.time)

    @property
    def mesh(self) -> str:
        """Tells the mesh apart to which its events belong."""
        return hashlib.sha256(f"{self.server}\0{self.prefix}".encode()).hexdigest()[:16]


class Place:
    """A sub-directory whose lock is ours."""

    def __init__(self, path: Path, owner: Owner, lock: int) -> None:
        self.path = path
        self.owner = owner
        self._lock = lock

    @property
    def id(self) -> str:
        """Names the spool, in Redis too."""
        return self.path.name

    def remove(self) -> None:
        """Delete it, and let go of it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.leave()

    def leave(self) -> None:
        """Let go of it: what is in it is for whoever adopts it."""
        if self._lock in _held:
            _held.remove(self._lock)
            os.close(self._lock)


class Directory:
    """PENSTOCK_SPOOL_DIR."""

    def __init__(self, path: str | Path, disk: Disk | None = None) -> None:
        self.path = Path(path)
        self.aside = self.path / _ASIDE
        self._disk = disk or Disk()

    def claim(self, name: str, owner: Owner) -> Place:
        """Make a sub-directory of our own.

        Raises:
            ConfigurationError: the directory cannot be used.
        """
        making, path = self.path / f".{name}", self.path / name
        try:
            self.aside.mkdir(parents=True, exist_ok=True)
            making.mkdir(mode=0o700)
            lock = _lock(making / _LOCK, create=True)
            assert lock is not None, "nobody else knows the name"
            self._disk.put(making / _OWNER, msgspec.json.encode(owner))
            making.rename(path)
            self._disk.sync_folder(self.path)
        except OSError as error:
            raise ConfigurationError(
                f"PENSTOCK_SPOOL_DIR: {self.path} cannot be used ({error.strerror}); set it to a folder on a local "
                "disk that this program may write to"
            ) from None
        return Place(path, owner, lock)

    def adopt(self, name: str) -> Place | None:
        """Return a sub-directory that has no owner any more, now ours; None if it has one, or is gone."""
        path = self.path / name
        owner = self.owner(name)
        lock = _lock(path / _LOCK) if owner is not None else None
        return Place(path, owner, lock) if owner is not None and lock is not None else None

    def names(self) -> list[str]:
        """Return the names of all sub-directories, the oldest first."""
        found = [(owner.began, name) for name in self._folders() if (owner := self.owner(name)) is not None]
        return [name for _, name in sorted(found)]

    def owner(self, name: str) -> Owner | None:
        """Return who made a sub-directory; None if it is none of ours."""
        try:
            return msgspec.json.decode((self.path / name / _OWNER).read_bytes(), type=Owner)
        except (OSError, *UNREADABLE):
            return None

    def is_owned(self, name: str) -> bool:
        """Whether a living process owns a sub-directory."""
        place = self.adopt(name)
        if place is None:
            return (self.path / name).is_dir()
        place.leave()
        return False

    def size(self) -> int:
        """Return the bytes in all segments and in what was put aside."""
        return sum(_size(path) for name in (*self._folders(), _ASIDE) for path in self._files(name))

    def put_aside(self, name: str, data: bytes) -> None:
        """Keep what cannot be published for people to look at.

        Raises:
            OSError: it cannot be written.
        """
        self.aside.mkdir(exist_ok=True)
        self._disk.put(self.aside / name, data)

    def move_aside(self, path: Path, name: str) -> None:
        """Move a file to what was put aside; that takes no room.

        Raises:
            OSError: it cannot be moved.
        """
        self.aside.mkdir(exist_ok=True)
        self._disk.move(path, self.aside / name)

    def put_aside_names(self) -> list[str]:
        """Return the names of what was put aside."""
        return sorted(path.name for path in self._files(_ASIDE) if path.suffix != ".new")

    def _folders(self) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError):
            for path in self.path.iterdir():
                if path.is_dir() and not path.name.startswith(".") and path.name != _ASIDE:
                    yield path.name

    def _files(self, name: str) -> list[Path]:
        try:
            return list((self.path / name).iterdir())
        except FileNotFoundError:
            return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _lock(path: Path, *, create: bool = False) -> int | None:
    """Lock a file; return its descriptor, or None if somebody else has it, or it is gone."""
    import fcntl  # noqa: PLC0415 - absent on Windows, where there is no spool

    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_ino == path.stat().st_ino:  # else its owner has removed it meanwhile
            _held.add(file)
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(file)
    return None


def _let_go() -> None:
    for file in _held:
        with contextlib.suppress(OSError):
            os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
