"""Energy shifts: the zero of energy of each element, given by hand or found from the structures themselves.

E_used = E_file + sum_a n_a shift_a
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.log import log
from pyfit_gpu.models.elemental_solids import elemental_solid
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.elements import count_elements
from pyfit_gpu.structures.frames import Frame, StructureSummary
from pyfit_gpu.structures.neighbors import find_neighbors

EnergyShift = float | Sequence[float] | Mapping[str, float]  # eV per atom: one for all elements, in order, or by name
ShiftRequest = EnergyShift | str  # or one of METHODS

METHODS = ("fit", "isolated", "atomisation")
NEED_ATOMS = ("isolated", "atomisation")  # methods to which structures of one atom must be given as frames

_DECIMALS = 6  # decimals of a fitted shift, eV
_RANK_TOLERANCE = 1e-10  # for the rank of compositions: one atom in a million still tells elements apart


def shift_of_elements(e_shift: ShiftRequest, elements: Sequence[str]) -> tuple[float, ...]:
    """(S,) eV per atom of each element, in their order.

    Raises:
        InputError: no numbers but a method, another number of shifts than elements, elements missing or unknown, a
            number that is not finite.
    """
    names = ", ".join(elements)
    if isinstance(e_shift, str):
        raise InputError(
            f"e_shift: expected a number, or one for each of {names}, got {e_shift!r}",
            setting="e_shift",
            remedy=Remedy.FIND_SHIFT if e_shift in METHODS else None,
        )
    if isinstance(e_shift, Mapping):
        faults = [f"{symbol} is missing" for symbol in elements if symbol not in e_shift]
        faults += [f"{symbol} is not one of them" for symbol in e_shift if symbol not in elements]
        if faults:
            raise InputError(f"e_shift: expected every element of the potential ({names}) once: {', '.join(faults)}")
        e_shift = [e_shift[symbol] for symbol in elements]
    values = np.asarray(e_shift, dtype=np.float64)
    if values.ndim and values.shape != (len(elements),):
        raise InputError(f"e_shift: expected one number, or one for each of {names}, got {values.tolist()}")
    if not np.isfinite(values).all():
        raise InputError(f"e_shift: expected finite numbers, got {values.tolist()}")
    return tuple(np.broadcast_to(values, len(elements)).tolist())


def shift_of_structures(counts: Tensor, e_shift: Sequence[float]) -> Tensor:
    """(B,) eV: sum of the energy shifts of each structure's atoms, float64.

    Args:
        counts: (B, S) atoms of each element.
        e_shift: (S,) eV per atom.
    """
    counts = counts.to(torch.float64)
    return counts @ counts.new_tensor(e_shift)


def evaluation_shift(potential: Potential, e_shift: EnergyShift | None) -> tuple[float, ...]:
    """(S,) eV per atom, to take off a potential's energies: `e_shift`, else the potential's own, else 0.

    A straight network that does not know its own is on an unknown scale, with a warning. A bond-order potential has
    energies of atomisation, where isolated atoms have none: nothing is wrong with 0.

    Raises:
        InputError: as `shift_of_elements`.
    """
    if e_shift is not None:
        return shift_of_elements(e_shift, potential.descriptor.elements)
    if potential.knows_shift:
        return tuple(potential.energy_shift.tolist())
    if not potential.is_physically_informed:
        log.warning("the potential does not say its e_shift: 0.0 is taken (%s)", Remedy.E_SHIFT)
    return (0.0,) * potential.descriptor.n_elements


def find_shift(
    request: ShiftRequest, structures: Sequence[Frame | StructureSummary], descriptor: LocalStructureParameters
) -> tuple[float, ...]:
    """(S,) eV per atom of each element: the numbers given, or found by a method from all the structures.

    Raises:
        InputError: as `shift_of_elements`, `fit_shift`, `isolated_shift` and `atomisation_shift`.
    """
    if request == "fit":
        return fit_shift(structures, descriptor.elements)
    if request == "isolated":
        return isolated_shift(structures, descriptor.elements, descriptor.neighbor_cutoff)
    if request == "atomisation":
        return atomisation_shift(structures, descriptor.elements, descriptor.neighbor_cutoff)
    return shift_of_elements(request, descriptor.elements)


def fit_shift(structures: Sequence[Frame | StructureSummary], elements: Sequence[str]) -> tuple[float, ...]:
    """(S,) eV: least squares over the structures that have an energy; logs the energies found.

        minimise  sum_s ( (E_s + sum_a n_sa shift_a) / n_s )^2

    Among many solutions the one of least norm is taken, with a warning that names the elements. A shift is a choice of
    zero: its digits below 1e-6 eV mean nothing, and without them all shards of a set get the same on any machine.

    Raises:
        InputError: no structure has an energy, or an element that is not one of `elements`.
    """
    composition, per_atom = _labelled(structures, elements, "fit")
    solution, _, rank, _ = np.linalg.lstsq(composition, -per_atom, rcond=_RANK_TOLERANCE)
    shifts = tuple(round(float(shift), _DECIMALS) + 0.0 for shift in solution)  # + 0.0: no minus zero
    if rank < len(elements):
        _warn_of_undetermined(composition, elements, "fit")
    rmse = float(np.sqrt(np.mean((per_atom + composition @ np.array(shifts)) ** 2)))
    log.info(
        "e_shift fit to %d structures: energy per atom of %s; RMSE %.6g eV/atom", len(per_atom),
        _named(elements, (f"{0.0 - shift:.6f} eV" for shift in shifts)), rmse,
    )  # fmt: skip
    return shifts


def _labelled(
    structures: Sequence[Frame | StructureSummary], elements: Sequence[str], method: str
) -> tuple[FloatArray, FloatArray]:
    """Composition (B, S) and energy per atom (B,), eV, of the structures that have an energy."""
    counts = count_elements(structures, elements)
    known = np.array([structure.energy is not None for structure in structures])
    if not known.any():
        raise InputError(f"e_shift {method}: expected structures with an energy, found none among {len(structures)}")
    counts, n_atoms = counts[known], counts[known].sum(axis=1)
    per_atom = np.array([structure.energy for structure in structures if structure.energy is not None]) / n_atoms
    return counts / n_atoms[:, None], per_atom


def composition_residuals(counts: NDArray[np.int64], per_atom: FloatArray) -> FloatArray:
    """(B,) eV/atom: energies per atom less their least squares by composition.

    Args:
        counts: (B, S) atoms of each element.
        per_atom: (B,) eV/atom.
    """
    composition = counts / counts.sum(axis=1, keepdims=True)
    return np.asarray(per_atom - composition @ np.linalg.lstsq(composition, per_atom, rcond=1e-8)[0])


def _warn_of_undetermined(composition: FloatArray, elements: Sequence[str], method: str) -> None:
    """Name the elements whose energy the compositions (B, S) leave open."""
    absent = [symbol for symbol, column in zip(elements, composition.T, strict=True) if not column.any()]
    # Resolution of each element: 1 where the compositions determine it, less where only a combination is determined.
    seen = np.diagonal(np.linalg.pinv(composition, rcond=_RANK_TOLERANCE) @ composition)
    mixed = [symbol for symbol, part in zip(elements, seen, strict=True) if part < 1 - 1e-9 and symbol not in absent]
    if absent:
        named = " or ".join(absent)
        log.warning("e_shift %s: no structure with an energy has %s atoms: shift 0 is taken", method, named)
    if mixed:
        log.warning(
            "e_shift %s: the compositions do not determine the energies of %s apart from one another: those of least "
            "norm are taken", method, " and ".join(mixed),
        )  # fmt: skip


def isolated_shift(
    structures: Sequence[Frame | StructureSummary], elements: Sequence[str], cutoff: float
) -> tuple[float, ...]:
    """(S,) eV: minus the energies of isolated atoms, the lowest where there are several; logs them.

    Args:
        structures: frames where they have one atom, summaries or frames otherwise.
        cutoff: Å; a frame of one atom without neighbours within it, periodic images included, is an isolated atom.

    Raises:
        InputError: elements without such a frame that has an energy, or one that is not one of `elements`.
    """
    found, faults = _isolated_atoms(structures, elements, cutoff)
    if faults:
        raise InputError(
            "e_shift isolated: expected for each element a structure of one atom with an energy and no neighbour "
            f"within {cutoff:g} Å; {'; '.join(faults)}"
        )
    return _said(found, elements)


def _said(found: Sequence[tuple[float, str, str]], elements: Sequence[str]) -> tuple[float, ...]:
    """Say which isolated atoms (`_isolated_atoms`) give the shift of each element, and return these."""
    described = [f"{energy!r} eV ({several}{source})" for energy, several, source in found]
    log.info("e_shift from isolated atoms: energy of %s", _named(elements, described))
    return tuple(0.0 - energy for energy, *_ in found)


def _isolated_atoms(
    structures: Sequence[Frame | StructureSummary], elements: Sequence[str], cutoff: float
) -> tuple[list[tuple[float, str, str]], list[str]]:
    """The lowest energy (eV) of an isolated atom of each element, of how many, and where; and what is missing."""
    count_elements(structures, elements)
    single = [frame for frame in structures if isinstance(frame, Frame) and frame.n_atoms == 1]
    single = [frame for frame in single if frame.energy is not None]
    neighbors = find_neighbors(Structures.from_frames(single), cutoff).counts.tolist() if single else []
    counts = count_elements(single, elements)
    found, faults = [], []
    for species, symbol in enumerate(elements):
        candidates = [(row, n) for row, n in enumerate(neighbors) if counts[row, species]]
        isolated = [(energy, row) for row, n in candidates if n == 0 and (energy := single[row].energy) is not None]
        if not isolated:
            more = f", but {len(candidates)} with neighbours (images of the atom itself)" if candidates else ""
            faults.append(f"{symbol}: found none{more}")
            continue
        energy, row = min(isolated)
        several = f"the lowest of {len(isolated)}: " if len(isolated) > 1 else ""
        found.append((float(energy), several, str(single[row].source)))
    return found, faults


def atomisation_shift(
    structures: Sequence[Frame | StructureSummary], elements: Sequence[str], cutoff: float
) -> tuple[float, ...]:
    """(S,) eV with which energies are those of atomisation, as bond-order potentials need them.

    From isolated atoms if there are some of every element (`isolated_shift`). Else estimated, which is logged: by least
    squares an atom of element a has the energy e_a, and the structure that is lowest below that is taken for as
    strongly bound as its elements as solids are, with their cohesive energies c_a:

        shift_a = -c_a - e_a - min_s (E_s - sum_a n_sa e_a) / n_s

    Warns of elements that the compositions do not tell apart, and of those that no structure has: their shift is 0.

    Raises:
        InputError: no structure has an energy, or an element that is not one of `elements`.
    """
    found, faults = _isolated_atoms(structures, elements, cutoff)
    if not faults:
        return _said(found, elements)
    composition, per_atom = _labelled(structures, elements, "atomisation")
    means, _, rank, _ = np.linalg.lstsq(composition, per_atom, rcond=_RANK_TOLERANCE)
    if rank < len(elements):
        _warn_of_undetermined(composition, elements, "atomisation")
    cohesive = [elemental_solid(symbol).cohesive_energy for symbol in elements]
    isolated = means + np.array(cohesive) + float((per_atom - composition @ means).min())
    isolated = np.where(composition.any(axis=0), isolated, 0.0)
    shifts = tuple(round(0.0 - float(energy), _DECIMALS) + 0.0 for energy in isolated)
    log.info(
        "e_shift estimated, for want of isolated atoms (%s): the lowest energy is taken for that of solids bound by %s "
        "eV/atom; energy of an isolated atom: %s", "; ".join(faults), _named(elements, map(str, cohesive)),
        _named(elements, (f"{0.0 - shift:.6f} eV" for shift in shifts)),
    )  # fmt: skip
    return shifts


def _named(elements: Sequence[str], texts: Iterable[str]) -> str:
    return ", ".join(f"{symbol} {text}" for symbol, text in zip(elements, texts, strict=True))
