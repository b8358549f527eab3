"""What commands of `penstock containers` run: `python -m penstock_services.containers ls|show|apply|...`."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock.cli.session import Session, session
from penstock.cli.terminal import console, print_json, print_table, printable
from penstock.client.client import Penstock
from penstock.config import read_yaml
from penstock.errors import ConfigurationError, JobDead
from penstock.service.main import Negative
from penstock.settings import Settings, read_variables
from penstock_services.containers.engine import Engine, EngineAway
from penstock_services.containers.model import Record
from penstock_services.containers.plan import Step, Wait, plan
from penstock_services.containers.policy import ContainerSettings
from penstock_services.containers.reconcile import COMMANDS, SERVICE, SERVICES, endpoints
from penstock_services.containers.service import mesh_label

_WAIT = 30.0  # seconds for a command to be taken


def run(arguments: Sequence[str]) -> None:
    """Run one of the commands.

    Raises:
        ConfigurationError: arguments or environment are wrong.
        Negative: there is no such service, or the service refuses.
        Unavailable: Redis does not answer.
    """
    parser = argparse.ArgumentParser(prog="penstock containers")
    parser.add_argument("command", choices=("ls", "show", "apply", "start", "stop", "delete", "plan"))
    parser.add_argument("what", nargs="?")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    match asked.command:
        case "ls":
            _print_list(asyncio.run(_records()), as_json=asked.json)
        case "show":
            _print_record(_one(asyncio.run(_records()), asked.what), as_json=asked.json)
        case "plan":
            _print_plan(asyncio.run(_plan(asked.what)), as_json=asked.json)
        case "apply":
            _command("service.apply", _declaration(asked.what), as_json=asked.json)
        case command:
            _command(f"service.{command}", {"name": asked.what}, as_json=asked.json)


async def _records() -> list[Record]:
    async with session() as here:
        return await _read(here)


async def _read(here: Session) -> list[Record]:
    found = await here.redis.hgetall(here.keys.state(SERVICE, SERVICES))
    return [msgspec.json.decode(raw, type=Record) for _, raw in sorted(found.items())]


def _one(records: Sequence[Record], name: str) -> Record:
    for record in records:
        if record.declared.name == name:
            return record
    raise Negative(f"there is no container service {name}; `penstock containers ls` lists them")


async def _plan(name: str | None) -> list[dict[str, Any]]:
    own = read_variables(ContainerSettings)
    engine = Engine(own.engine, mesh=mesh_label(Settings.from_env()))
    records = await _records()
    found = []
    try:
        for record in [_one(records, name)] if name else records:
            observed = await engine.containers(record.declared.name)
            step = plan(record, observed, time.time())
            containers = [{"name": one.name, "state": one.state, "health": one.health} for one in observed]
            found.append({"name": record.declared.name, "step": _in_words(step), "containers": containers})
    except EngineAway as error:
        raise ConfigurationError(f"the engine does not answer: {error}; set PENSTOCK_CONTAINERS_ENGINE") from None
    finally:
        engine.close()
    return found


def _in_words(step: Step) -> str:
    if isinstance(step, Wait):
        return "nothing" if step.seconds is None else f"wait {step.seconds:.1f} s"
    told = {name: getattr(step, name) for name in step.__struct_fields__}
    which = [
        one.name if (one := told.get("container")) else "",
        f"replica {told['ordinal']}" if "ordinal" in told else "",
        str(told.get("phase") or told.get("what") or ""),
    ]
    return " ".join([type(step).__name__.lower(), *filter(None, which)])


def _declaration(file: str) -> Any:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file}: cannot be read ({error})") from None
    return read_yaml(text, file)


def _command(type_: str, data: Any, *, as_json: bool) -> None:
    try:
        accepted = asyncio.run(_submit(type_, data))
    except JobDead as error:
        raise Negative(error.error) from None
    except TimeoutError as error:
        raise Negative(f"{error}; does the containers service run?") from None
    if as_json:
        print_json(accepted)
    else:
        changes = "accepted" if accepted["changed"] else "nothing changes"
        console().print(f"{accepted['service']}: {changes} (generation {accepted['generation']})")


async def _submit(type_: str, data: Any) -> Any:
    async with (
        session() as here,
        Penstock.connect(topology=here.topology, source="penstock-cli", settings=here.settings) as mesh,
    ):
        job = await mesh.submit(type_, data, stream=COMMANDS)
        return await job.result(_WAIT)


def _row(record: Record) -> dict[str, Any]:
    declared = record.declared
    return {
        "name": declared.name,
        "image": declared.image,
        "wanted": record.wanted,
        "state": record.state or "changing",
        "generation": record.generation,
        "replicas": declared.replicas,
        "failures": sum(one.failures for one in record.instances.values()),
        "endpoints": endpoints(record) if record.state == "started" else {},
    }


def _print_list(records: Sequence[Record], *, as_json: bool) -> None:
    rows = [_row(record) for record in records]
    if as_json:
        print_json(rows)
    elif rows:
        print_table([*rows[0]], [[printable(_text(value)) for value in row.values()] for row in rows], whole=["name"])
    else:
        console().print("no container service is declared")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {' '.join(places)}" for name, places in value.items())
    return str(value)


def _print_record(record: Record, *, as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    for name, value in _row(record).items():
        console().print(f"{name:<12}{printable(_text(value))}")
    for ordinal, one in sorted(record.instances.items()):
        console().print(f"replica {ordinal:<4}{one.state or 'to be made'}, {one.failures} failures")


def _print_plan(found: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
    elif found:
        print_table(["name", "next step"], [[one["name"], printable(one["step"])] for one in found], whole=["name"])
    else:
        console().print("no container service is declared")
