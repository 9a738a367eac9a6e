"""JSON from outside: every text that is none, or too deep for the parser, is an `InputError`."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Callable
from typing import Any, NoReturn

from pyfit_gpu.errors import InputError
from pyfit_gpu.files import file_size
from pyfit_gpu.formats.compressed import reading

MAX_BYTES = 2**25  # of a file: parsed JSON can take twenty times as much memory


def parse_json(text: str, *, finite: bool = True) -> Any:
    """Parse a JSON text.

    Args:
        finite: whether NaN and infinity, which JSON does not know but Python writes, are refused.

    Raises:
        InputError: no JSON, or nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse if finite else None)
    except (ValueError, RecursionError) as error:
        raise InputError(f"no valid JSON: {json_fault(error)}") from error


def brief(value: Any) -> str:
    """Show the beginning of a value, however long and nested it is; texts without quotes."""
    return f"{value:.60}" if isinstance(value, str) else reprlib.repr(value)


def json_fault(error: Exception) -> str:
    """Describe why a parser gave up, in a few words."""
    return "it is nested too deeply" if isinstance(error, RecursionError) else f"{error!s:.200}"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"expected finite numbers, found {constant}")


def read_json_file(path: str | os.PathLike[str], kind: str, parse: Callable[[str], Any] = parse_json) -> Any:
    """Read a file of JSON.

    Args:
        kind: kind of file, for messages.

    Raises:
        InputError: it cannot be read, is too large to be one, or is no JSON.
    """
    name = os.fspath(path)
    size = file_size(path)
    if size > MAX_BYTES:
        raise InputError(f"{name}: expected {kind}, found {size} bytes, more than any has ({MAX_BYTES})")
    with reading(path, "utf-8", kind, decompress=False) as file:
        text = file.read()
    try:
        return parse(text)
    except InputError as error:
        raise InputError(f"{name}: expected {kind}, found {error}") from error
