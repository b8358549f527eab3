"""The console: every alert, always, where the process writes."""

from __future__ import annotations

import sys
import textwrap
from typing import Any, Literal

import structlog

from penstock_services.notifier.channels.base import Channel, Delivery, Receipt

_WIDTH = 100
_log = structlog.get_logger("notifier.console")


class Console(Channel, frozen=True, kw_only=True, tag="console"):
    """Writes a block of text for people, a log line for machines; with `auto` a terminal means people."""

    form: Literal["auto", "text", "json"] = "auto"

    @property
    def target(self) -> str:
        """The console is one."""
        return "console"

    def payload(self, delivery: Delivery) -> str:
        """Return the block of text."""
        message = delivery.message
        lines = [message.title, *_indented(message.text)]
        lines += [f"    {fact.name}: {fact.value}" for fact in message.facts]
        for name, items in (("Labels", message.labels), ("Traces", message.traces)):
            if items:
                lines.append(f"    {name}: {', '.join(items)}")
        if message.runbook:
            lines.append(f"    Runbook: {message.runbook}")
        for notice in message.notices:
            lines += _indented(notice)
        return "\n".join(_printable(line) for line in lines)

    async def send(self, delivery: Delivery, *, allow_private: bool) -> Receipt:
        """Write it."""
        if self.form == "text" or (self.form == "auto" and sys.stdout.isatty()):
            sys.stdout.write(f"\n{self.payload(delivery)}\n")
            sys.stdout.flush()
        else:
            alert: dict[str, Any] = {name: getattr(delivery.alert, name) for name in delivery.alert.__struct_fields__}
            _log.warning(delivery.message.title, alert=alert, notices=delivery.message.notices)
        return Receipt()


def _indented(text: str) -> list[str]:
    return [f"    {line}" for part in text.splitlines() for line in textwrap.wrap(part, _WIDTH)]


def _printable(text: str) -> str:
    """Take the control characters out: an alert must not steer the terminal."""
    return "".join(character for character in text if character.isprintable())
