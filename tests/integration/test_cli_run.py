"""`penstock run`, and what the command line says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import Cli
from tests.forks import run
from tests.servers import free_port


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Commands without a Redis."""
    return Cli(f"redis://127.0.0.1:{free_port()}/0", tmp_path)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("services", "is not of the form module:service"),
        ("shop.nowhere:service", "there is no module shop"),
        ("penstock_services.worker.ticket:Ticket", "has no Service called Ticket"),
        ("penstock_services.worker.ticket:jobs", "services.ticket is missing"),
    ],
)
def test_a_target_that_cannot_be_run_is_named(cli: Cli, target: str, said: str) -> None:
    done = cli("run", target)
    assert done.returncode == 2
    assert said in done.stderr


def test_help_names_every_command_and_the_exit_codes(cli: Cli) -> None:
    said = " ".join(cli("--help").stdout.split())
    for part in ("up", "run", "emit", "status", "job", "demo", "dlq", "topology", "3 Redis cannot be reached"):
        assert part in said
    for command in ("ls", "show", "replay", "purge"):
        assert command in cli("dlq", "--help").stdout


@pytest.mark.parametrize(
    "command",
    [["run", "penstock_services.worker.ticket:jobs"], ["up"], ["emit", "ticket.created"], ["status"]],
    ids=str,
)
def test_where_there_is_no_redis_what_needs_it_does_not_start(cli: Cli, command: list[str]) -> None:
    done = cli(*command, REDIS_ENABLED="false", PENSTOCK_TOPOLOGY="")  # the one that ships has services to start
    assert done.returncode == 2
    assert "this needs Redis, and PENSTOCK_BACKEND=memory (or REDIS_ENABLED=false" in done.stderr


def test_names_of_one_setting_that_do_not_agree_are_both_named(cli: Cli) -> None:
    done = cli("status", TASK_QUEUE_BACKEND="memory", PENSTOCK_BACKEND="redis")
    assert done.returncode == 2
    assert "TASK_QUEUE_BACKEND and PENSTOCK_BACKEND are about one setting and do not agree" in done.stderr


@pytest.mark.parametrize("port", ["many", "0", "65536"])
def test_a_setting_that_does_not_fit_is_named(cli: Cli, port: str) -> None:
    done = cli("status", PENSTOCK_REDIS_PORT=port)
    assert done.returncode == 2
    assert done.stderr.startswith("penstock: environment: PENSTOCK_REDIS_PORT")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def broken(:\n    pass\n", "broken.py, line 1: SyntaxError: invalid syntax: def broken(:"),
        ("x = 1\nundefined\n", "broken.py, line 2: NameError: name 'undefined' is not defined"),
        (
            'from penstock import Service\njobs = Service("worker")\n@jobs.on\ndef handle(_): ...\n',
            'handle: `@service.on` needs the stream; write @service.on("ingest") or, for one type of event, '
            '@service.on("ingest", type="ticket.created")',
        ),
    ],
)
def test_a_module_that_cannot_be_imported_is_told_with_its_place(
    text: str, said: str, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text(text)
    done = run(["penstock", "run", "broken:jobs"], env=cli.env, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
