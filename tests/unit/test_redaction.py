"""What may be shown of an address, and of a text about one."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ConfigurationError
from penstock.redaction import header_secrets, hide_url, redact, url_secrets
from penstock.redis.connection import check_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:pw@host/0", "redis://:***@host/0"),
        ("redis://u:pw@host/0", "redis://u:***@host/0"),
        ("redis://u:p/w@host/0", "redis://u:***@host/0"),
        ("redis://u:p#w@host/0", "redis://u:***@host/0"),
        ("redis://u:p@w@host/0", "redis://u:***@host/0"),
        ("redis://u:p\nw@host/0", "redis://u:***@host/0"),
        ("redis://u:p?w@host/0", "redis://***@host/0"),
        ("redis://host/0?password=pw&db=1", "redis://host/0?password=***&db=1"),
        ("unix:///run/redis.sock?password=pw", "unix:///run/redis.sock?password=***"),
        ("reds://u:pw@host", "reds://u:***@host"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert hide_url(url) == shown


@pytest.mark.parametrize("part", [":", "http://", "a://:"])
def test_an_address_of_any_length_is_shown_without_keeping_everybody_waiting(part: str) -> None:
    url = f"https://{part * 100_000}"  # by a pattern that goes back and forth this would take two minutes
    assert hide_url(url) == url


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=6), st.sampled_from(["{}", "u:{}"]))
def test_no_part_of_a_password_is_shown_however_it_is_written(password: str, userinfo: str) -> None:
    secret = f"<{password}>"
    for url in (f"redis://:{secret}@host:6379/0", f"redis://u:{secret}@host/0"):
        assert secret not in hide_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "host:6379",
        "http://u:secret1@h",
        "redis://u:secret1@host:port/0",
        "redis://u:sec/ret1@host:6379/0",
        "redis://[u:secret1@h",
    ],
)
def test_a_url_that_is_not_understood_is_an_error_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="REDIS_URL") as refused:
        check_url(url)
    assert "ret1" not in str(refused.value)


def test_every_part_of_a_credential_is_taken_out_and_harmless_words_stay() -> None:
    basic = base64.b64encode(b"ada:open-sesame").decode()
    secrets = url_secrets("https://ada:pass%2Fword@api.example/hook?key=k3y-of-it&q=1")
    secrets |= header_secrets({"Authorization": f"Basic {basic}", "X-Token": "t0k3n-of-it", "Accept": "text/plain"})
    said = f"ada: pass/word, pass%2Fword, k3y-of-it, open-sesame, {basic}, t0k3n-of-it at api.example, text/plain, q=1"
    assert redact(said, secrets) == "ada: ***, ***, ***, ***, ***, *** at api.example, text/plain, q=1"


def test_a_credential_that_is_no_utf8_is_taken_out_in_every_form() -> None:
    """Headers bring such bytes as surrogates; JSON can write half a character."""
    sent = b"k3y-\xf5\xd7-of-it"
    secrets = header_secrets({"X-Api-Key": sent.decode(errors="surrogateescape"), "X-Token": "half-\ud83d-token"})
    said = f"{base64.b64encode(sent).decode()} k3y-%F5%D7-of-it half-\ud83d-token"
    assert redact(said, secrets) == "*** *** ***"


def test_the_value_of_a_cookie_and_what_json_and_html_make_of_a_secret_are_taken_out() -> None:
    secrets = header_secrets({"Cookie": "session=abc1234; theme=dark", "X-Api-Key": 'k3y-"<of>-it'})
    said = r'abc1234, {"key":"k3y-\"<of>-it"}, <b>k3y-&quot;&lt;of&gt;-it</b>, session, dark'
    assert redact(said, secrets) == '***, {"key":"***"}, <b>***</b>, session, dark'
