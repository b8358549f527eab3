"""The client of programs without an event loop: from many threads, through forks, and at the end of a program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from penstock import ConfigurationError, JobDead, NewJob, Unavailable
from penstock.sync import Penstock
from penstock.topology import parse
from tests.hands import Raw
from tests.otlp import otlp_receiver
from tests.processes import DEADLINE, eventually, service_process
from tests.servers import Server

MESH = """
streams: {orders: {kind: work}, events: {}}
services:
  shop: {consumes: {orders: {retry: {attempts: 1}}}}
"""
SHOP = """
from typing import Any
from penstock import Reject, Service

service = Service("shop")


@service.on("orders", type="order.placed")
async def place(order: dict[str, int]) -> dict[str, int]:
    if order["price"] < 0:
        raise Reject("no such price")
    return {"paid": order["price"]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "streams.yaml").write_text(MESH)
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


@pytest.fixture
def shop(server: Server, folder: Path) -> Iterator[None]:
    """Run the service that does the jobs, as a process of its own."""
    with service_process("-m", "penstock", "run", "shop:service", cwd=folder, env={"REDIS_URL": server.url}):
        yield


@pytest.fixture
def mesh(server: Server) -> Iterator[Penstock]:
    with Penstock.connect(server.url, topology=parse(MESH), source="web") as mesh:
        yield mesh


def script(folder: Path, server: Server, text: str, **env: str) -> str:
    """Run a program of a user's; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(text)],
        cwd=folder,
        env={**os.environ, "REDIS_URL": server.url, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.usefixtures("shop")
def test_a_job_is_submitted_awaited_and_watched(mesh: Penstock) -> None:
    job = mesh.submit("order.placed", {"price": 7}, subject="o-1")

    assert job.result(DEADLINE) == {"paid": 7}
    assert job.result(DEADLINE, type=dict[str, float]) == {"paid": 7.0}
    assert [change.state for change in mesh.job(job.id).watch()] == ["completed"]
    assert job.status().attempts == 1
    with pytest.raises(JobDead, match="no such price"):
        mesh.submit("order.placed", {"price": -1}).result(DEADLINE)


@pytest.mark.usefixtures("shop")
def test_many_threads_share_one_client(mesh: Penstock) -> None:
    def buy(price: int) -> Any:
        return mesh.submit("order.placed", {"price": price}).result(DEADLINE)["paid"]

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(buy, range(400))) == list(range(400))
    many = mesh.submit_all(NewJob("order.placed", {"price": price}) for price in range(400))
    assert [job.result(DEADLINE)["paid"] for job in many] == list(range(400))
    assert [thread.name for thread in threading.enumerate()].count("penstock-client") == 1


def test_facts_are_published_once_under_a_key(mesh: Penstock, raw: Raw) -> None:
    ids = {mesh.publish("events", "order.seen", {"a": 1}, idempotency_key="k") for _ in range(3)}

    assert len(ids) == raw.xlen("events") == 1


@pytest.mark.usefixtures("shop")
def test_a_child_of_a_fork_has_a_client_of_its_own(server: Server, folder: Path, raw: Raw) -> None:
    said = script(
        folder,
        server,
        """
        import os, sys
        from penstock.sync import Penstock

        mesh = Penstock.connect(source="web")
        before = mesh.submit("order.placed", {"price": 1})  # it is open, as under gunicorn --preload
        assert before.result(30) == {"paid": 1}
        children = []
        for number in range(3):
            pid = os.fork()
            if not pid:
                job = mesh.submit("order.placed", {"price": 10 + number})
                ok = job.result(30) == {"paid": 10 + number} and before.result(30) == {"paid": 1}
                mesh.close()
                os._exit(0 if ok else 1)
            children.append(pid)
        after = mesh.submit("order.placed", {"price": 2})
        assert after.result(30) == {"paid": 2}
        print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
        """,
    )

    assert said.strip() == "[0, 0, 0]"
    prices = sorted(json.loads(fields[b"data"])["price"] for _, fields in raw.xrange("orders"))
    assert prices == [1, 2, 10, 11, 12]


def test_a_program_ends_in_order_while_threads_publish(server: Server, folder: Path, raw: Raw) -> None:
    script(
        folder,
        server,
        """
        import threading
        from penstock import NewJob
        from penstock.sync import Penstock

        mesh = Penstock.connect()
        mesh.submit("order.placed", {"price": 0})
        begun = threading.Event()

        def publish():
            begun.set()
            mesh.submit_all(NewJob("order.placed", {"price": n}) for n in range(1, 2000))

        threading.Thread(target=publish, daemon=True).start()
        begun.wait()
        mesh.submit("order.placed", {"price": 2000})
        """,
    )

    assert raw.xlen("orders") in (2, 2001)  # it had begun, or had not


def test_the_tracing_of_the_program_it_is_in_stays_the_programs_own(server: Server, folder: Path, raw: Raw) -> None:
    with otlp_receiver() as receiver:
        said = script(
            folder,
            server,
            """
            import asyncio
            from opentelemetry import trace
            from opentelemetry.sdk.trace import TracerProvider
            from penstock import Penstock

            async def main():
                async with Penstock.connect():
                    mine = TracerProvider()
                    trace.set_tracer_provider(mine)
                    assert trace.get_tracer_provider() is mine
                with trace.get_tracer("mine").start_as_current_span("request") as request:
                    async with Penstock.connect() as mesh:
                        assert trace.get_current_span() is request
                        await mesh.submit("order.placed", {"price": 7})
                print(f"{request.get_span_context().trace_id:032x}")

            asyncio.run(main())
            """,
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        )
        eventually(lambda: [span.name for span in receiver.spans] == ["send orders"], what="ours is sent all the same")

    ((_, fields),) = raw.xrange("orders")
    assert fields[b"traceparent"].decode().split("-")[1] == said.strip()


def test_a_mistake_is_told_where_it_is_made(mesh: Penstock, server: Server) -> None:
    with pytest.raises(ConfigurationError, match="no stream ordres"):
        mesh.submit("order.placed", stream="ordres")
    with pytest.raises(ConfigurationError, match="REDIS_URL"):
        Penstock.connect("http://nowhere")


def test_while_redis_is_away_nothing_is_accepted_and_then_it_goes_on(own_server: Server) -> None:
    with Penstock.connect(own_server.url, topology=parse(MESH)) as mesh:
        mesh.submit("order.placed", {"price": 1})
        own_server.kill()
        with pytest.raises(Unavailable):
            mesh.submit("order.placed", {"price": 2})
        own_server.restart()
        mesh.submit("order.placed", {"price": 3})
        assert own_server.client().xlen("orders") == 2


def test_a_closed_client_opens_again(mesh: Penstock, raw: Raw) -> None:
    mesh.submit("order.placed", {"price": 1})
    mesh.close()
    eventually(lambda: not [one for one in raw.client_list() if one["name"] == "penstock-client-web"])
    mesh.close()
    mesh.submit("order.placed", {"price": 2})

    assert raw.xlen("orders") == 2
