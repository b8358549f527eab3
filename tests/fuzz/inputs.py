"""Inputs: bytes that nobody should send, each made from a seed and named by its number."""

from __future__ import annotations

import random
import re

from multidict import CIMultiDict

NEXT = b"\x1f"
"""Stands between fields, and between a head and its body."""
_TOKENS = (
    *(b'"', b"\\", b"%", b"{", b"}", b"[", b"]", b":", b";", b",", b"=", b"&", b"?", b"/", b"@", b"#", b"-", b"*"),
    *(b"\x00", b"\x1b", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\xe2\x80\xae", b"\r\n", NEXT, b"\xd9\xa1"),
    *(b"null", b"true", b"1e999", b"NaN", b"-0", b"9" * 30, b"9" * 5_000, b"0" * 30, b"type", b"data", b"id"),
    *(b"&a ", b"*a", b"<<: ", b"!!", b"\n  ", b"[" * 5_000, b'{"a":' * 5_000),
)
_WORD = re.compile(rb'"[^"]*"|[\w.+-]+')  # a text, a name or a number
_VALUES = (
    *(b"null", b"true", b"0", b"-1", b"0.1", b"1e308", b"-1e-320", b"9007199254740993", b"9" * 30, b"9" * 5_000),
    *(b'""', b'"x"', b'"\\u0000"', b'"\\u202e"', b'"2026-01-15T08:00:00Z"', b'"0001-01-01T00:00:00+23:59"', b'"\xff"'),
    *(b"[]", b"{}", b"[[]]", b'{"":null}', b"[" * 5_000, b"x" * 5_000, b"1e999", b"", b" ", b'"' + b"x" * 5_000 + b'"'),
)


def mutated(seeds: tuple[bytes, ...], number: int) -> bytes:
    """Return input `number`: the seeds themselves first, then what a few changes make of one.

    Half of them keep their form, and have other words in it: what would be refused by its form alone is not read on.
    """
    if number < len(seeds):
        return seeds[number]
    dice = random.Random(number)
    data = bytearray(dice.choice(seeds))
    if number % 2:
        for _ in range(dice.randint(1, 3)):
            begin, end = dice.choice([word.span() for word in _WORD.finditer(data)] or [(0, 0)])
            data[begin:end] = dice.choice(_VALUES)
        return bytes(data)
    for _ in range(dice.randint(1, 6)):
        begin = dice.randint(0, len(data))
        end = min(len(data), begin + dice.choice((0, 0, 1, 2, 8, 64)))
        data[begin:end] = dice.choice(
            (b"", dice.choice(_TOKENS), dice.randbytes(dice.randint(1, 4)), bytes(data[begin:end]) * 2)
        )
    return bytes(data)


def text(data: bytes) -> str:
    """Return bytes as a header or a YAML file brings them: what is no UTF-8 stays as surrogates."""
    return data.decode(errors="surrogateescape")


def pairs(data: bytes) -> list[bytes]:
    fields = data.split(NEXT)
    return fields[: len(fields) // 2 * 2]


def message(data: bytes) -> tuple[CIMultiDict[str], bytes]:
    head, _, body = data.partition(NEXT)
    lines = (line.partition(b":") for line in head.split(b"\r\n"))
    return CIMultiDict((text(name), text(value.strip())) for name, _, value in lines), body
