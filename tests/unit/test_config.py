"""What people write in files and parameters: names, times and secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.config import did_you_mean, fill_in, find_file, read_moment, read_yaml
from penstock.errors import ConfigurationError


def test_the_nearest_name_is_offered_else_all() -> None:
    assert did_you_mean("evnts", ["events", "ingest"]) == "did you mean events?"
    assert did_you_mean("x", ["events", "ingest"]) == "there are events, ingest"
    assert did_you_mean("x", ["events"]) == "there is events"
    assert did_you_mean("x", []) == "there is none"
    assert did_you_mean("x", ["events"], otherwise="declare it") == "declare it"


def test_a_moment_is_a_time_or_how_long_ago() -> None:
    assert read_moment("15m", "since", 1_000.0) == 100.0
    assert read_moment("2023-11-14T22:13:20Z", "since", 0.0) == 1_700_000_000.0
    for text in ("yesterday", "2023-11-14T22:13:20", "-5m", ""):
        with pytest.raises(ConfigurationError, match=r"^since: '.*' is neither a duration before now"):
            read_moment(text, "since", 0.0)


def test_secrets_are_filled_in_wherever_they_stand() -> None:
    raw = {"url": "https://${HOST}/${PATH_}", "list": ["${HOST}", 5]}

    assert fill_in(raw, "f", {"HOST": "h", "PATH_": "p"}) == {"url": "https://h/p", "list": ["h", 5]}
    with pytest.raises(ConfigurationError, match=r"^f\.list: HOST is not set; set it, or HOST_FILE to a file"):
        fill_in({"list": ["${HOST}"]}, "f", {})


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("routes:\n  - then: [pager] after 10m # soon\n", "line 2: {} [pager] needs quotes: then: '[pager] after 10m'"),
        ("- [a, b] after 1h", "line 1: {} [a, b] needs quotes: - '[a, b] after 1h'"),
        ("r: {then: [a] after 1h, match: [b=c]}", "line 1: {} [a] needs quotes: then: '[a] after 1h'"),
        ("a:\n summary: {value} isn't right", "line 2: {} {value} needs quotes: summary: '{value} isn''t right'"),
        ('text: "a" or b', 'line 1: {} "a" needs quotes: text: \'"a" or b\''),
    ],
)
def test_a_text_that_begins_like_something_else_is_shown_in_its_quotes(text: str, right: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_yaml(text, "f.yaml")
    value = str(caught.value).partition("needs quotes: ")[2]

    assert str(caught.value) == f"f.yaml: not YAML: {right.replace('{}', 'a value with words after', 1)}"
    assert read_yaml(value, "right")


def test_a_file_is_the_one_given_else_the_one_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "streams.yaml").write_text("here")
    assert find_file(None, "streams.yaml", "PENSTOCK_TOPOLOGY") == ("streams.yaml", "here")
    with pytest.raises(ConfigurationError, match=r"no\.yaml: cannot be read \(No such file .*set PENSTOCK_TOPOLOGY"):
        find_file("no.yaml", "streams.yaml", "PENSTOCK_TOPOLOGY")
