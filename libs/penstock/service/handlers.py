"""Handlers: which function wants which events, and how it wants them."""

from __future__ import annotations

import fnmatch
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import msgspec.inspect

from penstock import models
from penstock.errors import ConfigurationError
from penstock.event import Event
from penstock.retry import Retry

Function = Callable[..., Any]


class Handler(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A function and how it wants to be called; one function registered twice makes two handlers.

    `types` are event types or patterns (`ticket.*`). `batch` is the most events it takes in one call, None
    for one by one. `needs` names the circuit breakers without which it cannot work. `timeout` in seconds and
    `retry` are None where streams.yaml decides.
    """

    name: str
    stream: str
    types: tuple[str, ...]
    function: Function
    decode: Callable[[Event], Any]
    takes_context: bool
    is_async: bool
    batch: int | None = None
    retry: Retry | None = None
    timeout: float | None = None
    needs: tuple[str, ...] = ()


def make_handler(
    function: Function,
    *,
    stream: str,
    types: tuple[str, ...],
    batch: int | None,
    retry: Retry | None,
    timeout: float | None,
    needs: tuple[str, ...] = (),
) -> Handler:
    """Look at a function's signature and make a handler of it.

    Raises:
        ConfigurationError: its parameters or their annotations cannot be used.
    """
    written = function
    while isinstance(written, functools.partial):
        written = written.func
    name = f"{written.__module__}.{written.__qualname__}"
    given = inspect.signature(function).parameters.values()
    parameters = [one for one in given if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    missing = [one for one in given if one.kind is one.KEYWORD_ONLY and one.default is one.empty]
    if not 1 <= len(parameters) <= 2 or missing:
        raise ConfigurationError(f"{name}: a handler takes the data and, if it wants, the context")
    try:
        annotation = get_type_hints(written, include_extras=True).get(parameters[0].name, Any)
    except NameError as error:
        raise ConfigurationError(f"{name}: {error}; annotate with a type that the module can see") from None
    if batch is not None:
        annotation = _item_type(name, annotation, batch)
    return Handler(
        name=name,
        stream=stream,
        types=types,
        function=function,
        decode=_decoder(name, annotation),
        takes_context=len(parameters) == 2,
        is_async=inspect.iscoroutinefunction(function),
        batch=batch,
        retry=retry,
        timeout=timeout,
        needs=needs,
    )


def _item_type(name: str, annotation: Any, batch: int) -> Any:
    if not 1 <= batch <= 1000:
        raise ConfigurationError(f"{name}: batch is the most events in one call, 1 to 1000, not {batch}")
    if annotation is Any:
        return Any
    if get_origin(annotation) is not list:
        raise ConfigurationError(f"{name}: a batch handler takes a list, such as list[Event]")
    return get_args(annotation)[0]


def _decoder(name: str, annotation: Any) -> Callable[[Event], Any]:
    if annotation is Event:
        return lambda event: event
    try:
        decode = models.decoder(annotation)
    except (TypeError, NameError, ConfigurationError) as error:
        raise ConfigurationError(f"{name}: {annotation!r} cannot be read from JSON: {error}") from None
    if not models.has_model(annotation) and _is_custom(annotation):
        raise ConfigurationError(
            f"{name}: {annotation!r} cannot be read from JSON: take a msgspec Struct, a dataclass, a TypedDict, a "
            "model of pydantic 2, plain types, or the whole Event; the data comes first, then the context"
        )
    return lambda event: decode(event.data)


def _is_custom(annotation: Any) -> bool:
    return isinstance(msgspec.inspect.type_info(annotation), msgspec.inspect.CustomType)


class Handlers:
    """All handlers of a service; finds the one for an event."""

    def __init__(self, handlers: list[Handler]) -> None:
        self._by_stream: dict[str, list[Handler]] = {}
        self._patterns: dict[str, list[tuple[str, Handler]]] = {}
        for handler in handlers:
            self._by_stream.setdefault(handler.stream, []).append(handler)
            self._patterns.setdefault(handler.stream, []).extend((kind, handler) for kind in handler.types)
        for patterns in self._patterns.values():
            patterns.sort(key=lambda one: _generality(one[0]))
        self._found: dict[tuple[str, str], Handler | None] = {}

    @property
    def needs(self) -> set[str]:
        """Every circuit breaker that some handler needs."""
        return {name for handlers in self._by_stream.values() for handler in handlers for name in handler.needs}

    def on(self, stream: str) -> list[Handler]:
        """Return the handlers of one stream."""
        return self._by_stream.get(stream, [])

    @property
    def streams(self) -> list[str]:
        """The streams that have handlers."""
        return list(self._by_stream)

    def find(self, stream: str, event_type: str) -> Handler | None:
        """Return the handler for a type on a stream: an exact match, else the most specific pattern."""
        key = stream, event_type
        try:
            return self._found[key]
        except KeyError:
            pass
        if len(self._found) > 10_000:  # types come from outside; do not let them grow a cache without bound
            self._found.clear()
        patterns = self._patterns.get(stream, [])
        exact = (handler for kind, handler in patterns if kind == event_type)
        matching = (handler for kind, handler in patterns if fnmatch.fnmatchcase(event_type, kind))
        found = self._found[key] = next(exact, None) or next(matching, None)
        return found

    def check_conflicts(self) -> None:
        """Refuse two handlers for the same type, or the same pattern, on the same stream.

        Raises:
            ConfigurationError: naming both.
        """
        for stream, handlers in self._by_stream.items():
            seen: dict[str, str] = {}
            for handler in handlers:
                for kind in handler.types:
                    if kind in seen:
                        raise ConfigurationError(
                            f"{handler.name} and {seen[kind]} both handle {kind} on {stream}; a group runs "
                            "one handler for an event: give one of them to a service of its own"
                        )
                    seen[kind] = handler.name


_PARTS = re.compile(r"\*+|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)  # of a pattern, as fnmatch reads it


def _generality(pattern: str) -> tuple[int, int, int, int, int, str]:
    """Sort patterns: the most specific first, whatever the order in which they were registered.

    That is the one that says more before its first wildcard, then the one that asks for more characters, then the
    one with fewer and narrower wildcards: a narrower pattern before one that matches all it does and more.
    """
    parts = _PARTS.findall(pattern)
    literal = [len(part) == 1 and part not in "*?" for part in parts]
    stars = sum(part.startswith("*") for part in parts)
    beginning = literal.index(False) if False in literal else len(literal)
    return -beginning, stars - len(parts), -sum(literal), parts.count("?"), stars, pattern
