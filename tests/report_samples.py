"""Made-up predictions and reports, for tests of the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyfit_gpu.report.contents import Fact, Plot, Report, Section, Series, Table
from pyfit_gpu.report.evaluated import Evaluated, Label

GROUPS = ("b", "a", "b", "c", "a", "a")
SIZES = (2, 1, 3, 4, 2, 1)


def make_label(
    name: str, counts: Sequence[int], seed: int, *, unknown: Sequence[int] = (), bars: bool = True, factor: float = 1.0
) -> Label:
    rng = np.random.default_rng(seed)
    known = [rng.normal(0.0, 2.0, count) for count in counts]
    found = tuple(values + rng.normal(0.0, 0.1, len(values)) for values in known)
    spread = tuple(rng.uniform(0.02, 0.2, count) for count in counts) if bars else None
    for row in unknown:
        known[row] = np.empty(0)
    return Label(name, "eV", "meV" if factor == 1000 else "eV", factor, found, tuple(known), spread)


def make_evaluated(
    *, unknown: Sequence[int] = (), parts: Sequence[str] | None = None, grades: bool = True, bars: bool = True
) -> Evaluated:
    """Six structures of three groups; row k is called "f.xyz, structure k"."""
    rng = np.random.default_rng(9)
    return Evaluated(
        names=tuple(f"f.xyz, structure {k}" for k in range(len(GROUPS))),
        groups=GROUPS,
        parts=("",) * len(GROUPS) if parts is None else tuple(parts),
        n_atoms=np.array(SIZES),
        volume_per_atom=rng.uniform(10, 20, len(GROUPS)),
        labels=(
            make_label("energy", [1] * len(GROUPS), 1, unknown=unknown, bars=bars, factor=1000.0),
            make_label("forces", [3 * size for size in SIZES], 2, unknown=unknown, bars=bars),
            make_label("stress", [6] * len(GROUPS), 3, unknown=unknown, bars=bars),
        ),
        grades=tuple(rng.uniform(0.2, 1.4, size) for size in SIZES) if grades else None,
    )


def make_plot(name: str = "one", **settings: object) -> Plot:
    points = Series("group a", (1.0, 2.0, 3.0), (1.5, 2.5, 2.0), ("first", "second", "third"))
    more = Series("group b", (1.5,), (0.5,), ("fourth",), look=1)
    return Plot(name, "A plot", "x (Å)", "y (eV)", (points, more), **settings)  # type: ignore[arg-type]


def make_report(*plots: Plot, rows: tuple[tuple[object, ...], ...] = ()) -> Report:
    table = Table("A table", ("name", "value (eV)"), rows or (("b", 2.0), ("a", 10.0), ("c", None)), (("all", 6.0),))  # type: ignore[arg-type]
    sections = (Section("First part", ("Some text.",), (table,), plots or (make_plot(),)),)
    return Report("A report", "of something", (Fact("fact", "1 eV", "bad", "more"),), sections)
