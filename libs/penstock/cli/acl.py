"""`penstock topology acl`: the Redis users of a mesh, printed or set."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from penstock.cli.session import run, session
from penstock.cli.terminal import print_json
from penstock.config import read_secret
from penstock.errors import ConfigurationError
from penstock.keys import Keys
from penstock.mesh.acl import User, apply, known_commands, password_variable, save, users
from penstock.settings import Settings
from penstock.topology import load

_BYTES = 32


class _Told(msgspec.Struct):
    """What is printed: users with their rules; if they were set, which of them were otherwise, and whether it lasts."""

    users: dict[str, list[str]]
    changed: list[str] | None = None
    saved: bool | None = None


def acl(
    apply_: Annotated[bool, typer.Option("--apply", help="Set the users in Redis.")] = False,
    passwords: Annotated[
        Path | None,
        typer.Option(help="Folder with a file for each user that holds its password; missing ones are made."),
    ] = None,
    file_only: Annotated[bool, typer.Option("--file-only", help="Do not ask Redis which commands it knows.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Print a Redis user for each service, for operators who read and who act, and for clients.

    Each may do what its work needs and nothing else, as follows from streams.yaml. The lines are those of an ACL file;
    passwords are in them as hashes, from REDIS_PASSWORD_<USER>, a file named by REDIS_PASSWORD_<USER>_FILE, or the
    folder. With --apply the users are set, again and again to the same end; a user for which no password is given
    keeps its own.

    JSON: {"users": {name: [rule]}, "changed": [name] or null, "saved": whether the server has written its ACL file}.
    """
    if apply_ and file_only:
        raise ConfigurationError("--apply: it is Redis that is to know them; leave --file-only out")
    settings = Settings.from_env()
    wanted = users(
        load(settings.topology, include=settings.included), Keys(settings.prefix)
    )  # not as Redis has it: services may write that
    hashes = _hashes(wanted, passwords)
    if file_only:
        told = _Told({user.name: _with_password(user.rules(), hashes.get(user.name)) for user in wanted})
    else:
        told = run(_ask(wanted, hashes, set_them=apply_))
    if as_json:
        print_json(told)
    elif told.changed is None:
        for name, rules in told.users.items():
            typer.echo(f"user {name} {' '.join(rules)}")
    else:
        _say(told, told.changed)


async def _ask(wanted: list[User], hashes: dict[str, str], *, set_them: bool) -> _Told:
    async with session() as here:
        known = await known_commands(here.redis, wanted)
        told = _Told({user.name: _with_password(user.rules(known), hashes.get(user.name)) for user in wanted})
        if set_them:
            told.changed = await apply(here.redis, wanted, hashes)
            told.saved = await save(here.redis)
        return told


def _hashes(wanted: list[User], folder: Path | None) -> dict[str, str]:
    given = {}
    for user in wanted:
        variable = password_variable(user.name)
        password = read_secret(variable) or (folder and _kept(folder, user.name))
        if password:
            given[user.name] = hashlib.sha256(password.encode()).hexdigest()
    return given


def _kept(folder: Path, name: str) -> str:
    """Return the password in the folder's file of a user, which is made if it is not there."""
    file = folder / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as made:
                made.write(secrets.token_hex(_BYTES))
        return file.read_text().strip("\r\n")
    except OSError as error:
        raise ConfigurationError(f"--passwords: {file}: {error.strerror}") from None


def _with_password(rules: list[str], digest: str | None) -> list[str]:
    return rules if digest is None else [*rules, f"#{digest}"]


def _say(told: _Told, changed: list[str]) -> None:
    typer.echo(
        f"{len(told.users)} users are set" + (f"; changed: {', '.join(changed)}" if changed else "; none changed")
    )
    if not told.saved:
        typer.echo(
            "this server has no ACL file, and forgets them when it restarts: set `aclfile` in redis.conf, or have "
            "--apply run after each start",
            err=True,
        )
