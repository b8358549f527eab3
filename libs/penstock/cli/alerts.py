"""`penstock alerts`: what is wrong, what was, and what rules would say."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.session import Session, run, session
from penstock.cli.terminal import console, print_json, print_table, printable
from penstock.cli.up.programs import programs
from penstock.errors import ConfigurationError
from penstock.mesh.alerts import SERVICE, AlertRecord, AlertStore, HistoryEntry, present
from penstock.mesh.deliveries import ChannelTrouble, FailedDelivery, late, troubles
from penstock.settings import Settings
from penstock.times import rfc3339
from penstock.topology import load

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
    "exemplars", "suppressed", ...}].
    """
    if context.invoked_subcommand is not None:
        return
    states = ("firing", "pending", "resolved") if every else ("firing", "pending")
    found = [record for record in run(_alerts()) if record.state in states]
    found.sort(key=lambda record: states.index(record.state))
    if as_json:
        print_json([present(record) for record in found])
    elif found:
        for record in found:
            _print(record)
    else:
        console().print("nothing is wrong")
    if not as_json:
        _print_undelivered(*run(_undelivered()))


@app.command()
def history(
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Show at most so many.")] = 50, as_json: Json = False
) -> None:
    """Show what happened to alerts, the newest first, and why."""
    found = run(_history(limit))
    if as_json:
        print_json([present(entry) for entry in found])
    elif found:
        print_table(["time", "what", "alert", "why"], [_row(entry) for entry in found])
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


def _run_manager(command: str, file: Path | None, *options: str) -> None:
    """Run the alert manager's own program: services are programs, not libraries."""
    topology = load(Settings.from_env().topology)
    topology.service(SERVICE)
    found = [program.command for program in programs(topology) if program.name == SERVICE]
    if not found or found[0][1:3] == ("-m", "penstock"):
        raise ConfigurationError(f"streams.yaml: services.{SERVICE}.run names no module that can {command} rules")
    given = [str(file)] if file else []
    done = subprocess.run([*found[0], command, *given, *options], check=False)  # noqa: S603 - our own
    if done.returncode:
        raise typer.Exit(done.returncode)


async def _alerts() -> list[AlertRecord]:
    async with session() as here:
        return await _store(here).alerts()


async def _undelivered() -> tuple[list[ChannelTrouble], list[FailedDelivery]]:
    async with session() as here:
        return await troubles(here.redis, here.keys), await late(here.redis, here.keys)


async def _history(limit: int) -> list[HistoryEntry]:
    async with session() as here:
        return await _store(here).history(limit=limit)


def _store(here: Session) -> AlertStore:
    return AlertStore(here.redis, here.keys)


def _print_undelivered(failing: list[ChannelTrouble], waiting: list[FailedDelivery]) -> None:
    """Show which channels do not deliver, and what people have not been told for that reason."""
    for trouble in failing:
        who = trouble.channel + (f" ({trouble.recipient})" if trouble.recipient else "")
        headline = f"channel {printable(who)} does not deliver, since {trouble.since[:19]}"
        console().print(headline, style="bold red")
        console().print(f"    {printable(trouble.reason.partition(chr(10))[0])}")
    for one in waiting:
        alert = one.notification.alert
        what = f"{alert.severity} {alert.rule} ({alert.status}): {alert.summary}"
        console().print(f"not delivered on {printable(one.notification.channel)}, still tried: {printable(what)}")


def _print(record: AlertRecord) -> None:
    out = console()
    headline = f"{record.state:<8} {record.severity:<8} {_name(record)}  since {rfc3339(record.since)[:19]}"
    out.print(headline, style=_STYLES[record.severity] if record.state == "firing" else "")
    out.print(f"    {printable(record.summary)}")
    if record.reason not in record.summary:
        out.print(f"    {printable(record.reason)}")
    if record.exemplars:
        out.print(f"    traces: {' '.join(record.exemplars)}")
    if record.suppressed:
        out.print(f"    nobody is told: {printable(record.suppressed)}")


def _row(entry: HistoryEntry) -> list[str]:
    return [rfc3339(entry.time)[:19], entry.what, _name(entry), printable(entry.why)]


def _name(of: AlertRecord | HistoryEntry) -> str:
    return printable(" ".join((of.rule, "/".join(of.labels.values()))).strip())
