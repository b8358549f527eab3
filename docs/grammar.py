"""The keys of a YAML file as tables, from the structs it is read into."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from penstock.config import Duration
from penstock.topology import Start

_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Duration: "a duration",
    Start: "`oldest`, `newest` or a time",
}


def tables(top: type[msgspec.Struct]) -> Iterator[str]:
    """Yield a section of Markdown for `top` and for each struct that it leads to, each once."""
    waiting, seen = [top], {top}
    while waiting:
        struct = waiting.pop(0)
        yield f"## {struct.__name__}\n\n{_words(struct.__doc__)}\n\n| key | is | default |\n|---|---|---|\n"
        for field in msgspec.structs.fields(struct):
            yield f"| `{field.encode_name}` | {_type(field.type)} | {_default(field)} |\n"
            for one in _structs(field.type):
                if one not in seen:
                    seen.add(one)
                    waiting.append(one)
        yield "\n"


def _words(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))


def _type(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _type(arguments[0]) + "".join(_bounds(one) for one in arguments[1:] if isinstance(one, msgspec.Meta))
    if origin in (Union, types.UnionType):
        return " or ".join(_type(one) for one in arguments if one is not type(None))
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in arguments)
    if origin in (dict, tuple, list):
        return f"names, each with {_type(arguments[1])}" if origin is dict else f"a list of {_type(arguments[0])}"
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return f"[{kind.__name__}](#{kind.__name__.lower()})"
    return _WORDS.get(kind) or getattr(kind, "__name__", str(kind)).lower()


def _bounds(meta: msgspec.Meta) -> str:
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    return "".join(f", {word} {value}" for key, word in words.items() if (value := getattr(meta, key)) is not None)


def _default(field: Any) -> str:
    if field.required:
        return "required"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if value is None or value in ((), {}, []) or isinstance(value, msgspec.Struct):
        return ""
    return f"`{_seconds(value)}`" if isinstance(value, Duration) else f"`{value}`"


def _seconds(value: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if value >= length and value % length == 0:
            return f"{value / length:g}{unit}"
    return f"{value:g}s"


def _structs(kind: Any) -> Iterator[type[msgspec.Struct]]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
    for one in get_args(kind):
        yield from _structs(one)
