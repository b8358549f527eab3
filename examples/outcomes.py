"""How a handler says what becomes of its event: return, an exception, TryAgain, Reject.

    $ penstock run outcomes:service
    $ penstock emit refund.asked '{"order_id": "A-1", "amount": 5}' --stream orders
    $ penstock emit refund.asked '{"order_id": "A-2", "amount": 5000}' --stream orders

On `facts` then:

    refund.paid {"order_id":"A-1","attempt":2}

And among the dead letters:

    $ redis-cli XLEN dlq
    1
"""

from __future__ import annotations

import msgspec

from penstock import Context, Reject, Service, TryAgain

service = Service("refunds")


class Refund(msgspec.Struct):
    """What refund.asked holds."""

    order_id: str
    amount: float


@service.on("orders", type="refund.asked")
async def pay(refund: Refund, ctx: Context) -> None:
    """Pay a refund: at the second attempt, because the bank asks to come back; too large a one never."""
    if refund.amount > 1000:
        raise Reject("more than 1000: somebody has to look at it")  # dead now; `penstock dlq ls` shows it
    if ctx.attempt == 1:
        raise TryAgain("the bank is busy", after=0.2)  # like any exception, but says when
    ctx.emit("facts", "refund.paid", {"order_id": refund.order_id, "attempt": ctx.attempt})
