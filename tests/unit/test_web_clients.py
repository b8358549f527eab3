"""Clients: how their secrets are given, what they may publish, and how often they may ask."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from penstock.errors import ConfigurationError
from penstock.settings import Settings
from penstock.topology import ClientSpec, Topology
from penstock.web.clients import Caller, Clients
from penstock.web.problems import Problem

SECRET, OTHER = "s" * 24, "o" * 24


def clients(*, settings: Settings | None = None, **specs: ClientSpec) -> Clients:
    return Clients.of(Topology(clients=specs), settings or Settings())


def spec(**values: object) -> ClientSpec:
    return ClientSpec(**{"scopes": ("read",), "secret": "SHOP_SECRET", **values})  # type: ignore[arg-type]


def found(known: Clients, secret: str) -> str:
    caller = known.find(f"Bearer {secret}")
    assert caller is not None
    return caller.name


def hashed(secret: str) -> str:
    return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"


@pytest.mark.parametrize("value", [SECRET, f"{OTHER}\n{SECRET}\n", f"{OTHER} {SECRET}", hashed(SECRET)])
def test_a_secret_is_given_plain_or_hashed_and_several_while_one_is_replaced(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SECRET", value)
    known = clients(shop=spec())
    assert found(known, SECRET) == "shop"
    if OTHER in value:
        assert found(known, OTHER) == "shop"


def test_a_secret_is_given_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    monkeypatch.setenv("SHOP_SECRET_FILE", str(tmp_path / "secret"))
    assert found(clients(shop=spec()), SECRET) == "shop"


def test_what_prometheus_presents_may_be_one_of_several_while_it_is_replaced() -> None:
    known = clients(settings=Settings(scrape_secret=f"{OTHER} {hashed(SECRET)}"))
    assert [found(known, secret) for secret in (OTHER, SECRET)] == ["prometheus", "prometheus"]


def test_hashes_may_stand_in_streams_yaml() -> None:
    assert found(clients(shop=spec(secret=None, sha256=(hashed(SECRET),))), SECRET) == "shop"


def test_a_browser_gives_the_secret_as_a_password() -> None:
    known = clients(shop=spec(secret=None, sha256=(hashed(SECRET),)))
    caller = known.find("Basic " + base64.b64encode(f"ada:{SECRET}".encode()).decode())
    assert caller is not None
    assert caller.name == "shop"


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", f"Bearer {SECRET}x", "Bearer \udcff", f"Token {SECRET}", "Basic !", "Basic YQ==", "Basic \udcff"],
)
def test_what_is_no_secret_is_401(authorization: str) -> None:
    with pytest.raises(Problem, match="no client's secret") as refused:
        clients(shop=spec(secret=None, sha256=(hashed(SECRET),))).find(authorization)
    kind = "Basic" if authorization.startswith("Basic") else "Bearer"
    assert refused.value.headers["WWW-Authenticate"].startswith(kind)


def test_two_clients_cannot_share_a_secret_and_a_short_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_SECRET", SECRET)
    with pytest.raises(ConfigurationError, match=r"clients\.b: has a secret of a"):
        clients(a=spec(), b=spec())
    with pytest.raises(ConfigurationError, match=r"clients\.a: has neither"):
        clients(a=spec(secret=None))
    monkeypatch.setenv("SHOP_SECRET", "short")
    with pytest.raises(ConfigurationError, match=r"SHOP_SECRET: .*at least 24"):
        clients(a=spec())


def test_a_client_publishes_to_its_streams_and_its_types() -> None:
    caller = Caller("shop", spec=spec(streams=("ingest",), types=("order.*", "ticket.created")))
    caller.check_publishing("ingest", "order.placed")
    for stream, kind in (("ingest", "http.request"), ("events", "order.placed"), ("ingest", "order")):
        with pytest.raises(Problem, match="may not publish"):
            caller.check_publishing(stream, kind)


def test_a_rate_allows_a_second_at_once_and_says_when_to_come_back() -> None:
    now = 0.0
    caller = Caller("shop", spec=spec(rate=10.0), clock=lambda: now)
    for _ in range(10):
        caller.spend(1)
    with pytest.raises(Problem, match="10 events a second") as refused:
        caller.spend(1)
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "1")
    now = 0.5
    caller.spend(5)
    with pytest.raises(Problem):
        caller.spend(1)


def test_a_batch_above_the_rate_is_taken_and_paid_for_later() -> None:
    now = 0.0
    caller = Caller("shop", spec=spec(rate=10.0), clock=lambda: now)
    caller.spend(50)
    for now in (1.0, 4.0):  # noqa: B007 - the clock reads it
        with pytest.raises(Problem):
            caller.spend(1)
    now = 4.2
    caller.spend(1)
