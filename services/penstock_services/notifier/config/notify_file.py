"""notify.yaml as it is written: found, decoded, and each part read as what it says it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from penstock.config import Duration, Section, convert, read_yaml
from penstock.errors import ConfigurationError
from penstock.settings import read_secret
from penstock_services.notifier.channels import AnyChannel
from penstock_services.notifier.config.routing import Route
from penstock_services.notifier.message.templates import Templates

FILE = "notify.yaml"
T = TypeVar("T", bound=msgspec.Struct)
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class _Raw(Section, frozen=True, kw_only=True):
    """notify.yaml as it is written. `retry` lists the waits between attempts, in seconds or as `30s`, `5m`."""

    channels: dict[str, Any] = msgspec.field(default_factory=dict)
    routes: tuple[Any, ...] = ()
    retry: tuple[Duration, ...] = (Duration(1), Duration(2), Duration(4))
    templates: Templates = Templates()


class NotifyFile(msgspec.Struct, frozen=True):
    """What notify.yaml says."""

    channels: dict[str, AnyChannel]
    routes: tuple[Route, ...]
    retry: tuple[Duration, ...]
    templates: Templates


def find(path: str | None) -> tuple[str, str]:
    """Return name and text of the file at `path`, else of ./notify.yaml, else of the one that ships with Penstock.

    Raises:
        ConfigurationError: it cannot be read.
    """
    file = Path(path) if path else Path(FILE)
    try:
        if path is None and not file.exists():
            return FILE, resources.files("penstock").joinpath(FILE).read_text()
        return file.name, file.read_text()
    except OSError as error:
        raise ConfigurationError(
            f"{file}: cannot be read ({error.strerror}); set PENSTOCK_NOTIFY to your notify.yaml"
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file}: not UTF-8 text; save it as UTF-8") from None


def read(text: str, name: str, environ: Mapping[str, str] | None) -> NotifyFile:
    """Read notify.yaml, calling it `name` in errors; ${NAME} in channels stands for a variable of `environ`.

    Raises:
        ConfigurationError: it is not YAML, a variable is not set, or a part is not of its form.
    """
    raw = _read_as(_Raw, _filled_in(read_yaml(text, name), (), name, environ), name)
    return NotifyFile(
        channels={key: _channel(settings, f"{name}: channels.{key}") for key, settings in raw.channels.items()},
        routes=tuple(_read_as(Route, route, f"{name}: routes[{index}]") for index, route in enumerate(raw.routes)),
        retry=raw.retry,
        templates=raw.templates,
    )


def _channel(raw: Any, where: str) -> AnyChannel:
    kind = raw.get("type") if isinstance(raw, dict) else None
    known: dict[Any, type[AnyChannel]] = {one.__struct_config__.tag: one for one in get_args(AnyChannel)}
    if kind not in known:
        problem = "type is missing" if kind is None else f"there is no type {kind!r}"
        raise ConfigurationError(f"{where}: {problem}; it is one of {', '.join(known)}")
    return _read_as(known[kind], raw, where)


def _read_as(kind: type[T], raw: Any, where: str) -> T:
    try:
        return convert(raw, kind, where)
    except ConfigurationError as error:
        if not str(error).startswith(f"{where}: Object contains unknown field"):
            raise
        keys = ", ".join(field.encode_name for field in msgspec.structs.fields(kind))
        raise ConfigurationError(f"{error}; the keys are {keys}") from None


def _filled_in(value: Any, path: tuple[str, ...], name: str, environ: Mapping[str, str] | None) -> Any:
    """Put the values of variables in place of ${NAME} in what describes a channel."""
    if isinstance(value, dict):
        return {key: _filled_in(part, (*path, str(key)), name, environ) for key, part in value.items()}
    if isinstance(value, list):
        return [_filled_in(part, path, name, environ) for part in value]
    if not isinstance(value, str) or path[:1] != ("channels",):
        return value

    def fill(found: re.Match[str]) -> str:
        secret = read_secret(found[1], environ)
        if not secret:
            raise ConfigurationError(
                f"{name}: {'.'.join(path)}: {found[1]} is not set; set it, or {found[1]}_FILE to a file that holds it"
            )
        return secret

    return _VARIABLE.sub(fill, value)
