"""The front door of a program: how it starts, and what it shows when it cannot go on."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

from penstock.errors import PenstockError, RestartNeeded, Unavailable
from penstock.redis.connection import unavailable

if TYPE_CHECKING:
    from penstock.service.app import Service
    from penstock.settings import Settings
    from penstock.topology import Topology

NEGATIVE, USAGE, UNAVAILABLE, RESTART, INTERRUPTED = 1, 2, 3, 4, 130


class Negative(PenstockError):
    """The command worked, and its answer is no."""


def main(build: Callable[[Settings, Topology], Service]) -> None:
    """Run the service that `build` makes of the environment and streams.yaml, until SIGTERM or SIGINT.

    What is wrong with them ends it with a sentence and an exit code, as `report_errors` says.
    """
    from penstock.service.lifecycle import run  # noqa: PLC0415 - commands need the errors only, and start sooner
    from penstock.settings import Settings  # noqa: PLC0415
    from penstock.topology import load  # noqa: PLC0415

    with report_errors():
        settings = Settings.from_env()
        topology = load(settings.topology, include=settings.included)
        run(build(settings, topology), settings, topology)


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Print a known error to stderr, never a traceback, and exit.

    With 1 for a no, 3 if Redis is away, 4 if only a new process can go on, 2 for all that the user can mend.
    Ctrl-C before anything else handles it exits with 130, as shells have it.
    """
    try:
        yield
    except Negative as error:
        _fail(str(error), NEGATIVE)
    except Unavailable as error:
        _fail(str(error), UNAVAILABLE)
    except RestartNeeded as error:
        _fail(str(error), RESTART)
    except PenstockError as error:
        _fail(str(error), USAGE)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        from redis.exceptions import ResponseError  # noqa: PLC0415 - see penstock.redis.connection

        away = unavailable(error)
        if away is not None:
            _fail(str(away), UNAVAILABLE)
        if isinstance(error, ResponseError):
            _fail(f"Redis refuses: {error}", USAGE)
        raise


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"penstock: {message}\n")
    raise SystemExit(code)
