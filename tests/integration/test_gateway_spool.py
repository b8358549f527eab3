"""The gateway with a spool: Redis away under load, the gateway killed, the disk full, a delivery at two replicas."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from tests.gateways import JSON, Gateway, running_gateway
from tests.hands import Raw, fields_of
from tests.processes import eventually, service_process
from tests.servers import Server
from tests.spools import aside, segment_files

EVENT = {"type": "t"}
LOAD = 4  # senders at once
OUTAGE = 10.0  # seconds


def spooling_gateway(server: Server, folder: Path, **env: str) -> contextlib.AbstractContextManager[Gateway]:
    given = {"PENSTOCK_SPOOL_DIR": str(folder / "spool"), "PENSTOCK_SPOOL_MIN_FREE": "0", **env}
    return running_gateway(server, folder, **given)


class Senders:
    """Send numbered events one by one, each sender on a connection of its own, for as long as it is there."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        self.accepted: dict[str, list[int]] = {f"{name}{number}": [] for number in range(LOAD)}
        self.spooled = 0
        self.refused: Counter[int] = Counter()
        self.enough = threading.Event()
        self._gateway = gateway

    def send(self, name: str) -> None:
        number = 0
        with contextlib.closing(HTTPConnection("127.0.0.1", self._gateway.port, timeout=20)) as connection:
            while not self.enough.is_set():
                body = json.dumps({"type": "t", "data": {"from": name, "number": number}})
                try:
                    connection.request("POST", "/v1/events", body, JSON)
                    answer = connection.getresponse()
                    told = json.loads(answer.read())
                except (OSError, HTTPException):  # it was killed
                    return
                if answer.status == 202:
                    self.accepted[name].append(number)
                    self.spooled += told.get("durability") == "spooled"
                else:
                    self.refused[answer.status] += 1
                number += 1

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        with ThreadPoolExecutor(LOAD) as threads:
            try:
                ends = [threads.submit(self.send, name) for name in self.accepted]
                yield
            finally:
                self.enough.set()
            for end in ends:
                end.result()


def published(raw: Raw) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for fields in fields_of(raw, "ingest"):
        data = json.loads(fields["data"])
        found.setdefault(data["from"], []).append(data["number"])
    return found


def drained(gateway: Gateway) -> bool:
    answer = gateway.get("/readyz")
    return answer.status == 200 and answer.json["status"] == "ready"


def test_ten_seconds_without_redis_under_load_lose_double_and_reorder_nothing(
    own_server: Server, tmp_path: Path
) -> None:
    with spooling_gateway(own_server, tmp_path) as gateway:
        senders = Senders(gateway, "s")
        with senders.sending():
            eventually(lambda: all(senders.accepted.values()))
            own_server.kill()
            eventually(lambda: senders.spooled > 100)
            since = time.monotonic()
            eventually(lambda: time.monotonic() - since > OUTAGE, what="it has been away for long enough")
            own_server.start()
            eventually(lambda: drained(gateway))
            before = {name: len(numbers) for name, numbers in senders.accepted.items()}
            eventually(lambda: all(len(numbers) > before[name] for name, numbers in senders.accepted.items()))
        eventually(lambda: drained(gateway))
        assert not senders.refused
        with own_server.client() as raw:
            assert published(raw) == senders.accepted, "each once, and in the order in which it was sent"
        assert segment_files(tmp_path / "spool") == []


