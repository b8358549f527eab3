"""`penstock notify`: see a message arrive, or see how it would look."""

from __future__ import annotations

import getpass
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from penstock.cli.emit import SOURCE
from penstock.cli.service_program import run_program
from penstock.cli.session import Session, run, session
from penstock.cli.terminal import console, print_json, print_table
from penstock.errors import ConfigurationError, InvalidEvent
from penstock.event import Event, decode, encode, encode_data
from penstock.keys import ALERTS, DELIVERIES, NOTIFICATIONS
from penstock.mesh.deliveries import RELOAD, SERVICE, TEST, UNBLOCK, RecordedReload, ReloadRequest, reloads
from penstock.schemas import ChannelTest, ChannelUnblock, ChannelUnblocked, DeliveryAttempt, NotifyReloaded
from penstock.service.main import Negative
from penstock.streams.publish import Publisher

app = typer.Typer(
    name="notify",
    help="Test a channel, preview a message; check and reload notify.yaml.",
    no_args_is_help=True,
)

_SEARCHED = 10_000  # newest entries of `alerts` looked through for a fingerprint
_BLOCK_MS = 1_000
_NO_CHANGE = "nothing has changed"


@app.command("test")
def send_test(
    channel: Annotated[str, typer.Argument(help="Name of a channel in notify.yaml, or ops, telegram, email.")],
    wait: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the result.")] = 30.0,
) -> None:
    """Send a sample alert through a channel and say what came of it; exits with 1 if it did not arrive.

    The running notifier sends it, with its own settings and network. A channel that was not used any more, because
    its target was gone, is used again if the message arrives.
    """
    result = run(_test(channel, wait))
    if result is None:
        raise Negative(f"no result within {wait:g} s: does the notifier run? `penstock status` shows it")
    if result.status != "sent":
        raise Negative(f"{channel}: {result.error}")
    took = "" if result.latency is None else f" in {result.latency:.3f} s"
    typer.echo(f"{channel}: sent{took}" + (f"; it said: {result.answer}" if result.answer else ""))


@app.command("unblock")
def unblock(
    channel: Annotated[str, typer.Argument(help="Name of a channel.")],
    wait: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the result.")] = 30.0,
) -> None:
    """Use a channel again at once, although it asked to be left alone or was gone, and try all that waits for it."""
    event = run(_ask(UNBLOCK, ChannelUnblock(channel=channel), wait))
    if event is None:
        raise Negative(f"no result within {wait:g} s: does the notifier run? `penstock status` shows it")
    done = msgspec.json.decode(event.data, type=ChannelUnblocked)
    if done.error is not None:
        raise Negative(done.error)
    typer.echo(f"{channel}: unblocked; {done.waiting} deliveries that waited are tried now")


@app.command()
def preview(
    alert: Annotated[
        str | None,
        typer.Argument(help="A JSON file, - for stdin, or the fingerprint of an alert; a sample if absent."),
    ] = None,
    channel: Annotated[
        list[str] | None, typer.Option(help="Show this channel, whatever the routes say. Can be repeated.")
    ] = None,
) -> None:
    """Show what each channel that an alert is routed to would be sent, without sending anything."""
    given = b"" if alert is None else _read(alert)
    run_program(SERVICE, "preview", *(channel or ()), does="preview", stdin=given)


@app.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="PENSTOCK_NOTIFY, or ./notify.yaml, if absent.")] = None,
) -> None:
    """Check notify.yaml and the environment's channels, and show what they come to; each mistake gets a sentence."""
    environ = {**os.environ, **({"PENSTOCK_NOTIFY": str(file)} if file else {})}
    run_program(SERVICE, "check", does="check notify.yaml", env=environ)


@app.command()
def reload(
    by: Annotated[str | None, typer.Option(help="Who wants it; the user of this shell, if absent.")] = None,
    wait: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the result.")] = 30.0,
) -> None:
    """Have the running notifiers read notify.yaml again; what is wrong is refused, and the one before stays.

    They do so by themselves within seconds of a change. Exits with 1 if it was refused.
    """
    event = run(_reload(by or getpass.getuser(), wait))
    if event is None:
        raise Negative(f"no result within {wait:g} s: does the notifier run? `penstock status` shows it")
    done = msgspec.json.decode(event.data, type=NotifyReloaded)
    if done.error is not None:
        raise Negative(f"refused, the one before stays: {done.error}")
    for sentence in done.changes or [_NO_CHANGE]:
        typer.echo(sentence)


