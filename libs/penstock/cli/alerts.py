"""`penstock alerts`: what is wrong, what was, and what rules would say."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from penstock.cli.service_program import run_program
from penstock.cli.session import Session, run, session
from penstock.cli.terminal import console, print_json, print_table, printable
from penstock.mesh.alerts import SERVICE, Acknowledgement, AlertRecord, AlertStore, HistoryEntry, RulesRefused, present
from penstock.mesh.deliveries import ChannelTrouble, FailedDelivery, given_up, late, troubles
from penstock.service.main import Negative
from penstock.times import rfc3339

app = typer.Typer(name="alerts", help="Show what is wrong, and what was.", invoke_without_command=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Rules = Annotated[Path | None, typer.Argument(help="A rules file; PENSTOCK_ALERTS, or ./alerts.yaml, if absent.")]
_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


@app.callback()
def alerts(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Show those too that have resolved lately.")] = False,
    as_json: Json = False,
) -> None:
    """Show the alerts that fire or are about to, with reasons and traces.

    JSON: [{"fingerprint", "rule", "severity", "labels", "state", "since", "value", "threshold", "reason", "summary",
    "exemplars", "suppressed", "undelivered": [{"channel", "recipient", "error", "given_up"}], ...}].
    """
    if context.invoked_subcommand is not None:
        return
    states = ("firing", "pending", "resolved") if every else ("firing", "pending")
    every_one, refused, undelivered = run(_alerts())
    found = [record for record in every_one if record.state in states]
    found.sort(key=lambda record: states.index(record.state))
    if as_json:
        print_json([_shown(record, undelivered) for record in found])
        return
    if refused:
        console().print(f"{refused.name} is refused, and the rules before it are in force:", style="yellow")
        console().print("\n".join(f"    {printable(line)}" for line in refused.why.splitlines()))
    for record in found:
        _print(record)
    if not found:
        console().print("nothing is wrong")
    _print_undelivered(undelivered)


@app.command()
def history(
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Show at most so many.")] = 50, as_json: Json = False
) -> None:
    """Show what happened to alerts, the newest first, and why."""
    found = run(_history(limit))
    if as_json:
        print_json([present(entry) for entry in found])
    elif found:
        print_table(["time", "what", "alert", "why"], [_row(entry) for entry in found], whole=["time"])
    else:
        console().print("nothing has happened yet")


@app.command()
def check(file: Rules = None, as_json: Json = False) -> None:
    """Check a rules file; each mistake gets a sentence."""
    _run_manager("check", file, *(["--json"] if as_json else []))


@app.command()
def backtest(
    rules: Annotated[Path, typer.Argument(help="The rules file to try.")],
    since: Annotated[
        str | None, typer.Option(help="Look back so far, such as 6h; as far as there is, if absent.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what alerts these rules would have raised over the stored roll-ups, and how long each."""
    _run_manager("backtest", rules, *(["--since", since] if since else []), *(["--json"] if as_json else []))


@app.command()
def reload(
    file: Rules = None,
    by: Annotated[str | None, typer.Option(help="Who says so; you, if absent.")] = None,
) -> None:
    """Check a rules file and put it in force, for all replicas; the next start or change of theirs puts that in force.

    A file that is wrong changes nothing; each mistake gets a sentence.
    """
    _run_manager("reload", file, "--by", by or getpass.getuser())


@app.command()
def explain(rule: Annotated[str, typer.Argument(help="Name of a rule.")], as_json: Json = False) -> None:
    """Show what a rule sees now, and why it fires or not.

    JSON: {"rule", "severity", "window", "label_sets": [{"labels", "level", "reason", "value", "threshold", "state",
    "since", "next", "suppressed", "acknowledged_by"}], "others": [labels]}.
    """
    _run_manager("explain", Path(rule), *(["--json"] if as_json else []))


@app.command()
def ack(
    alert: Annotated[str, typer.Argument(metavar="ID", help="The alert's id as `alerts` shows it, or how it begins.")],
    by: Annotated[str | None, typer.Option(help="Who takes it on; you, if absent.")] = None,
    comment: Annotated[str, typer.Option(help="What is being done.")] = "",
) -> None:
    """Take an alert on: it is not repeated, and nobody else needs to be called. Ends when the alert resolves."""
    said = run(_acknowledge(alert, by or getpass.getuser(), comment))
    if said is None:
        raise Negative(f"no alert that fires has an id that begins with {alert}; `penstock alerts` shows them")
    typer.echo(f"{said.fingerprint}: acknowledged by {printable(said.by)}")


