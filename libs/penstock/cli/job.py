"""`penstock job`: what became of one job."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from penstock.cli.session import run, session
from penstock.cli.terminal import console, print_json
from penstock.errors import AmbiguousEvent
from penstock.jobs.find import find_job
from penstock.jobs.record import Job
from penstock.service.main import Negative

_STYLES = {"completed": "bold green", "dead": "bold red", "retrying": "bold yellow"}


def job(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The id that the gateway or `emit` answered with.")],
    source: Annotated[str | None, typer.Option("--source", help="Whose event, where several have the id.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show what became of a job: queued, running, retrying, completed, dead or settled.

    A settled one is over, and has no record of how: it has expired, or somebody has settled the job by hand. Exits with
    1 if nothing is known of it. With --json every key is always there, null where it does not apply.
    """
    found = run(_find(job_id, source))
    if found is None:
        raise Negative(f"nothing is known of a job {job_id}")
    values = {"job_id": job_id, **msgspec.structs.asdict(found)}
    if as_json:
        print_json(values)
    else:
        _print(values)


async def _find(job_id: str, source: str | None) -> Job | None:
    async with session() as here:
        try:
            return await find_job(here.redis, here.keys, here.topology, job_id, source=source)
        except AmbiguousEvent as error:
            raise Negative(f"{error} with --source") from None


def _print(values: dict[str, Any]) -> None:
    out = console()
    state = values.pop("state")
    out.print(values.pop("job_id"), state, style=_STYLES.get(state, "bold"))
    if state == "settled":
        out.print("  it is over, and there is no record of how: it has expired, or none was made")
    for name, value in values.items():
        if value is not None:
            out.print(f"  {name.replace('_', ' '):<16} {_present(name, value)}")


def _present(name: str, value: Any) -> str:
    if name in ("duration", "queue_wait"):
        return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.2f} s"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
