"""Many systems whose atoms move from one call to the next: in batches, with neighbours that are remembered.

A system that cannot be computed (a position or a cell that is not finite, a flat cell, two atoms at one place, the
logarithm of zero) is lost: it gets NaN, and the others go on without it. It is tried again once its numbers are finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.log import log
from pyfit_gpu.models.batches import Batch, batch_atoms
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import Prediction, Spread, predict_batch
from pyfit_gpu.models.uncertainty import PredictedUncertainty, Uncertainty
from pyfit_gpu.structures.batch import Structures, size_batches
from pyfit_gpu.structures.cells import flat_cells
from pyfit_gpu.structures.verlet import VerletList
from pyfit_gpu.sums import ragged_range

T = TypeVar("T", Prediction, Spread, PredictedUncertainty)


class MovingSystems:
    """Systems of given sizes and elements, one after the other, whose positions and cells change."""

    def __init__(
        self,
        potential: Potential,
        sizes: Sequence[int],
        atomic_numbers: Tensor,
        *,
        skin: float,
        late: bool = False,
        uncertainty: Uncertainty | None = None,
    ) -> None:
        """Arrange the systems in batches.

        Args:
            sizes: atoms of each system.
            atomic_numbers: (n_atoms,) int64, on the potential's device.
            skin, late: see `VerletList`.
            uncertainty: of the potential, which gives grades and error bars of energies.

        Raises:
            InputError: an element that the potential lacks.
        """
        self.potential = potential
        self.sizes = tuple(sizes)
        self.atomic_numbers = atomic_numbers
        self.uncertainty = uncertainty
        self.skin, self.late = skin, late
        self.lost: frozenset[int] = frozenset()
        self.species = torch.empty_like(atomic_numbers)  # (n_atoms,) int64, index into the potential's elements
        counts = torch.tensor(self.sizes)
        self.owners = torch.repeat_interleave(counts).to(atomic_numbers.device)  # (n_atoms,) int64
        self._first = torch.cumsum(counts, 0) - counts
        self._cell = self._pbc = torch.empty(0)
        self._unusable: frozenset[int] = frozenset()  # systems whose cells nothing can be computed in
        self._parts = self._arranged(range(len(self.sizes)))
        for part in self._parts:
            self.species[part.atoms] = part.species

    def set_cells(self, cell: Tensor, pbc: Tensor) -> None:
        """Take the cells for later predictions. Waits for a GPU.

        Args:
            cell: (B, 3, 3) Å, rows are the vectors; kept, so that nobody else may change it.
            pbc: (B, 3) bool, likewise.
        """
        self._cell, self._pbc = cell, pbc
        host, periodic = cell.double().cpu().numpy(), pbc.cpu().numpy()
        finite = np.isfinite(host).all(axis=(1, 2))
        flat = flat_cells(np.where(finite[:, None, None], host, 0.0), periodic)
        self._unusable = frozenset(np.flatnonzero(flat | ~finite).tolist())
        if self._unusable <= self.lost:
            for part in self._parts:
                part.set_cells(cell, pbc)
        else:
            self._lose(self._unusable)

    def predict(self, positions: Tensor, *, derivatives: bool) -> Prediction:
        """Predict as `predict_batch` for all systems, NaN for those that are lost.

        Args:
            positions: (n_atoms, 3) Å, in the precision that neighbours are found in.

        Raises:
            InputError: a fault of the whole, and not of single systems.
        """
        if self.lost:
            self._find_again(positions)
        try:
            return self._predict(positions, derivatives)
        except InputError as error:
            found = self._failing([row for row in range(len(self.sizes)) if row not in self.lost], positions)
            if not found:
                raise
            log.warning("%d of %d systems are lost and get NaN: %s", len(found), len(self.sizes), error)
            self._lose(found)
        return self._predict(positions, derivatives)

    def _predict(self, positions: Tensor, derivatives: bool) -> Prediction:
        found = [part.predict(positions, derivatives=derivatives) for part in self._parts]
        if len(found) == 1 and self._parts[0].is_everything:
            return found[0]
        potential, uncertainty = self.potential, self.uncertainty
        like, n_systems, n_atoms = potential.networks.weights[0], len(self.sizes), len(self.owners)
        whole = Prediction.empty(
            n_systems,
            n_atoms,
            like,
            derivatives=derivatives,
            spread=potential.networks.n_members > 1,
            uncertainty=None if uncertainty is None else uncertainty.empty(n_systems, n_atoms, like, forces=False),
        )
        if self.lost:
            whole = _added(whole, like.new_full((n_systems,), torch.nan), self.owners)
        for part, own in zip(self._parts, found, strict=True):
            whole.put(own, part.rows, part.atoms)
        return whole

    def _arranged(self, rows: Sequence[int]) -> list[_Part]:
        potential = self.potential
        most = batch_atoms(potential.device, potential.descriptor.n_features) // potential.networks.n_members
        batches = size_batches([self.sizes[row] for row in rows], max(1, most))
        return [self._part([rows[place] for place in batch]) for batch in batches]

    def _part(self, rows: Sequence[int]) -> _Part:
        part = _Part(self, rows)
        if len(self._cell):
            part.set_cells(self._cell, self._pbc)
        return part

    def _lose(self, rows: frozenset[int]) -> None:
        self.lost |= rows
        self._parts = self._arranged([row for row in range(len(self.sizes)) if row not in self.lost])

    def _failing(self, rows: Sequence[int], positions: Tensor) -> frozenset[int]:
        """Find by halves which of some systems cannot be computed."""
        if not rows:
            return frozenset()
        try:
            self._part(rows).predict(positions, derivatives=False)
        except InputError:
            if len(rows) == 1:
                return frozenset(rows)
            half = len(rows) // 2
            return self._failing(rows[:half], positions) | self._failing(rows[half:], positions)
        return frozenset()

    def _find_again(self, positions: Tensor) -> None:
        """Take back lost systems whose numbers are finite. Waits for a GPU."""
        wrong = self.owners[~positions.isfinite().all(dim=1)]
        still = frozenset(wrong.unique().tolist()) | self._unusable
        if not self.lost <= still:
            self.lost &= still
            self._lose(frozenset())


class _Part:
    """Systems of similar size, padded, and the list of their neighbours."""

    def __init__(self, systems: MovingSystems, rows: Sequence[int]) -> None:
        self.systems = systems
        numbers, device = systems.atomic_numbers, systems.atomic_numbers.device
        sizes = torch.tensor(systems.sizes)[list(rows)]
        total = int(sizes.sum())
        owners, atoms = ragged_range(systems._first[list(rows)], sizes, total)
        largest = int(sizes.max())
        _, place = ragged_range(largest * torch.arange(len(rows)), sizes, total)
        self.rows = torch.tensor(rows, device=device)  # (B',) int64, the systems
        self.atoms = atoms.to(device)  # (n',) int64, their atoms
        self.owners = owners.to(device)  # (n',) int64, of the part
        self.place = place.to(device)  # (n',) int64, among B' x A
        self.is_everything = list(rows) == list(range(len(systems.sizes)))
        padded = numbers.new_full((len(rows), largest), -1)
        padded.view(-1)[self.place] = numbers[self.atoms]
        self.structures = _unlabelled(padded, sizes.tolist(), rows)
        self.species = systems.potential.species_index(self.structures)
        cutoff = systems.potential.neighbor_cutoff
        self.neighbors = VerletList(cutoff, systems.skin, late=systems.late)

    def set_cells(self, cell: Tensor, pbc: Tensor) -> None:
        self.structures = self.structures.changed(cell=cell[self.rows], pbc=pbc[self.rows])

    def predict(self, positions: Tensor, *, derivatives: bool) -> Prediction:
        shape = (*self.structures.atomic_numbers.shape, 3)
        padded = positions.new_zeros(shape[0] * shape[1], 3)
        padded.index_copy_(0, self.place, positions.index_select(0, self.atoms))
        structures = self.structures.changed(positions=padded.view(shape))
        potential, uncertainty = self.systems.potential, self.systems.uncertainty
        batch = Batch(
            rows=self.rows,
            atoms=self.atoms,
            structures=structures,
            species=self.species,
            neighbors=self.neighbors(structures).to(potential.dtype),
        )
        found = predict_batch(potential, batch, derivatives=derivatives, uncertainty=uncertainty)
        # Lists asked late do not notice a position that is not finite; the system's numbers then mean nothing.
        wrong = ~structures.positions.isfinite().flatten(1).all(dim=1)
        return _added(found, torch.where(wrong, torch.nan, 0.0).to(potential.dtype), self.owners)


def _unlabelled(atomic_numbers: Tensor, sizes: Sequence[int], rows: Sequence[int]) -> Structures:
    """Structures (B', A) whose positions and cells are still to come."""
    n_structures, largest = atomic_numbers.shape
    device = atomic_numbers.device
    unknown = torch.full((), torch.nan, dtype=torch.float64, device=device)
    return Structures(
        positions=unknown.expand(n_structures, largest, 3),
        cell=unknown.expand(n_structures, 3, 3),
        pbc=torch.zeros(n_structures, 3, dtype=torch.bool, device=device),
        atomic_numbers=atomic_numbers,
        sizes=tuple(sizes),
        groups=("",) * n_structures,
        sources=tuple(f"system {row}" for row in rows),
        energy=unknown.expand(n_structures),
        forces=unknown.expand(n_structures, largest, 3),
        stress=unknown.expand(n_structures, 6),
        weight=unknown.expand(n_structures),
    )


_BY_SYSTEM = ("energy", "stress")  # names of what there is once for each system; all other values belong to atoms


def _added(found: T, addend: Tensor, owners: Tensor) -> T:
    """A prediction, spread or uncertainty with a number (B,), 0 or NaN, added to every value of a system.

    Args:
        owners: (n_atoms,) int64, system of each atom.
    """
    by_atom = addend.index_select(0, owners)
    changed: dict[str, Any] = {}
    for one in fields(found):
        value = getattr(found, one.name)
        if isinstance(value, Tensor):
            own = addend if one.name in _BY_SYSTEM else by_atom
            changed[one.name] = value + own.view(-1, *[1] * (value.dim() - 1))
        elif value is not None:
            changed[one.name] = _added(value, addend, owners)
    return replace(found, **changed)
