"""`penstock topology check` finds what streams.yaml and Redis disagree on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.command_line import Cli
from tests.forks import run
from tests.processes import eventually, service_process
from tests.servers import Server, free_port


@pytest.fixture
def cli(server: Server, tmp_path: Path) -> Cli:
    return Cli(server.url, tmp_path)


def test_a_mesh_as_declared_is_sound(cli: Cli, raw: Any) -> None:
    raw.xgroup_create("ingest", "worker", "0", mkstream=True)
    raw.xgroup_create("ingest:worker:retry", "worker", "0", mkstream=True)
    raw.set("something", "else")
    done = cli("topology", "check")
    assert done.returncode == 0
    assert "3 streams, 1 services, 1 groups; Redis agrees" in done.stdout
    assert cli.json("topology", "check") == {"ok": True, "differences": []}


def test_each_difference_is_named_with_what_to_do(cli: Cli, raw: Any) -> None:
    raw.xadd("ingest", {"type": "t"})
    raw.xgroup_create("ingest", "stranger", "0")
    raw.xadd("ingset", {"type": "t"})
    found = cli.json("topology", "check", code=1)
    assert not found["ok"]
    assert [(one["kind"], one["stream"], one["group"]) for one in found["differences"]] == [
        ("missing-group", "ingest", "worker"),
        ("undeclared-group", "ingest", "stranger"),
        ("undeclared-stream", "ingset", None),
    ]
    shown = cli("topology", "check")
    assert shown.returncode == 1
    for difference in found["differences"]:
        assert difference["message"] in shown.stdout


def test_advice_counts_the_work_that_it_would_destroy(cli: Cli, raw: Any) -> None:
    raw.xgroup_create("old", "worker", "0", mkstream=True)
    raw.xadd("old", {"type": "t"})
    raw.xadd("old:worker:retry", {"type": "t"})
    raw.zadd("old:worker:delayed", {"packed": 1e15, "another": 1e15})
    raw.zadd("ingest:gone:delayed", {"packed": 1e15})
    by_stream = {one["stream"]: one for one in cli.json("topology", "check", code=1)["differences"]}

    assert by_stream["old"]["kind"] == "undeclared-stream"
    assert "it holds 1 entries, worker has 4 events of it to do" in by_stream["old"]["message"]
    assert "loses them" in by_stream["old"]["message"]
    group = by_stream["ingest"]
    shown = cli.json("status")
    assert (group["kind"], group["group"]) == ("undeclared-group", "gone")
    assert "has 1 events to do" in group["message"]
    (state,) = (one for one in shown["groups"] if one["stream"] == "old")
    assert (state["lag"], state["retry"], state["delayed"]) == (1, 1, 2)
    assert "old (not in streams.yaml)" in cli("status").stdout


def test_a_group_that_is_gone_is_told_with_what_it_has_yet_to_do(cli: Cli, raw: Any) -> None:
    ids = [raw.xadd("ingest", {"type": "t"}).decode() for _ in range(5)]
    raw.hset("positions:worker", "ingest", ids[2])
    (difference,) = cli.json("topology", "check", code=1)["differences"]
    assert f"the group of service worker is gone; it goes on after {ids[2]} (2 entries)" in difference["message"]
    (state,) = cli.json("status")["groups"]
    assert (state["lag"], state["position"], state["exists"]) == (2, ids[2], False)


def test_a_group_of_a_former_name_is_not_advised_to_be_destroyed(cli: Cli, raw: Any) -> None:
    Path(cli.env["PENSTOCK_TOPOLOGY"]).write_text(
        "streams: {ingest: {}}\nservices: {shop: {formerly: worker, consumes: {ingest: {}}}}"
    )
    raw.xgroup_create("ingest", "worker", "0", mkstream=True)
    raw.xadd("ingest", {"type": "t"})
    messages = [one["message"] for one in cli.json("topology", "check", code=1)["differences"]]
    assert any("service shop takes over group worker (1 events to do)" in message for message in messages)
    assert not any("XGROUP" in message for message in messages)


def test_a_group_that_is_declared_abandoned_is_no_difference(cli: Cli, raw: Any) -> None:
    Path(cli.env["PENSTOCK_TOPOLOGY"]).write_text("streams: {ingest: {abandoned: [stranger]}}")
    raw.xgroup_create("ingest", "stranger", "0", mkstream=True)
    assert cli.json("topology", "check") == {"ok": True, "differences": []}


def test_without_a_file_the_topology_is_the_one_that_the_services_keep(cli: Cli, raw: Any, tmp_path: Path) -> None:
    file = Path(cli.env.pop("PENSTOCK_TOPOLOGY"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    env = {**cli.env, "PENSTOCK_TOPOLOGY": str(file), "PENSTOCK_JOBS": "tests.integration.script_jobs:jobs"}
    with service_process("-m", "penstock_services.worker", env=env):
        eventually(lambda: raw.exists("topology", "ingest") == 2)  # it makes the group of its retries first
    found = run(["penstock", "topology", "check"], env=cli.env, cwd=elsewhere)

    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.startswith("no streams.yaml here; the topology in Redis is sound: 3 streams, 1 services")


def test_only_streams_under_our_prefix_are_ours(cli: Cli, raw: Any) -> None:
    raw.xadd("other-mesh", {"type": "t"})
    raw.xadd("m1:lost", {"type": "t"})
    cli.env["PENSTOCK_PREFIX"] = "m1:"
    found = cli.json("topology", "check", code=1)["differences"]
    assert [one["stream"] for one in found if one["kind"] == "undeclared-stream"] == ["lost"]


def test_the_file_alone_needs_no_redis(tmp_path: Path) -> None:
    cli = Cli(f"redis://127.0.0.1:{free_port()}/0", tmp_path)
    assert cli("topology", "check", "--file-only").returncode == 0
    assert cli("topology", "check").returncode == 3


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("streams: {ingest: {}}\nservices: {a: {consumes: {ingset: {}}}}", "did you mean ingest?"),
        ("streams: {ingest: {retain: 1d}}", "streams.ingest"),
        ("services: {a: {run: shop.nowhere}}", "there is no module shop.nowhere"),
        ("services: {a: {run: penstock.service}}", "there is no module penstock.service to run"),
        ("services: {a: {run: 'shop.nowhere:service'}}", "there is no module shop.nowhere"),
    ],
)
def test_a_mistake_in_the_file_is_named(cli: Cli, text: str, named: str) -> None:
    Path(cli.env["PENSTOCK_TOPOLOGY"]).write_text(text)
    done = cli("topology", "check")
    assert done.returncode == 2
    assert done.stderr.startswith("penstock: streams.yaml: ")
    assert named in done.stderr
