"""Unit tests of handlers, without Redis: a Harness runs them exactly as a running service does.

```python
async def test_a_ticket_is_triaged() -> None:
    harness = Harness(service, publishes=["events"])

    run = await harness.send("ingest", "ticket.created", {"ticket_id": "T-1", "priority": "high"})

    assert run.result == {"ticket_id": "T-1"}
    assert [event.type for event in run.events] == ["ticket.triaged"]
```

What happens in Redis alone is not here: deliveries, back-off and replays, and state as it is stored.
"""

from penstock.service.outcome import Dead, Done, Retried
from penstock.testing.harness import Harness
from penstock.testing.run import Emitted, Given, Run

__all__ = ["Dead", "Done", "Emitted", "Given", "Harness", "Retried", "Run"]
