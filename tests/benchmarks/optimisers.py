"""RMSE against wall-clock time for several ways to train, on the NIST silicon set of the optional reference data.

    python tests/benchmarks/optimisers.py --seconds 30 [--device cpu cuda] [--n-threads 2] [--seeds 1 2] [--out FOLDER]

Every way starts from the same random weights (per seed) and trains for so many seconds with the same split; set-up is
not counted. Prints the training RMSE and the least validation RMSE known by then after a twelfth, a quarter, half and
all of the time, in meV/atom, and writes curves as curves.csv and a plot of the validation, curves.png.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path
from typing import Any

import torch
from members import load

import pyfit_gpu as pf

Curve = list[tuple[float, float, float]]  # seconds, training RMSE, least validation RMSE so far, eV/atom

CLASSIC = {"optimizer": pf.LBFGSSettings(line_search="none", learning_rate=0.05)}
WAYS: dict[str, tuple[str, int, dict[str, Any]]] = {  # dtype, members, settings
    "classic, float64": ("float64", 1, CLASSIC),
    "classic, float32": ("float32", 1, CLASSIC),
    "strong Wolfe, float64": ("float64", 1, {}),
    "strong Wolfe, float32": ("float32", 1, {}),
    "strong Wolfe, float64, 20 iterations a step": ("float64", 1, {"optimizer": pf.LBFGSSettings(max_iterations=20)}),
    "strong Wolfe, float64, 8 members": ("float64", 8, {}),
    "strong Wolfe, float64, 32 members": ("float64", 32, {}),
}


class Clock:
    """Rows of all members; keeps the best so far."""

    def __init__(self) -> None:
        self.started = math.nan
        self.loss = self.validation = math.inf
        self.curve: Curve = []

    def on_start(self) -> None:
        if math.isnan(self.started):
            self.started = time.perf_counter()

    def on_step(self, row: Any) -> None:
        self.loss = min(self.loss, row.loss)
        self.validation = min(self.validation, row.validation)
        self.curve.append((time.perf_counter() - self.started, self.loss, self.validation))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--device", nargs="+", default=["cpu"])
    parser.add_argument("--n-threads", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--ways", nargs="+", default=[""], help="parts of their names")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    if options.n_threads:
        torch.set_num_threads(options.n_threads)
    potential, whole = load("cpu", torch.float64)
    curves: dict[str, Curve] = {}
    marks = [options.seconds / part for part in (12, 4, 2, 1)]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; after", *(f"{mark:.1f} s" for mark in marks))
    for device in options.device:
        name_of = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        for way, (dtype, members, chosen) in WAYS.items():
            if not any(part in way for part in options.ways):
                continue
            for seed in options.seeds if members == 1 else options.seeds[:1]:
                train, validation = (part.to(device, getattr(torch, dtype)) for part in whole.split(0.9, 2))
                settings = pf.FitSettings(steps=10**6, max_time=options.seconds, seed=seed, **chosen)
                clock = Clock()
                history = pf.fit(
                    potential.to(device), train, validation, members=members, settings=settings, observers=[clock]
                )
                name = f"{name_of}: {way}, seed {seed}"
                curves[name] = clock.curve
                shown = [known_at(clock.curve, mark) for mark in marks]
                print(f"{name:75s} " + "  ".join(f"{1e3 * a:7.3f} {1e3 * b:7.3f}" for a, b in shown),
                      f" {max(one.step for one in history.members)} steps, {history.n_evaluations} evaluations",
                      flush=True)  # fmt: skip
    if options.out is not None:
        save(curves, options.out)


def known_at(curve: Curve, mark: float) -> tuple[float, float]:
    """Training and validation RMSE by then."""
    before = [point for point in curve if point[0] <= mark] or curve[:1]
    return before[-1][1:]


def save(curves: dict[str, Curve], folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "curves.csv", "w", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("way", "seconds", "training_rmse", "validation_rmse"))
        for name, curve in curves.items():
            rows.writerows((name, *point) for point in curve)
    figure, axes = pyplot.subplots(figsize=(9, 6))
    for name, curve in curves.items():
        axes.loglog([max(t, 0.05) for t, _, _ in curve], [1e3 * value for _, _, value in curve], label=name)
    axes.set(xlabel="time (s)", ylabel="least validation RMSE (meV/atom)")
    axes.legend(fontsize=6)
    figure.savefig(folder / "curves.png", dpi=110)


if __name__ == "__main__":
    main()
