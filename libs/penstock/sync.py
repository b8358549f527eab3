"""The client for programs without an event loop: Django and Flask views, Celery tasks, scripts."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from penstock.client.client import NewJob
from penstock.client.client import Penstock as AsyncPenstock
from penstock.client.handle import JobHandle as AsyncJobHandle
from penstock.dlq.dead_letter import DeadLetter
from penstock.errors import Unavailable
from penstock.jobs.record import Job
from penstock.settings import Settings
from penstock.streams.durability import Durability
from penstock.topology import Topology

if TYPE_CHECKING:
    from penstock.service.app import Service

T = TypeVar("T")
_CLOSING = 5.0  # seconds
_clients: weakref.WeakSet[Penstock] = weakref.WeakSet()


class JobHandle:
    """One job; see `penstock.client.handle.JobHandle`, whose calls these are."""

    def __init__(self, mesh: Penstock, handle: AsyncJobHandle) -> None:
        self._mesh = mesh
        self._handle = handle

    def __repr__(self) -> str:
        return repr(self._handle)

    @property
    def id(self) -> str:
        """What names it everywhere."""
        return self._handle.id

    @property
    def duplicate(self) -> bool:
        """Whether its idempotency key was used before."""
        return self._handle.duplicate

    @property
    def spooled(self) -> bool:
        """Whether it was kept on local disk as Redis was away."""
        return self._handle.spooled

    @property
    def durability(self) -> Durability | Literal["process", "spooled"]:
        """What has the job; see the other."""
        return self._here().durability

    def status(self) -> Job:
        """Return what has become of it so far.

        Raises:
            Unavailable: Redis is away.
            AmbiguousEvent: several sources have a job of this id.
        """
        return self._mesh.run(self._here().status())

    @overload
    def result(self, timeout: float | None = None) -> Any: ...

    @overload
    def result(self, timeout: float | None = None, *, type: type[T]) -> T: ...

    def result(self, timeout: float | None = None, *, type: Any = Any) -> Any:  # noqa: A002 - as in the other
        """Wait until the job has ended; return what its handler returned, converted to `type`.

        Raises:
            JobDead: it was given up.
            JobCancelled: it was cancelled.
            NoRecord: it is over, and there is no record of how.
            TimeoutError: it has not ended within `timeout` seconds; it goes on.
            InvalidEvent: the result does not fit `type`.
            AmbiguousEvent: several sources have a job of this id.
        """
        return self._mesh.run(self._here().result(timeout, type=type))

    def watch(self) -> Iterator[Job]:
        """Yield what has become of it so far, then every change until its end, and what its handler says of progress.

        Raises:
            Unavailable: Redis was away at the beginning.
        """
        changes = self._here().watch()
        try:
            while (change := self._mesh.run(_next(changes))) is not None:
                yield change
        finally:
            self._mesh.run(changes.aclose())

    def cancel(self) -> None:
        """Cancel it, unless it runs or is over; see the other.

        Raises:
            NotCancelled: it runs, it is over, or it is not in Redis (yet, if it was spooled).
            Unavailable: Redis is away, and it may be cancelled or not; or its user of Redis may not do that.
            AmbiguousEvent: several sources have a job of this id.
        """
        self._mesh.run(self._here().cancel())

    def _here(self) -> AsyncJobHandle:
        """Return the handle in the client that this process has now: after a fork that is another one."""
        client = self._mesh.client()
        if not self._handle.is_of(client):
            self._handle = client.job(self.id)
        return self._handle


class Penstock:
    """A way into the mesh for threads; see `penstock.Penstock`, whose calls these are.

    ```python
    mesh = Penstock.connect(source="shop-web")     # at import, or anywhere
    job = mesh.submit("order.placed", {"id": 7})
    receipt = job.result(timeout=30)
    ```
    It opens with its first call, in a thread of its own, which all threads share: what they publish at the same time
    goes out together. A forked child (gunicorn --preload, Celery prefork) opens one anew. What is left is sent at
    `close`, or when the program ends.
    """

    def __init__(self, client: AsyncPenstock) -> None:
        """Use `connect`."""
        self._made = client
        self._lock = threading.Lock()
        self._open: _Open | None = None
        self._abandoned: list[_Open] = []
        _clients.add(self)

    @classmethod
    def connect(
        cls,
        url: str | None = None,
        *,
        topology: Topology | str | None = None,
        source: str = "client",
        settings: Settings | None = None,
        services: Iterable[Service] | None = None,
    ) -> Self:
        """Return a client; see `penstock.Penstock.connect`.

        Raises:
            ConfigurationError: the environment or streams.yaml is wrong.
        """
        return cls(AsyncPenstock.connect(url, topology=topology, source=source, settings=settings, services=services))

    def __enter__(self) -> Self:
        self.client()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(
        self,
        type: str,  # noqa: A002 - the attribute's name
        data: Any = None,
        *,
        stream: str | None = None,
        subject: str | None = None,
        tenant: str | None = None,
        idempotency_key: str | None = None,
        delay: float | None = None,
        at: datetime | str | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> JobHandle:
        """Hand a job to the mesh; return once Redis has it.

        Raises:
            PenstockError: what `penstock.Penstock.submit` raises.
        """
        job = NewJob(type, data, stream, subject, tenant, idempotency_key, delay, at, extra)
        return self.submit_all([job])[0]

    def submit_all(self, jobs: Iterable[NewJob]) -> list[JobHandle]:
        """Submit many jobs at once; return their handles in the same order once Redis has them all.

        Raises:
            PenstockError: what `penstock.Penstock.submit_all` raises.
        """
        return [JobHandle(self, handle) for handle in self.run(self.client().submit_all(jobs))]

    def publish(
        self,
        stream: str,
        type: str,  # noqa: A002 - the attribute's name
        data: Any = None,
        *,
        subject: str | None = None,
        tenant: str | None = None,
        event_id: str | None = None,
        idempotency_key: str | None = None,
        delay: float | None = None,
        at: datetime | str | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> str:
        """Publish an event to any stream; return its id once Redis has it.

        Raises:
            PenstockError: what `penstock.Penstock.publish` raises.
        """
        publishing = self.client().publish(
            stream,
            type,
            data,
            subject=subject,
            tenant=tenant,
            event_id=event_id,
            idempotency_key=idempotency_key,
            delay=delay,
            at=at,
            extra=extra,
        )
        return self.run(publishing)

    def job(self, job_id: str, *, source: str | None = None) -> JobHandle:
        """Return the handle of a job that was submitted before, here or elsewhere."""
        return JobHandle(self, self.client().job(job_id, source=source))

    def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        """Return the dead letters that were not replayed, the newest first, `limit` of them at most.

        Raises:
            Unavailable: Redis is away.
        """
        return self.run(self.client().dead_letters(limit=limit))

    def close(self, timeout: float = _CLOSING) -> None:
        """Send what waits to be sent, and close it, within `timeout` seconds. A later call opens it again.

        Raises:
            Unavailable: that was not enough: what other threads were publishing is cut off, and they are told.
        """
        with self._lock:
            opened, self._open = self._open, None
        if opened is not None:
            opened.close(timeout)

    def client(self) -> AsyncPenstock:
        """Open it, unless it is; return what runs in its thread.

        Raises:
            Unavailable: as for `penstock.Penstock.__aenter__`.
            ConfigurationError: as there.
        """
        with self._lock:
            if self._open is None:
                self._open = _Open(self._made)
            return self._open.client

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the client in its thread, within the trace of the caller; wait for what it returns."""
        with self._lock:
            opened = self._open
        if opened is None:
            coroutine.close()
            raise Unavailable("the client was closed meanwhile")
        return opened.run(coroutine)

    def forget(self) -> None:
        """Leave to the parent what is its own: a forked child has its sockets, and must not speak through them."""
        self._lock = threading.Lock()  # another thread may have held it when the parent forked
        if self._open is not None:
            self._abandoned.append(self._open)
            self._open = None


