"""streams.yaml: the one description of which service reads and writes which stream."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from penstock.config import NAME_RULE, Duration, Section, convert, did_you_mean, find_file, is_name, read_yaml
from penstock.errors import ConfigurationError
from penstock.keys import DEAD_LETTERS, EVENTS, INGEST
from penstock.retry import Retry
from penstock.times import ms_of, rfc3339, seconds_of

FILE = "streams.yaml"
Positive = Annotated[float, msgspec.Meta(gt=0)]
Unhandled = Literal["dead", "skip"]
Kind = Literal["work", "facts"]


_TAKEN = ("topology", "breakers", "progress", "epoch")


class Start(str):
    """Where a new group begins: `oldest`, `newest` or a time."""

    __slots__ = ()

    @classmethod
    def parse(cls, value: object) -> Start:
        """Read it.

        Raises:
            ValueError: it is none of the three.
        """
        text = value.isoformat() if isinstance(value, datetime) else value
        try:
            if isinstance(text, str):
                return cls(text if text in (OLDEST, NEWEST) else rfc3339(seconds_of(text)))
        except ValueError:
            pass
        raise ValueError(f"expected oldest, newest or a time such as 2026-11-22T10:00:00Z, got {str(value)!r}")

    @property
    def ms(self) -> int:
        """The time in ms since the epoch.

        Raises:
            ValueError: it is not one.
        """
        return ms_of(self)


OLDEST, NEWEST = Start("oldest"), Start("newest")


class Retention(Section, frozen=True, kw_only=True):
    """How much of a stream is kept once every group is done with it, declared here or not.

    `hard_limit` bounds the entries that are kept even for a group that has not read them: what it drops is lost to
    that group, and told.
    """

    age: Duration = Duration(7 * 86400)
    entries: Annotated[int, msgspec.Meta(ge=1)] = 1_000_000
    hard_limit: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Stream(Section, frozen=True, kw_only=True):
    """A stream that services publish to and read from.

    `kind` says what it carries. Of `work` each entry is a job for the one service whose work it is: it has a record,
    what becomes of it is told on the stream that `reports` names (job.completed, job.failed and the like), and one
    that no handler asks for is dead. `facts` concern whoever wants to know of them: what no handler asks for is
    skipped. By default `ingest` is work and every other stream facts, and reports go to `events`, if that is declared.
    `abandoned` names groups in Redis that nobody uses any more: retention does not wait for them.
    """

    kind: Kind | None = None
    reports: str | None = None
    retention: Retention = Retention()
    abandoned: tuple[str, ...] = ()


class Subscription(Section, frozen=True, kw_only=True):
    """How a service reads one stream.

    `unhandled` says what becomes of an event that no handler asks for: `dead` or `skip`; by default it is
    dead where the stream carries work, and skipped where it carries facts. A service that skips them on a stream of
    work reads along: the jobs there are another's, and it tells nothing of them. `timeout` bounds one handler run.
    `start` is where the service begins on a stream that it has never read: at the `oldest` entry, after the `newest`,
    or at the first of a time (RFC 3339). Once it has read the stream it goes on where it stood.
    """

    retry: Retry = Retry()
    unhandled: Unhandled | None = None
    timeout: Duration = Duration(300)
    start: Start = OLDEST


class ServiceSpec(Section, frozen=True, kw_only=True):
    """A service: the program that runs it, what it reads and what it may publish.

    `run` is a module (`penstock_services.worker`) or module:attribute (`shop.tickets:service`); `penstock up` starts
    those that have one. `concurrency` bounds the handlers that run at once in one process. `lease` is how
    long a process whose event loop is blocked, or that is silent and still connected, keeps what it holds. `formerly`
    is the name that the service had before: it takes over what that one's groups have yet to do.
    """

    run: str | None = None
    consumes: dict[str, Subscription] = {}
    publishes: tuple[str, ...] = ()
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=5000)] = 200
    lease: Duration = Duration(30)
    formerly: str | None = None


class HmacOptions(Section, frozen=True, kw_only=True):
    """How a sender of scheme `hmac` signs: `header` holds `prefix` and the signature.

    `signed` is what is signed, with `{body}`, `{timestamp}` and `{id}`: the values of the headers named here.
    A timestamp that is further from now than `tolerance` is refused. `id` names the header of the delivery id.
    """

    header: str
    prefix: str = ""
    algorithm: Literal["sha1", "sha256", "sha384", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    signed: str = "{body}"
    timestamp: str | None = None
    tolerance: Duration = Duration(300)
    id: str | None = None


class TokenOptions(Section, frozen=True, kw_only=True):
    """Where a sender of scheme `token` puts its secret: after `prefix` in `header`, or as the password of `user`.

    `query` is for a sender that can put it nowhere but into the address: the name of the parameter. Whatever passes
    the request on may log addresses. `id` names the header of the delivery id.
    """

    header: str = "Authorization"
    prefix: str = ""
    user: str | None = None
    query: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    id: str | None = None


class Webhook(Section, frozen=True, kw_only=True):
    """A source of webhooks: how its requests are verified and what event each becomes.

    `secret` names the environment variable that holds the secret (several, one to a line of its value, while one
    is rotated); `default_secret` holds for demonstrations only (PENSTOCK_DEMO_WEBHOOK). `type` is the event type; in
    it, `{header:Name}` and `{body:key}` stand for a request header or a key of the body (`event.type` for one inside
    another, or of a form). A body that is not JSON is kept as it was signed, see [events](events.md). `max_body` is
    in bytes. `answer_within` bounds how long Redis may take before the sender is answered 503, so that it sends again
    and does not find us silent: by default 2 s for slack, 4 s for shopify and 8 s for the others. `url` is the address
    under which the sender knows this source, for schemes that sign it. `verify_token` names the variable that
    holds what a provider presents as hub.verify_token before it sends (Meta); it stands in addresses, so it is not the
    secret. `hmac` and `token` say what the schemes of these names look for.
    """

    scheme: str
    secret: str
    default_secret: str | None = None
    type: str
    tenant: str | None = None
    stream: str = INGEST
    max_body: Annotated[int, msgspec.Meta(ge=1)] | None = None
    answer_within: Duration | None = None
    url: str | None = None
    verify_token: str | None = None
    hmac: HmacOptions | None = None
    token: TokenOptions | None = None


class ClientSpec(Section, frozen=True, kw_only=True):
    """A caller of the services' HTTP, known by a secret.

    `secret` names the variable that holds it: several, separated by white space, while one is replaced, each in
    plain or as `sha256:` and its hash. `sha256` are such hashes themselves, which are no secret. `tenant` binds it
    to one: what it publishes is that tenant's, and other tenants' jobs do not exist for it. It publishes events
    whose type matches one of `types` to `streams`. `rate` is in events per second and process, `max_body` in bytes.
    """

    secret: str | None = None
    sha256: tuple[Annotated[str, msgspec.Meta(pattern=r"^(sha256:)?[0-9a-f]{64}$")], ...] = ()
    scopes: tuple[Literal["publish", "read", "operate", "admin"], ...]
    tenant: Annotated[str, msgspec.Meta(min_length=1, max_length=255)] | None = None
    streams: tuple[str, ...] = (INGEST,)
    types: tuple[str, ...] = ("*",)
    rate: Positive | None = None
    max_body: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Breaker(Section, frozen=True, kw_only=True):
    """What is special to one circuit breaker; what is absent comes from the environment.

    It opens after `failure_threshold` failures in a row, or when `failure_rate` (a share, 0 to 1) of at least
    `minimum_calls` within `failure_window` failed. After `recovery_timeout` at most `half_open_max_calls` try it.
    """

    failure_threshold: Annotated[int, msgspec.Meta(ge=1)] | None = None
    failure_window: Duration | None = None
    failure_rate: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    minimum_calls: Annotated[int, msgspec.Meta(ge=1)] | None = None
    recovery_timeout: Duration | None = None
    half_open_max_calls: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Topology(Section, frozen=True, kw_only=True):
    """The whole mesh.

    `include` names Python packages with a streams.yaml of their own (`penstock_services.containers`): the streams and
    services that they declare are there too. What is declared here under the same name goes before.
    """

    include: tuple[str, ...] = ()
    streams: dict[str, Stream] = {}
    services: dict[str, ServiceSpec] = {}
    webhooks: dict[str, Webhook] = {}
    clients: dict[str, ClientSpec] = {}
    breakers: dict[str, Breaker] = {}

    def service(self, name: str) -> ServiceSpec:
        """Return the declaration of service `name`.

        Raises:
            ConfigurationError: it has none.
        """
        try:
            return self.services[name]
        except KeyError:
            known = ", ".join(sorted(self.services)) or "none"
            raise ConfigurationError(
                f"streams.yaml: services.{name} is missing (declared: {known}); add it with what the "
                "service consumes and publishes"
            ) from None

    def groups(self, stream: str) -> list[str]:
        """Return the groups that read `stream`: a group bears the name of its service."""
        return [name for name, service in self.services.items() if stream in service.consumes]

    @property
    def work(self) -> list[str]:
        """The streams whose entries are jobs."""
        return [name for name in self.streams if self.is_work(name)]

    def is_work(self, stream: str) -> bool:
        """Return whether each entry of `stream` is a job."""
        declared = self.streams.get(stream)
        return ((declared and declared.kind) or ("work" if stream == INGEST else "facts")) == "work"

    def workers(self, stream: str) -> list[str]:
        """Return the services whose work the entries of `stream` are: one at most in a sound mesh."""
        readers = ((name, service.consumes.get(stream)) for name, service in self.services.items())
        return [name for name, reads in readers if self.is_work(stream) and reads and reads.unhandled != "skip"]

    def works(self, service: str) -> bool:
        """Return whether what `service` does are jobs."""
        return any(service in self.workers(stream) for stream in self.services[service].consumes)

    def streams_of(self, service: str) -> list[str]:
        """Return the streams that `service` reads, publishes to or reports on, but for the dead letters."""
        spec = self.services[service]
        reports = {self.reports(stream) for stream in spec.consumes if service in self.workers(stream)}
        return sorted({*spec.consumes, *spec.publishes, *filter(None, reports)} - {DEAD_LETTERS})

    def reports(self, stream: str) -> str | None:
        """Return where it is told what becomes of the jobs on `stream`, if anywhere."""
        declared = self.streams.get(stream, Stream()).reports
        return declared or (EVENTS if EVENTS in self.streams else None)

    def unhandled(self, service: str, stream: str) -> Unhandled:
        """Return what becomes of an event of `stream` that no handler of `service` asks for."""
        return self.services[service].consumes[stream].unhandled or ("dead" if self.is_work(stream) else "skip")


def is_given(path: Path | str | None = None) -> bool:
    """Return whether there is a streams.yaml of the user's own: at `path`, or here."""
    return bool(path) or Path(FILE).exists()


