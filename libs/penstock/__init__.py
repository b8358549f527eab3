"""Penstock: durable, event-driven services over Redis Streams."""

from penstock.errors import (
    ConfigurationError,
    InvalidEvent,
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
