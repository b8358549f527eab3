"""`penstock job`: what became of one job."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from penstock.cli.session import Session, run, session
from penstock.cli.terminal import console, harmless, print_json, printable
from penstock.client.client import Penstock
from penstock.errors import AmbiguousEvent, NotCancelled
from penstock.jobs.cancel import Canceller
from penstock.jobs.find import find_job
from penstock.jobs.record import Job
from penstock.service.main import Negative

_STYLES = {"completed": "bold green", "dead": "bold red", "retrying": "bold yellow"}


def job(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The id that the gateway or `emit` answered with.")],
    source: Annotated[str | None, typer.Option("--source", help="Whose event, where several have the id.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show each change and progress until its end.")
    ] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel it, unless it runs or is over.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs; one line a change.")] = False,
) -> None:
    """Show what became of a job: queued, running, retrying, completed, dead, cancelled or settled.

    A settled one is over, and has no record of how: it has expired, or somebody has settled the job by hand. Exits with
    1 if nothing is known of it, if it cannot be cancelled, or if it is dead in the end that --follow waits for. With
    --json every key is always there, null where it does not apply.
    """
    if follow and cancel:
        raise typer.BadParameter("--follow and --cancel: give one of them")
    if follow:
        run(_follow(job_id, source, as_json=as_json))
        return
    found = run(_cancel(job_id, source) if cancel else _find(job_id, source))
    if as_json:
        print_json(_values(job_id, found))
    else:
        _print(_values(job_id, found))


async def _find(job_id: str, source: str | None) -> Job:
    async with session() as here:
        return await _known(here, job_id, source)


async def _cancel(job_id: str, source: str | None) -> Job:
    async with session() as here:
        await _known(here, job_id, source)
        try:
            canceller = Canceller(here.redis, here.keys, here.topology, ttl=here.settings.job_ttl)
            return await canceller.cancel(job_id, source=source)
        except NotCancelled as error:
            raise Negative(str(error)) from None


async def _known(here: Session, job_id: str, source: str | None) -> Job:
    try:
        found = await find_job(here.redis, here.keys, here.topology, job_id, source=source)
    except AmbiguousEvent as error:
        raise Negative(f"{error} with --source") from None
    if found is None:
        raise Negative(f"nothing is known of a job {job_id}")
    return found


async def _follow(job_id: str, source: str | None, *, as_json: bool) -> None:
    async with session() as here:
        await _known(here, job_id, source)
        mesh = Penstock.connect(settings=here.settings, topology=here.topology, source="penstock-cli")
        async with mesh:
            changes = mesh.job(job_id, source=source).watch()
            if as_json:
                last = await _print_lines(job_id, changes)
            else:
                last = await _show_bar(changes) if sys.stdout.isatty() else await _tell(changes)
    if not as_json:
        _print(_values(job_id, last))
    if last.state == "dead":
        raise Negative(f"job {job_id} is dead")


async def _print_lines(job_id: str, changes: AsyncIterator[Job]) -> Job:
    async for last in changes:
        sys.stdout.write(harmless(msgspec.json.encode(_values(job_id, last)).decode()) + "\n")
        sys.stdout.flush()
    return last


async def _tell(changes: AsyncIterator[Job]) -> Job:
    """Print a line for each change."""
    async for last in changes:
        if not last.is_over:
            share = "" if last.progress is None else f" {last.progress:.0%}"
            sys.stdout.write(f"{last.state}{share} {printable(last.note or last.error or '')}".rstrip() + "\n")
            sys.stdout.flush()
    return last


async def _show_bar(changes: AsyncIterator[Job]) -> Job:
    """Draw a bar that goes with what the handler says."""
    columns = (
        TextColumn("{task.fields[state]}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console(), transient=True) as bar:
        task = bar.add_task("", total=None, state="", note="")
        async for last in changes:
            total = None if last.progress is None else 1.0
            note = printable(last.note or last.error or "")
            bar.update(task, total=total, completed=last.progress or 0.0, state=last.state, note=note)
    return last


def _values(job_id: str, found: Job) -> dict[str, Any]:
    return {"job_id": job_id, **msgspec.structs.asdict(found)}


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
    if name == "progress":
        return f"{value:.0%}"
    return printable(value) if isinstance(value, str) else msgspec.json.encode(value).decode()
