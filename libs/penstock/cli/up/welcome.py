"""What `penstock up` says once the mesh is ready: where everything is, and what to try."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from penstock.cli.http import GATEWAY, address, url
from penstock.cli.up.programs import ships
from penstock.event import json_encoder
from penstock.keys import INGEST, Keys
from penstock.redis.connection import hide_password
from penstock.redis.server import OwnServer
from penstock.settings import Settings, redis_url
from penstock.times import rfc3339
from penstock.topology import Topology


class _Sample(msgspec.Struct, frozen=True):
    """An event to try: `note` says what is to be filled in."""

    stream: str
    type: str
    data: str
    note: str = ""


def welcome(
    settings: Settings,
    topology: Topology,
    server: OwnServer | None,
    *,
    coloured: bool,
    late: Sequence[str] = (),
    handled: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> str:
    """Return the text, with ANSI codes if `coloured`; `late` are services that are not ready yet.

    `handled` has for services of one's own a stream and a type that each handles there, as far as that is known.
    """
    bold, dim, end = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if coloured else ("", "", "")
    places = [
        *_services(settings, topology),
        *_pages(settings, topology),
        ("redis", _redis(settings, server)),
        ("streams", _streams(topology)),
    ]
    width = max(len(name) for name, _ in places) + 2
    headline = f"Penstock runs, and waits for {', '.join(late)}" if late else "Penstock is ready"
    sample = _sample(topology, handled)
    lines = [
        "",
        f"  {bold}{headline}{end}",
        "",
        *(f"  {dim}{name:<{width}}{end}{text}" for name, text in places),
        "",
        f"  {dim}Try, in another terminal{sample.note if sample else ''}:{end}",
        *(f"    {command}" for command in _commands(settings, topology, sample)),
        "",
        f"  {dim}Ctrl-C drains the services and stops everything.{end}",
        "",
    ]
    return "\n".join(lines) + "\n"


def _services(settings: Settings, topology: Topology) -> list[tuple[str, str]]:
    """Return each service that is run here and answers HTTP, with its address."""
    hooks = "".join(f", /webhooks/{name}" for name in topology.webhooks)
    access = "; for declared clients" if topology.clients else "; open to this machine"
    access = "; OPEN to whoever reaches it" if settings.gateway_open and not topology.clients else access
    offers = {GATEWAY: f"  POST /v1/events{hooks}{access}"}
    return [
        (name, url(settings, name) + offers.get(name, ""))
        for name, spec in topology.services.items()
        if spec.run and ships(spec.run) and address(settings, name)
    ]


def _pages(settings: Settings, topology: Topology) -> list[tuple[str, str]]:
    """Return what is to be looked at in a browser."""
    shown = settings.shows_traces(clients=bool(topology.clients))
    has_gateway = GATEWAY in topology.services and topology.services[GATEWAY].run
    return [("traces", f"{url(settings, GATEWAY)}/traces")] if has_gateway and shown else []


def _redis(settings: Settings, server: OwnServer | None) -> str:
    shown = hide_password(redis_url(settings))
    return f"{shown}  {server.binary}, data in {settings.data_dir}" if server else shown


def _streams(topology: Topology) -> str:
    """Return the streams with who reads them: `ingest > worker, events, dlq`."""
    readers = {name: topology.groups(name) for name in topology.streams}
    return ", ".join(name + (f" > {' + '.join(groups)}" if groups else "") for name, groups in readers.items())


def _sample(topology: Topology, handled: Mapping[str, tuple[str, str]]) -> _Sample | None:
    """Return an event that a service of this mesh handles; of one that does not ship at least the stream is known."""
    read_here = {name: spec for name, spec in topology.services.items() if spec.run and spec.consumes}
    if any(spec.run == "penstock_services.worker" and INGEST in spec.consumes for spec in read_here.values()):
        ticket = {
            "ticket_id": "T-1",
            "description": "printer on fire",
            "priority": "high",
            "tenant_id": "acme",
            "timestamp": rfc3339(time.time()),
        }
        return _Sample(INGEST, "ticket.created", json_encoder.encode(ticket).decode())
    own = [name for name, spec in read_here.items() if not ships(spec.run or "")]
    for name in own:
        if name in handled:
            return _Sample(*handled[name], "{}", f", with data that {name} takes")
    for name in own:
        stream = next(iter(read_here[name].consumes))
        return _Sample(stream, "TYPE", "{}", f", with a TYPE and data that {name} takes")
    return None


def _commands(settings: Settings, topology: Topology, sample: _Sample | None) -> list[str]:
    return [*(_publishing(settings, topology, sample) if sample else ()), f"{_ourselves()} status"]


def _publishing(settings: Settings, topology: Topology, sample: _Sample) -> list[str]:
    commands = []
    gateway = topology.services.get(GATEWAY)
    takes = sample.stream == INGEST or (
        gateway and sample.stream in gateway.publishes and sample.stream in topology.work
    )
    if gateway is not None and gateway.run and takes:
        query = "" if sample.stream == INGEST else f"?stream={sample.stream}"
        event = f'{{"type":"{sample.type}","data":{sample.data}}}'
        commands += [
            f"curl {shlex.quote(f'{url(settings)}/v1/events{query}')} -H 'Content-Type: application/json' \\",
            f"  -d {shlex.quote(event)}",
        ]
    data = shlex.quote(sample.data)
    cli = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if cli and not settings.redis_url:
        port = "" if settings.redis_port == 6379 else f" -p {settings.redis_port}"
        key = Keys(settings.prefix).stream(sample.stream)
        commands.append(f"{Path(cli).name}{port} XADD {key} '*' type {sample.type} data {data}")
    else:
        stream = "" if sample.stream == INGEST else f" --stream {sample.stream}"
        commands.append(f"{_ourselves()} emit {sample.type} {data}{stream}")
    return commands


def _ourselves() -> str:
    """Return how to call this program from here."""
    if shutil.which("penstock"):
        return "penstock"
    program = Path(sys.argv[0]).absolute()
    here = Path.cwd()
    return str(program.relative_to(here)) if program.is_relative_to(here) else str(program)
