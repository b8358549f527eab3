"""Least privilege: every service, operator and client works under its own Redis user, and is denied everything else."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import yaml
from redis.exceptions import ResponseError

from penstock.client.client import Penstock
from penstock.dlq.retention import DeadLetterRetention
from penstock.errors import ConfigurationError, Unavailable
from penstock.keys import Keys
from penstock.mesh.acl import users
from penstock.redis.connection import AsyncRedis
from penstock.redis.lanes import Lanes
from penstock.settings import Settings, redis_url
from penstock.streams.durability import check_durability, confirm
from penstock.streams.memory import MemoryRelief
from penstock.streams.retention import Retention
from penstock.times import rfc3339
from penstock.topology import load
from tests import forks
from tests.alerts import ALERT
from tests.command_line import Cli, environment
from tests.gateways import Gateway
from tests.hands import Raw
from tests.integration.test_cli_dlq import bury
from tests.processes import ROOT, eventually, service_process
from tests.routes import routes
from tests.servers import Server, free_port, required_kinds, running_server

ADMIN = "nobody-but-the-tests"
MESH = yaml.safe_load((ROOT / "streams.yaml").read_text())
MESH["include"] = ["penstock_services.containers"]
MESH["streams"]["sales"] = {}
MESH["services"] |= {
    "shop": {"consumes": {"events": {"retry": {"attempts": 1}}}, "publishes": ["sales"]},
    "feeder": {"publishes": ["ingest"]},
}


class Fenced:
    """A server on which everybody has to be somebody: the users of `penstock topology acl`, and the tests' own."""

    def __init__(self, server: Server, kind: str, folder: Path) -> None:
        self.server = server
        self.kind = kind
        self.raw: Raw = redis.Redis(unix_socket_path=str(server.socket), username=ADMIN, password=ADMIN, protocol=2)
        self.folder = folder
        self.passwords = folder / "passwords"
        self._topology = folder / "streams.yaml"
        self._topology.write_text(json.dumps(MESH))
        self.topology = load(self._topology)
        self.users = [user.name for user in users(self.topology, Keys())]

    def env(self, user: str, **more: str) -> dict[str, str]:
        """Return the environment of a program that speaks as `user`."""
        return environment(
            REDIS_URL=f"unix://{user}@{self.server.socket}",
            REDIS_PASSWORD_FILE=str(self.passwords / user),
            PENSTOCK_TOPOLOGY=str(self._topology),
            **more,
        )

    def settings(self, user: str) -> Settings:
        return Settings.from_env(self.env(user))

    def plain(self, user: str) -> Raw:
        return redis.Redis.from_url(redis_url(self.settings(user)), protocol=2, single_connection_client=True)

    def acl(self, *arguments: str, **env: str) -> str:
        """Run `penstock topology acl` as whoever may set users; return what it printed."""
        admin = environment(
            REDIS_URL=f"unix://{ADMIN}:{ADMIN}@{self.server.socket}", PENSTOCK_TOPOLOGY=str(self._topology), **env
        )
        done = forks.run(["penstock", "topology", "acl", *arguments], env=admin, cwd=self.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def cli(self, user: str, *arguments: str) -> Any:
        return forks.run(["penstock", *arguments], env=self.env(user), cwd=self.folder)

    @contextlib.contextmanager
    def service(self, name: str, module: str = "", **env: str) -> Iterator[Gateway]:
        """Run a service under its own user until it is told to stop; it is ready when the context begins."""
        port = free_port()
        command = ("-m", "penstock", "run", module) if module else ("-m", f"penstock_services.{name}")
        variable = "PENSTOCK_HEALTH_PORT" if module else f"PENSTOCK_{name.upper()}_PORT"
        log = self.folder / f"{name}-{port}.log"
        with service_process(*command, env=self.env(name, **{variable: str(port)}, **env), log=log) as process:
            running = Gateway(port, process, log)
            eventually(lambda: running.ready() or process.poll() is not None, what=f"{name} is ready")
            assert process.poll() is None, log.read_text()
            yield running
            if process.poll() is None:
                process.terminate()
                assert process.wait(20) == 0

    def denials(self) -> set[tuple[str, str]]:
        """Return who was denied what."""
        return {(entry["username"], f"{entry['reason']} {entry['object']}") for entry in self.raw.acl_log()}

    def letters(self) -> set[str]:
        """Return the groups that have dead letters."""
        return {fields[b"dlq.group"].decode() for _, fields in self.raw.xrange("dlq")}

    def retried(self, key: str) -> int:
        """Return how many entries of a retry stream are in flight."""
        pending = self.raw.xpending(key, "worker") if self.raw.exists(key) else {"pending": 0}
        return int(pending["pending"])

    def events(self, stream: str) -> list[str]:
        return [fields[b"type"].decode() for _, fields in self.raw.xrange(stream)]


@contextlib.contextmanager
def running_fence(kind: str, folder: Path) -> Iterator[Fenced]:
    with running_server(kind) as server:
        with server.client() as default:
            default.execute_command("ACL", "SETUSER", ADMIN, "on", f">{ADMIN}", "+@all", "~*", "&*")
        fence = Fenced(server, kind, folder)
        fence.acl("--apply", "--passwords", str(fence.passwords))
        fence.raw.execute_command("ACL", "SETUSER", "default", "off")
        yield fence
        fence.raw.close()


@pytest.fixture(params=required_kinds())
def fenced(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fenced]:
    with running_fence(request.param, tmp_path) as fence:
        yield fence


@pytest.fixture(scope="module", params=required_kinds())
def shared_fence(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fenced]:
    """One for tests that only ask for what they may not have."""
    with running_fence(request.param, tmp_path_factory.mktemp("fence")) as fence:
        yield fence


def gets(service: str) -> list[str]:
    """Return the addresses of what a service answers to who only looks."""
    return [
        route.path.partition("{")[0] + ("x" if "{" in route.path else "")
        for route in routes(service)
        if route.method == "GET" and not route.path.startswith(("/webhooks", "/v1/stream"))
    ]


def test_the_mesh_does_its_work_and_nothing_is_denied(fenced: Fenced) -> None:
    raw, jobs = fenced.raw, {"PENSTOCK_JOBS": "tests.integration.acl_jobs:jobs", "PENSTOCK_DRAIN_TIMEOUT": "0.1"}
    raw.hset("ingest:cancelled", raw.xadd("ingest", {"type": "endless"}), 1)
    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(fenced.service(name)) for name in ("gateway", "metrics", "alerts", "notifier")
        }
        running["worker"] = stack.enter_context(fenced.service("worker", **jobs))
        stack.enter_context(fenced.service("shop", "tests.integration.acl_jobs:shop"))
        gateway = running["gateway"]
        kinds = ("busy", "hopeless", "fragile")
        accepted = [gateway.post({"type": kind}, {"Idempotency-Key": kind}) for kind in kinds]
        assert {answer.status for answer in accepted} == {202}
        busy = accepted[0].json["job_id"]
        endless = gateway.post({"type": "endless"}).json["job_id"]
        eventually(lambda: {"sold", "sold.later"} <= {*fenced.events("sales")}, what="the shop has sold")
        eventually(lambda: fenced.events("events").count("job.completed") == 2, what="busy and fragile are completed")
        eventually(lambda: fenced.letters() == {"worker", "shop"}, what="each has its dead letter")
        assert gateway.get(f"/v1/jobs/{endless}").json["state"] == "running"
        ticket = gateway.post({}, path="/v1/tickets").json["ticket"]
        assert gateway.get("/v1/connections").json == {"connections": []}
        assert b"event: end" in gateway.get(f"/v1/jobs/{busy}/events?ticket={ticket}").body
        assert not raw.exists("ingest:cancelled")
        later = gateway.post({"type": "busy", "in": "3600"}).json["job_id"]
        eventually(lambda: raw.exists("ingest:worker:delayed"), what="it waits for its time")
        answer = gateway.post({}, path=f"/v1/jobs/{later}/cancel")
        assert (answer.status, answer.json.get("state")) == (200, "cancelled"), answer.json

        other = stack.enter_context(fenced.service("worker", **jobs))
        running["worker"].process.kill()
        eventually(lambda: fenced.retried("ingest:worker:retry") == 1)
        running["worker"] = other
        alert = json.dumps({**json.loads(msgspec.json.encode(ALERT)), "since": rfc3339(time.time())})
        raw.xadd("alerts", {"type": "alert.triggered", "data": alert, "id": "a-1"})
        eventually(lambda: raw.xlen("deliveries"), what="the console was told")
        for service, one in running.items():
            for path in gets(service):
                assert one.get(path).status < 500, (service, path)
        for chore in ("memory:worker", "memory:gateway", "retention:events", "retention:dlq", "sweep:shop"):
            eventually(lambda chore=chore: raw.exists(f"lock:{chore}"), deadline=60, what=chore)  # type: ignore[misc]
        eventually(lambda: "metrics.window" in fenced.events("metrics"), deadline=60)
    assert fenced.denials() == set()


