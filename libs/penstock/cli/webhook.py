"""`penstock webhook`: see what a signed request of a source would become."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.http import GATEWAY
from penstock.cli.service_program import run_program

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
    options = [*(["--data", data] if data else []), *(["--send"] if send else [])]
    run_program(GATEWAY, "webhook", source, *options, does="try webhooks")
