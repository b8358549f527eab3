"""Segments: whatever happens to their bytes, what is read is what was written, and all that is whole is read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock.spool.segment import Damage, Found, Record, frame, walk

SALT = 0x1234_5678


def record(number: int, text: str = "x") -> Record:
    return Record(number, number, 1, "ingest", 0, ["data", text], [("dedupe:a", 60, "digest")])


def read(data: bytes, salt: int = SALT) -> list[Record]:
    return [found.record for found in walk(data, salt) if isinstance(found, Found)]


@given(st.lists(st.text(max_size=200), max_size=20))
def test_what_is_written_is_read(texts: list[str]) -> None:
    records = [record(number, text) for number, text in enumerate(texts)]
    found = list(walk(b"".join(frame(one, SALT) for one in records), SALT))
    assert not any(isinstance(one, Damage) for one in found)
    assert read(b"".join(frame(one, SALT) for one in records)) == records


@given(st.data())
def test_flipped_bits_cost_the_records_they_are_in_and_no_other(data: st.DataObject) -> None:
    records = [record(number, "y" * number) for number in range(20)]
    frames = [frame(one, SALT) for one in records]
    whole = bytearray(b"".join(frames))
    flips = data.draw(st.lists(st.integers(0, len(whole) * 8 - 1), min_size=1, max_size=5, unique=True))
    hit = set()
    for bit in flips:
        whole[bit // 8] ^= 1 << bit % 8
        ends = [sum(map(len, frames[: number + 1])) for number in range(20)]
        hit.add(next(number for number, end in enumerate(ends) if bit // 8 < end))
    found = list(walk(bytes(whole), SALT))
    assert read(bytes(whole)) == [one for one in records if one.number not in hit]
    covered = sum(one.end - one.start for one in found if isinstance(one, Damage))
    assert covered == sum(len(frames[number]) for number in hit)


@given(st.integers(0, 400), st.binary(max_size=100))
def test_a_torn_end_costs_what_is_torn(kept: int, rubbish: bytes) -> None:
    frames = [frame(record(number), SALT) for number in range(5)]
    whole = b"".join(frames)
    kept = min(kept, len(whole))
    complete = [number for number in range(5) if sum(map(len, frames[: number + 1])) <= kept]
    found = list(walk(whole[:kept] + rubbish, SALT))
    assert [one.number for one in read(whole[:kept] + rubbish)][: len(complete)] == complete
    if isinstance(found[-1] if found else None, Damage):
        assert found[-1].end == kept + len(rubbish)


def test_pages_of_zeros_are_damage() -> None:
    whole = frame(record(1), SALT) + bytes(4096) + frame(record(2), SALT) + bytes(4096)
    assert [one.number for one in read(whole)] == [1, 2]
    assert [one.torn for one in walk(whole, SALT) if isinstance(one, Damage)] == [False, True]


def test_an_event_that_holds_a_record_is_not_taken_for_one() -> None:
    forged = frame(record(666, "forged"), 0).decode("latin-1")
    whole = bytearray(frame(record(1, forged), SALT) + frame(record(2), SALT))
    whole[0] ^= 1
    assert [one.number for one in read(bytes(whole))] == [2]
