"""Parsing the texts of options to values. Nothing heavy is imported here, see options.py."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterable, Sequence

from pyfit_gpu.errors import InputError

SHIFT_METHODS = ("fit", "isolated", "atomisation")  # METHODS of models/energy_shift.py, which is slow to import

_SHIFT_FORMS = "a finite number for all elements, one per element as in Si=107.1,C=154.9, fit, isolated or atomisation"

GroupRule = tuple[str, float]  # pattern, number
WindowRule = tuple[float, float, float]  # low, high (infinite where open), number

_SECONDS = {"": 60.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_MEMORY_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_number(text: str) -> float | None:
    """Parse a finite number, or None. Python's underscores between digits are not accepted."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def whole(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"expected a whole number >= 0, got {text!r}")
    return int(text)


def numbers(text: str) -> tuple[int, ...]:
    """Parse whole numbers from 1 with commas between them, as in 1,3."""
    cells = text.split(",")
    if not all(cell.isascii() and cell.isdigit() and int(cell) > 0 for cell in cells):
        raise argparse.ArgumentTypeError(f"expected numbers from 1 with commas between them, got {text!r}")
    return tuple(map(int, cells))


def finite(text: str) -> float:
    value = parse_number(text)
    if value is None:
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return value


def finite_or_auto(text: str) -> float | str:
    if text != "auto" and parse_number(text) is None:
        raise argparse.ArgumentTypeError(f"expected a finite number or auto, got {text!r}")
    return text if text == "auto" else finite(text)


def duration(text: str) -> float:
    """Parse `90s`, `30m`, `2h`, minutes or H:MM:SS to seconds."""
    clock = re.fullmatch(r"(\d+):(\d+):(\d+)", text, re.ASCII)
    if clock:
        hours, minutes, seconds = map(int, clock.groups())
        return 3600.0 * hours + 60.0 * minutes + seconds
    unit = text[-1:] if text[-1:] in _SECONDS else ""
    number = parse_number(text.removesuffix(unit))
    if number is None or number < 0:
        raise argparse.ArgumentTypeError(f"expected 90s, 30m, 2h, minutes or H:MM:SS, got {text!r}")
    return number * _SECONDS[unit]


def shard(text: str) -> tuple[int, int]:
    """Parse `I/N`, the number of a shard and how many there are."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"expected I/N with I = 0 .. N-1, got {text}")
    return int(index), int(count)


def parse_shift(text: str) -> float | dict[str, float] | str:
    """Parse `107.1`, `Si=107.1,C=154.9`, `fit`, `isolated` or `atomisation`.

    Raises:
        InputError: anything else, or an element that is given twice.
    """
    if text in SHIFT_METHODS:
        return text
    if "=" not in text:
        return _shift(text, text)
    shifts: dict[str, float] = {}
    for part in text.split(","):
        symbol, _, number = (cell.strip() for cell in part.partition("="))
        if symbol in shifts:
            raise InputError(f"--e-shift: expected every element once, got {symbol} twice in {text!r}")
        if not symbol:
            raise InputError(f"--e-shift: expected {_SHIFT_FORMS}, got {text!r}")
        shifts[symbol] = _shift(number, text)
    return shifts


def _shift(cell: str, text: str) -> float:
    value = parse_number(cell)
    if value is None:
        raise InputError(f"--e-shift: expected {_SHIFT_FORMS}, got {text!r}")
    return value


def parse_by_group(values: Sequence[str], option: str) -> tuple[GroupRule, ...]:
    """Parse words `PATTERN=NUMBER`; the last `=` divides, so that names may contain some.

    Args:
        option: what the words were given to, for messages.

    Raises:
        InputError: no `=`, an empty pattern, or no finite number of 0 or more.
    """
    rules = []
    for value in values:
        pattern, equals, number = value.rpartition("=")
        if not (equals and pattern):
            raise InputError(f"{option}: expected PATTERN=NUMBER, got {value!r}")
        rules.append((pattern, _not_negative(number, f"{option} {value!r}")))
    return tuple(rules)


def parse_windows(values: Sequence[str], option: str) -> tuple[WindowRule, ...]:
    """Parse words `LOW:HIGH=NUMBER`, in eV/atom above the lowest energy of the set; an empty end is open.

    Args:
        option: what the words were given to, for messages.

    Raises:
        InputError: another form, no numbers, LOW not below HIGH, or no finite number of 0 or more.
    """
    rules = []
    for value in values:
        window, equals, number = value.rpartition("=")
        low, colon, high = window.partition(":")
        if not (equals and colon):
            raise InputError(f"{option}: expected LOW:HIGH=NUMBER, got {value!r}")
        where = f"{option} {value!r}"
        ends = _end(low, -math.inf, where), _end(high, math.inf, where)
        rules.append((*ends, _not_negative(number, where)))
        if not ends[0] < ends[1]:
            raise InputError(f"{where}: expected a lower end below the upper one, got {ends[0]:g} and {ends[1]:g}")
    return tuple(rules)


def _end(text: str, open_end: float, where: str) -> float:
    if not text.strip():
        return open_end
    end = parse_number(text)
    if end is None:
        raise InputError(f"{where}: expected a number of eV/atom or nothing, got {text!r}")
    return end


def _not_negative(text: str, where: str) -> float:
    number = parse_number(text)
    if number is None or number < 0:
        raise InputError(f"{where}: expected a number of 0 or more, got {text!r}")
    return number


def group_rules_as_text(rules: Iterable[GroupRule]) -> list[str]:
    """Write rules as `parse_by_group` takes them, the same text for the same numbers."""
    return [f"{pattern}={number!r}" for pattern, number in rules]


def windows_as_text(rules: Iterable[WindowRule]) -> list[str]:
    """Write rules as `parse_windows` takes them, the same text for the same numbers."""
    return [f"{':'.join('' if math.isinf(end) else repr(end) for end in ends)}={n!r}" for *ends, n in rules]


def parse_triples(words: Sequence[str], option: str) -> tuple[tuple[int, int, int], ...]:
    """Parse three Legendre orders a word, `112`, or with commas, `2,10,12`; the word `none` alone stands for none.

    Args:
        option: what the words were given to, for messages.

    Raises:
        InputError: any other word.
    """
    if list(words) == ["none"]:
        return ()
    triples = []
    for word in words:
        cells = word.split(",") if "," in word else list(word)
        if len(cells) != 3 or not all(cell.isascii() and cell.isdigit() and len(cell) < 10 for cell in cells):
            raise InputError(
                f"{option}: expected three Legendre orders a word, as in 112 or 2,10,12, or none, got {word!r}"
            )
        first, second, third = map(int, cells)
        triples.append((first, second, third))
    return tuple(triples)


def triples_as_text(triples: Iterable[Sequence[int]]) -> str:
    """Write triples as `parse_triples` takes them."""
    words = ["".join(map(str, triple)) if max(triple) < 10 else ",".join(map(str, triple)) for triple in triples]
    return " ".join(words) or "none"


def parse_memory(text: str) -> int:
    """Parse `4G`, `512M`, `1.5GiB` or a number of bytes to bytes; units are powers of 1024.

    Raises:
        InputError: anything else, or nothing.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    found = int(float(match[1]) * _MEMORY_UNITS[match[2].upper()]) if match else 0
    if found <= 0:
        raise InputError(f"memory: expected a size above 0 such as 4G, 512M or 1.5GiB, got {text!r}")
    return found
