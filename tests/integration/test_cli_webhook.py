"""`penstock webhook test` and `penstock secret`."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from urllib.parse import quote

import pytest

from penstock_services.gateway.schemes import SCHEMES
from tests.command_line import Cli
from tests.gateways import running_gateway
from tests.servers import Server

SECRET = "whsec_" + "c2VjcmV0" * 4 + "/+=="  # which an address writes otherwise
HOOKS = """
streams: {ingest: {}}
services: {gateway: {run: penstock_services.gateway, publishes: [ingest]}}
webhooks:
""" + "".join(
    f"  {name}: {{scheme: {name}, secret: HOOK, type: 'got.{{body:type}}', url: 'https://shop.example/h', tenant: acme,"
    f" hmac: {{header: X-Sig}}, token: {{user: me}}}}\n"
    for name in SCHEMES
)
HOOKS += "  address: {scheme: token, secret: HOOK, type: 'got.{body:type}', token: {query: code}}\n"


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    cli = Cli(server.url, tmp_path)
    (tmp_path / "streams.yaml").write_text(HOOKS)
    cli.env["HOOK"] = SECRET
    return cli


@pytest.mark.parametrize("name", [*SCHEMES, "address"])
def test_it_shows_what_a_signed_request_becomes_and_no_secret(cli: Cli, name: str) -> None:
    done = cli("webhook", "test", name)
    assert done.returncode == 0, done.stderr
    assert "got.test.webhook" in done.stdout
    assert f"webhook/{name}" in done.stdout
    assert SECRET not in done.stdout
    assert quote(SECRET) not in done.stdout
    assert base64.b64encode(f"me:{SECRET}".encode()).decode() not in done.stdout


def test_it_says_why_a_request_would_be_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "body").write_text("{}")
    refused = cli("webhook", "test", "github", "--data", str(tmp_path / "body"))
    assert (refused.returncode, "422: there is no text at body type" in refused.stderr) == (1, True)
    assert cli("webhook", "test", "github", HOOK="").returncode == 1
    unknown = cli("webhook", "test", "nobody")
    assert (unknown.returncode, "there are standard-webhooks" in unknown.stderr) == (2, True)


@pytest.mark.parametrize("name", ["stripe", "twilio", "address"])
def test_it_sends_the_request_to_the_running_gateway(cli: Cli, server: Server, tmp_path: Path, name: str) -> None:
    env = {"PENSTOCK_TOPOLOGY": cli.env["PENSTOCK_TOPOLOGY"], "HOOK": SECRET}
    with running_gateway(server, tmp_path, **env) as gateway:
        done = cli("webhook", "test", name, "--send", PENSTOCK_GATEWAY_PORT=str(gateway.port))
    assert (done.returncode, "202" in done.stdout, "job_id" in done.stdout) == (0, True, True), done.stderr


def test_a_secret_comes_with_its_hash(cli: Cli) -> None:
    made, digest = (line.split()[1] for line in cli("secret").stdout.splitlines())
    assert digest == f"sha256:{hashlib.sha256(made.encode()).hexdigest()}"
    assert len(made) == 64
