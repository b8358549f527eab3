"""Models of pydantic as payloads: as data, emitted, kept of steps; within types of msgspec too."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from penstock import ConfigurationError, Context, InvalidEvent, Service
from penstock.event import encode_data
from penstock.service.outcome import Dead, Done, Retried
from penstock.testing import Given, Harness
from penstock.testing.doubles import Checkpoints
from tests.scopes import make_context, make_scope


class Item(pydantic.BaseModel):
    name: str
    price: decimal.Decimal = decimal.Decimal(0)


class Order(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    number: int = pydantic.Field(alias="orderNumber", gt=0)
    placed: dt.datetime | None = None
    items: list[Item] = []

    @pydantic.field_validator("items")
    @classmethod
    def few(cls, items: list[Item]) -> list[Item]:
        if len(items) > 2:
            raise ValueError("two items at most")
        return items


class Cash(pydantic.BaseModel):
    kind: Literal["cash"]


class Card(pydantic.BaseModel):
    kind: Literal["card"]
    last: str


@pydantic.dataclasses.dataclass
class Weight:
    grams: Annotated[int, pydantic.Field(ge=0)]


class Envelope(msgspec.Struct):
    order: Order | None = None


@dataclasses.dataclass
class Parcel:
    items: dict[str, Item]


async def takes_order(order: Order) -> Any:
    return order


async def takes_optional(order: Order | None) -> Any:
    return order


async def takes_payment(payment: Annotated[Cash | Card, pydantic.Field(discriminator="kind")]) -> Any:
    return payment


async def takes_either(either: Cash | Card) -> Any:
    return either


async def takes_items(items: list[Item]) -> Any:
    return items


async def takes_weight(weight: Weight) -> Any:
    return weight


async def takes_envelope(envelope: Envelope) -> Any:
    return envelope


async def takes_parcel(parcel: Parcel) -> Any:
    return parcel


def harness(function: Callable[..., Any], **options: Any) -> Harness:
    service = Service("shop")
    service.on("ingest", **options)(function)
    return Harness(service, publishes=["events"])


ORDER = Order(orderNumber=5, placed=dt.datetime(2026, 11, 26, tzinfo=dt.UTC))
ORDER_JSON = {"orderNumber": 5, "placed": "2026-11-26T00:00:00Z", "items": []}


@pytest.mark.parametrize(
    ("function", "data", "expected"),
    [
        (takes_order, ORDER_JSON, ORDER),  # strict: a datetime may come as text in JSON, not from Python
        (takes_optional, None, None),
        (takes_optional, ORDER_JSON, ORDER),
        (takes_payment, {"kind": "card", "last": "42"}, Card(kind="card", last="42")),
        (takes_either, {"kind": "cash"}, Cash(kind="cash")),
        (takes_items, [{"name": "a"}], [Item(name="a")]),
        (takes_weight, {"grams": 5}, Weight(5)),
        (takes_envelope, {"order": ORDER_JSON}, Envelope(ORDER)),
        (takes_parcel, {"items": {"a": {"name": "a"}}}, Parcel({"a": Item(name="a")})),
    ],
)
async def test_data_is_read_into_models(function: Callable[..., Any], data: object, expected: object) -> None:
    assert (await harness(function).send("ingest", "t", data)).result == expected


@pytest.mark.parametrize(
    ("function", "data", "complaint"),
    [
        (takes_order, {"orderNumber": "5"}, "data: Input should be a valid integer - at `$.orderNumber`"),
        (takes_order, {}, "data: Field required - at `$.orderNumber`"),
        (takes_order, b"{", "data: Invalid JSON: EOF while parsing an object at line 1 column 1"),
        (takes_order, b"[" * 100_000, "data: Invalid JSON: recursion limit exceeded"),
        (takes_order, None, "data: Input should be an object"),
        (
            takes_order,
            {"orderNumber": 0, "items": [{"name": 1}]},
            "data: Input should be greater than 0 - at `$.orderNumber`; "
            "Input should be a valid string - at `$.items[0].name`",
        ),
        (
            takes_order,
            {**ORDER_JSON, "items": [{"name": "a"}] * 3},
            "data: Value error, two items at most - at `$.items`",
        ),
        (
            takes_items,
            [{}] * 7,
            f"data: {'; '.join(f'Field required - at `$[{n}].name`' for n in range(5))}; and 2 more",
        ),
        (takes_weight, {"grams": -1}, "data: Input should be greater than or equal to 0 - at `$.grams`"),
        (takes_envelope, {"order": {"orderNumber": 0}}, "data: Input should be greater than 0 - at `$.orderNumber`"),
    ],
)
async def test_data_that_does_not_fit_is_dead_with_the_fields_named(
    function: Callable[..., Any], data: object, complaint: str
) -> None:
    outcome = (await harness(function).send("ingest", "t", data)).outcome

    assert isinstance(outcome, Dead)
    assert outcome.reason == "invalid"
    assert outcome.error.startswith(complaint)
    assert "pydantic.dev" not in outcome.error


async def test_of_a_batch_only_what_does_not_fit_is_dead() -> None:
    taken: list[list[Item]] = []

    async def take(items: list[Item]) -> None:
        taken.append(items)

    given = [Given(type="t", data={"name": name}, id=str(name)) for name in ("a", 5)]
    runs = await harness(take, batch=10).send_all("ingest", given)

    assert {run.ids: type(run.outcome) for run in runs} == {("a",): Done, ("5",): Dead}
    assert taken == [[Item(name="a")]]


async def test_a_model_that_the_handler_itself_cannot_make_is_a_failed_attempt() -> None:
    async def ask(data: Any) -> None:
        Item.model_validate({"answer": "of some API that is out of order"})

    outcome = (await harness(ask).send("ingest", "t")).outcome

    assert isinstance(outcome, Retried)
    assert outcome.error.startswith("ValidationError: 1 validation error for Item")


class Unfinished(pydantic.BaseModel):
    part: Nowhere  # type: ignore[name-defined]  # noqa: F821


async def takes_unfinished(data: Unfinished) -> None: ...


async def takes_mixture(data: Item | Envelope) -> None: ...


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (takes_unfinished, "cannot be read from JSON: pydantic: name 'Nowhere' is not defined"),
        (takes_mixture, "cannot be read from JSON: pydantic: Unable to generate pydantic-core schema for .*Envelope"),
    ],
)
def test_what_pydantic_cannot_read_is_refused_by_name(function: Callable[..., Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        Service("shop").on("ingest")(function)

    assert function.__name__ in str(caught.value)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (ORDER, '{"orderNumber":5,"placed":"2026-11-26T00:00:00Z","items":[]}'),
        ([Item(name="a", price=decimal.Decimal("1.10"))], '[{"name":"a","price":"1.10"}]'),
        (Envelope(ORDER), '{"order":{"orderNumber":5,"placed":"2026-11-26T00:00:00Z","items":[]}}'),
        (pydantic.RootModel[list[int]]([1]), "[1]"),
        (Weight(5), '{"grams":5}'),
    ],
)
def test_models_are_written_as_json_under_their_aliases(data: object, expected: str) -> None:
    assert encode_data(data) == expected


class Reading(pydantic.BaseModel):
    value: float


class Anything(pydantic.BaseModel):
    value: Any


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (Anything(value=object()), "Unable to serialize unknown type"),
        (Reading(value=float("nan")), "it holds nan, which JSON has no form for"),
        ([{"a": Reading(value=float("inf"))}], "it holds inf, which JSON has no form for"),
    ],
)
def test_models_that_json_cannot_hold_are_refused(data: object, why: str) -> None:
    with pytest.raises(InvalidEvent, match=f"cannot be written as JSON: .*{why}"):
        encode_data(data)


async def test_a_step_is_restored_as_the_model_it_returned() -> None:
    calls: list[int] = []

    async def fetch(number: int) -> Order | None:
        calls.append(number)
        return ORDER

    async def wrap(number: int) -> Envelope:
        calls.append(number)
        return Envelope(ORDER)

    async def pay(number: int) -> Annotated[Cash | Card, pydantic.Field(discriminator="kind")]:
        calls.append(number)
        return Card(kind="card", last="42")

    scope = make_scope(checkpoints=Checkpoints())
    for attempt in (1, 2):
        context = make_context(scope=scope, attempt=attempt)
        assert await context.step("fetch", fetch, 1) == ORDER
        assert await context.step("wrap", wrap, 2) == Envelope(ORDER)
        assert await context.step("pay", pay, 3) == Card(kind="card", last="42")
    assert calls == [1, 2, 3]


async def test_a_stored_result_that_is_no_such_model_any_more_names_the_step() -> None:
    async def once(ctx: Context) -> dict[str, str]:
        return {"title": "a"}

    async def now(ctx: Context) -> Item:
        raise AssertionError("it must not run again")

    scope = make_scope(checkpoints=Checkpoints())
    first, second = make_context(scope=scope), make_context(scope=scope, attempt=2)
    await first.step("fetch", once, first)

    with pytest.raises(InvalidEvent, match=r"kept of step fetch does not fit.*Field required - at `\$\.name`"):
        await second.step("fetch", now, second)
