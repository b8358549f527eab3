"""A mesh inside one process: streams, services and all that they keep, for as long as it is open."""

from __future__ import annotations

import asyncio
import copy
import functools
import itertools
import os
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, Self

import structlog

from penstock.dlq import dead_letter
from penstock.dlq.dead_letter import DeadLetter
from penstock.errors import ConfigurationError, InvalidEvent, Unavailable
from penstock.event import encode, encode_data, identity
from penstock.jobs.cancel import cancelled, check_cancellable, running
from penstock.jobs.find import recorded
from penstock.jobs.identities import Identities
from penstock.jobs.progress import advanced, decode_progress
from penstock.jobs.record import Job
from penstock.jobs.watch import Watches
from penstock.keys import DEAD_LETTERS, EVENTS, Keys
from penstock.memory.breakers import MemoryBreakers, SharedBreaker
from penstock.memory.checkpoints import MemoryCheckpoints
from penstock.memory.commit import MemoryCommitter
from penstock.memory.consumption import MemoryConsumption, NoRedis, Waiting
from penstock.memory.progress import MemoryProgress
from penstock.memory.streams import Streams, encoded
from penstock.memory.values import Values
from penstock.resilience.checkpoint import Checkpoints, NoCheckpoints
from penstock.schemas import BreakerChanged
from penstock.service.app import Service, check_streams
from penstock.service.consumption import work_of
from penstock.service.effects import Scope
from penstock.service.importing import load_service
from penstock.service.runtime import breaker_policy, spec_of
from penstock.settings import Settings
from penstock.streams.publish import Deduplication, DuplicateConflict, Published
from penstock.streams.renaming import sources_of
from penstock.telemetry.measures import Measures
from penstock.times import check_delay, rfc3339
from penstock.topology import Topology

_log = structlog.get_logger("penstock.memory")


