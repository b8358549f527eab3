"""Handlers that move from a service of their own into the shipped worker: nothing is lost or done twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.hands import fields_of
from tests.mesh import settled
from tests.processes import eventually, service_process
from tests.servers import Server

OWN = """
from pathlib import Path

from penstock import Context, Service

jobs = Service("shop")


@jobs.on("orders", type="order.placed")
async def place(number: int, ctx: Context) -> None:
    await ctx.step("charge", charge, number)
    if number == 2:
        await ctx.redis.xread({"gate": "0"}, block=0)
    ctx.emit("facts", "order.done", number)


async def charge(number: int) -> None:
    with Path("charged").open("a") as file:
        file.write(f"{number}\\n")
"""
STREAMS = "streams: {ingest: {}, orders: {kind: work}, events: {}, facts: {}, dlq: {}}\n"
BEFORE = """
services:
  shop: {consumes: {orders: {}}, publishes: [events, facts]}
  worker: {consumes: {ingest: {}}, publishes: [events]}
"""
AFTER = """
services:
  worker: {formerly: shop, consumes: {ingest: {}, orders: {}}, publishes: [events, facts]}
"""


def test_the_worker_takes_over_what_the_service_had_in_flight_and_goes_on_where_it_stood(
    server: Server, raw: Any, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    mesh = tmp_path / "streams.yaml"
    mesh.write_text(STREAMS + BEFORE)
    env = {"REDIS_URL": server.url, "PENSTOCK_TOPOLOGY": str(mesh)}
    charged = tmp_path / "charged"
    charged.touch()

    def place(*numbers: int) -> None:
        for number in numbers:
            raw.xadd("orders", {"type": "order.placed", "data": number})

    def done() -> list[Any]:
        return [json.loads(fields["data"]) for fields in fields_of(raw, "facts")]

    with (
        service_process("-m", "penstock_services.worker", cwd=tmp_path, env=env),
        service_process("-m", "penstock", "run", "own:jobs", cwd=tmp_path, env=env) as shop,
    ):
        eventually(lambda: raw.exists("beats:worker", "beats:shop") == 2, what="both are alive")
        place(1, 2)
        eventually(lambda: (done(), sorted(charged.read_text().split())) == ([1], ["1", "2"]), what="2 is in flight")
        shop.kill()
        shop.wait()
    place(3)
    raw.xadd("gate", {"open": "yes"})
    mesh.write_text(STREAMS + AFTER)
    with service_process("-m", "penstock_services.worker", cwd=tmp_path, env=env | {"PENSTOCK_JOBS": "own:jobs"}):
        eventually(lambda: sorted(done()) == [1, 2, 3], what="all are done")
        eventually(lambda: settled(raw, "orders", "worker"), what="all are settled")

    assert sorted(charged.read_text().split()) == ["1", "2", "3"], "what was done before is not done again"
    assert [group["name"] for group in raw.xinfo_groups("orders")] == [b"worker"]
    completed = [event for event in fields_of(raw, "events") if event["type"] == "job.completed"]
    assert [event["source"] for event in completed] == ["shop", "worker", "worker"]
    assert not raw.exists("dlq", "orders:shop:retry", "orders:shop:delayed")
