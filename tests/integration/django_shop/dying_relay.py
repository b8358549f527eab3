"""A relay that SIGKILL ends before or after a step, or in the middle of publishing: `dying_relay.py publish after`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import django
from django.core.management import call_command

from penstock import Penstock

_FEW = 3  # of what one turn publishes


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(step: str, when: str) -> None:
    django.setup()
    from penstock.django.relay import Relay  # noqa: PLC0415 - models are there once Django is set up

    real = getattr(Relay, step)

    def dying(self: Relay, *given: Any) -> Any:
        if when == "before":
            die()
        done = real(self, *given)
        die()
        return done

    if when == "amid":
        send = Penstock.send
        sent = []

        async def dying_send(self: Penstock, *given: Any, **how: Any) -> Any:
            done = await send(self, *given, **how)
            sent.append(done)
            if len(sent) == _FEW:
                die()
            return done

        setattr(Penstock, "send", dying_send)  # noqa: B010 - a method is no attribute to mypy
    else:
        setattr(Relay, step, dying)
    call_command("penstock_relay", "--once")


if __name__ == "__main__":
    main(*sys.argv[1:])
