"""Numbers, summaries and examples as people read and write them."""

from __future__ import annotations

import re

import pytest

from penstock_services.alerts.rules.file import parse
from penstock_services.alerts.rules.model import KINDS
from penstock_services.alerts.rules.quantities import in_words, unit_of
from penstock_services.alerts.rules.summary import placeholders, render
from tests.processes import ROOT


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (None, "", "nothing"),
        (0.123, "share", "12.3 %"),
        (1, "share", "100 %"),
        (30, "s", "30 s"),
        (1204, "", "1,204"),
        (3, "", "3"),
        (999.6, "", "1,000"),
    ],
)
def test_numbers_read_well(value: float | None, unit: str, words: str) -> None:
    assert in_words(value, unit) == words


def test_units_follow_from_the_series_and_the_field() -> None:
    assert unit_of("lag_age", "value") == "s"
    assert unit_of("jobs", "duration.p95") == "s"
    assert unit_of("jobs", "error_rate") == "share"
    assert unit_of("dead", "value") == unit_of("jobs", "count") == ""


def test_a_summary_is_filled_in_and_runs_no_code() -> None:
    labels = [{"group": "a"}, {"group": "b"}, {"group": "a"}]

    assert render("{value}: {group} of {stream}", {"value": "5 s"}, labels) == "5 s: a, b of -"
    assert render("{group}", {}, [{"group": "{value}"}]) == "{value}"
    assert render("{group.__class__}", {}, labels) == "-"
    assert render("{group}", {}, [{"group": name} for name in "abcde"]) == "a, b, c and 2 more"


@pytest.mark.parametrize("template", ["{", "}", "{a", "a}", "{{a}}", "{a{b}}"])
def test_a_brace_without_partner_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="brace"):
        placeholders(template)


def examples() -> list[str]:
    text = (ROOT / "docs" / "alerts.md").read_text()
    return re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("example", examples())
def test_every_example_of_the_manual_is_right(example: str) -> None:
    text = example if example.startswith("inhibit:") else "rules:\n" + re.sub("^", "  ", example, flags=re.MULTILINE)

    assert parse(text) != parse("")


def test_the_manual_has_an_example_of_each_kind() -> None:
    assert set(re.findall(r"kind: (\w+)", "".join(examples()))) == set(KINDS)
