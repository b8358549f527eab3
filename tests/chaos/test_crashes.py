"""The guarantees, tested by breaking things."""

from __future__ import annotations

import asyncio
import functools
import json
import signal
import subprocess
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import redis

from penstock import Penstock
from penstock.topology import parse
from tests.chaos.cutter import cutter
from tests.processes import eventually, service_process
from tests.servers import Server, required_kinds

every_server = pytest.mark.parametrize("own_server", required_kinds(), indirect=True)


SHIPPED = (Path(__file__).parents[2] / "streams.yaml").read_text()


def worker(
    server: Server, *, url: str | None = None, log: Path | None = None, **env: str
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    settings = {"REDIS_URL": url or server.url, "PENSTOCK_JOBS": "tests.chaos.jobs:jobs", **env}
    return service_process("-m", "penstock_services.worker", env=settings, log=log)


def add_jobs(client: Any, count: int, *, start: int = 0, **data: Any) -> None:
    pipeline = client.pipeline(transaction=False)
    for n in range(start, start + count):
        pipeline.xadd("ingest", {"type": "work", "data": json.dumps({"n": n, **data})})
    pipeline.execute()


def completed(client: Any) -> Counter[int]:
    """Return how often each job was completed, by its number."""
    found: Counter[int] = Counter()
    for _, fields in client.xrange("events"):
        if fields[b"type"] == b"job.completed":
            found[json.loads(fields[b"data"])["result"]] += 1
    return found


def some_done(client: Any, count: int = 1) -> None:
    eventually(lambda: client.exists("events") and client.xlen("events") >= count, what="some jobs are done")


def some_completed(client: Any, count: int) -> bool:
    return len(completed(client)) >= count


def ended(process: subprocess.Popen[bytes], client: Any) -> bool:
    return process.poll() is not None or bool(client.exists("dlq"))


def in_hand(client: Any, count: int) -> None:
    def reached() -> bool:
        try:
            return bool(client.xpending("ingest", "worker")["pending"] == count)
        except redis.ResponseError:  # the worker has not made its group yet
            return False

    eventually(reached, what=f"{count} jobs are in flight")


def all_done_once(client: Any, count: int, *, deadline: float = 20.0) -> None:
    eventually(lambda: len(completed(client)) >= count, deadline=deadline, what=f"{count} jobs are done")
    eventually(lambda: unsettled(client) == 0, deadline=deadline, what="nothing is pending")
    assert completed(client) == Counter(range(count))


def unsettled(client: Any) -> int:
    """Return what the worker's group still has to do: pending, parked, or waiting to be read."""
    waiting = client.zcard("ingest:worker:delayed")
    for stream in ("ingest", "ingest:worker:retry"):
        for group in client.xinfo_groups(stream):
            waiting += group["pending"] + (group["lag"] or 0)
    return int(waiting)


@every_server
def test_each_job_completes_exactly_once_when_the_only_worker_is_killed_and_replaced(own_server: Server) -> None:
    client = own_server.client()
    add_jobs(client, 1000)
    with worker(own_server) as first:
        some_done(client, 200)
        first.kill()
        first.wait()
    assert len(completed(client)) < 1000, "the kill came too late to prove anything"
    with worker(own_server):
        all_done_once(client, 1000, deadline=10.0)
    client.close()


@every_server
def test_the_living_take_over_from_a_killed_worker(own_server: Server) -> None:
    client = own_server.client()
    with worker(own_server) as victim, worker(own_server):
        eventually(lambda: client.hlen("beats:worker") == 2, what="both workers are alive")
        add_jobs(client, 1000, seconds=0.02)
        some_done(client, 100)
        victim.kill()
        all_done_once(client, 1000)
        eventually(lambda: len(client.xinfo_consumers("ingest", "worker")) == 1, what="the dead consumer is removed")
    client.close()


@every_server
async def test_a_result_is_awaited_across_the_death_of_its_worker(own_server: Server, tmp_path: Path) -> None:
    notes, until = tmp_path / "notes", tmp_path / "until"
    data = {"n": 7, "notes": str(notes), "until": str(until)}
    async with Penstock.connect(own_server.url, topology=parse(SHIPPED)) as mesh:
        with worker(own_server) as victim:
            job = await mesh.submit("held", data)
            waiting = asyncio.create_task(job.result(60))
            await asyncio.to_thread(eventually, notes.exists, what="its handler has begun")
            victim.kill()
            victim.wait()
        assert not waiting.done()
        until.touch()
        with worker(own_server):
            assert await waiting == 7
    assert [line.split()[:2] for line in notes.read_text().splitlines()] == [["begun", "7"]] * 2


@every_server
def test_a_frozen_worker_that_wakes_up_changes_nothing(own_server: Server, tmp_path: Path) -> None:
    client = own_server.client()
    log = tmp_path / "zombie.log"
    mesh = tmp_path / "streams.yaml"
    mesh.write_text(SHIPPED.replace("    concurrency: 200\n", "    concurrency: 200\n    lease: 4s\n"))
    with worker(own_server, log=log, PENSTOCK_TOPOLOGY=str(mesh)) as zombie:
        add_jobs(client, 50, seconds=0.5)
        in_hand(client, 50)
        zombie.send_signal(signal.SIGSTOP)  # it is silent and still connected: others wait for its lease
        with worker(own_server, PENSTOCK_TOPOLOGY=str(mesh)):
            all_done_once(client, 50)
            zombie.send_signal(signal.SIGCONT)
            # It is over its shock once it does new work again.
            eventually(
                lambda: b"lost: this process was silent" in log.read_bytes() or b"commit refused" in log.read_bytes()
            )
        add_jobs(client, 10, start=50)
        all_done_once(client, 60)
    client.close()


def test_sigterm_lets_running_handlers_finish(own_server: Server) -> None:
    client = own_server.client()
    with worker(own_server) as process:
        add_jobs(client, 100, seconds=0.3)
        in_hand(client, 100)
        process.terminate()
        assert process.wait(20) == 0
    assert completed(client) == Counter(range(100))
    assert unsettled(client) == 0
    assert client.xinfo_consumers("ingest", "worker") == []
    client.close()


def test_what_outlasts_the_grace_time_is_handed_back_at_once(own_server: Server, tmp_path: Path) -> None:
    client = own_server.client()
    log = tmp_path / "log"
    with worker(own_server, log=log, PENSTOCK_DRAIN_TIMEOUT="0.2") as process:
        add_jobs(client, 20, seconds=3.0)
        in_hand(client, 20)
        process.terminate()
        assert process.wait(20) == 0
    assert b"handing back" in log.read_bytes()
    assert client.xlen("ingest:worker:retry") == 20, "everything lies in the retry stream, free to be read"
    assert client.xpending("ingest", "worker")["pending"] == 0
    with worker(own_server):
        all_done_once(client, 20)
    assert all(fields[b"attempt"] == b"1" for _, fields in client.xrange("ingest:worker:retry"))
    client.close()


@every_server
@pytest.mark.parametrize("stop", ["stop", "kill"])
def test_a_restarted_redis_costs_nothing(own_server: Server, stop: str) -> None:
    client = own_server.client()
    add_jobs(client, 1000, seconds=0.02)
    with worker(own_server):
        some_done(client, 100)
        getattr(own_server, stop)()
        own_server.start()
        all_done_once(client, 1000)
    client.close()


def test_after_flushall_the_groups_come_back_and_the_loss_is_told(own_server: Server, tmp_path: Path) -> None:
    client = own_server.client()
    log = tmp_path / "log"
    with worker(own_server, log=log):
        add_jobs(client, 50, seconds=0.5)
        in_hand(client, 50)
        client.flushall()
        add_jobs(client, 10, start=100)
        eventually(lambda: client.exists("events") and completed(client) == Counter(range(100, 110)))
        eventually(lambda: unsettled(client) == 0)
        said = log.read_text
        eventually(
            lambda: "commit refused" in said() or "lost: this process was silent" in said(), what="the loss is told"
        )
        assert "consumer groups were gone" in said()
    client.close()


def test_a_poison_event_ends_in_the_dead_letters_and_takes_no_innocent_with_it(own_server: Server) -> None:
    client = own_server.client()
    add_jobs(client, 30, seconds=0.05)
    client.xadd("ingest", {"type": "poison"})
    add_jobs(client, 30, start=30, seconds=0.05)
    deaths = 0
    while not client.exists("dlq"):
        with worker(own_server) as process:
            eventually(functools.partial(ended, process, client))
            if process.poll() is None:
                all_done_once(client, 60)
            else:
                deaths += 1
    assert deaths == 3
    [(_, letter)] = client.xrange("dlq")
    assert letter[b"type"] == b"poison"
    assert letter[b"dlq.reason"] == b"crashed"
    assert b"died 3 times" in letter[b"dlq.error"]
    reports = [json.loads(fields[b"data"]) for _, fields in client.xrange("events") if fields[b"type"] == b"job.dead"]
    assert [(one["job_type"], one["reason"]) for one in reports] == [("poison", "crashed")]
    (record,) = client.hvals(f"job:ingest-{letter[b'dlq.entry'].decode()}")
    assert b'"state":"dead"' in record
    client.close()


def test_steps_of_one_name_go_on_where_a_killed_process_left_off(own_server: Server) -> None:
    client = own_server.client()
    with worker(own_server) as first:
        client.xadd("ingest", {"type": "charges", "data": json.dumps({"amounts": [5, 7, 5, 7]})})
        assert first.wait(20) == -signal.SIGKILL
    assert client.lrange("charged", 0, -1) == [b"5", b"7"]
    with worker(own_server):
        some_done(client)
        eventually(lambda: unsettled(client) == 0, what="it is settled")
    [(_, fields)] = client.xrange("events")
    assert json.loads(fields[b"data"])["result"] == [5, 7, 5, 7]
    assert client.lrange("charged", 0, -1) == [b"5", b"7", b"5", b"7"]
    client.close()


@every_server
def test_lost_replies_neither_lose_nor_repeat_anything(own_server: Server) -> None:
    client = own_server.client()
    with cutter(own_server) as wire, worker(own_server, url=wire.url):
        for n in range(0, 500, 50):
            # By turns: the reply to a read, which strands entries, and the reply to a commit.
            wire.cut_reply_to(b"XREADGROUP" if n % 100 else b"EVALSHA")
            add_jobs(client, 50, start=n)
            eventually(functools.partial(some_completed, client, n + 50))
        assert wire.cuts >= 5
        all_done_once(client, 500)
    client.close()