def load(path: Path | str | None = None, *, include: Sequence[str] = ()) -> Topology:
    """Read the topology from `path`, else ./streams.yaml, else the one that ships with Penstock.

    `include` are packages to be taken in beside those that the file names.

    Raises:
        ConfigurationError: the file cannot be read or does not describe a sound mesh.
    """
    name, text = find_file(path, FILE, "PENSTOCK_TOPOLOGY")
    return parse(text, name=name, include=include)


def parse(text: str, *, name: str = FILE, include: Sequence[str] = ()) -> Topology:
    """Read a topology from YAML text, calling it `name` in errors; `include` are packages beside those that it names.

    Raises:
        ConfigurationError: it is not YAML, has an unknown or ill-typed key, or names do not resolve.
    """
    topology = convert(read_yaml(text, name), Topology, name)
    for package in dict.fromkeys((*topology.include, *include)):
        topology = _with(topology, _included(package, name))
    problems = _problems(topology)
    if problems:
        raise ConfigurationError("\n".join(f"{name}: {problem}" for problem in problems))
    if DEAD_LETTERS not in topology.streams:
        topology = msgspec.structs.replace(topology, streams={**topology.streams, DEAD_LETTERS: Stream()})
    return topology


def _included(package: str, name: str) -> Topology:
    """Return what the streams.yaml of a package declares."""
    try:
        text = resources.files(package).joinpath(FILE).read_text()
    except (ImportError, TypeError, ValueError, OSError):
        raise ConfigurationError(
            f"{name}: include: there is no Python package {package} with a {FILE} in it; name one that has, such as "
            "penstock_services.containers"
        ) from None
    found = convert(read_yaml(text, f"{package}/{FILE}"), Topology, f"{package}/{FILE}")
    if strange := [key for key in ("include", "webhooks", "clients") if getattr(found, key)]:
        raise ConfigurationError(
            f"{package}/{FILE}: {', '.join(strange)}: what is included declares streams, services and breakers; put "
            f"these into {name}"
        )
    return found


