"""Shell completion: every command and option is offered, of commands that are imported when they are called too."""

from __future__ import annotations

import pytest

from penstock.cli.main import COMMANDS
from tests.command_line import environment
from tests.forks import run


def completed(words: str) -> list[str]:
    count = str(len(words.split(" ")) - 1)
    given = environment(_PENSTOCK_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=count)
    return run(["penstock"], env=given).stdout.split()


def test_every_command_is_offered() -> None:
    assert set(completed("penstock ")) == set(COMMANDS)
    assert completed("penstock al") == ["alerts"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [("penstock emit --st", "--stream"), ("penstock dlq ", "replay"), ("penstock dlq replay --ca", "--canary")],
)
def test_options_and_subcommands_of_a_command_are_offered(words: str, offered: str) -> None:
    assert offered in completed(words)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_shown(shell: str) -> None:
    undetected = environment(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")  # else it is that of the parent
    done = run(["penstock", "--show-completion", shell], env=undetected)
    assert done.returncode == 0, done.stderr
    assert "_PENSTOCK_COMPLETE" in done.stdout
