"""Error bars of both forms beside bare energies and forces: how much longer a prediction takes.

    python tests/benchmarks/error_bar_cost.py [--elements Si C] [--hidden 8 8] [--cells 2 3] [--repeats 7] [--informed]

One crystal at a time, atoms displaced at random, mode 6; with --informed physically informed networks of the plain
form with 40 inputs for each pair of elements and a cutoff of 4.5 Å. Ratios of the least CPU times of `predict_batch`,
taken in turns. The covariance is made up: only its size matters.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from ase import Atoms
from ase.build import bulk

import pyfit_gpu as pf
from pyfit_gpu.models.error_bars import FORMS, LABELS, Calibration, ErrorBars, Form
from pyfit_gpu.models.last_layer import n_last_parameters
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.new_potential import new_potential
from pyfit_gpu.models.prediction import predict_batch, prediction_batches
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame


def make_bars(potential: pf.Potential, form: Form) -> ErrorBars:
    n = n_last_parameters(potential) if form == "last-layer" else potential.networks.n_parameters
    root = torch.eye(n, dtype=torch.float64)
    return ErrorBars(root, {label: Calibration(1.0, 1) for label in LABELS}, (1.0,), 1.0, 1.0, form)


def make_structures(elements: Sequence[str], cells: int, n: int = 1) -> Structures:
    frames = []
    for seed in range(n):
        atoms = bulk("Si", "diamond", a=5.43, cubic=True) if len(elements) == 1 else zincblende(elements)
        atoms = atoms.repeat(cells)
        atoms.rattle(0.05, seed=seed)
        frames.append(Frame.of_atoms(atoms, "made up"))
    return Structures.from_frames(frames)


def zincblende(elements: Sequence[str]) -> Atoms:
    return bulk("".join(elements), "zincblende", a=4.36, cubic=True)


def make_potential(elements: Sequence[str], hidden: Sequence[int], *, informed: bool) -> pf.Potential:
    """A potential with made-up networks; those of an informed one change its baseline a little."""
    if informed:
        orders = (0, 1, 2, 4, 6)
        empty = new_potential(
            elements, 4.5, form="plain", n_centers=8, first_center=1.5, legendre_orders=orders, hidden=hidden
        )
        sizes, half_width = empty.networks.layer_sizes, 0.02
    else:
        empty = new_potential(elements, 5.5, first_center=1.5)
        sizes, half_width = (empty.descriptor.n_features, *hidden, 1), 0.3
    networks = ElementNetworks.random(sizes, half_width, 1, n_elements=len(elements), activation=1)
    return replace(empty, networks=networks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, nargs="+", default=[8, 8])
    parser.add_argument("--cells", type=int, nargs="+", default=[2, 3], help="conventional cells along an edge")
    parser.add_argument("--elements", nargs="+", default=["Si"], help="one, or two in zincblende")
    parser.add_argument("--training", type=int, default=60, help="cells of 216 atoms whose clusters make the grade")
    parser.add_argument("--informed", action="store_true", help="physically informed networks")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    elements = options.elements
    potential = make_potential(elements, options.hidden, informed=options.informed)
    sizes = potential.networks.layer_sizes
    training = pf.build_training_set(make_structures(elements, 3, options.training), potential)
    plain = Uncertainty.of(potential, pf.build_extrapolation_grade(training, potential))
    with_bars = {form: replace(plain, error_bars=make_bars(potential, form)) for form in FORMS}
    shown = "-".join(map(str, sizes))
    n_clusters = len(plain.grade.centers)
    print(f"{shown}, {potential.networks.n_parameters} parameters, {n_clusters} clusters, one thread")
    for cells in options.cells:
        structures = make_structures(elements, cells)
        (batch,) = prediction_batches(structures.sizes, structures.select, potential)
        trials: dict[str, Callable[[], object]] = {
            "bare": lambda batch=batch: predict_batch(potential, batch),
            "grade": lambda batch=batch: predict_batch(potential, batch, uncertainty=plain),
        }
        for form, own in with_bars.items():
            trials[f"{form}, energies"] = lambda batch=batch, own=own: predict_batch(potential, batch, uncertainty=own)
            trials[f"{form}, forces too"] = lambda batch=batch, own=own: predict_batch(
                potential, batch, uncertainty=own, force_errors=True
            )
        least = dict.fromkeys(trials, float("inf"))
        for _ in range(options.repeats):
            for name, trial in trials.items():
                start = time.process_time()
                trial()
                least[name] = min(least[name], time.process_time() - start)
        ratios = ", ".join(f"{name} {seconds / least['bare']:.2f}" for name, seconds in least.items() if name != "bare")
        print(f"{structures.n_atoms} atoms: bare {1e3 * least['bare']:.1f} ms; times that: {ratios}")


if __name__ == "__main__":
    main()
