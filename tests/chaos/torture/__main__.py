"""`just chaos [MINUTES] [SEED]`: torture meshes until the time is up; one that breaks is shrunk and shown."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec

from tests.chaos.torture import experiment
from tests.chaos.torture import plan as plans
from tests.chaos.torture.check import KNOWN, Finding
from tests.chaos.torture.faults import KINDS, Fault, schedule
from tests.chaos.torture.shrink import shrink
from tests.servers import required_kinds

_SECONDS = 30.0  # of faults in one experiment; an experiment that breaks is run again many times
_TRIES = 2  # runs of a shorter list before it is called harmless: not everything happens each time


def main() -> int:
    """Run experiments; return how many failed, at most 1."""
    options = _options()
    seed = options.seed if options.seed is not None else secrets.randbelow(1_000_000)
    kinds = frozenset(options.kinds.split(",")) if options.kinds else frozenset(KINDS)
    if unknown := (kinds | set(options.without.split(","))) - KINDS.keys() - {""}:
        sys.exit(f"there is no fault called {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    kinds -= set(options.without.split(","))
    for name in KINDS:
        if name not in kinds:
            print(f"off: {name}")
    for pattern, why in KNOWN.items():
        print(f"known: {pattern} ({why})")
    torture = Torture(options, kinds)
    until = time.monotonic() + options.minutes * 60
    failed = 0
    while time.monotonic() < until and failed < options.failures:
        failed += not asyncio.run(torture.one(seed))
        seed += 1
    torture.print_summary(failed)
    return min(failed, 1)


class Torture:
    """Runs experiments and keeps the sums."""

    def __init__(self, options: argparse.Namespace, kinds: frozenset[str]) -> None:
        self._options = options
        self._kinds = kinds
        self._injected: Counter[str] = Counter()
        self._experiments = self._events = self._outputs = 0

    async def one(self, seed: int) -> bool:
        """Run the experiment of one seed, and shrink its faults if it fails; return whether all was well."""
        options = self._options
        plan = plans.draw(seed, seconds=options.seconds, rate=options.events)
        faults = schedule(seed, seconds=options.seconds, rate=options.rate, kinds=self._kinds)
        if options.schedule:
            faults = msgspec.json.decode(options.schedule.read_bytes(), type=list[Fault])
        result = await self._run(plan, faults)
        self._experiments += 1
        self._injected += result.injected
        self._events += result.events
        self._outputs += result.outputs
        print(
            f"seed {seed}: {result.injected.total()} faults, {result.events} events, {result.outputs} outputs, "
            f"{result.crashed} crashed, {result.seconds:.0f} s: {'FAILED' if result.findings else 'ok'}"
            + (f", {len(result.known)} known" if result.known else ""),
            flush=True,
        )
        _print_findings("known", result.known)
        if not result.findings:
            return True
        _print_findings("wrong", result.findings)
        if options.shrink:
            faults = await self._shrunk(plan, faults, {finding.kind for finding in result.findings})
        path = Path(tempfile.gettempdir()) / f"penstock-chaos-{seed}.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(faults)))
        print(f"the smallest list of faults that was found for seed {seed}, kept in {path}:")
        print("\n".join(f"  {fault}" for fault in faults))
        again = f"just chaos 0.1 {seed} --seconds {options.seconds:g} --events {options.events:g} --schedule {path}"
        print(f"again: {again}", flush=True)
        return False

    async def _run(self, plan: plans.Plan, faults: list[Fault]) -> experiment.Result:
        options = self._options
        kinds = required_kinds()
        folder = Path(tempfile.mkdtemp(prefix="penstock-chaos-"))
        result = await experiment.run(
            plan, faults, server_kind=kinds[plan.seed % len(kinds)], patience=options.patience, folder=folder
        )
        if result.findings:
            print(f"logs: {folder}")
        return result

    async def _shrunk(self, plan: plans.Plan, faults: list[Fault], kinds: set[str]) -> list[Fault]:
        """Look for fewer faults after which something of the same kinds is wrong, for a bounded time."""
        until = time.monotonic() + self._options.shrink * 60

        async def fails(fewer: list[Fault]) -> bool:
            for _ in range(_TRIES):
                if time.monotonic() > until:
                    return False
                result = await self._run(plan, fewer)
                again = any(finding.kind in kinds for finding in result.findings)
                print(f"  {len(fewer)} faults: {'fails too' if again else 'ok'}", flush=True)
                if again:
                    return True
            return False

        return await shrink(faults, fails)

    def print_summary(self, failed: int) -> None:
        """Print what was done in all."""
        print(f"{self._experiments} experiments, {self._events} events, {self._outputs} outputs, {failed} failed")
        for kind, count in self._injected.most_common():
            print(f"  {count:6}  {kind}")
        print(f"  {self._injected.total():6}  faults in all")


def _print_findings(what: str, findings: list[Finding]) -> None:
    for kind, count in Counter(finding.kind for finding in findings).items():
        print(f"  {what}: {count} {kind}, such as")
        for finding in [one for one in findings if one.kind == kind][:5]:
            print(f"    {finding.what}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="just chaos", description=__doc__)
    parser.add_argument("minutes", type=float, nargs="?", default=1.0, help="how long to begin new experiments")
    parser.add_argument("seed", type=int, nargs="?", help="of the first experiment; each next one has the next")
    parser.add_argument("--kinds", help="faults to inject, comma-separated; all unless given")
    parser.add_argument("--without", default="", help="faults not to inject, comma-separated")
    parser.add_argument("--rate", type=float, default=3.0, help="faults per second")
    parser.add_argument("--events", type=float, default=15.0, help="events from outside per second")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="of faults in one experiment")
    parser.add_argument("--patience", type=float, default=75.0, help="seconds without progress before it is stuck")
    parser.add_argument("--failures", type=int, default=1, help="experiments that may fail before it ends")
    parser.add_argument("--shrink", type=float, default=20.0, help="minutes to look for a shorter list, at most")
    parser.add_argument("--schedule", type=Path, help="a file of faults to inject in place of those of the seed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
