"""Errors as a person at a terminal sees them: a sentence and an exit code, never a traceback."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from penstock.errors import PenstockError, Unavailable
from penstock.redis.connection import unavailable

USAGE, UNAVAILABLE = 2, 3


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Print a known error to stderr and exit: 3 if Redis is away, 2 for everything the user can mend."""
    try:
        yield
    except Unavailable as error:
        _fail(str(error), UNAVAILABLE)
    except PenstockError as error:
        _fail(str(error), USAGE)
    except Exception as error:
        away = unavailable(error)
        if away is None:
            raise
        _fail(str(away), UNAVAILABLE)


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"penstock: {message}\n")
    raise SystemExit(code)
