"""`penstock init`: writes the project that lies in `project/`, under a name of the user's."""

from __future__ import annotations

import importlib.util
import keyword
import re
import string
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from penstock.errors import ConfigurationError

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST = 50
_NEEDED = {"pytest", "pytest_asyncio"}  # what the project imports, and need not be installed here
_SUFFIX = ".tmpl"  # they are no modules, and no ignore file, of ours


def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the folder and the service, such as shop.")],
) -> None:
    """Make a folder with a small working project: a service, its streams.yaml, a test, a compose file.

    Nothing that is there already is written over.
    """
    module = name.replace("-", "_")
    _check(name, module)
    folder = Path(name)
    try:
        folder.mkdir()
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be made here: {error.strerror}") from None
    for file, text in _files(name, module):
        (folder / file).write_text(text)
    typer.echo(
        f"{name}/ is made. To start it:\n\n"
        f"  cd {name}\n"
        "  penstock up\n\n"
        "README.md in it says how to hand it a job, and how to run its test."
    )


def _check(name: str, module: str) -> None:
    """Refuse what cannot be a folder, a module and a service at once.

    Raises:
        ConfigurationError: it cannot; the message says why.
    """
    if _NAME.fullmatch(name) is None or len(name) > _LONGEST:
        raise ConfigurationError(
            f"NAME: {name!r} will not do: take small letters, digits, and single - or _ between them, "
            f"a letter first, at most {_LONGEST} (shop, order-desk)"
        )
    if Path(name).exists():
        raise ConfigurationError(f"{name} is here already: give another name, or remove it first")
    if keyword.iskeyword(module):
        raise ConfigurationError(f"NAME: {name} is a word of Python's own, and no module can have it")
    if module in sys.stdlib_module_names | _NEEDED or importlib.util.find_spec(module) is not None:
        raise ConfigurationError(f"NAME: there is a Python package {module} already, which {name}'s module would hide")


def _files(name: str, module: str) -> Iterator[tuple[str, str]]:
    """Yield the files of the project with their texts."""
    for template in (resources.files("penstock.cli.init") / "project").iterdir():
        file = string.Template(template.name.removesuffix(_SUFFIX)).substitute(module=module)
        yield file, string.Template(template.read_text()).substitute(name=name, module=module)
