"""Penstock: durable, event-driven services over Redis Streams.

What stands here is imported when it is first asked for, so that a part of Penstock costs what that part needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.client.client import NewJob, Penstock
    from penstock.errors import (
        ConfigurationError,
        InvalidEvent,
        JobCancelled,
        JobDead,
        NoRecord,
        NotCancelled,
        PenstockError,
        Reject,
        Snooze,
        TryAgain,
        Unavailable,
        UnsuitableRedis,
    )
    from penstock.event import Event
    from penstock.retry import Retry
    from penstock.service.app import Service
    from penstock.service.context import BatchContext, Context

__version__ = "0.1.0"

__all__ = [
    "BatchContext",
    "ConfigurationError",
    "Context",
    "Event",
    "InvalidEvent",
    "JobCancelled",
    "JobDead",
    "NewJob",
    "NoRecord",
    "NotCancelled",
    "Penstock",
    "PenstockError",
    "Reject",
    "Retry",
    "Service",
    "Snooze",
    "TryAgain",
    "Unavailable",
    "UnsuitableRedis",
    "__version__",
]

_HOMES = {
    "BatchContext": "service.context",
    "Context": "service.context",
    "Event": "event",
    "NewJob": "client.client",
    "Penstock": "client.client",
    "Retry": "retry",
    "Service": "service.app",
}


if not TYPE_CHECKING:  # for a type checker it would make every name one of ours

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"penstock.{_HOMES.get(name, 'errors')}"), name)
