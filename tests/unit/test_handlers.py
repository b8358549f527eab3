"""Handlers: which functions are accepted, and which one an event goes to."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, TypedDict

import msgspec
import pytest

from penstock import BatchContext, ConfigurationError, Context, Event, Retry, Service
from penstock.event import decode
from penstock.service.handlers import Handler


class Ticket(msgspec.Struct):
    ticket_id: str


@dataclasses.dataclass
class Order:
    number: int


class Visit(TypedDict):
    page: str


def event(data: str) -> Event:
    return decode("ingest", "1-0", [b"type", b"t", b"data", data.encode()])


def registered(function: Callable[..., Any], **options: Any) -> Handler:
    service = Service("shop")
    service.on("ingest", **{"type": "t", **options})(function)
    found = service.handlers.find("ingest", "t")
    assert found is not None
    return found


async def takes_ticket(ticket: Ticket) -> None: ...


async def takes_order(order: Order) -> None: ...


async def takes_visit(visit: Visit) -> None: ...


async def takes_anything(data: Any) -> None: ...


async def takes_unannotated(data) -> None:  # type: ignore[no-untyped-def]
    ...


async def takes_event(event: Event) -> None: ...


async def takes_context(ticket: Ticket, ctx: Context) -> None: ...


async def takes_optional(ticket: Ticket | None) -> None: ...


@pytest.mark.parametrize(
    ("function", "data", "expected"),
    [
        (takes_ticket, '{"ticket_id": "T-1"}', Ticket("T-1")),
        (takes_order, '{"number": 5}', Order(5)),
        (takes_visit, '{"page": "/"}', {"page": "/"}),
        (takes_anything, "[1]", [1]),
        (takes_unannotated, "[1]", [1]),
        (takes_optional, "null", None),
        (takes_event, "not even JSON", event("not even JSON")),
    ],
)
def test_data_is_read_into_the_annotation_of_the_first_parameter(
    function: Callable[..., Any], data: str, expected: object
) -> None:
    assert registered(function).decode(event(data)) == expected


def test_data_that_does_not_fit_names_the_field() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"Expected `str`, got `int` - at `\$\.ticket_id`"):
        registered(takes_ticket).decode(event('{"ticket_id": 1}'))


def test_the_context_is_given_to_those_that_ask_for_it() -> None:
    assert registered(takes_context).takes_context
    assert not registered(takes_ticket).takes_context


def test_plain_and_async_functions_are_told_apart() -> None:
    def plain(ticket: Ticket) -> None: ...

    assert registered(takes_ticket).is_async
    assert not registered(plain).is_async


def test_a_partial_is_a_handler_like_any_other() -> None:
    async def takes_more(ticket: Ticket, ctx: Context, mailer: str) -> None: ...

    handler = registered(functools.partial(takes_more, mailer="smtp"))

    assert handler.is_async
    assert handler.takes_context
    assert handler.decode(event('{"ticket_id": "T-1"}')) == Ticket("T-1")


def no_parameter() -> None: ...


def three(ticket: Ticket, ctx: Context, more: int) -> None: ...


def only_keywords(*, ticket: Ticket) -> None: ...


def needs_a_keyword(ticket: Ticket, *, ctx: Context) -> None: ...


def unreadable(ticket: Context) -> None: ...


def nowhere(ticket: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
    ...


class Unfinished(msgspec.Struct):
    part: Nowhere  # type: ignore[name-defined]  # noqa: F821


def takes_unfinished(data: Unfinished) -> None: ...


def no_list(ticket: Ticket) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "problem"),
    [
        (no_parameter, {}, "takes the data and, if it wants, the context"),
        (three, {}, "takes the data and, if it wants, the context"),
        (only_keywords, {}, "takes the data and, if it wants, the context"),
        (needs_a_keyword, {}, "takes the data and, if it wants, the context"),
        (
            unreadable,
            {},
            "cannot be read from JSON: take a msgspec Struct, a dataclass, a TypedDict, a model of pydantic",
        ),
        (takes_unfinished, {}, "cannot be read from JSON: name 'Nowhere' is not defined"),
        (nowhere, {}, "name 'Nowhere' is not defined; annotate with a type that the module can see"),
        (no_list, {"batch": 10}, r"a batch handler takes a list, such as list\[Event\]"),
        (takes_anything, {"batch": 0}, "batch is the most events in one call, 1 to 1000, not 0"),
        (takes_anything, {"batch": 1001}, "1 to 1000, not 1001"),
    ],
)
def test_a_function_that_cannot_be_a_handler_is_refused_by_name(
    function: Callable[..., Any], options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        Service("shop").on("ingest", **options)(function)

    assert function.__name__ in str(caught.value)


@pytest.mark.parametrize("name", ["", "Shop", "my shop", "a:b", "-a", "{a}"])
def test_a_service_needs_a_name_that_can_be_part_of_a_key(name: str) -> None:
    with pytest.raises(ConfigurationError, match="a name starts with"):
        Service(name)


def test_batch_handlers_take_lists_of_their_type() -> None:
    async def takes_tickets(tickets: list[Ticket], ctx: BatchContext) -> None: ...

    handler = registered(takes_tickets, batch=10)

    assert handler.batch == 10
    assert handler.decode(event('{"ticket_id": "T-1"}')) == Ticket("T-1")


def named(service: Service, stream: str, event_type: str) -> str | None:
    handler = service.handlers.find(stream, event_type)
    return handler.types[0] if handler else None


def test_an_exact_type_comes_before_a_pattern() -> None:
    service = Service("shop")
    for types in ("*.created", "ticket.*", "ticket.created", "order.[ab]"):
        service.on("ingest", type=types)(takes_event)

    assert named(service, "ingest", "ticket.created") == "ticket.created"
    assert named(service, "ingest", "user.created") == "*.created"
    assert named(service, "ingest", "ticket.closed") == "ticket.*"
    assert named(service, "ingest", "order.b") == "order.[ab]"
    assert named(service, "ingest", "order.closed") is None
    assert named(service, "events", "ticket.created") is None


@pytest.mark.parametrize(
    ("event_type", "patterns"),
    [
        ("a.b.c", ("a.b.c", "a.b.*", "a.*", "*.c", "*")),
        ("a.b.c", ("a.b.*", "a.*.c", "a.*", "?*")),
        ("a.b", ("a.[b]", "a.?", "a.*")),
        ("a.b", ("a.[bc]", "a.?", "a.?*", "a*?*", "[ab]*.b", "*.b")),
        ("ticket.created", ("ticket.*", "*.created")),  # what is said first weighs more
        ("a[b", ("a[b*", "a*[b", "a*")),  # a [ that begins no set stands for itself
        ("abc", ("a*bc*", "a*c*", "a*", "**")),
        ("abc", ("a*b*c", "a*bc*")),  # neither is narrower: which one is settled all the same
    ],
)
def test_of_several_patterns_the_most_specific_counts_whatever_the_order(
    event_type: str, patterns: tuple[str, ...]
) -> None:
    for skipped in range(len(patterns)):
        left = patterns[skipped:]
        for order in itertools.permutations(left):
            service = Service("shop")
            for pattern in order:
                service.on("ingest", type=pattern)(takes_event)
            assert named(service, "ingest", event_type) == left[0], order


def test_patterns_of_one_handler_count_each_for_itself() -> None:
    service = Service("shop")
    service.on("ingest", type=["a.b.*", "*"])(takes_event)
    service.on("ingest", type=["a.*"])(takes_event)

    assert [named(service, "ingest", kind) for kind in ("a.b.c", "a.c", "c")] == ["a.b.*", "a.*", "a.b.*"]


def test_a_handler_may_want_several_types_and_by_default_all() -> None:
    service = Service("shop")
    service.on("ingest", type=("a", "b"))(takes_event)
    service.on("events")(takes_event)

    assert [named(service, "ingest", kind) for kind in ("a", "b", "c")] == ["a", "a", None]
    assert named(service, "events", "whatever") == "*"


def test_types_without_end_do_not_fill_the_memory() -> None:
    service = Service("shop")
    service.on("ingest", type="a*")(takes_event)
    handlers = service.handlers
    for number in range(10_050):
        assert handlers.find("ingest", f"a{number}") is not None

    assert len(handlers._found) < 10_001
    assert handlers.find("ingest", "b") is None


def test_two_handlers_for_one_type_are_refused_by_name() -> None:
    service = Service("shop")
    service.on("ingest", type="ticket.created")(takes_ticket)
    service.on("events", type="ticket.created")(takes_ticket)  # another stream
    service.on("ingest", type=["order.placed", "ticket.created"])(takes_order)

    with pytest.raises(
        ConfigurationError, match=r"takes_order and .*takes_ticket both handle ticket\.created on ingest"
    ):
        _ = service.handlers


@pytest.mark.parametrize("pattern", ["order.*", "*"])
def test_two_handlers_of_one_pattern_are_refused_by_name(pattern: str) -> None:
    service = Service("shop")
    service.on("ingest", type=pattern)(takes_ticket)
    service.on("ingest", type=["a", pattern])(takes_order)

    with pytest.raises(ConfigurationError, match=r"takes_order and .*takes_ticket both handle ") as caught:
        _ = service.handlers

    assert f"both handle {pattern} on ingest" in str(caught.value)


def test_one_function_registered_twice_makes_two_handlers() -> None:
    service = Service("shop")
    service.on("ingest", type="a", retry=Retry(attempts=2))(takes_event)
    service.on("ingest", type="b", retry=Retry(attempts=9))(takes_event)
    handlers = service.handlers
    first, second = handlers.find("ingest", "a"), handlers.find("ingest", "b")

    assert first is not None
    assert second is not None
    assert first != second
    assert (first.retry, second.retry) == (Retry(attempts=2), Retry(attempts=9))


def test_an_included_service_brings_its_handlers_hooks_and_tasks() -> None:
    async def on_start(ctx: Context) -> None: ...

    def on_outcome(ctx: Context, outcome: object) -> None: ...

    async def task(runtime: object) -> None: ...

    other = Service("other")
    other.on("ingest", type="a")(takes_event)
    other.on_start(on_start)
    other.on_outcome(on_outcome)
    other.task(task)
    service = Service("shop")
    service.include(other)

    assert named(service, "ingest", "a") == "a"
    assert (service.hooks.on_start, service.hooks.on_outcome) == ((on_start,), (on_outcome,))
    assert service.tasks == [task]
