"""What a spool does when its disk fails it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from penstock.errors import SpoolFull
from penstock.spool.directory import Directory
from penstock.spool.spool import SEGMENT, Accepted, Spool
from tests.spools import OWNER, ROOMY, segment_files
from tests.unit.test_spool_model import FailingDisk


@pytest.fixture
def disk() -> FailingDisk:
    return FailingDisk()


@pytest.fixture
def spool(tmp_path: Path, disk: FailingDisk) -> Spool:
    directory = Directory(tmp_path)
    return Spool(directory.claim("s", OWNER), directory, ROOMY, disk)


def accepted(sequence: int, size: int = 1) -> Accepted:
    return Accepted(sequence, "ingest", 0, ["data", "x" * size], [])


def sequences(spool: Spool) -> list[int]:
    found = []
    while (portion := spool.first(most_events=2, most_bytes=10**9)) is not None:
        found += [record.sequence for record in portion.records]
        spool.confirm(portion)
    return found


def test_after_a_failed_sync_the_records_are_written_anew_into_another_file(
    spool: Spool, disk: FailingDisk, tmp_path: Path
) -> None:
    spool.append([accepted(1)])
    disk.failing = {"sync"}
    spool.append([accepted(2), accepted(3)])
    first, second = segment_files(tmp_path)
    assert disk.synced[second.name] == second.stat().st_size, "the kernel may have forgotten what is in the first"
    assert first.stat().st_size == disk.synced[first.name], "nor is it read from there"
    assert sequences(spool) == [1, 2, 3]
    assert segment_files(tmp_path) == []


def test_without_room_nothing_is_kept_of_what_was_refused(spool: Spool, disk: FailingDisk, tmp_path: Path) -> None:
    spool.append([accepted(1)])
    disk.failing, disk.error = {"half"}, errno.ENOSPC
    with pytest.raises(SpoolFull, match="no room on the disk"):
        spool.append([accepted(2, 100_000)])
    assert spool.waiting == 1
    spool.append([accepted(3)])
    assert sequences(spool) == [1, 3]
    assert segment_files(tmp_path) == []


def test_a_disk_that_goes_on_failing_is_full_and_leaves_no_empty_files(
    spool: Spool, disk: FailingDisk, tmp_path: Path
) -> None:
    for _ in range(3):
        disk.failing = {"write", "sync"}
        with pytest.raises(SpoolFull, match="fails"):
            spool.append([accepted(1)])
    assert segment_files(tmp_path) == []


def test_what_comes_twice_is_kept_once(spool: Spool) -> None:
    spool.append([accepted(1), accepted(2)])
    spool.append([accepted(1), accepted(2)])  # its caller was cancelled, and nobody knew that it was kept
    spool.append([accepted(2), accepted(3)])
    assert (spool.waiting, sequences(spool)) == (3, [1, 2, 3])


def test_segments_are_cut_and_go_as_they_are_published(spool: Spool, tmp_path: Path) -> None:
    for number in range(1, 6):
        spool.append([accepted(number, SEGMENT // 2)])
    assert len(segment_files(tmp_path)) == 3
    portion = spool.first(most_events=100, most_bytes=10**9)
    assert portion is not None
    assert len(portion.records) == 2, "of one segment at a time"
    spool.confirm(portion)
    assert len(segment_files(tmp_path)) == 2
    assert (spool.waiting, sequences(spool)) == (3, [3, 4, 5])
