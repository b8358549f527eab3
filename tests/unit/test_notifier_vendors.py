"""PagerDuty, Opsgenie, Teams and ntfy: payloads held to the rules that the vendors document.

The cards of Teams are judged by Microsoft's own models. The others are checked by hand: names of fields after the
reference of PagerDuty's Events API v2, and after CreateAlertPayload of Opsgenie's SDK (2.1.5 of 2020, with old
dependencies; it judges no length); limits after their references. PagerDuty's own client judges names of actions alone.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from microsoft_teams import cards

from penstock_services.notifier.channels import AnyChannel, Ntfy, Opsgenie, PagerDuty, Teams
from tests.alerts import ALERT, RESOLVED, make_alert, make_delivery
from tests.unit.test_notifier_payloads import alerts

PAGERDUTY = PagerDuty(routing_key="0123456789abcdef0123456789abcdef")
OPSGENIE = Opsgenie(key="eb243592-faa2-4ba2-a551q-1afdf565c889", team="ops")
TEAMS = Teams(url="https://prod-1.westeurope.logic.azure.com/workflows/0123456789abcdef/triggers/manual/paths/invoke")
NTFY = Ntfy(topic="alerts_of-us")
ACKNOWLEDGED = make_alert(acknowledged_by="ann")
any_alert = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=30)


PAGERDUTY_FIELDS = {"routing_key", "event_action", "dedup_key", "payload", "client", "client_url", "links", "images"}
PAYLOAD_FIELDS = {
    *("summary", "source", "severity", "timestamp", "component", "group", "class", "custom_details"),
}
OPSGENIE_FIELDS = {
    *("user", "note", "source", "message", "alias", "description", "responders", "visibleTo", "actions", "tags"),
    *("details", "entity", "priority"),
}


def check_pagerduty(told: dict[str, Any]) -> None:
    assert told.keys() <= PAGERDUTY_FIELDS
    assert told.get("payload", {}).keys() <= PAYLOAD_FIELDS
    assert len(told["routing_key"]) == 32
    assert 1 <= len(told["dedup_key"]) <= 255
    assert told["event_action"] in ("trigger", "acknowledge", "resolve")
    if told["event_action"] == "trigger":
        payload = told["payload"]
        assert 1 <= len(payload["summary"]) <= 1024
        assert payload["source"]
        assert payload["severity"] in ("critical", "error", "warning", "info")
        assert isinstance(payload["custom_details"], dict)
        assert all(link["href"] for link in told["links"])
    assert len(json.dumps(told)) < 512_000


def check_opsgenie(told: dict[str, Any]) -> None:
    assert told.keys() <= OPSGENIE_FIELDS
    assert all(isinstance(value, str) for value in told["details"].values())
    assert 1 <= len(told["message"]) <= 130
    assert len(told["alias"]) <= 512
    assert len(told["description"]) <= 15_000
    assert told["priority"] in ("P1", "P2", "P3", "P4", "P5")
    assert len(told["tags"]) <= 20
    assert all(len(tag) <= 50 for tag in told["tags"])
    assert sum(len(name) + len(value) for name, value in told["details"].items()) <= 8_000
    assert len(told["entity"]) <= 512


def check_teams(told: dict[str, Any]) -> None:
    card = told["attachments"][0]["content"]
    assert (told["type"], card["type"]) == ("message", "AdaptiveCard")
    assert told["attachments"][0]["contentType"] == "application/vnd.microsoft.card.adaptive"
    check_card({name: value for name, value in card.items() if name != "$schema"})
    assert len(json.dumps(told, ensure_ascii=False).encode()) <= 28_000


def check_card(element: dict[str, Any]) -> None:
    """Refuse what Microsoft's model of an element, or of one within it, does not know."""
    model = {"Action.OpenUrl": "OpenUrlAction"}.get(element["type"], element["type"])
    assert not getattr(cards, model).model_validate(element).model_extra
    assert not any(cards.Fact.model_validate(fact).model_extra for fact in element.get("facts", ()))
    for inner in (*element.get("body", ()), *element.get("items", ()), *element.get("actions", ())):
        check_card(inner)


def check_ntfy(told: dict[str, Any]) -> None:
    assert told.keys() <= {"topic", "title", "message", "priority", "tags", "click"}
    assert len(told["message"].encode()) <= 4_096
    assert told["priority"] in (1, 2, 3, 4, 5)


CHECKS = [(PAGERDUTY, check_pagerduty), (OPSGENIE, check_opsgenie), (TEAMS, check_teams), (NTFY, check_ntfy)]


@any_alert
@given(alerts)
def test_the_vendors_take_whatever_an_alert_holds(alert: Any) -> None:
    firing = make_alert(alert, status="firing", acknowledged_by=None)
    for channel, check in CHECKS:
        check(json.loads(json.dumps(channel.payload(make_delivery(firing)))))


def test_pagerduty_knows_the_changes_of_one_alert_by_their_key() -> None:
    told = [PAGERDUTY.payload(make_delivery(alert)) for alert in (ALERT, ACKNOWLEDGED, RESOLVED)]

    assert [one["event_action"] for one in told] == ["trigger", "acknowledge", "resolve"]
    assert len({one["dedup_key"] for one in told}) == 1
    assert PAGERDUTY.payload(make_delivery(ALERT, episode="another"))["dedup_key"] != told[0]["dedup_key"]


@pytest.mark.parametrize(
    "wrong",
    [{"type": "TextBlock", "weight": "Boldest"}, {"type": "FactSet", "facts": [{"titel": "a"}]}, {"type": "Txt"}],
)
def test_the_judge_of_cards_refuses_what_is_wrong(wrong: dict[str, Any]) -> None:
    with pytest.raises((AssertionError, AttributeError, ValueError)):
        check_card({"type": "AdaptiveCard", "body": [wrong]})


def test_only_what_fires_is_loud_on_ntfy() -> None:
    assert [NTFY.payload(make_delivery(alert))["priority"] for alert in (ALERT, ACKNOWLEDGED, RESOLVED)] == [5, 3, 3]


def test_what_an_alert_says_is_no_markup_in_teams() -> None:
    told = json.dumps(TEAMS.payload(make_delivery(make_alert(summary="[x](https://evil.example) **b**"))))

    assert "[x](https" not in told
    assert "**b**" not in told


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: PagerDuty(routing_key="short"), "the 32 characters of an integration key"),
        (lambda: Opsgenie(key="two words"), "the API key"),
        (lambda: Ntfy(topic="a/b"), "topic: expected"),
        (lambda: Ntfy(topic="a", token="x\ny"), "token: expected"),
        (lambda: Teams(url="teams"), "url: expected"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("channel", [channel for channel, _ in CHECKS])
def test_their_credentials_are_secret(channel: AnyChannel) -> None:
    assert channel.secrets
