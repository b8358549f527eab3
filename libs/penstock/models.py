"""Models: pydantic's models as payloads, where pydantic is installed; nothing here needs it otherwise.

They are read from and written as JSON by pydantic's own rules, under their aliases.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import islice
from typing import Any, get_args

import msgspec

from penstock.errors import ConfigurationError

_MOST_FAULTS = 5  # that are told of one payload


def decoder(annotation: Any) -> Callable[[bytes], Any]:
    """Return what reads JSON into an annotation, with models in it or not.

    What does not fit raises msgspec.ValidationError.

    Raises:
        ConfigurationError: pydantic has no way to read it.
        TypeError: msgspec has none.
        NameError: it, or what it names, is not there.
    """
    if has_model(annotation):
        return _pydantic_decoder(annotation)
    return msgspec.json.Decoder(annotation, dec_hook=_load).decode


def has_model(annotation: Any) -> bool:
    """Whether a model, or a dataclass of pydantic's, stands in an annotation itself."""
    return hasattr(annotation, "__pydantic_validator__") or any(map(has_model, get_args(annotation)))


def _pydantic_decoder(annotation: Any) -> Callable[[bytes], Any]:
    import pydantic  # noqa: PLC0415 - an annotation that has a model in it: it is here

    try:
        adapter = pydantic.TypeAdapter(annotation)
        adapter.rebuild()  # names what a model names and is not there: now, not with each event
    except (pydantic.errors.PydanticUserError, NameError) as error:
        raise ConfigurationError(f"pydantic: {str(error).splitlines()[0]}") from None

    def decode(data: bytes) -> Any:
        try:
            return adapter.validate_json(data)
        except pydantic.ValidationError as error:
            raise msgspec.ValidationError(_told(error)) from None

    return decode


_part_decoder = functools.cache(_pydantic_decoder)


def _load(kind: type, value: Any) -> Any:
    """Return the model that is a part of a type of msgspec's: the hook of its decoders."""
    if not has_model(kind):
        raise TypeError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")
    return _part_decoder(kind)(msgspec.json.encode(value))


def _told(error: Any) -> str:
    """Say of each fault what and where it is, as msgspec does, without the payload."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    told = [f"{fault['msg']}{_place(fault['loc'])}" for fault in islice(faults, _MOST_FAULTS)]
    if len(faults) > len(told):
        told.append(f"and {len(faults) - len(told)} more")
    return "; ".join(told)


def _place(path: tuple[str | int, ...]) -> str:
    steps = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return f" - at `${steps}`" if steps else ""


def dump(value: Any) -> Any:
    """Return what JSON has a form for, of a model: the hook of our encoders.

    Raises:
        TypeError: it is no model.
    """
    if not hasattr(type(value), "__pydantic_serializer__"):
        raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")
    return value.model_dump(mode="json", by_alias=True)
