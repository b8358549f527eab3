"""Forked programs are processes like any others, also when several threads start them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

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
