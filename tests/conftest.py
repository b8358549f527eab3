"""Fixtures every test may use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.servers import Server, required_kinds, running_server


@pytest.fixture(scope="session", params=required_kinds())
def _shared_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running_server(request.param) as server:
        yield server


@pytest.fixture
def server(_shared_server: Server) -> Server:
    """A running server that this test run started, empty; each test runs on every kind there is."""
    with _shared_server.client() as client:
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
