"""alerts.yaml: read, and checked as a whole, so that every mistake is known before anything runs."""

from __future__ import annotations

import difflib
import re
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from penstock.config import convert, read_yaml
from penstock.errors import ConfigurationError
from penstock_services.alerts.rules.check import problems_of
from penstock_services.alerts.rules.model import KINDS, Inhibition, Rule, Rules

_NAME = re.compile(r"[a-z0-9][a-z0-9._\-]{0,99}")
_PARTS = ("rules", "inhibit")


def load(path: Path | str | None = None) -> Rules:
    """Read the rules from `path`, else ./alerts.yaml, else those that ship with Penstock.

    Raises:
        ConfigurationError: the file cannot be read or is wrong; a sentence for each mistake, with rule and key.
    """
    file = Path(path) if path else Path("alerts.yaml")
    try:
        if path is None and not file.exists():
            return parse(resources.files("penstock").joinpath("alerts.yaml").read_text())
        return parse(file.read_text(), name=file.name)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(f"{file}: cannot be read ({why}); set PENSTOCK_ALERTS to your alerts.yaml") from None


def parse(text: str, *, name: str = "alerts.yaml") -> Rules:
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
    if problems:
        raise ConfigurationError("\n".join(f"{name}: {problem}" for problem in problems))
    return Rules(rules=rules, inhibit=inhibit)


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
    if not _NAME.fullmatch(name):
        return [": a name starts with a lower-case letter or digit and holds a-z, 0-9, dot, hyphen and underscore"]
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


def _below(message: str) -> str:
    """Return a message of `convert` as what follows the name of the thing converted."""
    text = message.removeprefix(": ")
    missing = re.fullmatch(r"Object missing required field `(.+)`", text)
    if missing:
        return f".{missing[1]}: it is missing"
    return f".{text}" if re.match(r"[\w.]+: ", text) else f": {text}"


def _unknown(key: str, known: Any) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"{key}: there is no such key; " + (
        f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
    )
