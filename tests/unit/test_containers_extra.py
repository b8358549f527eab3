"""The containers service without the extra that it needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

_WITHOUT = """
import runpy, sys
sys.modules["docker"] = None
runpy.run_module("penstock_services.containers", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("arguments", [[], ["ls"]])
def test_what_is_missing_is_said_with_how_to_install_it(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "penstock: the containers service needs docker: pip install 'penstock[containers]'\n"
