"""Every script is handed every key that it touches: on a cluster the server asks for no less.

The mesh is worked while MONITOR shows what each script did; the server itself says which arguments are keys.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.exceptions import ResponseError

from penstock.dlq.queue import DeadLetters
from penstock.event import encode
from penstock.jobs.cancel import Canceller
from penstock.jobs.find import find_job
from penstock.jobs.record import Job
from penstock.keys import Keys
from penstock.live.connection import Connection
from penstock.live.registry import Connections, Registry
from penstock.mesh.state import mesh_state
from penstock.redis.scripts import Script
from penstock.resilience.breaker import BreakerPolicy, Breakers
from penstock.streams.election import Lease
from penstock.streams.groups import Groups
from penstock.streams.position import position
from penstock.streams.publish import Deduplication, Publisher
from penstock.streams.renaming import FormerGroup, sources_of
from penstock.streams.retention import Retention
from penstock.topology import OLDEST, load
from penstock.traces.scan import Scanner
from penstock_services.notifier.channels import Receipt, Slack
from penstock_services.notifier.delivery.notification_log import NotificationLog
from tests.alerts import ALERT, make_notification
from tests.hands import Raw, connected
from tests.mesh import eventually as until
from tests.processes import ROOT, eventually, service_process
from tests.servers import Server
from tests.spools import spooling

SCRIPTS = {
    hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest(): str(path.relative_to(ROOT))
    for folder in ("libs", "services")
    for path in (ROOT / folder).rglob("*.lua")
}
_ARGUMENT = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_END = "the end of what is watched"
KEYS = Keys()


class Watched(msgspec.Struct):
    """What one script did: keys it touched without having been handed them, its commands, and how it was called."""

    undeclared: set[str] = msgspec.field(default_factory=set)
    commands: set[str] = msgspec.field(default_factory=set)
    calls: set[str] = msgspec.field(default_factory=set)


@contextmanager
def watching(raw: Raw) -> Iterator[dict[str, Watched]]:
    """Yield what will hold, once the context is over, what each script did in it."""
    found: dict[str, Watched] = defaultdict(Watched)
    with raw.monitor() as monitor:
        yield found
        raw.echo(_END)
        lines = []
        while _END.encode() not in (line := monitor.connection.read_response()):
            lines.append(line)
    script, declared = Watched(), set[str]()
    for line in lines:
        sender, _, rest = line.partition(b"] ")
        arguments = [codecs.escape_decode(part)[0] for part in _ARGUMENT.findall(rest)]
        command = arguments[0].decode().upper()
        if command.startswith("EVAL"):
            text = arguments[1]
            digest = text.decode() if command.startswith("EVALSHA") else hashlib.sha1(text).hexdigest()
            script, declared = found[SCRIPTS[digest]], {key.decode() for key in arguments[3 : 3 + int(arguments[2])]}
            script.calls.add(command)
        elif sender.endswith(b" lua"):
            script.commands.add(command)
            script.undeclared |= keys_of(raw, arguments) - declared


def keys_of(raw: Raw, arguments: list[bytes]) -> set[str]:
    """Return what the server takes for keys in a command."""
    if len(arguments) == 1:
        return set()
    try:
        return {
            key if isinstance(key, str) else key.decode() for key in raw.execute_command("COMMAND GETKEYS", *arguments)
        }
    except ResponseError as error:
        if "no key arguments" in str(error):
            return set()
        raise


async def work_the_core(server: Server, raw: Raw) -> None:
    raw.config_resetstat()
    env = {"REDIS_URL": server.url, "PENSTOCK_JOBS": "tests.integration.script_jobs:jobs"}
    env["PENSTOCK_DRAIN_TIMEOUT"] = "0.1"
    with service_process("-m", "penstock_services.worker", env=env) as process:
        for kind in ("busy", "hopeless", "unknown", "endless"):
            raw.xadd("ingest", {"type": kind})
        eventually(lambda: raw.exists("dlq") and raw.xlen("dlq") == 2)
        eventually(lambda: b"busy.later" in [fields[b"type"] for _, fields in raw.xrange("events")])
        eventually(lambda: "cmdstat_xclaim" in raw.info("commandstats"), what="a heartbeat for what is in flight")
        process.terminate()
        assert process.wait(20) == 0


async def look(client: Any, raw: Raw) -> None:
    topology = load(ROOT / "streams.yaml")
    await position(client, KEYS, "ingest", "worker")
    raw.xadd("ingest", {"type": "t", "id": "settled"})
    raw.xreadgroup("worker", "me", {"ingest": ">"}, noack=True)
    assert (await find_job(client, KEYS, topology, "settled")) == Job(state="settled", type="t")
    assert await find_job(client, KEYS, topology, "nobody's") is None
    raw.xadd("ingest", {"type": "t", "id": "waits"})
    fields = msgspec.msgpack.encode(encode("t", "1", event_id="later", source="me"))
    raw.zadd("ingest:scheduled", {fields: (time.time() + 3600) * 1000})
    for job_id in ("waits", "later"):
        await Canceller(client, KEYS, topology, ttl=60).cancel(job_id)
    raw.xdel("ingest", raw.xadd("ingest", {"type": "gone"}))  # from here on the server does not know the lag
    await mesh_state(client, KEYS, topology)
    await Scanner(client, KEYS, topology).scan(10)
    await Retention(client, KEYS, topology, ["ingest"]).trim("ingest")
    letters = DeadLetters(client, KEYS)
    async for letter in letters.newest():
        await letters.replay(letter)


async def trip(client: Any) -> None:
    seconds = itertools.count(step=1_000)
    policy = BreakerPolicy(failure_threshold=1, half_open_max_calls=1)
    breakers = Breakers(
        client, KEYS, service="me", policies=lambda _: policy, events="events", clock=lambda: float(next(seconds))
    )
    for _ in range(2):
        with pytest.raises(ConnectionError):
            async with breakers.guard("crm"):
                raise ConnectionError
        await breakers.look()
    async with breakers.guard("crm"):
        pass


async def publish(client: Any, folder: Path) -> None:
    for spool in (None, spooling(folder)):
        async with Publisher(client, KEYS, spooling=spool) as publisher:
            for _ in range(2):
                await publisher.publish("ingest", encode("t", "1"), dedupe=[Deduplication("event", "one")])


async def notify(client: Any) -> None:
    channel = Slack(url="https://hooks.slack.com/services/x")
    log = NotificationLog(client, lambda name: KEYS.state("notifier", name), make_notification(ALERT), channel)
    for event_id in ("a", "b"):
        await log.admit(event_id, "firing")
        await log.release(event_id, 0.01)
    await log.confirm("b", Receipt(pause=0.01))


async def lease(client: Any) -> None:
    chore = Lease(client, KEYS, "chore", lifetime=10)
    assert await chore.held()
    await chore.release()


async def connect(client: Any, raw: Raw) -> None:
    registry = Registry(client, KEYS, name="connections")
    connection = Connection()
    registry.add(connection)
    connections = Connections(client, KEYS, name="connections")
    await until(lambda: raw.zcard(KEYS.connections("connections")), what="they are known")
    assert connection.id is not None
    assert await connections.tell(connection.id, "hello")
    await registry.stop()


async def rename(client: Any, raw: Raw) -> None:
    raw.xgroup_create("moving", "old", "0", mkstream=True)
    raw.xadd("moving:old:retry", {"type": "t"})
    raw.zadd("moving:old:delayed", {"x": 1})
    former = FormerGroup(client, KEYS, group="new", former="old", consumer="me")
    starts = {"moving": OLDEST}
    sources = sources_of(KEYS, "new", ["moving"])
    await Groups(client, KEYS, group="new", sources=sources, starts=starts, former=former).make()


async def call(client: Any, raw: Raw) -> None:
    """Call by hand those whose callers need much around them."""
    raw.rpush("failed", "one")
    await Script("penstock.mesh", "resend")(client, ["failed", "notifications"], ["one", "type", "t"])
    fan_out = Script("penstock_services.notifier.delivery", "fanout")
    for episode, first in (("first", 1), ("second", 0)):
        await fan_out(client, ["record"], [episode, "firing", episode, "", "{}", 60_000, first, "slack"])


async def test_every_script_is_handed_the_keys_that_it_touches(server: Server, raw: Raw, tmp_path: Path) -> None:
    with watching(raw) as found:
        await work_the_core(server, raw)
        async with connected(server) as client:
            await look(client, raw)
            await trip(client)
            await publish(client, tmp_path)
            await notify(client)
            await lease(client)
            await connect(client, raw)
            await call(client, raw)
            await rename(client, raw)

    assert set(found) == set(SCRIPTS.values()), "a script that nothing here has run: add it"
    assert {name: seen.undeclared for name, seen in found.items() if seen.undeclared} == {}


async def test_scripts_that_only_read_are_called_as_such(server: Server, raw: Raw) -> None:
    raw.xgroup_create("ingest", "worker", "0", mkstream=True)
    raw.xadd("ingest", {"type": "t"})
    with watching(raw) as found:
        async with connected(server) as client:
            await look(client, raw)

    writes = {name: {one for one in seen.commands if "write" in flags(raw, one)} for name, seen in found.items()}
    read_only = {name for name, seen in found.items() if all(call.endswith("_RO") for call in seen.calls)}
    assert read_only
    assert {name for name in read_only if writes[name]} == set()
    assert {name for name, ours in writes.items() if not ours} - read_only == set()


def flags(raw: Raw, command: str) -> list[str]:
    ((_, _, known, *_),) = raw.execute_command("COMMAND INFO", command.lower())
    return [flag.decode() for flag in known]
