"""Settings that vary by deployment: environment variables, read once and checked as a whole.

Every variable may instead be given as NAME_FILE, the path of a file that holds the value (a mounted secret).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from penstock.errors import ConfigurationError

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


def _env(name: str, default: Any) -> Any:
    return msgspec.field(name=name, default=default)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment says. Durations are in seconds, sizes in bytes."""

    redis_url: str | None = _env("REDIS_URL", None)
    redis_port: Port = _env("PENSTOCK_REDIS_PORT", 6379)
    data_dir: str = _env("PENSTOCK_DATA_DIR", ".penstock")
    topology: str | None = _env("PENSTOCK_TOPOLOGY", None)
    prefix: str = _env("PENSTOCK_PREFIX", "")
    jobs: str = _env("PENSTOCK_JOBS", "")
    job_ttl: Count = _env("PENSTOCK_JOB_TTL", 604_800)
    job_started: bool = _env("PENSTOCK_JOB_STARTED", False)
    durability: Literal["memory", "aof", "replica"] = _env("PENSTOCK_DURABILITY", "memory")
    durability_timeout: Positive = _env("PENSTOCK_DURABILITY_TIMEOUT", 2.0)
    dedupe_ttl: Count = _env("PENSTOCK_DEDUPE_TTL", 86_400)
    drain_timeout: Positive = _env("PENSTOCK_DRAIN_TIMEOUT", 10.0)
    log_level: Literal["debug", "info", "warning", "error"] = _env("PENSTOCK_LOG_LEVEL", "info")
    log_format: Literal["auto", "json", "console"] = _env("PENSTOCK_LOG_FORMAT", "auto")

    gateway_host: str = _env("PENSTOCK_GATEWAY_HOST", "127.0.0.1")
    gateway_port: Port = _env("PENSTOCK_GATEWAY_PORT", 8080)
    gateway_max_body: Count = _env("PENSTOCK_GATEWAY_MAX_BODY", 100_000)
    gateway_body_timeout: Positive = _env("PENSTOCK_GATEWAY_BODY_TIMEOUT", 10.0)
    gateway_max_connections: Count = _env("PENSTOCK_GATEWAY_MAX_CONNECTIONS", 1_000)
    gateway_max_backlog: Count = _env("PENSTOCK_GATEWAY_MAX_BACKLOG", 1_000_000)

    checkpoint_enabled: bool = _env("TASK_CHECKPOINT_ENABLED", True)
    checkpoint_ttl: Count = _env("TASK_CHECKPOINT_TTL", 604_800)
    dlq_enabled: bool = _env("DLQ_ENABLED", True)
    dlq_retention_days: Positive = _env("DLQ_RETENTION_DAYS", 30)
    dlq_max_entries: Count = _env("DLQ_MAX_ENTRIES", 10_000)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.:\-]*", self.prefix):
            raise ValueError("PENSTOCK_PREFIX may hold letters, digits and . : - _ only")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the settings.

        Raises:
            ConfigurationError: a value does not fit; the message names the variable.
        """
        given = os.environ if environ is None else environ
        values: dict[str, str] = {}
        for field in msgspec.structs.fields(cls):
            value = read_secret(field.encode_name, given)
            if value:  # an empty variable is an unset one, as compose files write it
                values[field.encode_name] = value
        try:
            return msgspec.convert(values, cls, strict=False)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"environment: {_sentence(str(error))}") from None


def read_secret(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the value of variable `name`, or what the file named by `name`_FILE holds.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    given = os.environ if environ is None else environ
    if name in given:
        return given[name]
    path = given.get(f"{name}_FILE")
    if path is None:
        return None
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise ConfigurationError(f"environment: {name}_FILE: cannot read {path}: {error.strerror}") from None


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return a sentence for each PENSTOCK_ variable that nothing reads, most likely a slip of the pen."""
    given = os.environ if environ is None else environ
    known = {field.encode_name for field in msgspec.structs.fields(Settings)}
    sentences = []
    for name in sorted(given):
        if not name.startswith("PENSTOCK_") or name.removesuffix("_FILE") in known:
            continue
        near = difflib.get_close_matches(name, known, n=1)
        sentences.append(f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else ""))
    return sentences


def _sentence(message: str) -> str:
    problem, _, path = message.partition(" - at `$.")
    return f"{path.rstrip('`')}: {problem}" if path else problem
