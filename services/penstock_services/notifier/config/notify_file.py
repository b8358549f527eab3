"""notify.yaml as it is written: decoded, and each part read as what it says it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

import msgspec

from penstock.config import Duration, Section, convert, fill_in, read_yaml
from penstock.errors import ConfigurationError
from penstock_services.notifier.channels import AnyChannel
from penstock_services.notifier.config.routing import Route
from penstock_services.notifier.config.schedule import OnCall, Quiet
from penstock_services.notifier.message.templates import Templates

FILE = "notify.yaml"
T = TypeVar("T", bound=msgspec.Struct)


class _Raw(Section, frozen=True, kw_only=True):
    """notify.yaml as it is written. `retry` lists the waits between attempts, in seconds or as `30s`, `5m`."""

    channels: dict[str, Any] = msgspec.field(default_factory=dict)
    routes: tuple[Any, ...] = ()
    retry: tuple[Duration, ...] = (Duration(1), Duration(2), Duration(4))
    templates: Templates = Templates()
    on_call: dict[str, Any] = msgspec.field(default_factory=dict)
    quiet: tuple[Any, ...] = ()


class NotifyFile(msgspec.Struct, frozen=True):
    """What notify.yaml says."""

    channels: dict[str, AnyChannel]
    routes: tuple[Route, ...]
    retry: tuple[Duration, ...]
    templates: Templates
    on_call: dict[str, OnCall] = {}
    quiet: tuple[Quiet, ...] = ()


def read(text: str, name: str, environ: Mapping[str, str] | None) -> NotifyFile:
    """Read notify.yaml, calling it `name` in errors; ${NAME} in channels stands for a variable of `environ`.

    Raises:
        ConfigurationError: it is not YAML, a variable is not set, or a part is not of its form.
    """
    written = read_yaml(text, name)
    if isinstance(written, dict) and "channels" in written:
        written["channels"] = fill_in(written["channels"], f"{name}: channels", environ)
    raw = _read_as(_Raw, written, name)
    return NotifyFile(
        channels={key: _channel(settings, f"{name}: channels.{key}") for key, settings in raw.channels.items()},
        routes=tuple(_read_as(Route, route, f"{name}: routes[{index}]") for index, route in enumerate(raw.routes)),
        retry=raw.retry,
        templates=raw.templates,
        on_call={key: _read_as(OnCall, one, f"{name}: on_call.{key}") for key, one in raw.on_call.items()},
        quiet=tuple(_read_as(Quiet, one, f"{name}: quiet[{index}]") for index, one in enumerate(raw.quiet)),
    )


def _channel(raw: Any, where: str) -> AnyChannel:
    kind = raw.get("type") if isinstance(raw, dict) else None
    known: dict[Any, type[AnyChannel]] = {one.__struct_config__.tag: one for one in get_args(AnyChannel)}
    if not isinstance(kind, str) or kind not in known:
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
