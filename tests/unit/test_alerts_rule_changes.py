"""Rules that change while their alerts fire: what no longer fits ends and says so, and nothing false begins."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock_services.alerts.adopt import adopt
from penstock_services.alerts.rules.change import changes
from penstock_services.alerts.rules.file import parse
from tests.alerting import Mesh, gauge, jobs, rules_text

RARE = "kind: threshold\nseries: jobs\nfield: count\nbelow: 1\nby: [service, job_type]"
LAG = "kind: threshold\nseries: lag_age\nabove: 30s"
DYING = "kind: event\ntype: job.dead\nby: [job_type]\nkeep_firing: 5m"


def fed(body: str, *, tenant: str = "acme", windows: int = 3) -> Mesh:
    """A mesh in which one type of job runs all the time and another has stopped."""
    mesh = Mesh(rules_text(rare=body))
    mesh.window(jobs(10, service="worker", job_type="mail", tenant=tenant), jobs(1, service="worker", job_type="sync"))
    for _ in range(windows):
        mesh.window(jobs(10, service="worker", job_type="mail", tenant=tenant))
    return mesh


def whys(mesh: Mesh, what: str) -> list[str]:
    return [entry.why for entry in mesh.state.history if entry.what == what]


@pytest.mark.parametrize(
    "changed",
    [
        RARE.replace("[service, job_type]", "[service]"),
        RARE.replace("[service, job_type]", "[job_type]"),
        RARE.replace("[service, job_type]", "[service, job_type, tenant]"),
        RARE.replace("by: [service, job_type]", ""),
        RARE + "\nwhere: [job_type=mail]",
        RARE + "\nwhere: [tenant=acme]",
        RARE.replace("field: count", "field: errors").replace("below: 1", "above: 1"),
        RARE.replace("series: jobs", "series: events"),
        LAG,
    ],
)
@pytest.mark.parametrize("restarted", [True, False])
def test_what_does_not_fit_the_changed_rule_ends_and_nothing_false_begins(changed: str, restarted: bool) -> None:
    mesh = fed(RARE)
    assert mesh.told == ["triggered rare worker/sync"]
    if restarted:
        mesh.restart()
    mesh.use(rules_text(rare=changed))
    assert mesh.told[1:] == ["resolved rare worker/sync"]
    assert mesh.last.reason.startswith("the rule rare was changed: ")
    for _ in range(5):
        mesh.window(
            jobs(10, service="worker", job_type="mail", tenant="acme"),
            jobs(10, name="events", type="job.completed", service="worker", job_type="mail", tenant="acme"),
        )
        mesh.window(gauge("lag_age", 0, stream="s", group="g"))
        mesh.tick(after=20)

    assert mesh.told[2:] == []
    assert "firing" not in mesh.states.values()


@pytest.mark.parametrize(
    "changed",
    [
        RARE + "\nwhere: [job_type=sync]",
        RARE + "\nwhere: ['job_type!=mail', 'service=work*']",
        RARE.replace("below: 1", "below: 2"),
        RARE + "\nfor: 1m",
        RARE.replace("[service, job_type]", "[job_type, service]"),
        RARE + "\nlabels: {team: core}",
    ],
)
def test_what_fits_the_changed_rule_goes_on_as_the_same_alert(changed: str) -> None:
    mesh = fed(RARE)
    mesh.use(rules_text(rare=changed))
    mesh.window(jobs(10, service="worker", job_type="mail", tenant="acme"))

    assert not any(line.startswith("resolved") for line in mesh.told)
    assert [entry.what for entry in mesh.state.history].count("firing") == 1


BY = "\nby: [service, job_type]"
KINDS = {
    "absence": "kind: absence\nseries: jobs\nafter: 1m" + BY,
    "ratio": "kind: ratio\nseries: jobs\nover: 1m\nabove: 10%\nmin_count: 10" + BY,
    "burn_rate": "kind: burn_rate\nseries: jobs\nobjective: 99%\nrates: [14.4]\nmin_count: 10" + BY,
    "anomaly": "kind: anomaly\nseries: jobs\nfield: count\ndirection: down\nbaseline: 10\nmin_samples: 5" + BY,
    "event": "kind: event\ntype: job.dead\nat_least: 2\nwithin: 5m" + BY,
}


def go_on(mesh: Mesh, kind: str, windows: int = 1, *, well: bool = False) -> None:
    """Let jobs called mail do well, and those called sync not, in the way that rules of a kind look at."""
    ill = {"ratio": [20, 10], "burn_rate": [90, 80], "event": [20, 0]}.get(kind)
    for _ in range(windows):
        counts = [100, 0] if well else ill
        running = [jobs(4_000, service="worker", job_type="mail")]
        running += [jobs(*counts, service="worker", job_type="sync")] if counts else []
        mesh.window(*running)
        if kind == "event" and not well:
            mesh.event("job.dead", {"service": "worker", "job_type": "sync"}, event_id=f"e-{mesh.now}")
        mesh.tick()


def firing_mesh(kind: str) -> Mesh:
    mesh = Mesh(rules_text(rule=KINDS[kind]))
    go_on(mesh, kind, 10, well=True)
    while not mesh.told:
        go_on(mesh, kind)
    assert mesh.told == ["triggered rule worker/sync"]
    return mesh


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "edit",
    [
        lambda body: body.replace("[service, job_type]", "[service]"),
        lambda body: body + "\nwhere: [job_type=mail]",
        lambda body: body + "\nwhere: ['job_type!=s*']",
        lambda _: "kind: threshold\nseries: jobs\nfield: count\nabove: 1000000" + BY,
        lambda body: KINDS["event" if "absence" in body else "absence"].replace("1m", "1h"),
    ],
    ids=["by narrowed", "where", "where not", "a threshold", "another kind"],
)
@pytest.mark.parametrize("restarted", [True, False])
def test_of_every_kind_what_does_not_fit_ends_and_nothing_false_begins(
    kind: str, edit: Callable[[str], str], restarted: bool
) -> None:
    mesh = firing_mesh(kind)
    if restarted:
        mesh.restart()
    mesh.use(rules_text(rule=edit(KINDS[kind])))
    assert mesh.told[1:] == ["resolved rule worker/sync"]
    assert mesh.last.reason.startswith("the rule rule was changed: ")
    go_on(mesh, "" if kind == "event" else kind, 20)

    assert mesh.told[2:] == []
    assert "firing" not in mesh.states.values()


@pytest.mark.parametrize("kind", KINDS)
def test_of_every_kind_a_rule_that_is_taken_out_ends_what_it_told(kind: str) -> None:
    mesh = firing_mesh(kind)
    mesh.use(rules_text(other=LAG))
    go_on(mesh, kind, 20)

    assert mesh.told[1:] == ["resolved rule worker/sync"]
    assert mesh.last.reason == "the rule rule is not in alerts.yaml any more"
    assert mesh.states == {}
    assert len(mesh.state.memory) == len(mesh.state.arrivals) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("severity", ["info", "critical"])
def test_of_every_kind_another_severity_is_told_and_the_alert_ends_once(kind: str, severity: str) -> None:
    mesh = firing_mesh(kind)
    began = mesh.last.since
    mesh.use(rules_text(rule=f"{KINDS[kind]}\nseverity: {severity}\nkeep_firing: 1m"))
    go_on(mesh, kind, 3)
    assert mesh.told[1:] == ["repeated rule worker/sync"]
    assert (mesh.last.severity, mesh.last.since) == (severity, began)
    go_on(mesh, kind, 500, well=True)

    assert mesh.told[2:] == ["resolved rule worker/sync"]
    assert (mesh.last.severity, mesh.last.since) == (severity, began)


def test_labels_that_the_rule_adds_are_no_part_of_what_is_evaluated() -> None:
    mesh = Mesh(rules_text(lag=LAG + "\nlabels: {team: core}"))
    mesh.window(gauge("lag_age", 40, stream="s", group="g"))
    mesh.use(rules_text(lag=LAG + "\nlabels: {crew: b}"))
    mesh.window(gauge("lag_age", 50, stream="s", group="g"))

    ((_, record),) = mesh.state.alerts.items()
    assert record.reason == "lag_age of s/g is 50 s, above 30 s"
    assert mesh.last.labels == {"stream": "s", "group": "g", "crew": "b"}
    assert mesh.told == ["triggered lag s/g/core", "repeated lag s/g/b"]


def test_what_rules_that_are_not_known_any_more_left_ends_where_it_cannot_be_theirs() -> None:
    mesh = fed(RARE)
    adopt(parse(rules_text(rare=RARE.replace(", job_type", ""))), mesh.state, None, "ada")

    assert mesh.told[1:] == ["resolved rare worker/sync"]


def test_an_event_rule_that_looks_at_other_events_forgets_those_it_counted() -> None:
    mesh = Mesh(rules_text(dying=DYING + "\nat_least: 2\nwithin: 1h"))
    mesh.event("job.dead", {"job_type": "mail"})
    mesh.use(rules_text(dying=DYING.replace("job.dead", "job.failed") + "\nat_least: 2\nwithin: 1h"))
    mesh.event("job.failed", {"job_type": "mail"}, at=mesh.now + 1)

    assert mesh.told == []


def test_a_rule_that_is_taken_out_says_so_to_the_people_it_told() -> None:
    mesh = fed(RARE)
    mesh.use(rules_text(other=LAG))

    assert mesh.told[1:] == ["resolved rare worker/sync"]
    assert mesh.last.reason == "the rule rare is not in alerts.yaml any more"
    assert mesh.states == {}
    assert len(mesh.state.memory) == 0


def test_a_group_that_is_made_otherwise_ends_and_says_so() -> None:
    mesh = Mesh(rules_text(lag=LAG))
    mesh.window(gauge("lag_age", 40, stream="s", group="g"))
    mesh.use(rules_text(lag=LAG + "\ngroup_by: [stream]"))

    assert mesh.told == ["triggered lag s/g", "resolved lag s/g", "triggered lag s"]
    assert mesh.state.outbox[1][1].reason.startswith("the rule lag groups its alerts otherwise now")


def test_who_changed_what_is_in_the_history() -> None:
    mesh = Mesh(rules_text(lag=LAG, gone=RARE))
    mesh.use(rules_text(lag=LAG.replace("30s", "1m") + "\nseverity: critical\nwhere: [stream=a]", dying=DYING))

    told = {(entry.what, entry.rule): entry.why for entry in mesh.state.history}
    assert told == {
        ("rule changed", "lag"): "severity: warning -> critical; where: [] -> [stream=a]; above: 30 -> 60; by ada",
        ("rule added", "dying"): "it is new; by ada",
        ("rule removed", "gone"): "the rule gone is not in alerts.yaml any more; by ada",
    }


def test_rules_that_are_the_same_are_no_change() -> None:
    text = rules_text(lag=LAG, dying=DYING)
    assert list(changes(parse(text), parse(f"# a comment\n{text}"))) == []
