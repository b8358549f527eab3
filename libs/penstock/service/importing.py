"""Finding services by name: `module:attribute`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback

from penstock.errors import ConfigurationError, PenstockError
from penstock.service.app import Service


def load_service(target: str, *, variable: str = "") -> Service:
    """Import `module:attribute` and return the Service found there; `variable` says who asked.

    Raises:
        ConfigurationError: it cannot be imported, or is no Service.
    """
    asked = f"{variable}: " if variable else ""
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(f"{asked}{target!r} is not of the form module:service")
    _look_here_too()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{asked}{target}: there is no module {error.name}") from None
    except PenstockError:
        raise
    except Exception as error:
        raise ConfigurationError(f"{asked}{target} cannot be imported: {_describe(error)}") from error
    found = getattr(module, attribute, None)
    if not isinstance(found, Service):
        raise ConfigurationError(f"{asked}{target}: {module_name} has no Service called {attribute}")
    return found


def _describe(error: Exception) -> str:
    """Say what is wrong with a module, and where: not where Python noticed it."""
    if isinstance(error, SyntaxError):
        text = f": {error.text.strip()}" if error.text else ""
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}{text}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    place = f"{own[-1].filename}, line {own[-1].lineno}: " if own else ""
    return f"{place}{type(error).__name__}: {error}"


def load_services(targets: str, *, variable: str = "") -> list[Service]:
    """Load several, separated by commas.

    Raises:
        ConfigurationError: as for `load_service`.
    """
    return [load_service(target.strip(), variable=variable) for target in targets.split(",") if target.strip()]


def module_exists(name: str, *, runnable: bool) -> bool:
    """Return whether Python finds the module and, if `runnable`, whether `python -m` can run it."""
    _look_here_too()
    try:
        found = importlib.util.find_spec(name)
        if found is not None and runnable and found.submodule_search_locations is not None:
            found = importlib.util.find_spec(f"{name}.__main__")
    except ImportError:
        return False
    return found is not None


def _look_here_too() -> None:
    if "" not in sys.path:
        sys.path.insert(0, "")  # a team's modules lie where it calls us
