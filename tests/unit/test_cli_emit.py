"""What `penstock emit` takes for data."""

from __future__ import annotations

import pytest

from penstock.cli.emit import check_json
from penstock.errors import InvalidEvent


@pytest.mark.parametrize("text", ["null", "1", '"x"', '{"a": [1.50, "é"]}'])
def test_json_is_passed_on_letter_by_letter(text: str) -> None:
    assert check_json(f"\n {text} ") == text


@pytest.mark.parametrize("text", ["", "nul", "{'a': 1}", "{} {}"])
def test_what_is_no_json_is_refused_with_a_hint_on_quoting(text: str) -> None:
    with pytest.raises(InvalidEvent, match=r"^JSON: .*quote it"):
        check_json(text)