def test_the_containers_service_keeps_its_records_and_nothing_is_denied(fenced: Fenced) -> None:
    env = fenced.env(
        "containers", PENSTOCK_CONTAINERS_ENGINE=f"unix://{fenced.folder}/none", PENSTOCK_CONTAINERS_IMAGES="web"
    )
    log = fenced.folder / "containers.log"
    with service_process("-m", "penstock_services.containers", env=env, log=log) as process:
        declared = {"name": "web", "image": "web", "ports": {"http": {"container": 80}}}
        fenced.raw.xadd("containers", {"type": "service.apply", "data": json.dumps(declared)})
        eventually(lambda: {"job.completed", "engine.lost"} <= {*fenced.events("events")}, deadline=60, what="both")
        process.terminate()
        assert process.wait(20) == 0, log.read_text()
    assert fenced.raw.hkeys("state:containers:services") == [b"web"]
    assert fenced.denials() == set()


@asynccontextmanager
async def speaking_as(fenced: Fenced, user: str) -> AsyncIterator[AsyncRedis]:
    lanes = Lanes(redis_url(fenced.settings(user)), name="test")
    try:
        yield lanes.client()
    finally:
        await lanes.aclose()


async def test_what_is_settled_gives_way_by_whoever_has_the_stream(fenced: Fenced) -> None:
    raw = fenced.raw
    for number in range(3_000):
        raw.xadd("ingest", {"type": "t", "data": "x" * 500}, id=f"{number + 1}-0")
    raw.xgroup_create("ingest", "worker", "$")
    raw.hset("job:old", "gateway", 'ingest-1-0 {"state": "completed"}')
    raw.expire("job:old", 60)
    raw.config_set("maxmemory", raw.info("memory")["used_memory"])
    async with speaking_as(fenced, "worker") as client:
        relief = MemoryRelief(
            client, Keys(), fenced.topology, ["events", "ingest"], service="worker", share=0.1, job_ttl=604_800
        )
        await relief.relieve()
        raw.config_set("maxmemory", 0)
        await Retention(client, Keys(), fenced.topology, ["ingest"], events="events").trim("ingest")
    assert raw.xlen("ingest") == 0, "by age"
    assert not raw.exists("job:old")
    assert fenced.denials() == set()


