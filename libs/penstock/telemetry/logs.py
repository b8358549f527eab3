"""Logs: JSON for machines, colour for people, and on every line the event and trace it belongs to."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TextIO

import msgspec
import structlog

from penstock.telemetry.current import current
from penstock.text import shown, writable, written_out

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure(*, level: str = "info", form: str = "auto", service: str = "", stream: TextIO | None = None) -> None:
    """Set up structlog; `form` is json, console or auto (console on a terminal).

    Console lines go to `stream`, or to stderr as JSON does.
    """
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_context,
    ]
    factory: Any
    if console:
        processors += [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            _console_renderer(),
        ]
        factory = structlog.PrintLoggerFactory(stream or sys.stderr)
    else:
        processors += [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _render_json,
        ]
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    if service and not console:  # whoever watches a console knows what it shows
        structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)


def wants_colour(stream: TextIO) -> bool:
    """Return whether to write colours to `stream`: NO_COLOR and FORCE_COLOR have their say before the terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def _add_context(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    context = current.get()
    if context is not None:
        line.setdefault("event_id", context.event.id)
        line["trace_id"] = context.trace.trace_id
        line["span_id"] = context.trace.span_id
    return line


def _render_json(_: Any, __: str, line: Mapping[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(line, enc_hook=repr)
    except Exception:  # noqa: BLE001 - no line may cost the work it tells of
        return msgspec.json.encode(_plain(line))


def _console_renderer() -> Callable[[Any, str, MutableMapping[str, Any]], str]:
    render = structlog.dev.ConsoleRenderer(
        colors=wants_colour(sys.stderr), exception_formatter=structlog.dev.plain_traceback
    )

    def render_console(logger: Any, name: str, line: MutableMapping[str, Any]) -> str:
        try:
            told = structlog.processors.format_exc_info(logger, name, {**line})
            safe = {
                key: written_out(writable(value)) if isinstance(value, str) else value for key, value in told.items()
            }
            return writable(str(render(logger, name, safe)))
        except Exception:  # noqa: BLE001 - as for JSON
            return writable(str(render(logger, name, _plain(line))))

    return render_console


def _plain(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of what can be written whatever it was: half of a surrogate pair, circles, a repr that raises."""
    return {writable(name): _plain_value(value) for name, value in line.items()}


def _plain_value(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return writable(value) if isinstance(value, str) else shown(value)
