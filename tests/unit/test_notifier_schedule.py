"""Who is on call when, and when it is quiet, by the clock on the wall."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from penstock.errors import ConfigurationError
from penstock_services.notifier.config.config import Config, parse

HOOK = "{type: webhook, url: 'https://example.com/hook'}"
CHANNELS = f"channels: {{ann: {HOOK}, bob: {HOOK}, eve: {HOOK}}}\n"
ON_CALL = """
on_call:
  primary:
    rotation: [ann, bob]
    starts: 2026-01-05T09:00:00
    every: 7d
    timezone: Europe/Berlin
    overrides: [{from: 2026-01-06T00:00:00, to: 2026-01-07T00:00:00, channel: eve}]
routes: [{channels: [primary]}]
"""


def at(text: str, zone: str = "Europe/Berlin") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def config(text: str) -> Config:
    return parse(CHANNELS + text, environ={})


@pytest.mark.parametrize(
    ("now", "channel"),
    [
        ("2026-01-05T09:00", "ann"),
        ("2026-01-05T08:59", "bob"),  # turns go back as far as one asks
        ("2026-01-06T12:00", "eve"),
        ("2026-01-07T00:00", "ann"),
        ("2026-01-12T08:59", "ann"),
        ("2026-01-12T09:00", "bob"),
        ("2026-03-30T08:59", "bob"),  # after the clocks have changed the hour is still that on the wall
        ("2026-03-30T09:00", "ann"),
    ],
)
def test_turns_are_taken_at_the_hour_on_the_wall(now: str, channel: str) -> None:
    assert config(ON_CALL).on_duty(["primary"], at(now)) == (channel,)


@pytest.mark.parametrize(
    ("now", "hours"),
    [
        ("2026-01-05T22:00", 9),
        ("2026-01-06T03:00", 4),
        ("2026-01-06T07:00", 0),
        ("2026-01-06T21:59", 0),
        ("2026-01-09T22:30", 49.5),  # Saturday and Sunday follow without a gap
        ("2026-01-10T12:00", 36),  # to the end of a whole Sunday
        ("2026-03-28T22:00", 26),  # the clocks change in it
    ],
)
def test_quiet_lasts_until_its_hours_are_over(now: str, hours: float) -> None:
    made = config(
        """
quiet:
  - {hours: 22:00-07:00, days: [mon, tue, wed, thu, fri], timezone: Europe/Berlin}
  - {hours: 00:00-24:00, days: [sat, sun], timezone: Europe/Berlin}
"""
    )
    if now == "2026-03-28T22:00":
        hours = 25  # 02:00 to 03:00 does not exist that night

    assert made.quiet_for("ann", "warning", at(now)) == hours * 3600
    assert made.quiet_for("ann", "critical", at(now)) == 0
    assert made.quiet_for("console", "info", at(now)) == 0


def test_quiet_may_hold_for_some_channels_and_severities() -> None:
    made = config("quiet: [{hours: 00:00-24:00, below: warning, channels: [ann]}]")

    assert made.quiet_for("ann", "info", at("2026-01-05T12:00", "UTC")) > 0
    assert made.quiet_for("ann", "warning", at("2026-01-05T12:00", "UTC")) == 0
    assert made.quiet_for("bob", "info", at("2026-01-05T12:00", "UTC")) == 0


@pytest.mark.parametrize(
    ("steps", "channels"),
    [
        ("bob after 10m unless acknowledged", ["bob"]),
        ("'[bob] after 10m unless acknowledged'", ["bob"]),
        ('"[bob, eve] after 10m unless acknowledged"', ["bob", "eve"]),
        ("[bob after 10m, 'bob, eve after 600s']", ["bob", "bob", "eve"]),
    ],
)
def test_a_step_is_a_text_with_or_without_brackets(steps: str, channels: list[str]) -> None:
    (route, *_) = config(f"routes: [{{channels: [ann], then: {steps}}}]").routes

    assert [name for step in route.then for name in step.channels] == channels
    assert {step.after for step in route.then} == {600.0}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("on_call: {p: {rotation: [], starts: 2026-01-05T09:00:00}}", "rotation must name at least one"),
        ("on_call: {p: {rotation: [anne], starts: 2026-01-05T09:00:00}}", "on_call.p.rotation, overrides: there is no"),
        ("on_call: {ann: {rotation: [ann], starts: 2026-01-05T09:00:00}}", "on_call.ann: a channel has this name"),
        ("on_call: {p: {rotation: [ann], starts: 2026-01-05T09:00:00, every: 12h}}", "every: expected whole days"),
        (
            "on_call: {p: {rotation: [ann], starts: 2026-01-05T09:00:00, timezone: Europe/Berlino}}",
            "timezone: there is no",
        ),
        ("quiet: [{hours: 10-12}]", "hours: expected such as 22:00-07:00"),
        ("quiet: [{hours: 22:00-07:00, days: [monday]}]", "days: there is no 'monday'"),
        ("quiet: [{hours: 22:00-07:00, below: grave}]", "quiet[0].below: a severity is one of"),
        ("routes: [{channels: [ann], then: [bob in 10m]}]", "expected such as '[pager, mail] after 10m unless"),
        ("routes: [{channels: [ann], then: [bob, eve after 10m]}]", "one text in quotes for each step; got 'bob'"),
        ("routes: [{channels: [ann], then: ', after 10m'}]", "got ', after 10m'"),
        ("routes: [{channels: [ann], then: [bob] after 10m}]", "needs quotes: then: '[bob] after 10m'"),
        ("routes: [{channels: [ann], then: [bobby after 10m]}]", "routes[0].then: there is no channel bobby"),
        ("routes: [{channels: [ann], batch: 15m, then: [bob after 10m]}]", "batch and then do not go together"),
    ],
)
def test_a_schedule_that_cannot_work_gets_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as problem:
        config(text)

    assert sentence in str(problem.value)
