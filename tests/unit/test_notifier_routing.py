"""Which alert goes where."""

from __future__ import annotations

import pytest

from penstock_services.notifier.config.config import Config, parse
from penstock_services.notifier.config.routing import Destination
from tests.alerts import ALERT, make_alert

HOOK = "{type: webhook, url: 'https://example.com/hook'}"
CONFIG = f"""
channels:
  a: {HOOK}
  b: {HOOK}
  c: {{type: webhook, url: 'https://example.com/c', send_resolved: false}}
  mail: {{type: email, host: h, from: x@example.com, to: [one@example.com, two@example.com]}}
routes:
"""


def config(*routes: str) -> Config:
    return parse(CONFIG + "\n".join(f"  - {route}" for route in routes or ("{channels: [console]}",)), environ={})


def channels(found: list[Destination]) -> list[str]:
    return [one.channel for one in found]


def test_the_console_gets_every_alert() -> None:
    assert channels(config("{channels: [a], match: [team=x]}").destinations(ALERT)) == ["console"]


@pytest.mark.parametrize(
    ("route", "taken"),
    [
        ("{channels: [a]}", True),
        ("{channels: [a], min_severity: critical}", True),
        ("{channels: [a], match: [service=worker, job_type=ticket.*]}", True),
        ("{channels: [a], match: [service=worker, job_type=order.*]}", False),
        ("{channels: [a], match: [service!=worker]}", False),
        ("{channels: [a], match: [team!=x]}", True),
        ("{channels: [a], match: [rule=error-*, severity=critical]}", True),
        ("{channels: [a], match: [severity=warning]}", False),
    ],
)
def test_a_route_takes_what_meets_all_its_matchers(route: str, taken: bool) -> None:
    assert ("a" in channels(config(route).destinations(ALERT))) == taken


def test_a_route_takes_its_severity_and_graver_ones() -> None:
    made = config("{channels: [a], min_severity: warning}")
    severities = [
        s for s in ("info", "warning", "critical") if "a" in channels(made.destinations(make_alert(severity=s)))
    ]

    assert severities == ["warning", "critical"]


def test_every_route_that_fits_sends_and_each_channel_once() -> None:
    made = config("{channels: [a, b], failover: mail}", "{channels: [b, c], failover: a}")
    found = {one.channel: one.failover for one in made.destinations(ALERT)}

    assert found == {"a": ("mail",), "b": ("mail",), "c": ("a",), "console": ()}


ABOUT_A = make_alert(rule="notification-channel", labels={"channel": "a"})


def test_an_alert_about_channels_goes_around_them() -> None:
    routed = config("{channels: [a, b], failover: [a, mail]}").destinations(ABOUT_A, frozenset({"a"}))

    assert {one.channel: one.failover for one in routed} == {"b": ("mail",), "console": ()}


def test_an_alert_about_all_channels_of_its_routes_goes_to_one_other_and_the_rest_stand_in() -> None:
    routed = config("{channels: [a]}").destinations(ABOUT_A, frozenset({"a"}))

    assert {one.channel: one.failover for one in routed} == {"b": ("c", "mail"), "console": ()}


def test_where_every_channel_fails_the_console_is_told() -> None:
    routed = config("{channels: [a]}").destinations(ABOUT_A, frozenset({"a", "b", "c", "mail"}))

    assert routed == [Destination("console")]
