"""When a failed event is tried again."""

from __future__ import annotations

import random
from typing import Annotated

import msgspec

from penstock.errors import ConfigurationError


class Retry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exponential back-off: attempt n failed, so wait base * factor ** (n - 1) seconds, at most `max`.

    `attempts` counts every try, the first included; 1 means no retry. `jitter` is the share of the delay
    that is drawn at random, added or taken away, so that what failed together does not return together. Code is
    held to the same bounds as streams.yaml (ConfigurationError).
    """

    attempts: Annotated[int, msgspec.Meta(ge=1)] = 5
    base: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    factor: Annotated[float, msgspec.Meta(ge=1, le=10_000)] = 2.0
    max: Annotated[float, msgspec.Meta(ge=0)] = 300.0
    jitter: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(Retry):
            value = getattr(self, field.name)
            try:
                msgspec.convert(value, field.type)
            except msgspec.ValidationError as error:
                raise ConfigurationError(f"Retry({field.name}={value}): {error}") from None

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after attempt number `attempt` (from 1) has failed."""
        doublings = min(attempt - 1, 64)  # far beyond any `max`, and short of float overflow
        delay: float = min(self.base * self.factor**doublings, self.max)
        return delay * (1 + random.uniform(-self.jitter, self.jitter))  # noqa: S311 - spreading load
