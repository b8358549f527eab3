"""Which event led to which, from what a scan finds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from penstock.errors import AmbiguousEvent
from penstock.traces.graph import TraceGraph
from penstock.traces.records import DeadRecord, Parked, Record
from penstock.traces.scan import Findings

TRACE, OTHER = "a" * 32, "b" * 32


def entry(place: str, event_id: str, cause: str = "", **given: Any) -> Record:
    """Return an event on stream s; its type is its id."""
    made = Record(
        stream="s",
        entry_id=place,
        time=int(place.partition("-")[0]),
        type=event_id,
        id=event_id,
        source="test",
        subject="",
        tenant="",
        cause=cause,
        trace_id=TRACE,
    )
    return msgspec.structs.replace(made, **given)


def drawn(graph: TraceGraph, wanted: str = TRACE) -> list[str]:
    """Return the events of a trace, each set in by its depth."""
    return ["." * node.depth + node.event.id for node in graph.walk(graph.roots_of(wanted))]


def test_each_event_lies_below_its_cause_in_the_order_of_time() -> None:
    events = [entry("5-0", "e", "b"), entry("4-0", "d", "a"), entry("3-0", "c", "b"), entry("2-0", "b", "a")]

    assert drawn(TraceGraph(Findings(events=[*events, entry("1-0", "a")]))) == ["a", ".b", "..c", "..e", ".d"]


@pytest.mark.parametrize("links", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "c", "b": "a", "c": "b", "d": "c"}])
def test_a_circle_of_causes_is_cut_open_and_nothing_is_lost(links: dict[str, str]) -> None:
    events = [entry(f"{number}-0", name, cause) for number, (name, cause) in enumerate(links.items(), 1)]

    found = drawn(TraceGraph(Findings(events=events)))
    assert sorted(name.strip(".") for name in found) == sorted(links)
    assert [name for name in found if not name.startswith(".")] == found[:1]


def test_a_chain_of_ten_thousand_is_no_deeper_than_it_can_be_walked() -> None:
    events = [entry(f"{number}-0", f"e{number}", f"e{number - 1}") for number in range(1, 10_001)]

    assert drawn(TraceGraph(Findings(events=events)))[-1] == "." * 9_999 + "e10000"


def test_of_events_under_one_id_the_latest_before_an_effect_is_its_cause() -> None:
    first, second = entry("1-0", "twin"), entry("5-0", "twin")
    graph = TraceGraph(Findings(events=[first, second, entry("3-0", "early", "twin"), entry("7-0", "late", "twin")]))

    assert drawn(graph) == ["twin", ".early", "twin", ".late"]


def test_of_two_sources_with_one_id_each_has_its_own_effects() -> None:
    twins = [entry("1-0", "o", source="a"), entry("2-0", "o", source="b")]
    effects = [
        entry("3-0", "of a", "o", causesource="a"),
        entry("4-0", "of b", "o", causesource="b"),
        entry("5-0", "of c", "o", causesource="c"),
    ]

    assert drawn(TraceGraph(Findings(events=[*twins, *effects]))) == ["o", ".of a", "o", ".of b", "of c"]


def test_an_effect_of_an_older_release_has_its_cause_in_its_own_trace() -> None:
    twins = [entry("1-0", "o", source="a"), entry("2-0", "o", source="b", trace_id=OTHER)]
    graph = TraceGraph(Findings(events=[*twins, entry("3-0", "of a", "o")]))

    assert (drawn(graph), drawn(graph, OTHER)) == (["o", ".of a"], ["o"])


def test_an_event_that_moved_is_not_taken_for_one_of_another_source() -> None:
    waiting = entry("1-0", "o", source="b", entry_id="", time=50, due=50)

    assert drawn(TraceGraph(Findings(events=[waiting, entry("50-0", "o", source="a")]))) == ["o", "o"]


def test_an_id_that_events_of_two_sources_have_is_not_enough_to_find_a_trace() -> None:
    graph = TraceGraph(
        Findings(events=[entry("1-0", "o", source="a"), entry("2-0", "o", source="b", trace_id=OTHER, type="b")])
    )

    with pytest.raises(AmbiguousEvent, match="2 sources have an event o: a, b"):
        graph.roots_of("o")
    assert [root.type for root in graph.roots_of("o", "b")] == ["b"]


def test_missing_events_of_two_sources_are_two() -> None:
    reports = [
        entry("2-0", "r", "o", source="worker", causesource=source, type="job.failed", trace_id=trace_id)
        for source, trace_id in (("a", TRACE), ("b", OTHER))
    ]
    reports[1] = msgspec.structs.replace(reports[1], entry_id="2-1", id="r2")
    older = entry("1-0", "r0", "o", source="worker", type="job.failed")
    graph = TraceGraph(Findings(events=[older, *reports]))

    assert sorted((root.source, len(graph.children(root))) for root in graph.roots()) == [("a", 2), ("b", 1)]


def test_a_report_is_told_with_its_job_and_what_it_led_to_lies_below_the_job() -> None:
    job, report = entry("1-0", "job"), entry("2-0", "report", "job", type="job.dead")
    graph = TraceGraph(Findings(events=[job, report, entry("3-0", "alert", "report")]))

    assert drawn(graph) == ["job", ".alert"]
    assert [node.via for node in graph.walk(graph.roots_of(TRACE))] == [None, "job.dead"]
    assert drawn(graph, "report") == ["job", ".alert"], "its id leads to the trace"


def test_a_report_that_a_group_could_not_handle_is_shown() -> None:
    job, report = entry("1-0", "job"), entry("2-0", "report", "job", type="job.dead")
    dead_letter = DeadRecord(report, "alerts", "9-0", 9, 1, "failed", "broken")

    assert drawn(TraceGraph(Findings(events=[job, report], dead=[dead_letter]))) == ["job", ".report"]


def test_a_report_without_a_cause_is_an_event_like_any_other() -> None:
    assert drawn(TraceGraph(Findings(events=[entry("1-0", "lone", type="job.completed")]))) == ["lone"]


def test_an_event_that_only_reports_tell_of_is_missing() -> None:
    reports = [entry(f"{number}-0", f"r{number}", "job", type="job.failed") for number in (1, 2)]
    graph = TraceGraph(Findings(events=[*reports, entry("3-0", "effect", "job")]))

    assert drawn(graph) == ["job", ".effect"]
    [root] = graph.roots()
    assert graph.missing == {root.place}


def test_a_cause_that_was_not_found_leaves_its_effect_a_root() -> None:
    assert drawn(TraceGraph(Findings(events=[entry("1-0", "effect", "gone")]))) == ["effect"]


def test_an_event_that_was_trimmed_is_known_from_where_it_is_parked_or_dead() -> None:
    parked = Parked(entry("1-0", "parked"), "g", 2, 0, "", due=9)
    dead_letter = DeadRecord(entry("2-0", "dead"), "g", "9-0", 9, 1, "failed", "broken")
    graph = TraceGraph(Findings(events=[entry("3-0", "effect", "parked")], parked=[parked], dead=[dead_letter]))

    assert drawn(graph) == ["parked", ".effect", "dead"]


def test_an_event_that_moved_while_it_was_looked_for_is_there_once() -> None:
    waiting = entry("1-0", "e", entry_id="", time=50, due=50)

    assert drawn(TraceGraph(Findings(events=[waiting, entry("50-0", "e")]))) == ["e"]
    assert drawn(TraceGraph(Findings(events=[waiting]))) == ["e"]


def test_a_replay_under_a_trace_id_of_its_own_leads_to_the_whole_story() -> None:
    job = entry("1-0", "job")
    replayed = Parked(msgspec.structs.replace(job, trace_id=OTHER), "worker", 1, 0, "", retry_id="9-0")
    effect = entry("10-0", "effect", "job", trace_id=OTHER)

    waiting = TraceGraph(Findings(events=[job], parked=[replayed]))
    assert drawn(waiting, OTHER) == drawn(waiting, TRACE) == ["job"]
    over = TraceGraph(Findings(events=[job, effect]))
    assert drawn(over, OTHER) == drawn(over, TRACE) == ["job", ".effect"]


def test_traces_that_are_not_linked_stay_apart() -> None:
    graph = TraceGraph(Findings(events=[entry("1-0", "one"), entry("2-0", "two", trace_id=OTHER)]))

    assert (drawn(graph, TRACE), drawn(graph, OTHER)) == (["one"], ["two"])
    assert drawn(graph, "c" * 32) == []
