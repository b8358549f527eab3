"""docs/writing-a-service.md: its code runs, and it leaves out nothing that a handler may use."""

from __future__ import annotations

import re
from typing import Any

import pytest

from penstock import BatchContext, Context, Event
from penstock.service.effects import State
from penstock.testing import Mesh
from penstock.topology import parse
from tests.processes import ROOT

PAGE = (ROOT / "docs/writing-a-service.md").read_text()
# What the library's own parts use of a context.
INTERNAL = {"scope", "effects", "says_progress", "settle_steps", "failed", "trace_of"}


@pytest.fixture(scope="module")
def code() -> dict[str, Any]:
    """The names that the page's code defines, in one module."""
    names: dict[str, Any] = {"__name__": "shop"}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/writing-a-service.md", "exec"), names)
    return names


def test_its_code_makes_a_service(code: dict[str, Any]) -> None:
    assert len(code["service"].handlers.on("orders")) == 5
    (yaml,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert parse(yaml).service("shop").run == "shop:service"


async def test_its_test_passes(code: dict[str, Any]) -> None:
    await code["test_an_order_leads_to_an_invoice"](Mesh(None))


@pytest.mark.parametrize("kind", [Context, BatchContext, State])
def test_it_names_everything_a_handler_may_use(kind: type) -> None:
    public = {name for name in vars(kind) if not name.startswith("_")} - INTERNAL
    missing = {name for name in public if not re.search(rf"`[\w. ]*\b{name}\b", PAGE)}
    assert missing == set()


def test_it_names_nothing_of_an_event_that_is_not_there() -> None:
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| `ctx.event`")]
    for name in re.findall(r"`(\w+)(?:\(\))?`", row):
        assert hasattr(Event, name), name


def test_every_attribute_of_the_context_in_it_is_there() -> None:
    assigned = {"attempt", "event", "notes", "queued", "started_at", "stream"}  # in __init__
    for name in set(re.findall(r"\bctx\.(\w+)", PAGE)):
        assert hasattr(Context, name) or name in assigned or hasattr(BatchContext, name) or name == "events", name
