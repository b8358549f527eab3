"""The Docker Engine, as far as this service needs it: the only module that speaks to it, in threads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from penstock.errors import ConfigurationError
from penstock.times import seconds_of
from penstock_services.containers.model import Container, Declaration

try:
    import docker
    import requests
    from docker.errors import APIError, DockerException, NotFound
except ModuleNotFoundError as error:
    raise ConfigurationError(f"the containers service needs {error.name}: pip install 'penstock[containers]'") from None

_LABEL = "penstock."
_TAIL = 20  # lines of its log that a failure tells
_MOST_LOG = 4_000  # characters of them
_THREADS = 24  # as many as the service has handlers, and its sweep
_BEFORE = 0.5  # seconds: a process may write before the engine says that it has started, and the last run ended earlier
_REPLY = 60  # seconds that the engine has to answer; a pull has more
# What the engine tells of: not each health check, which is an `exec`. Such a list matches beginnings of names.
_EVENTS = ["create", "start", "die", "oom", "pause", "unpause", "destroy", "health_status"]
_PORT_TAKEN = ("port is already allocated", "address already in use", "ports are not available")
T = TypeVar("T")


class EngineAway(Exception):
    """The engine does not answer: what its containers do is unknown."""


class EngineRefuses(Exception):
    """The engine says no; the message is its own."""


class NoSuchImage(EngineRefuses):
    """It has no such image."""


class NameTaken(EngineRefuses):
    """It has a container of this name."""


class PortTaken(EngineRefuses):
    """Something else has a port of the host that the container is to have."""


class Engine:
    """One Docker Engine. Only what carries the label of this mesh is seen and touched."""

    def __init__(self, url: str | None, *, mesh: str) -> None:
        """`url` is as in DOCKER_HOST (None: what that says, else the local socket); `mesh` names ours among others."""
        self._url = url
        self._mesh = mesh
        self._client: Any = None
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="engine")

    async def containers(self, service: str | None = None) -> list[Container]:
        """Return the containers of this mesh, or those of one service.

        Raises:
            EngineAway: it does not answer.
        """
        labels = [f"{_LABEL}mesh={self._mesh}"] + ([f"{_LABEL}service={service}"] if service else [])

        def listed(api: Any) -> list[Container]:
            found = []
            for row in api.containers(all=True, filters={"label": labels}):
                with contextlib.suppress(NotFound):  # it went in between
                    found.append(_container(api.inspect_container(row["Id"])))
            return found

        return await self._ask(listed)

    async def create(
        self,
        name: str,
        declared: Declaration,
        *,
        generation: int,
        ordinal: int,
        ports: Mapping[str, int],
        volumes: Path | None,
    ) -> None:
        """Make a container; the image is fetched if the engine lacks it.

        `ports` are host ports by name, `volumes` is the directory below which its volumes are.

        Raises:
            EngineAway: it does not answer.
            NameTaken: it has one of this name.
            NoSuchImage: it has no such image, and cannot fetch it.
            EngineRefuses: it will not.
        """
        labels = {
            f"{_LABEL}mesh": self._mesh,
            f"{_LABEL}service": declared.name,
            f"{_LABEL}generation": str(generation),
            f"{_LABEL}ordinal": str(ordinal),
            f"{_LABEL}digest": declared.digest,
        }
        asked = {**_asked(declared, ports, volumes), "Labels": labels}
        try:
            await self._ask(lambda api: api.create_container_from_config(asked, name))
        except NoSuchImage:
            await self.pull(declared.image)
            await self._ask(lambda api: api.create_container_from_config(asked, name))

    async def is_strange(self, name: str) -> bool:
        """Whether a container of this name is there, and none of this mesh.

        Raises:
            EngineAway: it does not answer.
        """

        def labels(api: Any) -> Mapping[str, str]:
            try:
                return api.inspect_container(name)["Config"]["Labels"] or {}
            except NotFound:
                return {f"{_LABEL}mesh": self._mesh}

        return (await self._ask(labels)).get(f"{_LABEL}mesh") != self._mesh

    async def pull(self, image: str) -> None:
        """Fetch an image.

        Raises:
            EngineAway: it does not answer.
            NoSuchImage: it cannot be fetched.
        """
        name, at, digest = image.partition("@")
        repository, colon, tag = name.rpartition(":")
        if not colon or "/" in tag:
            repository, tag = name, ""
        wanted = digest if at else tag or "latest"  # without either, all tags would be fetched

        def fetch(api: Any) -> None:
            for line in api.pull(repository, tag=wanted, stream=True, decode=True):
                if "error" in line:  # the status is 200 before it is known
                    raise NoSuchImage(f"{image}: {line['error']}")

        try:
            await self._ask(fetch)
        except EngineRefuses as error:
            raise NoSuchImage(str(error)) from None

    async def start(self, container: str) -> None:
        """Start a container by its id; one that runs goes on.

        Raises:
            EngineAway: it does not answer.
            PortTaken: something else has one of its ports.
            EngineRefuses: it will not.
        """
        await self._ask(lambda api: api.start(container))

    async def unpause(self, container: str) -> None:
        """Let a container go on by its id.

        Raises:
            EngineAway: it does not answer.
            EngineRefuses: it will not.
        """
        await self._ask(lambda api: api.unpause(container))

    async def stop(self, container: str, *, timeout: int) -> None:
        """Stop a container by its id: SIGTERM, and SIGKILL `timeout` seconds after. One that is gone is stopped.

        Raises:
            EngineAway: it does not answer.
            EngineRefuses: it will not.
        """
        await self._ask(lambda api: _unless_gone(lambda: api.stop(container, timeout=timeout)))

    async def remove(self, container: str) -> None:
        """Remove a container by its id, with its anonymous volumes. One that is gone, or going, is removed.

        Raises:
            EngineAway: it does not answer.
            EngineRefuses: it will not.
        """
        await self._ask(lambda api: _unless_gone(lambda: api.remove_container(container, v=True)))

    async def log_of(self, container: Container) -> str:
        """Return the last lines that a container has written in this run; empty if nobody can tell."""
        with contextlib.suppress(EngineAway, EngineRefuses, ValueError):  # one that never ran began in the year 1
            since = seconds_of(container.started_at) - _BEFORE
            raw: bytes = await self._ask(lambda api: api.logs(container.id, tail=_TAIL, since=since))
            return raw.decode(errors="replace")[-_MOST_LOG:]
        return ""

    def changes(self, since: int) -> Iterator[tuple[str, int]]:
        """Yield the services whose containers change, each with the time in ns; blocking, for a thread of its own.

        They are hints: the engine forgets what it cannot deliver.

        Raises:
            EngineAway: it does not answer, or has ended the stream.
        """
        asked = {"type": "container", "label": f"{_LABEL}mesh={self._mesh}", "event": _EVENTS}
        try:
            for event in self._api().events(since=since, filters=asked, decode=True):
                yield event["Actor"]["Attributes"][f"{_LABEL}service"], event["timeNano"]
        except (DockerException, requests.RequestException, OSError, ValueError, KeyError) as error:
            raise EngineAway(str(error)) from None
        raise EngineAway("it has ended its stream of events")

    def close(self) -> None:
        """Let go of threads and connections."""
        if self._client is not None:
            self._client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, call: Callable[[Any], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._call, call)

    def _call(self, call: Callable[[Any], T]) -> T:
        try:
            return call(self._api())
        except APIError as error:
            raise _refusal(error) from None
        except (DockerException, requests.RequestException, OSError) as error:
            raise EngineAway(str(error)) from None

    def _api(self) -> Any:
        """Return the low-level client, of the version that both sides know."""
        if self._client is None:
            given = {"base_url": self._url} if self._url else docker.utils.kwargs_from_env()
            self._client = docker.APIClient(version="auto", timeout=_REPLY, **given)
        return self._client


def _asked(declared: Declaration, ports: Mapping[str, int], volumes: Path | None) -> dict[str, Any]:
    """Return what the engine is asked to make, in the words of its API: as little as the container may do with."""
    limits, health = declared.limits, declared.health
    asked: dict[str, Any] = {
        "Image": declared.image,
        "Env": [f"{name}={value}" for name, value in declared.env.items()],
        "ExposedPorts": {f"{port.container}/{port.protocol}": {} for port in declared.ports.values()},
        "StopTimeout": declared.stop_timeout,
        "HostConfig": {
            "PortBindings": {
                f"{port.container}/{port.protocol}": [{"HostIp": port.address, "HostPort": str(ports[name])}]
                for name, port in declared.ports.items()
            },
            "Binds": [f"{volumes}/{path}:{place}" for path, place in declared.volumes.items()],
            "RestartPolicy": {"Name": "no"},  # of two who start it again, neither knows what it does
            "CapDrop": ["ALL"],
            "CapAdd": list(declared.capabilities),
            "SecurityOpt": ["no-new-privileges"],
            "Init": True,  # a shell as process 1 would not hear SIGTERM
            "Memory": limits.memory,
            "MemorySwap": limits.memory,  # which is both together: no swap
            "PidsLimit": limits.pids,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        },
    }
    if limits.cpus is not None:
        asked["HostConfig"]["NanoCpus"] = round(limits.cpus * 1e9)
    if declared.command:
        asked["Cmd"] = declared.command
    if declared.user:
        asked["User"] = declared.user
    if health is not None:
        asked["Healthcheck"] = {
            "Test": ["CMD", *health.test],
            "Interval": _ns(health.interval),
            "Timeout": _ns(health.timeout),
            "StartPeriod": _ns(health.start_period),
            "Retries": health.retries,
        }
    return asked


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _container(told: Mapping[str, Any]) -> Container:
    """Return a container as `inspect` tells of it."""
    labels, state = told["Config"]["Labels"], told["State"]
    return Container(
        id=told["Id"],
        name=told["Name"].removeprefix("/"),
        service=labels[f"{_LABEL}service"],
        generation=int(labels[f"{_LABEL}generation"]),
        ordinal=int(labels[f"{_LABEL}ordinal"]),
        digest=labels[f"{_LABEL}digest"],
        state=state["Status"],
        health=(state.get("Health") or {}).get("Status") or "none",
        started_at=state["StartedAt"],
        exit_code=state["ExitCode"],
        out_of_memory=state["OOMKilled"],
    )


def _refusal(error: APIError) -> Exception:
    """Return what an answer of the engine means; what it will not do has one status, and its text tells why."""
    text = str(error.explanation or error)
    if any(part in text for part in _PORT_TAKEN):
        return PortTaken(text)
    match error.status_code:
        case 404 if "image" in text.lower():
            return NoSuchImage(text)
        case 409 if "name" in text.lower():
            return NameTaken(text)
        case 502 | 503 | 504:
            return EngineAway(text)
        case _:
            return EngineRefuses(text)


def _unless_gone(call: Callable[[], object]) -> None:
    try:
        call()
    except NotFound:
        pass
    except APIError as error:
        if error.status_code != 409 or "already in progress" not in str(error.explanation):
            raise
