"""Extrapolation grades for the command line: the uncertainty file of a potential, and the structures farthest out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pyfit_gpu.commands.report import EnergyTable, grade_report
from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.formats.opening import find_uncertainty, load_uncertainty_of
from pyfit_gpu.models.batches import featurize
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame

NO_UNCERTAINTY = "none"  # in place of a file
_N_WORST = 5  # structures that are listed


def own_file(uncertainty: str | None) -> list[str]:
    return [] if uncertainty in (None, NO_UNCERTAINTY) else [str(uncertainty)]


def chosen_uncertainty(
    given: str | None, paths: Sequence[str], model: Potential, *, needs_error_bars: bool = False
) -> Uncertainty | None:
    """Read the uncertainty in a file that is given, or in the one beside a potential.

    Raises:
        InputError: a file that is given and cannot be used, or no error bars where they are needed.
    """
    if given is None:
        found = find_uncertainty(paths, model)
    else:
        found = None if given == NO_UNCERTAINTY else load_uncertainty_of(given, model)
    if needs_error_bars and (found is None or found.error_bars is None):
        raise InputError(
            "error bars of forces: expected an uncertainty file of the potential with error bars, got none",
            remedy=Remedy.UNCERTAINTY,
        )
    return found


def describe_grades(
    frames: Sequence[Frame], table: EnergyTable, model: Potential, uncertainty: Uncertainty, device: torch.device | str
) -> str:
    """Report grades; the inputs of the few structures that are listed are computed again."""
    assert table.highest_grade is not None
    assert table.highest_grade_atom is not None
    worst = np.argsort(-table.highest_grade, kind="stable")[:_N_WORST].tolist()
    places = {}
    model, uncertainty = model.to(device, torch.float64), uncertainty.to(device, torch.float64)
    for row in worst:
        structures = Structures.from_frames([frames[row]], device=device)
        inputs = featurize(structures, model)
        atom = int(table.highest_grade_atom[row]) - 1
        species = int(model.species_index(structures)[atom])
        farthest = uncertainty.grade.describe_farthest(inputs[atom], species, model.descriptor)
        places[row] = f"{frames[row].source}, atom {atom + 1}: {farthest}"
    return grade_report(table.highest_grade, table.groups, places)
