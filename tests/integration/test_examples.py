"""Every example does what its head says: its commands are run, and what comes of them is compared."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.topology import load
from tests.command_line import environment
from tests.forks import run
from tests.gateways import running_gateway
from tests.processes import ROOT, eventually, service_process
from tests.servers import Server

FOLDER = ROOT / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.name.startswith("test_"))
CARRIER_SECRET = "whsec_ZXhhbXBsZS1zZWNyZXQtZm9yLXRoZS1jYXJyaWVy"
Example = list[tuple[str, list[str]]]


def read(text: str) -> tuple[Example, list[str]]:
    """Return the commands of a text, each with the output it shows, and the events it promises on `facts`."""
    commands: Example = []
    facts: list[str] = []
    promised = False
    for line in text.splitlines():
        promised = promised or "`facts` then:" in line
        if line.startswith("    $ "):
            commands.append((line.removeprefix("    $ "), []))
        elif line.startswith("    ") and re.match(r" {4}[a-z]+\.[a-z]+ \{", line) and promised:
            facts.append(line.strip())
        elif line.startswith("    "):
            commands[-1][1].append(line.strip())
    return commands, facts


def published(raw: Any, stream: str = "facts") -> list[str]:
    return [f"{fields[b'type'].decode()} {fields[b'data'].decode()}" for _, fields in raw.xrange(stream)]


@contextlib.contextmanager
def carried_out(commands: Example, raw: Any, env: dict[str, str], folder: Path) -> Iterator[None]:
    """Run commands as a reader would; services go on until the end of the context."""
    with contextlib.ExitStack() as services:
        for command, shown in commands:
            program, *arguments = shlex.split(command)
            if program == "redis-cli":
                wait_until_said(raw, arguments, shown)
            elif arguments[0] == "run":
                services.enter_context(service_process("-m", program, *arguments, env=env, cwd=folder))
            else:
                done = run([program, *arguments], env=environment(**env), cwd=folder)
                assert done.returncode == 0, done.stderr
        yield


def wait_until_said(raw: Any, arguments: list[str], wanted: list[str]) -> None:
    """Wait until Redis answers what an example shows."""

    def said() -> bool:
        answer = raw.execute_command(*arguments)
        return [answer.decode() if isinstance(answer, bytes) else str(answer)] == wanted

    eventually(said, what=f"{arguments} answers {wanted}")


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name != "webhook_receiver"])
def test_an_example_does_what_its_head_says(name: str, server: Server, raw: Any) -> None:
    head, _, _ = (FOLDER / f"{name}.py").read_text().removeprefix('"""').partition('"""')
    commands, facts = read(head)
    assert len(commands) > 1
    with carried_out(commands, raw, {"REDIS_URL": server.url}, FOLDER):
        eventually(lambda: len(published(raw)) >= len(facts), what=f"{facts} on facts")
    assert published(raw) == facts


def test_a_signed_webhook_reaches_its_handler(server: Server, raw: Any, tmp_path: Path) -> None:
    head, _, _ = (FOLDER / "webhook_receiver.py").read_text().removeprefix('"""').partition('"""')
    commands, facts = read(head)
    body = re.search(r"with `(\{.*\})`", head)
    assert body is not None
    env = {
        "REDIS_URL": server.url,
        "PENSTOCK_TOPOLOGY": str(FOLDER / "streams.yaml"),
        "PENSTOCK_DEMO_WEBHOOK": "true",
    }
    with carried_out(commands, raw, env, FOLDER), running_gateway(server, tmp_path, **env) as gateway:
        answers = [gateway.post(body[1].encode(), signed(body[1]), path="/webhooks/carrier") for _ in range(2)]
        assert [answer.status for answer in answers] == [202, 202], answers
        eventually(lambda: published(raw))
    assert published(raw) == facts  # the second was known


def signed(body: str) -> dict[str, str]:
    """Return the headers of Standard Webhooks for a body."""
    now = str(int(time.time()))
    key = base64.b64decode(CARRIER_SECRET.removeprefix("whsec_"))
    digest = hmac.new(key, f"msg_1.{now}.{body}".encode(), hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"webhook-id": "msg_1", "webhook-timestamp": now, "webhook-signature": signature}


def test_every_example_is_declared_and_listed() -> None:
    topology = load(FOLDER / "streams.yaml")
    runs = {spec.run for spec in topology.services.values()}
    assert runs == {f"{name}:service" for name in EXAMPLES} | {"penstock_services.gateway"}
    listed = re.findall(r"\[(\w+\.py)\]", (FOLDER / "README.md").read_text())
    assert sorted(listed) == sorted(path.name for path in FOLDER.glob("*.py"))
    assert json.dumps(CARRIER_SECRET)[1:-1] in (FOLDER / "streams.yaml").read_text()
