"""How the extrapolation grade separates families of structures that took no part in training, on the NIST silicon set.

    python tests/benchmarks/extrapolation_auc.py [--families 'Si_D*' 'Si_C*' 'Si_S*'] [--seeds 1 2 3]
        [--evaluations 300] [--largest N] [--n-threads 2] [--out FOLDER]

Each family in turn is left out; the others are split into training and validation structures (per seed). The grade of
a structure is that of its atom that is farthest out. Printed are the AUC, that is the probability that a structure of
the family has a higher grade than one that validates (1: always), the shares of both above 1, and the rank correlation
of grade and absolute error of the energy per atom after a short fit, over validation and family. --largest cuts the set
for a try.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from members import load
from shared_sets import rank_correlation

import pyfit_gpu as pf
from pyfit_gpu.datasets.pool import highest_grade
from pyfit_gpu.training.clusters import build_extrapolation_grade

GOAL = 0.95


@dataclass(frozen=True)
class Found:
    """Grades and absolute errors (meV/atom) of validation structures and of the family."""

    family: str
    validation: np.ndarray
    outside: np.ndarray
    errors: np.ndarray  # of the validation structures, then of the family

    @property
    def auc(self) -> float:
        """Share of pairs in which the structure of the family has the higher grade; equal ones count half."""
        order = np.sort(self.validation)
        below, not_above = (np.searchsorted(order, self.outside, side=side) for side in ("left", "right"))
        return float((below + not_above).mean() / (2 * len(order)))

    @property
    def grades(self) -> np.ndarray:
        return np.concatenate((self.validation, self.outside))


def measure(
    potential: pf.Potential, whole: pf.TrainingSet, family: str, seed: int, options: argparse.Namespace
) -> Found:
    """Leave a family out, train on nine tenths of the others."""
    split = whole.plan_split(0.9, seed, test_groups=[family])
    train, validation, outside = (whole.select(rows) for rows in (split.train, split.validation, split.test))
    grade = build_extrapolation_grade(train, potential)
    model = potential.randomized(seed)
    settings = pf.FitSettings(steps=max(1, options.evaluations // 11), l2=1e-4, seed=seed)
    pf.fit(model, train, validation, settings=settings)
    errors = []
    for part in (validation, outside):
        found = pf.predict(model, part.structures(), derivatives=False).energy
        errors.append((1e3 * (found - part.energy_used) / part.sizes).abs().numpy())
    return Found(
        family,
        highest_grade(grade, validation).numpy(),
        highest_grade(grade, outside).numpy(),
        np.concatenate(errors),
    )


def report(found: list[Found]) -> None:
    """A line for a family, means over seeds."""
    families = list(dict.fromkeys(one.family for one in found))
    print(f"{'family':10s}{'structures':>11s}{'AUC':>18s}{'grade > 1: family':>19s}{'validation':>12s}"
          f"{'grade and |error|':>19s}")  # fmt: skip
    for family in families:
        own = [one for one in found if one.family == family]
        aucs = [one.auc for one in own]
        spread = f"{statistics.mean(aucs):.3f} ({min(aucs):.3f} - {max(aucs):.3f})"
        shares = [statistics.mean(float((part > 1).mean()) for part in parts)
                  for parts in ([one.outside for one in own], [one.validation for one in own])]  # fmt: skip
        correlation = statistics.mean(rank_correlation(one.grades, one.errors) for one in own)
        print(f"{family:10s}{len(own[0].outside):>11d}{spread:>22s}{shares[0]:>15.0%}{shares[1]:>12.0%}"
              f"{correlation:>19.2f}")  # fmt: skip
    worst = min(one.auc for one in found)
    print(f"least AUC {worst:.3f}: {'the goal' if worst >= GOAL else 'below the goal'} of {GOAL}")


def save(found: list[Found], folder: Path) -> None:
    """Histograms of the grades, and errors against them, one column for a family (the first seed's)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    firsts = {one.family: one for one in reversed(found)}
    figure, axes = pyplot.subplots(2, len(firsts), figsize=(4 * len(firsts), 6), squeeze=False, sharex="col")
    for (above, below), one in zip(axes.T, reversed(list(firsts.values())), strict=True):
        edges = np.geomspace(max(1e-3, one.grades.min()), one.grades.max() * 1.01, 40)
        n = len(one.validation)
        for part, errors, label in ((one.validation, one.errors[:n], "validation"),
                                    (one.outside, one.errors[n:], one.family)):  # fmt: skip
            above.hist(part, bins=edges, alpha=0.6, density=False, label=label)
            below.loglog(part, errors, ".", ms=3, label=label)
        above.axvline(1, color="black", lw=0.8)
        below.axvline(1, color="black", lw=0.8)
        above.set(title=f"{one.family}: AUC {one.auc:.3f}", ylabel="structures")
        above.legend(fontsize=7)
        below.set(xlabel="extrapolation grade, highest atom", ylabel="|error| (meV/atom)")
    figure.tight_layout()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "extrapolation_auc.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=["Si_D*", "Si_C*", "Si_S*"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of split and start")
    parser.add_argument("--evaluations", type=int, default=300, help="of each fit, about")
    parser.add_argument("--largest", type=int, default=0, help="structures that take part (all)")
    parser.add_argument("--n-threads", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="folder of extrapolation_auc.png")
    options = parser.parse_args()
    if options.n_threads:
        torch.set_num_threads(options.n_threads)
    potential, whole = load("cpu", torch.float64)
    if options.largest:
        whole = whole.select(np.random.default_rng(5).permutation(len(whole))[: options.largest])
    found = [measure(potential, whole, family, seed, options) for family in options.families for seed in options.seeds]
    report(found)
    if options.out is not None:
        save(found, options.out)


if __name__ == "__main__":
    main()
