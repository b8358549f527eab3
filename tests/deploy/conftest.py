"""The engine and the running stack."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.deploy.engine import Engine, NoEngine, running_engine
from tests.deploy.stack import Stack, running_stack

IN_CI = bool(os.environ.get("CI"))
_FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A Docker engine; in CI a missing one is a failure, elsewhere these tests are asked for."""
    if not IN_CI and os.environ.get("PENSTOCK_DOCKER_TESTS") != "1":
        pytest.skip("builds images and starts containers: set PENSTOCK_DOCKER_TESTS=1 to have it")
    try:
        with running_engine() as running:
            yield running
    except NoEngine as missing:
        if IN_CI:
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def stack(engine: Engine, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The stack of compose.yaml with two workers, built, started and healthy."""
    failed = request.session.testsfailed
    with running_stack(engine, tmp_path_factory.mktemp("stack")) as running:
        yield running
        if request.session.testsfailed > failed:
            sys.stdout.write(running.logs())


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Note a figure, to be shown at the end of the run; nothing depends on it."""
    return request.config.stash.setdefault(_FIGURES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for figure in config.stash.get(_FIGURES, []):
        terminalreporter.write_line(figure)