def _with(topology: Topology, included: Topology) -> Topology:
    return msgspec.structs.replace(
        topology,
        streams={**included.streams, **topology.streams},
        services={**included.services, **topology.services},
        breakers={**included.breakers, **topology.breakers},
    )


def _problems(topology: Topology) -> list[str]:
    problems: list[str] = []
    for kind in ("streams", "services", "webhooks", "clients"):
        problems += [f"{kind}.{name}: {NAME_RULE}" for name in getattr(topology, kind) if not is_name(name)]
    problems += [
        f"streams.{name}: Penstock itself has a key of this name; call the stream otherwise"
        for name in topology.streams
        if name in _TAKEN
    ]
    problems += _retention_problems(topology)
    problems += _work_problems(topology)
    known = {*topology.streams, DEAD_LETTERS}
    for name, service in topology.services.items():
        for key, streams in (("consumes", service.consumes), ("publishes", service.publishes)):
            for stream in streams:
                if stream not in known:
                    problems.append(f"services.{name}.{key}: {_unresolved(stream, known)}")
        if service.formerly in topology.services:
            problems.append(
                f"services.{name}.formerly: services.{service.formerly} is still declared; take one of the two away"
            )
    for name, hook in topology.webhooks.items():
        if hook.stream not in known:
            problems.append(f"webhooks.{name}.stream: {_unresolved(hook.stream, known)}")
    for name, client in topology.clients.items():
        problems += [f"clients.{name}.streams: {_unresolved(one, known)}" for one in client.streams if one not in known]
    return problems


