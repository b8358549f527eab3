"""Templates for title and text: jinja2 in its immutable sandbox, and plain text whenever one fails."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from penstock.schemas import Alert
from penstock_services.notifier.message.message import Message, Remarks, compose, emoji, label, lasted
from penstock_services.notifier.message.text import cut, one_line

_MOST_OUTPUT = 20_000  # characters; no channel shows more
_log = structlog.get_logger("notifier.templates")
# Nothing is escaped here: a template makes plain text, and each channel escapes it in its own way.
_environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)


class Templates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """jinja2 templates in place of the usual title and text; None keeps the usual one."""

    title: str | None = None
    text: str | None = None

    def over(self, other: Templates) -> Templates:
        """Return these templates, with those of `other` where there is none."""
        return Templates(title=self.title or other.title, text=self.text or other.text)


class _Labels(dict[str, str]):
    """Labels as templates see them: one that an alert does not have is empty."""

    def __missing__(self, name: str) -> str:
        return ""


def render(alert: Alert, remarks: Remarks, templates: Templates, *, now: float, channel: str = "") -> Message:
    """Make the message of an alert with templates; one that fails gives way to the usual text, which then says so."""
    rendered: dict[str, str] = {}
    failures = []
    for name in ("title", "text"):
        source = getattr(templates, name)
        if source is None:
            continue
        try:
            rendered[name] = _run(source, _variables(alert, channel))
        except Exception as error:  # noqa: BLE001 - whatever a template does, the alert goes out
            failures.append(f"The {name} template failed ({_reason(error)}); this is the usual {name}.")
            _log.error("a template failed: the message goes out with the usual text", template=name, error=str(error))
    message = compose(alert, remarks, now=now, **rendered)
    return msgspec.structs.replace(message, notices=(*message.notices, *failures))


def _run(source: str, variables: dict[str, Any]) -> str:
    pieces: list[str] = []
    size = 0
    for piece in _environment.from_string(source).generate(variables):
        pieces.append(piece)
        size += len(piece)
        if size > _MOST_OUTPUT:
            break
    text = cut("".join(pieces).strip(), _MOST_OUTPUT)
    if not text:
        raise TemplateError("it renders to nothing")
    return text


def _variables(alert: Alert, channel: str) -> dict[str, Any]:
    fields = {name: getattr(alert, name) for name in alert.__struct_fields__}
    return {
        **{name: one_line(value) if isinstance(value, str) else value for name, value in fields.items()},
        "labels": _Labels({name: one_line(value) for name, value in alert.labels.items()}),
        "traces": alert.exemplars,
        "emoji": emoji(alert),
        "label": label(alert),
        "lasted": lasted(alert) or "",
        "channel": channel,
    }


def _reason(error: Exception) -> str:
    return cut(one_line(f"{type(error).__name__}: {error}"), 200)
