"""examples/fastapi_shop in a real uvicorn with two workers: one is killed, and Redis is away for ten seconds."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Browser, running_chromium, tab
from tests.hands import fields_of
from tests.processes import ROOT, eventually, service_process
from tests.servers import Server
from tests.uvicorns import Answer, Site, serving

FOLDER = ROOT / "examples/fastapi_shop"
AWAY = 10.0  # seconds
KEY = {"X-Operations-Key": "secret"}


@pytest.fixture
def site(own_server: Server, tmp_path: Path) -> Iterator[Site]:
    env = {"REDIS_URL": own_server.url}
    web = {**env, "SHOP_OPERATIONS_KEY": "secret"}
    with (
        service_process("-m", "penstock", "run", "shop:service", cwd=FOLDER, env=env),
        serving("web:app", FOLDER, tmp_path / "log", "--workers", "2", **web) as site,
    ):
        yield site


def workers(site: Site) -> list[int]:
    """Return every worker that was ever started, in that order."""
    return [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", site.log.read_text())]


def buy(site: Site, number: int) -> Answer:
    """Order until it is answered that Redis has it, as the page does."""
    while True:
        answer = site.post("/orders", {"order_id": f"A-{number}", "total": number})
        if answer.status not in (0, 503):
            return answer


def wait(site: Site, job: str) -> Any:
    """Wait for the end of an order, as the page does."""
    while True:
        answer = site.get(f"/orders/{job}?wait=20")
        if answer.status == 200 and answer.json["state"] in ("completed", "dead"):
            return answer.json


def test_an_order_is_taken_and_its_receipt_shown(site: Site, own_server: Server) -> None:
    good, bad = buy(site, 30), buy(site, 0)
    assert (good.status, good.json["state"]) == (202, "queued")
    assert wait(site, good.json["job"])["result"] == {"order_id": "A-30", "charged": 30.0}
    refused = wait(site, bad.json["job"])
    assert (refused["state"], refused["error"]) == ("dead", "there is nothing to pay")
    assert b"<form>" in site.get("/").body
    assert site.post("/orders", {"order_id": 7}).status == 422

    assert site.get("/api/v1/orchestrator/status").status == 403
    status = site.get("/api/v1/orchestrator/status", **KEY).json
    assert status["services"] == [{"name": "shop", "alive": True, "processes": 1}]
    with own_server.client() as raw:
        assert {entry["source"] for entry in fields_of(raw, "orders")} == {"shop-web"}


@contextlib.asynccontextmanager
async def page(site: Site, folder: Path) -> AsyncIterator[Browser]:
    """Open the shop in a browser."""
    with running_chromium(folder) as port:
        async with tab(port) as browser:
            await browser.open(f"http://127.0.0.1:{site.port}/")
            await browser.until("document.querySelector('button')")
            yield browser


async def order(browser: Browser, total: int) -> None:
    await browser.run(f"document.querySelector('input').value = {total}, document.querySelector('button').click()")


async def shown(browser: Browser, text: str) -> None:
    await browser.until(f"document.querySelector('#orders').innerText.includes('{text}')")


async def test_the_page_shows_the_progress_of_an_order(site: Site, tmp_path: Path) -> None:
    async with page(site, tmp_path) as browser:
        for total in (30, 0):
            await order(browser, total)
        await shown(browser, "30: completed")
        await shown(browser, "0: dead there is nothing to pay")
        asked = [url for url in browser.requests if "/orders/" in url or "/live/" in url]

    assert len(asked) == 2  # one stream for each order, and nothing is asked again and again
    assert all(url.endswith("/events") for url in asked)


async def test_the_page_goes_on_at_another_worker_when_all_that_there_were_are_killed(
    own_server: Server, tmp_path: Path
) -> None:
    web = serving("web:app", FOLDER, tmp_path / "log", "--workers", "2", REDIS_URL=own_server.url)
    with web as site:
        async with page(site, tmp_path) as browser:
            await order(browser, 30)
            await shown(browser, "30: queued")
            eventually(lambda: len(workers(site)) == 2, what="two workers have started")
            for worker in workers(site):
                os.kill(worker, signal.SIGKILL)
            with service_process(
                "-m", "penstock", "run", "shop:service", cwd=FOLDER, env={"REDIS_URL": own_server.url}
            ):
                await shown(browser, "30: completed")


def test_a_worker_is_killed_and_no_order_is_lost_or_doubled(site: Site, own_server: Server) -> None:
    eventually(lambda: len(workers(site)) == 2, what="two workers have started")

    def buy_amid(number: int) -> str:
        if number == 30:
            os.kill(workers(site)[0], signal.SIGKILL)
        job: str = buy(site, number).json["job"]
        return job

    with ThreadPoolExecutor(8) as threads:
        jobs = list(threads.map(buy_amid, range(1, 101)))
        results = list(threads.map(lambda job: wait(site, job)["result"], jobs))

    assert [result["charged"] for result in results] == list(range(1, 101))
    with own_server.client() as raw:
        assert sorted(entry["subject"] for entry in fields_of(raw, "orders")) == sorted(f"A-{n}" for n in range(1, 101))
    eventually(lambda: len(workers(site)) == 3, what="uvicorn has started another", deadline=40)


def test_ten_seconds_without_redis_are_survived(site: Site, own_server: Server) -> None:
    assert buy(site, 1).status == 202
    own_server.kill()
    until = time.monotonic() + AWAY
    while time.monotonic() < until:
        answer = site.post("/orders", {"order_id": "A-2", "total": 2})
        assert (answer.status, answer.headers["retry-after"]) == (503, "2")
        assert answer.headers["content-type"] == "application/problem+json"
        assert site.get("/").status == 200
    with ThreadPoolExecutor(1) as threads:
        bought = threads.submit(buy, site, 2)
        own_server.restart()
        assert wait(site, bought.result(60).json["job"])["result"] == {"order_id": "A-2", "charged": 2.0}

    assert len(workers(site)) == 2  # nothing had to be started anew
    with own_server.client() as raw:
        assert [entry["subject"] for entry in fields_of(raw, "orders")] == ["A-1", "A-2"]


async def test_it_runs_without_redis_and_says_so_in_each_answer(tmp_path: Path) -> None:
    with serving("web:app", FOLDER, tmp_path / "log", PENSTOCK_BACKEND="memory") as site:
        placed = buy(site, 30).json
        assert (placed["state"], placed["durability"]) == ("queued", "process")
        assert wait(site, placed["job"])["result"] == {"order_id": "A-30", "charged": 30.0}
        async with page(site, tmp_path) as browser:
            await order(browser, 31)
            await shown(browser, "31: completed")  # there is no stream in memory: it asks
    assert "this process is the whole mesh (PENSTOCK_BACKEND=memory)" in site.log.read_text()
