"""The order of an alert's changes: that in which they were published, however they arrive."""

from __future__ import annotations

import time

from penstock.event import Event
from penstock.schemas import Alert
from services.notifier.message import moment


def order_of(alert: Alert, event: Event) -> str:
    """Return where a change stands among those of its alert; texts that compare as the changes do.

    That is when it was published; of changes of one millisecond the later episode comes later, and within an
    episode the resolve.
    """
    published = _milliseconds(event.time) or round(time.time() * 1000)
    return f"{published:015d}.{_milliseconds(alert.since):015d}.{int(alert.status == 'resolved')}"


def _milliseconds(timestamp: str) -> int:
    found = moment(timestamp)
    return max(0, round(found.timestamp() * 1000)) if found else 0
