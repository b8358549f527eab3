"""Reading YAML that people write: durations, sections that refuse unknown keys, and errors that name file and key."""

from __future__ import annotations

import math
import re
from typing import Any, TypeVar, get_args, get_origin

import msgspec
import yaml

from penstock.errors import ConfigurationError

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


_YAML_NAMES = {"`object`": "a mapping", "`array`": "a list", "`null`": "nothing (write {} for the defaults)"}


T = TypeVar("T")


class Duration(float):
    """A number of seconds, written in YAML as a number or as `250ms`, `30s`, `5m`, `12h`, `7d`."""

    @classmethod
    def parse(cls, value: object) -> Duration:
        """Read a duration.

        Raises:
            ValueError: it is not a positive number or one of the forms above.
        """
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
            return cls(value)
        found = _DURATION.fullmatch(value) if isinstance(value, str) else None
        if found is None or float(found[1]) == 0:
            raise ValueError(f"expected a duration such as 30s, 5m or 7d, got {value!r}")
        return cls(float(found[1]) * _SECONDS[found[2]])


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything in streams.yaml: immutable, and an unknown key is an error."""


def read_yaml(text: str, name: str) -> Any:
    """Decode YAML text, calling it `name` in errors; an empty one is an empty mapping.

    Raises:
        ConfigurationError: it is not YAML, or a key is there twice.
    """
    try:
        return yaml.load(text, _Loader) or {}  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{name}: not YAML: {str(error).replace(chr(10), ' ')}") from None


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice: of the two, YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def convert(raw: Any, into: type[T], name: str) -> T:
    """Convert decoded YAML into a struct; errors name the file and the key.

    Raises:
        ConfigurationError: a key is unknown or a value does not fit.
    """
    try:
        return msgspec.convert(raw, into, dec_hook=_decode_hook)
    except msgspec.ValidationError as error:
        problem = str(error).partition(" - at `")[0]
        for name_in_json, name_in_yaml in _YAML_NAMES.items():
            problem = problem.replace(name_in_json, name_in_yaml)
        key = ".".join(_path_to_problem(raw, into))
        raise ConfigurationError(f"{name}: {key + ': ' if key else ''}{problem}") from None


def _decode_hook(into: type, value: object) -> object:
    parse = getattr(into, "parse", None)  # Duration, and others of its kind
    if parse is None:
        raise NotImplementedError(f"no way to read {into} from YAML")
    return parse(value)


def _path_to_problem(raw: Any, into: Any) -> list[str]:
    """Return the keys that lead to the first value that does not fit; msgspec itself names no dict key."""
    if not isinstance(raw, dict):
        return []
    if get_origin(into) is dict:
        kinds = dict.fromkeys(raw, get_args(into)[1])
    elif isinstance(into, type) and issubclass(into, msgspec.Struct):
        kinds = {field.encode_name: field.type for field in msgspec.structs.fields(into)}
    else:
        return []
    for key, value in raw.items():
        if key in kinds and not _fits(value, kinds[key]):
            return [str(key), *_path_to_problem(value, kinds[key])]
    return []


def _fits(value: Any, into: Any) -> bool:
    try:
        msgspec.convert(value, into, dec_hook=_decode_hook)
    except msgspec.ValidationError:
        return False
    return True
