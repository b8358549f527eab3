"""How `penstock trace` draws a trace: a tree of its hops beside their course over time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import msgspec
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from penstock.cli.terminal import printable
from penstock.times import rfc3339, seconds_of, short_duration
from penstock.traces import Attempt, AttemptState, Trace, TracedEvent, TraceSummary

_MARKS: dict[AttemptState, tuple[str, str]] = {
    "completed": ("✓", "green"),
    "failed": ("↻", "yellow"),
    "snoozed": ("z", "cyan"),
    "dead": ("✗", "bold red"),
    "cancelled": ("⊘", "dim"),
    "running": ("▶", "blue"),
    "delayed": ("◷", "yellow"),
    "queued": ("…", "magenta"),
}
_TIME = 8  # cells of "waited" and of "ran"
_MOST_GUIDES = 8  # levels drawn; what is deeper is not set further in
_MOST_ERROR = 300  # characters


_Stretch = tuple[float, float, str, str]  # begin and end in seconds, character and style


class _Row(msgspec.Struct):
    """One line of the tree; `course` is what its bar shows."""

    depth: int
    label: Text
    waited: str = ""
    ran: str = ""
    course: Sequence[_Stretch] = ()
    details: Sequence[Text] = ()


def picture(trace: Trace, width: int) -> RenderableType:
    """Draw a trace in `width` columns."""
    rows = [row for event in trace.events for row in _rows(event, trace.now)]
    guides = _guides([row.depth for row in rows])
    columns = _Columns.within(width)
    parts: list[RenderableType] = [*_headline(trace, width), Text("")]
    parts.append(columns.line(Text(), Text("waited", "dim"), Text("ran", "dim"), _axis(trace.duration, columns.bar)))
    for row, (guide, below) in zip(rows, guides, strict=True):
        label = Text.assemble((guide, "dim"), row.label)
        bar = _bar(row.course, trace.duration, columns.bar)
        parts.append(columns.line(label, Text(row.waited, "dim"), Text(row.ran), bar))
        parts += [_Beside(below, detail) for detail in row.details]
    if trace.notes:
        parts += [Text(""), *(Text(printable(note), style="dim italic") for note in trace.notes)]
    return Group(*parts)


def listing(traces: Sequence[TraceSummary], width: int) -> RenderableType:
    """Draw a list of traces, one line each, in `width` columns."""
    started = max((len(_when(trace.started)) for trace in traces), default=0)
    fixed = (started, 11, _TIME, 32)  # and the outcome, how long it took, and the id
    room = max(8, min(60, width - sum(fixed) - len(fixed)))

    def line(started: Text, kind: Text, outcome: Text, took: Text, trace_id: Text) -> Text:
        for text, cells in ((started, fixed[0]), (kind, room), (outcome, fixed[1])):
            text.truncate(cells, overflow="ellipsis", pad=True)
        took.align("right", fixed[2])
        return Text(" ").join([started, kind, outcome, took, trace_id])

    lines = [line(*(Text(name, "bold") for name in ("UTC", "event", "outcome", "took", "trace")))]
    for trace in traces:
        mark, style = _MARKS[trace.state]
        lines.append(
            line(
                Text(_when(trace.started), "dim"),
                Text(printable(trace.type) or "?", "bold"),
                Text(f"{mark} {trace.state}", style),
                Text(short_duration(trace.duration)),
                Text(trace.trace_id, "dim"),
            )
        )
    return Group(*lines)


def _headline(trace: Trace, width: int) -> Iterator[Text]:
    mark, style = _MARKS[trace.state]
    title = Text.assemble((printable(trace.type) or "?", "bold"), "  ", (f"{mark} {trace.state}", style))
    title.truncate(width, overflow="ellipsis")
    yield title
    counts = f"{_count(len(trace.events), 'event')}, {_count(trace.attempts, 'attempt')}"
    yield Text(
        f"{trace.started[:10]} {_clock(trace.started)} UTC, {short_duration(trace.duration)}, {counts}", style="dim"
    )
    yield Text(f"trace {trace.trace_id}", style="dim")
    for other in trace.trace_ids[1:]:
        yield Text(f"  and {other}", style="dim")


class _Columns(msgspec.Struct):
    """How many cells the label and the bar have; the two times between them have eight each."""

    label: int
    bar: int

    @classmethod
    def within(cls, width: int) -> _Columns:
        rest = width - 2 * (_TIME + 1) - 2
        bar = max(8, min(60, rest * 2 // 5))
        return cls(max(8, rest - bar), bar)

    def line(self, label: Text, waited: Text, ran: Text, bar: Text) -> Text:
        label.truncate(self.label, overflow="ellipsis", pad=True)
        for spent in (waited, ran):
            spent.align("right", _TIME)
        return Text(" ").join([label, waited, ran + " ", bar])


def _guides(depths: Sequence[int]) -> list[tuple[str, str]]:
    """Return for each row what is drawn before it, and before the lines that belong to it."""
    guides: list[tuple[str, str]] = []
    more: set[int] = set()  # depths at which another row follows further down
    for at in range(len(depths) - 1, -1, -1):
        depth = depths[at]
        below = depth + 1 in more
        more = {level for level in more if level <= depth}
        trunk = "".join("│  " if level in more else "   " for level in range(1, min(depth, _MOST_GUIDES)))
        branch = ("├─ " if depth in more else "└─ ") if depth else ""
        stem = ("│  " if depth in more else "   ") if depth else ""
        guides.append((trunk + branch, trunk + stem + ("│ " if below else "  ")))
        more.add(depth)
    return guides[::-1]


class _Beside:
    """A detail below its row, folded beside the guides."""

    def __init__(self, guide: str, detail: Text) -> None:
        self._guide = guide
        self._detail = detail

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._detail.wrap(console, max(1, options.max_width - len(self._guide))):
            yield Text.assemble((self._guide, "dim"), line)


def _axis(total: float, cells: int) -> Text:
    """Return the ends of the time axis."""
    end = short_duration(total)
    return Text("0" + end.rjust(cells - 1), style="dim")


def _bar(course: Sequence[_Stretch], total: float, cells: int) -> Text:
    """Draw stretches to scale; each has a cell at least, the later ones over the earlier."""
    drawn = [(" ", "")] * cells
    scale = cells / total if total > 0 else 0.0
    for begin, end, character, style in course:
        first = min(int(begin * scale), cells - 1)
        last = min(max(first + 1, math.ceil(end * scale)), cells)
        drawn[first:last] = [(character, style)] * (last - first)
    return Text.assemble(*drawn)


def _rows(event: TracedEvent, now: str) -> Iterator[_Row]:
    tried = [hop for hop in event.hops if hop.attempts]
    attempts = [(hop, attempt) for hop in tried for attempt in hop.attempts]
    if len(attempts) == 1:
        hop, attempt = attempts[0]
        yield _attempt_row(event.depth, _label(event, attempt), attempt, now)
        return
    marker = [] if event.missing else [(event.offset, event.offset, "◆", "dim")]
    yield _Row(event.depth, _label(event), course=marker, details=_event_details(event))
    for hop, attempt in attempts:
        mark, style = _MARKS[attempt.outcome]
        name = f" {attempt.outcome}" if attempt.outcome != "completed" else ""
        who = printable(f"{hop.group} {attempt.channel or ''}")
        label = Text.assemble((f"{mark} ", style), f"{who} #{attempt.number}", (name, style))
        yield _attempt_row(event.depth + 1, label, attempt, now)


def _label(event: TracedEvent, attempt: Attempt | None = None) -> Text:
    mark, style = _MARKS[attempt.outcome] if attempt else ("•", "dim")
    place = f"  {printable(event.stream) or 'not found'}"
    groups = ", ".join(printable(hop.group) for hop in event.hops)
    if attempt and attempt.channel:
        groups += f" {printable(attempt.channel)}"
    return Text.assemble(
        (f"{mark} ", style),
        (printable(event.type) or "?", "bold"),
        (place + (f" > {groups}" if groups else ""), "dim"),
    )


def _attempt_row(depth: int, label: Text, attempt: Attempt, now: str) -> _Row:
    _, style = _MARKS[attempt.outcome]
    begin, end = attempt.offset, attempt.offset + attempt.elapsed
    is_open = attempt.outcome in ("queued", "delayed")
    if attempt.duration is not None:
        run = begin + (attempt.queue_wait or 0)
        course = [(begin, run, "░", "dim"), (run, min(end, run + attempt.duration), "█", style)]
        ran = short_duration(attempt.duration)
    else:
        course = [(begin, end, "░" if is_open else "━", style)]
        ran = "" if is_open else f"≤ {short_duration(attempt.elapsed)}"
    waited = attempt.elapsed if is_open else attempt.queue_wait
    return _Row(
        depth,
        label,
        waited="" if waited is None else short_duration(waited),
        ran=ran,
        course=course,
        details=list(_attempt_details(attempt, now)),
    )


def _event_details(event: TracedEvent) -> list[Text]:
    if event.missing:
        return [Text("only reports of it were found: it was trimmed, or lies beyond what was searched", style="dim")]
    return [Text(f"to be published at {_clock(event.due)}", style="yellow")] if event.due else []


def _attempt_details(attempt: Attempt, now: str) -> Iterator[Text]:
    _, style = _MARKS[attempt.outcome]
    why = printable(": ".join(filter(None, (attempt.reason, attempt.error)))[:_MOST_ERROR])
    due = _due(attempt, now)
    if why or due:
        yield Text.assemble((why, style), "  " if why and due else "", (due, "dim"))
    if attempt.crashes:
        yield Text(f"{_count(attempt.crashes, 'process')} died with it in flight", style="red")
    if attempt.consumer:
        yield Text(f"in flight at {printable(attempt.consumer)}", style="dim")
    if attempt.dead_letter:
        after = f", replayed {_clock(attempt.replayed)}" if attempt.replayed else ""
        yield Text(f"dead letter {attempt.dead_letter}{after}", style="dim")


def _due(attempt: Attempt, now: str) -> str:
    if not attempt.due or attempt.outcome == "completed":
        return ""
    ahead = seconds_of(attempt.due) - seconds_of(now)
    what = "due" if attempt.outcome == "delayed" else "next due"
    return f"{what} {_clock(attempt.due)}" + (f", in {short_duration(ahead)}" if ahead > 0 else "")


def _when(moment: str) -> str:
    """Return the time of day, or the day and hour if that was not today (UTC)."""
    today = rfc3339(time.time())[:10]
    return moment[11:19] if moment.startswith(today) else moment[5:16].replace("T", " ")


def _clock(moment: str) -> str:
    """Return the time of day in a time of RFC 3339, as it was written."""
    return printable(moment[11:23])


def _count(number: int, what: str) -> str:
    plural = "es" if what.endswith("s") else "s"
    return f"{number} {what}" if number == 1 else f"{number} {what}{plural}"
