"""The classic training set as text (docs/formats/text_training_set.md): seven digits, no positions."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

import numpy as np
import torch

from pyfit_gpu.datasets.feature_rows import read_features
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.files import atomic_text
from pyfit_gpu.formats.compressed import reading
from pyfit_gpu.formats.dft_text_writer import group_in_text
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.nn_dat_header import N_HEADER_LINES, header_lines, parse_header
from pyfit_gpu.formats.text_lines import (
    NO_LINE_END,
    Lines,
    NumberedLines,
    is_count,
    is_unlabelled,
    may_be_cut,
    parse_columns,
    parse_numbers,
)

_COLUMNS = "ATOM-ID GROUP-NAME GROUP_ID STRUCTURE_ID STRUCTURE_Natom STRUCTURE_E_DFT STRUCTURE_Vol"

_PIECE = 1000  # atoms whose network inputs are parsed together


def write_text_set(training_set: TrainingSet, path: str | os.PathLike[str]) -> None:
    """Write the classic text; energies are E_used, structures without one get a NO_DFT group and the energy 0.

    Raises:
        InputError: the file cannot be written.
    """
    elements = training_set.descriptor.elements
    energy = training_set.energy_used.cpu().double().numpy()
    known = ~np.isnan(energy)
    for group in training_set.groups:
        if group.split() != [group]:
            raise InputError(f"{os.fspath(path)}: group: expected one word, found '{group}'")
    groups = [group_in_text(g, k) for g, k in zip(training_set.groups, known.tolist(), strict=True)]
    group_ids = {group: number for number, group in enumerate(dict.fromkeys(groups), 1)}
    sizes = training_set.sizes.tolist()
    volumes = training_set.volume_per_atom.cpu().double().tolist()
    features = read_features(training_set.features).cpu().double().numpy()
    species = training_set.species.tolist()
    row_format = "Gi  " + " ".join(["%.6E"] * features.shape[1]) + "\n"
    header = _header_with_shift(training_set)
    with atomic_text(path) as file:
        file.writelines(f" # {line.strip()}\n" for line in header)
        file.write(" # 1 - Potential Type\n")
        file.write(f" # {len(training_set)} - Number of Structures\n")
        file.write(f" # {training_set.n_atoms} - Number of Atoms\n")
        file.write(f" # {_COLUMNS}\n")
        atom = 0
        for structure, (group, size) in enumerate(zip(groups, sizes, strict=True)):
            used = energy[structure] if known[structure] else 0.0
            line = f"{group} {group_ids[group]} {structure} {size} {used:.6E} {volumes[structure]:.6E}"
            for _ in range(size):
                element = f" {elements[species[atom]]}" if len(elements) > 1 else ""
                file.write(f"ATOM-{atom} {line}{element}\n")
                file.write(row_format % tuple(features[atom].tolist()))
                atom += 1


def _header_with_shift(training_set: TrainingSet) -> list[str]:
    """Header of the potential, with the set's own energy shift in the species lines, so that it is read back."""
    potential = training_set.potential
    shifts = training_set.energy_shift or (math.nan,) * potential.descriptor.n_elements
    return header_lines(replace(potential, energy_shift=torch.tensor(shifts, dtype=torch.float64)))


class _SetLines(NumberedLines):
    """Lines of a text set, whose header lines begin with #."""

    def fail(self, expected: str) -> NoReturn:
        raise self.error(expected)

    def comment(self, expected: str) -> str:
        text = self.next(expected).strip()
        if not text.startswith("#"):
            self.fail(f"a header line of a text training set, which begins with # ({expected})")
        return text[1:].strip()

    def numbered_comment(self, expected: str) -> tuple[int, str]:
        text = self.comment(expected)
        return self.number, text

    def count(self, expected: str) -> int:
        cells = self.comment(expected).split()
        if not cells or not is_count(cells[0]):
            self.fail(expected)
        return int(cells[0])


def looks_like_text_set(head: Head) -> bool:
    """Whether all first lines are comments, as the header of a set: one comment alone may be a title."""
    first = head.lines[:9]
    return len(first) == 9 and all(line.startswith("#") for line in first)


