"""`python -m tests.fuzz [--examples N] [--seconds S]`: feed every decoder what nobody should send."""

from __future__ import annotations

import argparse
import sys
import time

import structlog

from tests.fuzz.targets import TARGETS, feed


def main() -> int:
    parser = argparse.ArgumentParser(prog="just fuzz")
    parser.add_argument("--examples", type=int, default=1_000_000, help="inputs in all")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    asked = parser.parse_args()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # what is passed over is not told here
    began, fed = time.monotonic(), 0
    for left, (name, target) in zip(range(len(TARGETS), 0, -1), TARGETS.items(), strict=True):
        until = time.monotonic() + (asked.seconds - (time.monotonic() - began)) / left
        count = feed(target, examples=-(-asked.examples // len(TARGETS)), until=until)
        fed += count
        sys.stdout.write(f"{name:<24} {count:>9,} inputs\n")
        sys.stdout.flush()
    sys.stdout.write(f"{fed:,} inputs in {time.monotonic() - began:.0f} s: every one was read or refused\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
