"""What is known of the processes: which died, what those had begun, and whose work was taken from the undisturbed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping

import msgspec

from tests.chaos.torture.fleet import Fleet


class Evidence(msgspec.Struct, frozen=True):
    """What the processes wrote into their diaries, and what was done to them.

    `deaths` counts those of each service that died, or were out of reach for so long that they may be taken
    for dead; `begun` has the events that these had begun. `runs` counts the handler runs of each event, by service
    and key, that no process began to which anything was done.
    """

    deaths: Mapping[str, int] = {}
    begun: Mapping[str, Collection[str]] = {}
    runs: Mapping[tuple[str, str], int] = {}


def gather(fleet: Fleet) -> Evidence:
    """Read the diaries."""
    begun: defaultdict[str, set[str]] = defaultdict(set)
    runs: Counter[tuple[str, str]] = Counter()
    disturbed: set[tuple[str, str]] = set()
    for diary in fleet.diary.iterdir():
        service, _, pid = diary.name.partition(".")
        started = [(service, line.split()[1]) for line in diary.read_text().splitlines() if line.startswith("started")]
        runs.update(started)
        if int(pid) in fleet.deaths[service]:
            begun[service].update(key for _, key in started)
        if int(pid) in fleet.disturbed:
            disturbed.update(started)
    return Evidence(
        {service: len(pids) for service, pids in fleet.deaths.items()},
        begun,
        {event: count for event, count in runs.items() if event not in disturbed},
    )
