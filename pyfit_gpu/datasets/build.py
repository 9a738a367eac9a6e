"""Building training sets from structures: features and labels, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.datasets.training_set import STRUCTURE_FIELDS, TrainingSet
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.models.batch_stream import Arriving
from pyfit_gpu.models.batches import Batch, batch_atoms, batch_maker, computed_batches
from pyfit_gpu.models.energy_shift import EnergyShift, shift_of_elements
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.parallel import Workers
from pyfit_gpu.structures.batch import Structures, size_batches

_BATCH_ATOMS_CPU = (2_000, 20_000)  # at least, so that operations last, and at most
_BATCHES_PER_THREAD = 3  # so that all threads end at about the same time


def assemble(
    sizes: Sequence[int],
    take: Callable[[list[int]], Structures],
    potential: Potential,
    *,
    device: torch.device,
    e_shift: EnergyShift | None = 0.0,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    progress: Callable[[int], None] | None = None,
) -> TrainingSet:
    """Build a training set from structures that `take` gives in batches; see `build_training_set`.

    Args:
        sizes: atoms of each structure.
        take: gives the structures of some rows, padded, on the device.
        dtype: of the features; None: that of the positions, which at least are float32.
        progress: called with the number of atoms done so far.
    """
    energy_shift = None if e_shift is None else shift_of_elements(e_shift, potential.descriptor.elements)
    reach = potential.descriptor.neighbor_cutoff
    make = batch_maker(sizes, take, potential, backend=backend, dtype=dtype, cutoff=reach)

    @torch.no_grad()
    def compute(rows: list[int]) -> _BatchRows:
        return _BatchRows.of(make(rows), potential.descriptor)

    def compute_on_gpu(batch: Batch) -> Callable[[], _BatchRows]:
        found = _BatchRows.of(batch, potential.descriptor)
        arriving = Arriving(device)

        def arrived() -> _BatchRows:
            arriving.wait()
            return found

        return arrived

    parts: dict[str, Tensor] = {}
    groups = [""] * len(sizes)
    done = 0
    n_features = potential.descriptor.n_features
    potential.descriptor.require_memory(sum(sizes), device, (dtype or torch.float32).itemsize)
    if device.type == "cpu":
        cut = size_batches(sizes, _batch_atoms(sum(sizes), n_features))
        every = Workers(device).each(compute, cut)
    else:
        every = computed_batches(
            sizes, take, potential, compute_on_gpu,
            device=device, from_host=True, backend=backend, dtype=dtype, cutoff=reach,
        )  # fmt: skip
    for part in every:
        _place(parts, part.atom_values, part.atoms, sum(sizes))
        _place(parts, part.structure_values, part.rows, len(sizes))
        for row, group in zip(part.rows_on_host.tolist(), part.groups, strict=True):
            groups[row] = group
        done += len(part.atoms)
        if progress:
            progress(done)
    return TrainingSet(
        potential=potential.without_parameters(),
        energy_shift=energy_shift,
        groups=tuple(groups),
        splits={},
        **parts,
    )


def _batch_atoms(n_atoms: int, n_features: int) -> int:
    """Atoms of a batch on a CPU, whose threads have some each."""
    most = batch_atoms(torch.device("cpu"), n_features)
    low, high = _BATCH_ATOMS_CPU
    return min(most, high, max(low, n_atoms // (_BATCHES_PER_THREAD * torch.get_num_threads())))


@dataclass(frozen=True)
class _BatchRows:
    """Rows of a training set that one batch fills."""

    rows: Tensor  # (B,) int64, places of its structures in the whole
    rows_on_host: Tensor  # the same, from a GPU perhaps still on their way
    atoms: Tensor  # (n,) int64
    groups: tuple[str, ...]
    atom_values: dict[str, Tensor]  # by field
    structure_values: dict[str, Tensor]

    @classmethod
    def of(cls, batch: Batch, descriptor: LocalStructureParameters) -> _BatchRows:
        structures = batch.structures
        return cls(
            rows=batch.rows,
            rows_on_host=batch.rows.to("cpu", non_blocking=True),
            atoms=batch.atoms,
            groups=structures.groups,
            atom_values={
                "features": batch.features(descriptor),
                "species": batch.species,
                "positions": structures.flatten(structures.positions),
                "forces": structures.flatten(structures.forces),
            },
            structure_values={
                "sizes": batch.sizes,
                **{name: getattr(structures, name) for name in STRUCTURE_FIELDS if name != "sizes"},
            },
        )


def _place(parts: dict[str, Tensor], values: dict[str, Tensor], index: Tensor, total: int) -> None:
    for name, value in values.items():
        if name not in parts:
            parts[name] = value.new_empty(total, *value.shape[1:])
        parts[name][index] = value


def build_training_set(
    structures: Structures, potential: Potential, *, e_shift: EnergyShift = 0.0, backend: str = "auto"
) -> TrainingSet:
    """Build a training set: features and labels of every structure, in file order, on the structures' device.

    Args:
        structures: a batch; those without an energy are kept, and neither trained on nor scored.
        potential: gives the descriptor.
        e_shift: eV per atom, added to the energies when they are used: E_used = E_file + n_atoms * e_shift. One
            number, one per element in the potential's order, or by name: {"Si": 107.1, "C": 154.9}.

    Raises:
        InputError: as `featurize`, and shifts that are not those of the elements.
    """
    positions = structures.positions
    return assemble(
        structures.sizes,
        structures.select,
        potential,
        device=positions.device,
        e_shift=e_shift,
        backend=backend,
        dtype=positions.dtype,
    )