class MemoryMesh:
    """Runs services in the event loop that it is opened in, with no Redis, and is their client's backend.

    Handlers, retries, steps, breakers and job records are what they are beside Redis; of the commit, the streams and
    what lies in them there is what one process needs. All of it ends with the mesh.
    """

    spools: Final = False

    def __init__(
        self, settings: Settings, topology: Topology, services: Iterable[Service] | None, *, telemetry: Measures
    ) -> None:
        """Run `services`, or those that streams.yaml names with `run: module:attribute`."""
        self._settings = settings
        self._services = services
        self._telemetry = telemetry
        self._keys = Keys(settings.prefix)
        self._values = Values()
        self._dead: deque[tuple[str, list[bytes]]] = deque(maxlen=settings.dlq_max_entries)
        self._breakers: dict[str, SharedBreaker] = {}
        self._running: dict[asyncio.Task[None], MemoryConsumption] = {}
        self._failure: str | None = "the client is closed"
        self.topology = topology
        self.identities = Identities(None, self._keys, secret=os.urandom(32))
        self.watches = Watches()

    async def __aenter__(self) -> Self:
        """Start the services.

        Raises:
            ConfigurationError: a service and its declaration do not fit together, or it needs Redis.
        """
        services = self._find() if self._services is None else list(self._services)
        _check(services)
        self._streams = Streams()
        self._streams.follow(self._keys.stream(DEAD_LETTERS), lambda *entry: self._dead.append(entry))
        for stream in filter(None, {self.topology.reports(stream) for stream in self.topology.work}):
            self._streams.follow(self._keys.stream(stream), lambda _, fields: self.watches.tell_report(_pairs(fields)))
        consumptions = [self._make(service) for service in services]
        for consumption in consumptions:
            task = asyncio.create_task(consumption.run(), name=consumption.name)
            task.add_done_callback(self._ended)
            self._running[task] = consumption
        self._failure = None
        names = [service.name for service in services]
        _log.warning(
            "this process is the whole mesh (PENSTOCK_BACKEND=memory): there is no Redis, and what is not done when "
            "the client closes is lost",
            services=names,
            without=[name for name in self.topology.services if name not in names],
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the services: what has not come to its end is lost, and it is said how much that is."""
        self._failure = "the client is closed"
        left = self._streams.waiting + sum(one.left for one in self._running.values())
        self._streams.close()
        await asyncio.gather(*(one.stop(task) for task, one in self._running.items()))
        if left:
            _log.warning("closed: what was not done is lost (PENSTOCK_BACKEND=memory)", events=left)

    async def publish(
        self, stream: str, fields: list[str], *, delay: float = 0.0, dedupe: Sequence[Deduplication] = ()
    ) -> Published:
        """Publish one event; see `Publisher.publish`.

        Raises:
            Unavailable: the mesh is closed, or one of its services has failed.
            InvalidEvent: as there.
            DuplicateConflict: as there.
        """
        if self._failure is not None:
            raise Unavailable(self._failure)
        try:
            check_delay("delay", delay)
        except ValueError as error:
            raise InvalidEvent(str(error)) from None
        keys = {self._keys.dedupe(one.scope, one.key): one for one in dedupe}
        seen = [(self._values.get(key), one.digest) for key, one in keys.items()]
        first = None
        for known, digest in seen:
            if known is not None:
                entry, _, known_digest = known.partition(" ")
                if known_digest != digest:
                    raise DuplicateConflict("this key was used before, for another payload")
                first = first or entry
        entry_id = self._add(stream, fields, delay) if first is None else first
        for (key, one), (known, _) in zip(keys.items(), seen, strict=True):
            if known is None:
                self._values.change([["SET", key, f"{entry_id} {one.digest}", "PX", one.lifetime * 1000]])
        return Published(entry_id, duplicate=first is not None)

    async def publish_all(self, stream: str, events: Sequence[list[str]]) -> list[Published]:
        """Publish events in their order; see `Publisher.publish_all`."""
        return [await self.publish(stream, fields) for fields in events]

    async def find_job(self, job_id: str, source: str | None) -> Job | None:
        """Return what became of a job; None if nothing has yet, or nothing is known of it.

        Raises:
            AmbiguousEvent: there are records of several sources, and none was given.
        """
        job = await self.find_record(job_id, source)
        if job is not None:
            return job
        found = self._find_waiting(job_id, source)
        if found is not None:
            event, due = found[1].event, found[1].due
            due_at = None if due is None else rfc3339(due)
            return Job(state="queued", type=event.type, tenant=event.tenant, next_attempt_at=due_at)
        begun = next(filter(None, (one.find_running(job_id, source) for one in self._running.values())), None)
        if begun is None:
            return None
        job = Job(state="running", type=begun.type, tenant=begun.tenant)
        said = (self._values.get(self._keys.progress_of(job_id)) or {}).get(begun.source)
        return job if said is None else advanced(job, decode_progress(said.encode()))

    async def find_record(self, job_id: str, source: str | None) -> Job | None:
        """Return the record of a job, if there is one.

        Raises:
            AmbiguousEvent: there are records of several sources, and none was given.
        """
        keys = self._keys
        stored, said = (
            {name.encode(): text.encode() for name, text in (self._values.get(key) or {}).items()}
            for key in (keys.job(job_id), keys.progress_of(job_id))
        )
        return recorded(stored, said, job_id, source, None)

    async def find_dead_letter(self, job_id: str, source: str | None) -> str | None:
        """Return the id of its newest dead letter, if it has one."""
        letters = (one for one in self._letters() if one.event_id == job_id and source in (None, one.source))
        return next((letter.letter for letter in letters), None)

    async def cancel(self, job_id: str, source: str | None) -> None:
        """Cancel a job; see `penstock.jobs.cancel`.

        Raises:
            NotCancelled: as there.
            AmbiguousEvent: as there.
        """
        job = await self.find_job(job_id, source)
        if job is not None and job.state == "cancelled":
            return
        check_cancellable(job_id, job)
        found = self._find_waiting(job_id, source)
        if job is None or found is None:  # its record is of an attempt before this one
            raise running(job_id)
        group, (event, origin, stream, _, forget) = found
        forget()
        ended, report = cancelled(event, group, job.attempts)
        record = ["HSETOWN", self._keys.job(job_id), event.source, identity(stream, origin.entry_id)]
        self._values.change([[*record, encode_data(ended), str(round(self._settings.job_ttl * 1000))]])
        told = self.topology.reports(stream)
        if told is not None:
            self._add(told, report)

    def _find_waiting(self, job_id: str, source: str | None) -> tuple[str, Waiting] | None:
        """Return a job that waits, and the service whose it is."""
        waiting = ((one.name, one.find_waiting(job_id, source)) for one in self._running.values())
        return next(((name, found) for name, found in waiting if found is not None), None)

    async def dead_letters(self, limit: int) -> list[DeadLetter]:
        """Return the newest dead letters."""
        return list(itertools.islice(self._letters(), limit))

    def state(self, service: str, name: str) -> Any:
        """Return what a service keeps with `ctx.state` under a name, None if there is nothing.

        A hash is a dict of texts, a sorted set a dict of scores; sets, lists and texts are what they are called.
        """
        return copy.copy(self._values.get(self._keys.state(service, name)))

    def _letters(self) -> Iterable[DeadLetter]:
        for entry_id, fields in reversed(self._dead.copy()):
            yield dead_letter.decode(entry_id.encode(), _pairs(fields), None)

    def _add(self, stream: str, fields: list[str], delay: float = 0.0) -> str:
        key = self._keys.stream(stream)
        if delay > 0:
            self._streams.add_later(key, encoded(fields), delay)
            return ""
        return self._streams.add(key, encoded(fields))

    def _tell(self, service: str, changed: BreakerChanged) -> None:
        if EVENTS in self.topology.streams:
            kind = f"breaker.{'opened' if changed.to == 'open' else changed.to}"
            event_id = f"breaker-{changed.name}-{changed.epoch}"
            data = encode_data(changed)
            self._add(EVENTS, encode(kind, data, event_id=event_id, source=service, subject=changed.name))

    def _find(self) -> list[Service]:
        targets = {name: spec.run for name, spec in self.topology.services.items() if spec.run and ":" in spec.run}
        if not targets:
            raise ConfigurationError(
                "PENSTOCK_BACKEND=memory: streams.yaml names no service that can run in this process; give it "
                "`run: module:service`, or hand services to connect(services=[...])"
            )
        return [load_service(target, variable=f"services.{name}.run") for name, target in targets.items()]

    def _make(self, service: Service) -> MemoryConsumption:
        settings, keys, topology = self._settings, self._keys, self.topology
        spec = spec_of(settings, topology, service.name)
        check_streams(service, spec)
        committer = MemoryCommitter(
            self._values,
            self._streams,
            consumer="memory",
            sources=sources_of(keys, service.name, list(spec.consumes)),
            scheduled={keys.scheduled(stream): keys.stream(stream) for stream in topology.streams},
            dead_letters=keys.stream(DEAD_LETTERS) if settings.dlq_enabled else "",
        )
        checkpoints: Checkpoints = NoCheckpoints()
        if settings.checkpoint_enabled:
            checkpoints = MemoryCheckpoints(self._values, keys, group=service.name, ttl=settings.checkpoint_ttl)
        policies = functools.partial(breaker_policy, settings, topology)
        breakers = MemoryBreakers(self._breakers, keys, service=service.name, policies=policies, tell=self._tell)
        scope = Scope(
            service=service.name,
            keys=keys,
            publishes=frozenset(spec.publishes),
            checkpoints=checkpoints,
            outlet=self,
            breakers=breakers,
            redis=NoRedis(),
            telemetry=self._telemetry,
            progress=MemoryProgress(self._values, self.watches, keys, streams=work_of(service.name, spec, topology)),
        )
        consumption = MemoryConsumption(service, spec, scope, settings=settings, topology=topology, committer=committer)
        consumption.follow(self._streams)
        return consumption

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Say that a service has failed, which none should: what is told to publishers, for nobody else sees it."""
        error = None if task.cancelled() else task.exception()
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if error is not None:
            self._failure = f"service {task.get_name()} has failed: {error!r}"
            _log.error("a service has failed", service=task.get_name(), exc_info=error)


def _pairs(fields: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(fields[::2], fields[1::2], strict=True))


def _check(services: Sequence[Service]) -> None:
    """Refuse services that cannot run here.

    Raises:
        ConfigurationError: naming the service.
    """
    names = [service.name for service in services]
    for service in services:
        if service.tasks:
            raise ConfigurationError(
                f"service {service.name} has tasks, which are given Redis, and PENSTOCK_BACKEND=memory has none: "
                "run it with Redis, or leave it out with connect(services=[...])"
            )
        if names.count(service.name) > 1:
            raise ConfigurationError(f"service {service.name} is there twice; give one of the two another name")
