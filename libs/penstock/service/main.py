"""What a program shows when it cannot go on: a sentence and an exit code, never a traceback."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn

from penstock.errors import PenstockError, Unavailable
from penstock.redis.connection import ResponseError, unavailable

NEGATIVE, USAGE, UNAVAILABLE, INTERRUPTED = 1, 2, 3, 130


class Negative(PenstockError):
    """The command worked, and its answer is no."""


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Print a known error to stderr and exit: 1 for a no, 3 if Redis is away, 2 for all that the user can mend.

    Ctrl-C before anything else handles it exits with 130, as shells have it.
    """
    try:
        yield
    except Negative as error:
        _fail(str(error), NEGATIVE)
    except Unavailable as error:
        _fail(str(error), UNAVAILABLE)
    except PenstockError as error:
        _fail(str(error), USAGE)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        away = unavailable(error)
        if away is not None:
            _fail(str(away), UNAVAILABLE)
        if isinstance(error, ResponseError):
            _fail(f"Redis refuses: {error}", USAGE)
        raise


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"penstock: {message}\n")
    raise SystemExit(code)
