"""`penstock emit`: publish one event by hand."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import msgspec
import typer

from penstock.cli.session import run, session
from penstock.client.client import Penstock
from penstock.errors import UNREADABLE, ConfigurationError, InvalidEvent
from penstock.keys import INGEST

SOURCE = "penstock-cli"


def emit(
    event_type: Annotated[str, typer.Argument(metavar="TYPE", help="Event type, such as ticket.created.")],
    data: Annotated[str, typer.Argument(metavar="JSON", help="The event's data; - reads it from stdin.")] = "null",
    *,
    stream: Annotated[str, typer.Option(help="Stream to publish to.")] = INGEST,
    event_id: Annotated[str | None, typer.Option("--id", help="The event's id; made from its entry if absent.")] = None,
    subject: Annotated[str | None, typer.Option(help="What the event is about.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose event it is.")] = None,
    key: Annotated[str | None, typer.Option(help="Publish once under this idempotency key.")] = None,
    delay: Annotated[float | None, typer.Option(help="Publish it after so many seconds.")] = None,
    at: Annotated[str | None, typer.Option(help="Publish it at a time such as 2026-11-22T10:00:00Z.")] = None,
) -> None:
    """Publish one event and print its id.

    [dim]penstock emit http.request '{"url": "https://example.com/hook", "json": {"hello": "world"}}'[/]
    """
    if not event_type:
        raise InvalidEvent("TYPE is empty; give the event a type such as ticket.created")
    text = check_json(sys.stdin.read() if data == "-" else data)
    attributes = {"event_id": event_id, "subject": subject, "tenant": tenant, "idempotency_key": key}
    typer.echo(run(_publish(stream, event_type, text, **attributes, delay=delay, at=at)))


def check_json(text: str) -> str:
    """Return `text` without the white space around it.

    Raises:
        InvalidEvent: it is not JSON.
    """
    try:
        msgspec.json.decode(text)
    except UNREADABLE as error:
        raise InvalidEvent(f"""JSON: {error}; quote it for the shell, such as '{{"key": "value"}}'""") from None
    return text.strip()


async def _publish(stream: str, event_type: str, text: str, **attributes: Any) -> str:
    async with session() as here:
        if stream not in here.topology.streams:
            known = ", ".join(here.topology.streams)
            raise ConfigurationError(f"--stream: streams.yaml has no stream {stream} (it has {known})")
        async with Penstock.connect(topology=here.topology, source=SOURCE, settings=here.settings) as mesh:
            return await mesh.publish(stream, event_type, msgspec.Raw(text.encode()), **attributes)
