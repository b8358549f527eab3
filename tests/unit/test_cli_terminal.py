"""Lines of many services on one terminal."""

from __future__ import annotations

import io
import os
import sys

import msgspec
import pytest
from rich.console import Console

from penstock.cli.terminal import Lines, harmless, make_table, print_table


@pytest.fixture(autouse=True)
def _no_say_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_each_line_stands_under_its_name_and_all_names_are_as_wide(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(["worker", "penstock"])
    lines.show("worker", "one")
    lines.show("penstock", "two")
    assert capsys.readouterr().out == "worker   | one\npenstock | two\n"


def test_colours_come_when_forced_and_never_when_unwanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    Lines(["a"]).show("a", "one")
    assert capsys.readouterr().out == "\x1b[36ma | \x1b[0mone\n"
    monkeypatch.setenv("NO_COLOR", "1")
    Lines(["a"]).show("a", "one")
    assert capsys.readouterr().out == "a | one\n"


def test_what_is_written_in_pieces_comes_out_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Lines(["a"]).stream("a")
    stream.write("one")
    assert capsys.readouterr().out == ""
    stream.write(" more\ntwo\n\nthr")
    assert capsys.readouterr().out == "a | one more\na | two\na | \n"


def test_a_terminal_that_is_gone_does_not_keep_us_from_going_on(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:  # closing it flushes what is left in its buffer
        monkeypatch.setattr(sys, "stdout", gone)
        lines = Lines(["a"])
        lines.show("a", "one")
        lines.show("a", "two")


def test_what_a_terminal_cannot_show_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    Lines(["a"]).show("a", "caf\u00e9")
    assert raw.getvalue() == b"a | caf?\n"


def test_a_table_shows_texts_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "count", "text"], [["a", "1", "[bold]x[/] :bug:"], ["b", "22", "y"]], numbers=["count"])
    rows = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert rows == ["name   count   text", "a          1   [bold]x[/] :bug:", "b         22   y"]


def test_no_cell_of_a_table_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["type"], [["\x1b[31mred\x9b0m\u202eback\u2028line  \u2581 \u2588"]])
    row = capsys.readouterr().out.splitlines()[1]
    assert row == "\ufffd[31mred\ufffd0m\ufffdback\ufffdline  \u2581 \u2588"


def test_json_for_a_terminal_is_the_same_json_and_steers_nothing() -> None:
    data = {"error": "a\x1b[2J\x7f\x9b31m\u202etxt.exe\u2028\U000e0041 ü 東 😀"}
    text = harmless(msgspec.json.encode(data).decode())
    assert msgspec.json.decode(text) == data
    assert text.isprintable()
    assert "ü 東 😀" in text


COLUMNS = ("job", "count", "p50", "p99", "said")
ROWS = (("ticket.created of acme", "1234", "100 ms", "1.25 s", "connection refused"), ("-", "1", "<0.1 ms", "-", ""))


def drawn(width: int) -> list[str]:
    screen = Console(file=io.StringIO(), width=width)
    screen.print(make_table(COLUMNS, ROWS, numbers=COLUMNS[1:4], spare=("p99", "p50"), width=width))
    assert isinstance(screen.file, io.StringIO)
    return [line.rstrip() for line in screen.file.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("width", "numbers"),
    [
        (200, ["1234", "100 ms", "1.25 s"]),
        (70, ["1234", "100 ms", "1.25 s"]),
        (63, ["1234", "100 ms"]),
        (55, ["1234"]),
        (30, ["1234"]),
    ],
)
def test_where_room_is_scarce_texts_are_folded_columns_left_out_and_numbers_never_cut(
    width: int, numbers: list[str]
) -> None:
    lines = drawn(width)

    assert max(map(len, lines)) <= width
    assert [name for name in ("1234", "100 ms", "1.25 s") if name in lines[1]] == numbers
    left_out = [name for name in ("p99", "p50") if name not in lines[0]]
    assert ("left out for want of room: " + ", ".join(left_out) in " ".join(lines)) == bool(left_out)


def test_what_somebody_copies_is_never_folded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    print_table(["id", "said"], [["f" * 32, "word " * 20]], whole=["id"])

    assert capsys.readouterr().out.splitlines()[1].startswith("f" * 32 + "  ")


def test_a_pipe_takes_lines_of_any_length_unless_columns_are_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    print_table(["said"], [["word " * 50]])
    assert len(capsys.readouterr().out.splitlines()) == 2
    monkeypatch.setenv("COLUMNS", "40")
    print_table(["said"], [["word " * 50]])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 40
