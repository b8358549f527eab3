"""Every block of code on the pages that people begin with is run by a test that takes it from the page."""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

import pytest

from tests.processes import ROOT


class Run(NamedTuple):
    """A block, by a line of it, and the test that runs it."""

    line: str
    test: str


def frameworks(test: str) -> str:
    return f"tests/integration/test_frameworks_page.py::test_the_application_{test}"


START, WAYS_IN = "tests/e2e/test_readme_start.py", "tests/integration/test_readme.py"
SERVICE = "tests/unit/test_writing_a_service.py"
PAGES = {
    "README.md": [
        Run('uv tool install ".[embedded]"', f"{START}::test_a_service_of_ones_own_is_installed_made_and_up"),
        Run("just up", f"{START}::test_the_mesh_that_ships_is_up"),
        Run("redis-cli XADD ingest", f"{WAYS_IN}::test_the_ways_in_lead_to_completed_jobs"),
        Run("$ redis-cli XREVRANGE events + - COUNT 1", f"{WAYS_IN}::test_what_a_job_leads_to_looks_as_shown"),
        Run(
            "3. One that fails twice and then succeeds",
            "tests/e2e/test_demo.py::"
            "test_without_a_mesh_it_starts_the_shipped_one_and_everything_is_as_promised_and_as_shown",
        ),
        Run("curl http://127.0.0.1:8080/webhooks/demo", f"{WAYS_IN}::test_the_ways_in_lead_to_completed_jobs"),
        Run("# shop.py", f"{WAYS_IN}::test_the_service_in_two_files_does_what_is_said_of_it"),
        Run("# streams.yaml", f"{WAYS_IN}::test_the_service_in_two_files_does_what_is_said_of_it"),
        Run("penstock emit order.placed", f"{WAYS_IN}::test_the_service_in_two_files_does_what_is_said_of_it"),
        Run("docker compose up -d --build", "tests/deploy/test_compose.py::test_the_readme_s_commands_run"),
    ],
    "docs/writing-a-service.md": [
        Run("async def make_invoice", f"{SERVICE}::test_its_code_makes_a_service"),
        Run("# streams.yaml", f"{SERVICE}::test_its_code_makes_a_service"),
        Run("class Sale(msgspec.Struct):", f"{SERVICE}::test_its_code_makes_a_service"),
        Run("async def cancel", f"{SERVICE}::test_its_code_makes_a_service"),
        Run("async def ship", f"{SERVICE}::test_its_code_makes_a_service"),
        Run("async def reserve", f"{SERVICE}::test_its_code_makes_a_service"),
        Run("from penstock import BatchContext", f"{SERVICE}::test_its_code_makes_a_service"),
        Run("from penstock.service.runtime import Runtime", f"{SERVICE}::test_its_code_makes_a_service"),
        Run("from penstock.testing import Mesh", f"{SERVICE}::test_its_test_passes"),
    ],
    "docs/client.md": [
        Run("import asyncio", "tests/integration/test_client_page.py::test_its_programs_run"),
        Run("from penstock.sync import Penstock", "tests/integration/test_client_page.py::test_its_programs_run"),
        Run("PENSTOCK_BACKEND", "tests/integration/test_client_page.py::test_its_program_in_memory_runs_without_redis"),
    ],
    "docs/frameworks.md": [
        Run("from fastapi import", frameworks("with_fastapi")),
        Run("from penstock.asgi import", frameworks("without_a_framework")),
        Run("from flask import", frameworks("with_flask")),
        Run("# settings.py", frameworks("with_django")),
        Run("# shop/views.py", frameworks("with_django")),
        Run("manage.py penstock_relay", frameworks("with_django")),
    ],
}


@pytest.mark.parametrize("page", PAGES)
def test_each_block_has_its_test(page: str) -> None:
    blocks = re.findall(r"^ *```(?:[a-z]*)\n(.*?)^ *```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    untested = [block for block, run in zip(blocks, PAGES[page], strict=False) if run.line not in block]
    assert untested == [], "in the order of the page"
    assert len(blocks) == len(PAGES[page]), f"without a test: {blocks[len(PAGES[page]) :]}"


@pytest.mark.parametrize(("page", "test"), sorted({(page, run.test) for page, runs in PAGES.items() for run in runs}))
def test_the_test_is_there_and_reads_the_page(page: str, test: str) -> None:
    path, _, name = test.partition("::")
    text = (ROOT / path).read_text()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, functions)}
    assert f'"{page}"' in text
