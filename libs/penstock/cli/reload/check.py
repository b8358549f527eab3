"""Whether services would start from their sources as they are now: asked in a process of its own, which imports them.

    python -m penstock.cli.reload.check TOPOLOGY KIND=TARGET ...

TOPOLOGY is the path of streams.yaml, or empty. It prints a Report as JSON.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import msgspec

from penstock.cli.up.programs import programs
from penstock.errors import ConfigurationError, PenstockError
from penstock.service.app import check_streams
from penstock.service.handlers import Handlers
from penstock.service.importing import load_service, load_services
from penstock.topology import FILE, Topology, load


class Report(msgspec.Struct):
    """The files that count, and what is wrong with them in one line: nothing if they are sound.

    `handled` has for each service a stream and a type that it handles there, if there is one that is no pattern.
    """

    files: list[str]
    error: str = ""
    handled: dict[str, tuple[str, str]] = {}


def report(topology: str, targets: list[str]) -> Report:
    """Import what is to run, and say whether it would."""
    files = {str(Path(topology or FILE).absolute())}
    error = ""
    handled: dict[str, tuple[str, str]] = {}
    try:
        declared = load(topology or None)
        for target in targets:
            files.update(_check(target, declared, handled))
    except PenstockError as found:
        error = " ".join(str(found).split())
        files.update(_blamed(found))
        files.add(str(Path.cwd()))
    files.update(str(Path(path).absolute()) for path in _imported())
    files = {path for path in files if _is_ours(path)}
    if error:  # a file that is missing shows in its folder
        files |= {str(Path(path).parent) for path in files if path.endswith(".py")}
    return Report(sorted(files), error, handled)


def _check(target: str, topology: Topology, handled: dict[str, tuple[str, str]]) -> list[str]:
    """Import a target, and note in `handled` what a service takes; return the files of one that is only compiled.

    Raises:
        ConfigurationError: it would not.
    """
    kind, _, name = target.partition("=")
    if kind == "mesh":
        return [
            file
            for one in programs(topology, jobs=name)
            for part in one.sources
            for file in _check(part, topology, handled)
        ]
    if kind == "jobs":
        load_services(name, variable="PENSTOCK_JOBS")
    elif kind == "service":
        service = load_service(name)
        check_streams(service, topology.service(service.name))
        if sample := next(_plain(service.handlers), None):
            handled[service.name] = sample
    else:  # to import what is run by `python -m` may run it
        return _compiled(name)
    return []


def _plain(handlers: Handlers) -> Iterator[tuple[str, str]]:
    """Yield the streams and types that are handled, but for patterns."""
    for stream in handlers.streams:
        for handler in handlers.on(stream):
            yield from ((stream, kind) for kind in handler.types if not set(kind) & set("*?["))


def _compiled(module: str) -> list[str]:
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise ConfigurationError(f"there is no module {module}")
    files = sorted(Path(found.origin).parent.glob("*.py"))
    for file in files:
        try:
            compile(file.read_bytes(), file, "exec")
        except SyntaxError as error:
            raise ConfigurationError(f"{file}, line {error.lineno}: {type(error).__name__}: {error.msg}") from error
    return [str(file) for file in files]


def _imported() -> Iterator[str]:
    for module in list(sys.modules.values()):
        if path := getattr(module, "__file__", None):
            yield path


def _blamed(error: BaseException) -> Iterator[str]:
    """Yield the files that an error and what led to it name."""
    while True:
        if isinstance(error, SyntaxError) and error.filename:
            yield str(Path(error.filename).absolute())
        for frame in traceback.extract_tb(error.__traceback__):
            yield str(Path(frame.filename).absolute())
        following = error.__cause__ or error.__context__
        if following is None:
            return
        error = following


def _is_ours(path: str) -> bool:
    """Whether a file is the project's: below this folder, and not of an environment in it."""
    try:
        parts = Path(path).relative_to(Path.cwd()).parts
    except ValueError:
        return path.endswith(".yaml")
    return not any(part == "site-packages" or part.startswith(".") for part in parts)


def main() -> None:
    """Print the report on the arguments."""
    with contextlib.redirect_stdout(sys.stderr):  # a module may print
        said = report(sys.argv[1], sys.argv[2:])
    os.write(1, msgspec.json.encode(said))


if __name__ == "__main__":
    main()