def read_text_set(path: str | os.PathLike[str]) -> TrainingSet:
    """Read a classic text set. Its energies are E_used; the shift is known only if the species line says it.

    Raises:
        InputError: with file, line, what was expected and what was found.
    """
    with reading(path, kind="a text training set", decompress=False) as file:
        lines = Lines(file)
        return _read(
            _SetLines(lines.numbered(), os.fspath(path), "a text training set"), lines, os.fstat(file.fileno()).st_size
        )


def _read(lines: _SetLines, file: Lines, n_bytes: int) -> TrainingSet:
    numbered = [lines.numbered_comment("the potential's header") for _ in range(2)]
    first = numbered[1][1].split()
    n_elements = int(first[0]) if first and is_count(first[0]) else 1
    numbered += [lines.numbered_comment("the potential's header") for _ in range(N_HEADER_LINES - 3 + n_elements)]
    draft = parse_header(numbered, lines.name)
    if lines.count("1, the potential type of a straight network") != 1:
        lines.fail("1, the potential type of a straight network")
    n_structures = lines.count("the number of structures")
    descriptor = draft.descriptor
    n_atoms = _number_of_atoms(lines, descriptor.n_features, n_bytes)
    lines.comment("the names of the columns")
    if n_structures < 1 or n_atoms < n_structures:
        lines.fail("at least one structure with at least one atom")

    table = _Table(lines, n_atoms, descriptor.n_features, descriptor.elements)
    table.read()
    if file.at_open_end:
        table.check_end()
    if len(table.sizes) != n_structures:
        raise InputError(f"{lines.name}: expected {n_structures} structures, found {len(table.sizes)}")
    sizes = torch.tensor(table.sizes)
    energy = torch.tensor(table.energies, dtype=torch.float64)
    species = torch.tensor(table.species)
    shift_known = not bool(draft.energy_shift.isnan().any())
    if shift_known:
        # The file gives E_used, the set keeps the energy without the shift.
        # Atom by atom, not by `shift_of_structures`: a run file has a hash of these bits.
        owner = torch.repeat_interleave(sizes)
        energy = energy - torch.zeros_like(energy).index_add_(0, owner, draft.energy_shift[species])
    unknown = torch.full((n_structures,), float("nan"), dtype=torch.float64)
    return TrainingSet(
        potential=draft,
        energy_shift=tuple(draft.energy_shift.tolist()) if shift_known else None,
        groups=tuple(table.groups),
        features=torch.from_numpy(table.features),
        species=species,
        positions=unknown.new_full((n_atoms, 3), float("nan")),
        forces=unknown.new_full((n_atoms, 3), float("nan")),
        sizes=sizes,
        energy=energy,
        volume=torch.tensor(table.volumes, dtype=torch.float64) * sizes,
        weight=torch.ones_like(unknown),
        cell=unknown.new_full((n_structures, 3, 3), float("nan")),
        pbc=torch.ones(n_structures, 3, dtype=torch.bool),
        stress=unknown.new_full((n_structures, 6), float("nan")),
    )


def _number_of_atoms(lines: _SetLines, n_features: int, n_bytes: int) -> int:
    """Number of atoms in the header, if the file has room for it: memory is allocated before they are read."""
    n_atoms = lines.count("the number of atoms")
    room = n_bytes // (22 + 2 * n_features)  # the shortest lines: "ATOM-0 g 1 0 1 0 1" and "Gi 0 0 ..", with their ends
    if n_atoms > room:
        lines.fail(f"at most {room} atoms, as many as the file's {n_bytes} bytes have room for")
    return n_atoms


