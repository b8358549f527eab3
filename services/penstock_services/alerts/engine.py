"""The engine: folds windows, ticks and events into the book. Time is in what it folds; it reads no clock.

The live service and the backtest run the very same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import structlog

from penstock.event import Event
from penstock.mesh.alerts import AlertRecord
from penstock.schemas import COUNTED, MetricsWindow, Series
from penstock.times import seconds_of
from penstock_services.alerts.evaluate import event as arrivals
from penstock_services.alerts.evaluate.evaluate import forget_after, judge
from penstock_services.alerts.evaluate.observation import Observation, fingerprint, observe
from penstock_services.alerts.input import Tick, empty_windows
from penstock_services.alerts.notify.compose import summary_of
from penstock_services.alerts.notify.grouping import announce
from penstock_services.alerts.rules.model import Absence, EventRule, Rule, Rules, SeriesRule
from penstock_services.alerts.state.lifecycle import Transition, forgettable, policy_of, resolve, step
from penstock_services.alerts.state.result import Finding, Question
from penstock_services.alerts.state.state import Book, of_rule, of_transition

_log = structlog.get_logger("penstock.alerts")


class Engine:
    """Judges by `rules`. `lateness` is how many seconds the metrics processor waits for late events."""

    def __init__(self, rules: Rules, *, lateness: float = 5.0) -> None:
        self._rules = rules
        self._series = [rule for rule in rules.rules.values() if isinstance(rule, SeriesRule)]
        self._absences = [rule for rule in self._series if isinstance(rule, Absence)]
        self._events = [rule for rule in rules.rules.values() if isinstance(rule, EventRule)]
        self._lateness = lateness

    def fold(self, book: Book, item: MetricsWindow | Tick) -> None:
        """Fold a window or a tick."""
        if isinstance(item, Tick):
            self.tick(book, seconds_of(item.time))
        else:
            self.window(book, item)

    def window(self, book: Book, window: MetricsWindow) -> None:
        """Fold one whole window; one that was judged before, or is older than one that was, is nothing new."""
        start = seconds_of(window.start)
        if start + window.seconds <= book.clock.windows.get(_key(window.scope, window.seconds), 0.0):
            return
        self._retire(book, start + window.seconds)
        if window.scope == "mesh":
            self._judge_gaps(book, window, start + window.seconds)
        self._judge(book, window.scope, window.seconds, start, window.series)
        announce(self._rules, book, book.clock.now)

    def tick(self, book: Book, now: float) -> None:
        """Let time come as far as `now`: what is absent, what is over, what is to be told again."""
        now = book.advance(now)
        self._retire(book, now)
        for rule in self._absences:
            self._judge_rule(book, rule, now, now, ())
        for event_rule in self._events:
            for finding in arrivals.expired(event_rule, book, now):
                self._step(book, event_rule, finding, now)
        self._forget(book, now)
        announce(self._rules, book, now)

    def wants(self, event: Event) -> bool:
        """Return whether any rule looks at such events."""
        return any(arrivals.concerns(rule, event.type) for rule in self._events)

    def event(self, book: Book, event: Event, at: float) -> None:
        """Fold one event that arrived at `at`."""
        self._retire(book, book.advance(at))
        before = len(book.history)
        for rule in self._events:
            if arrivals.concerns(rule, event.type):
                found = arrivals.judge(rule, book, event, at)
                if found is not None:
                    self._step(book, rule, found, at)
        if len(book.history) > before:  # what a thousand events of an alert that fires say is nothing new
            announce(self._rules, book, book.clock.now)

    def _judge_gaps(self, book: Book, mesh: MetricsWindow, end: float) -> None:
        last = book.clock.windows.get(_key("events", mesh.seconds))
        if last is not None:
            for start in empty_windows(mesh, end, last, self._lateness):
                self._judge(book, "events", mesh.seconds, start, [])

    def _judge(self, book: Book, scope: str, seconds: int, start: float, series: list[Series]) -> None:
        end = start + seconds
        book.judged(_key(scope, seconds), end)
        book.advance(end)
        for rule in self._series:
            if float(rule.window) == seconds and (rule.series in COUNTED) == (scope == "events"):
                at = book.clock.now if isinstance(rule, Absence) else end
                self._judge_rule(book, rule, start, at, series)

    def _judge_rule(self, book: Book, rule: SeriesRule, start: float, at: float, series: Sequence[Series]) -> None:
        try:
            seen = observe(rule, series)
            for key, labels in self._label_sets(book, rule, seen).items():
                own = {name: value for name, value in labels.items() if name not in rule.labels}
                question = _question(own, book.alerts.get(key), start, at)
                self._judge_one(book, rule, key, question, seen.get(key))
        except Exception:  # noqa: BLE001 - a fault of ours in one rule must not silence all the others
            _log.exception("a rule could not be judged", rule=rule.name)

    def _label_sets(self, book: Book, rule: SeriesRule, seen: Mapping[str, Observation]) -> dict[str, dict[str, str]]:
        """Return every label set that is known from before, or seen now, by its fingerprint."""
        known = {key: record.labels for key, record in of_rule(book.alerts, rule.name)}
        known |= {key: memory.labels for key, memory in of_rule(book.memory, rule.name)}
        known |= {key: observation.labels for key, observation in seen.items()}
        if isinstance(rule, Absence) and not rule.by:
            known.setdefault(fingerprint(rule.name, {}), {})
        return known

    def _judge_one(self, book: Book, rule: SeriesRule, key: str, question: Question, seen: Observation | None) -> None:
        memory, verdict = judge(rule, book.memory.get(key), seen, question)
        if memory is None:
            book.memory.drop(key)
        else:
            book.memory.put(key, memory)
        self._step(book, rule, Finding(key, question.labels, verdict), question.at)

    def _step(self, book: Book, rule: Rule, finding: Finding, at: float) -> None:
        key = finding.fingerprint
        known = book.alerts.get(key) or AlertRecord(fingerprint=key, rule=rule.name)
        known = msgspec.structs.replace(known, severity=rule.severity, labels={**finding.labels, **rule.labels})
        record, transition = step(known, finding.verdict, at, policy_of(rule))
        self._save(book, rule, record, transition, at)

    def _save(self, book: Book, rule: Rule, record: AlertRecord, transition: Transition | None, at: float) -> None:
        if transition is not None:
            book.history.append(of_transition(record, transition, at))
        if forgettable(record, at, policy_of(rule)):
            book.alerts.drop(record.fingerprint)
        else:
            summary = summary_of(rule, [record])
            book.alerts.put(record.fingerprint, msgspec.structs.replace(record, summary=summary))

    def _retire(self, book: Book, now: float) -> None:
        """End the alerts of rules that alerts.yaml has no longer."""
        for key, record in book.alerts.items():
            if record.rule in self._rules.rules:
                continue
            if record.state in ("pending", "firing"):
                ended, transition = resolve(record, now, f"the rule {record.rule} is not in alerts.yaml any more")
                book.history.append(of_transition(ended, transition, now))
            book.alerts.drop(key)

    def _forget(self, book: Book, now: float) -> None:
        rules = self._rules.rules
        for key, memory in book.memory.items():
            rule = rules.get(memory.rule)
            active = book.alerts.get(key) is not None
            if not isinstance(rule, SeriesRule) or (not active and now - memory.seen > forget_after(rule)):
                book.memory.drop(key)
        for key, silence in book.silences.items():
            if now - silence.until > 86_400:
                book.silences.drop(key)


def _question(labels: dict[str, str], record: AlertRecord | None, start: float, at: float) -> Question:
    return Question(
        labels=labels,
        start=start,
        at=at,
        firing=record.fired if record and record.state == "firing" else None,
        pending=record is not None and record.state == "pending",
    )


def _key(scope: str, seconds: int) -> str:
    return f"{scope}:{seconds}"
