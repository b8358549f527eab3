"""Programs: what to start for each service of streams.yaml."""

from __future__ import annotations

import sys

import msgspec

from penstock.errors import ConfigurationError
from penstock.service.importing import module_exists
from penstock.topology import Topology


class Program(msgspec.Struct, frozen=True):
    """A service to run as a process of its own; `ships`: it is one of Penstock's.

    `sources` are the targets (see `penstock.cli.reload`) whose files it is made of, those that ship left out.
    """

    name: str
    command: tuple[str, ...]
    ships: bool = False
    sources: tuple[str, ...] = ()


def ships(run: str) -> bool:
    """Whether `run` names a service of Penstock's, rather than one that somebody has written under its name."""
    return run.partition(".")[0] == "penstock_services"


def programs(topology: Topology, *, jobs: str = "") -> list[Program]:
    """Return a program for each service that says how it is run; `jobs` is PENSTOCK_JOBS.

    Raises:
        ConfigurationError: a `run` names a module that does not exist, or there is nothing to run.
    """
    found = [_program(name, spec.run, jobs) for name, spec in topology.services.items() if spec.run]
    if not found:
        raise ConfigurationError("streams.yaml: no service has `run`, so there is nothing to start")
    return found


def _program(name: str, run: str, jobs: str) -> Program:
    module, _, attribute = run.partition(":")
    if not module_exists(module, runnable=not attribute):
        raise ConfigurationError(
            f"streams.yaml: services.{name}.run: there is no module {module} to run from this folder; "
            "name one (`shop.orders`, run by `python -m`) or a service in one (`shop.orders:service`)"
        )
    command = ("-m", "penstock", "run", run) if attribute else ("-m", module)
    if ships(run):
        sources = (f"jobs={jobs}",) if jobs and run == "penstock_services.worker" else ()
    else:
        sources = (f"service={run}" if attribute else f"module={module}",)
    return Program(name, (sys.executable, *command), ships=ships(run), sources=sources)