async def test_dead_letters_are_kept_within_bounds_by_whoever_makes_them(fenced: Fenced) -> None:
    letter = {"type": "t", "id": "a", "dlq.stream": "events", "dlq.group": "shop", "dlq.entry": "1-0"}
    fenced.raw.hset("checkpoint:shop:redis-cli:a", "step", "1")
    fenced.raw.expire("checkpoint:shop:redis-cli:a", 60)
    for _ in range(2):
        fenced.raw.xadd("dlq", letter)
    async with speaking_as(fenced, "worker") as client:
        kept = DeadLetterRetention(client, Keys(), days=30, entries=1, events="events")
        await kept.tick()
    assert fenced.raw.xlen("dlq") == 1
    assert fenced.events("events") == ["dlq.dropped"]
    assert fenced.raw.ttl("checkpoint:shop:redis-cli:a") > 29 * 86_400
    assert fenced.denials() == set()


async def test_the_disk_is_promised_without_a_look_at_the_configuration(fenced: Fenced) -> None:
    async with speaking_as(fenced, "gateway") as client:
        if fenced.kind == "redis-7":  # it has no WAITAOF
            with pytest.raises(ConfigurationError, match="needs WAITAOF"):
                await check_durability(client, "aof")
        else:
            assert await check_durability(client, "aof") == "aof"
            await confirm(client, "aof", 2.0)


