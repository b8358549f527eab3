"""Many events in one call: what has gathered while the last batch ran comes as a list.

    $ penstock emit payment.received '{"account": "acme", "amount": 10}' --stream orders
    $ penstock emit payment.received '{"account": "umbrella", "amount": 5}' --stream orders
    $ penstock emit payment.received '{"account": "acme", "amount": 20}' --stream orders
    $ penstock run batch:service

On `facts` then:

    payments.booked {"acme":30,"umbrella":5}
"""

from __future__ import annotations

from collections import Counter

import msgspec

from penstock import BatchContext, Service

service = Service("bookkeeping")


class Payment(msgspec.Struct):
    """What payment.received holds."""

    account: str
    amount: int


@service.on("orders", type="payment.received", batch=500)
async def book(payments: list[Payment], ctx: BatchContext) -> None:
    """Book a batch: its events are settled together. If it fails, each runs alone, and only the bad one is dead."""
    sums: Counter[str] = Counter()
    for payment in payments:
        sums[payment.account] += payment.amount
    ctx.emit(ctx.events[0], "facts", "payments.booked", dict(sums))
