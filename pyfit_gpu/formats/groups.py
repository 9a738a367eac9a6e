"""The group of a structure, where its file names one and where it does not."""

from __future__ import annotations

import os


def name_group(path: str, *candidates: object) -> str:
    """Take the first candidate that is not None or blank, else the file's name up to its first dot.

    Blanks become `_`.
    """
    name = os.path.basename(path)
    for candidate in (*candidates, name.split(".")[0], name):
        if candidate is not None and (words := str(candidate).split()):
            return "_".join(words)
    raise AssertionError(path)  # a file that was read has a name
