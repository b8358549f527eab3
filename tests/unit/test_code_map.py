"""docs/code-map.md names files and functions that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.processes import ROOT

BASES = (ROOT / "libs", ROOT / "services/penstock_services", ROOT)
PAGE = (ROOT / "docs/code-map.md").read_text()
ROWS = re.findall(r"^\| `([\w/.]+)` \| (.*?) \|", PAGE, re.MULTILINE)


def names(file: Path) -> set[str]:
    """Return the functions and classes of a module, and `Class.method`."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef))
            found.update(f"{node.name}.{one.name}" for one in inner)
    return found


def test_the_page_has_rows() -> None:
    assert len(ROWS) > 20


@pytest.mark.parametrize(("path", "functions"), ROWS)
def test_every_file_and_function_is_there(path: str, functions: str) -> None:
    (file,) = [base / path for base in BASES if (base / path).is_file()]
    if file.suffix == ".py":
        assert set(re.findall(r"`([\w.]+)`", functions)) <= names(file)
