"""What a container service is declared to be, and what is recorded of it."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import msgspec

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Short = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
Folder = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}$")]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
Wanted = Literal["running", "stopped", "deleted"]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Part of a declaration: an unknown key is an error."""


class Port(Section, frozen=True, kw_only=True):
    """A port that the container listens on, and where the host has it.

    `host` is a fixed port of the host; without one Penstock takes one of its range. `address` is the host's address:
    published ports bypass the host's firewall, so it is the loopback unless it is said.
    """

    container: PortNumber
    host: PortNumber | None = None
    address: Annotated[str, msgspec.Meta(max_length=45)] = "127.0.0.1"
    protocol: Literal["tcp", "udp"] = "tcp"


class Health(Section, frozen=True, kw_only=True):
    """How it is known that a container works: `test` runs inside it and exits with 0. Times are in seconds."""

    test: Annotated[list[Short], msgspec.Meta(min_length=1, max_length=50)]
    interval: Seconds = 5.0
    timeout: Seconds = 5.0
    retries: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3
    start_period: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 10.0


class Limits(Section, frozen=True, kw_only=True):
    """What a container may use: bytes of memory, cores, processes."""

    memory: Annotated[int, msgspec.Meta(ge=6_291_456)] = 536_870_912
    cpus: Annotated[float, msgspec.Meta(gt=0, le=512)] | None = None
    pids: Annotated[int, msgspec.Meta(ge=1)] = 512


class Declaration(Section, frozen=True, kw_only=True):
    """A container service as it is to be.

    `volumes` maps folders in the one that PENSTOCK_CONTAINERS_VOLUMES names to paths in the container, with `:ro`
    behind those that it may not write. A folder is one name: nothing below it, where a container may have made links.
    `strategy` says how it is replaced: `recreate` ends the old containers first, `rolling` begins the new, tells where
    they are (service_started), and after `drain` seconds ends the old. `stop_timeout` are the seconds from SIGTERM to
    SIGKILL.
    """

    name: Name
    image: Annotated[str, msgspec.Meta(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_./:@-]{0,254}$")]
    command: Annotated[list[Annotated[str, msgspec.Meta(max_length=10_000)]], msgspec.Meta(max_length=100)] = []
    env: dict[Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)], str] = {}
    ports: Annotated[dict[Name, Port], msgspec.Meta(max_length=50)] = {}
    volumes: Annotated[dict[Folder, Short], msgspec.Meta(max_length=50)] = {}
    health: Health | None = None
    limits: Limits = Limits()
    capabilities: tuple[Annotated[str, msgspec.Meta(pattern=r"^[A-Z_]{1,40}$")], ...] = ()
    user: Annotated[str, msgspec.Meta(pattern=r"^[\w.:-]{1,100}$")] | None = None
    replicas: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    restart: Literal["always", "on-failure", "no"] = "always"
    strategy: Literal["recreate", "rolling"] = "recreate"
    drain: Annotated[float, msgspec.Meta(ge=0, le=3_600)] = 5.0
    stop_timeout: Annotated[int, msgspec.Meta(ge=1, le=300)] = 10

    @property
    def digest(self) -> str:
        """What tells this container from another: a hash of all that a container of it is made with.

        How many there are, and how they are replaced, is not in it: to change that makes no new generation.
        """
        made_of = msgspec.structs.replace(self, replicas=1, strategy="recreate", drain=0.0, restart="always")
        return hashlib.sha256(msgspec.json.encode(made_of, order="deterministic")).hexdigest()[:16]


class Instance(msgspec.Struct, omit_defaults=True):
    """What is recorded of one container of the current generation. Times are in seconds since the epoch.

    `ended` is the run whose end is on record: no run's end is told twice. `failures` counts failures without a quiet
    time since; `retry_at` is when the next start is due. `ports` are host ports by name.
    """

    state: Literal["", "created", "started", "failed", "ended"] = ""
    ports: dict[str, int] = {}
    ended: str = ""
    started_at: float = 0.0
    failures: int = 0
    retry_at: float = 0.0


class Record(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What is declared of a service, and how far the world is known to follow.

    `generation` counts the declarations that needed other containers; `created` is the last one of which all were
    made. `traceparent` is the trace of the command that asked for it. `state` is what was last published of the
    service as a whole. `call` numbers the call to reconcile that is under way, and is due at `due` (0: there is none);
    one with another number is out of date. `drain_until` is when containers of former generations may end. Times are
    in seconds since the epoch.
    """

    declared: Declaration
    wanted: Wanted = "running"
    generation: int = 1
    created: int = 0
    state: Literal["", "started", "failed", "stopped"] = ""
    instances: dict[int, Instance] = {}
    traceparent: str | None = None
    call: int = 0
    due: float = 0.0
    drain_until: float = 0.0

    def instance(self, ordinal: int) -> Instance:
        """Return what is recorded of an ordinal."""
        return self.instances.get(ordinal) or Instance()

    def known(self, ordinal: int) -> Instance:
        """Return what is recorded of an ordinal, to be changed."""
        return self.instances.setdefault(ordinal, Instance())

    def container_name(self, prefix: str, ordinal: int) -> str:
        """Return the name of the container of an ordinal: the engine has each once, so none is made twice."""
        return f"{prefix}{self.declared.name}-g{self.generation}-{ordinal}"


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A container as the engine has it."""

    id: str
    name: str
    service: str
    generation: int
    ordinal: int
    digest: str
    state: Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]
    health: Literal["none", "starting", "healthy", "unhealthy"] = "none"
    started_at: str = ""
    exit_code: int = 0
    out_of_memory: bool = False

    @property
    def run(self) -> str:
        """What tells this run of the container from others of it."""
        return f"{self.id[:12]}@{self.started_at}"

    @property
    def runs(self) -> bool:
        """Whether it has a process."""
        return self.state in ("running", "paused", "restarting")

    @property
    def works(self) -> bool:
        """Whether it runs, and by its own health check well."""
        return self.state == "running" and self.health in ("none", "healthy")
