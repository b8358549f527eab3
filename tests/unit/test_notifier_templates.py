"""Templates: what they may use, and that no mistake in one keeps an alert from being told."""

from __future__ import annotations

import pytest

from penstock_services.notifier.message.message import Message, Remarks
from penstock_services.notifier.message.templates import Templates, render
from tests.alerts import ALERT, RESOLVED, SINCE


def made(*, title: str | None = None, text: str | None = None, resolved: bool = False) -> Message:
    templates = Templates(title=title, text=text)
    return render(RESOLVED if resolved else ALERT, Remarks(), templates, now=SINCE, channel="main")


def test_a_template_sees_the_alert() -> None:
    message = made(
        title="{{ emoji }} {{ label }} {{ labels.service }}{{ labels.absent }} on {{ channel }}: {{ summary|upper }}",
        text="{{ '%.1f'|format(value * 100) }} % > {{ threshold }}, {{ traces[0][:4] }}",
    )

    assert message.title == "🔴 CRITICAL worker on main: ERROR RATE OF TICKET.CREATED IS 12 %"
    assert message.text == "12.0 % > 0.05, 4bf9"
    assert message.notices == ()


def test_a_template_knows_how_long_an_alert_fired() -> None:
    assert made(text="over after {{ lasted }}", resolved=True).text == "over after 4 min 3 s"


@pytest.mark.parametrize(
    "template",
    [
        "{{ sumary }}",
        "{{ summary",
        "{% if %}",
        "{{ 1 / 0 }}",
        "{{ labels.service.nope.nope }}",
        "{{ summary.__class__.__mro__ }}",
        "{{ labels.clear() }}",
        "{{ labels.update({'service': 'x'}) }}",
        "{% for n in range(10**9) %}x{% endfor %}",
        "   ",
        "{% include 'secrets' %}",
    ],
)
def test_an_error_falls_back_to_the_usual_text_which_says_so(template: str) -> None:
    message = made(text=template)

    assert message.text == ALERT.reason
    assert message.notices[-1].startswith("The text template failed (")
    assert message.title == "🔴 CRITICAL: Error rate of ticket.created is 12 %"


def test_an_error_in_the_title_leaves_the_text_alone() -> None:
    message = made(title="{{ oops }}", text="{{ rule }}")

    assert message.title == "🔴 CRITICAL: Error rate of ticket.created is 12 %"
    assert message.text == "error-rate"


def test_a_template_cannot_change_the_alert_for_the_next_one() -> None:
    made(text="{{ labels.pop('service') }}")

    assert ALERT.labels["service"] == "worker"


def test_an_endless_text_ends() -> None:
    assert len(made(text="{% for n in range(90000) %}line {{ n }}\n{% endfor %}").text) <= 20_000


def test_a_title_is_one_line() -> None:
    assert made(title="a\n\nb").title == "a b"


def test_the_templates_of_a_channel_go_before_those_for_all() -> None:
    own, general = Templates(title="own"), Templates(title="general", text="general")

    assert own.over(general) == Templates(title="own", text="general")
