"""What commands of `penstock alerts` run: `python -m penstock_services.alerts check|reload|backtest|explain`."""

from __future__ import annotations

import argparse
import asyncio
import functools
import time
from collections.abc import Sequence

from penstock.cli.session import session
from penstock.cli.terminal import console, print_json, print_table
from penstock.config import Duration
from penstock.errors import ConfigurationError
from penstock.mesh.alerts import SERVICE, AlertStore, RulesGiven
from penstock.settings import Settings
from penstock_services.alerts.backtest import Backtest, backtest
from penstock_services.alerts.explain import Explanation, explain
from penstock_services.alerts.rules.change import changes
from penstock_services.alerts.rules.file import load, parse, read, readable
from penstock_services.alerts.rules.model import EventRule, Rule, Rules, SeriesRule
from penstock_services.alerts.state.store import StateReader
from penstock_services.alerts.views import print_backtest, print_explanation


def run(arguments: Sequence[str]) -> None:
    """Run one of the commands.

    Raises:
        ConfigurationError: the rules or the arguments are wrong.
        Unavailable: Redis does not answer.
    """
    parser = argparse.ArgumentParser(prog="penstock alerts")
    parser.add_argument("command", choices=("check", "backtest", "reload", "explain"))
    parser.add_argument("what", nargs="?", help="a rules file; of explain the name of a rule")
    parser.add_argument("--since")
    parser.add_argument("--by", default="")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    settings = Settings.from_env()
    match asked.command:
        case "check":
            _print_rules(load(asked.what or settings.alerts), as_json=asked.json)
        case "reload":
            _reload(asked.what or settings.alerts, by=asked.by)
        case "backtest":
            rules = load(asked.what or settings.alerts)
            found = asyncio.run(_backtest(rules, _since(asked.since), settings.metrics_lateness))
            print_json(found) if asked.json else print_backtest(rules, found)
        case "explain":
            seen = asyncio.run(_explain(asked.what or "", settings))
            print_json(seen) if asked.json else print_explanation(seen)


def _reload(path: str | None, *, by: str) -> None:
    name, text = read(path)
    rules = parse(text, name=name)
    before = asyncio.run(_give(RulesGiven(name=name, text=text, by=by, at=time.time())))
    out = console()
    for change in changes(before, rules):
        out.print(f"{change.what.removeprefix('rule ')} {change.rule.name}: {change.why}")
    out.print(f"{len(rules.rules)} rules are in force from now on")


async def _give(given: RulesGiven) -> Rules | None:
    """Put rules in force; return those before, None if they are not known."""
    async with session() as here:
        store = AlertStore(here.redis, here.keys)
        before = await store.rules()
        await store.give_rules(given)
    return readable(before)


async def _explain(name: str, settings: Settings) -> Explanation:
    async with session() as here:
        reader = StateReader(here.redis, functools.partial(here.keys.state, SERVICE))
        rules = readable(await reader.rules_in_force()) or load(settings.alerts)
        state = await reader.load(memory=True)
        return await explain(here.redis, here.keys, rules, state, name)


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
