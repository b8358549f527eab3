"""`penstock dlq`: find the causes among the dead letters, replay or delete them."""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

from penstock.cli.editor import edit as edit_text
from penstock.cli.session import Session, run, session
from penstock.cli.terminal import AsJson, console, harmless, print_json, print_table, printable
from penstock.config import read_moment
from penstock.dlq.causes import Selection, causes, select
from penstock.dlq.dead_letter import DeadLetter
from penstock.dlq.queue import DeadLetters
from penstock.dlq.replay import Plan, Replayer, Result
from penstock.errors import UNREADABLE, ConfigurationError
from penstock.service.main import Negative

app = typer.Typer(
    name="dlq", help="Find the causes among the dead letters, replay or delete them.", no_args_is_help=True
)

Letters = Annotated[list[str] | None, typer.Argument(metavar="LETTER...", help="Ids as `dlq ls` shows them.")]
Fingerprint = Annotated[str | None, typer.Option(help="Those of one cause, as `dlq ls` shows it.")]
Type = Annotated[str | None, typer.Option("--type", help="Those of one event type.")]
Group = Annotated[str | None, typer.Option(help="Those that one group gave up on.")]
Since = Annotated[str | None, typer.Option(help="Those since a time (2026-11-22T10:00:00Z) or for so long (2h).")]


