"""Extras that are not installed: Penstock is there without them, and each says what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

HIDDEN = """
import sys
for name in {hidden!r}:
    sys.modules[name] = None  # as if it were not installed
{code}
"""
FRAMEWORKS = ("django", "fastapi", "flask", "starlette")


def run(code: str, *hidden: str) -> str:
    program = HIDDEN.format(hidden=hidden, code=code)
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", ["django", "fastapi", "flask"])
def test_a_module_without_its_framework_says_what_to_install(name: str) -> None:
    said = run(f"import penstock.{name}", name).splitlines()[-1]

    assert said == f"ImportError: penstock.{name} needs {name}: pip install 'penstock[{name}]'"


def test_what_is_missing_within_a_framework_is_not_called_a_missing_extra() -> None:
    said = run("import penstock.fastapi", "starlette").splitlines()[-1]

    assert "starlette" in said
    assert "penstock[" not in said


@pytest.mark.parametrize("module", ["penstock", "penstock.sync", "penstock.asgi"])
def test_what_needs_no_framework_runs_without_any(module: str) -> None:
    assert run(f"import {module}\nprint({module}.__name__)", *FRAMEWORKS) == f"{module}\n"
