"""`penstock deliveries`: who was notified of which alert, with what result."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.session import run, session
from penstock.cli.terminal import console, print_json, print_table
from penstock.errors import ConfigurationError
from penstock.mesh.deliveries import DeliveryQuery, FailedDelivery, RecordedAttempt, attempts, failed, send_again
from penstock.service.main import Negative

app = typer.Typer(name="deliveries", help="Show who was notified, with what result; send again what failed.")


@app.callback(invoke_without_command=True)
def deliveries(
    context: typer.Context,
    *,
    only_failed: Annotated[
        bool, typer.Option("--failed", help="Show deliveries that were given up and not sent again since.")
    ] = False,
    channel: Annotated[str | None, typer.Option(help="Only those of this channel.")] = None,
    status: Annotated[str | None, typer.Option(help="Only attempts that ended so: sent, failed or dead.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Show at most so many.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """List attempts, the newest first.

    An attempt is sent, failed (it is tried again) or dead (it was the last).
    """
    if context.invoked_subcommand is not None:
        return
    if only_failed:
        _show_failed(run(_failed(limit, channel)), as_json=as_json)
        return
    given = {"limit": str(limit), "channel": channel, "status": status}
    query = DeliveryQuery.parse({name: value for name, value in given.items() if value is not None})
    _show(run(_attempts(query)), as_json=as_json)


@app.command()
def resend(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="DELIVERY...", help="Ids as `deliveries --failed` shows them.")
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Send all that failed.")] = False,
) -> None:
    """Send failed deliveries again, each once, with all attempts anew.

    What a newer message about the same alert has overtaken on its channel is not sent. Exits with 1 if there
    was nothing to send.
    """
    if bool(ids) == every:
        raise ConfigurationError("name deliveries by their ids (`penstock deliveries --failed`), or say --all")
    sent = run(_resend(ids))
    for delivery, done in sent.items():
        typer.echo(f"{delivery} " + ("goes out again" if done else "was sent again before"))
    if not any(sent.values()):
        raise Negative("nothing to send")


async def _attempts(query: DeliveryQuery) -> list[RecordedAttempt]:
    async with session() as here:
        return await attempts(here.redis, here.keys, query)


async def _failed(limit: int, channel: str | None) -> list[FailedDelivery]:
    async with session() as here:
        found = await failed(here.redis, here.keys)
        return [one for one in found if channel is None or one.notification.channel == channel][:limit]


async def _resend(ids: list[str] | None) -> dict[str, bool]:
    async with session() as here:
        waiting = {one.delivery_id: one for one in await failed(here.redis, here.keys)}
        for delivery in ids or ():
            if delivery not in waiting:
                raise Negative(f"there is no failed delivery {delivery}; `penstock deliveries --failed` lists them")
        chosen = [waiting[delivery] for delivery in ids] if ids else list(waiting.values())[::-1]
        return {one.delivery_id: await send_again(here.redis, here.keys, one) for one in chosen}


def _show(found: list[RecordedAttempt], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    elif found:
        print_table(["time", "channel", "alert", "attempt", "said"], [_row(one) for one in found], whole=["time"])
    else:
        console().print("no deliveries")


def _row(recorded: RecordedAttempt) -> list[str]:
    one = recorded.attempt
    said = (one.error or one.answer or "").partition("\n")[0]
    return [
        recorded.time[:19],
        _address(one.channel, one.recipient),
        f"{one.rule} {one.transition}",
        f"{one.attempt}: {one.status}" + (f", next at {one.next_attempt_at[11:19]}" if one.next_attempt_at else ""),
        said if one.code is None or said.startswith(str(one.code)) else f"{one.code} {said}".rstrip(),
    ]


def _show_failed(found: list[FailedDelivery], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    elif found:
        columns = ["delivery", "last try", "channel", "alert", "error"]
        print_table(columns, [_failed_row(one) for one in found], whole=["delivery"])
    else:
        console().print("no failed deliveries")


def _failed_row(one: FailedDelivery) -> list[str]:
    notification = one.notification
    return [
        one.delivery_id,
        f"{one.time[:19]}, number {one.attempts}",
        _address(notification.channel, notification.recipient),
        f"{notification.alert.rule} ({notification.alert.status})",
        one.error.partition("\n")[0],
    ]


def _address(channel: str, recipient: str | None) -> str:
    return f"{channel} ({recipient})" if recipient else channel
