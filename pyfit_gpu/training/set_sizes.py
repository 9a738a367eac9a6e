"""The sizes of a training set that decide how much memory it takes; its features are not read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.datasets.feature_rows import FeatureRows
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.descriptors.lsp import padded_widths
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.batch import size_batches
from pyfit_gpu.structures.neighbors import find_neighbors
from pyfit_gpu.training.atomic_energies import Informed
from pyfit_gpu.training.bond_map import sample_bytes
from pyfit_gpu.training.lanes import BLOCK_ATOMS, N_LANES, cut_blocks, lane_bounds, least_lane_atoms
from pyfit_gpu.training.loss import LossTerm
from pyfit_gpu.training.packed_atoms import PackedAtoms

_BOND_ATOMS = 4_000  # likewise for bonds, which take longer
SAMPLE_ATOMS = 20_000  # least number of atoms whose neighbours are counted in a larger set


@dataclass(frozen=True)
class SetSizes:
    """Sizes of a set and of its lanes and blocks."""

    n_atoms: int
    n_structures: int
    largest: int  # atoms of the largest structure
    n_lanes: int
    lane_atoms: int  # atoms of the largest lane; no block has more
    places: int  # places for atoms, padding included, in blocks arranged by element
    ones: int  # those of them in blocks of energies only, where features end with a 1
    worst_padding: float  # places per atom in the block with the most padding
    in_files: bool  # whether the features stay in files until they are needed
    label_atoms: int = 0  # atoms of structures with forces or stress that count
    pairs: int = 0  # neighbours of these atoms
    places_for_pairs: int = 0  # the same with padding, as in the descriptor
    exact_pairs: bool = True  # whether all neighbours were counted, not those of a sample
    bonds: int = 0  # bytes of what a bond-order potential sees of the neighbours of all atoms

    @classmethod
    def of(
        cls,
        training_set: TrainingSet,
        terms: Sequence[LossTerm] = (),
        *,
        on_gpu: bool = False,
        potential: Potential | None = None,
    ) -> SetSizes:
        """Count the sizes of a set.

        Args:
            training_set: on the host.
            terms: the terms beside the energy that count.
            on_gpu: whether a GPU will train.
            potential: which trains, if its kind matters; None: a straight network.
        """
        sizes = training_set.sizes.tolist()
        is_informed = potential is not None and potential.is_physically_informed
        least = least_lane_atoms(bonds=is_informed, forces=bool(terms))
        lanes = lane_bounds(sizes, 1 if on_gpu else N_LANES, least)
        wanted = torch.zeros(len(training_set), dtype=torch.bool)
        for term in terms:
            wanted |= term.known(training_set)
        wanted &= training_set.has_energy & (training_set.weight > 0)
        reach = training_set.descriptor.neighbor_cutoff
        if potential is not None and potential.is_physically_informed:
            reach = potential.neighbor_cutoff
            wanted |= wanted.any()  # nearly every block has such structures, and then all of its own are mapped
        padded = _places_by_block(training_set, lanes, training_set.n_atoms if on_gpu else BLOCK_ATOMS, wanted)
        rows = wanted.nonzero()[:, 0]
        label_atoms = int(training_set.sizes[rows].sum())
        pairs, places_for_pairs, counted = _pairs(training_set, rows, label_atoms, reach, on_gpu=on_gpu)
        factor = label_atoms / counted if counted else 0.0
        return cls(
            n_atoms=training_set.n_atoms,
            n_structures=len(training_set),
            largest=max(sizes),
            n_lanes=len(lanes),
            lane_atoms=max(sum(sizes[first:end]) for first, end in lanes),
            places=sum(places for places, _, _ in padded),
            ones=sum(places for places, _, with_labels in padded if not with_labels),
            worst_padding=max(places / max(1, atoms) for places, atoms, _ in padded),
            in_files=isinstance(training_set.features, FeatureRows),
            label_atoms=label_atoms,
            pairs=round(factor * pairs),
            places_for_pairs=round(factor * places_for_pairs),
            exact_pairs=counted == label_atoms,
            bonds=_bond_bytes(training_set, potential, with_vectors=label_atoms > 0),
        )


def _places_by_block(
    training_set: TrainingSet, lanes: list[tuple[int, int]], block_atoms: int, wanted: Tensor
) -> list[tuple[int, int, bool]]:
    """Places and atoms of every block, and whether labels other than energies count in it.

    Args:
        wanted: (B,) bool, structures with such labels.
    """
    n_elements = training_set.descriptor.n_elements
    sizes = training_set.sizes.tolist()
    ends = [0, *torch.cumsum(training_set.sizes, 0).tolist()]
    found = []
    for first, end in lanes:
        for a, b in cut_blocks(sizes[first:end], block_atoms):
            species = training_set.species[ends[first + a] : ends[first + b]]
            with_labels = bool(wanted[first + a : first + b].any())
            if with_labels:  # every element is padded to the most frequent one
                places = n_elements * int(torch.bincount(species, minlength=n_elements).max())
            else:
                places = PackedAtoms.of(species, n_elements).n_places
            found.append((places, len(species), with_labels))
    return found


def _pairs(
    training_set: TrainingSet, rows: Tensor, label_atoms: int, reach: float, *, on_gpu: bool
) -> tuple[int, int, int]:
    """Count pairs, places for them and their central atoms, in all of these structures or an even sample."""
    step = max(1, label_atoms // SAMPLE_ATOMS)
    chosen = training_set.select(rows[::step])
    pairs = places = 0
    for batch in size_batches(chosen.sizes.tolist()):
        part = chosen.select(batch)
        if bool(torch.isnan(part.positions).any()):
            continue  # which training will refuse
        counts = find_neighbors(part.structures(), reach).counts
        pairs += int(counts.sum())
        places += int(padded_widths(counts, on_gpu=on_gpu).sum())
    return pairs, places, chosen.n_atoms


def _bond_bytes(training_set: TrainingSet, potential: Potential | None, *, with_vectors: bool) -> int:
    """Estimate the bytes of bonds and what screens them from an even sample of the structures."""
    how = Informed.of(potential, torch.empty(0, dtype=torch.float64))
    if how is None or bool(torch.isnan(training_set.positions).any()):
        return 0
    step = max(1, training_set.n_atoms // _BOND_ATOMS)
    sample = training_set.select(torch.arange(0, len(training_set), step))
    n_bytes = sample_bytes(sample, how.model, how.reach, with_vectors=with_vectors)
    return round(n_bytes / sample.n_atoms * training_set.n_atoms)