@app.command()
def history(
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Show at most so many.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show who changed notify.yaml, and what, or why that was refused; the newest first, each process of the notifier.

    JSON: [{"time", "by", "changes", "error", "process"}].
    """
    found = run(_history(limit))
    if as_json:
        print_json(found)
    elif found:
        print_table(["time", "by", "what", "process"], [_row(one) for one in found], whole=["time"])
    else:
        console().print("notify.yaml was not read again so far")


def _row(one: RecordedReload) -> list[str]:
    what = f"refused: {'; '.join(one.error.splitlines())}" if one.error else ", ".join(one.changes) or _NO_CHANGE
    return [one.time[:19], one.by, what, one.process]


def _read(alert: str) -> bytes:
    if alert == "-":
        return sys.stdin.buffer.read()
    path = Path(alert)
    try:
        return path.read_bytes() if path.is_file() else run(_newest(alert))
    except OSError as error:
        raise ConfigurationError(f"{alert}: cannot be read ({error.strerror})") from None


async def _newest(fingerprint: str) -> bytes:
    async with session() as here:
        rows = await here.redis.xrevrange(here.keys.stream(ALERTS), count=_SEARCHED)
    for entry_id, fields in rows:
        try:
            event = decode(ALERTS, entry_id.decode(), [part for pair in fields.items() for part in pair])
            if event.json().get("fingerprint") == fingerprint:
                return event.data
        except (InvalidEvent, AttributeError):
            continue
    raise Negative(f"{fingerprint}: neither a file nor the fingerprint of an alert that was told of lately")


async def _history(limit: int) -> list[RecordedReload]:
    async with session() as here:
        return await reloads(here.redis, here.keys, limit=limit)


async def _test(channel: str, wait: float) -> DeliveryAttempt | None:
    event = await _ask(TEST, ChannelTest(channel=channel), wait)
    return None if event is None else msgspec.json.decode(event.data, type=DeliveryAttempt)


async def _reload(by: str, wait: float) -> Event | None:
    request = ReloadRequest(f"reload-{os.urandom(8).hex()}", by)
    async with session() as here:
        newest = await here.redis.xrevrange(here.keys.stream(DELIVERIES), count=1)
        await here.redis.set(here.keys.state(SERVICE, RELOAD), msgspec.json.encode(request))
        return await _caused(here, SOURCE, request.id, newest[0][0].decode() if newest else "0-0", wait)


async def _ask(kind: str, request: msgspec.Struct, wait: float) -> Event | None:
    """Ask the notifier for something; return the event on `deliveries` that it caused, None if none came in time."""
    event_id = f"{kind.partition('.')[2]}-{os.urandom(8).hex()}"
    fields = encode(kind, encode_data(request), event_id=event_id, source=SOURCE)
    async with session() as here:
        newest = await here.redis.xrevrange(here.keys.stream(DELIVERIES), count=1)
        async with Publisher(here.redis, here.keys) as publisher:
            await publisher.publish(NOTIFICATIONS, fields)
        return await _caused(here, SOURCE, event_id, newest[0][0].decode() if newest else "0-0", wait)


async def _caused(here: Session, source: str, event_id: str, last: str, wait: float) -> Event | None:
    until = time.monotonic() + wait
    while (left := until - time.monotonic()) > 0:
        block = max(1, min(_BLOCK_MS, round(left * 1000)))
        reply = await here.redis.xread({here.keys.stream(DELIVERIES): last}, block=block)
        for entry_id, fields in [row for _, rows in reply or () for row in rows]:
            last = entry_id.decode()
            event = _event(entry_id, fields)
            if event is not None and event.is_caused_by(source, event_id):
                return event
    return None


def _event(entry_id: bytes, fields: dict[bytes, bytes]) -> Event | None:
    try:
        return decode(DELIVERIES, entry_id.decode(), [part for pair in fields.items() for part in pair])
    except InvalidEvent:  # somebody else wrote it
        return None