READ_EVENTS = "return redis.call('XRANGE', KEYS[1], '-', '+')"


@pytest.mark.parametrize(
    ("user", "command"),
    [
        (user, command)
        for user in ("gateway", "worker", "shop", "feeder", "penstock-read", "penstock-operate", "penstock-publish")
        for command in ("FLUSHALL", "CONFIG GET requirepass", "KEYS *", "ACL LIST", "MONITOR", "GET another")
    ]
    + [
        ("worker", "GET state:shop:number"),
        ("worker", "SET state:shop:number 1"),
        ("worker", "GET state:gateway:identity"),
        ("worker", "XADD alerts * type alert.triggered"),
        ("worker", "XRANGE metrics - +"),
        ("worker", "XREADGROUP GROUP shop me STREAMS events:shop:retry >"),
        ("worker", "GET topology"),
        ("shop", "XRANGE ingest - +"),
        ("shop", "XADD ingest * type t"),
        ("shop", "HGET checkpoint:worker:gateway:x step"),
        ("shop", "HGETALL job:x"),
        ("feeder", "XRANGE dlq - +"),
        ("feeder", "XADD dlq * type t"),
        ("feeder", "XRANGE events - +"),
        ("notifier", f"EVAL|{READ_EVENTS}|1|events"),
        ("metrics", "XADD ingest * type t"),
        ("metrics", "GET state:alerts:alerts"),
        ("containers", "HGETALL state:alerts:alerts"),
        ("containers", "LINSERT state:containers:list BEFORE a b"),
        ("containers", "XADD alerts * type alert.triggered"),
        ("gateway", "XADD dlq * type t"),
        ("gateway", "XACK ingest worker 1-0"),
        ("penstock-read", "XADD ingest * type t"),
        ("penstock-read", "XDEL dlq 1-0"),
        ("penstock-read", "HSET state:alerts:silences a b"),
        ("penstock-read", "GET state:gateway:identity"),
        ("penstock-read", "EVAL|return redis.call('DEL', KEYS[1])|1|ingest"),
        ("penstock-operate", "GET state:shop:number"),
        ("penstock-operate", "XACK ingest worker 1-0"),
        ("penstock-publish", "XADD events * type job.completed"),
        ("penstock-publish", "XTRIM ingest MAXLEN 0"),
        ("penstock-publish", "HSET job:x gateway completed"),
    ],
)
def test_everything_else_is_denied(shared_fence: Fenced, user: str, command: str) -> None:
    arguments = command.split("|") if "|" in command else command.split(" ")
    with shared_fence.plain(user) as client, pytest.raises(ResponseError) as denied:
        client.execute_command(*arguments)
    assert "permission" in str(denied.value) or "can't access" in str(denied.value), denied.value


def test_nobody_else_is_anybody(shared_fence: Fenced) -> None:
    with shared_fence.server.client() as default, pytest.raises(redis.AuthenticationError):
        default.ping()
    env = {**shared_fence.env("worker"), "REDIS_PASSWORD_FILE": str(shared_fence.passwords / "shop")}
    done = forks.run(["penstock", "status"], env=env, cwd=shared_fence.folder)
    assert done.returncode == 3
    assert "wrong user name or password" in done.stderr


