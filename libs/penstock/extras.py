"""What is installed only if asked for: the extras of the package."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Import inside what the extra `name` brings.

    Raises:
        ImportError: it is not there, with how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != name:
            raise
        raise ImportError(f"penstock.{name} needs {name}: pip install 'penstock[{name}]'", name=name) from error
