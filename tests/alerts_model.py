"""A model of what must be told to whom: it keeps whole histories, and goes back over them for each window."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

GROUPS = "abcdefgh"
ENDPOINTS = ("all", "pager", "team", "late", "backup")
"""Where messages arrive; notify.yaml calls the channel there so, or otherwise, or has none."""
_MISSING, _JOINED = 60.0, 300.0


class RuleUnderTest(msgspec.Struct, kw_only=True):
    """A rule, as the model sees it and as alerts.yaml has it."""

    above: float
    clear: float
    hold: float = 0.0
    keep: float = 0.0
    severity: str = "warning"
    repeat: float = 3_600.0
    excluded: str = ""
    by_group: bool = False
    as_one: bool = False
    flap: tuple[int, float, float] = (100, 1.0, 1.0)

    def yaml(self, name: str) -> str:
        """Return it as a part of alerts.yaml."""
        lines = [
            f"  {name}:",
            *("    kind: threshold", "    series: lag_age"),
            "    flap: {{triggers: {}, within: {:g}s, calm: {:g}s}}".format(*self.flap),
            *(f"    {key}: {value}" for key, value in (("above", self.above), ("clear", self.clear))),
            *(f"    {key}: {value:g}s" for key, value in (("for", self.hold), ("keep_firing", self.keep))),
            *(f"    severity: {self.severity}", f"    repeat: {self.repeat:g}s"),
            *([f"    where: ['group!={self.excluded}']"] if self.excluded else []),
            *(["    by: [group]"] if self.by_group else []),
            *(["    group_by: []"] if self.as_one else []),
        ]
        return "\n".join(lines)


class EventRuleUnderTest(msgspec.Struct, kw_only=True):
    """A rule about events, by their group: `keep` seconds after the last one it is over, or else when that is told."""

    at_least: int
    within: float
    keep: float | None
    severity: str
    repeat: float
    as_one: bool = False

    def yaml(self, name: str) -> str:
        """Return it as a part of alerts.yaml; its events are called as it is."""
        over = f"resolved_by: {name}.over" if self.keep is None else f"keep_firing: {self.keep:g}s"
        return f"""  {name}:
    kind: event
    type: {name}
    by: [group]
    flap: {{triggers: 100, within: 1s, calm: 1s}}
    at_least: {self.at_least}
    within: {self.within:g}s
    {over}
    severity: {self.severity}
    repeat: {self.repeat:g}s"""


EVENT_RULES = {
    "failed": EventRuleUnderTest(at_least=3, within=60, keep=120, severity="info", repeat=600),
    "broken": EventRuleUnderTest(at_least=1, within=60, keep=None, severity="critical", repeat=1_800),
}


def first_rules() -> dict[str, RuleUnderTest]:
    """Return the rules that a soak begins with."""
    return {
        "lag": RuleUnderTest(above=30, clear=10, flap=(3, 1_200.0, 300.0)),
        "stuck": RuleUnderTest(above=300, clear=30, hold=20, keep=30, severity="critical"),
        "pool": RuleUnderTest(above=60, clear=60, as_one=True, repeat=1_800),
    }


def text_of(rules: dict[str, RuleUnderTest]) -> str:
    """Return alerts.yaml."""
    return "\n".join(["rules:", *(rule.yaml(name) for name, rule in (rules | EVENT_RULES).items())])


class Channels:
    """What notify.yaml says: how each endpoint is called there, if at all, and who is told of what.

    `team` is the group whose alerts the team is told of.
    """

    def __init__(self) -> None:
        self.names: dict[str, str | None] = {name: name for name in ENDPOINTS}
        self.names["late"] = None
        self.team = "a"

    def yaml(self) -> str:
        """Return notify.yaml."""
        channels = ", ".join(
            f"{name}: {{type: webhook, url: 'https://{endpoint}.example.com/'}}"
            for endpoint, name in self.names.items()
            if name is not None
        )
        routes = {
            "all": "",
            "pager": "min_severity: critical, failover: backup",
            "team": f"match: [group={self.team}]",
            "late": "min_severity: warning",
        }
        lines = [
            f"  - {{channels: [{self.names[endpoint]}], {more}}}"
            for endpoint, more in routes.items()
            if self.names[endpoint] is not None
        ]
        return "\n".join([f"channels: {{{channels}}}", "routes:" if lines else "routes: []", *lines])

    @property
    def known(self) -> set[str]:
        """The names of all channels."""
        return {"console", *(name for name in self.names.values() if name is not None)}

    def concerned(self, severity: str, group: str) -> set[str]:
        """Return who is told of the beginning of an alert."""
        endpoints = {"all"}
        endpoints |= {"pager"} if severity == "critical" else set()
        endpoints |= {"team"} if group == self.team else set()
        endpoints |= {"late"} if severity != "info" else set()
        return {"console", *(name for endpoint in endpoints if (name := self.names[endpoint]) is not None)}


class _Told(msgspec.Struct):
    known: set[str]
    last: float
    severity: str
    acknowledged: bool = False
    channels: set[str] = set()


class Model:
    """What must be told to whom, from the values alone."""

    def __init__(self) -> None:
        self.rules = first_rules()
        self.silenced: dict[str, float] = {}
        self.channels = Channels()
        self._fired: dict[tuple[str, str], list[float]] = {}
        self._flapping: set[tuple[str, str]] = set()
        self._history: dict[tuple[str, str], list[tuple[float, str]]] = {}
        self._arrivals: dict[tuple[str, str], list[float]] = {}
        self._firing: set[tuple[str, str]] = set()
        self._told: dict[tuple[str, str], _Told] = {}
        self._said: set[tuple[str, str]] = set()
        self._taken_back: set[tuple[str, str]] = set()

    @property
    def firing(self) -> list[tuple[str, str]]:
        """Rule and group of what fires."""
        return sorted(self._firing)

    def window(self, now: float, values: dict[str, float]) -> list[tuple[str, str, str, str]]:
        """Return what must be told at the end of a window: channel, kind, rule and group ("" for all as one)."""
        for name, rule in self.rules.items():
            for group in GROUPS:
                if group != rule.excluded:
                    self._evaluate(name, rule, group, now, values.get(group))
        told = [*self._notify(now)]
        for name, group in self.firing:
            keep = EVENT_RULES[name].keep if name in EVENT_RULES else None
            if keep is not None and now - self._arrivals[name, group][-1] >= keep:
                self._end(name, group)
        return sorted([*told, *self._notify(now)])

    def event(self, now: float, name: str, group: str) -> list[tuple[str, str, str, str]]:
        """Return what must be told because an event has arrived."""
        rule, key = EVENT_RULES[name.removesuffix(".over")], (name.removesuffix(".over"), group)
        arrivals, fired = self._arrivals.setdefault(key, []), key in self._firing
        arrivals.append(now)
        if name != key[0]:
            arrivals.clear()
            self._end(*key)
        elif sum(now - at < rule.within for at in arrivals) >= rule.at_least:
            self._firing.add(key)
        return sorted(self._notify(now)) if (key in self._firing) != fired else []

    def edit(self, now: float, rules: dict[str, RuleUnderTest]) -> list[tuple[str, str, str, str]]:
        """Return what must be told because the rules are others now."""
        for name, group in [*self._history]:
            before, after = self.rules.get(name), rules.get(name)
            if after is None or before is None or before.by_group != after.by_group or after.excluded == group:
                del self._history[name, group]
                self._fired.pop((name, group), None)
                self._end(name, group)
        self.rules = rules
        return sorted(self._notify(now))

    def acknowledge(self, name: str, group: str) -> None:
        """Somebody takes an alert on."""
        self._said.add((name, group))
        self._taken_back.discard((name, group))

    def withdraw(self, name: str, group: str) -> None:
        """Somebody gives an alert back that was taken on, or was not."""
        self._taken_back.add((name, group))
        self._said.discard((name, group))

    def _evaluate(self, name: str, rule: RuleUnderTest, group: str, now: float, value: float | None) -> None:
        history = self._history.setdefault((name, group), [])
        history.append((now, _level(rule, value)))
        if (name, group) in self._firing:
            well = _trailing(history, {"good", "missing"})
            keep = max(rule.keep, _MISSING) if history[-1][1] == "missing" else rule.keep
            keep = max(keep, rule.flap[2]) if (name, group) in self._flapping else keep
            if well is not None and now - well >= keep:
                self._end(name, group)
                history.clear()
        elif history[-1][1] == "bad" and now - _begun(history) >= rule.hold:
            self._begin(name, group, rule, now)

    def _begin(self, name: str, group: str, rule: RuleUnderTest, now: float) -> None:
        self._firing.add((name, group))
        fired = self._fired.setdefault((name, group), [])
        fired.append(now)
        most, within, _ = rule.flap
        if sum(now - at < within for at in fired) >= most:
            self._flapping.add((name, group))

    def _end(self, name: str, group: str) -> None:
        self._firing.discard((name, group))
        self._flapping.discard((name, group))

    def _notify(self, now: float) -> Iterator[tuple[str, str, str, str]]:
        groups: dict[tuple[str, str], set[str]] = {}
        for name, group in self._firing:
            groups.setdefault((name, "" if self._rule(name).as_one else group), set()).add(group)
        self._said &= self._firing
        self._taken_back &= self._firing
        for key in [*self._told]:
            if key not in groups:
                yield from self._send("resolved", key, self._told.pop(key))
        for key, members in groups.items():
            yield from self._notify_group(key, members, now)

    def _notify_group(self, key: tuple[str, str], members: set[str], now: float) -> Iterator[tuple[str, str, str, str]]:
        rule, told = self._rule(key[0]), self._told.get(key)
        audible = {group for group in members if self.silenced.get(group, 0.0) <= now}
        if told:
            told.known &= members
            if told.severity != rule.severity:
                self._said -= {(key[0], group) for group in members}
                self._taken_back -= {(key[0], group) for group in members}
                told.acknowledged = told.acknowledged and not audible
        said = any((key[0], group) in self._said for group in members)
        taken_back = any((key[0], group) in self._taken_back for group in members)
        if audible and told is None:
            told = self._told[key] = _Told(known=set(audible), last=now, severity=rule.severity)
            yield from self._send("triggered", key, told)
        elif audible and told and self._is_due(rule, told, audible, said or taken_back, now):
            told.known |= audible
            told.last, told.severity = now, rule.severity
            yield from self._send("repeated", key, told)
        if said and told:
            self._said -= {(key[0], group) for group in members}
            if not told.acknowledged:
                told.acknowledged = True
                yield from self._send("acknowledged", key, told)
        if taken_back:
            self._taken_back -= {(key[0], group) for group in members}
            if told and told.acknowledged:
                told.acknowledged, told.last = False, now
                yield from self._send("unacknowledged", key, told)

    def _rule(self, name: str) -> RuleUnderTest | EventRuleUnderTest:
        return EVENT_RULES[name] if name in EVENT_RULES else self.rules[name]

    def _is_due(
        self, rule: RuleUnderTest | EventRuleUnderTest, told: _Told, audible: set[str], said: bool, now: float
    ) -> bool:
        if told.severity != rule.severity:
            return True
        if audible - told.known:
            return now - told.last >= _JOINED
        return not (said or told.acknowledged) and now - told.last >= rule.repeat

    def _send(self, kind: str, key: tuple[str, str], told: _Told) -> Iterator[tuple[str, str, str, str]]:
        """Yield who is told: of a beginning those it concerns, of all that follows who was told of that.

        What is given back concerns those whom it would if it began, too. For a channel that was told, and that there is
        none of this name any more, those stand in whom a beginning would concern.
        """
        concerned = self.channels.concerned(told.severity, key[1])
        if kind in ("triggered", "repeated", "unacknowledged") and not told.acknowledged:
            told.channels = told.channels | concerned
        if kind in ("triggered", "repeated") and not told.acknowledged:
            now_told = concerned
        elif told.channels <= self.channels.known:
            now_told = told.channels
        else:
            now_told = (told.channels & self.channels.known) | concerned
        told.channels = told.channels | now_told
        return ((channel, kind, *key) for channel in now_told)


def _level(rule: RuleUnderTest, value: float | None) -> str:
    if value is None:
        return "missing"
    return "bad" if value > rule.above else "between" if value > rule.clear else "good"


def _trailing(history: list[tuple[float, str]], levels: set[str]) -> float | None:
    """Return since when the levels at the end have all been among these."""
    since = None
    for time, level in reversed(history):
        if level not in levels:
            break
        since = time
    return since


def _begun(history: list[tuple[float, str]]) -> float:
    """Return since when it is bad without a break; a hole shorter than a minute is none."""
    since = hole_end = history[-1][0]
    hole = False
    for time, level in reversed(history):
        if level == "bad":
            since, hole = time, False
        elif level == "missing":
            hole_end = hole_end if hole else time
            hole = True
            if hole_end - time >= _MISSING:
                break
        else:
            break
    return since
