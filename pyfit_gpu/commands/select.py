"""The verb `select`: chooses structures of a pool for the next round of DFT."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from ase.data import atomic_numbers as ATOMIC_NUMBERS
from torch import Tensor

from pyfit_gpu.commands.jobs import Setup, Sources, featurize_windows, survey_files
from pyfit_gpu.commands.messages import shown
from pyfit_gpu.commands.warnings import warn_of_equal_members
from pyfit_gpu.datasets.pool import energy_error_bars, energy_spread, highest_grade, structure_rows
from pyfit_gpu.datasets.selection import Selection, choose
from pyfit_gpu.datasets.selection_methods import METHODS, UNCERTAINTIES, Method
from pyfit_gpu.datasets.training_set import TrainingSet, require_same_inputs
from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.files import atomic_text
from pyfit_gpu.formats.dft_inputs import DftInputs
from pyfit_gpu.formats.extxyz.writer import write_extxyz
from pyfit_gpu.formats.kinds import EXTXYZ, RUN, TrainingSetKind, identify, potential_kind
from pyfit_gpu.formats.nn_dat import asks_for_random_weights
from pyfit_gpu.formats.opening import load_potentials, load_training_set, load_uncertainty_of
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.uncertainty_file import uncertainty_path
from pyfit_gpu.log import log
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.copies import UniqueStructures
from pyfit_gpu.structures.frames import Frame

# What the score of a method is, and its unit.
_SCORES = {
    "farthest": "distance",
    "determinant": "leverage",
    "grade": "grade",
    "error-bar": "eV/atom",
    "spread": "eV/atom",
    "random": "",
}


def select(
    pool: Sequence[str],
    *,
    potential: str | Sequence[str],
    n: int,
    out: str,
    setup: Setup,
    method: str = METHODS[0],
    uncertainty: str = "",
    known: Sequence[str] = (),
    seed: int = 0,
    reading: ReadOptions | None = None,
) -> None:
    """Write the structures of a pool that add most to those that are known (`pyfit-gpu select`).

    No structure is chosen twice, and none that is known. Of the pool, coordinates of a window are held at a time.
    `pyfit_gpu.select_structures` (datasets/pool.py) is the function of the library.

    Args:
        pool: files of structures.
        potential: one file, or the files of several members, whose spread is the uncertainty.
        n: number of structures to choose.
        out: `.extxyz`; structures have their labels, and pool_file, pool_index (from 0) and score.
        method: one of `METHODS`, see datasets/selection.py, or of `UNCERTAINTIES` for the most uncertain ones: by their
            highest extrapolation grade, by the error bar of the energy per atom, or by its spread over the members.
        uncertainty: file for grades and error bars; empty: the one beside the potential.
        known: training sets, and files of structures.
        seed: of the method "random".
        reading: names of labels, units, and what else the files leave open.
    """
    if not out.endswith(EXTXYZ.endings):
        raise InputError(f"{out}: expected a name that ends in {' or '.join(EXTXYZ.endings)}")
    if n < 1:
        raise InputError(f"-n: expected the number of structures to choose, at least 1, got {n}")
    members = [potential] if isinstance(potential, str) else list(potential)
    out = setup.output(out, [*pool, *members, *known])
    model = load_potentials(members)
    score = _score_function(method, uncertainty, model, members)
    elements = model.descriptor.elements
    seen = UniqueStructures(ATOMIC_NUMBERS[elements[0]] if len(elements) == 1 else 0)
    rows_known = [_known_rows(path, model, setup, seen, reading) for path in known]
    inputs = survey_files(Sources.of(pool, reading), keeps=seen.take, training=False)
    _check_number(n, inputs)
    rows, scores = [], []
    for window in featurize_windows(inputs, model, setup, e_shift=None):
        rows.append(structure_rows(window))
        if score is not None:
            scores.append(score(window))
    found = choose(
        torch.cat(rows),
        n,
        cast(Method, method) if score is None else "uncertainty",
        n_elements=len(elements),
        known=torch.cat(rows_known) if rows_known else None,
        scores=torch.cat(scores) if scores else None,
        seed=seed,
    )
    chosen = _frames(inputs, found)
    with atomic_text(out) as file:
        write_extxyz(file, [one.frame for one in chosen], notes=[one.note() for one in chosen])
    if not setup.quiet:
        print(shown(_table(_SCORES[method], found, chosen)))
    log.info("wrote %s", out)


def _score_function(
    method: str, path: str, model: Potential, members: Sequence[str]
) -> Callable[[TrainingSet], Tensor] | None:
    """Function that gives the uncertainties of structures; None: the method needs none.

    Raises:
        InputError: a file without use, or of another potential; several potentials where one is expected, or one for a
            spread; a potential whose parameters are drawn on loading.
    """
    if path and method not in ("grade", "error-bar"):
        raise InputError(f"--uncertainty: expected with --method grade or error-bar, got --method {method}")
    if method not in UNCERTAINTIES:
        return None
    for member in members:
        if potential_kind(member) is not RUN and asks_for_random_weights(member):
            raise InputError(f"{member}: expected a trained potential, found one that asks for random weights")
    if method == "spread":
        if model.networks.n_members < 2:
            raise InputError("--method spread: expected several potentials, got one")
        warn_of_equal_members(model, members)
        return partial(energy_spread, model)
    if method == "error-bar" and model.networks.n_members > 1:
        raise InputError(f"--method error-bar: expected one potential, got {model.networks.n_members}")
    if not path:
        path = str(uncertainty_path(members[0]))
        if not os.path.exists(path):
            fault = f"{path}: expected the uncertainty file of {members[0]}, found none"
            raise InputError(fault, where=path, remedy=Remedy.UNCERTAINTY)
    found = load_uncertainty_of(path, model)
    if method == "grade":
        return partial(highest_grade, found.grade)
    if found.error_bars is None:
        raise InputError(f"{path}: expected error bars, found the grade alone", where=path, remedy=Remedy.UNCERTAINTY)
    return partial(energy_error_bars, model, found.error_bars)


def _known_rows(
    path: str, model: Potential, setup: Setup, seen: UniqueStructures, reading: ReadOptions | None
) -> Tensor:
    """(m, ..) rows of a known training set or file of structures, which are added to those seen."""
    if isinstance(identify(path), TrainingSetKind):
        training_set = load_training_set(path, lazy=True)
        require_same_inputs(model.descriptor, training_set.descriptor, f"{path} does not fit the potential")
        if bool(training_set.positions.isnan().any()):
            log.warning(
                "%s holds no positions (classic text): structures of the pool that are in it may be chosen", path
            )
        for key in training_set.structure_keys():
            seen.add(bytes(key), (math.nan,) * 3)
        return structure_rows(training_set)
    inputs = survey_files(Sources.of([path], reading), keeps=lambda frame: seen.take(frame) or True, training=False)
    return torch.cat([structure_rows(window) for window in featurize_windows(inputs, model, setup, e_shift=None)])


def _check_number(n: int, inputs: DftInputs) -> None:
    """Refuse a number that the pool cannot give, before anything is computed."""
    n_left, n_pool = len(inputs.kept), len(inputs.structures)
    if n_left < n_pool:
        log.info("%d of %d structures of the pool are copies of others or known already", n_pool - n_left, n_pool)
    if not n_left:
        raise InputError("the pool: expected structures that are not known already, found none")
    if n > n_left:
        raise InputError(f"-n: expected a number from 1 to {n_left}, of the structures to choose from, got {n}")


@dataclass(frozen=True, eq=False)
class _Chosen:
    """A structure that was chosen, and from where."""

    frame: Frame
    path: str
    index: int  # in the file, from 0
    score: float  # NaN or infinite: it has none

    def note(self) -> dict[str, str | float]:
        """The words for the output."""
        score = {"score": self.score} if math.isfinite(self.score) else {}
        return {"pool_file": self.path, "pool_index": self.index, **score}


def _frames(inputs: DftInputs, found: Selection) -> list[_Chosen]:
    """The structures in the order of the choice."""
    place = {row: rank for rank, row in enumerate(found.rows)}
    numbered = zip(sorted(found.rows), inputs.frames(place.keys()), strict=True)
    chosen = [(place[row], _Chosen(*where, found.scores[place[row]])) for row, where in numbered]
    return [one for _, one in sorted(chosen, key=lambda pair: pair[0])]


def _table(score_name: str, found: Selection, chosen: Sequence[_Chosen]) -> str:
    """A line for each structure, and what all of them add to those known."""
    width = max(len("group"), *(len(one.frame.group) for one in chosen))
    lines = [f"{'':>4} {score_name:>11} {'atoms':>6}  {'group':<{width}}  structure"]
    for rank, one in enumerate(chosen, start=1):
        score = "" if math.isnan(one.score) else f"{one.score:.4g}"
        frame = one.frame
        lines.append(f"{rank:>4} {score:>11} {frame.n_atoms:>6}  {frame.group:<{width}}  {frame.source}")
    lines.append("before -> with the chosen ones:")
    for what, (before, after) in (
        ("log det of the information", found.log_det),
        ("largest distance of a structure of the pool from the nearest of them", found.distance),
    ):
        lines.append(f"  {what}: {f'{before:.3f}' if math.isfinite(before) else 'none'} -> {after:.3f}")
    return "\n".join(lines)
