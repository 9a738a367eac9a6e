"""Errors of short fits on chosen against random structures, from a tenth of a pool on.

    python tests/benchmarks/learning_curve.py [--sets nist mlearn] [--ways random farthest determinant grade]
        [--fractions 0.2 0.3 0.5] [--seeds 1 2 3 4 5] [--evaluations 300] [--largest N] [--n-threads 2] [--out FOLDER]

A seed draws the first tenth and the start of every fit. Each way then adds structures up to the next fraction of the
pool, given those that it has, and a new fit is scored on the same test structures: the mean and the standard deviation
over seeds. Ways: the methods of `pyfit-gpu select`, by uncertainty from the grade (the highest of a structure's atoms,
clusters of what is known) or the error bar of the energy per atom (of the fit before). --largest cuts the pool.
Writes learning_curve.csv and a plot of each set.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pyfit_gpu.training.clusters import build_extrapolation_grade
from shared_sets import SETS, SharedSet

import pyfit_gpu as pf
from pyfit_gpu.datasets.pool import energy_error_bars, highest_grade
from pyfit_gpu.training.laplace import build_error_bars

Scores = Callable[[SharedSet, pf.Potential, list[int]], torch.Tensor]
Row = tuple[str, str, float, int, dict[str, float]]  # set, way, fraction, seed, errors

FIRST = 0.1  # of the pool


def grades(data: SharedSet, model: pf.Potential, known: list[int]) -> torch.Tensor:
    """(B,) of the pool."""
    return highest_grade(build_extrapolation_grade(data.pool.select(known), model), data.pool)


def error_bars(data: SharedSet, model: pf.Potential, known: list[int]) -> torch.Tensor:
    """(B,) of the pool, eV/atom."""
    weights = {"forces": data.force_weight} if data.force_weight else {}
    return energy_error_bars(model, build_error_bars(model, data.pool.select(known), weights=weights), data.pool)


SCORES: dict[str, Scores] = {"grade": grades, "error bar": error_bars}
WAYS = ("random", "farthest", "determinant", *SCORES)


def choose(data: SharedSet, way: str, model: pf.Potential, known: list[int], n: int, seed: int) -> list[int]:
    """So many rows of the pool beside those known."""
    scores = SCORES[way](data, model, known) if way in SCORES else None
    method = "uncertainty" if way in SCORES else way
    found = pf.select_structures(
        data.pool, model, n, method=method, known=data.pool.select(known), scores=scores, seed=seed
    )
    return list(found.rows)


def curves(name: str, data: SharedSet, options: argparse.Namespace) -> list[Row]:
    """Errors of every way, fraction and seed."""
    rows: list[Row] = []
    n_pool = len(data.pool)

    def fit(known: list[int], way: str, fraction: float, seed: int) -> pf.Potential:
        model = data.potential.randomized(seed)
        history = pf.fit(model, data.pool.select(sorted(known)), settings=data.settings(options.evaluations, seed))
        errors = data.errors(model, data.test) | {"evaluations": history.n_evaluations}
        rows.append((name, way, fraction, seed, errors))
        shown = ", ".join(f"{label} {value:.4g}" for label, value in errors.items())
        print(f"{name}, seed {seed}, {way}, {len(known)} structures: {shown}", flush=True)
        return model

    for seed in options.seeds:
        first = np.random.default_rng(seed).permutation(n_pool)[: max(1, round(FIRST * n_pool))].tolist()
        start = fit(first, "all", FIRST, seed)
        for way in options.ways:
            known, model = list(first), start
            for fraction in options.fractions:
                known += choose(data, way, model, known, round(fraction * n_pool) - len(known), seed)
                model = fit(known, way, fraction, seed)
    return rows


def labels_of(rows: list[Row]) -> list[str]:
    return [label for label in rows[0][4] if label != "evaluations"]


def summary(rows: list[Row], way: str, fraction: float, label: str) -> tuple[float, float]:
    """Mean and standard deviation over seeds."""
    values = [errors[label] for _, own, at, _, errors in rows if own in (way, "all") and at == fraction]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def print_table(name: str, rows: list[Row], options: argparse.Namespace) -> None:
    fractions = [FIRST, *options.fractions]
    for label in labels_of(rows):
        unit = "eV/Å" if label.startswith("forces") else "meV/atom"
        print(f"\n{name}: {label} ({unit})\n{'of the pool':14s}" + "".join(f"{at:>18.0%}" for at in fractions))
        for way in options.ways:
            cells = ["{:.4g} ± {:.2g}".format(*summary(rows, way, at, label)) for at in fractions]
            print(f"{way:14s}" + "".join(f"{cell:>18s}" for cell in cells))


def save(name: str, rows: list[Row], options: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels = labels_of(rows)
    fractions = [FIRST, *options.fractions]
    figure, axes = pyplot.subplots(1, len(labels), figsize=(4 * len(labels), 3.5), squeeze=False)
    for panel, label in zip(axes[0], labels, strict=True):
        for way in options.ways:
            means, spreads = zip(*(summary(rows, way, at, label) for at in fractions), strict=True)
            panel.errorbar([100 * at for at in fractions], means, spreads, capsize=2, marker="o", ms=3, label=way)
        unit = "eV/Å" if label.startswith("forces") else "meV/atom"
        panel.set(xlabel="structures (% of the pool)", ylabel=f"{label} ({unit})", yscale="log")
    axes[0, 0].legend(fontsize=7)
    figure.suptitle(name)
    figure.tight_layout()
    figure.savefig(options.out / f"learning_curve_{name}.png", dpi=110)


def save_rows(rows: list[Row], path: Path) -> None:
    with open(path, "w", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("set", "way", "fraction", "seed", "label", "value"))
        for *where, errors in rows:
            table.writerows((*where, label, value) for label, value in errors.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.2, 0.3, 0.5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--evaluations", type=int, default=300, help="of each fit, about")
    parser.add_argument("--largest", type=int, default=0, help="structures of the pool that take part (all)")
    parser.add_argument("--n-threads", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    if options.n_threads:
        torch.set_num_threads(options.n_threads)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
    everything: list[Row] = []
    for name in options.sets:
        data = SETS[name]()
        if options.largest:
            data = data.cut(options.largest)
        print(f"{name}: a pool of {len(data.pool)} structures, {data.pool.n_atoms} atoms; {len(data.test)} test")
        rows = curves(name, data, options)
        print_table(name, rows, options)
        everything += rows
        if options.out is not None:
            save(name, rows, options)
            save_rows(everything, options.out / "learning_curve.csv")


if __name__ == "__main__":
    main()
