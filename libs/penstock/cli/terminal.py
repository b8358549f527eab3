"""Writing to a person's terminal: lines of many services side by side, and tables."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

import msgspec
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from penstock.telemetry.logs import wants_colour

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
"""The option of every command that prints for programs too."""
_LEAST_TEXT = 20  # columns of the screen that a text has, or as many as it needs, before others are left out
_STEERING = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]")
_COLOURS = (36, 32, 35, 33, 34, 96, 92, 95)  # ANSI foreground colours, told apart on dark and on light


def print_json(data: Any) -> None:
    """Write one JSON document for programs to stdout."""
    sys.stdout.write(harmless(msgspec.json.format(msgspec.json.encode(data)).decode()) + "\n")


def harmless(text: str) -> str:
    """Return JSON text with what could steer a terminal, or turn its text around, escaped: it is the same JSON."""
    return _STEERING.sub(lambda found: json.dumps(found[0])[1:-1], text)


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[str] = (), whole: Sequence[str] = ()
) -> None:
    """Write a table to stdout, see `make_table`."""
    screen = console()
    screen.print(make_table(columns, rows, numbers=numbers, whole=whole, width=screen.width))


def make_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int,
    numbers: Sequence[str] = (),
    whole: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> Table:
    """Return a table that fits in `width` columns; those named in `numbers` are set flush right.

    Those named in `whole` are never folded: times, and ids that somebody copies.

    Where there is too little room columns stand closer, then texts are folded, and those named in `spare` are left
    out, the first of them first, which the table says. No number is cut, as `100 ms` would be to `100 m`, while there
    is something else to give way.
    """
    widths = {name: max(map(cell_len, cells)) for name, *cells in zip(columns, columns, *rows, strict=True)}
    unfolded = {*numbers, *whole, *spare}
    least = {name: size if name in unfolded else min(size, _LEAST_TEXT) for name, size in widths.items()}
    gap = 3 if sum(widths.values()) + 3 * (len(widths) - 1) <= width else 2
    left_out: list[str] = []
    for name in spare:
        if sum(least.values()) + gap * (len(least) - 1) <= width:
            break
        del least[name]
        left_out.append(name)
    table = Table(
        box=None,
        header_style="bold",
        pad_edge=False,
        padding=(0, gap, 0, 0),
        caption=f"left out for want of room: {', '.join(left_out)}" if left_out else None,
        caption_style="dim",
        caption_justify="left",
    )
    for name in least:
        table.add_column(
            name, justify="right" if name in numbers else "left", overflow="fold", no_wrap=name in unfolded
        )
    for row in rows:
        table.add_row(*(_safe(cell) for name, cell in zip(columns, row, strict=True) if name in least))
    return table


def console() -> Console:
    """Return a console on stdout that prints texts as they are, as wide as the terminal or as COLUMNS says.

    Where neither folds long lines, neither do we.
    """
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit() else 10_000
    return Console(highlight=False, markup=False, emoji=False, width=width)


def printable(text: str) -> str:
    """Return the text on one line, and with what could steer a terminal or turn its text around replaced."""
    line = " ".join(text.split())
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


def _safe(cell: str) -> str:
    """Return a cell with its blanks, and with what could steer a terminal replaced: whoever filled it may forget to."""
    return "".join(one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in cell)


class Lines:
    """Writes the lines of many sources to stdout, each under its name, in its colour on a terminal."""

    def __init__(self, names: Sequence[str], *, prefixed: bool = True) -> None:
        self.coloured = wants_colour(sys.stdout)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a service may print what this terminal cannot show
        self._width = 0
        self._colours: dict[str, int] = {}
        self._prefixed = prefixed
        self.name(names)

    def name(self, names: Iterable[str]) -> None:
        """Make room for names, and give each a colour that has none yet."""
        for name in names:
            self._width = max(self._width, len(name))
            self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])

    def show(self, name: str, line: str) -> None:
        """Write one line of `name`."""
        self.write(f"{self._prefix(name)}{line}\n" if self._prefixed else f"{line}\n")

    def write(self, text: str) -> None:
        """Write text as it is. A terminal that is gone takes nothing, and must not keep us from stopping."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:  # what is left in the buffer would fail once more, with a traceback, when Python exits
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())

    def stream(self, name: str) -> TextIO:
        """Return a stream to write to whose lines are those of `name`."""
        return cast(TextIO, _Stream(self, name))

    def _prefix(self, name: str) -> str:
        padded = f"{name:<{self._width}} | "
        return f"\x1b[{self._colours[name]}m{padded}\x1b[0m" if self.coloured else padded


class _Stream(io.TextIOBase):
    """Passes on what is written to it once a line of it is complete."""

    def __init__(self, lines: Lines, name: str) -> None:
        self._lines = lines
        self._name = name
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._lines.show(self._name, line)
        return len(text)
