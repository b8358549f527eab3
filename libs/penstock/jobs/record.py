"""The record of a job: what became of it, for whoever asks by its id."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

JobState = Literal["queued", "running", "retrying", "completed", "dead", "cancelled", "settled"]


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a job. Durations are in seconds, times RFC 3339.

    `settled`: nothing more will become of it, and there is no record of how it ended: none was made, or none is left.
    While it runs, `progress` is the share of the work that its handler said is done, from 0 to 1, and `note` its word.
    """

    state: JobState
    type: str = ""
    attempts: int = 0
    result: Any = None
    error: str | None = None
    reason: str | None = None
    next_attempt_at: str | None = None
    finished_at: str | None = None
    duration: float | None = None
    queue_wait: float | None = None
    trace_id: str | None = None
    tenant: str | None = None
    progress: float | None = None
    note: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more becomes of it by itself."""
        return self.state in ("completed", "dead", "cancelled", "settled")


def decode(record: bytes) -> Job:
    """Read a record: the entry that it belongs to, a space, and JSON."""
    return msgspec.json.decode(record.partition(b" ")[2], type=Job)
