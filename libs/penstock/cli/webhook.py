"""`penstock webhook`: see what a signed request of a source would become."""

from __future__ import annotations

import subprocess
from typing import Annotated

import typer

from penstock.cli.http import GATEWAY
from penstock.cli.up.programs import programs
from penstock.errors import ConfigurationError
from penstock.settings import Settings
from penstock.topology import load

app = typer.Typer(name="webhook", help="Try a webhook source.", no_args_is_help=True)


@app.callback()
def _webhook() -> None:
    """Try a webhook source."""


@app.command("test")
def sign(
    source: Annotated[str, typer.Argument(help="Its name in streams.yaml.")],
    data: Annotated[str | None, typer.Option(metavar="FILE", help="The body; - for stdin, a sample if absent.")] = None,
    send: Annotated[bool, typer.Option("--send", help="Send it to the running gateway, too.")] = False,
) -> None:
    """Sign a sample request as the source would, and show what it becomes; exits with 1 if it would be refused."""
    topology = load(Settings.from_env().topology)
    topology.service(GATEWAY)
    found = [program.command for program in programs(topology) if program.name == GATEWAY]
    if not found or found[0][1:3] == ("-m", "penstock"):
        raise ConfigurationError(f"streams.yaml: services.{GATEWAY}.run names no module that can try webhooks")
    options = [*(["--data", data] if data else []), *(["--send"] if send else [])]
    done = subprocess.run([*found[0], "webhook", source, *options], check=False)  # noqa: S603 - our own
    if done.returncode:
        raise typer.Exit(done.returncode)
