"""Fixtures every test may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Server, required_kinds, running_server

# What these test lies above the library's scripts, which are tested on every kind of server themselves:
# HTTP, the command line, channels, rules, pages. One kind serves, unless --every-server asks for all.
ABOVE_THE_SERVER = (
    "test_gateway_",
    "test_notifier_",
    "test_cli_",
    "test_alerts_",
    "test_asgi",
    "test_fastapi",  # and the shop that is an example
    "test_flask",
    "test_django",
    "test_frameworks_page",
    "test_dlq_operations",
    "test_metrics_http",
    "test_web_requests",
    "test_otlp_",
    "test_traces",
    "test_examples",
    "test_readme",
    "test_testing_",
    "test_wheel",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-server", action="store_true", help="run every test on every kind of Redis there is")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--every-server"):
        return
    first = required_kinds()[0]
    spared = [item for item in items if _kind(item) not in (None, first) and _is_above(item.path)]
    config.hook.pytest_deselected(items=spared)
    dropped = set(spared)
    items[:] = [item for item in items if item not in dropped]


def _kind(item: pytest.Item) -> str | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("_shared_server") if callspec else None


def _is_above(path: Path) -> bool:
    return path.name.startswith(ABOVE_THE_SERVER) and "chaos" not in path.parts


@pytest.fixture(scope="session", params=required_kinds())
def _shared_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running_server(request.param) as server:
        yield server


@pytest.fixture
def server(_shared_server: Server) -> Server:
    """A running server that this test run started, empty; each test runs on every kind there is."""
    with _shared_server.client() as client:
        client.client_kill_filter(_type="normal", skipme=True)  # a process that was killed may have left a last word
        client.flushall()
    return _shared_server


@pytest.fixture
def raw(server: Server) -> Iterator[Any]:
    """A plain client to look at `server` as an operator would."""
    with server.client() as client:
        yield client


@pytest.fixture
def own_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server for one test alone, which may kill, freeze or flush it."""
    kind = getattr(request, "param", required_kinds()[0])
    with running_server(kind) as server:
        yield server
