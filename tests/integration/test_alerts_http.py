"""Alerts, history and silences over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.alerting import lagging, manager, publish, rules_text, told
from tests.hands import Raw
from tests.processes import eventually
from tests.servers import Server, free_port

LAG = "kind: threshold\nseries: lag_age\nabove: 30s"


REFUSED = [
    (b"{", "the body is not JSON"),
    (b"\xff", "the body is not JSON"),
    (b"[" * 90_000, "the body is nested more than 100 levels deep"),
    (b"", "the body is not JSON"),
    ([], "silence: Expected a mapping"),
    ({"matchers": ["a=b"], "author": "ada"}, "silence: Object missing required field `duration`"),
    ({"matchers": ["a=b"], "author": "ada", "duration": "soon"}, "silence: duration: expected a duration"),
    ({"matchers": ["a=b"], "author": "ada", "duration": 1e400}, "the body is not JSON"),
    ({"matchers": ["a=b"], "author": "ada", "duration": 1e300}, "silence: duration: at most 10 years"),
    ({"matchers": ["a"], "author": "ada", "duration": 5}, "silence: expected a matcher such as"),
    (
        {"matchers": ["severity=~.*"], "author": "ada", "duration": 5},
        "silence: 'severity=~.*': regular expr",
    ),
    ({"matchers": ["severity=crit"], "author": "ada", "duration": 5}, "silence: severity=crit never matches"),
    ({"matchers": [], "author": "ada", "duration": 5}, "silence: matchers: Expected a list of length >= 1"),
    ({"matchers": "a=b", "author": "ada", "duration": 5}, "silence: matchers: Expected"),
    ({"matchers": ["a=b"], "author": "ada", "duration": 5, "until": 6}, "silence: Object contains unknown field"),
    ({"matchers": ["a=" + "b" * 1_000], "author": "ada", "duration": 5}, "silence: "),
]


ANSWERS = [
    ("GET", "/v1/alerts/history?limit=0", 400),
    ("GET", "/v1/alerts/history?limit=1001", 400),
    ("GET", "/v1/alerts/history?limit=%C2%B2", 400),
    ("GET", "/v1/alerts?state=burning", 400),
    ("DELETE", "/v1/silences/nothing", 404),
    ("GET", "/v1/nothing", 404),
    ("PUT", "/v1/silences", 405),
    ("GET", "/livez", 200),
]


class Api:
    """The alert manager's HTTP, as a program meets it."""

    def __init__(self, port: int) -> None:
        self.port = port

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            sent = body if body is None or isinstance(body, bytes) else json.dumps(body)
            connection.request(method, path, sent, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        kind = answer.headers.get("Content-Type", "")
        assert answer.status < 400 or kind == "application/problem+json", text
        return answer.status, json.loads(text) if "json" in kind else text

    def is_up(self) -> bool:
        try:
            return self("GET", "/readyz")[0] == 200
        except OSError:
            return False


@pytest.fixture
def api(server: Server, tmp_path: Path) -> Iterator[Api]:
    with serving(server, tmp_path, rules_text(lag=LAG)) as asked:
        yield asked


@contextlib.contextmanager
def serving(server: Server, folder: Path, text: str) -> Iterator[Api]:
    """Run an alert manager with these rules."""
    rules = folder / "alerts.yaml"
    rules.write_text(text)
    asked = Api(free_port())
    with manager(server, rules, PENSTOCK_ALERTS_PORT=str(asked.port)):
        eventually(asked.is_up)
        yield asked


def window_with(raw: Raw, *values: float) -> None:
    publish(raw, lagging(time.time() // 10 * 10 - 600, *values))


def test_alerts_and_their_history_are_told(api: Api, raw: Raw) -> None:
    assert api("GET", "/v1/alerts") == (200, {"alerts": []})
    window_with(raw, 40, 50, 4)
    eventually(lambda: len(told(raw)) == 2)
    _, found = api("GET", "/v1/alerts?state=firing")
    _, nothing = api("GET", "/v1/alerts?state=pending")
    _, past = api("GET", "/v1/alerts/history?limit=3")

    assert sorted(alert["labels"]["group"] for alert in found["alerts"]) == ["a", "b"]
    first = found["alerts"][0]
    assert (first["state"], first["severity"], first["rule"]) == ("firing", "warning", "lag")
    assert first["reason"].endswith("above 30 s")
    assert first["since"].endswith("Z")
    assert nothing == {"alerts": []}
    assert [entry["what"] for entry in past["history"]] == ["notified", "notified", "firing"]
    assert all(entry["why"] and entry["time"].endswith("Z") for entry in past["history"])


def test_a_silence_holds_an_alert_back_until_it_is_removed(api: Api, raw: Raw) -> None:
    wanted = {"matchers": ["rule=lag", "group=a"], "duration": "2h", "author": "ada", "comment": "moving house"}
    status, silence = api("POST", "/v1/silences", wanted)
    assert status == 201
    assert silence["matchers"] == wanted["matchers"]
    assert api("GET", "/v1/silences") == (200, {"silences": [silence]})

    window_with(raw, 40, 50)
    eventually(lambda: told(raw) == ["triggered lag ingest/b"])
    suppressed = {alert["labels"]["group"]: alert["suppressed"] for alert in api("GET", "/v1/alerts")[1]["alerts"]}
    assert suppressed == {"a": f"silenced until {silence['until']} by ada: moving house", "b": None}

    assert api("DELETE", f"/v1/silences/{silence['id']}")[0] == 204
    eventually(lambda: told(raw)[1:] == ["triggered lag ingest/a"])  # at the next tick
    assert api("GET", "/v1/silences") == (200, {"silences": []})


def test_an_alert_is_acknowledged_by_how_its_fingerprint_begins(api: Api, raw: Raw) -> None:
    window_with(raw, 40)
    eventually(lambda: told(raw) == ["triggered lag ingest/a"])
    (alert,) = api("GET", "/v1/alerts")[1]["alerts"]
    path = "/v1/acknowledgements"
    status, said = api("POST", path, {"alert": alert["fingerprint"][:6], "by": "ada", "comment": "on it"})

    assert (status, said["fingerprint"], said["by"], said["comment"]) == (201, alert["fingerprint"], "ada", "on it")
    eventually(lambda: told(raw)[1:] == ["acknowledged lag ingest/a"])
    assert api("GET", "/v1/alerts")[1]["alerts"][0]["acknowledged_by"] == "ada"
    assert api("POST", path, {"alert": "zzz", "by": "ada"})[0] == 404
    assert api("POST", path, {"alert": alert["fingerprint"], "by": "bob"})[0] == 200, "ada has it"
    bodies: list[Any] = [{}, {"alert": "5", "by": ""}, {"alert": "", "by": "ada"}, []]
    for body in bodies:
        assert api("POST", path, body)[0] == 400, body


def test_an_acknowledgement_is_taken_back(api: Api, raw: Raw) -> None:
    window_with(raw, 40)
    eventually(lambda: told(raw) == ["triggered lag ingest/a"])
    fingerprint = api("GET", "/v1/alerts")[1]["alerts"][0]["fingerprint"]
    path = f"/v1/acknowledgements/{fingerprint[:6]}"
    assert api("DELETE", f"{path}?by=bob")[0] == 404, "nobody has taken it on"
    api("POST", "/v1/acknowledgements", {"alert": fingerprint, "by": "ada"})
    eventually(lambda: told(raw)[1:] == ["acknowledged lag ingest/a"])

    status, problem = api("DELETE", path)
    assert (status, problem["detail"]) == (400, "by: who takes the acknowledgement back? Give ?by=NAME")
    assert api("DELETE", f"{path}?by=bob&comment=off+home")[0] == 204
    eventually(lambda: told(raw)[2:] == ["unacknowledged lag ingest/a"])
    assert api("GET", "/v1/alerts")[1]["alerts"][0]["acknowledged_by"] is None
    assert api("GET", "/v1/alerts/history?limit=1")[1]["history"][0]["why"] == "by bob: off home"
    assert api("DELETE", f"{path}?by=bob")[0] == 404


def test_a_group_is_acknowledged_by_its_own_fingerprint(server: Server, raw: Raw, tmp_path: Path) -> None:
    with serving(server, tmp_path, rules_text(lag=LAG + "\ngroup_by: []")) as api:
        window_with(raw, 40, 50)
        eventually(lambda: told(raw) == ["triggered lag"])
        group = json.loads(raw.xrange("alerts")[-1][1][b"data"])["fingerprint"]
        assert group not in {alert["fingerprint"] for alert in api("GET", "/v1/alerts")[1]["alerts"]}
        assert api("POST", "/v1/acknowledgements", {"alert": group, "by": "ada"})[0] == 201
        eventually(lambda: told(raw)[1:] == ["acknowledged lag"])
        member = api("GET", "/v1/alerts")[1]["alerts"][0]
        assert member["acknowledged_by"] == "ada"
        assert api("POST", "/v1/acknowledgements", {"alert": member["fingerprint"], "by": "bob"})[1]["by"] == "ada"
        assert api("DELETE", f"/v1/acknowledgements/{member['fingerprint']}?by=bob")[0] == 204
        eventually(lambda: told(raw)[2:] == ["unacknowledged lag"])


def test_a_silence_that_is_none_is_refused_with_a_reason(api: Api) -> None:
    for body, detail in REFUSED:
        status, problem = api("POST", "/v1/silences", body)
        assert status == 400, body
        assert problem["detail"].startswith(detail)

    assert api("GET", "/v1/silences") == (200, {"silences": []})


def test_every_answer_fits_its_question(api: Api) -> None:
    for method, path, status in ANSWERS:
        assert api(method, path)[0] == status, path
