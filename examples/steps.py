"""An effect outside the mesh that must not happen twice: a step, whose result survives crashes and retries.

    $ penstock run steps:service
    $ penstock emit order.paid '{"order_id": "A-1", "total": 30}' --stream orders

On `facts` then:

    order.confirmed {"order_id":"A-1","receipt":"receipt 1","attempt":2}
"""

from __future__ import annotations

import itertools

import msgspec

from penstock import Context, Service

service = Service("payments")
_receipts = itertools.count(1)


class Order(msgspec.Struct):
    """What order.paid holds."""

    order_id: str
    total: float


@service.on("orders", type="order.paid")
async def confirm(order: Order, ctx: Context) -> None:
    """Charge once, however often what comes after it fails."""
    receipt = await ctx.step("charge", charge, order.total, key=ctx.idempotency_key("charge"))
    if ctx.attempt == 1:
        raise ConnectionError("the shop did not answer")  # tried again, without another charge
    ctx.emit("facts", "order.confirmed", {"order_id": order.order_id, "receipt": receipt, "attempt": ctx.attempt})


async def charge(total: float, *, key: str) -> str:
    """Stand for a payment provider, which would know a repetition by its key."""
    return f"receipt {next(_receipts)}"
