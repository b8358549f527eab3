"""The service behind the shop: it charges orders, in processes of its own (`penstock run shop:service`)."""

from __future__ import annotations

import msgspec

from penstock import Context, Reject, Service

service = Service("shop")  # the name of its entry in streams.yaml, and of its consumer group


class Order(msgspec.Struct):
    """What order.placed holds; data that does not fit goes to the dead letters with the field named."""

    order_id: str
    total: float


class Receipt(msgspec.Struct):
    """What the bank says; it becomes the job's result."""

    order_id: str
    charged: float


@service.on("orders", type="order.placed")
async def charge(order: Order, ctx: Context) -> Receipt:
    """Charge an order: once, also if this process dies in the middle."""
    if order.total <= 0:
        raise Reject("there is nothing to pay")
    charged = await ctx.step("pay", pay, order, ctx.idempotency_key("pay"))
    return Receipt(order.order_id, charged)


async def pay(order: Order, key: str) -> float:
    """Pay; in real life a call to the bank, which knows a repetition by the key."""
    return order.total
