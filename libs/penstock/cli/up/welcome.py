"""What `penstock up` says once the mesh is ready: where everything is, and what to try."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from pathlib import Path

from penstock.cli.http import GATEWAY, address, url
from penstock.event import json_encoder
from penstock.keys import INGEST, Keys
from penstock.redis.connection import hide_password
from penstock.redis.server import OwnServer
from penstock.settings import Settings, redis_url
from penstock.times import rfc3339
from penstock.topology import Topology


def welcome(settings: Settings, topology: Topology, server: OwnServer | None, *, coloured: bool) -> str:
    """Return the text, with ANSI codes if `coloured`."""
    bold, dim, end = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if coloured else ("", "", "")
    places = [
        *_services(settings, topology),
        *_pages(settings, topology),
        ("redis", _redis(settings, server)),
        ("streams", _streams(topology)),
    ]
    width = max(len(name) for name, _ in places) + 2
    lines = [
        "",
        f"  {bold}Penstock is ready{end}",
        "",
        *(f"  {dim}{name:<{width}}{end}{text}" for name, text in places),
        "",
        f"  {dim}Try, in another terminal:{end}",
        *(f"    {command}" for command in _commands(settings, topology)),
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
        if spec.run and address(settings, name)
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


def _commands(settings: Settings, topology: Topology) -> list[str]:
    ticket = json_encoder.encode(
        {
            "ticket_id": "T-1",
            "description": "printer on fire",
            "priority": "high",
            "tenant_id": "acme",
            "timestamp": rfc3339(time.time()),
        }
    ).decode()
    commands = []
    if GATEWAY in topology.services:
        event = f'{{"type":"ticket.created","data":{ticket}}}'
        commands += [
            f"curl {url(settings)}/v1/events -H 'Content-Type: application/json' \\",
            f"  -d {shlex.quote(event)}",
        ]
    ingest = Keys(settings.prefix).stream(INGEST)
    cli = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if cli and not settings.redis_url:
        port = "" if settings.redis_port == 6379 else f" -p {settings.redis_port}"
        commands.append(f"{Path(cli).name}{port} XADD {ingest} '*' type ticket.created data {shlex.quote(ticket)}")
    else:
        commands.append(f"{_ourselves()} emit ticket.created {shlex.quote(ticket)}")
    return [*commands, f"{_ourselves()} status"]


def _ourselves() -> str:
    """Return how to call this program from here."""
    if shutil.which("penstock"):
        return "penstock"
    program = Path(sys.argv[0]).absolute()
    here = Path.cwd()
    return str(program.relative_to(here)) if program.is_relative_to(here) else str(program)
