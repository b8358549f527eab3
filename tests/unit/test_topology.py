"""streams.yaml: what it means, and a sentence for each mistake a person makes in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import Duration
from penstock.errors import ConfigurationError
from penstock.settings import Settings
from penstock.topology import load, parse

MESH = """
streams:
  ingest: {retention: {age: 2d, entries: 50}}
  events: {}
services:
  worker:
    run: penstock_services.worker
    consumes:
      ingest: {retry: {attempts: 3}, timeout: 90s, unhandled: skip}
      events: {}
    publishes: [events]
    concurrency: 7
    lease: 10s
  reader: {consumes: {events: {}}}
webhooks:
  shop: {scheme: github, secret: SHOP_SECRET, type: order.placed}
"""


def test_a_mesh_is_read_as_it_is_declared() -> None:
    topology = parse(MESH)
    worker = topology.service("worker")

    assert topology.streams["ingest"].retention.age == 2 * 86_400.0
    assert topology.streams["ingest"].retention.entries == 50
    assert (worker.run, worker.publishes, worker.concurrency, worker.lease) == (
        *("penstock_services.worker", ("events",)),
        *(7, 10.0),
    )
    assert worker.consumes["ingest"].retry.attempts == 3
    assert worker.consumes["ingest"].timeout == 90.0
    assert topology.webhooks["shop"].stream == "ingest"
    assert topology.groups("events") == ["worker", "reader"]
    assert topology.groups("nothing") == []


def test_the_dead_letter_stream_is_always_there() -> None:
    assert "dlq" in parse("").streams
    assert parse("services: {ops: {consumes: {dlq: {}}}}").groups("dlq") == ["ops"]


WORK = """
streams:
  ingest: {}
  orders: {kind: work, reports: news}
  returns: {kind: work}
  news: {}
  events: {}
services:
  shop: {consumes: {orders: {}, news: {}}}
  audit: {consumes: {orders: {unhandled: skip}, news: {unhandled: dead}}}
  worker: {consumes: {ingest: {}, returns: {}}}
