"""Source of kernels: templates that are filled with straight-line code, and made into functions of Triton.

Triton compiles Python functions, and reads their source. Which harmonics and couplings there are follows from the
settings of a descriptor, so the lines between the loops are written by `angular.py` and `invariants.py`, and stand in
the templates where `$name` has a line of its own. The text of a kernel decides everything about it: equal texts are one
function, which Triton compiles once per precision and keeps on the disk.
"""

from __future__ import annotations

import linecache
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from typing import Any

_SCALARS = ("atom_0", "pair_0", "n_atoms", "n_places", "width")
_TABLES = ("starts", "ends", "numbers", "others", "grad")


def fill(template: str, **parts: Iterable[str] | str | float) -> str:
    """Put lines in the place of each line `$name`, indented as that one is, and values elsewhere."""
    lines = []
    for line in template.strip("\n").splitlines():
        bare = line.strip()
        part = parts.get(bare[1:]) if bare.startswith("$") else None
        if part is None or isinstance(part, str | float | int):
            lines.append(_with_values(line, parts))
        else:
            lines += [line[: line.index("$")] + own for own in part]
    return "\n".join(lines) + "\n"


def _with_values(line: str, parts: dict[str, Any]) -> str:
    # Longer names first: no name is taken for the beginning of another one.
    for name in sorted(parts, key=len, reverse=True):
        if isinstance(parts[name], str | float | int):
            line = line.replace(f"${name}", str(parts[name]))
    return line


@cache
def compiled(source: str) -> Any:
    """Make the one function of a source a kernel. Nothing is compiled before its first launch."""
    import triton
    import triton.language as tl

    # Triton reads the source by file name and line: a name of its own for each text, as `inspect` finds it.
    name = f"<pyfit-gpu kernel {sha256(source.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    names: dict[str, Any] = {"tl": tl, "__name__": "pyfit_gpu.descriptors.kernels"}
    exec(compile(source, name, "exec"), names)  # our own text: numbers of the settings are all that enters it
    function = next(value for key, value in names.items() if getattr(value, "__code__", None) and key != "tl")
    arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
    # One compiled kernel serves whole numbers of any value, and tables of atoms that begin anywhere in longer ones.
    scalars, tables = ([name for name in arguments if name in group] for group in (_SCALARS, _TABLES))
    return triton.jit(function, do_not_specialize=scalars, do_not_specialize_on_alignment=tables)
