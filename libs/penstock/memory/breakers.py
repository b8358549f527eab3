"""Circuit breakers in memory: what breaker.lua does, for the services of one process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from penstock.keys import Keys
from penstock.resilience.breaker import BreakerPolicy, Breakers, State
from penstock.schemas import BreakerChanged

Tell = Callable[[str, BreakerChanged], None]
_PARTS = 10  # of a window, in which calls are counted


class SharedBreaker:
    """One breaker, as all services share it. Times are in seconds."""

    def __init__(self, name: str, policy: BreakerPolicy, *, tell: Tell, clock: Callable[[], float]) -> None:
        """`tell` is given each change of its state, and the service that brought it about."""
        self.state: State = "closed"
        self._name = name
        self._policy = policy
        self._tell = tell
        self._clock = clock
        self._until = 0.0
        self._forced = False
        self._epoch = self._streak = self._recovered = 0
        self._failed_at = -math.inf
        self._calls: dict[int, tuple[int, int]] = {}
        """How many calls there were, and how many failed, by part of the window."""
        self._probes: dict[str, float] = {}
        """When each is given up for lost."""

    def look(self, service: str) -> None:
        """Let time pass."""
        if self.state == "open" and not self._forced and self._clock() >= self._until:
            self._become("half_open", service, "the recovery time is over")

    def admits(self, call_id: str) -> bool:
        """Whether a call may pass; while half open it is then a probe."""
        now = self._clock()
        if self.state == "half_open":
            self._probes = {probe: until for probe, until in self._probes.items() if until > now}
            if len(self._probes) + self._recovered < self._policy.half_open_max_calls:
                self._probes[call_id] = now + self._policy.recovery_timeout
                return True
        return self.state == "closed"

    def succeed(self, calls: int) -> None:
        """Count calls that have succeeded."""
        if calls:
            self._streak = 0
            self._count(calls, failures=0)

    def end_probe(self, call_id: str, service: str, *, failure: str | None = None) -> None:
        """Take how a call went, if it was a probe."""
        if self.state != "half_open" or self._probes.pop(call_id, None) is None:
            return
        if failure is not None:
            self._become("open", service, f"a probe failed: {failure}")
            return
        self._recovered += 1
        if self._recovered >= self._policy.half_open_max_calls:
            self._become("closed", service, f"{self._recovered} probes succeeded")

    def fail(self, service: str, why: str) -> None:
        """Count a call that has failed, of those that pass while it is closed."""
        now = self._clock()
        if now - self._failed_at > self._policy.failure_window:
            self._streak = 0
        self._failed_at = now
        self._streak += 1
        self._count(1, failures=1)
        if too_many := self._excess():
            self._become("open", service, f"{too_many}, the last: {why}")

    def force(self, service: str, why: str, *, is_open: bool) -> None:
        """Open it until it is closed by hand, or close it."""
        self._forced = is_open
        state: State = "open" if is_open else "closed"
        if self.state != state:
            self._become(state, service, why)

    @property
    def remaining(self) -> float:
        """Seconds until it may let calls pass again; 0 where that is now."""
        if self.state != "open":
            return 0.0
        return self._policy.recovery_timeout if self._forced else max(0.0, self._until - self._clock())

    def _become(self, state: State, service: str, reason: str) -> None:
        self._epoch += 1
        changed = BreakerChanged(name=self._name, from_=self.state, to=state, reason=reason, epoch=self._epoch)
        self.state = state
        self._until = self._clock() + self._policy.recovery_timeout
        self._recovered = self._streak = 0
        self._probes.clear()
        if state == "closed":
            self._calls.clear()
        self._tell(service, changed)

    def _count(self, calls: int, *, failures: int) -> None:
        part = int(self._clock() / (self._policy.failure_window / _PARTS))
        self._calls = {at: counted for at, counted in self._calls.items() if at > part - _PARTS}
        before = self._calls.get(part, (0, 0))
        self._calls[part] = before[0] + calls, before[1] + failures

    def _excess(self) -> str:
        """Say why so many failures are too many, if they are."""
        policy = self._policy
        if self._streak >= policy.failure_threshold:
            return f"{self._streak} failures in a row"
        calls, failures = map(sum, zip(*self._calls.values(), strict=True))
        if calls >= policy.minimum_calls and failures >= policy.failure_rate * calls:
            return f"{failures} of {calls} calls failed within {policy.failure_window:g} s"
        return ""


class MemoryBreakers(Breakers):
    """The breakers as one service uses them; `shared` has those of the mesh, by name."""

    def __init__(
        self,
        shared: dict[str, SharedBreaker],
        keys: Keys,
        *,
        service: str,
        policies: Callable[[str], BreakerPolicy],
        tell: Tell,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(None, keys, service=service, policies=policies, events=None, clock=clock)
        self._shared = shared
        self._tell = tell

    def waiting(self, names: Iterable[str]) -> float:
        """Return the seconds until all of these breakers may let calls pass again."""
        return max((self._shared[name].remaining for name in names if name in self._shared), default=0.0)

    async def _ask(self, command: str, name: str, call_id: str = "", why: str = "") -> bool:
        local, breaker = self._known(name), self._shared.get(name)
        if breaker is None:
            breaker = self._shared[name] = SharedBreaker(name, self._policies(name), tell=self._tell, clock=self._now)
        breaker.look(self._service)
        successes, local.successes = local.successes, 0
        breaker.succeed(successes + (command == "success"))
        if command == "failure" and breaker.state == "closed":
            breaker.fail(self._service, why)
        elif command in ("success", "failure"):
            breaker.end_probe(call_id, self._service, failure=why if command == "failure" else None)
        elif command in ("open", "close"):
            breaker.force(self._service, why, is_open=command == "open")
        allowed = breaker.admits(call_id) if command == "admit" else breaker.state == "closed"
        local.state = breaker.state
        local.retry_at = self._now() + (0.0 if allowed else breaker.remaining or 1.0)
        return allowed
