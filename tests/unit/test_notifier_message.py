"""An alert as a message: everything that helps, in plain text."""

from __future__ import annotations

import pytest

from penstock_services.notifier.message.message import Fact, Remarks, compose, number, web_address
from tests.alerts import ALERT, RESOLVED, SINCE, make_alert


def test_a_message_says_what_why_since_when_and_where_to_look() -> None:
    message = compose(ALERT, Remarks(), now=SINCE + 90)

    assert message.title == "🔴 CRITICAL: Error rate of ticket.created is 12 %"
    assert message.text == "31 of 258 attempts failed over 5 min, above 5 %"
    assert message.facts == (
        Fact("Value", "0.1201 (threshold 0.05)"),
        Fact("Since", "2026-10-26 07:33:20 UTC (1 min 30 s ago)"),
        Fact("Rule", "error-rate"),
    )
    assert message.labels == ("job_type=ticket.created", "service=worker")
    assert message.traces == ("4bf92f3577b34da6a3ce929d0e0e4736",)
    assert message.runbook == "https://example.com/runbooks/error-rate?a=1&b=2"
    assert message.notices == ()


def test_a_resolved_alert_says_how_long_it_fired() -> None:
    message = compose(RESOLVED, Remarks(), now=SINCE)

    assert message.title == "✅ RESOLVED: Error rate of ticket.created is 12 %"
    assert Fact("Resolved", "2026-10-26 07:37:23 UTC (after 4 min 3 s)") in message.facts
    assert Fact("Severity", "critical") in message.facts
    assert message.resolved


def test_each_severity_has_its_sign_and_colour() -> None:
    looks = {
        (message.title[0], message.colour)
        for severity in ("info", "warning", "critical")
        for message in [compose(make_alert(severity=severity), Remarks(), now=SINCE)]
    }
    assert len(looks) == 3


def test_notices_tell_of_the_message_itself() -> None:
    remarks = Remarks(superseded=("triggered 10:00", "resolved 10:05"), instead_of="slack", why="404: no_service")
    notices = compose(ALERT, remarks, now=SINCE).notices

    assert notices == (
        "Sent here because channel slack failed: 404: no_service",
        "Stands also for earlier changes that could not be delivered here: triggered 10:00, resolved 10:05",
    )


def test_many_labels_are_shortened_and_counted() -> None:
    message = compose(make_alert(labels={f"l{n:02}": "x" * 500 for n in range(30)}), Remarks(), now=SINCE)

    assert len(message.labels) == 13
    assert message.labels[-1] == "and 18 more"
    assert all(len(label) <= 200 for label in message.labels)


def test_a_time_that_cannot_be_read_is_shown_as_it_is() -> None:
    assert Fact("Since", "this morning") in compose(make_alert(since="this morning"), Remarks(), now=SINCE).facts


@pytest.mark.parametrize("runbook", ["javascript:alert(1)", "see the wiki", "http://", "https://a b", "https://[x"])
def test_a_runbook_that_no_browser_should_open_is_no_link(runbook: str) -> None:
    message = compose(make_alert(runbook=runbook), Remarks(), now=SINCE)

    assert web_address(runbook) is None
    assert message.runbook is None
    assert Fact("Runbook", runbook) in message.facts


@pytest.mark.parametrize(
    ("value", "text"), [(0.05, "0.05"), (0.123456, "0.1235"), (12.0, "12"), (1234567.8, "1,234,568"), (-2000, "-2,000")]
)
def test_numbers_are_for_people(value: float, text: str) -> None:
    assert number(value) == text


def test_what_an_event_is_called_cannot_forge_a_line_of_a_message() -> None:
    forged = "x\r\nResolved: all is well\n\u2028Severity: info"
    alert = make_alert(summary=forged, reason=f"3 of {forged} failed", rule=forged, labels={"type": forged})
    message = compose(alert, Remarks(), now=SINCE)

    for text in (message.title, message.text, message.footer, *message.labels, *(fact.value for fact in message.facts)):
        assert text.splitlines() == [text]
