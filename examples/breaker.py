"""A dependency that is down: its circuit breaker opens, and work waits without using up attempts.

    $ penstock run breaker:service
    $ penstock emit order.packed '{"order_id": "A-1"}' --stream orders

On `facts` then:

    stock.reserved {"order_id":"A-1","attempt":3}
"""

from __future__ import annotations

import itertools

import msgspec

from penstock import Context, Service

service = Service("stock")
_calls = itertools.count(1)


class Order(msgspec.Struct):
    """What order.packed holds."""

    order_id: str


@service.on("orders", type="order.packed", needs=["warehouse"])
async def reserve(order: Order, ctx: Context) -> None:
    """Reserve stock; while the breaker is open nothing that `needs` it is handed to this function."""
    async with ctx.breaker("warehouse", failures=ConnectionError):
        await call_warehouse(order.order_id)
    ctx.emit("facts", "stock.reserved", {"order_id": order.order_id, "attempt": ctx.attempt})


async def call_warehouse(_: str) -> None:
    """Stand for a warehouse that is down at first: two failures open the breaker (streams.yaml)."""
    if next(_calls) <= 2:
        raise ConnectionError("the warehouse does not answer")
