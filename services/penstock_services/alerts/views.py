"""How backtests and explanations look in a terminal."""

from __future__ import annotations

from collections import Counter, defaultdict

from penstock.cli.terminal import console, print_table, printable
from penstock.times import duration, seconds_of
from penstock_services.alerts.backtest import Backtest, Episode
from penstock_services.alerts.explain import Explanation, LabelSet
from penstock_services.alerts.rules.model import Rules

_COLUMNS = 72
_STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


def print_backtest(rules: Rules, found: Backtest) -> None:
    """Print when which alerts would have fired, as a picture and as a table."""
    out = console()
    if not found.windows:
        out.print("`metrics` holds no roll-ups of that time: does the metrics service run?")
        return
    out.print(f"{found.windows} roll-ups from {found.first} to {found.last}\n", style="dim")
    if found.alerts:
        _draw(found)
        print_table(["alert", "severity", "since", "lasted", "why"], [_row(episode) for episode in found.alerts])
    counts = Counter(episode.rule for episode in found.alerts)
    for name in rules.rules:
        if name in found.left_out:
            out.print(f"{name}: not part of this, as it looks at events", style="dim")
        elif name not in counts:
            out.print(f"{name}: no alert", style="dim")
    out.print(f"\n{len(found.alerts)} alerts of {len(counts)} rules")


def _row(episode: Episode) -> list[str]:
    lasted = duration(episode.seconds) + ("" if episode.until else ", fires still")
    return [
        " ".join((episode.rule, "/".join(episode.labels.values()))).strip(),
        episode.severity,
        episode.since[:19],
        lasted + (" (flapping)" if episode.flapping else ""),
        episode.reason,
    ]


def _draw(found: Backtest) -> None:
    """Draw a line for each rule: when any of its alerts fired."""
    out = console()
    fires, calm = ("█", "·") if out.encoding.lower().startswith("utf") else ("#", ".")
    first, last = seconds_of(found.first or ""), seconds_of(found.last or "")
    by_rule: dict[str, list[Episode]] = defaultdict(list)
    for episode in found.alerts:
        by_rule[episode.rule].append(episode)
    width = max(map(len, by_rule))
    for rule, episodes in by_rule.items():
        cells = {cell for episode in episodes for cell in _cells(episode, first, last)}
        line = "".join(fires if cell in cells else calm for cell in range(_COLUMNS))
        out.print(f"{rule:<{width}}  {line}", style=_STYLES[episodes[0].severity])
    start, end = (found.first or "")[11:19], (found.last or "")[11:19]
    out.print(f"{'':<{width}}  {start}{end:>{_COLUMNS - len(start)}}\n", style="dim")


def _cells(episode: Episode, first: float, last: float) -> range:
    """Return the columns in which an episode is seen; one that is shorter than a column is seen, too."""
    scale = _COLUMNS / max(1.0, last - first)
    begin = seconds_of(episode.since) - first
    return range(
        min(_COLUMNS - 1, max(0, int(begin * scale))), min(_COLUMNS, max(0, int((begin + episode.seconds) * scale)) + 1)
    )


def print_explanation(found: Explanation) -> None:
    """Print what a rule sees, the worst first."""
    out = console()
    if found.window:
        out.print(f"{found.rule} by the window of {found.window}\n", style="dim")
    for one in found.label_sets:
        _print_label_set(one, found)
    if not found.label_sets:
        out.print(f"{found.rule} sees nothing: no such series, or no such event lately")
    if found.others:
        out.print("\nnot looked at, as `where` excludes them:", style="dim")
        for labels in found.others:
            out.print("  " + printable(" ".join(f"{name}={value}" for name, value in labels.items())), style="dim")


def _print_label_set(one: LabelSet, found: Explanation) -> None:
    out = console()
    about = printable(" ".join(f"{name}={value}" for name, value in one.labels.items())) or found.rule
    since = f" since {one.since[:19]}" if one.since and one.state != "inactive" else ""
    out.print(f"{about}: {one.state}{since}", style=_STYLES[found.severity] if one.state == "firing" else "")
    out.print(f"    {one.level}: {printable(one.reason)}")
    out.print(f"    {one.next}")
    if one.suppressed:
        out.print(f"    nobody is notified: {printable(one.suppressed)}")
    if one.acknowledged_by:
        out.print(f"    acknowledged by {printable(one.acknowledged_by)}")