class _Table:
    """The two lines of every atom, checked against one another."""

    def __init__(self, lines: _SetLines, n_atoms: int, n_features: int, elements: Sequence[str]) -> None:
        self.lines = lines
        self.n_features = n_features
        self.columns = np.dtype([("name", "U3"), ("inputs", np.float64, (n_features,))])  # columns of a line Gi
        self.elements = elements
        self.features = np.empty((n_atoms, n_features))
        self.species = [0] * n_atoms
        self.groups: list[str] = []
        self.sizes: list[int] = []
        self.energies: list[float] = []
        self.volumes: list[float] = []
        self.left = 0  # atoms of the last structure that are still to come
        self.last_lines: list[str] = []  # the last two lines Gi
        self.repeated: list[str] = []  # the cells that all atoms of a structure share

    def read(self) -> None:
        for first in range(0, len(self.features), _PIECE):
            self._read_piece(range(first, min(first + _PIECE, len(self.features))))
        if self.left:
            self.lines.fail(f"{self.left} more atoms of structure {len(self.sizes) - 1}")
        if self.lines.advance():
            self.lines.fail(f"{len(self.features)} atoms and no more")

    def check_end(self) -> None:
        """Refuse a last number without a line end, where the other inputs of the last two atoms do not vouch for it."""
        *others, last = " ".join(self.last_lines).split()
        if not self.last_lines[-1][-1:].isspace() and may_be_cut(last, [cell for cell in others if cell != "Gi"]):
            self.lines.fail(NO_LINE_END)

    def _read_piece(self, atoms: range) -> None:
        """Read the lines of some atoms, then parse their network inputs together."""
        numbered: list[tuple[int, str]] = []
        try:
            for atom in atoms:
                self._atom_line(atom)
                text = self.lines.next(f"the line Gi of atom {atom}")
                numbered.append((self.lines.number, text))
        except InputError:
            self._feature_lines(atoms.start, numbered)  # something wrong before that is the fault to name
            raise
        self._feature_lines(atoms.start, numbered)

    def _atom_line(self, atom: int) -> None:
        lines = self.lines
        cells = lines.next(f"the line ATOM-{atom}").split()
        n_cells = 8 if len(self.elements) > 1 else 7
        if len(cells) not in (7, 8) or len(cells) < n_cells or cells[0] != f"ATOM-{atom}":
            lines.fail(f"ATOM-{atom} and {n_cells - 1} more cells: {_COLUMNS}")
        if n_cells == 8:
            if cells[7] not in self.elements:
                lines.fail(f"an element of the potential ({', '.join(self.elements)})")
            self.species[atom] = self.elements.index(cells[7])
        if self.left:
            if cells[1:7] != self.repeated:
                lines.fail(f"the same cells for all atoms of structure {len(self.sizes) - 1}")
        else:
            self._new_structure(cells)
        self.left -= 1

    def _new_structure(self, cells: list[str]) -> None:
        lines = self.lines
        structure = len(self.sizes)
        if cells[3] != str(structure) or not is_count(cells[4]) or int(cells[4]) < 1:
            lines.fail(f"structure number {structure} and its number of atoms")
        energy, volume = self._numbers(cells[5:7], "the structure's energy and volume per atom")
        self.groups.append(cells[1])
        self.sizes.append(int(cells[4]))
        self.energies.append(np.nan if is_unlabelled(cells[1]) else energy)
        self.volumes.append(volume)
        self.left = self.sizes[-1]
        self.repeated = cells[1:7]

    def _feature_lines(self, first: int, numbered: Sequence[tuple[int, str]]) -> None:
        texts = [text for _, text in numbered]
        self.last_lines = (self.last_lines + texts[-2:])[-2:]
        table = parse_columns(texts, self.columns)
        if table is not None and (table["name"] == "Gi").all() and np.isfinite(table["inputs"]).all():
            self.features[first : first + len(table)] = table["inputs"]
            return
        for atom, (self.lines.number, self.lines.text) in enumerate(numbered, first):
            cells = self.lines.text.split()
            if len(cells) != self.n_features + 1 or cells[0] != "Gi":
                self.lines.fail(f"Gi and {self.n_features} network inputs")
            self.features[atom] = self._numbers(cells[1:], f"{self.n_features} network inputs")

    def _numbers(self, cells: list[str], expected: str) -> list[float]:
        values = parse_numbers(cells)
        if values is None:
            self.lines.fail(f"{expected}, finite numbers")
        return values
