"""The signature schemes: published vectors, other people's verifiers as judges, and hostile headers."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from standardwebhooks import Webhook as Judge

from penstock_services.gateway.schemes import SCHEMES, BadSignature
from penstock_services.gateway.schemes.github import GitHub
from penstock_services.gateway.schemes.standard_webhooks import StandardWebhooks

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"test": 2432232314}'
SIGNED_AT = 1614265330
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
GITHUB_SECRET = "It's a Secret to Everybody"
GITHUB_BODY = b"Hello, World!"
GITHUB_SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def standard(prefix: str = "webhook", **changed: str) -> Mapping[str, str]:
    """The published request, with some headers changed (an empty one is left out)."""
    values = {"id": "msg_p5jXN8AQM9LWM0D4loKWxJek", "timestamp": str(SIGNED_AT), "signature": SIGNATURE, **changed}
    return CIMultiDict({f"{prefix}-{name}": value for name, value in values.items() if value})


def test_the_published_standard_webhooks_vector_is_accepted() -> None:
    assert StandardWebhooks(SECRET).verify(standard(), BODY, SIGNED_AT) == "msg_p5jXN8AQM9LWM0D4loKWxJek"


def test_svix_header_names_are_the_same_scheme() -> None:
    assert StandardWebhooks(SECRET).verify(standard("svix"), BODY, SIGNED_AT) == "msg_p5jXN8AQM9LWM0D4loKWxJek"


def test_the_published_github_vector_is_accepted() -> None:
    headers = CIMultiDict({"x-hub-signature-256": GITHUB_SIGNATURE, "x-github-delivery": "72d3162e"})
    assert GitHub(GITHUB_SECRET).verify(headers, GITHUB_BODY, 0.0) == "72d3162e"


def test_a_github_request_without_a_delivery_id_has_none() -> None:
    assert GitHub(GITHUB_SECRET).verify({"X-Hub-Signature-256": GITHUB_SIGNATURE}, GITHUB_BODY, 0.0) is None


@pytest.mark.parametrize("drift", [-300, 0, 300])
def test_five_minutes_to_either_side_are_tolerated(drift: int) -> None:
    assert StandardWebhooks(SECRET).verify(standard(), BODY, SIGNED_AT + drift)


@pytest.mark.parametrize("drift", [-3600, -301, 301, 3600])
def test_more_than_five_minutes_to_either_side_are_refused(drift: int) -> None:
    with pytest.raises(BadSignature, match="clocks"):
        StandardWebhooks(SECRET).verify(standard(), BODY, SIGNED_AT + drift)


def test_one_right_signature_among_several_is_enough() -> None:
    for signatures in (f"v1,AAAA {SIGNATURE}", f"{SIGNATURE} v1a,xyz", f"v2 , {SIGNATURE} x"):
        assert StandardWebhooks(SECRET).verify(standard(signature=signatures), BODY, SIGNED_AT)


@pytest.mark.parametrize(
    "changed",
    [
        {"id": ""},
        {"timestamp": ""},
        {"signature": ""},
        {"id": "msg_other"},
        {"timestamp": "now"},
        {"timestamp": "1614265330.0"},
        {"timestamp": "١٦١٤٢٦٥٣٣٠"},
        {"timestamp": "9" * 5000},
        {"signature": SIGNATURE.removeprefix("v1,")},
        {"signature": SIGNATURE.replace("v1,", "v1a,")},
        {"signature": SIGNATURE.replace("v1,", "v1")},
        {"signature": SIGNATURE[:-1]},
        {"signature": "v1,not base64 at all!"},
        {"signature": "v1,\udcff\udcfe"},
        {"signature": "v1,ключ"},
        {"signature": "," * 8000},
    ],
)
def test_hostile_headers_are_refused_and_crash_nothing(changed: dict[str, str]) -> None:
    with pytest.raises(BadSignature):
        StandardWebhooks(SECRET).verify(standard(**changed), BODY, SIGNED_AT)


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "sha256=",
        GITHUB_SIGNATURE.upper(),
        GITHUB_SIGNATURE[7:],
        GITHUB_SIGNATURE + "0",
        "sha1=" + "0" * 40,
        "\udcff",
    ],
)
def test_wrong_github_signatures_are_refused(signature: str) -> None:
    with pytest.raises(BadSignature):
        GitHub(GITHUB_SECRET).verify({"X-Hub-Signature-256": signature}, GITHUB_BODY, 0.0)


@pytest.mark.parametrize("name", SCHEMES)
def test_another_body_is_refused(name: str) -> None:
    secret = SECRET if name == "standard-webhooks" else GITHUB_SECRET
    headers = {**standard(), "X-Hub-Signature-256": GITHUB_SIGNATURE}
    with pytest.raises(BadSignature):
        SCHEMES[name](secret).verify(headers, BODY + b" ", SIGNED_AT)


@given(st.binary(min_size=24, max_size=64), st.text("msg_0aZ-", min_size=1), st.text())
def test_what_the_reference_library_signs_is_accepted(key: bytes, message_id: str, text: str) -> None:
    secret = "whsec_" + base64.b64encode(key).decode()
    now = int(time.time())
    signature = Judge(secret).sign(message_id, datetime.fromtimestamp(now, UTC), text)
    headers = standard(id=message_id, timestamp=str(now), signature=signature)
    assert StandardWebhooks(secret).verify(headers, text.encode(), now) == message_id


values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FF) | st.sampled_from("\udc80\udcff"))


@pytest.mark.parametrize("name", SCHEMES)
@given(headers=st.dictionaries(st.sampled_from([*standard(), *standard("svix"), "x-hub-signature-256"]), values))
def test_no_headers_crash_a_scheme_or_get_through_unsigned(name: str, headers: dict[str, str]) -> None:
    with pytest.raises(BadSignature):
        SCHEMES[name](SECRET).verify(CIMultiDict(headers), b"{}", SIGNED_AT)


def test_a_secret_may_lack_its_padding_as_with_the_reference_library() -> None:
    now = int(time.time())
    signature = Judge("whsec_cGVuc3RvY2s").sign("msg_1", datetime.fromtimestamp(now, UTC), "{}")
    headers = standard(id="msg_1", timestamp=str(now), signature=signature)
    assert StandardWebhooks("whsec_cGVuc3RvY2s").verify(headers, b"{}", now)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_***", "whsec_ключ", "whsec_abcde"])
def test_a_secret_that_holds_no_base64_key_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        StandardWebhooks(secret)
