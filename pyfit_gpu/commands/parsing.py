"""The text of options as values. Nothing heavy is imported here, see options.py."""

from __future__ import annotations

import re

from pyfit_gpu.errors import InputError

_MEMORY_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def parse_memory(text: str) -> int:
    """Bytes from `4G`, `512M`, `1.5GiB` or a number of bytes; units are powers of 1024.

    Raises:
        InputError: anything else, or nothing.
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    found = int(float(match[1]) * _MEMORY_UNITS[match[2].upper()]) if match else 0
    if found <= 0:
        raise InputError(f"memory: expected a size above 0 such as 4G, 512M or 1.5GiB, got {text!r}")
    return found
