"""`penstock up --reload` and `penstock run --reload`: what is changed runs, what is broken leaves the last as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from tests.e2e.mesh import Mesh, stop
from tests.servers import required_kinds, running_server

TOPOLOGY = """
streams: {orders: {kind: work}, events: {}}
services:
  shop: {run: "shop:service", consumes: {orders: {}}, publishes: [events]}
"""
OTHER = """
  desk: {run: "desk:service", consumes: {events: {}}}
"""
SHOP = """
import asyncio
from pathlib import Path
from penstock import Context, Service
from shop_words import WORD

service = Service("shop")


@service.on("orders")
async def take(data: str, ctx: Context) -> str:
    if data == "slow":
        ctx.log.info("slow begins")
        while not Path("finish").exists():
            await asyncio.sleep(0.01)
        ctx.log.info(f"slow ends, {WORD}")
    return WORD
"""
DESK = """
from penstock import Event, Service

service = Service("desk")


@service.on("events")
async def see(event: Event) -> None: ...
"""


class Project:
    """A mesh in a folder with sources that change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mesh = Mesh(folder, TOPOLOGY, cwd=folder)
        self.write("shop.py", SHOP)
        self.word("one")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def word(self, word: str) -> None:
        self.write("shop_words.py", f"WORD = {word!r}\n")

    def results(self) -> list[str]:
        reports = [json.loads(fields["data"]) for _, fields in self.mesh.redis.xrange("events")]
        return [report["result"] for report in reports if "result" in report]

    def says(self, word: str) -> None:
        """Wait until jobs come to this word: the first may still be the former version's."""
        self.mesh.waits_for(lambda: self.result() == word, f"a job comes to {word}")

    def result(self) -> str:
        """Hand in a job, and wait for its result."""
        before = len(self.results())
        self.mesh.redis.xadd("orders", {"type": "t", "data": '"quick"'})
        self.mesh.waits_for(lambda: len(self.results()) > before, "the job is done")
        return self.results()[-1]

    def pids(self) -> dict[str, int]:
        """Return the processes of Redis and of the services that have read and live, by name."""
        redis = self.mesh.redis
        found = {"redis": int(redis.info("server")["process_id"])}
        for stream, group in (("orders", "shop"), ("events", "desk")):
            with suppress(ResponseError):  # there is no such stream or group yet
                for consumer in redis.xinfo_consumers(stream, group):
                    if redis.hexists(f"beats:{group}", consumer["name"]):
                        found[group] = int(consumer["name"].rsplit("-", 2)[1])
        return found


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@contextmanager
def reloading(project: Project, how: str) -> Iterator[None]:
    mesh = project.mesh
    if how == "up":
        with mesh.up("up", "--reload") as process:
            mesh.says("Penstock is ready")
            yield
            assert stop(process) == 0
    else:
        command = ("run", "--reload", "shop:service")
        server = running_server(required_kinds()[0], port=mesh.redis_port)
        with server as there, mesh.up(*command, REDIS_URL=there.tcp_url) as process:
            yield
            assert stop(process) == 0
    assert "Traceback" not in mesh.output


@pytest.mark.parametrize("how", ["up", "run"])
def test_changed_code_runs_and_broken_code_leaves_the_last_running(project: Project, how: str) -> None:
    with reloading(project, how):
        project.says("one")
        project.word("two")
        project.mesh.says("has changed, starting it anew")
        project.says("two")

        project.write("shop_words.py", "WORD = = 3\n")
        project.mesh.says("shop_words.py, line 1: SyntaxError")
        before = project.pids()["shop"]
        project.says("two")
        assert project.pids()["shop"] == before

        project.word("four")
        project.mesh.says("has changed, starting it anew", times=2)
        project.says("four")
    assert project.mesh.output.count("SyntaxError") == 1


def test_what_is_in_flight_is_finished_by_the_code_that_began_it(project: Project) -> None:
    with reloading(project, "up"):
        project.says("one")
        project.mesh.redis.xadd("orders", {"type": "t", "data": '"slow"'})
        project.mesh.says("slow begins")
        project.word("two")
        project.mesh.says("asked to stop")
        (project.folder / "finish").touch()
        project.says("two")
        redis = project.mesh.redis
        reports = [(fields["type"], fields["cause"]) for _, fields in redis.xrange("events")]
        assert {kind for kind, _ in reports} == {"job.completed"}
        assert len(reports) == len(set(reports)) == redis.xlen("orders")
    assert "slow ends, one" in project.mesh.output


def test_a_service_that_is_broken_at_first_is_waited_for_and_the_others_run(project: Project) -> None:
    project.write("desk.py", DESK)
    project.write("streams.yaml", TOPOLOGY.rstrip() + OTHER)
    (project.folder / "shop_words.py").unlink()
    mesh = project.mesh
    with mesh.up("up", "--reload") as process:
        mesh.says("there is no module shop_words")
        mesh.waits_for(lambda: "desk" in project.pids(), "the other runs")
        before = project.pids()["desk"]
        project.word("one")
        mesh.says("Penstock is ready")
        project.says("one")
        assert project.pids()["desk"] == before
        project.write("streams.yaml", TOPOLOGY)
        mesh.says("streams.yaml has changed")
        mesh.says("Penstock is ready", times=2)
        assert stop(process) == 0
    assert mesh.output.count("streams.yaml has changed") == 1  # code that was mended is no other streams.yaml


def test_a_changed_streams_yaml_starts_what_it_now_says_once_it_is_sound(project: Project) -> None:
    project.write("desk.py", DESK)
    with reloading(project, "up"):
        project.says("one")
        before = project.pids()
        project.write("streams.yaml", TOPOLOGY.replace("consumes: {orders", "consumes: {ordres"))
        project.mesh.says("there is no stream ordres")
        project.says("one")
        assert project.pids() == before
        project.write("streams.yaml", TOPOLOGY.rstrip() + OTHER)
        project.mesh.says("streams.yaml has changed, starting all services anew")
        project.mesh.says("Penstock is ready", times=2)
        project.mesh.waits_for(lambda: "desk" in project.pids(), "the new one runs")
        project.says("one")
        assert project.pids()["redis"] == before["redis"]
        assert project.pids()["shop"] != before["shop"]


def test_what_is_not_of_the_project_s_code_restarts_nothing(project: Project) -> None:
    with reloading(project, "up"):
        before = project.pids()
        project.write("test_shop.py", "broken = = \n")
        project.write("notes.txt", "")
        project.word("two")  # the next look finds all three
        project.mesh.says("has changed, starting it anew")
        project.says("two")
        after = project.pids()
        assert after.pop("shop") != before.pop("shop")
        assert after == before
    assert "SyntaxError" not in project.mesh.output
