"""What is not imported until it is needed: redis, logs, telemetry and HTTP cost most of a start."""

from __future__ import annotations

import subprocess
import sys

import pytest

import penstock
from penstock.cli.main import COMMANDS, load

HEAVY = {"aiohttp", "jinja2", "opentelemetry", "pydantic", "redis", "rich", "structlog", "typer", "uvloop", "yaml"}
HELP = """
import contextlib, io, sys
from penstock.cli.main import app
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said:
    app(["--help"])
assert "topology" in said.getvalue()
"""


@pytest.mark.parametrize(
    ("code", "needed"),
    [
        ("import penstock", set()),
        ("from penstock import Reject, Retry, Snooze", set()),
        ("from penstock import Context, Service", {"rich", "structlog", "yaml"}),
        ("import penstock.asgi", {"opentelemetry", "redis", "rich", "structlog", "yaml"}),
        (HELP, {"rich", "typer"}),
        ("import penstock.testing.plugin; assert 'msgspec' not in __import__('sys').modules", set()),
    ],
    ids=["import penstock", "outcomes and retries", "a service", "over ASGI", "penstock --help", "the pytest plugin"],
)
def test_nothing_heavy_is_imported(code: str, needed: set[str]) -> None:
    printing = f"{code}\nimport sys\nprint(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", printing], capture_output=True, text=True, check=True).stdout
    assert HEAVY & set(said.split()) == needed


def test_every_name_at_the_front_door_is_there() -> None:
    for name in penstock.__all__:
        assert getattr(penstock, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'Servise'"):
        _ = penstock.Servise  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_about_a_command_is_the_first_of_its_own_help(name: str) -> None:
    first, _, _ = (load(name).help or "").partition("\n\n")
    assert " ".join(first.split()) == COMMANDS[name].summary
