"""The group of a structure, where its file names one and where it does not."""

from __future__ import annotations

import os


def name_group(path: str, *candidates: object) -> str:
    """Take the first candidate that is not None or blank, else the name of the file or folder up to its first dot.

    Blanks become `_`.
    """
    name = os.path.basename(path)
    if name in ("", ".", ".."):
        name = os.path.basename(os.path.abspath(path))
    for candidate in (*candidates, name.split(".")[0], name):
        if candidate is not None and (words := str(candidate).split()):
            return "_".join(words)
    return "structures"  # of the folder /, or of a name of blanks
