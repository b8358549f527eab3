"""What stands in for Redis in a Harness; the real ones are of the same shape."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from penstock.event import Event
from penstock.jobs.progress import Progress
from penstock.resilience.breaker import CircuitOpen, Failure
from penstock.resilience.checkpoint import Pending
from penstock.testing.run import Emitted, decoded


class Checkpoints:
    """Checkpoints in memory; remembers which steps ran."""

    lifetime = 604_800.0

    def __init__(self) -> None:
        self._stored: dict[str, dict[str, bytes]] = {}
        self._ran: list[tuple[str, str]] = []

    async def load(self, event: str) -> dict[str, bytes]:
        """Return the results stored for an event, by step name."""
        return dict(self._stored.get(event, {}))

    async def store(self, event: str, step: str, result: bytes, pending: Pending | None = None) -> bytes:
        """Store a result; return it, or the one that was stored before."""
        self._ran.append((event, step))
        return self._stored.setdefault(event, {}).setdefault(step, result)

    def forget(self, event: str) -> None:
        """Remove what is stored for an event."""
        self._stored.pop(event, None)

    def take(self, events: Sequence[str]) -> list[str]:
        """Return the steps that ran for these events since the last call."""
        taken = [step for event, step in self._ran if event in events]
        self._ran = [ran for ran in self._ran if ran[0] not in events]
        return taken


class Outlet:
    """Keeps what handlers publish at once."""

    def __init__(self) -> None:
        self._published: list[Emitted] = []

    async def publish(self, stream: str, fields: list[str]) -> None:
        """Keep one event."""
        self._published.append(Emitted(stream, decoded(stream, fields)))

    def take(self, causes: Sequence[Event]) -> list[Emitted]:
        """Return what these events led to since the last call."""
        ids = {(event.id, event.source) for event in causes}
        taken: list[Emitted] = []
        left: list[Emitted] = []
        for one in self._published:
            (taken if (one.event.cause, one.event.causesource) in ids else left).append(one)
        self._published = left
        return taken


class ProgressLog:
    """Keeps what handlers say of their progress."""

    def __init__(self) -> None:
        self._said: list[tuple[str, tuple[float, str]]] = []

    def tell(self, event: Event, stream: str, progress: Progress) -> None:
        """Keep it."""
        self._said.append((event.id, (progress.share, progress.note)))

    async def settle(self, event: Event) -> None:
        """Do nothing: all of it is kept."""

    def take(self, events: Sequence[str]) -> list[tuple[float, str]]:
        """Return what the handlers of these events said since the last call."""
        taken = [said for event, said in self._said if event in events]
        self._said = [one for one in self._said if one[0] not in events]
        return taken


class Breakers:
    """Circuit breakers that open when the test says so."""

    def __init__(self) -> None:
        self.open: dict[str, float] = {}

    def guard(self, name: str, failures: Failure = Exception) -> AbstractAsyncContextManager[None]:
        """Run what is inside, unless the breaker is open."""
        return self._guard(name)

    @asynccontextmanager
    async def _guard(self, name: str) -> AsyncIterator[None]:
        if name in self.open:
            raise CircuitOpen(name, self.open[name])
        yield

    def waiting(self, names: Iterable[str]) -> float:
        """Return the seconds until all of these may let calls pass; 0 when they do."""
        return max((self.open[name] for name in names if name in self.open), default=0.0)
