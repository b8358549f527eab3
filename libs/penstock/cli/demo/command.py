"""`penstock demo`: five jobs, and what becomes of each."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import typer

from penstock import processes
from penstock.cli.demo.story import Storyteller
from penstock.cli.http import is_ready, url
from penstock.cli.session import run
from penstock.cli.terminal import console
from penstock.errors import ConfigurationError
from penstock.redis.connection import hide_password
from penstock.settings import Settings, redis_url
from penstock.topology import load

_START_DEADLINE, _STOP_DEADLINE = 60.0, 30.0
_POLL = 0.05


def demo() -> None:
    """Send jobs through the mesh and tell step by step what Redis says of each.

    Two succeed, one fails twice before it does, one never does, one has bad data. Then many begin to fail, an
    alert tells of it, and it is over once they are well again; that takes half a minute. A mesh that runs already
    is used; otherwise one is started for the demo, on free ports and with its data in a temporary folder.
    Exits with 1 if anything is not as promised.
    """
    settings = Settings.from_env()
    out = console()
    with contextlib.ExitStack() as stack:
        alone = not is_ready(settings)
        if alone:
            out.print("No mesh is running here: starting one for the demo ...", style="dim")
            settings = stack.enter_context(_mesh(settings))
        out.print(f"gateway {url(settings)}, Redis {hide_password(redis_url(settings))}", style="dim")
        storyteller = Storyteller(settings, out, alone=alone)
        broken = run(storyteller.run())
    if broken:
        out.print(f"\n{broken} of {storyteller.promises} promises broken", style="bold red")
        raise typer.Exit(1)
    out.print(f"\nAll {storyteller.promises} as promised.", style="bold green")


@contextlib.contextmanager
def _mesh(settings: Settings) -> Iterator[Settings]:
    """Run `penstock up` beside us; yield the settings that reach it.

    Raises:
        ConfigurationError: streams.yaml has not what the demo needs, or the mesh does not start or stop as it should.
    """
    if not {"gateway", "worker"} <= {
        name for name, spec in load(settings.topology, include=settings.included).services.items() if spec.run
    }:
        raise ConfigurationError("the demo needs the services gateway and worker: streams.yaml does not run them")
    with tempfile.TemporaryDirectory(prefix="penstock-demo-") as folder:
        own = _apart(settings, folder)
        log = Path(folder) / "up.log"
        process = _start(own, log)
        try:
            _wait_until_ready(own, process, log)
            yield own
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(_STOP_DEADLINE)
        if code:
            raise ConfigurationError(f"the demo's mesh did not stop in order:\n{log.read_text()}")


def _apart(settings: Settings, folder: str) -> Settings:
    """Return settings for a mesh of its own: every port a free one, everything on the loopback."""
    names = settings.__struct_fields__
    ports = [name for name in names if name.endswith("_port")]
    changes: dict[str, Any] = dict(zip(ports, _free_ports(len(ports)), strict=True))
    changes |= {name: "127.0.0.1" for name in names if name.endswith("_host")}
    return msgspec.structs.replace(settings, redis_url=None, data_dir=folder, **changes)


def _start(settings: Settings, log: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "REDIS_URL_FILE")}
    for field in msgspec.structs.fields(settings):
        if field.name.endswith(("_port", "_host")) or field.name == "data_dir":
            environment[field.encode_name] = str(getattr(settings, field.name))
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "penstock", "up"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=processes.dies_with_parent(signal.SIGTERM),  # noqa: PLW1509 - there are no threads yet
        )


def _wait_until_ready(settings: Settings, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START_DEADLINE
    while not is_ready(settings):
        if process.poll() is not None or time.monotonic() > until:
            raise ConfigurationError(f"the demo's mesh did not start:\n{log.read_text()}")
        time.sleep(_POLL)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
