"""Comparing what was seen with what must have come: every difference is a finding."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from tests.chaos.torture.behaviour import FOR_EVER
from tests.chaos.torture.evidence import Evidence
from tests.chaos.torture.model import Expected, Handled, Published
from tests.chaos.torture.seen import DeadLetter, Entry, Seen, State

Difference = Literal["lost", "doubled", "unpredicted", "stuck", "wrong", "exit", "left"]
# What is known to be wrong and not mended: such findings fail no experiment.
KNOWN: dict[str, str] = {}
_DEATHS = 3  # processes that must have died with an event in flight before it is dead-lettered for it
_CLOCK_MS = 5  # between the clocks of a process and of Redis, which round differently


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it must be."""

    kind: Difference
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"

    @property
    def known(self) -> bool:
        """Whether it comes of a fault that is known."""
        return any(re.match(pattern, str(self)) for pattern in KNOWN)


def check(expected: Expected, seen: Seen, evidence: Evidence) -> list[Finding]:
    """Return every difference between what must be and what is."""
    crashes: Counter[tuple[str, str]] = Counter(
        (dead.service, dead.key) for dead in seen.dead_letters if dead.reason == "crashed"
    )
    return [
        *_published(expected, seen.entries),
        *_dead_letters(expected, seen, crashes),
        *_crashed(expected, crashes, evidence),
        *_runs(expected, seen, evidence),
        *_states(expected, seen, crashes),
        *_leftovers(seen),
    ]


def _published(expected: Expected, entries: list[Entry]) -> Iterator[Finding]:
    """Each event once: by where it lies and what it is of, and by its id."""
    lying: defaultdict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        lying[entry.stream, entry.key].append(entry)
    ids = {entry.key: entry.id for entry in entries}
    for event in expected.published:
        found = lying.pop((event.stream, event.key), [])
        where = f"{event.key} in {event.stream}"
        if not found:
            yield Finding("lost", where)
        elif len(found) > 1:
            yield Finding("doubled", f"{where}, {len(found)} times")
        for entry in found[:1]:
            yield from _attributes(event, entry, ids)
    for (stream, key), found in lying.items():
        yield Finding("unpredicted", f"{key} in {stream}, {len(found)} times")
    for event_id, times in Counter(entry.id for entry in entries).items():
        if times > 1:
            yield Finding("doubled", f"id {event_id}, {times} times")


def _attributes(event: Published, entry: Entry, ids: Mapping[str, str]) -> Iterator[Finding]:
    cause = ids.get(event.cause) if event.cause else None
    for name, must, found in (
        ("type", event.type, entry.type),
        ("subject", event.subject, entry.subject),
        ("tenant", event.tenant, entry.tenant),
        ("cause", cause, entry.cause),
    ):
        if must != found:
            yield Finding("wrong", f"{event.key} in {event.stream}: {name} is {found}, not {must}")
    if entry.entry_ms + _CLOCK_MS < entry.not_before:
        yield Finding("wrong", f"{event.key} in {event.stream}: {entry.not_before - entry.entry_ms:.0f} ms too early")


def _dead_letters(expected: Expected, seen: Seen, crashes: Counter[tuple[str, str]]) -> Iterator[Finding]:
    """As many dead letters as an event has died deaths: one for each life, and replays begin new ones."""
    lying: defaultdict[tuple[str, str], list[DeadLetter]] = defaultdict(list)
    for dead in seen.dead_letters:
        lying[dead.service, dead.key].append(dead)
    for key, handled in expected.handled.items():
        found = lying.pop(key, [])
        who = f"{handled.key} of {handled.service}"
        lives = 1 + sum(dead.replayed for dead in found)
        ended = [dead for dead in found if dead.reason != "crashed"]
        done = seen.states[handled.service].done.get(handled.key, 0)
        if len(found) != lives - min(done, 1):
            yield Finding("wrong", f"{who}: {lives} lives, {len(found)} dead letters, done {done} times")
        if handled.deaths < FOR_EVER and len(ended) != handled.deaths:
            yield Finding("wrong", f"{who}: {len(ended)} dead letters and not {handled.deaths}")
        if handled.deaths and not found:
            yield Finding("lost", f"the dead letter for {who}")
        for dead in ended:
            if dead.reason != handled.reason or (dead.attempts != handled.attempts and not crashes[key]):
                yield Finding(
                    "wrong",
                    f"{who}: {dead.reason} after {dead.attempts} attempts, not {handled.reason} after "
                    f"{handled.attempts}",
                )
    for (service, name), found in lying.items():
        yield Finding("unpredicted", f"{len(found)} dead letters for {name} of {service}: {found[0].reason}")


