"""State that changes exactly once: together with the acknowledgement of the event that changes it.

    $ penstock run state:service
    $ penstock emit item.sold '{"item": "lamp", "quantity": 2}' --stream orders
    $ penstock emit item.sold '{"item": "lamp", "quantity": 1}' --stream orders
    $ redis-cli HGET state:counter:sold lamp
    3

A process that is killed in between changes nothing of it.
"""

from __future__ import annotations

import msgspec

from penstock import Context, Service

service = Service("counter")


class Sale(msgspec.Struct):
    """What item.sold holds."""

    item: str
    quantity: int


@service.on("orders", type="item.sold")
def count(sale: Sale, ctx: Context) -> None:
    """Count what is sold. A plain function: it runs in a thread, and may block."""
    ctx.state.hincrby("sold", sale.item, sale.quantity)
