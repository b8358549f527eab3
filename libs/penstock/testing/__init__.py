"""Unit tests of handlers, without Redis: a Harness runs them exactly as a running service does.

```python
async def test_a_ticket_is_triaged() -> None:
    harness = Harness(service, publishes=["events"])

    run = await harness.send("ingest", "ticket.created", {"ticket_id": "T-1", "priority": "high"})

    assert run.result == {"ticket_id": "T-1"}
    assert [event.type for event in run.events] == ["ticket.triaged"]
```

What happens in Redis alone is not here: deliveries, back-off and replays, and state as it is stored; most of it is in
a mesh in memory (docs/client.md), for an application and its services together. The fixture
`mesh` makes harnesses; with `pytest --penstock-redis` theirs run on a real server. The names here are imported when
they are first asked for: pytest loads the plugin for everybody.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.service.outcome import Dead, Done, Retried
    from penstock.testing.harness import Harness
    from penstock.testing.plugin import Mesh
    from penstock.testing.run import Emitted, Given, Run

__all__ = ["Dead", "Done", "Emitted", "Given", "Harness", "Mesh", "Retried", "Run"]

_HOMES = {"Harness": "testing.harness", "Mesh": "testing.plugin"}
_HOMES |= dict.fromkeys(("Dead", "Done", "Retried"), "service.outcome")
_HOMES |= dict.fromkeys(("Emitted", "Given", "Run"), "testing.run")


if not TYPE_CHECKING:  # for a type checker it would make every name one of ours

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"penstock.{_HOMES[name]}"), name)