def test_an_operator_who_reads_sees_all_and_changes_nothing(fenced: Fenced) -> None:
    raw = fenced.raw
    raw.xadd("nobodys", {"type": "t"})
    raw.xgroup_create("nobodys", "nobody", "0")
    letter = bury(raw, 1)
    for command in (
        *("status", "metrics", "job ingest-1-0", "trace 00000000000000000000000000000001", "traces", "topology check"),
        *("alerts", "alerts history", "dlq ls", f"dlq show {letter}", "dlq export", "breakers ls", "deliveries"),
        *("deliveries --failed", "silence ls"),
    ):
        done = fenced.cli("penstock-read", *command.split())
        assert done.returncode in (0, 1), (command, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
    assert fenced.denials() == set()
    raw.xadd("ingest", {"type": "t", "id": "J-1"})
    acts = (
        "emit demo.late",
        f"dlq replay {letter}",
        "breakers open crm",
        "silence add rule=x --for 1h",
        "job J-1 --cancel",
    )
    for command in acts:
        done = fenced.cli("penstock-read", *command.split())
        assert "user penstock-read may not" in done.stderr, (command, done.stderr)
        assert done.returncode == 3, (command, done.stderr)
        assert "Traceback" not in done.stderr


def test_an_operator_who_acts_does(fenced: Fenced) -> None:
    raw = fenced.raw
    first, second = bury(raw, 1), bury(raw, 2)
    raw.xadd("ingest", {"type": "t", "id": "J-1"})
    for command in (
        *("emit demo.late", "emit demo.once --key a", "emit demo.later --delay 3600", f"dlq replay {first}"),
        *(f"dlq purge {second} --yes", "breakers open crm", "breakers close crm", "silence add rule=x --for 1h"),
        "job J-1 --cancel",
    ):
        done = fenced.cli("penstock-operate", *command.split())
        assert done.returncode == 0, (command, done.stderr, done.stdout)
    assert raw.xlen("ingest") == 3
    assert raw.hlen("ingest:cancelled") == 1
    assert raw.xlen("ingest:worker:retry") == 1
    assert raw.xlen("dlq") == 1
    assert fenced.denials() == set()


async def test_a_client_submits_and_hears_what_becomes_of_it(fenced: Fenced) -> None:
    with fenced.service("worker", PENSTOCK_JOBS="tests.integration.acl_jobs:jobs"):
        async with Penstock.connect(settings=fenced.settings("penstock-publish")) as mesh:
            first = await mesh.submit("busy", idempotency_key="a")
            again = await mesh.submit("busy", idempotency_key="a")
            later = await mesh.submit("busy", delay=0.05)
            assert await first.result(timeout=20) == "done"
            assert again.id == first.id
            assert await later.result(timeout=20) == "done"
            assert (await mesh.job(first.id).status()).state == "completed"
            waits = await mesh.submit("busy", delay=3600)
            assert fenced.denials() == set()
            with pytest.raises(Unavailable, match="user penstock-publish may not"):
                await waits.cancel()
            assert (await waits.status()).state == "queued"


def test_the_users_are_set_again_to_the_same_end(fenced: Fenced) -> None:
    assert "none changed" in fenced.acl("--apply", "--passwords", str(fenced.passwords))
    assert "none changed" in fenced.acl("--apply"), "passwords that nobody gives stay"
    with fenced.plain("worker") as worker:
        fenced.raw.execute_command("ACL", "SETUSER", "worker", "+flushall")
        assert "changed: worker" in fenced.acl("--apply")
        worker.ping()  # on the same connection
        with pytest.raises(ResponseError):
            worker.flushall()
    assert "changed: shop" in fenced.acl("--apply", REDIS_PASSWORD_SHOP="another one")
    with pytest.raises(redis.AuthenticationError):
        fenced.plain("shop")


def test_what_is_printed_is_an_acl_file(fenced: Fenced, tmp_path: Path) -> None:
    printed = fenced.acl("--passwords", str(fenced.passwords))
    secrets = [(fenced.passwords / name).read_text() for name in fenced.users]
    assert not any(secret in printed for secret in secrets)
    assert {file.stat().st_mode & 0o777 for file in fenced.passwords.iterdir()} == {0o600}
    file = tmp_path / "users.acl"
    file.write_text("user default on nopass ~* &* +@all\n" + printed)
    with running_server(fenced.kind, "--aclfile", str(file)) as server, server.client() as raw:
        assert {name.decode() for name in raw.execute_command("ACL", "USERS")} == {"default", *fenced.users}
        fenced.server = server
        with fenced.plain("worker") as worker:
            assert worker.hset("state:worker:hash", "a", 1) == 1
            with pytest.raises(ResponseError):
                worker.get("state:shop:number")


def test_a_user_without_a_password_is_not_set(server: Server, tmp_path: Path) -> None:
    cli = Cli(server.url, tmp_path)
    done = cli("topology", "acl", "--apply")
    assert done.returncode == 2
    assert "worker (REDIS_PASSWORD_WORKER)" in done.stderr
    with server.client() as raw:
        assert [line.split()[1] for line in raw.execute_command("ACL", "LIST")] == [b"default"]
