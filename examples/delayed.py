"""Later: an event that is published after a while, and a handler that waits without holding anything.

    $ penstock run delayed:service
    $ penstock emit order.shipped '{"order_id": "A-1"}' --stream orders

On `facts` then:

    review.asked {"order_id":"A-1","waited":true}
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from penstock import Context, Service, Snooze

service = Service("reminders")


class Order(msgspec.Struct):
    """What order.shipped and review.due hold."""

    order_id: str
    shipped_at: datetime | None = None


@service.on("orders", type="order.shipped")
async def plan(order: Order, ctx: Context) -> None:
    """Publish in half a second; until then it waits in Redis, also through restarts."""
    data = {"order_id": order.order_id, "shipped_at": datetime.now(UTC)}
    ctx.emit("orders", "review.due", data, delay=0.5)


@service.on("orders", type="review.due")
async def ask(order: Order, ctx: Context) -> None:
    """Ask for a review, but not within the first second: a snooze uses up no attempt."""
    assert order.shipped_at is not None
    waited = (datetime.now(UTC) - order.shipped_at).total_seconds()
    if waited < 1:
        raise Snooze(1 - waited)
    ctx.emit("facts", "review.asked", {"order_id": order.order_id, "waited": waited >= 1})