async def _next(changes: AsyncGenerator[Job]) -> Job | None:
    return await anext(changes, None)


def _forget_all() -> None:
    for client in list(_clients):
        client.forget()


def _close_all() -> None:
    for client in list(_clients):
        with contextlib.suppress(Unavailable):
            client.close()


os.register_at_fork(after_in_child=_forget_all)
atexit.register(_close_all)


class _Open:
    """A client that is open, and the thread with the event loop that it lives in."""

    def __init__(self, made: AsyncPenstock) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="penstock-client", daemon=True)
        self._thread.start()
        self.client = made.anew()
        try:
            self.run(self.client.__aenter__())
        except BaseException:
            self._stop()
            raise

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        # The caller's context variables, and with them its trace, go along.
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise Unavailable("the client was closed meanwhile") from None
        except BaseException:  # such as KeyboardInterrupt: nobody waits for it any more
            future.cancel()
            raise

    def close(self, timeout: float) -> None:
        closing = asyncio.run_coroutine_threadsafe(self.client.__aexit__(), self._loop)
        try:
            closing.result(timeout)
        except TimeoutError:
            raise Unavailable(f"not everything could be sent within {timeout:g} s") from None
        finally:
            self._stop()

    def _stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        """Cancel what is left in the loop, so that whoever waits for it is told."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=1.0)