def _retention_problems(topology: Topology) -> list[str]:
    problems: list[str] = []
    for name, stream in topology.streams.items():
        kept = stream.retention
        if kept.hard_limit is not None and kept.hard_limit < kept.entries:
            problems.append(f"streams.{name}.retention.hard_limit: it is less than entries; make it larger")
        problems += [
            f"streams.{name}.abandoned: services.{group} reads this stream; take one of the two away"
            for group in topology.groups(name)
            if group in stream.abandoned
        ]
    return problems


def _work_problems(topology: Topology) -> list[str]:
    problems: list[str] = []
    for name, stream in topology.streams.items():
        to = stream.reports
        if to is not None and not topology.is_work(name):
            problems.append(f"streams.{name}.reports: only work is reported on; add kind: work, or take reports away")
        elif to is not None and to not in topology.streams:
            problems.append(f"streams.{name}.reports: {_unresolved(to, set(topology.streams))}")
        elif to is not None and topology.is_work(to):
            problems.append(f"streams.{name}.reports: {to} carries work, and reports are facts; name another stream")
        workers = topology.workers(name)
        if len(workers) > 1:
            problems.append(
                f"streams.{name}: it carries work, and each job is one service's, but {' and '.join(workers)} read it; "
                "give all but one of them `unhandled: skip`, with which it reads along, or streams of their own"
            )
    return problems


def _unresolved(stream: str, known: set[str]) -> str:
    return f"there is no stream {stream}; {did_you_mean(stream, known, otherwise='declare it under streams')}"
