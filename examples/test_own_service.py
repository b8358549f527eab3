"""Unit tests of a service, without Redis: `pytest test_own_service.py`."""

from __future__ import annotations

import own_service
from penstock.testing import Dead, Harness


async def test_an_order_leads_to_an_invoice() -> None:
    harness = Harness(own_service.service, publishes=["facts"])

    run = await harness.send("orders", "order.placed", {"order_id": "A-1", "total": 30})

    assert run.done
    assert [(event.stream, event.type) for event in run.events] == [("facts", "invoice.made")]
    assert run.events[0].data["order_id"] == "A-1"


async def test_an_order_without_a_total_is_dead() -> None:
    harness = Harness(own_service.service, publishes=["facts"])

    run = await harness.send("orders", "order.placed", {"order_id": "A-1"})

    assert isinstance(run.outcome, Dead)
    assert run.outcome.reason == "invalid"
    assert "total" in run.outcome.error
