"""Error bars against errors on held-out structures: how many lie inside, and whether they rank them.

    python tests/benchmarks/calibration.py [--sets nist mlearn] [--seeds 1 2 3] [--evaluations 600] [--largest N]
        [--error-bars all-parameters] [--informed] [--n-threads 2] [--out FOLDER]

Per seed, four fifths of the pool train and the others validate: they calibrate the error bars. Scored are the test
structures, which took no part. Printed are, for energies per structure and for force components, the shares of errors
inside of one and two error bars (a Gaussian has 68.3 % and 95.4 %), the same without calibration, and rank correlations
of the absolute error with the error bar and with the extrapolation grade (of a structure's highest atom; for forces of
the atom). --largest cuts the pool for a try. --informed takes physically informed networks, whose baseline is fitted
before. Writes a plot of errors against error bars and grades for each set.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from shared_sets import SETS, SharedSet, rank_correlation

import pyfit_gpu as pf
from pyfit_gpu.models.error_bars import FORMS, Form
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.training.baseline import fit_baseline
from pyfit_gpu.training.clusters import build_extrapolation_grade
from pyfit_gpu.training.laplace import build_error_bars

GAUSSIAN = {1: 0.6827, 2: 0.9545}
UNITS = {"energy": "meV/atom", "forces": "eV/Å"}


@dataclass(frozen=True)
class Scored:
    """Absolute errors of one label with their error bars and grades, one for each value."""

    errors: np.ndarray
    bars: np.ndarray
    plain: np.ndarray  # error bars without calibration
    grades: np.ndarray

    def inside(self, n: int) -> float:
        return float((self.errors <= n * self.bars).mean())


def measure(data: SharedSet, seed: int, evaluations: int, form: Form) -> dict[str, Scored]:
    """Fit, calibrate, score."""
    forces = data.force_weight > 0
    train, validation = data.pool.split(0.8, seed)
    model = data.potential.randomized(seed)
    settings = data.settings(evaluations, seed)
    if model.is_physically_informed:
        model = fit_baseline(model, train, settings, starts=2)
    pf.fit(model, train, validation, settings=settings)
    weights = {"forces": data.force_weight} if forces else {}
    bars = build_error_bars(model, train, validation, weights=weights, form=form)
    plain = build_error_bars(model, train, weights=weights, form=form)
    uncertainty = Uncertainty.of(model, build_extrapolation_grade(train, model), bars)
    found = pf.predict(model, data.test.structures(), derivatives=forces, uncertainty=uncertainty, force_errors=forces)
    own = found.uncertainty
    shrink = {name: (plain.calibrations[name].factor / one.factor) ** 0.5 for name, one in bars.calibrations.items()}
    scale = 1e3 / data.test.sizes
    highest = torch.segment_reduce(own.grade, "max", lengths=data.test.sizes)
    energy = (found.energy - data.test.energy_used).abs() * scale
    scored = {"energy": _scored(energy, own.energy * scale, shrink["energy"], highest)}
    if found.forces is not None:
        errors = (found.forces - data.test.forces).abs()
        scored["forces"] = _scored(errors, own.forces, shrink["forces"], own.grade[:, None].expand(-1, 3))
    return scored


def _scored(errors: torch.Tensor, bars: torch.Tensor, shrink: float, grades: torch.Tensor) -> Scored:
    """Leave out what is zero by symmetry, whose errors say nothing."""
    counts = bars > 1e-3 * bars.square().mean().sqrt()
    return Scored(*(values[counts].numpy() for values in (errors, bars, shrink * bars, grades)))


def report(name: str, found: list[dict[str, Scored]]) -> None:
    """A line for each label, means over seeds."""
    for label in found[0]:
        own = [one[label] for one in found]

        def mean(values: list[float]) -> float:
            return statistics.mean(values)

        inside = ", ".join(
            f"{mean([one.inside(n) for one in own]):.1%} within {n} (Gaussian {share:.1%}, "
            f"not calibrated {mean([float((one.errors <= n * one.plain).mean()) for one in own]):.1%})"
            for n, share in GAUSSIAN.items()
        )
        ranks = [mean([rank_correlation(values(one), one.errors) for one in own])
                 for values in (lambda one: one.bars, lambda one: one.grades)]  # fmt: skip
        size = mean([float(np.sqrt((one.errors**2).mean())) for one in own])
        print(f"{name}, {label}: RMSE {size:.4g} {UNITS[label]}, {len(own[0].errors)} values a seed: {inside}; rank "
              f"correlation of |error| with the error bar {ranks[0]:.2f}, with the grade {ranks[1]:.2f}")  # fmt: skip


def save(name: str, found: dict[str, Scored], folder: Path) -> None:
    """|error| against error bar and against grade, for the first seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import NullFormatter

    figure, axes = pyplot.subplots(len(found), 2, figsize=(9, 4 * len(found)), squeeze=False)
    for (left, right), (label, one) in zip(axes, found.items(), strict=True):
        left.loglog(one.bars, one.errors, ".", ms=2)
        ends = np.array([one.bars[one.bars > 0].min(), one.bars.max()])
        for n in GAUSSIAN:
            left.loglog(ends, n * ends, lw=0.8, color="black", ls="-" if n == 1 else "--", label=f"{n} error bars")
        left.set(xlabel=f"error bar ({UNITS[label]})", ylabel=f"|error| ({UNITS[label]})",
                 title=f"{name}, {label}: {one.inside(1):.0%} within one, {one.inside(2):.0%} within two")  # fmt: skip
        left.xaxis.set_minor_formatter("{x:.2g}" if ends[1] < 5 * ends[0] else NullFormatter())
        left.legend(fontsize=7)
        right.loglog(one.grades, one.errors, ".", ms=2)
        right.axvline(1, color="black", lw=0.8)
        right.set(xlabel="extrapolation grade", ylabel=f"|error| ({UNITS[label]})")
    figure.tight_layout()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"calibration_{name}.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of split and start")
    parser.add_argument("--evaluations", type=int, default=600, help="of each fit, about")
    parser.add_argument("--largest", type=int, default=0, help="structures of the pool that take part (all)")
    parser.add_argument("--error-bars", choices=FORMS, default=FORMS[0], help="parameters that they come from")
    parser.add_argument("--informed", action="store_true", help="physically informed networks, 40-16-16-8")
    parser.add_argument("--n-threads", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    if options.n_threads:
        torch.set_num_threads(options.n_threads)
    for name in options.sets:
        data = SETS[name]().informed() if options.informed else SETS[name]()
        if options.largest:
            data = data.cut(options.largest)
        found = [measure(data, seed, options.evaluations, options.error_bars) for seed in options.seeds]
        report(name, found)
        if options.out is not None:
            save(name, found[0], options.out)


if __name__ == "__main__":
    main()
