"""Matchers: what a person writes to choose alerts and series."""

from __future__ import annotations

import re

import pytest

from penstock.matchers import Matcher, all_match, impossible


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("a=b", {"a": "b"}, True),
        ("a=b", {"a": "bc"}, False),
        ("a=b", {}, False),
        ("a=*", {"a": ""}, True),
        ("a=*", {"b": "x"}, False),
        ("a=b*", {"a": "bc"}, True),
        ("a=B", {"a": "b"}, False),
        ("a=b?[0-9]", {"a": "bx7"}, True),
        ("a!=b", {"a": "c"}, True),
        ("a!=b", {"a": "b"}, False),
        ("a!=b", {}, True),
        ("a!=b*", {"a": "bc"}, False),
        (" a = b ", {"a": "b"}, True),
        ("a=b=c", {"a": "b=c"}, True),
        ("dotted.name-1=x", {"dotted.name-1": "x"}, True),
    ],
)
def test_a_matcher_matches(text: str, labels: dict[str, str], expected: bool) -> None:
    assert Matcher.parse(text).matches(labels) is expected


@pytest.mark.parametrize("text", ["", "a", "=b", "a=", "a!", "1a=b", "a b=c", 5, None, ["a=b"]])
def test_what_is_no_matcher_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match="expected a matcher such as stream=ingest"):
        Matcher.parse(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("severity=~.*", "write severity=*"),
        ("name=~^api.+$", "write name=api?*"),
        ("name!~x.*", "write name!=x*"),
        ("name==x", "write one =, as in name=x"),
        ('name="x"', "write name=x"),
        ("name!='x y'", "write name!=x y"),
        ("name!=~x", "regular expressions are not understood"),
        ("name=[", "a [ without its ] never matches"),
        ("name=a[!", "a [ without its ] never matches"),
        ("name=[a]b[c", "a [ without its ] never matches"),
        ("name=[]", "a [ without its ] never matches"),
    ],
)
def test_what_would_never_match_is_refused_with_what_was_meant(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        Matcher.parse(text)


@pytest.mark.parametrize("text", ["name=[[]", "name=[]]x", "name=[!a]*", "name=a]", "name='", "name=b~c", "name=b=~c"])
def test_brackets_that_mean_something_are_fine(text: str) -> None:
    assert Matcher.parse(text)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["severity=fatal"], "severity is one of info, warning"),
        (["severity=w*", "severity!=warning"], "severity is one of info, warning"),
        (["a=x", "a=y"], "a=x and a=y cannot hold together; a pattern has room for both"),
        (["a=x", "a!=x"], "a=x and a!=x cannot hold together"),
        (["a!=x*", "a=xy"], "a=xy and a!=x* cannot hold together"),
        (["a=y*", "a=x"], "a=x and a=y* cannot hold together"),
        (["a=x*", "a!=xy", "a=xz"], None),
        (["severity=*", "a=x", "a=x", "a!=y"], None),
    ],
)
def test_conditions_that_nothing_can_meet_are_told(texts: list[str], said: str | None) -> None:
    why = impossible([Matcher.parse(text) for text in texts], {"severity": ("info", "warning")})

    assert (why is None) if said is None else (said in (why or ""))


def test_all_of_several_must_match_and_none_always_does() -> None:
    both = [Matcher.parse("a=1"), Matcher.parse("b!=2")]

    assert all_match(both, {"a": "1"})
    assert not all_match(both, {"a": "1", "b": "2"})
    assert all_match([], {})


def test_a_matcher_is_the_text_it_was_made_from() -> None:
    assert Matcher.parse("a != b*") == "a!=b*"
