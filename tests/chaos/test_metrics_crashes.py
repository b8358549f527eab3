"""Processes of the metrics service die, freeze and lose their server: no count changes, no window repeats."""

from __future__ import annotations

import random
import signal
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from tests.metrics import EPOCH_MS, Model, published, service, settled, until_closed
from tests.processes import eventually
from tests.servers import Server, required_kinds

every_server = pytest.mark.parametrize("own_server", required_kinds(), indirect=True)
KINDS = ("job.completed",) * 8 + ("job.failed", "ticket.triaged")


def model_of(raw: Any, count: int, *, seconds: int, seed: int) -> Model:
    chance = random.Random(seed)
    model = Model(raw)
    for number in range(count):
        model.add(
            EPOCH_MS + number * seconds * 1000 // count,
            chance.choice(KINDS),
            tenant=chance.choice((None, "acme")),
            duration=round(chance.lognormvariate(-4, 2), 6),
        )
    model.publish()
    return model


def lag(raw: Any) -> int:
    groups = raw.xinfo_groups("events")
    return int(groups[0]["lag"]) if groups else raw.xlen("events")


def at_most(raw: Any, left: int) -> None:
    eventually(lambda: lag(raw) <= left, what=f"{left} events are left")


def windows_closed(raw: Any, count: int) -> None:
    eventually(lambda: len(published(raw, 10)) >= count, what=f"{count} windows are closed")


def caught_closing(raw: Any) -> bool:
    """Hold up all writes; let go again if that caught the closers at something else than closing."""
    raw.client_pause(60_000, all=False)
    with suppress(AssertionError):
        eventually(lambda: in_transaction(raw), deadline=0.2)
        return True
    raw.client_unpause()
    return False


def all_closed(raw: Any) -> bool:
    return bool(settled(raw)) and raw.zcard("state:metrics:open") + raw.zcard("state:metrics:minutes") == 0


def in_transaction(raw: Any) -> bool:
    return any("x" in client["flags"] for client in raw.client_list())


def test_sigkill_in_the_middle_changes_no_count(server: Server, raw: Any) -> None:
    model = model_of(raw, 40_000, seconds=300, seed=1)
    with ExitStack() as stack:
        replicas = [stack.enter_context(service(server)) for _ in range(2)]
        for left in (35_000, 25_000, 15_000):
            at_most(raw, left)
            replicas.pop(0).kill()
            replicas.append(stack.enter_context(service(server)))
        assert not settled(raw)
        until_closed(raw)
    model.check(10)
    model.check(60)


def test_a_frozen_replica_that_wakes_up_counts_nothing_twice(server: Server, raw: Any) -> None:
    model = model_of(raw, 30_000, seconds=120, seed=2)
    with service(server) as frozen:
        at_most(raw, 25_000)
        frozen.send_signal(signal.SIGSTOP)
        assert not settled(raw)
        with service(server):
            eventually(lambda: settled(raw), deadline=60, what="the other one has taken everything over")
            frozen.send_signal(signal.SIGCONT)
            until_closed(raw)
    model.check(10)
    model.check(60)


@every_server
def test_each_window_closes_once_although_closers_are_killed_while_they_close(own_server: Server) -> None:
    """Writes are held up, so that whoever closes is stuck in the middle of its transaction; then it is killed."""
    with own_server.client() as raw:
        model = model_of(raw, 6_000, seconds=6_000, seed=3)
        with ExitStack() as stack:
            replicas = [stack.enter_context(service(own_server)) for _ in range(2)]
            stuck = 0
            for count in (50, 120, 190):
                windows_closed(raw, count)
                eventually(lambda: caught_closing(raw) or all_closed(raw), what="a window is being closed")
                stuck += in_transaction(raw)
                for process in replicas:
                    process.kill()
                    process.wait()
                raw.client_unpause()
                replicas = [stack.enter_context(service(own_server)) for _ in range(2)]
            until_closed(raw)
        assert stuck, "every window was closed before anybody could be killed over it"
        model.check(10)
        model.check(60)


@every_server
def test_a_restart_of_redis_changes_no_count(own_server: Server) -> None:
    with own_server.client() as raw:
        model = model_of(raw, 30_000, seconds=300, seed=4)
    with service(own_server), service(own_server):
        with own_server.client() as raw:
            at_most(raw, 25_000)
        own_server.restart()
        with own_server.client() as raw:
            assert not settled(raw)
            until_closed(raw)
            model.look_with(raw)
            model.check(10)
            model.check(60)
