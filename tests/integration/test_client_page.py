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
from tests.servers import Server, free_port

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/client.md").read_text(), re.DOTALL)
SAYS = [
    rf"[0-9a-f]{{32}} 7\n(\w+ \d\n)*completed 1\n500 {sum(range(500))}\nrejected no such price\n",
    r"\{'paid': 7\}\n",
]
MEMORY = r"(.*\n)*.*PENSTOCK_BACKEND=memory.*\n\{'paid': 7\} process\n(.*\n)*dead\n\['no such price'\]\n"


@pytest.mark.parametrize(("block", "says"), list(zip(BLOCKS[:2], SAYS, strict=True)), ids=["loop", "threads"])
def test_its_programs_run(block: str, says: str, server: Server, tmp_path: Path) -> None:
    shop_in(tmp_path)
    env = {"REDIS_URL": server.url}
    with service_process("-m", "penstock", "run", "shop:service", cwd=tmp_path, env=env):
        said = output(block, tmp_path, env)

    assert re.fullmatch(says, said), said


def test_its_program_in_memory_runs_without_redis(tmp_path: Path) -> None:
    shop_in(tmp_path)
    (block,) = BLOCKS[2:]
    said = output(block, tmp_path, {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"})

    assert re.fullmatch(MEMORY, said), said


def shop_in(folder: Path) -> None:
    (folder / "streams.yaml").write_text(MESH)
    (folder / "shop.py").write_text(SHOP)


def output(block: str, folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
