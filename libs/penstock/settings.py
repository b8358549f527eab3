"""Settings that vary by deployment: environment variables, read once and checked as a whole.

Every variable may instead be given as NAME_FILE, the path of a file that holds the value (a mounted secret).
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote

import msgspec

from penstock.config import did_you_mean, read_secret
from penstock.errors import ConfigurationError
from penstock.keys import REGISTRY

Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
T = TypeVar("T", bound=msgspec.Struct)


def _env(name: str, default: Any) -> Any:
    return msgspec.field(name=name, default=default)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the environment says. Durations are in seconds, sizes in bytes."""

    backend: Literal["redis", "memory"] = _env("PENSTOCK_BACKEND", "redis")
    redis_url: str | None = _env("REDIS_URL", None)
    redis_password: str | None = _env("REDIS_PASSWORD", None)
    redis_connect_timeout: Positive = _env("REDIS_CONNECT_TIMEOUT_SECONDS", 5.0)
    redis_reply_timeout: Positive = _env("REDIS_SOCKET_TIMEOUT_SECONDS", 5.0)
    redis_retry: Positive = _env("REDIS_RETRY_SECONDS", 2.0)
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=5000)] | None = _env("TASK_QUEUE_WORKERS", None)
    redis_port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = _env("PENSTOCK_REDIS_PORT", 6379)
    data_dir: str = _env("PENSTOCK_DATA_DIR", ".penstock")
    topology: str | None = _env("PENSTOCK_TOPOLOGY", None)
    include: str = _env("PENSTOCK_INCLUDE", "")
    prefix: str = _env("PENSTOCK_PREFIX", "")
    jobs: str = _env("PENSTOCK_JOBS", "")
    shipped_jobs: bool = _env("PENSTOCK_SHIPPED_JOBS", True)
    worker_host: str = _env("PENSTOCK_WORKER_HOST", "127.0.0.1")
    worker_port: Port = _env("PENSTOCK_WORKER_PORT", 8084)
    health_host: str = _env("PENSTOCK_HEALTH_HOST", "127.0.0.1")
    health_port: Port = _env("PENSTOCK_HEALTH_PORT", 0)
    job_ttl: Count = _env("PENSTOCK_JOB_TTL", 604_800)
    job_started: bool = _env("PENSTOCK_JOB_STARTED", False)
    memory_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = _env("PENSTOCK_MEMORY_SHARE", 0.7)
    durability: Literal["memory", "aof", "replica"] = _env("PENSTOCK_DURABILITY", "memory")
    durability_timeout: Positive = _env("PENSTOCK_DURABILITY_TIMEOUT", 2.0)
    dedupe_ttl: Count = _env("PENSTOCK_DEDUPE_TTL", 86_400)
    spool_dir: str | None = _env("PENSTOCK_SPOOL_DIR", None)
    spool_max_bytes: Count = _env("PENSTOCK_SPOOL_MAX_BYTES", 1_000_000_000)
    spool_max_age: Positive = _env("PENSTOCK_SPOOL_MAX_AGE", 86_400)
    spool_min_free: Annotated[int, msgspec.Meta(ge=0)] = _env("PENSTOCK_SPOOL_MIN_FREE", 500_000_000)
    drain_timeout: Positive = _env("PENSTOCK_DRAIN_TIMEOUT", 10.0)
    log_level: Literal["debug", "info", "warning", "error"] = _env("PENSTOCK_LOG_LEVEL", "info")
    log_format: Literal["auto", "json", "console"] = _env("PENSTOCK_LOG_FORMAT", "auto")

    gateway_host: str = _env("PENSTOCK_GATEWAY_HOST", "127.0.0.1")
    gateway_port: Port = _env("PENSTOCK_GATEWAY_PORT", 8080)
    gateway_max_body: Count = _env("PENSTOCK_GATEWAY_MAX_BODY", 100_000)
    gateway_head_timeout: Positive = _env("PENSTOCK_GATEWAY_HEAD_TIMEOUT", 10.0)
    gateway_body_timeout: Positive = _env("PENSTOCK_GATEWAY_BODY_TIMEOUT", 10.0)
    gateway_max_connections: Count = _env("PENSTOCK_GATEWAY_MAX_CONNECTIONS", 1_000)
    gateway_max_backlog: Count = _env("PENSTOCK_GATEWAY_MAX_BACKLOG", 1_000_000)
    gateway_max_peer_connections: Annotated[int, msgspec.Meta(ge=0)] = _env("PENSTOCK_GATEWAY_MAX_PEER_CONNECTIONS", 0)
    gateway_send_timeout: Positive = _env("PENSTOCK_GATEWAY_SEND_TIMEOUT", 10.0)
    gateway_traces: bool | None = _env("PENSTOCK_GATEWAY_TRACES", None)
    gateway_open: bool = _env("PENSTOCK_GATEWAY_OPEN", False)
    registry_enabled: bool = _env("WS_REDIS_REGISTRY_ENABLED", True)
    registry_key: Annotated[str, msgspec.Meta(pattern=r"^[\w.:\-]+$")] = _env("WS_REDIS_REGISTRY_KEY", REGISTRY)
    demo_webhook: bool = _env("PENSTOCK_DEMO_WEBHOOK", False)

    hosts: str = _env("PENSTOCK_HOSTS", "")
    scrape_secret: str | None = _env("PENSTOCK_SCRAPE_SECRET", None)
    client_secret: str | None = _env("PENSTOCK_CLIENT_SECRET", None)

    metrics_host: str = _env("PENSTOCK_METRICS_HOST", "127.0.0.1")
    metrics_port: Port = _env("PENSTOCK_METRICS_PORT", 8081)
    metrics_lateness: Positive = _env("PENSTOCK_METRICS_LATENESS", 2.0)
    metrics_series: Count = _env("PENSTOCK_METRICS_SERIES", 1_000)

    alerts: str | None = _env("PENSTOCK_ALERTS", None)
    alerts_host: str = _env("PENSTOCK_ALERTS_HOST", "127.0.0.1")
    alerts_port: Port = _env("PENSTOCK_ALERTS_PORT", 8082)

    notify: str | None = _env("PENSTOCK_NOTIFY", None)
    notifier_host: str = _env("PENSTOCK_NOTIFIER_HOST", "127.0.0.1")
    notifier_port: Port = _env("PENSTOCK_NOTIFIER_PORT", 8083)
    heartbeat_url: str | None = _env("PENSTOCK_HEARTBEAT_URL", None)
    allow_private_targets: bool = _env("PENSTOCK_ALLOW_PRIVATE_TARGETS", False)
    allowed_targets: str = _env("PENSTOCK_ALLOWED_TARGETS", "")

    checkpoint_enabled: bool = _env("TASK_CHECKPOINT_ENABLED", True)
    checkpoint_ttl: Count = _env("TASK_CHECKPOINT_TTL", 604_800)
    breaker_failure_threshold: Count = _env("CIRCUIT_BREAKER_FAILURE_THRESHOLD", 5)
    breaker_failure_window: Positive = _env("CIRCUIT_BREAKER_FAILURE_WINDOW", 60)
    breaker_failure_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] = _env("PENSTOCK_BREAKER_FAILURE_RATE", 0.5)
    breaker_minimum_calls: Count = _env("PENSTOCK_BREAKER_MINIMUM_CALLS", 20)
    breaker_recovery_timeout: Positive = _env("CIRCUIT_BREAKER_RECOVERY_TIMEOUT", 60)
    breaker_half_open_max_calls: Count = _env("CIRCUIT_BREAKER_HALF_OPEN_MAX_CALLS", 3)
    dlq_enabled: bool = _env("DLQ_ENABLED", True)
    dlq_retention_days: Positive = _env("DLQ_RETENTION_DAYS", 30)
    dlq_max_entries: Count = _env("DLQ_MAX_ENTRIES", 10_000)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.:\-]*", self.prefix):
            raise ValueError("PENSTOCK_PREFIX may hold letters, digits and . : - _ only")
        try:
            _ = self.target_networks
        except ValueError as error:
            raise ValueError(f"PENSTOCK_ALLOWED_TARGETS: {error}; list networks such as 10.1.0.0/16") from None
        if self.backend == "memory" and self.durability != "memory":
            raise ValueError(
                f"PENSTOCK_DURABILITY={self.durability} is Redis's to give, and PENSTOCK_BACKEND=memory has none: take "
                "one of the two away"
            )
        if self.backend == "memory" and self.spool_dir:
            raise ValueError(
                "PENSTOCK_SPOOL_DIR keeps events until Redis is back, and PENSTOCK_BACKEND=memory has none: take one "
                "of the two away"
            )

    def shows_traces(self, *, clients: bool) -> bool:
        """Return whether the gateway shows traces: as set, else if only this machine or a declared client sees them.

        They name events, subjects and errors, which are nobody's business on an open address.
        """
        if self.gateway_traces is not None:
            return self.gateway_traces
        return is_loopback(self.gateway_host) or clients

    @property
    def target_networks(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        """Networks that jobs may send requests to although their addresses are not public."""
        return [ipaddress.ip_network(text) for text in self.allowed_targets.replace(",", " ").split()]

    @property
    def included(self) -> list[str]:
        """Packages whose streams.yaml is taken in; a bare name is one of the services that ship with Penstock."""
        names = self.include.replace(",", " ").split()
        return [name if "." in name else f"penstock_services.{name}" for name in names]

    @property
    def host_names(self) -> frozenset[str]:
        """Further names under which services may be asked, in lower case."""
        return frozenset(self.hosts.lower().replace(",", " ").split())

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the settings, some of which go by other names too (see `OtherNames`).

        Raises:
            ConfigurationError: a value does not fit, or two names of one setting say different things; the message
                names the variables.
        """
        given = os.environ if environ is None else environ
        return read_variables(cls, _by_our_names(given))


class OtherNames(msgspec.Struct, frozen=True):
    """Names that deployments from before Penstock have for settings of ours."""

    task_queue_backend: Literal["redis", "memory"] | None = _env("TASK_QUEUE_BACKEND", None)
    redis_enabled: bool | None = _env("REDIS_ENABLED", None)
    task_queue_max_size: Count | None = _env("TASK_QUEUE_MAX_SIZE", None)

    def said(self) -> Iterator[tuple[str, str, str]]:
        """Yield each variable that is set, our name of its setting, and what it says of it."""
        if self.task_queue_backend is not None:
            yield "TASK_QUEUE_BACKEND", "PENSTOCK_BACKEND", self.task_queue_backend
        if self.redis_enabled is not None:
            yield "REDIS_ENABLED", "PENSTOCK_BACKEND", "redis" if self.redis_enabled else "memory"
        if self.task_queue_max_size is not None:
            yield "TASK_QUEUE_MAX_SIZE", "PENSTOCK_GATEWAY_MAX_BACKLOG", str(self.task_queue_max_size)


def _by_our_names(given: Mapping[str, str]) -> Mapping[str, str]:
    """Return the environment with what is said under other names said under ours.

    Raises:
        ConfigurationError: two names of one setting say different things.
    """
    ours: dict[str, str] = {}
    sources: dict[str, str] = {}
    for variable, name, value in read_variables(OtherNames, given).said():
        known = ours.get(name) or read_secret(name, given)
        if known and known != value:
            raise ConfigurationError(
                f"environment: {variable} and {sources.get(name, name)} are about one setting and do not agree on it "
                f"({value}, {known}): take one of the two away"
            )
        ours[name] = value
        sources.setdefault(name, variable)
    return {**{name: value for name, value in given.items() if name.removesuffix("_FILE") not in ours}, **ours}


def read_variables(kind: type[T], environ: Mapping[str, str] | None = None) -> T:
    """Read a struct whose fields are named after environment variables.

    Raises:
        ConfigurationError: a value does not fit; the message names the variable.
    """
    given = os.environ if environ is None else environ
    values: dict[str, str] = {}
    for field in msgspec.structs.fields(kind):
        value = read_secret(field.encode_name, given)
        if value:  # an empty variable is an unset one, as compose files write it
            values[field.encode_name] = value
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"environment: {_sentence(str(error))}") from None


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches what listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return a sentence for each variable of a name like ours that nothing reads, most likely a slip of the pen."""
    given = os.environ if environ is None else environ
    known = {field.encode_name for field in msgspec.structs.fields(Settings)}
    sentences = []
    for name in sorted(given):
        if not name.startswith("PENSTOCK") or name.removesuffix("_FILE") in known:
            continue
        hint = did_you_mean(name, known, otherwise="", cutoff=0.8)  # PENSTOCK_ alone makes names alike
        sentences.append(f"{name} is not a setting" + (f"; {hint}" if hint else ""))
    return sentences


def _sentence(message: str) -> str:
    problem, _, path = message.partition(" - at `$.")
    return f"{path.rstrip('`')}: {problem}" if path else problem


def redis_url(settings: Settings) -> str:
    """Return REDIS_URL, or the address at which `penstock up` starts a server.

    REDIS_PASSWORD, which can be a file of its own, is put into a URL without a password.

    Raises:
        ConfigurationError: the settings say that there is no Redis.
    """
    if settings.backend == "memory":
        raise ConfigurationError(
            "this needs Redis, and PENSTOCK_BACKEND=memory (or REDIS_ENABLED=false, TASK_QUEUE_BACKEND=memory) says "
            "that there is none: such a mesh is inside the one program that opens a client; see docs/client.md"
        )
    url = settings.redis_url or f"redis://127.0.0.1:{settings.redis_port}/0"
    if settings.redis_url is None or not settings.redis_password:
        return url
    scheme, _, rest = url.partition("://")
    user, _, place = rest.rpartition("@")
    if ":" in user or "password=" in place:
        return url
    return f"{scheme}://{user}:{quote(settings.redis_password, safe='')}@{place}"
