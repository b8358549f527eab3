"""Configuration that is read again while a service runs."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisIsAway

from penstock.service import reload
from penstock.service.reload import Reason, ReloadWatcher


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "_LOOK_AGAIN", 0.01)


async def looks(watcher: ReloadWatcher, *happen: object) -> list[Reason | None]:
    """Return the reasons of as many looks as things happen, each of them within a look: a call, or an error raised."""
    stopping, found, left = asyncio.Event(), [], list(happen)

    async def look(reason: Reason | None) -> None:
        found.append(reason)
        now = left.pop(0)
        if not left:
            stopping.set()
        if isinstance(now, Exception):
            raise now
        if callable(now):
            now()

    async with asyncio.timeout(30):
        await watcher.watch(stopping, look)
    return found


@pytest.mark.parametrize("change", ["write", "replace", "make", "remove"])
async def test_what_happens_to_a_file_before_and_while_it_is_watched_is_a_reason_once(
    tmp_path: Path, change: str
) -> None:
    file, other = tmp_path / "alerts.yaml", tmp_path / "other"
    if change != "make":
        file.write_text("a")

    def happen() -> None:
        other.write_text("b" * file.stat().st_size if file.exists() else "b")
        if change == "remove":
            file.unlink()
        elif change == "replace":
            other.replace(file)
        else:
            file.write_text(file.read_text() + "b" if file.exists() else "b")

    watcher = ReloadWatcher(lambda: [str(file)])
    assert await looks(watcher, None, happen, None, None) == [None, None, "changed", None]

    watcher = ReloadWatcher(lambda: [str(file)])
    file.write_text("something else")
    assert await looks(watcher, None, None) == ["changed", None]


async def test_sighup_is_a_reason_and_is_ignored_once_nobody_listens(tmp_path: Path) -> None:
    def hangup() -> None:
        os.kill(os.getpid(), signal.SIGHUP)

    before = signal.getsignal(signal.SIGHUP)
    try:
        assert await looks(ReloadWatcher(list), hangup, None, None) == [None, "SIGHUP", None]
        hangup()
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_while_redis_is_away_a_reason_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "alerts.yaml"
    watcher = ReloadWatcher(lambda: [str(file)])
    file.write_text("a")

    assert await looks(watcher, RedisIsAway(), None, None) == ["changed", "changed", None]


async def test_any_other_error_is_one(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        await looks(ReloadWatcher(list), ZeroDivisionError(), None)