def test_a_gateway_killed_while_redis_is_away_loses_and_doubles_nothing_and_its_successor_needs_no_redis(
    own_server: Server, tmp_path: Path
) -> None:
    with spooling_gateway(own_server, tmp_path) as gateway:
        first = Senders(gateway, "first")
        with first.sending():
            eventually(lambda: all(first.accepted.values()))
            own_server.kill()
            eventually(lambda: first.spooled > 100)
            gateway.process.kill()
    with spooling_gateway(own_server, tmp_path) as gateway:
        assert gateway.get("/readyz").json["status"] == "degraded"
        second = Senders(gateway, "second")
        with second.sending():
            eventually(lambda: second.spooled > 100)
            own_server.start()
            eventually(lambda: drained(gateway))
        eventually(lambda: drained(gateway))
        with own_server.client() as raw:
            found = published(raw)
        assert not second.refused
        assert {name: found[name] for name in second.accepted} == second.accepted
        for name, accepted in first.accepted.items():
            # The last one may have been kept when its sender was cut off.
            assert found[name] in (accepted, [*accepted, len(accepted)])
        places = [json.loads(fields["data"])["from"] for fields in fields_of(raw, "ingest")]
        assert max(places.index(name) for name in first.accepted) < min(map(places.index, second.accepted))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(folder)]
    if os.geteuid() or subprocess.run(command, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_503_and_keeps_what_was_accepted(own_server: Server, tmp_path: Path, small_disk: Path) -> None:
    with spooling_gateway(own_server, tmp_path, PENSTOCK_SPOOL_DIR=str(small_disk)) as gateway:
        own_server.stop()
        accepted = 0
        big = {"type": "t", "data": "x" * 50_000}
        while (answer := gateway.post(big)).status == 202:
            assert answer.json["durability"] == "spooled"
            accepted += 1
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert "no room on the disk" in answer.detail
        assert gateway.post(EVENT).status in (202, 503), "what is smaller may still fit"
        own_server.start()
        eventually(lambda: drained(gateway))
        assert gateway.post(big).status == 202
        with own_server.client() as raw:
            lengths = [len(fields["data"]) for fields in fields_of(raw, "ingest")]
        assert lengths.count(50_002) == accepted + 1
        assert accepted > 20
        assert aside(small_disk) == []


def test_a_full_spool_is_503_and_not_ready(own_server: Server, tmp_path: Path) -> None:
    with spooling_gateway(own_server, tmp_path, PENSTOCK_SPOOL_MAX_BYTES="1") as gateway:
        own_server.stop()
        answer = gateway.post(EVENT)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
        assert "PENSTOCK_SPOOL_MAX_BYTES" in answer.detail
        eventually(lambda: gateway.get("/readyz").status == 503)
        own_server.start()
        eventually(gateway.ready)
        assert gateway.post(EVENT).json.get("durability") is None


def test_one_delivery_that_two_replicas_spooled_is_one_job(own_server: Server, tmp_path: Path) -> None:
    key = {"Idempotency-Key": "delivery-1"}
    with spooling_gateway(own_server, tmp_path) as one, spooling_gateway(own_server, tmp_path) as other:
        own_server.stop()
        answers = [gateway.post({**EVENT, "id": "E"}, key) for gateway in (one, other, one)]
        assert [answer.status for answer in answers] == [202] * 3
        assert {answer.json["durability"] for answer in answers} == {"spooled"}
        own_server.start()
        eventually(lambda: drained(one) and drained(other))
        late = one.post({**EVENT, "id": "E"}, key)
        with own_server.client() as raw:
            (entry,) = fields_of(raw, "ingest")
    assert late.json["duplicate"]
    assert {answer.json["job_id"] for answer in [*answers, late]} == {entry["id"]}


def test_a_frozen_redis_is_spooled_and_what_it_had_taken_is_not_doubled(own_server: Server, tmp_path: Path) -> None:
    with spooling_gateway(own_server, tmp_path) as gateway:
        assert own_server.process is not None
        own_server.process.send_signal(signal.SIGSTOP)
        answers = [gateway.post({**EVENT, "data": number}) for number in range(3)]
        own_server.process.send_signal(signal.SIGCONT)
        eventually(lambda: drained(gateway))
        with own_server.client() as raw:
            assert [fields["data"] for fields in fields_of(raw, "ingest")] == ["0", "1", "2"]
    assert {answer.json["durability"] for answer in answers} == {"spooled"}


def test_what_waits_is_told_by_readyz_and_metrics(own_server: Server, tmp_path: Path) -> None:
    with spooling_gateway(own_server, tmp_path) as gateway:
        assert "penstock_spool_events 0\n" in gateway.get("/metrics").body.decode()
        own_server.stop()
        assert gateway.post([EVENT, EVENT]).json["jobs"][1]["durability"] == "spooled"
        degraded = {"status": "degraded", "why": "2 events wait in the spool: cannot connect"}
        eventually(lambda: gateway.get("/readyz").json == degraded)
        shown = gateway.get("/metrics").body.decode()
        assert "penstock_spool_events 2\n" in shown
        assert "penstock_spool_kept_events_total 2\n" in shown
        own_server.start()
        eventually(lambda: drained(gateway))
        eventually(lambda: b"penstock_spool_replayed_events_total 2\n" in gateway.get("/metrics").body)


def test_a_gateway_that_has_never_seen_its_redis_takes_what_needs_no_secret_of_it(
    own_server: Server, tmp_path: Path
) -> None:
    own_server.stop()
    with spooling_gateway(own_server, tmp_path) as gateway:
        assert gateway.post(EVENT).json["durability"] == "spooled"
        for event, headers in (({**EVENT, "id": "E"}, {}), (EVENT, {"Idempotency-Key": "k"})):
            refused = gateway.post(event, headers)
            assert refused.status == 503, "the id that it would get is not known"
            assert refused.headers["Retry-After"]
        own_server.start()
        eventually(lambda: drained(gateway))
        assert gateway.post({**EVENT, "id": "E"}).status == 202
        with own_server.client() as raw:
            assert raw.xlen("ingest") == 2
            assert raw.exists("topology"), "it has introduced itself meanwhile"


def test_a_gateway_stops_in_order_while_redis_is_away(own_server: Server, tmp_path: Path) -> None:
    with spooling_gateway(own_server, tmp_path) as gateway:
        own_server.stop()
        assert gateway.post(EVENT).json["durability"] == "spooled"
        gateway.process.terminate()
        assert gateway.process.wait(20) == 0
    own_server.start()
    with spooling_gateway(own_server, tmp_path) as gateway:
        eventually(lambda: drained(gateway))
        with own_server.client() as raw:
            assert raw.xlen("ingest") == 1


def test_a_folder_that_cannot_be_used_is_a_sentence_that_names_the_variable(server: Server, tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("no folder")
    log = tmp_path / "log"
    env = {"REDIS_URL": server.url, "PENSTOCK_SPOOL_DIR": str(tmp_path / "spool")}
    with service_process("-m", "penstock_services.gateway", env=env, log=log) as process:
        assert process.wait(20) == 2
    assert "PENSTOCK_SPOOL_DIR: " in log.read_text()
    assert "Traceback" not in log.read_text()
