"""Progress: how far a handler says that it is with its job. It is no part of a commit, and a crash may lose it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from penstock.event import Event
from penstock.jobs.record import Job
from penstock.keys import Keys
from penstock.times import entry_ms, seconds_of

LONGEST_NOTE: Final = 200  # characters
_LIFETIME_MS: Final = 86_400_000
_KEPT: Final = 10_000  # entries of the stream, about

Command = tuple[str | int | float, ...]


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the handler of a job said last.

    `share` is how much of the work is done, from 0 to 1; `at` is when it said so, in seconds since the epoch.
    """

    share: float
    note: str = ""
    attempt: int
    at: float
    tenant: str | None = None


def make_progress(event: Event, attempt: int, share: float, note: str) -> Progress:
    """Return what is to be written, with a note that is too long cut.

    Raises:
        ValueError: the share is not from 0 to 1.
    """
    _check_share(share)
    if len(note) > LONGEST_NOTE:
        note = note[: LONGEST_NOTE - 1] + "\N{HORIZONTAL ELLIPSIS}"
    note = note.encode(errors="replace").decode()
    return Progress(share=float(share), note=note, attempt=attempt, at=time.time(), tenant=event.tenant)


def advanced(job: Job, progress: Progress) -> Job:
    """Return what is known of a job together with what its handler has said; what an earlier run said adds nothing."""
    if job.is_over or progress.tenant != job.tenant or progress.attempt < job.attempts:
        return job
    begun = seconds_of(job.next_attempt_at) if job.next_attempt_at is not None else math.inf
    # A snooze uses up no attempt: the next run has the same number.
    if job.state == "retrying" and progress.attempt == job.attempts and progress.at < begun:
        return job
    return msgspec.structs.replace(
        job,
        state="running",
        attempts=progress.attempt,
        next_attempt_at=None,
        progress=progress.share,
        note=progress.note or None,
    )


def decode_progress(stored: bytes) -> Progress:
    """Read what is kept of a job's progress."""
    return msgspec.json.decode(stored, type=Progress)


def read_progress(entry_id: str, fields: Mapping[bytes, bytes]) -> tuple[str, str, Progress]:
    """Return the id and the source of the job that an entry of the stream is about, and what it says.

    Raises:
        ValueError: it is none that was written here.
    """
    text = {name.decode(): value.decode() for name, value in fields.items()}
    try:
        share = float(text["share"])
        _check_share(share)
        said = Progress(
            share=share,
            note=text.get("note", ""),
            attempt=int(text["attempt"]),
            at=entry_ms(entry_id) / 1000,
            tenant=text.get("tenant"),
        )
        return text["job"], text["source"], said
    except KeyError as error:
        raise ValueError(f"no {error}") from None


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:  # NaN is neither
        raise ValueError(f"progress is a share of the work, from 0 to 1, not {share}")


def commands(keys: Keys, event: Event, progress: Progress) -> list[Command]:
    """Return what tells Redis of it: for whoever asks for the job, and for whoever reads along."""
    kept = keys.progress_of(event.id)
    fields: dict[str, str | int | float] = {
        "job": event.id,
        "source": event.source,
        "type": event.type,
        "attempt": progress.attempt,
        "share": progress.share,
        "note": progress.note,
    }
    if event.subject is not None:
        fields["subject"] = event.subject
    if event.tenant is not None:
        fields["tenant"] = event.tenant
    flat = (part for field in fields.items() for part in field)
    return [
        ("HSET", kept, event.source, msgspec.json.encode(progress).decode()),
        ("PEXPIRE", kept, _LIFETIME_MS),
        ("XADD", keys.progress, "MAXLEN", "~", _KEPT, "*", *flat),
    ]
