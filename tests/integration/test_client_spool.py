"""Clients with a spool: jobs are handed over while Redis is away, and done when it is back."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest

from penstock import Penstock, Unavailable, sync
from penstock.settings import Settings
from penstock.topology import parse
from tests.hands import fields_of
from tests.integration.test_client import MESH, shop
from tests.mesh import DEADLINE, running
from tests.servers import Server
from tests.spools import segment_files


def settings(server: Server, folder: Path) -> Settings:
    return Settings(redis_url=server.url, spool_dir=str(folder), spool_min_free=0)


async def test_a_job_submitted_while_redis_is_away_is_done_when_it_is_back(own_server: Server, tmp_path: Path) -> None:
    async with (
        running(shop(), MESH, own_server),
        Penstock.connect(settings=settings(own_server, tmp_path), topology=parse(MESH), source="web") as mesh,
    ):
        before = await mesh.submit("order.placed", {"price": 1})
        own_server.stop()
        job = await mesh.submit("order.placed", {"price": 2}, idempotency_key="cart-1")
        again = await mesh.submit("order.placed", {"price": 2}, idempotency_key="cart-1")
        own_server.start()
        results = [await one.result(DEADLINE) for one in (before, job, again)]

    assert (before.spooled, job.spooled) == (False, True)
    assert (before.durability, job.durability) == ("memory", "spooled")
    assert job.id == again.id
    assert results == [{"paid": 1}, {"paid": 2}, {"paid": 2}]
    with own_server.client() as raw:
        assert [fields["data"] for fields in fields_of(raw, "orders")] == ['{"price":1}', '{"price":2}']


async def test_a_client_opens_without_redis_if_it_has_a_spool_and_a_topology(
    own_server: Server, tmp_path: Path
) -> None:
    given = settings(own_server, tmp_path)
    async with Penstock.connect(settings=given, topology=parse(MESH), source="web") as mesh:
        known = await mesh.submit("order.placed", {"price": 1}, idempotency_key="cart-1")
    own_server.stop()
    async with Penstock.connect(settings=given, topology=parse(MESH), source="web") as mesh:
        same = await mesh.submit("order.placed", {"price": 1}, idempotency_key="cart-1")
        other = await mesh.submit("order.placed", {"price": 2})
    assert (same.id, same.spooled, other.spooled) == (known.id, True, True)
    own_server.start()
    async with Penstock.connect(settings=given, topology=parse(MESH), source="web") as mesh:
        await mesh.publish("news", "t")
    with own_server.client() as raw:
        assert [fields["data"] for fields in fields_of(raw, "orders")] == ['{"price":1}', '{"price":2}']
    assert segment_files(tmp_path) == []


async def test_without_a_spool_nothing_of_it_is_kept(own_server: Server, tmp_path: Path) -> None:
    given = msgspec.structs.replace(settings(own_server, tmp_path), spool_dir=None)
    async with Penstock.connect(settings=given, topology=parse(MESH), source="web") as mesh:
        own_server.stop()
        with pytest.raises(Unavailable, match="cannot connect"):
            await mesh.submit("order.placed", {"price": 1})
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240 - nothing else runs here


def test_threads_have_it_too(own_server: Server, tmp_path: Path) -> None:
    given = settings(own_server, tmp_path)
    with sync.Penstock.connect(settings=given, topology=parse(MESH), source="web") as mesh:
        own_server.stop()
        assert mesh.submit("order.placed", {"price": 1}).spooled
    own_server.start()
    with sync.Penstock.connect(settings=given, topology=parse(MESH), source="web") as mesh:
        assert not mesh.submit("order.placed", {"price": 2}).duplicate
    with own_server.client() as raw:
        assert [fields["data"] for fields in fields_of(raw, "orders")] == ['{"price":1}', '{"price":2}']


FORKING = """
import os, sys
from penstock.sync import Penstock
from penstock.settings import Settings
from penstock.topology import parse

mesh = Penstock.connect(topology=parse(sys.argv[1]), source="web")
mesh.submit("order.placed", {"price": 1})
if (child := os.fork()) == 0:
    assert mesh.submit("order.placed", {"price": 2}).spooled
    mesh.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
mesh.submit("order.placed", {"price": 3})
"""


def test_a_forked_child_spools_on_its_own_and_all_is_published_by_whoever_comes_next(
    own_server: Server, tmp_path: Path
) -> None:
    own_server.stop()
    env = {
        **os.environ,
        "REDIS_URL": own_server.url,
        "PENSTOCK_SPOOL_DIR": str(tmp_path),
        "PENSTOCK_SPOOL_MIN_FREE": "0",
    }
    subprocess.run([sys.executable, "-c", textwrap.dedent(FORKING), MESH], env=env, check=True, timeout=60)
    own_server.start()
    given = settings(own_server, tmp_path)
    with sync.Penstock.connect(settings=given, topology=parse(MESH), source="web") as mesh:
        mesh.submit("order.placed", {"price": 4})
    with own_server.client() as raw:
        prices = [fields["data"] for fields in fields_of(raw, "orders")]
    assert sorted(prices[:3]) == ['{"price":1}', '{"price":2}', '{"price":3}']
    assert prices[3:] == ['{"price":4}']
