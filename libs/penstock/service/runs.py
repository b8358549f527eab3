"""Runs: coroutines that are stepped in shared tasks, so that one that never waits needs no task of its own.

A task steps one run after another for as long as they do not wait. When one does, the task stays with it, and
another task takes what is left. So each run sees the `asyncio` that it would see in a task of its own: the same
current task from its first step to its last, its own context variables, cancelling. Waiting for a commit frees the
task: by then the handler is over.
"""

from __future__ import annotations

import asyncio
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any, Final

from penstock.streams.commit import Commit

_MOST_SECONDS = 0.005  # after so long others on the loop have their turn: readers, heartbeats, commits
_NOTHING: Final = object()  # None is what a task that only lets others go first waits for


class Run:
    """A coroutine under way. It has a task while it is stepped, and none before that or while its commit is."""

    __slots__ = ("_queue", "cancelled", "context", "coroutine", "error", "task")

    def __init__(self, coroutine: Coroutine[Any, Any, None], queue: Callable[[Run], None]) -> None:
        self._queue = queue
        self.coroutine = coroutine
        self.context: Context = copy_context()
        self.task: asyncio.Task[None] | None = None
        self.error: BaseException | None = None
        """What it goes on with."""
        self.cancelled = False

    @property
    def is_running(self) -> bool:
        """Whether it is between its first step and its commit."""
        return self.task is not None

    def step(self, value: Any = None) -> Any:
        """Go on to where it waits next, and return for what: nothing if it has ended or awaits its commit."""
        try:
            if self.error is None:
                wanted = self.context.run(self.coroutine.send, value)
            else:
                error, self.error = self.error, None
                wanted = self.context.run(self.coroutine.throw, error)
        except StopIteration:
            return _NOTHING
        if type(wanted) is Commit:
            wanted.waiter = self
            return _NOTHING
        return wanted

    def resume(self) -> None:
        """Go on: the commit is done that it has waited for."""
        self._queue(self)

    def cancel(self) -> None:
        """Stop what runs; what has not begun is not to begin, and what is being committed is left to that."""
        self.cancelled = True
        if self.task is not None:
            self.task.cancel()


class Runs:
    """Steps runs until they end."""

    def __init__(self) -> None:
        self._queue: deque[Run] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._woken = False
        self._loop = asyncio.get_running_loop()
        self._failure: asyncio.Future[None] = self._loop.create_future()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> Run:
        """Run a coroutine, from the next turn of the loop on."""
        run = Run(coroutine, self._enqueue)
        self._enqueue(run)
        return run

    async def failure(self) -> None:
        """Wait for a run that fails, which none should, and raise what it raised."""
        await self._failure

    async def end(self, seconds: float) -> int:
        """Cancel what runs; return how many would not end within `seconds`."""
        if self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=seconds)
        if self._failure.done() and not self._failure.cancelled():
            self._failure.exception()  # it has been seen
        return len(self._tasks)

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._serve)

    def _serve(self) -> None:
        self._woken = False
        if self._queue:
            task = self._loop.create_task(self._step_all())
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._queue:
            self._wake()
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failure.done():
            self._failure.set_exception(error)

    async def _step_all(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        until = time.perf_counter() + _MOST_SECONDS
        while self._queue:
            run = self._queue.popleft()
            run.task = task
            try:
                wanted = run.step()
                if wanted is not _NOTHING:
                    await self._stay_with(run, wanted)
            except GeneratorExit:  # see _stay_with
                return
            finally:
                run.task = None
            if task.cancelling():  # its handler has cancelled it: it is of no use to others
                return
            if time.perf_counter() > until:
                await asyncio.sleep(0)
                until = time.perf_counter() + _MOST_SECONDS

    @types.coroutine
    def _stay_with(self, run: Run, wanted: Any) -> Generator[Any, Any, None]:
        """Step a run that waits for `wanted` to its end or to its commit."""
        while wanted is not _NOTHING:
            if self._queue:
                self._wake()
            try:
                value = yield wanted
            except GeneratorExit as error:
                if _is_current(run.task):
                    # What a handler awaits has raised it, and Python closes whatever is awaited: another task goes on.
                    run.error = RuntimeError("what the handler awaited raised GeneratorExit").with_traceback(
                        error.__traceback__
                    )
                    self._enqueue(run)
                    return
                run.error = error
            except BaseException as error:  # noqa: BLE001 - it is the run's
                run.error = error
            else:
                wanted = run.step(value)
                continue
            wanted = run.step()

    def _enqueue(self, run: Run) -> None:
        self._queue.append(run)
        if not self._woken:
            self._wake()


def _is_current(task: asyncio.Task[None] | None) -> bool:
    try:
        return task is not None and asyncio.current_task() is task
    except RuntimeError:  # the loop has ended
        return False
