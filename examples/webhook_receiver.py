"""Webhooks from outside: the gateway checks the signature and makes an event, which is handled like any other.

    $ penstock run webhook_receiver:service

The gateway runs with PENSTOCK_DEMO_WEBHOOK=true, which lets the secret of streams.yaml do, or with CARRIER_SECRET.
`POST /webhooks/carrier` with `{"status": "delivered", "parcel": "P-1"}` becomes `parcel.delivered` (`webhooks` in
streams.yaml). On `facts` then:

    order.completed {"parcel":"P-1"}
"""

from __future__ import annotations

import msgspec

from penstock import Context, Service

service = Service("parcels")


class Parcel(msgspec.Struct):
    """What the carrier sends; what else it sends is ignored."""

    parcel: str


@service.on("orders", type="parcel.delivered")
async def complete(parcel: Parcel, ctx: Context) -> None:
    """Complete an order. A webhook that the carrier sends twice arrives once: the gateway knows its id."""
    ctx.emit("facts", "order.completed", {"parcel": parcel.parcel})
