"""Small files of JSON5 that users write for a report."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import json5

from pyfit_gpu.errors import InputError


def read_object(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Read a file that holds one object.

    Raises:
        InputError: it cannot be read, or holds something else; with its name.
    """
    name = os.fspath(path)
    try:
        with open(path, encoding="utf-8") as file:
            content = json5.load(file)
    except OSError as error:
        raise InputError(f"{name}: cannot read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: expected JSON5: {error}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{name}: expected an object, found {kind_of(content)}")
    return content


def read_number(value: Any, where: str) -> float:
    """Take a number from such a file, perhaps infinite.

    Raises:
        InputError: something else; `where` names the place.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise TypeError
        return float(value)
    except (TypeError, OverflowError):  # a whole number can have any number of digits
        raise InputError(f"{where}: expected a number, found {value!r}"[:300]) from None


def kind_of(value: object) -> str:
    known = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return known.get(type(value), "a number")
