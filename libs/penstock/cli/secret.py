"""`penstock secret`: a secret for a client, and its hash for streams.yaml."""

from __future__ import annotations

import hashlib
import secrets

import typer

_BYTES = 32


def secret() -> None:
    """Make a secret for a client of streams.yaml: the secret for whoever calls, its hash for `sha256`."""
    made = secrets.token_hex(_BYTES)
    typer.echo(f"secret  {made}\nsha256  sha256:{hashlib.sha256(made.encode()).hexdigest()}")
