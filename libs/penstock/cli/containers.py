"""`penstock containers`: what the containers service keeps, and what it is asked for."""

from __future__ import annotations

from typing import Annotated

import typer

from penstock.cli.service_program import run_program

SERVICE = "containers"
app = typer.Typer(name="containers", help="Show, declare, start and stop container services.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Name = Annotated[str, typer.Argument(help="Name of a container service.")]


@app.command()
def ls(as_json: Json = False) -> None:
    """List container services, and how each stands.

    JSON: [{"name", "image", "wanted", "state", "generation", "replicas", "failures", "endpoints"}].
    """
    _run("ls", as_json=as_json)


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show what is declared of a service, and how far its containers are; as JSON its whole record."""
    _run("show", name, as_json=as_json)


@app.command()
def apply(
    file: Annotated[str, typer.Argument(help="A declaration in YAML or JSON; - for stdin.")], as_json: Json = False
) -> None:
    """Declare a service, or declare it anew; the same again changes nothing. Exits with 1 if it is refused."""
    _run("apply", file, as_json=as_json)


@app.command()
def start(name: Name, as_json: Json = False) -> None:
    """Want a service to run: at once, whatever it waits for."""
    _run("start", name, as_json=as_json)


@app.command()
def stop(name: Name, as_json: Json = False) -> None:
    """Want a service to stand; its containers stay."""
    _run("stop", name, as_json=as_json)


@app.command()
def delete(name: Name, as_json: Json = False) -> None:
    """Want a service gone, with its containers and ports."""
    _run("delete", name, as_json=as_json)


@app.command()
def plan(
    name: Annotated[str | None, typer.Argument(help="Name of a container service; all of them, if absent.")] = None,
    as_json: Json = False,
) -> None:
    """Ask the engine, and show the next step for each service without taking it.

    JSON: [{"name", "step", "containers": [{"name", "state", "health"}]}].
    """
    _run("plan", *([name] if name else []), as_json=as_json)


def _run(command: str, *what: str, as_json: bool) -> None:
    run_program(SERVICE, command, *what, *(["--json"] if as_json else []), does="keep containers")
