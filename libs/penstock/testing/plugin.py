"""The pytest plugin: the fixture `mesh`, and `--penstock-redis`. Nothing is imported for who does not use it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from penstock.service.app import Service
    from penstock.testing.harness import Harness
    from penstock.testing.server import Server
    from penstock.topology import Topology


class Mesh:
    """Makes harnesses for services: in memory, or on a server that the test has to itself."""

    def __init__(self, url: str | None) -> None:
        self.url = url
        """Where that server is; None without `--penstock-redis`."""

    def __call__(
        self, service: Service, topology: Topology | None = None, *, publishes: Collection[str] | None = None
    ) -> Harness:
        """Return a harness of `service`; what the arguments mean is said there.

        Raises:
            ConfigurationError: the service and its declaration do not fit together.
        """
        if self.url is None:
            from penstock.testing.harness import Harness  # noqa: PLC0415 - see above

            return Harness(service, topology, publishes=publishes)
        from penstock.testing.live import LiveHarness  # noqa: PLC0415

        return LiveHarness(self.url, service, topology, publishes=publishes)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--penstock-redis`."""
    parser.getgroup("penstock").addoption(
        "--penstock-redis",
        action="store_true",
        help="run what the fixture `mesh` makes on a Redis server that is started for it, rather than in memory",
    )


@pytest.fixture(scope="session")
def _penstock_server(request: pytest.FixtureRequest) -> Iterator[Server | None]:
    if not request.config.getoption("--penstock-redis"):
        yield None
        return
    from penstock.testing.server import running_server  # noqa: PLC0415

    with running_server() as server:
        yield server


@pytest.fixture
def mesh(_penstock_server: Server | None) -> Mesh:
    """Make a harness for a service: `mesh(service)`, with its declaration in ./streams.yaml.

    With `--penstock-redis` the same calls run on a server that is started for the tests; each test finds it empty.
    """
    if _penstock_server is None:
        return Mesh(None)
    _penstock_server.clear()
    return Mesh(_penstock_server.url)
