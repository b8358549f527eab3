"""A service as its authors write it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from penstock.errors import ConfigurationError
from penstock.retry import Retry
from penstock.service.execute import Hooks, OutcomeHook, ResultHook, StartHook
from penstock.service.handlers import Function, Handler, Handlers, make_handler
from penstock.service.runtime import Runtime
from penstock.topology import ServiceSpec

F = TypeVar("F", bound=Function)
Task = Callable[[Runtime], Awaitable[None]]


class Service:
    """A set of handlers under one name, which is also the name of its consumer group.

    ```python
    service = Service("tickets")

    @service.on("ingest", type="ticket.created")
    async def enhance(ticket: Ticket, ctx: Context) -> None: ...
    ```
    """

    def __init__(self, name: str, *, spools: bool = False) -> None:
        """`spools`: what its tasks publish is kept on local disk while Redis is away, if PENSTOCK_SPOOL_DIR is set."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9._\-]*", name):
            raise ConfigurationError(
                f"Service({name!r}): a name starts with a lower-case letter or digit and holds a-z, 0-9, dot, "
                "hyphen and underscore"
            )
        self.name = name
        self.spools = spools
        self.tasks: list[Task] = []
        self._handlers: list[Handler] = []
        self._on_start: list[StartHook] = []
        self._on_result: list[ResultHook] = []
        self._on_outcome: list[OutcomeHook] = []

    def on(
        self,
        stream: str,
        *,
        type: str | Sequence[str] = "*",  # noqa: A002 - the attribute's name
        batch: int | None = None,
        retry: Retry | None = None,
        timeout: float | None = None,
        needs: Sequence[str] = (),
    ) -> Callable[[F], F]:
        """Handle events of `stream` whose type is, or matches, `type` (`ticket.*`).

        The function takes the data, validated into the annotation of its first parameter (Event for the
        whole event), and optionally a Context. Plain functions run in threads. With `batch` it takes a list
        of up to that many and optionally a BatchContext. `retry` and `timeout` (seconds) override
        streams.yaml. While a circuit breaker in `needs` is open (see Context.breaker) its events wait, and
        no attempt is used up.

        Raises:
            ConfigurationError: the function's signature cannot be used, or there is no stream.
        """
        if not isinstance(stream, str):
            name = getattr(stream, "__qualname__", repr(stream))
            raise ConfigurationError(
                f'{name}: `@service.on` needs the stream; write @service.on("ingest") or, for one type of event, '
                '@service.on("ingest", type="ticket.created")'
            )

        def register(function: F) -> F:
            types = (type,) if isinstance(type, str) else tuple(type)
            self._handlers.append(
                make_handler(
                    function,
                    stream=stream,
                    types=types,
                    batch=batch,
                    retry=retry,
                    timeout=timeout,
                    needs=tuple(needs),
                )
            )
            return function

        return register

    def task(self, function: Task) -> Task:
        """Run `function(runtime)` beside the handlers; it ends by itself once `runtime.stopping` is set."""
        self.tasks.append(function)
        return function

    def on_start(self, hook: StartHook) -> StartHook:
        """Await `hook(context)` before each handler run; if it raises, the attempt fails."""
        self._on_start.append(hook)
        return hook

    def on_result(self, hook: ResultHook) -> ResultHook:
        """Call `hook` with what each single-event handler returns; what it raises is that handler's failure."""
        self._on_result.append(hook)
        return hook

    def on_outcome(self, hook: OutcomeHook) -> OutcomeHook:
        """Call `hook(context, outcome)` after each handler run; its effects are settled with the outcome."""
        self._on_outcome.append(hook)
        return hook

    def include(self, other: Service) -> None:
        """Run the handlers of another service under this service's name and group."""
        self._handlers += other._handlers
        self._on_start += other._on_start
        self._on_result += other._on_result
        self._on_outcome += other._on_outcome
        self.tasks += other.tasks

    @property
    def handlers(self) -> Handlers:
        """The handlers, checked.

        Raises:
            ConfigurationError: two of them want the same events.
        """
        handlers = Handlers(self._handlers)
        handlers.check_conflicts()
        return handlers

    @property
    def hooks(self) -> Hooks:
        """What runs around every handler."""
        return Hooks(tuple(self._on_start), tuple(self._on_result), tuple(self._on_outcome))


def check_streams(service: Service, spec: ServiceSpec) -> None:
    """Refuse handlers on streams that streams.yaml does not let the service read, and the reverse.

    Raises:
        ConfigurationError: naming the stream.
    """
    handled = service.handlers.streams
    for stream in handled:
        if stream not in spec.consumes:
            raise ConfigurationError(
                f"streams.yaml: services.{service.name}.consumes does not list {stream}, which has a handler; add it"
            )
    for stream in spec.consumes:
        if stream not in handled:
            raise ConfigurationError(
                f"streams.yaml: services.{service.name}.consumes lists {stream}, which no handler of the service "
                "reads; remove it or write the handler"
            )
