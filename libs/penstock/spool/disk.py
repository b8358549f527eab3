"""What a spool does to the disk, in one place, so that tests can fail it between any two steps."""

from __future__ import annotations

import os
from pathlib import Path


class Disk:
    """File operations; each raises OSError."""

    def create(self, path: Path) -> int:
        """Make a new file that survives a crash of the machine; return its descriptor."""
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self.sync_folder(path.parent)
        except OSError:
            os.close(file)
            path.unlink()
            raise
        return file

    def close(self, file: int) -> None:
        """Close a file."""
        os.close(file)

    def write(self, file: int, data: bytes, at: int) -> None:
        """Write all of `data` at an offset."""
        left = memoryview(data)
        while left:
            written = os.pwrite(file, left, at)
            left, at = left[written:], at + written

    def sync(self, file: int) -> None:
        """Return once the disk has what was written."""
        getattr(os, "fdatasync", os.fsync)(file)

    def truncate(self, file: int, size: int) -> None:
        """Cut a file off."""
        os.ftruncate(file, size)

    def read(self, path: Path) -> bytes:
        """Return what is in a file."""
        return path.read_bytes()

    def put(self, path: Path, data: bytes) -> None:
        """Write a file, whole or not at all, and over one that is there."""
        new = path.with_suffix(".new")
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self.write(file, data, 0)
            self.sync(file)
        finally:
            os.close(file)
        new.replace(path)
        self.sync_folder(path.parent)

    def move(self, path: Path, to: Path) -> None:
        """Move a file to another folder of the same file system."""
        path.replace(to)
        self.sync_folder(to.parent)

    def unlink(self, path: Path) -> None:
        """Delete a file, unless it is gone already."""
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """Return once the disk has the names in a folder."""
        file = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(file)
        finally:
            os.close(file)

    def free(self, folder: Path) -> int:
        """Return how many bytes of the file system are free for us."""
        found = os.statvfs(folder)
        return found.f_bavail * found.f_frsize