"""


def test_what_no_handler_asks_for_is_dead_where_entries_are_work_and_else_skipped() -> None:
    topology = parse(WORK)
    reads = [("shop", "orders"), ("shop", "news"), ("audit", "orders"), ("audit", "news"), ("worker", "ingest")]

    assert [topology.unhandled(*each) for each in reads] == ["dead", "skip", "skip", "dead", "dead"]


def test_each_stream_of_work_has_one_worker_and_reports_where_it_says_or_to_events() -> None:
    topology = parse(WORK)

    assert topology.work == ["ingest", "orders", "returns"]
    assert {stream: topology.workers(stream) for stream in topology.streams if topology.workers(stream)} == {
        "ingest": ["worker"],
        "orders": ["shop"],  # who skips what it does not know reads along
        "returns": ["worker"],
    }
    assert [topology.reports(stream) for stream in topology.work] == ["events", "news", "events"]
    assert parse("streams: {ingest: {}}").reports("ingest") is None


def test_the_topology_that_ships_is_sound() -> None:
    topology = load(Path(__file__).parents[2] / "streams.yaml")

    assert {"ingest", "events", "dlq"} <= set(topology.streams)
    assert "ingest" in topology.service("worker").consumes


MISTAKES = {
    # what was written: key, what is said of it
    "streams: [ingest]": ("streams", "Expected a mapping, got a list"),
    "- streams": ("", "Expected a mapping, got a list"),
    "streams:\n  ingest:\n": ("streams.ingest", "got nothing (write {} for the defaults)"),
    "stream: {}": ("", "unknown field `stream`"),
    "streams: {a: {retension: {}}}": ("streams.a", "unknown field `retension`"),
    "streams: {a: {retention: {age: soon}}}": ("streams.a.retention.age", "expected a duration such as 30s, 5m or 7d"),
    "streams: {a: {retention: {age: -1}}}": ("streams.a.retention.age", "expected a duration"),
    "streams: {a: {retention: {age: 0s}}}": ("streams.a.retention.age", "expected a duration"),
    "streams: {a: {retention: {age: .inf}}}": ("streams.a.retention.age", "expected a duration"),
    "streams: {a: {retention: {age: true}}}": ("streams.a.retention.age", "expected a duration"),
    "streams: {a: {retention: {entries: 0}}}": ("streams.a.retention.entries", ">= 1"),
    "streams: {a: {retention: {entries: many}}}": ("streams.a.retention.entries", "Expected `int`, got `str`"),
    "streams: {Ingest: {}}": ("streams.Ingest", "a name starts with a lower-case letter or digit"),
    "streams: {'a:b': {}}": ("streams.a:b", "a name starts with"),
    "streams: {1: {}}": ("streams", "Expected `str`, got `int`"),
    "services: {My Worker: {}}": ("services.My Worker", "a name starts with"),
    "services: {w: {formerly: v}, v: {}}": (
        "services.w.formerly",
        "services.v is still declared; take one of the two away",
    ),
    "services: {w: {publishes: [nowhere]}}": ("services.w.publishes", "no stream nowhere; declare it under streams"),
    "streams: {ingest: {}}\nservices: {w: {consumes: {ingset: {}}}}": (
        "services.w.consumes",
        "there is no stream ingset; did you mean ingest?",
    ),
    "services: {w: {publishes: ingest}}": ("services.w.publishes", "Expected a list, got `str`"),
    "services: {w: {consumes: [ingest]}}": ("services.w.consumes", "Expected a mapping, got a list"),
    "services: {w: {concurrency: 0}}": ("services.w.concurrency", ">= 1"),
    "services: {w: {concurrency: 100000}}": ("services.w.concurrency", "<= 5000"),
    "services: {w: {lease: 0}}": ("services.w.lease", "expected a duration"),
    "services: {w: {run: [python, -m, x]}}": ("services.w.run", "Expected `str"),
    "streams: {a: {}}\nservices: {w: {consumes: {a: {retry: {attempts: 0}}}}}": (
        "services.w.consumes.a.retry.attempts",
        ">= 1",
    ),
    "streams: {a: {}}\nservices: {w: {consumes: {a: {retry: {tries: 2}}}}}": (
        "services.w.consumes.a.retry",
        "unknown field `tries`",
    ),
    "streams: {a: {}}\nservices: {w: {consumes: {a: {unhandled: drop}}}}": (
        "services.w.consumes.a.unhandled",
        "Invalid enum value 'drop'",
    ),
    "streams: {a: {}}\nservices: {w: {consumes: {a: {timeout: 5 minutes}}}}": (
        "services.w.consumes.a.timeout",
        "expected a duration such as 30s, 5m or 7d, got '5 minutes'",
    ),
    "streams: {a: {kind: jobs}}": ("streams.a.kind", "Invalid enum value 'jobs'"),
    "streams: {a: {reports: b}, b: {}}": ("streams.a.reports", "only work is reported on; add kind: work"),
    "streams: {a: {kind: work, reports: evnts}, events: {}}": ("streams.a.reports", "did you mean events?"),
    "streams: {a: {kind: work, reports: ingest}, ingest: {}}": ("streams.a.reports", "ingest carries work"),
    "streams: {a: {kind: work}}\nservices: {v: {consumes: {a: {}}}, w: {consumes: {a: {}}}}": (
        "streams.a",
        "each job is one service's, but v and w read it; give all but one of them `unhandled: skip`",
    ),
    "webhooks: {shop: {secret: S, type: t}}": ("webhooks.shop", "missing required field `scheme`"),
    "webhooks: {shop: {scheme: github, secret: S, type: t, stream: in}}": (
        "webhooks.shop.stream",
        "there is no stream in",
    ),
    "streams: {a: {retention: {entries: 10, hard_limit: 9}}}": (
        "streams.a.retention.hard_limit",
        "it is less than entries",
    ),
    "streams: {a: {abandoned: [w]}}\nservices: {w: {consumes: {a: {}}}}": (
        "streams.a.abandoned",
        "services.w reads this stream",
    ),
    "streams: {a: {}}\nstreams: {b: {}}": ("not YAML", "streams is there twice"),
    "services:\n  w: {}\n  w: {}\n": ("not YAML", "w is there twice"),
    "streams: {a: {": ("not YAML", "line 1"),
    "streams:\n\ta: {}": ("not YAML", "line 2"),
}


@pytest.mark.parametrize(("text", "key", "problem"), [(text, *said) for text, said in MISTAKES.items()])
def test_a_mistake_gets_a_line_with_file_and_key(text: str, key: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, name="mesh.yaml")

    said = str(caught.value)
    assert said.startswith(f"mesh.yaml: {key + ': ' if key else ''}")
    assert problem in said
    assert "\n" not in said


def test_every_name_that_does_not_resolve_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse("services: {a: {publishes: [x]}, b: {consumes: {y: {}}}}")

    assert re.findall(r"^streams\.yaml: services\.(\w)", str(caught.value), re.MULTILINE) == ["a", "b"]


def test_a_service_that_is_not_declared_is_told_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match=r"services\.tickets is missing \(declared: reader, worker\); add it"):
        parse(MESH).service("tickets")


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "No such file"), (b"\xff\xfe", "not UTF-8"), ("folder", "directory")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | str | None, problem: str) -> None:
    file = tmp_path / "mesh.yaml"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content:
        file.mkdir()
    with pytest.raises(ConfigurationError, match=problem) as caught:
        load(file)

    assert str(file) in str(caught.value)


INCLUDED = "penstock_services.containers"


@pytest.mark.parametrize(("written", "given"), [(f"include: [{INCLUDED}]", []), ("", [INCLUDED])])
def test_what_is_included_is_there_and_what_is_declared_here_goes_before(written: str, given: list[str]) -> None:
    topology = parse(
        f"{written}\nstreams: {{containers: {{kind: work, retention: {{entries: 7}}}}, mine: {{}}}}", include=given
    )
    assert topology.services["containers"].run == INCLUDED
    assert {"containers", "reconcile", "events", "mine"} <= topology.streams.keys()
    assert topology.streams["containers"].retention.entries == 7
    assert "containers" not in parse("streams: {mine: {}}").services


@pytest.mark.parametrize("package", ["penstock_services.nothing", "penstock_services.worker", "..", "json.tool"])
def test_a_package_that_has_nothing_to_include_is_refused_by_name(package: str) -> None:
    with pytest.raises(ConfigurationError, match=r"include: there is no Python package") as caught:
        parse("", include=[package])
    assert package in str(caught.value)


def test_what_is_included_declares_streams_services_and_breakers_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "greedy_mesh").mkdir()
    (tmp_path / "greedy_mesh" / "__init__.py").touch()
    (tmp_path / "greedy_mesh" / "streams.yaml").write_text(f"include: [{INCLUDED}]")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigurationError, match=r"greedy_mesh/streams\.yaml: include: .* put these into streams\.yaml"
    ):
        parse("include: [greedy_mesh]")


def test_a_bare_name_in_the_environment_is_a_service_that_ships() -> None:
    settings = Settings.from_env({"PENSTOCK_INCLUDE": "containers, shop.extra"})
    assert settings.included == [INCLUDED, "shop.extra"]


def test_the_file_in_the_working_directory_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "streams.yaml").write_text("streams: {mine: {}}")
    monkeypatch.chdir(tmp_path)

    assert "mine" in load().streams


@given(st.text())
def test_no_text_makes_the_parser_fail_with_anything_but_a_sentence(text: str) -> None:
    said = ""
    try:
        parse(text)
    except ConfigurationError as error:
        said = str(error)

    assert not said or said.startswith("streams.yaml: ")


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("1.5m", 90), ("12h", 43_200), ("7d", 604_800), (45, 45), (0.5, 0.5), ("2 h", 7200)],
)
def test_durations_are_read(written: object, seconds: float) -> None:
    assert Duration.parse(written) == seconds


@pytest.mark.parametrize("written", ["", "5", "5w", "m", "-5s", "0m", "1e3s", 0, -1, True, None, [], float("nan")])
def test_what_is_no_duration_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="expected a duration such as 30s, 5m or 7d"):
        Duration.parse(written)


@given(st.integers(1, 10**6), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_a_duration_with_a_unit_is_that_many_of_it(number: int, unit: str) -> None:
    assert Duration.parse(f"{number}{unit}") == pytest.approx(number * Duration.parse(f"1{unit}"))
