"""Reading what people write: YAML, durations, names and secrets, with errors that name file and key."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import msgspec
import yaml

from penstock.errors import ConfigurationError
from penstock.times import seconds_of

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_YAML_NAMES = {"`object`": "a mapping", "`array`": "a list", "`null`": "nothing (write {} for the defaults)"}
_BEGINNING = re.compile(
    r"""(?:.*[{,\s])?(?P<key>(?:[\w.-]+:|-)\s+)(?P<value>\[[^\[\]]*\]|\{[^{}]*\}|"[^"]*"|'[^']*')"""
)
_WORDS = re.compile(r"\w[^\[\]{},#]*(?<!\s)")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = re.compile(r"[a-z0-9][a-z0-9._\-]{0,99}")
NAME_RULE = "a name starts with a lower-case letter or digit and holds a-z, 0-9, dot, hyphen and underscore"
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
        seconds = float(found[1]) * _SECONDS[found[2]] if found is not None else 0.0
        if not 0 < seconds < math.inf:
            raise ValueError(f"expected a duration such as 30s, 5m or 7d, got {value!r}")
        return cls(seconds)


def read_moment(text: str, parameter: str, now: float) -> float:
    """Read when something was, in seconds since the epoch: a time, or a duration before `now`.

    Raises:
        ConfigurationError: it is neither; the message names the parameter.
    """
    try:
        return now - Duration.parse(text)
    except ValueError:
        pass
    try:
        return seconds_of(text)
    except ValueError:
        raise ConfigurationError(
            f"{parameter}: {text!r} is neither a duration before now, such as 15m, nor a time, such as "
            "2026-11-22T10:00:00Z"
        ) from None


def read_limit(text: str, most: int) -> int:
    """Read how many are wanted, from 1 to `most`.

    Raises:
        ConfigurationError: it is no such number.
    """
    digits = text.lstrip("0") if text.isascii() and text.isdecimal() else ""
    if not digits or len(digits) > len(str(most)) or int(digits) > most:
        raise ConfigurationError(f"limit: {text!r} is no number from 1 to {most}")
    return int(digits)


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything in streams.yaml: immutable, and an unknown key is an error."""


def find_file(path: Path | str | None, name: str, variable: str) -> tuple[str, str]:
    """Return name and text of the file at `path`, else of ./`name`, else of the one that ships with Penstock.

    Raises:
        ConfigurationError: it cannot be read; the message names the variable that says where it is.
    """
    file = Path(path or name)
    try:
        if not path and not file.exists():
            return name, resources.files("penstock").joinpath(name).read_text()
        return file.name, file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"{file}: cannot be read ({why}); set {variable} to your {name}") from None


def read_yaml(text: str, name: str) -> Any:
    """Decode YAML text, calling it `name` in errors; an empty one is an empty mapping.

    Raises:
        ConfigurationError: it is not YAML, or a key is there twice.
    """
    try:
        return yaml.load(text, _Loader) or {}  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"{name}: not YAML: {_unquoted(error, text) or ' '.join(str(error).split())}"
        ) from None
    except RecursionError:
        raise ConfigurationError(f"{name}: nested too deep") from None
    except (ValueError, TypeError, OverflowError) as error:  # a date that is none, a list as a key
        raise ConfigurationError(f"{name}: not YAML that can be used: {error}") from None


def _unquoted(error: yaml.YAMLError, text: str) -> str | None:
    """Say what to write where a value begins with a list, a mapping or a quoted text, and words follow."""
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    lines = text.splitlines()
    if mark is None or mark.line >= len(lines):
        return None
    line = lines[mark.line]
    found = _BEGINNING.fullmatch(line[: mark.column].rstrip())
    words = _WORDS.match(line, mark.column)
    if found is None or words is None:
        return None
    value = f"{found['value']} {words[0]}".replace("'", "''")
    return f"line {mark.line + 1}: a value with words after {found['value']} needs quotes: {found['key']}'{value}'"


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


def is_name(text: str) -> bool:
    """Return whether `text` can name what people declare; `NAME_RULE` says the rule."""
    return _NAME.fullmatch(text) is not None


def did_you_mean(given: str, known: Iterable[str], otherwise: str | None = None, *, cutoff: float = 0.6) -> str:
    """Return what to say of a name that does not resolve: the nearest one known, else `otherwise` or all of them.

    `cutoff` is how alike two names must be, from 0 to 1.
    """
    names = sorted(known) if isinstance(known, set) else list(known)
    near = difflib.get_close_matches(given, names, n=1, cutoff=cutoff)
    if near:
        return f"did you mean {near[0]}?"
    if otherwise is not None:
        return otherwise
    return f"there {'is' if len(names) == 1 else 'are'} {', '.join(names)}" if names else "there is none"


def read_secret(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the value of variable `name`, or what the file named by `name`_FILE holds.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    given = os.environ if environ is None else environ
    path = given.get(f"{name}_FILE")
    if given.get(name) or not path:  # compose files write an empty variable for one that is not set
        return given.get(name)
    try:
        return Path(path).read_text().strip("\r\n")  # blanks may be part of it
    except OSError as error:
        raise ConfigurationError(f"environment: {name}_FILE: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"environment: {name}_FILE: {path} is not UTF-8 text") from None


def fill_in(value: Any, where: str, environ: Mapping[str, str] | None = None) -> Any:
    """Return decoded YAML with the values of variables in place of ${NAME}; `where` is what errors call it.

    Raises:
        ConfigurationError: a variable is not set.
    """
    if isinstance(value, dict):
        return {key: fill_in(part, f"{where}.{key}", environ) for key, part in value.items()}
    if isinstance(value, list):
        return [fill_in(part, where, environ) for part in value]
    if not isinstance(value, str):
        return value

    def fill(found: re.Match[str]) -> str:
        secret = read_secret(found[1], environ)
        if not secret:
            raise ConfigurationError(
                f"{where}: {found[1]} is not set; set it, or {found[1]}_FILE to a file that holds it"
            )
        return secret

    return _VARIABLE.sub(fill, value)
