"""alerts.yaml: read, and checked as a whole, so that every mistake is known before anything runs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec

from penstock.config import NAME_RULE, convert, did_you_mean, find_file, is_name, read_yaml
from penstock.errors import ConfigurationError
from penstock.matchers import impossible
from penstock.mesh.alerts import RulesGiven
from penstock.schemas import Severity
from penstock_services.alerts.rules.check import problems_of
from penstock_services.alerts.rules.model import KINDS, Inhibition, Rule, Rules

FILE = "alerts.yaml"
_PARTS = ("rules", "inhibit")


def load(path: Path | str | None = None) -> Rules:
    """Read and check the rules; see `read`.

    Raises:
        ConfigurationError: the file cannot be read or is wrong; a sentence for each mistake, with rule and key.
    """
    name, text = read(path)
    return parse(text, name=name)


def read(path: Path | str | None = None) -> tuple[str, str]:
    """Return name and text of `path`, else of ./alerts.yaml, else of the one that ships with Penstock.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    return find_file(path, FILE, "PENSTOCK_ALERTS")


def parse(text: str, *, name: str = FILE) -> Rules:
    """Read rules from YAML text, calling it `name` in errors.

    Raises:
        ConfigurationError: as for `load`.
    """
    raw = read_yaml(text, name)
    if not isinstance(raw, dict):
        raise ConfigurationError(f"{name}: expected the keys {' and '.join(_PARTS)}, got {type(raw).__name__}")
    problems = [_unknown(str(key), _PARTS) for key in raw if key not in _PARTS]
    rules = _rules(raw.get("rules") or {}, problems)
    inhibit = _inhibitions(raw.get("inhibit") or [], problems)
    problems += [f"inhibit[{at}].{problem}" for at, one in enumerate(inhibit) for problem in _unfit(one, rules)]
    if problems:
        raise ConfigurationError("\n".join(f"{name}: {problem}" for problem in problems))
    return Rules(rules=rules, inhibit=inhibit)


def readable(given: RulesGiven | None) -> Rules | None:
    """Return rules that somebody gave; None if nobody did, or this version cannot read them."""
    with contextlib.suppress(ConfigurationError):
        return parse(given.text, name=given.name) if given else None
    return None


def _rules(raw: Any, problems: list[str]) -> dict[str, Rule]:
    if not isinstance(raw, dict):
        problems.append("rules: expected a mapping of names to rules, such as `rules: {queue-lags: {kind: threshold}}`")
        return {}
    rules: dict[str, Rule] = {}
    for key, body in raw.items():
        name = str(key)
        found = _rule(name, body)
        if isinstance(found, Rule):
            rules[name] = found
            problems += [f"rules.{name}.{problem}" for problem in problems_of(found)]
        else:
            problems += [f"rules.{name}{problem}" for problem in found]
    return rules


def _rule(name: str, body: Any) -> Rule | list[str]:
    """Return the rule, or what is wrong with it."""
    if not is_name(name):
        return [f": {NAME_RULE}"]
    if not isinstance(body, dict):
        return [f": expected a mapping with the key kind, got {type(body).__name__}"]
    kind = KINDS.get(str(body.get("kind")))
    if kind is None:
        given = f"there is no kind {body['kind']}" if "kind" in body else "it is missing"
        return [f".kind: {given}; the kinds are {', '.join(KINDS)}"]
    known = {"kind", *(field.encode_name for field in msgspec.structs.fields(kind))} - {"name"}
    unknown = [f".{_unknown(str(key), known)}" for key in body if key not in known]
    return unknown or _converted({**body, "name": name}, kind)


def _converted(body: dict[str, Any], kind: type[Rule]) -> Rule | list[str]:
    try:
        return convert(body, kind, "")
    except ConfigurationError as error:
        return [_below(str(error))]


def _inhibitions(raw: Any, problems: list[str]) -> tuple[Inhibition, ...]:
    if not isinstance(raw, list):
        problems.append("inhibit: expected a list of {source, target, equal}")
        return ()
    found = []
    for at, body in enumerate(raw):
        try:
            found.append(convert(body, Inhibition, ""))
        except ConfigurationError as error:
            problems.append(f"inhibit[{at}]{_below(str(error))}")
    return tuple(found)


def _unfit(inhibition: Inhibition, rules: Iterable[str]) -> Iterator[str]:
    known = {"severity": get_args(Severity), "rule": tuple(rules)}
    for side, matchers in (("source", inhibition.source), ("target", inhibition.target)):
        if problem := impossible(matchers, known):
            yield f"{side}: {problem}"


def _below(message: str) -> str:
    """Return a message of `convert` as what follows the name of the thing converted."""
    text = message.removeprefix(": ")
    missing = re.fullmatch(r"Object missing required field `(.+)`", text)
    if missing:
        return f".{missing[1]}: it is missing"
    return f".{text}" if re.match(r"[\w.]+: ", text) else f": {text}"


def _unknown(key: str, known: Any) -> str:
    return f"{key}: there is no such key; {did_you_mean(key, known)}"
