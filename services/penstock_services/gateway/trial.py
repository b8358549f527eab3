"""What `penstock webhook test` runs: `python -m penstock_services.gateway webhook SOURCE`."""

from __future__ import annotations

import argparse
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

import msgspec
from multidict import CIMultiDict

from penstock.cli.http import url
from penstock.cli.terminal import console, printable
from penstock.errors import ConfigurationError
from penstock.redaction import header_secrets, redact
from penstock.service.main import Negative
from penstock.settings import Settings
from penstock.topology import load
from penstock.web.problems import Problem
from penstock_services.gateway.schemes import Signed
from penstock_services.gateway.sources import WebhookSource, sources

_SAMPLE = b'{"id": "evt_trial", "type": "test.webhook"}'
_FORM_SAMPLE = b"id=evt_trial&type=test.webhook"


def run(arguments: Sequence[str]) -> None:
    """Sign a sample request of a source and say what would become of it; with `--send`, send it.

    Raises:
        ConfigurationError: there is no such source, or it cannot be used.
        Negative: it would be refused.
    """
    parser = argparse.ArgumentParser(prog="penstock webhook test")
    parser.add_argument("source")
    parser.add_argument("--data")
    parser.add_argument("--send", action="store_true")
    asked = parser.parse_args(arguments)
    settings = Settings.from_env()
    source = _source(asked.source, settings)
    body = _FORM_SAMPLE if source.hook.scheme == "twilio" else _SAMPLE
    if asked.data:
        body = sys.stdin.buffer.read() if asked.data == "-" else Path(asked.data).read_bytes()
    signed = source.verifiers[0].sign(body, time.time())
    headers = CIMultiDict({"Content-Type": "application/json", **signed.headers})
    request = msgspec.structs.replace(signed, headers=headers)
    _show_request(source, request)
    _show_event(source, request)
    if asked.send:
        _send(url(settings), source, request)


def _source(name: str, settings: Settings) -> WebhookSource:
    known = sources(load(settings.topology, include=settings.included), demo=settings.demo_webhook)
    if name not in known:
        raise ConfigurationError(
            f"streams.yaml: webhooks.{name}: there is none; there are {', '.join(known) or 'none'}"
        )
    if not known[name].verifiers:
        raise Negative(f"{name}: everything is refused until {known[name].hook.secret} is set")
    return known[name]


def _path(source: WebhookSource, request: Signed) -> str:
    return f"/webhooks/{source.name}{'?' if request.query else ''}{urlencode(request.query)}"


def _show_request(source: WebhookSource, request: Signed) -> None:
    out = console()
    basic = next((value for value in request.headers.values() if value.startswith("Basic ")), "")
    hidden = {*source.secrets, *header_secrets({"Authorization": basic})}
    out.print(f"POST {redact(_path(source, request), hidden)}", style="bold")
    for name, value in request.headers.items():
        out.print(f"  {name}: {redact(value, hidden)}")
    out.print(f"\n  {printable(request.body[:500].decode(errors='replace'))}\n")


def _show_event(source: WebhookSource, request: Signed) -> None:
    try:
        incoming = source.receive(request)
        event_type = source.event_type(request.headers, incoming.content)
    except Problem as problem:
        raise Negative(f"{source.name}: it would be answered {problem.status}: {problem.detail}") from None
    if len(request.body) > source.max_body:
        raise Negative(f"{source.name}: it would be answered 413: bodies have at most {source.max_body} bytes")
    out = console()
    out.print(f"is verified ({source.hook.scheme}) and becomes an event on {source.hook.stream}:", style="bold")
    for name, value in (
        ("type", event_type),
        ("source", f"webhook/{source.name}"),
        ("tenant", source.hook.tenant or "-"),
        ("known again by", incoming.verified.key or "nothing: each request is an event of its own"),
    ):
        out.print(f"  {name:<15} {printable(value)}")


def _send(gateway: str, source: WebhookSource, signed: Signed) -> None:
    address = f"{gateway}/webhooks/{source.name}"  # as errors call it: what is behind it may be a secret
    request = urllib.request.Request(  # noqa: S310 - our own gateway
        gateway + _path(source, signed), signed.body, dict(signed.headers)
    )
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            console().print(f"\n{answer.status} {answer.read().decode()}")
    except urllib.error.HTTPError as error:
        raise Negative(f"{address} answers {error.code}: {error.read().decode(errors='replace')}") from None
    except OSError as error:
        raise Negative(f"{address}: {error}; does the gateway run?") from None
