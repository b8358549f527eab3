"""Finding the smallest list of faults that still breaks something."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


async def shrink(items: Sequence[T], fails: Callable[[list[T]], Awaitable[bool]]) -> list[T]:
    """Return a part of `items` that still fails, and of which no piece could be left out.

    Halves are left out first, then ever smaller pieces (delta debugging, A. Zeller 2002). `fails` may be a
    matter of luck: what is returned did fail when it was tried.
    """
    left = list(items)
    pieces = 2
    while left:
        size = -(-len(left) // pieces)
        for start in range(0, len(left), size):
            without = left[:start] + left[start + size :]
            if await fails(without):
                left = without
                pieces = max(2, pieces - 1)
                break
        else:
            if size == 1:
                break
            pieces = min(len(left), pieces * 2)
    return left
