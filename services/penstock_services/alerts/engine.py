"""The engine: folds windows, ticks and events into the state. Time is in what it folds; it reads no clock.

The live service and the backtest run the very same code.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import structlog

from penstock.event import Event
from penstock.mesh.alerts import AlertRecord
from penstock.schemas import MetricsWindow, Series, Tick
from penstock.times import seconds_of
from penstock_services.alerts.evaluate import event as arrivals
from penstock_services.alerts.evaluate.evaluate import evaluate, forget_after, known_label_sets
from penstock_services.alerts.evaluate.observation import Observation, observe
from penstock_services.alerts.input import empty_windows
from penstock_services.alerts.notify.compose import summary_of
from penstock_services.alerts.notify.grouping import notify
from penstock_services.alerts.rules.model import Absence, EventRule, Rule, Rules, SeriesRule, own_labels, scope_of
from penstock_services.alerts.state.evaluation import EvaluationContext, Finding
from penstock_services.alerts.state.lifecycle import Transition, forgettable, policy_of, step
from penstock_services.alerts.state.state import AlertState, of_transition

_MINUTE = 60.0
_MOST_TYPES = 10_000
_log = structlog.get_logger("penstock.alerts")


class Engine:
    """Evaluates by `rules`. `lateness` is how many seconds the metrics processor waits for late events."""

    def __init__(self, rules: Rules, *, lateness: float = 5.0) -> None:
        self.rules = rules
        self._series = [rule for rule in rules.rules.values() if isinstance(rule, SeriesRule)]
        self._absences = [rule for rule in self._series if isinstance(rule, Absence)]
        self._events = [rule for rule in rules.rules.values() if isinstance(rule, EventRule)]
        self._wanted: dict[str, bool] = {}
        self._lateness = lateness

    def fold(self, state: AlertState, item: MetricsWindow | Tick) -> None:
        """Fold a window or a tick."""
        if isinstance(item, Tick):
            self.tick(state, seconds_of(item.time))
        else:
            self.window(state, item)

    def window(self, state: AlertState, window: MetricsWindow) -> None:
        """Fold one whole window; one that was evaluated before, or is older than one that was, is nothing new."""
        start = seconds_of(window.start)
        if start + window.seconds <= state.watermarks.windows.get(_key(window.scope, window.seconds), 0.0):
            return
        if window.scope == "mesh":
            self._evaluate_gaps(state, window, start + window.seconds)
        self._evaluate(state, window.scope, window.seconds, start, window.series)
        notify(self.rules, state, state.watermarks.now)

    def tick(self, state: AlertState, now: float) -> None:
        """Let time come as far as `now`: what is absent, what is over, who is to be renotified."""
        now = state.advance(now)
        for rule in self._absences:
            self._evaluate_rule(state, rule, now, now, ())
        for event_rule in self._events:
            for finding in arrivals.expired(event_rule, state, now):
                self._step(state, event_rule, finding, now)
        self._forget(state, now)
        notify(self.rules, state, now)
        if _is_up_to_date(state):
            state.is_alive()

    def wants(self, event: Event) -> bool:
        """Return whether any rule looks at such events: asked of every event of the mesh, so known by its type."""
        known = self._wanted.get(event.type)
        if known is None:
            if len(self._wanted) >= _MOST_TYPES:  # types come from outside
                self._wanted.clear()
            known = any(arrivals.concerns(rule, event.type) for rule in self._events)
            self._wanted[event.type] = known
        return known

    def event(self, state: AlertState, event: Event, at: float) -> None:
        """Fold one event that arrived at `at`."""
        state.advance(at)
        before = len(state.history)
        for rule in self._events:
            if arrivals.concerns(rule, event.type):
                found = arrivals.evaluate(rule, state, event, at)
                if found is not None:
                    self._step(state, rule, found, at)
        if len(state.history) > before:  # what a thousand events of an alert that fires say is nothing new
            notify(self.rules, state, state.watermarks.now)

    def _evaluate_gaps(self, state: AlertState, mesh: MetricsWindow, end: float) -> None:
        last = state.watermarks.windows.get(_key("events", mesh.seconds))
        if last is not None:
            for start in empty_windows(mesh, end, last, self._lateness):
                self._evaluate(state, "events", mesh.seconds, start, [])

    def _evaluate(self, state: AlertState, scope: str, seconds: int, start: float, series: list[Series]) -> None:
        end = start + seconds
        state.evaluated(_key(scope, seconds), end)
        state.advance(end)
        for rule in self._series:
            if float(rule.window) == seconds and scope_of(rule.series) == scope:
                at = state.watermarks.now if isinstance(rule, Absence) else end
                self._evaluate_rule(state, rule, start, at, series)

    def _evaluate_rule(
        self, state: AlertState, rule: SeriesRule, start: float, at: float, series: Sequence[Series]
    ) -> None:
        try:
            seen = observe(rule, series)
            for key, labels in known_label_sets(state, rule, seen).items():
                context = _context(own_labels(rule, labels), state.alerts.get(key), start, at)
                self._evaluate_label_set(state, rule, key, context, seen.get(key))
        except Exception:  # noqa: BLE001 - a fault of ours in one rule must not silence all the others
            _log.exception("a rule could not be evaluated", rule=rule.name)

    def _evaluate_label_set(
        self, state: AlertState, rule: SeriesRule, key: str, context: EvaluationContext, seen: Observation | None
    ) -> None:
        memory, evaluation = evaluate(rule, state.memory.get(key), seen, context)
        if memory is None:
            state.memory.drop(key)
        else:
            state.memory.put(key, memory)
        self._step(state, rule, Finding(key, context.labels, evaluation), context.at)

    def _step(self, state: AlertState, rule: Rule, finding: Finding, at: float) -> None:
        key = finding.fingerprint
        known = state.alerts.get(key) or AlertRecord(fingerprint=key, rule=rule.name)
        known = msgspec.structs.replace(known, severity=rule.severity, labels={**finding.labels, **rule.labels})
        record, transition = step(known, finding.evaluation, at, policy_of(rule))
        self._save(state, rule, record, transition, at)

    def _save(
        self, state: AlertState, rule: Rule, record: AlertRecord, transition: Transition | None, at: float
    ) -> None:
        if transition is not None:
            state.record(of_transition(record, transition, at))
        if forgettable(record, at, policy_of(rule)):
            state.alerts.drop(record.fingerprint)
        else:
            summary = summary_of(rule, [record])
            state.alerts.put(record.fingerprint, msgspec.structs.replace(record, summary=summary))

    def _forget(self, state: AlertState, now: float) -> None:
        rules = self.rules.rules
        for key, memory in state.memory.items():
            rule = rules.get(memory.rule)
            active = state.alerts.get(key) is not None
            if not isinstance(rule, SeriesRule) or (not active and now - memory.seen > forget_after(rule)):
                state.memory.drop(key)
        for key, silence in state.silences.items():
            if now - silence.until > 86_400:
                state.silences.drop(key)


def _context(labels: dict[str, str], record: AlertRecord | None, start: float, at: float) -> EvaluationContext:
    return EvaluationContext(
        labels=labels,
        start=start,
        at=at,
        firing=record.fired if record and record.state == "firing" else None,
        pending=record is not None and record.state == "pending",
    )


def _key(scope: str, seconds: int) -> str:
    return f"{scope}:{seconds}"


def _is_up_to_date(state: AlertState) -> bool:
    """Return whether what is evaluated is of now: a manager that catches up, or has nothing to go by, is not."""
    measured = state.watermarks.windows.get(_key("mesh", 10), 0.0)
    return state.watermarks.now - measured <= _MINUTE and state.clock - state.watermarks.now <= _MINUTE
