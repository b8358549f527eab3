"""What `penstock alerts check` and `backtest` run: `python -m penstock_services.alerts check|backtest`."""

from __future__ import annotations

import argparse
import asyncio
from collections import Counter
from collections.abc import Sequence

from penstock.cli.session import session
from penstock.cli.terminal import console, print_json, print_table
from penstock.config import Duration
from penstock.errors import ConfigurationError
from penstock.settings import Settings
from penstock.times import duration
from penstock_services.alerts.backtest import Backtest, Episode, backtest
from penstock_services.alerts.rules.file import load
from penstock_services.alerts.rules.model import EventRule, Rule, Rules, SeriesRule


def run(arguments: Sequence[str]) -> None:
    """Run one of the commands.

    Raises:
        ConfigurationError: the rules or the arguments are wrong.
        Unavailable: Redis does not answer.
    """
    parser = argparse.ArgumentParser(prog="penstock alerts")
    parser.add_argument("command", choices=("check", "backtest"))
    parser.add_argument("file", nargs="?")
    parser.add_argument("--since")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    settings = Settings.from_env()
    rules = load(asked.file or settings.alerts)
    if asked.command == "check":
        _print_rules(rules, as_json=asked.json)
    else:
        found = asyncio.run(_backtest(rules, _since(asked.since), settings.metrics_lateness))
        print_json(found) if asked.json else _print_backtest(rules, found)


def _since(text: str | None) -> float | None:
    try:
        return None if text is None else Duration.parse(text)
    except ValueError as error:
        raise ConfigurationError(f"--since: {error}") from None


async def _backtest(rules: Rules, since: float | None, lateness: float) -> Backtest:
    async with session() as here:
        return await backtest(here.redis, here.keys, rules, since=since, lateness=lateness)


def _print_rules(rules: Rules, *, as_json: bool) -> None:
    rows = [(name, _kind(rule), rule.severity, _looks_at(rule)) for name, rule in rules.rules.items()]
    if as_json:
        print_json([dict(zip(("rule", "kind", "severity", "looks_at"), row, strict=True)) for row in rows])
        return
    print_table(["rule", "kind", "severity", "looks at"], rows)
    console().print(f"\n{len(rows)} rules, all right")


def _kind(rule: Rule) -> str:
    return str(rule.__struct_config__.tag)


def _looks_at(rule: Rule) -> str:
    match rule:
        case SeriesRule(series=series, where=where):
            return " ".join((series, *where))
        case EventRule(type=event_type, where=where):
            return " ".join((event_type, *where))
    return ""


def _print_backtest(rules: Rules, found: Backtest) -> None:
    out = console()
    if not found.windows:
        out.print("`metrics` holds no roll-ups of that time: does the metrics service run?")
        return
    out.print(f"{found.windows} roll-ups from {found.first} to {found.last}\n", style="dim")
    if found.alerts:
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
