"""The command line, put together from one module per group of commands; each is imported when it is called."""

from __future__ import annotations

import importlib
from typing import Annotated, Any, NamedTuple

import typer
import typer.core

from penstock.service.main import report_errors


class Command(NamedTuple):
    """Where a command is found, and the line that `penstock --help` has for it: the first of its own help."""

    home: str
    summary: str


COMMANDS = {
    "up": Command(
        "penstock.cli.up.command:up",
        "Start Redis and every service of streams.yaml, each as its own process, until Ctrl-C.",
    ),
    "init": Command(
        "penstock.cli.init.command:init",
        "Make a folder with a small working project: a service, its streams.yaml, a test, a compose file.",
    ),
    "run": Command("penstock.cli.run:run", "Run one service until SIGTERM or Ctrl-C."),
    "emit": Command("penstock.cli.emit:emit", "Publish one event and print its id."),
    "status": Command("penstock.cli.status:status", "Show each stream's length and how each group stands with it."),
    "metrics": Command(
        "penstock.cli.metrics:metrics",
        "Show rates, failures and durations of jobs, counts of events, and how far every group has come.",
    ),
    "job": Command(
        "penstock.cli.job:job",
        "Show what became of a job: queued, running, retrying, completed, dead, cancelled or settled.",
    ),
    "trace": Command(
        "penstock.cli.trace:trace", "Draw one trace: every event, what it led to, and how each attempt at it went."
    ),
    "traces": Command("penstock.cli.trace:traces", "List recent traces, the newest first."),
    "demo": Command(
        "penstock.cli.demo.command:demo", "Send jobs through the mesh and tell step by step what Redis says of each."
    ),
    "alerts": Command("penstock.cli.alerts:app", "Show what is wrong, and what was."),
    "silence": Command("penstock.cli.silence:app", "Tell nobody of certain alerts for a while."),
    "deliveries": Command(
        "penstock.cli.deliveries:app", "Show who was notified, with what result; send again what failed."
    ),
    "notify": Command("penstock.cli.notify:app", "Test a channel, preview a message; check and reload notify.yaml."),
    "containers": Command("penstock.cli.containers:app", "Show, declare, start and stop container services."),
    "dlq": Command("penstock.cli.dlq:app", "Find the causes among the dead letters, replay or delete them."),
    "breakers": Command("penstock.cli.breakers:app", "Show circuit breakers, open or close them by hand."),
    "connections": Command(
        "penstock.cli.connections:connections",
        "List the live connections of browsers and other programs, over all processes that serve them.",
    ),
    "spool": Command(
        "penstock.cli.spool:app", "Show, check and empty the spool: what was accepted while Redis was away."
    ),
    "webhook": Command("penstock.cli.webhook:app", "Try a webhook source."),
    "secret": Command(
        "penstock.cli.secret:secret",
        "Make a secret for a client of streams.yaml: the secret for whoever calls, its hash for `sha256`.",
    ),
    "topology": Command("penstock.cli.topology:app", "Check streams.yaml, and make the Redis users that it asks for."),
}

EPILOG = (
    "Exit codes: 0 done, 1 the answer is no (no such job, a difference found), 2 something to mend "
    "(arguments, streams.yaml, environment), 3 Redis cannot be reached, 4 it hangs and must be started again."
)


class _Commands(typer.core.TyperGroup):
    """Knows a line about each command, and imports the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in COMMANDS:
            self.add_command(load(args[0]), args[0])
        return super().resolve_command(ctx, args)


def load(name: str) -> Any:
    """Import a command and return it as Typer makes it, with options and subcommands."""
    module, _, attribute = COMMANDS[name].home.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    family = typer.Typer(rich_markup_mode="rich")
    if isinstance(found, typer.Typer):
        family.add_typer(found)
    else:
        family.command(name)(found)
    return typer.main.get_group(family).commands[name]


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415 - a cost that only this option has

        typer.echo(version("penstock"))
        raise typer.Exit


app = typer.Typer(
    name="penstock",
    cls=_Commands,
    help="Durable, event-driven services over Redis Streams.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _command in COMMANDS.items():
    app.command(_name, help=_command.summary)(lambda: None)  # its place in the list; never called


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Durable, event-driven services over Redis Streams."""


def main() -> None:
    """Run the command line; errors become a sentence and an exit code."""
    with report_errors():
        app(prog_name="penstock")  # as `python -m penstock` too: completion goes by this name


if __name__ == "__main__":
    main()
