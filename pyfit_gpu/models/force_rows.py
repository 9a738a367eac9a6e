"""Moves of network inputs along forces and virials, laid out for rows of the Jacobian (network_jacobian.py).

The force on an atom j is a sum over the atoms i that have j as a neighbour, and over j itself:

    F_j = sum_i g_i T_ij,   T_ij = -dx_i/dr_j,      g_i = de_i/dx_i

The derivatives of a `MapPart` stand by central atom i and pair. Here they are gathered by j: pairs of i and images of
the same j become one entry, and entries of a few structures (a slab) one padded table for each element of i. Where
energies follow from the outputs of the networks, the changes of their slopes (turning_slopes.py) go the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.descriptors.pair_sums import symmetric_six
from pyfit_gpu.models.map_parts import MapBlock, MapPart
from pyfit_gpu.models.network_jacobian import Members, atoms_by_element
from pyfit_gpu.models.turning_slopes import TurningSlopes
from pyfit_gpu.sums import RepeatedPlaces, ragged_range

SLAB_ATOMS = 512  # most atoms of a slab, unless a single structure has more
GPU_SLAB_ATOMS = 4096  # in a training on a GPU, which is faster than small operations can be started
ENERGY_ROWS = 256  # most structures whose energies' rows of J are made at once
_PADDING = 1.15  # places of a table for one entry, at most, where it has many rows
_LEAST_ROWS = 16  # rows of a table below which padding does not matter


def padded_table(row_of_item: Tensor, items: Tensor, n_rows: int, padding: int) -> tuple[Tensor, Tensor]:
    """(R, M) int64, the items of each row one after the other, then `padding`; and the flat place (n,) of each item.

    Args:
        row_of_item: (n,) int64, ascending.
        items: (n,) int64.
    """
    counts = torch.bincount(row_of_item, minlength=n_rows)
    width = int(counts.max())
    table = items.new_full((n_rows, width), padding)
    _, rank = ragged_range(torch.zeros_like(counts), counts, len(items))
    places = row_of_item * width + rank
    table.view(-1)[places] = items
    return table, places


def similar(counts: Tensor, most: int) -> list[Tensor]:
    """Cut rows into groups of similar counts, each at most `most` rows: int64 rows of each group, fewest first."""
    order = torch.argsort(counts, stable=True)
    ordered = counts[order].tolist()
    groups, first, total = [], 0, 0
    for place, count in enumerate(ordered):
        n_rows = place - first
        wasteful = n_rows >= _LEAST_ROWS and count * (n_rows + 1) > _PADDING * (total + count)
        if n_rows and (n_rows >= most or wasteful):
            groups.append(order[first:place])
            first, total = place, 0
        total += count
    groups.append(order[first:])
    return groups


@dataclass(frozen=True, eq=False)
class RowGroup:
    """Some rows of J, forces on atoms or virials of structures, and the atoms each of them sums over."""

    rows: Tensor  # (R,) int64, atoms or structures of the slab
    members: tuple[Members, ...]  # one table for each element


# Rows of J, and for each element tables of the moves of inputs (R, M, C, F) and of the turns of slopes (R, M, C, N),
# as `NetworkJacobian.moved_rows` takes them; None: slopes do not turn. C: 3 components of a force, 6 of a virial.
Moved = tuple[RowGroup, list[Tensor], list[Tensor] | None]


@dataclass(frozen=True, eq=False)
class _Source:
    """Atoms of a chunk that belong to a slab, of one element, and where their derivatives go."""

    block: MapBlock
    element: int
    rows: Tensor  # (n,) int64, of the chunk
    pairs: RepeatedPlaces  # of the entries of n K pairs; dummy pairs have the last place
    own: Tensor  # (n,) int64, places of the atoms' own entries
    atoms: Tensor  # (n,) int64, of the slab


class Slab:
    """A few structures of a `MapPart`: where each derivative goes, which does not change during a training."""

    def __init__(self, part: MapPart, species: Tensor, structures: slice, n_elements: int) -> None:
        """Lay out the entries.

        Args:
            species: (n_atoms,) of all atoms of the part.
            structures: of the part.
        """
        sizes = part.sums.sizes
        before = torch.cumsum(sizes, 0) - sizes
        first = int(before[structures.start])
        self.sizes = sizes[structures]
        self.atoms = slice(first, first + int(self.sizes.sum()))  # of the part
        self.structures = structures
        self.species = species[self.atoms]
        self.n_elements = n_elements
        self.by_element = atoms_by_element(self.species, n_elements)
        centres, neighbors = self._pairs(part)
        n = len(self.species)
        every = torch.arange(n, device=species.device)
        # One entry for each pair of atoms, and for each atom itself, by atom that is moved.
        keys = torch.unique(torch.cat([neighbors * n + centres, every * n + every]))
        moved, summed = keys // n, keys % n
        self.groups: list[RowGroup] = []
        self._by_structure: list[RowGroup] | None = None  # groups for virials, once they are asked for
        self._offsets: list[list[int]] = []  # first place of each group's table, by element
        place = torch.empty_like(keys)
        self.n_places = [0] * n_elements
        row_of_atom = torch.empty_like(every)
        for rows in similar(torch.bincount(moved, minlength=n), n):
            row_of_atom.fill_(-1)
            row_of_atom[rows] = torch.arange(len(rows), device=rows.device)
            in_group = (row_of_atom[moved] >= 0).nonzero()[:, 0]
            in_group = in_group[torch.argsort(row_of_atom[moved[in_group]], stable=True)]
            tables, offsets = [], []
            for element in range(n_elements):
                own = in_group[self.species[summed[in_group]] == element]
                row = row_of_atom[moved[own]]
                table, places = padded_table(row, summed[own], len(rows), n)
                offsets.append(self.n_places[element])
                place[own] = self.n_places[element] + places
                self.n_places[element] += table.numel()
                tables.append(Members(element, table))
            self.groups.append(RowGroup(rows, tuple(tables)))
            self._offsets.append(offsets)
        self._sources = self._find_sources(part, keys, place)

    def _rows_of(self, block: MapBlock) -> Tensor:
        """Rows of a chunk whose atoms belong to the slab."""
        atoms = block.chunk.atoms
        return ((atoms >= self.atoms.start) & (atoms < self.atoms.stop)).nonzero()[:, 0]

    def _pairs(self, part: MapPart) -> tuple[Tensor, Tensor]:
        """Central atoms and neighbours of all pairs, as atoms of the slab."""
        n_pairs = len(part.sums.index) - 1
        centres, neighbors = [], []
        for block in part.blocks:
            rows = self._rows_of(block)
            pairs = block.chunk.pairs[rows]
            known = pairs < n_pairs
            centres.append(block.chunk.atoms[rows][:, None].expand_as(pairs)[known])
            neighbors.append(part.sums.index[pairs[known]])
        return torch.cat(centres) - self.atoms.start, torch.cat(neighbors) - self.atoms.start

    def _find_sources(self, part: MapPart, keys: Tensor, place: Tensor) -> list[_Source]:
        n, n_pairs = len(self.species), len(part.sums.index) - 1
        found = []
        for block in part.blocks:
            in_slab = self._rows_of(block)
            for element in range(self.n_elements):
                own = block.chunk.atoms[in_slab] - self.atoms.start
                chosen = self.species[own] == element
                rows, atoms = in_slab[chosen], own[chosen]
                if not len(rows):
                    continue
                pairs = block.chunk.pairs[rows]
                neighbors = (part.sums.index[pairs] - self.atoms.start).clamp(0, n - 1)
                key = torch.searchsorted(keys, neighbors * n + atoms[:, None]).clamp(max=len(keys) - 1)
                last = self.n_places[element]
                places = RepeatedPlaces.of(torch.where(pairs < n_pairs, place[key], last).flatten(), last)
                own_places = place[torch.searchsorted(keys, atoms * n + atoms)]
                found.append(_Source(block, element, rows, places, own_places, atoms))
        return found

    def force_moves(self, turning: TurningSlopes | None = None) -> Iterator[Moved]:
        """Groups of atoms with the moves of the inputs along the forces on them, and the turns of slopes that turn."""
        tables: list[Tensor] = []
        width = 0
        for number, source in enumerate(self._sources):
            derivatives = self._derivatives(number, source, turning)  # (n, F', 3, K)
            by_pair = derivatives.permute(0, 3, 2, 1).flatten(2)  # (n, K, 3 F')
            del derivatives
            width = by_pair.shape[2]
            if not tables:
                tables = [by_pair.new_zeros(count + 1, width) for count in self.n_places]
            table = tables[source.element]
            source.pairs.add(table, by_pair.flatten(0, 1), sign=-1)
            table.index_add_(0, source.own, by_pair.sum(dim=1))
            del by_pair  # whoever takes the tables needs the memory
        for group, offsets in zip(self.groups, self._offsets, strict=True):
            moved = [
                table[first : first + own.atoms.numel()].view(*own.atoms.shape, 3, width // 3)
                for table, first, own in zip(tables, offsets, group.members, strict=True)
            ]
            yield (group, *_moves_and_turns(moved, turning))

    def virial_moves(self, turning: TurningSlopes | None = None) -> Iterator[Moved]:
        """Groups of structures with the moves of the inputs along their virials, and the turns of slopes that turn."""
        moves: Tensor | None = None
        for number, source in enumerate(self._sources):
            derivatives = self._derivatives(number, source, turning)
            vectors = source.block.chunk.part(source.rows).vectors  # (n, 3, K); the chunk would keep all of its own
            outer = torch.bmm(derivatives.flatten(1, 2), vectors.transpose(1, 2)).unflatten(1, (-1, 3))  # (n, F', 3, 3)
            six = symmetric_six(outer).transpose(1, 2)
            if moves is None:
                moves = six.new_zeros(len(self.species) + 1, *six.shape[1:])  # the last for padding
            moves[source.atoms] = six
        assert moves is not None
        if self._by_structure is None:
            self._by_structure = structure_groups(self.sizes, self.species, self.n_elements)
        for group in self._by_structure:
            yield (group, *_moves_and_turns([moves[own.atoms] for own in group.members], turning))

    def _derivatives(self, number: int, source: _Source, turning: TurningSlopes | None) -> Tensor:
        """Derivatives of the inputs and, if they turn, of the slopes of a source's atoms, (n, F + N, 3, K)."""
        if turning is None:
            return source.block.jacobian_of(source.rows)
        chunk = source.block.chunk.part(source.rows)
        jacobian = source.block.jacobian_of(source.rows) if turning.n_inputs else chunk.vectors[:, None, :, :][:, :0]
        return torch.cat((jacobian, turning.of(number, source.element, source.atoms, chunk, jacobian)), dim=1)


