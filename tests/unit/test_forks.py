"""Forked programs are processes like any others, also when several threads start them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.forks import run
from tests.processes import eventually, service_process


def test_each_of_several_at_once_is_answered_for_itself() -> None:
    with ThreadPoolExecutor(8) as threads:
        codes = [0, 2] * 8  # penstock --version, and a command that is not there
        commands = (["penstock", "nothing" if code else "--version"] for code in codes)
        done = threads.map(lambda command: run(command, env={"PATH": ""}), commands)
        assert [one.returncode for one in done] == codes


def test_a_program_has_its_own_session_and_environment_and_ends_with_the_context() -> None:
    with service_process("-m", "http.server", "0", env={"MARK": "mine"}) as process:
        assert process.poll() is None
        eventually(lambda: os.getsid(process.pid) == process.pid, what="it leads a session, a moment after its fork")
    assert process.returncode == -9


@pytest.mark.parametrize(
    ("program", "code", "said", "complained"),
    [
        ("print('done')", 0, "done", ""),
        ("raise SystemExit(3)", 3, "", ""),
        ("raise SystemExit('no')", 1, "", "no"),
        ("raise ValueError('oops')", 1, "", "ValueError: oops"),
        ("import atexit; atexit.register(print, 'bye')", 0, "bye", ""),
        ("import threading as t; t.Timer(0.01, print, ['late']).start()", 0, "late", ""),
        ("async def work(): ...\nround = [work()]\nround.append(round)", 0, "", "was never awaited"),
    ],
)
def test_a_program_ends_as_python_ends_it(tmp_path: Path, program: str, code: int, said: str, complained: str) -> None:
    (tmp_path / "program.py").write_text(program)
    done = run(["program"], env={"PATH": ""}, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (code, said)
    assert complained in done.stderr
    assert bool(complained) == bool(done.stderr)
