"""An environment of its own for each neighbour, under .penstock/peers, so that no two share a version."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bench.machine import ROOT
from bench.peers.registry import Peer

FOLDER = ROOT / ".penstock" / "peers"
_NODE = "bullmq"


def python(adapter: str) -> Path:
    """Return the interpreter of an adapter's environment, there or not; Penstock's is the one that runs this."""
    return Path(sys.executable) if adapter == "penstock" else FOLDER / adapter / "bin" / "python"


def command(peer: Peer) -> tuple[str, ...]:
    """Return the command of a peer's worker with its program found in its environment."""
    program, *arguments = peer.command
    if peer.adapter == _NODE:
        return (shutil.which(program) or program, *arguments)
    return (str(python(peer.adapter).with_name(program)), *arguments)


def producer(peer: Peer, how: str, count: int) -> tuple[str, ...]:
    """Return the command that sends `count` jobs for a peer."""
    if peer.adapter == _NODE:
        return (shutil.which("node") or "node", "bench/peers/bullmq.js", how, str(count))
    return (str(python(peer.adapter)), "-m", "bench.peers.produce", peer.adapter, how, str(count))


def variables(peer: Peer) -> dict[str, str]:
    return {**peer.env, "NODE_PATH": str(FOLDER / _NODE / "node_modules")} if peer.adapter == _NODE else {**peer.env}


def set_up(peer: Peer) -> str | None:
    """Make the peer's environment unless it is there; return the library's version, or None without Node.

    Raises:
        subprocess.CalledProcessError: the installer failed; it has said why.
    """
    if peer.adapter == _NODE:
        return _set_up_node(peer)
    interpreter = python(peer.adapter)
    if peer.packages and not interpreter.exists():
        print(f"setting up {peer.adapter} ...", file=sys.stderr)
        uv = shutil.which("uv") or str(ROOT / ".penstock" / "uv" / "bin" / "uv")
        folder = interpreter.parent.parent
        _run(uv, "venv", "--quiet", "--python", sys.executable, str(folder))
        try:
            _run(uv, "pip", "install", "--quiet", "--python", str(interpreter), *peer.packages)
        except BaseException:
            shutil.rmtree(folder)  # half an environment would be taken for a whole one
            raise
    ask = f"import importlib.metadata as m; print(m.version({peer.adapter!r}))"
    return _run(str(interpreter), "-c", ask).strip()


def _set_up_node(peer: Peer) -> str | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        return None
    folder = FOLDER / _NODE
    if not all((folder / "node_modules" / package).exists() for package in peer.packages):
        print(f"setting up {_NODE} ...", file=sys.stderr)
        _run(npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *peer.packages)
    return _run(node, "-p", f"require({str(folder / 'node_modules' / _NODE / 'package.json')!r}).version").strip()


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
