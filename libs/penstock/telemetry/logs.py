"""Logs: JSON for machines, colour for people, and on every line the event and trace in hand."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import msgspec
import structlog

from penstock.service.context import current

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure(*, level: str = "info", form: str = "auto", service: str = "") -> None:
    """Set up structlog; `form` is json, console or auto (console on a terminal)."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_context,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    factory: Any
    if console:
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()))
        factory = structlog.PrintLoggerFactory(sys.stderr)
    else:
        processors += [structlog.processors.format_exc_info, _render_json]
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    if service:
        structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)


def _add_context(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    context = current.get()
    if context is not None:
        line.setdefault("event_id", context.event.id)
        line["trace_id"] = context.trace.trace_id
        line["span_id"] = context.trace.span_id
    return line


def _render_json(_: Any, __: str, line: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(line, enc_hook=repr)
