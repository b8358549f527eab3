"""The command line, put together from one module per group of commands."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from penstock.cli import (
    alerts,
    breakers,
    deliveries,
    dlq,
    emit,
    job,
    metrics,
    notify,
    run,
    silence,
    status,
    topology,
    trace,
)
from penstock.cli.demo import command as demo
from penstock.cli.up import command as up
from penstock.service.main import report_errors

EPILOG = (
    "Exit codes: 0 done, 1 the answer is no (no such job, a difference found), 2 something to mend "
    "(arguments, streams.yaml, environment), 3 Redis cannot be reached."
)

app = typer.Typer(
    name="penstock",
    help="Durable, event-driven services over Redis Streams.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(up.up)
app.command()(run.run)
app.command()(emit.emit)
app.command()(status.status)
app.command()(metrics.metrics)
app.command()(job.job)
app.command()(trace.trace)
app.command()(trace.traces)
app.add_typer(alerts.app)
app.add_typer(silence.app)
app.add_typer(deliveries.app)
app.add_typer(notify.app)
app.add_typer(dlq.app)
app.add_typer(breakers.app)
app.add_typer(topology.app)
app.command()(demo.demo)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(version("penstock"))
        raise typer.Exit


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
        app()


if __name__ == "__main__":
    main()