@app.command()
def ls(
    *,
    fingerprint: Fingerprint = None,
    type_: Type = None,
    group: Group = None,
    since: Since = None,
    letters: Annotated[bool, typer.Option("--letters", help="List single letters rather than causes.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many.")] = 50,
    replayed: Annotated[bool, typer.Option("--replayed", help="Show those too that were replayed.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the causes of dead letters, the most frequent first; with --letters or --fingerprint the letters.

    --json always lists letters, the newest first, each with its fingerprint.
    """
    single = letters or as_json or fingerprint is not None
    selection = _selection(fingerprint, type_, group, since)
    found = run(_select(selection, limit=limit if single else None, replayed=replayed))
    if as_json:
        print_json(found)
    elif not found:
        console().print("no dead letters")
    elif single:
        columns = ["letter", "type", "group", "reason", "attempts", "error"]
        print_table(columns, [_row(letter) for letter in found], whole=["letter"])
    else:
        _print_causes(found, limit)


@app.command()
def show(letter: Annotated[str, typer.Argument(help="Id as `dlq ls` shows it.")], as_json: AsJson = False) -> None:
    """Show one dead letter with its event and traceback."""
    found = run(_get([letter]))[0]
    if as_json:
        print_json(found)
    else:
        _print(found)


@app.command()
def replay(
    letters: Letters = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Replay all that were not replayed yet.")] = False,
    fingerprint: Fingerprint = None,
    type_: Type = None,
    group: Group = None,
    since: Since = None,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Replay at most so many a second.")] = None,
    canary: Annotated[int, typer.Option(min=0, help="Wait for the outcome of the first so many.")] = 0,
    stop_on_failure: Annotated[bool, typer.Option("--stop-on-failure", help="Stop if a canary fails again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be replayed.")] = False,
    edit: Annotated[bool, typer.Option("--edit", help="Edit the data of the one letter first ($EDITOR).")] = False,
) -> None:
    """Give events back to the group that failed them, each once, as a first attempt, the oldest first.

    Exits with 1 if there was nothing to replay or a canary failed again.
    """
    if stop_on_failure and not canary:
        raise ConfigurationError("--stop-on-failure goes with --canary N: only canaries are waited for")
    selection = _selection(fingerprint, type_, group, since)
    asked = _asked(letters, every=every, selection=selection)
    found = run(_get(asked) if asked else _select(selection, limit=None, replayed=False))
    found = found if asked else found[::-1]
    if dry_run:
        print_table(["would replay", "type", "group", "reason", "attempts", "error"], [_row(one) for one in found])
        return
    data = _edited(found) if edit else None
    results = run(_replay(found, Plan(rate=rate, canaries=canary, stop_on_failure=stop_on_failure), data))
    if not any(result.trace_id for result in results):
        raise Negative("nothing to replay")
    failed = [result for result in results if result.fate in ("failed", "unsettled")]
    if failed:
        raise Negative(f"{len(failed)} of {canary} canaries failed again; {len(found) - len(results)} left alone")


@app.command()
def purge(
    letters: Letters = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="Delete all, replayed or not.")] = False,
    fingerprint: Fingerprint = None,
    type_: Type = None,
    group: Group = None,
    since: Since = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete dead letters for good, and the checkpoints kept for their replay."""
    selection = _selection(fingerprint, type_, group, since)
    asked = _asked(letters, every=every, selection=selection)
    found = run(_get(asked) if asked else _select(selection, limit=None, replayed=True))
    if not yes:
        typer.confirm(f"Delete {len(found)} dead letters?", abort=True)
    typer.echo(f"deleted {run(_purge(found))}")


@app.command()
def export(
    fingerprint: Fingerprint = None,
    type_: Type = None,
    group: Group = None,
    since: Since = None,
    replayed: Annotated[bool, typer.Option("--replayed", help="Export those too that were replayed.")] = False,
) -> None:
    """Write dead letters to stdout as JSON lines, the oldest first."""
    found = run(_select(_selection(fingerprint, type_, group, since), limit=None, replayed=replayed))
    for letter in reversed(found):
        sys.stdout.write(harmless(msgspec.json.encode(letter).decode()) + "\n")


def _selection(fingerprint: str | None, type_: str | None, group: str | None, since: str | None) -> Selection:
    begin = None if since is None else read_moment(since, "--since", time.time())
    return Selection(fingerprint=fingerprint, type=type_, group=group, since=begin)


def _asked(letters: Sequence[str] | None, *, every: bool, selection: Selection) -> list[str]:
    """Return the ids asked for; none means what the selection says.

    Raises:
        ConfigurationError: nothing was asked for, or things that do not go together.
    """
    selected = selection != Selection()
    if (bool(letters), every, selected).count(True) != 1:
        raise ConfigurationError(
            "say which: letters by their ids (`penstock dlq ls --letters`), or --fingerprint, --type, --group, "
            "--since, or --all"
        )
    return list(letters or ())


def _edited(letters: Sequence[DeadLetter]) -> str:
    """Let the user edit the data of the one letter.

    Raises:
        ConfigurationError: there is not exactly one letter, or the result is not JSON.
        Negative: the editor was left without saving.
    """
    if len(letters) != 1:
        raise ConfigurationError(f"--edit takes exactly one letter, not {len(letters)}")
    data = letters[0].event.get("data", "null")
    with contextlib.suppress(*UNREADABLE):  # broken JSON may be just what is to be mended
        data = msgspec.json.format(data)
    text = edit_text(data, suffix=".json")
    if text is None:
        raise Negative("nothing was changed: nothing is replayed")
    try:
        return msgspec.json.format(text, indent=-1)
    except UNREADABLE as error:
        raise ConfigurationError(f"the edited data is not JSON: {error}") from None


async def _select(selection: Selection, *, limit: int | None, replayed: bool) -> list[DeadLetter]:
    found: list[DeadLetter] = []
    async with session() as here:
        async for letter in select(_letters(here), selection, replayed=replayed):
            found.append(letter)
            if len(found) == limit:
                break
    return found


async def _get(ids: Sequence[str]) -> list[DeadLetter]:
    async with session() as here:
        return await _find(here, ids)


async def _replay(letters: Sequence[DeadLetter], plan: Plan, data: str | None) -> list[Result]:
    results = []
    async with session() as here:
        async for result in Replayer(here.redis, here.keys).run(letters, plan, data=data):
            results.append(result)
            typer.echo(f"{result.letter.letter} {_SAID[result.fate].format(trace=result.trace_id)}")
    return results


_SAID = {
    "replayed": "replayed in trace {trace}",
    "done": "replayed in trace {trace}: done this time",
    "failed": "replayed in trace {trace}: failed again",
    "unsettled": "replayed in trace {trace}: still running",
    "already": "was replayed before",
}


async def _purge(letters: list[DeadLetter]) -> int:
    async with session() as here:
        return await _letters(here).purge(letters)


async def _find(here: Session, ids: Sequence[str]) -> list[DeadLetter]:
    found = []
    for letter in ids:
        if not re.fullmatch(r"\d{1,20}-\d{1,20}", letter):
            raise ConfigurationError(f"{letter!r} is not the id of a dead letter; `penstock dlq ls` shows them")
        one = await _letters(here).get(letter)
        if one is None:
            raise Negative(f"there is no dead letter {letter}")
        found.append(one)
    return found


def _letters(here: Session) -> DeadLetters:
    return DeadLetters(here.redis, here.keys)


def _row(letter: DeadLetter) -> list[str]:
    error = printable(letter.error.partition("\n")[0])
    mark = " (replayed)" if letter.replayed else ""
    group = f"{letter.stream} > {letter.group}"
    return [letter.letter, printable(letter.type) or "-", group, letter.reason + mark, str(letter.attempts), error]


def _print_causes(letters: Sequence[DeadLetter], limit: int) -> None:
    found = causes(letters)
    rows = [
        [
            str(one.count),
            printable(one.fingerprint),
            one.group,
            one.last[:19].replace("T", " "),
            printable(one.error.partition("\n")[0]),
        ]
        for one in found[:limit]
    ]
    print_table(["letters", "fingerprint", "group", "last (UTC)", "error of the newest"], rows, numbers=["letters"])
    example = found[0]
    fingerprint = shlex.quote(printable(example.fingerprint))
    console().print(
        f"\n{_many(len(letters), 'letter')} of {_many(len(found), 'cause')}. "
        f"Look at one: penstock dlq show {example.example}\n"
        f"Mended? penstock dlq replay --fingerprint {fingerprint} --canary 1 --stop-on-failure"
    )


def _many(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _print(letter: DeadLetter) -> None:
    out = console()
    out.print(f"{printable(letter.type) or 'no type'}  {letter.reason}: {printable(letter.error)}", style="bold red")
    for name, value in (
        ("letter", letter.letter),
        ("dead since", letter.time),
        ("group", f"{letter.group} on {letter.stream} (entry {letter.entry})"),
        ("attempts", str(letter.attempts)),
        ("replayed", letter.replayed or "no"),
        ("fingerprint", letter.fingerprint),
        ("trace", letter.traceparent[3:35]),  # 00-<trace id>-<span id>-<flags>
    ):
        out.print(f"  {name:<12} {printable(value)}")
    out.print("\nevent", style="bold")
    for name, value in {"id": letter.event_id, **letter.event}.items():
        out.print(f"  {printable(name):<12} {printable(value)}")
    if letter.traceback:
        out.print()
        for line in letter.traceback.rstrip().split("\n"):
            indent = len(line) - len(line.lstrip(" "))
            out.print(" " * indent + printable(line), style="dim")
