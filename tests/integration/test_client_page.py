"""docs/client.md: its programs run, and say what they should."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_sync import MESH, SHOP
from tests.processes import ROOT, service_process
from tests.servers import Server

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/client.md").read_text(), re.DOTALL)
SAYS = [
    rf"[0-9a-f]{{32}} 7\n(\w+ \d\n)*completed 1\n500 {sum(range(500))}\nrejected no such price\n",
    r"\{'paid': 7\}\n",
]


@pytest.mark.parametrize(("block", "says"), list(zip(BLOCKS, SAYS, strict=True)), ids=["loop", "threads"])
def test_its_programs_run(block: str, says: str, server: Server, tmp_path: Path) -> None:
    (tmp_path / "streams.yaml").write_text(MESH)
    (tmp_path / "shop.py").write_text(SHOP)
    env = {"REDIS_URL": server.url}
    with service_process("-m", "penstock", "run", "shop:service", cwd=tmp_path, env=env):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", block],
            cwd=tmp_path,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(says, done.stdout), done.stdout
