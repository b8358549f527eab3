"""The gateway's /traces, in Chromium and over plain HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.browser import Browser, running_chromium, tab
from tests.gateways import Gateway, running_gateway
from tests.processes import eventually
from tests.servers import Server
from tests.tracing import TOPOLOGY, shipping, worker

HOSTILE = '<img src=x onerror="window.pwned=1">\'\u202e&amp;'


@pytest.fixture
def gateway(server: Server, tmp_path: Path) -> Iterator[Gateway]:
    with running_gateway(server, tmp_path, PENSTOCK_TOPOLOGY=str(TOPOLOGY)) as running:
        yield running


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with running_chromium(tmp_path_factory.mktemp("chromium")) as port:
        yield port


@pytest_asyncio.fixture
async def browser(chromium: int, gateway: Gateway) -> AsyncIterator[Browser]:
    """A tab; whatever is opened in it must ask for nothing but the gateway, and break no policy."""
    async with tab(chromium) as opened:
        yield opened
        assert opened.complaints == []
        asked = {url for url in opened.requests if not url.startswith(("data:", f"http://127.0.0.1:{gateway.port}/"))}
        assert asked == set()


def address(gateway: Gateway, path: str = "") -> str:
    return f"http://127.0.0.1:{gateway.port}/traces{path}"


def publish(raw: Any, event_type: str, stream: str = "ingest", **fields: str) -> str:
    """Publish an event as redis-cli does; return its id."""
    entry: bytes = raw.xadd(stream, {"type": event_type, "data": "{}", **fields})
    return fields.get("id", f"{stream}-{entry.decode()}")


def wait_for(gateway: Gateway, event_id: str, state: str) -> None:
    """Wait until the trace of an event is in `state`."""
    eventually(lambda: state in gateway.get(f"/v1/traces/{event_id}").json.get("state", ""), every=0.05)


async def rows(browser: Browser) -> list[str]:
    """Return the text of each row of the table that is shown."""
    found: list[str] = await browser.run("[...document.querySelectorAll('tbody tr')].map(row => row.innerText)")
    return [" ".join(row.split()) for row in found]


async def bars(browser: Browser, row: int) -> list[tuple[str, float, float]]:
    """Return what is drawn in a row: kind, left edge and width, as shares of the time axis."""
    found = await browser.run(
        f"[...document.querySelectorAll('tbody tr')[{row}].querySelectorAll('.lane i')].map(bar => {{"
        " const lane = bar.parentElement.getBoundingClientRect(), box = bar.getBoundingClientRect();"
        " return [bar.className, (box.left - lane.left) / lane.width, box.width / lane.width]; })"
    )
    return [(kind, left, width) for kind, left, width in found]


async def test_an_id_of_two_sources_asks_whose_is_meant(browser: Browser, gateway: Gateway, raw: Any) -> None:
    for source in ("shop-a", "shop-b"):
        publish(raw, f"order.of.{source}", id="o-1", source=source)

    refused = gateway.get("/v1/traces/o-1")
    assert refused.status == 409
    assert "shop-a, shop-b; say which one is meant with ?source=" in refused.json["detail"]
    [event] = gateway.get("/v1/traces/o-1?source=shop-b").json["events"]
    assert event["source"] == "shop-b"
    await browser.open(address(gateway, "/o-1?source=shop-a"))
    await browser.until("document.title === 'order.of.shop-a queued · Penstock'")


async def test_the_list_shows_the_newest_first_and_keeps_itself_up_to_date(
    browser: Browser, gateway: Gateway, raw: Any
) -> None:
    await browser.open(address(gateway))
    await browser.until("document.body?.innerText.includes('No traces yet')")
    publish(raw, "order.placed")
    await browser.until("document.querySelectorAll('tbody tr').length === 1")
    publish(raw, "nobody.knows")
    await browser.until("document.querySelectorAll('tbody tr').length === 2")

    newest, oldest = await rows(browser)
    assert re.search(r"^[\d:]{8} nobody\.knows … queued [\d.]+ (ms|s) 1 0 [0-9a-f]{16}…$", newest)
    assert "order.placed" in oldest
    assert await browser.run("document.title") == "Traces · Penstock"


async def test_a_list_that_is_paused_stays_as_it_is(browser: Browser, gateway: Gateway, raw: Any) -> None:
    publish(raw, "order.placed")
    await browser.open(address(gateway))
    await browser.until("document.querySelectorAll('tbody tr').length === 1")
    await browser.run("document.getElementById('pause').click()")
    await browser.until("document.body.innerText.includes('Paused')")
    before = len(browser.requests)
    publish(raw, "nobody.knows")
    await browser.run("new Promise(resume => setTimeout(resume, 2500))")  # longer than it waits between two looks
    assert (len(browser.requests), len(await rows(browser))) == (before, 1)

    await browser.run("document.getElementById('pause').click()")
    await browser.until("document.querySelectorAll('tbody tr').length === 2")


async def test_the_waterfall_shows_attempts_with_outcome_reason_and_time(
    browser: Browser, gateway: Gateway, server: Server, raw: Any
) -> None:
    with worker(server), shipping(server):
        wait_for(gateway, publish(raw, "order.placed", data='{"order": 1}'), "completed")  # they are up
        event_id = publish(raw, "card.charged", data='{"seconds": 0.1}', subject="customer-7")
        wait_for(gateway, event_id, "dead")
        await browser.open(address(gateway))
        await browser.until("document.querySelectorAll('tbody a').length === 2")
        await browser.run("document.querySelector('tbody a').click()")
        await browser.until("document.querySelectorAll('.lane').length === 4")
        event, first, _, last = await rows(browser)
        text = await browser.text()
        drawn = await bars(browser, 1)
        dead_letter = raw.xrevrange("dlq", count=1)[0][0].decode()
        assert f"penstock dlq replay {dead_letter}" in text
        assert "failed: ConnectionError: the bank does not answer" in text
        assert "between attempts" in text
    assert "✗ card.charged" in event
    assert "3 attempts" in event
    assert re.search(
        r"worker #1 ↻ failed ConnectionError: the bank does not answer next attempt due .* [\d.]+ m?s", first
    )
    assert re.search(r"worker #3 ✗ dead failed: ConnectionError: the bank does not answer", last)
    kinds = [kind for kind, _, _ in drawn]
    assert kinds[:2] == ["wait joined", "failed"]
    (_, wait_left, wait), (_, run_left, run) = drawn[:2]
    assert wait_left + wait == pytest.approx(run_left, abs=0.02)
    trace = gateway.get(f"/v1/traces/{event_id}").json
    assert await browser.run("document.title") == "card.charged dead · Penstock"
    assert run > 0.1, "idle time is folded"
    assert trace["state"] == "dead"


async def test_an_unfolded_waterfall_is_drawn_to_scale(
    browser: Browser, gateway: Gateway, server: Server, raw: Any
) -> None:
    with worker(server), shipping(server):
        event_id = publish(raw, "demo.flaky", data='{"fail_times": 1}')
        wait_for(gateway, event_id, "completed")
    trace = gateway.get(f"/v1/traces/{event_id}").json
    await browser.open(address(gateway, f"/{event_id}"))
    await browser.until("document.querySelectorAll('.lane').length === 3")
    if await browser.run("Boolean(document.getElementById('fold')?.checked)"):
        await browser.run("document.getElementById('fold').click()")
    *_, second = trace["events"][0]["hops"][0]["attempts"]
    begin = second["offset"] / trace["duration"]
    await browser.until("!document.querySelector('.lane .fold')")

    *_, (kind, left, _) = await bars(browser, 2)
    assert kind in ("completed", "rest")
    assert left > begin - 0.01
    [paused] = [(left, width) for kind, left, width in await bars(browser, 0) if kind == "pause"]
    first = trace["events"][0]["hops"][0]["attempts"][0]
    end = (first["offset"] + first["elapsed"]) / trace["duration"]
    assert paused == pytest.approx((end, begin - end), abs=0.01)


async def test_nothing_that_an_event_says_becomes_markup(browser: Browser, gateway: Gateway, raw: Any) -> None:
    event_id = publish(raw, HOSTILE, id=HOSTILE, source=HOSTILE, subject=HOSTILE, tenant=HOSTILE)
    raw.xadd(
        "dlq",
        {"type": HOSTILE, "id": HOSTILE, "dlq.stream": "ingest", "dlq.group": HOSTILE, "dlq.attempts": "1"}
        | {"dlq.entry": raw.xrange("ingest")[0][0], "dlq.reason": HOSTILE, "dlq.error": HOSTILE * 20},
    )
    publish(raw, "job.failed", "events", cause=event_id, source=HOSTILE, data=json.dumps({"error": HOSTILE}))
    shown = HOSTILE.replace("\u202e", "\ufffd")

    await browser.open(address(gateway))
    await browser.until("document.querySelectorAll('tbody tr').length === 1")
    assert shown in await browser.text()
    await browser.run("document.querySelector('tbody a').click()")
    await browser.until("document.querySelectorAll('.lane').length > 1")
    await browser.run("document.querySelectorAll('.open').forEach(button => button.click())")
    await browser.until("document.querySelectorAll('.more').length === document.querySelectorAll('.open').length")
    text = await browser.text()
    assert text.count(shown) > 8
    assert "\u202e" not in text
    assert await browser.run("document.images.length + document.querySelectorAll('main script').length") == 0
    assert await browser.run("typeof window.pwned") == "undefined"


async def test_even_a_script_that_got_in_would_not_run(browser: Browser, gateway: Gateway) -> None:
    await browser.open(address(gateway))
    await browser.until("document.querySelector('h1, h2')")
    refused = await browser.run("(() => { try { document.body.innerHTML = '<b>'; } catch (e) { return e.name; } })()")
    await browser.run(
        "{ const script = document.createElement('script'); script.append('window.pwned = 1');"
        " try { document.body.append(script); } catch {} }"
    )

    assert refused == "TypeError"
    assert await browser.run("typeof window.pwned") == "undefined"
    assert browser.complaints
    browser.complaints.clear()


async def test_the_page_is_worked_by_keyboard_and_keeps_its_place(browser: Browser, gateway: Gateway, raw: Any) -> None:
    event_id = publish(raw, "order.placed", subject="order-1")
    await browser.open(address(gateway, f"/{event_id}"))
    await browser.until("document.querySelector('.open')")
    await browser.run("document.querySelector('.open').focus()")
    await browser.press("Enter")
    await browser.until("document.querySelector('.open').getAttribute('aria-expanded') === 'true'")

    assert f"redis-cli XRANGE ingest {event_id.removeprefix('ingest-')}" in await browser.text()
    publish(raw, "parcel.requested", "parcels", cause=event_id)
    await browser.until("document.querySelectorAll('.lane').length === 2")
    assert await browser.run("document.activeElement.getAttribute('aria-expanded')") == "true"
    assert "order-1" in await browser.text()


async def test_an_id_is_looked_up_from_the_search_field(browser: Browser, gateway: Gateway, raw: Any) -> None:
    publish(raw, "order.placed", id="order 7/ä")
    await browser.open(address(gateway))
    await browser.until("document.querySelector('tbody')")
    await browser.run("document.getElementById('wanted').value = ' order 7/ä '")
    await browser.run("document.querySelector('form button').click()")
    await browser.until("document.title === 'order.placed queued · Penstock'")

    await browser.open(address(gateway, "/nobody"))
    await browser.until("document.body?.innerText.includes('no trace or event of this id')")
    assert any("404" in complaint for complaint in browser.complaints)
    browser.complaints.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_every_text_can_be_read_in_both_colour_schemes(
    browser: Browser, gateway: Gateway, server: Server, raw: Any, scheme: str
) -> None:
    with worker(server), shipping(server):
        ids = [publish(raw, kind) for kind in ("card.charged", "invoice.due", "nobody.knows")]
        wait_for(gateway, ids[0], "dead")
        wait_for(gateway, ids[1], "delayed")
    publish(raw, "order.placed")
    await browser.prefer(color_scheme=scheme)
    colours = set()
    for path in ("", *(f"/{event_id}" for event_id in ids)):
        await browser.open(address(gateway, path))
        await browser.until("document.querySelector('main .card tbody')")
        assert await browser.run(_FAINT) == []
        colours.add(await browser.run("getComputedStyle(document.body).backgroundColor"))
    [colour] = colours
    assert (sum(map(int, re.findall(r"\d+", colour))) > 600) == (scheme == "light")


def test_the_page_allows_nothing_but_itself(gateway: Gateway) -> None:
    answer = gateway.get("/traces")

    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert re.fullmatch(r"'sha256-[\w+/=]{44}'", policy["script-src"])
    assert re.fullmatch(r"'sha256-[\w+/=]{44}'", policy["style-src"])
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(rb'(src|href)="(https?:)?//|@import|url\(', answer.body)


def test_traces_are_told_as_json(gateway: Gateway, raw: Any) -> None:
    event_id = publish(raw, "order.placed")
    listed = gateway.get("/v1/traces")
    [summary] = listed.json["traces"]

    assert listed.headers["Content-Type"] == "application/json"
    assert (summary["type"], summary["state"], summary["events"]) == ("order.placed", "queued", 1)
    for wanted in (summary["trace_id"], event_id):
        assert gateway.get(f"/v1/traces/{wanted}").json["events"][0]["id"] == event_id
    assert gateway.get("/v1/traces/none-such").status == 404
    assert gateway.request("POST", "/traces").status == 405


def test_on_an_address_that_others_reach_traces_are_shown_only_if_that_is_wanted(
    server: Server, tmp_path: Path
) -> None:
    everywhere = {
        "PENSTOCK_TOPOLOGY": str(TOPOLOGY),
        "PENSTOCK_GATEWAY_HOST": "0.0.0.0",
        "PENSTOCK_GATEWAY_OPEN": "true",
    }
    with running_gateway(server, tmp_path, **everywhere) as gateway:
        for path in ("/traces", "/traces/x", "/v1/traces", "/v1/traces/x"):
            answer = gateway.get(path)
            assert answer.status == 404
            assert "PENSTOCK_GATEWAY_TRACES=true" in answer.detail
    with running_gateway(server, tmp_path, **everywhere, PENSTOCK_GATEWAY_TRACES="true") as gateway:
        assert gateway.get("/traces").status == 200
    with running_gateway(server, tmp_path, PENSTOCK_GATEWAY_TRACES="false") as gateway:
        assert gateway.get("/traces").status == 404


# Texts whose contrast with what is behind them is below 4.5 (WCAG 2.2, 1.4.3); hidden ones aside.
_FAINT = """
(() => {
  const hidden = "script, style, noscript, .hidden, [aria-hidden=true], .open";
  const parse = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const linear = (part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const light = ([red, green, blue]) =>
    0.2126 * linear(red / 255) + 0.7152 * linear(green / 255) + 0.0722 * linear(blue / 255);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility() || element.closest(hidden)) continue;
    const both = [light(parse(getComputedStyle(element).color)), light(behind(element))];
    const contrast = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    if (contrast < 4.5) faint.push(`${text}: ${contrast.toFixed(2)}`);
  }
  return faint;
})()
"""