def _crashed(expected: Expected, crashes: Counter[tuple[str, str]], evidence: Evidence) -> Iterator[Finding]:
    """Nobody is charged with deaths that nobody died: three, the last of them alone in a process that began it."""
    for (service, key), times in crashes.items():
        handled = expected.handled.get((service, key))
        if handled is not None and handled.kills:
            continue
        known = evidence.deaths.get(service, 0)
        if known < _DEATHS * times:
            yield Finding("wrong", f"{key} of {service} is charged with {_DEATHS * times} deaths; there were {known}")
        elif key not in evidence.begun.get(service, ()):
            yield Finding("wrong", f"{key} of {service} is charged with deaths; none of the dead had begun it")


def _runs(expected: Expected, seen: Seen, evidence: Evidence) -> Iterator[Finding]:
    """Nothing is taken from a process to which nothing was done: each of its runs ends with a commit."""
    for (service, key), runs in evidence.runs.items():
        handled = expected.handled.get((service, key))
        if handled is None or not handled.counts_deaths:
            continue
        state = seen.states[service]
        counts = (state.done, state.retried, state.snoozed, state.waited, state.died)
        commits = sum(count.get(key, 0) for count in counts)
        if runs != commits:
            yield Finding("wrong", f"{runs} runs and {commits} commits of {key} of {service}, which nothing disturbed")


def _states(expected: Expected, seen: Seen, crashes: Counter[tuple[str, str]]) -> Iterator[Finding]:
    """Each effect on state once."""
    for handled in expected.handled.values():
        yield from _state(handled, seen.states[handled.service], seen, crashes[handled.service, handled.key])
    for service, state in seen.states.items():
        for key in state.done.keys() - {one.key for one in expected.handled.values() if one.service == service}:
            yield Finding("unpredicted", f"{service} has done {key}")
        for name, counted in (("total", state.total), ("order", len(state.order)), ("scores", state.scores)):
            if counted != len(state.done):
                yield Finding("wrong", f"{service}: {name} counts {counted}, and {len(state.done)} are done")
        for key, error in state.surprises.items():
            yield Finding("wrong", f"{service} failed on {key}: {error}")
        for key, times in Counter(state.order).items():
            if times > 1:
                yield Finding("doubled", f"{service} has put {key} into a list {times} times")


def _state(handled: Handled, state: State, seen: Seen, crashed: int) -> Iterator[Finding]:
    key, who = handled.key, f"{handled.key} of {handled.service}"
    done = state.done.get(key, 0)
    if handled.deaths < FOR_EVER and not done:
        yield Finding("lost", f"the end of {who}")
    elif done > 1:
        yield Finding("doubled", f"{who} is done {done} times")
    elif handled.deaths >= FOR_EVER and done:
        yield Finding("unpredicted", f"{who} is done")
    for name, must, found in (
        ("retried", handled.retried, state.retried.get(key, 0)),
        ("snoozed", handled.snoozed, state.snoozed.get(key, 0)),
        ("nonces", 1 if handled.counts_nonces and not handled.kills else None, state.nonces.get(key, 0)),
    ):
        # A crash ends a life in the midst of its attempts, and the next begins with the first.
        if must is not None and found != must and not (crashed and name == "retried" and found > must):
            yield Finding("doubled" if found > must else "lost", f"{who}: {name} {found} times, not {must}")
    if handled.counts_deaths:
        ends = [one.reason for one in seen.dead_letters if (one.service, one.key) == (handled.service, key)]
        # The rescuer itself buries what kills again when it is read, and calls no hook.
        if not len(ends) - ends.count("crashed") <= state.died.get(key, 0) <= len(ends):
            yield Finding("wrong", f"{who}: {len(ends)} dead letters, and its hook counted {state.died.get(key, 0)}")


def _leftovers(seen: Seen) -> Iterator[Finding]:
    kept = {(dead.service, dead.key) for dead in seen.dead_letters}
    ids = {entry.id: entry.key for entry in seen.entries}
    for leftover in seen.leftovers:
        _, service, _, event_id = leftover.split(":")
        key = ids.get(event_id)
        done = key is not None and seen.states[service].done.get(key, 0) if service in seen.states else 0
        if done or (service, key) not in kept:
            yield Finding("left", leftover)