@app.command()
def unack(
    alert: Annotated[str, typer.Argument(metavar="ID", help="The alert's id as `alerts` shows it, or how it begins.")],
    by: Annotated[str | None, typer.Option(help="Who says so; you, if absent.")] = None,
    comment: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Take an acknowledgement back: people are notified again, and escalations begin anew."""
    said = run(_withdraw(alert, by or getpass.getuser(), comment))
    if said is None:
        raise Negative(f"nobody has taken on an alert whose id begins with {alert}; `penstock alerts` shows them")
    typer.echo(f"{said.fingerprint}: acknowledgement taken back by {printable(said.by)}")


async def _withdraw(fingerprint: str, by: str, comment: str) -> Acknowledgement | None:
    async with session() as here:
        return await _store(here).withdraw(fingerprint, by=by, comment=comment)


async def _acknowledge(fingerprint: str, by: str, comment: str) -> Acknowledgement | None:
    async with session() as here:
        return await _store(here).acknowledge(fingerprint, by=by, comment=comment)


def _run_manager(command: str, file: Path | None, *options: str) -> None:
    given = [str(file)] if file else []
    run_program(SERVICE, command, *given, *options, does=f"{command} rules")


class _Undelivered(msgspec.Struct, frozen=True):
    """Which channels do not deliver, and what people have not been told for that reason."""

    failing: list[ChannelTrouble]
    late: list[FailedDelivery]
    given_up: list[FailedDelivery]


async def _alerts() -> tuple[list[AlertRecord], RulesRefused | None, _Undelivered]:
    async with session() as here:
        store = _store(here)
        undelivered = _Undelivered(
            await troubles(here.redis, here.keys),
            await late(here.redis, here.keys),
            await given_up(here.redis, here.keys),
        )
        return await store.alerts(), await store.refused(), undelivered


async def _history(limit: int) -> list[HistoryEntry]:
    async with session() as here:
        return await _store(here).history(limit=limit)


def _store(here: Session) -> AlertStore:
    return AlertStore(here.redis, here.keys)


def _shown(record: AlertRecord, undelivered: _Undelivered) -> dict[str, Any]:
    """Return an alert for programs, with where it has not arrived."""
    told = [
        {
            "channel": one.notification.channel,
            "recipient": one.notification.recipient,
            "error": one.error,
            "given_up": one in undelivered.given_up,
        }
        for one in (*undelivered.late, *undelivered.given_up)
        if one.notification.alert.fingerprint == record.fingerprint
    ]
    return {**msgspec.structs.asdict(present(record)), "undelivered": told}


def _print_undelivered(undelivered: _Undelivered) -> None:
    for trouble in undelivered.failing:
        who = trouble.channel + (f" ({trouble.recipient})" if trouble.recipient else "")
        headline = f"channel {printable(who)} does not deliver, since {trouble.since[:19]}"
        console().print(headline, style="bold red")
        console().print(f"    {printable(trouble.reason.partition(chr(10))[0])}")
    for how, deliveries in (("still tried", undelivered.late), ("given up", undelivered.given_up)):
        for one in deliveries:
            alert = one.notification.alert
            what = f"{alert.severity} {alert.rule} ({alert.status}): {alert.summary}"
            console().print(f"not delivered on {printable(one.notification.channel)}, {how}: {printable(what)}")


def _print(record: AlertRecord) -> None:
    out = console()
    headline = f"{record.state:<8} {record.severity:<8} {_name(record)}  since {rfc3339(record.since)[:19]}"
    headline += f"  {record.fingerprint}" if record.state == "firing" else ""
    out.print(headline, style=_STYLES[record.severity] if record.state == "firing" else "")
    out.print(f"    {printable(record.summary)}")
    if record.reason not in record.summary:
        out.print(f"    {printable(record.reason)}")
    if record.exemplars:
        out.print(f"    traces: {' '.join(record.exemplars)}")
    if record.suppressed:
        out.print(f"    nobody is notified: {printable(record.suppressed)}")
    if record.acknowledged_by:
        out.print(f"    acknowledged by {printable(record.acknowledged_by)}")


def _row(entry: HistoryEntry) -> list[str]:
    why = printable(entry.why) + (f" (found at {rfc3339(entry.recorded)[:19]})" if entry.recorded else "")
    return [rfc3339(entry.time)[:19], entry.what, _name(entry), why]


def _name(of: AlertRecord | HistoryEntry) -> str:
    return printable(" ".join((of.rule, "/".join(of.labels.values()))).strip())
