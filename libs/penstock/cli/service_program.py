"""Running a service's own program for a command that only it can carry out: services are programs, not libraries."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

import typer

from penstock.cli.up.programs import programs
from penstock.errors import ConfigurationError
from penstock.settings import Settings
from penstock.topology import load


def run_program(
    service: str, *arguments: str, does: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None
) -> None:
    """Run the program of a service with arguments to its end; its exit code, unless it is 0, becomes this command's.

    `does` says for errors what its module has to be able to do.

    Raises:
        ConfigurationError: there is no such service, or it has no module of its own.
    """
    settings = Settings.from_env()
    topology = load(settings.topology, include=settings.included)
    topology.service(service)
    found = [program.command for program in programs(topology) if program.name == service]
    if not found or found[0][1:3] == ("-m", "penstock"):
        raise ConfigurationError(f"streams.yaml: services.{service}.run names no module that can {does}")
    done = subprocess.run([*found[0], *arguments], input=stdin, env=env, check=False)  # noqa: S603 - our own
    if done.returncode:
        raise typer.Exit(done.returncode)
