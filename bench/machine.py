"""What is measured on: a server on one core, a process on the other, and what each of them uses.

What measures shares the server's core, so that the process has the other one to itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from bench.journal import VARIABLE
from tests.servers import BINARIES, Server, free_port, running_server

ROOT = Path(__file__).parent.parent
SERVERS = [kind for kind, binary in BINARIES.items() if binary]
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, WORKER_CORE = CORES[0], CORES[-1]
_GRACE = 30.0


def take_server_core() -> None:
    """Go to the server's core, with what is started from here; clean up on SIGTERM as on Ctrl-C."""
    os.sched_setaffinity(0, {SERVER_CORE})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


@contextlib.contextmanager
def fresh_server(kind: str) -> Iterator[Server]:
    """Run a server with AOF, on TCP. The AOF is never rewritten: a fork amid a run would be somebody's bad luck."""
    with running_server(kind, "--auto-aof-rewrite-percentage", "0", port=free_port()) as server:
        yield server


@contextlib.contextmanager
def pinned_process(
    command: Sequence[str], env: Mapping[str, str], *, core: int = WORKER_CORE
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command on one core, in a process group of its own; SIGTERM at the end."""
    ours = ("PENSTOCK_", "OTEL_", "REDIS_", "BENCH_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    started = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**clean, "PYTHONPATH": str(ROOT), **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # banners
        process_group=0,
    )
    os.sched_setaffinity(started.pid, {core})
    try:
        yield started
    finally:
        stop(started)


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL to whatever of the group is still there after the grace time."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time, user and system, of a process, its threads and its descendants, also ended ones."""
    return sum(_own_cpu(one) for one in family(pid))


def _own_cpu(pid: int) -> float:
    """The scheduler's account has nanoseconds; /proc/PID/stat would have hundredths of a second."""
    try:
        run = sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat"))
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has just ended; its parent has its time
        return 0.0
    return run / 1e9 + (int(stat[13]) + int(stat[14])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """Return the memory of a process and its descendants; pages that n of them share count 1/n in each."""
    total = 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{one}/smaps_rollup").read_text().split("Pss:")[1].split()[0])
    return total / 1024


class Journal:
    """The file in which the process under measurement notes what it did, by way of bench.journal."""

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="penstock-bench-")
        os.close(handle)
        self.path = Path(name)
        self.env = {VARIABLE: name}

    def size(self) -> int:
        return self.path.stat().st_size

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()

    def milliseconds(self) -> list[float]:
        return [float(line) * 1000 for line in self.lines()]

    def clear(self) -> None:
        os.truncate(self.path, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink()


def wait_until(
    check: Callable[[], Any],
    process: subprocess.Popen[bytes] | None = None,
    *,
    every: float = 0.002,
    deadline: float = 600.0,
) -> Any:
    """Return what `check` returns once that is true.

    Raises:
        TimeoutError: the deadline, in seconds, is over.
        RuntimeError: the process has ended before.
    """
    until = time.monotonic() + deadline
    while not (found := check()):
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"ended with {process.returncode}: {process.args!r}")
        if time.monotonic() > until:
            raise TimeoutError(f"not within {deadline:.0f} s")
        time.sleep(every)
    return found