def _moves_and_turns(moved: list[Tensor], turning: TurningSlopes | None) -> tuple[list[Tensor], list[Tensor] | None]:
    """Tables (R, M, C, F) of inputs and (R, M, C, N) of slopes, from tables of both."""
    if turning is None:
        return moved, None
    n = turning.n_outputs
    return [table[..., :-n] for table in moved], [table[..., -n:] for table in moved]


def structure_groups(sizes: Tensor, species: Tensor, n_elements: int, most: int = ENERGY_ROWS) -> list[RowGroup]:
    """Structures of similar size, and their atoms by element."""
    n = len(species)
    first = torch.cumsum(sizes, 0) - sizes
    groups = []
    for rows in similar(sizes, most):
        owners, atoms = ragged_range(first[rows], sizes[rows], int(sizes[rows].sum()))
        tables = []
        for element in range(n_elements):
            own = species[atoms] == element
            tables.append(Members(element, padded_table(owners[own], atoms[own], len(rows), n)[0]))
        groups.append(RowGroup(rows, tuple(tables)))
    return groups


def slabs_of(
    parts: Sequence[MapPart], species: Tensor, n_elements: int, most: int = SLAB_ATOMS
) -> list[tuple[Slab, slice, slice]]:
    """Slabs of the parts of a map, with the structures and atoms of the map that each holds.

    Args:
        species: (n',) of the map's atoms.
    """
    found = []
    first_row = first_atom = 0
    for part in parts:
        own = species[first_atom : first_atom + part.n_atoms]
        for structures in runs_of_structures(part.sums.sizes.tolist(), most):
            slab = Slab(part, own, structures, n_elements)
            rows = slice(first_row + structures.start, first_row + structures.stop)
            atoms = slice(first_atom + slab.atoms.start, first_atom + slab.atoms.stop)
            found.append((slab, rows, atoms))
        first_row += part.n_structures
        first_atom += part.n_atoms
    return found


def runs_of_structures(sizes: Sequence[int], most: int) -> Iterator[slice]:
    """Cut structures into runs of at most `most` atoms, but at least one structure."""
    first = total = 0
    for row, size in enumerate(sizes):
        if row > first and total + size > most:
            yield slice(first, row)
            first, total = row, 0
        total += size
    yield slice(first, len(sizes))
