"""A service of your own: orders come in, invoices go out.

    $ penstock run own_service:service
    $ penstock emit order.placed '{"order_id": "A-1", "total": 30}' --stream orders

On `facts` then:

    invoice.made {"order_id":"A-1","amount":36.0}
"""

from __future__ import annotations

import msgspec

from penstock import Context, Service

service = Service("shop")  # the name of its entry in streams.yaml, and of its consumer group


class Order(msgspec.Struct):
    """What order.placed holds; data that does not fit goes to the dead letters with the field named."""

    order_id: str
    total: float


@service.on("orders", type="order.placed")
async def make_invoice(order: Order, ctx: Context) -> None:
    """Make an invoice: published together with the acknowledgement of the order, or not at all."""
    ctx.emit("facts", "invoice.made", {"order_id": order.order_id, "amount": order.total * 1.2})
