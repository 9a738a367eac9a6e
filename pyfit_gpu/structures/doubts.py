"""Doubts about structures and their labels: numbers that a file may hold but that are rarely meant.

A collector sees the structures of any number of files once, keeps some fifty bytes of each, and says at the end what is
doubtful: one `Finding` for each kind and file. Nothing is changed and nothing refused.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import gcd, hypot, nan

import numpy as np

from pyfit_gpu.errors import how_many
from pyfit_gpu.structures.copies import KEY_BYTES, as_keys, first_rows, label_numbers, labels_differ, structure_key
from pyfit_gpu.structures.frames import Frame, StructureSummary
from pyfit_gpu.structures.per_atom import look_per_atom

STRESS = "stress"
FORCES = "forces"
HIGH_ENERGY = "high energy"
LOW_ENERGY = "low energy"
PER_ATOM = "energy per atom"
OTHER_LABELS = "other labels"

_LARGEST_STRESS = 1.0  # eV/Å^3, 160 GPa: more than nearly all data have, and less than most numbers in bar or GPa
_LARGEST_ENERGY = 1e3  # eV/atom
_ATOM_BINDING = 21.0  # eV: an atom of the nuclear charge Z has at least -20.9 Z^(7/3) eV (Thomas and Fermi)
_NET_FORCE = 0.01  # eV/Å per atom up to which forces of a DFT program may not sum to zero ..
_NET_SHARE = 0.1  # .. and as a share of their root mean square

_TEXTS = {
    STRESS: ("a stress component above 1 eV/Å^3", "eV/Å^3", "it may be in bar or GPa, or be a virial"),
    FORCES: (
        "forces that do not sum to zero",
        "eV/Å per atom",
        "they may lack atoms or parts, be those of constrained atoms, or of an external field",
    ),
    HIGH_ENERGY: ("an energy above 1000 eV/atom", "eV/atom", "it may be in other units, or its sign may be wrong"),
    LOW_ENERGY: (
        "an energy below that of all electrons of its atoms",
        "eV/atom",
        "it may be in other units, or be that of several cells",
    ),
    PER_ATOM: ("an energy that looks like one per atom", "eV", "expected the energy of the whole structure"),
    OTHER_LABELS: ("other labels than the same structure has elsewhere", "", "the calculations may differ"),
}


@dataclass(frozen=True)
class Finding:
    """A doubt about some structures of one file."""

    kind: str
    path: str
    structures: tuple[int, ...]  # their numbers in the file, from 1
    text: str  # with the file and an example


@dataclass(frozen=True, eq=False)
class _Found:
    """Structures of one file and kind so far."""

    numbers: array[int] = field(default_factory=lambda: array("q"))
    example: list[str] = field(default_factory=list)  # of the first one, if any

    def add(self, number: int, example: str) -> None:
        self.numbers.append(number)
        if not self.example:
            self.example.append(example)


class Doubts:
    """Collects structures as they are read, and gives what is doubtful about them."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], _Found] = {}  # by kind and path
        self._counts: dict[str, int] = {}  # structures by path
        self._records = _Records()

    def add(self, path: str, number: int, structure: Frame | StructureSummary) -> None:
        """Look at one structure.

        Args:
            path: the file, for messages.
            number: its number in the file, from 1.
        """
        self._counts[path] = self._counts.get(path, 0) + 1
        composition = self._records.composition(structure)
        for kind, value in _own_doubts(structure, composition.lowest_energy):
            self._note(kind, path, number, f"{value:.6g}")
        self._records.add(path, number, structure, composition.number)

    def findings(self) -> list[Finding]:
        """Doubts about the structures so far, by file and kind."""
        own = dict(self._found)
        try:
            for row in self._records.per_atom():
                path, number = self._records.place(row)
                self._note(PER_ATOM, path, number, f"{self._records.energy[row]:.6g}")
            for row, other in self._records.other_labels():
                path, number = self._records.place(row)
                path_of_other, number_of_other = self._records.place(other)
                self._note(OTHER_LABELS, path, number, f"structure {number_of_other} of {path_of_other}")
            order = {kind: k for k, kind in enumerate(_TEXTS)}
            paths = {path: k for k, path in enumerate(self._counts)}
            keys = sorted(self._found, key=lambda key: (paths[key[1]], order[key[0]]))
            return [self._finding(*key) for key in keys]
        finally:
            self._found = own  # what compares structures is found anew when more have come

    def _note(self, kind: str, path: str, number: int, example: str) -> None:
        self._found.setdefault((kind, path), _Found()).add(number, example)

    def _finding(self, kind: str, path: str) -> Finding:
        found = self._found[kind, path]
        what, unit, hint = _TEXTS[kind]
        numbers = tuple(found.numbers)
        n = self._counts[path]
        value = f"{found.example[0]} {unit}".rstrip()
        return Finding(
            kind,
            path,
            numbers,
            f"{path}: {what} in {len(numbers)} of {how_many(n)}, first structure {numbers[0]} ({value}): {hint}",
        )


def describe_findings(findings: Iterable[Finding], most: int = 5) -> list[str]:
    """Texts of findings, of each kind only the first ones and the number of files with more."""
    by_kind: dict[str, list[Finding]] = {}
    for finding in findings:
        by_kind.setdefault(finding.kind, []).append(finding)
    lines = []
    for kind, found in by_kind.items():
        lines += [finding.text for finding in found[:most]]
        if len(found) > most:
            lines.append(f"{_TEXTS[kind][0]} in {len(found) - most} more files")
    return lines


def _own_doubts(structure: Frame | StructureSummary, lowest_energy: float) -> Iterator[tuple[str, float]]:
    """Yield doubts about the labels of one structure, each with a value."""
    if isinstance(structure, Frame):
        n = len(structure.positions)
        stress, forces = structure.stress, structure.forces
        if stress is not None:
            largest = max(stress.tolist(), key=abs)
            if abs(largest) > _LARGEST_STRESS:
                yield STRESS, largest
        if forces is not None:
            net = hypot(*np.add.reduce(forces).tolist()) / n
            if net > _NET_FORCE and net > _NET_SHARE * float(np.vdot(forces, forces) / n) ** 0.5:
                yield FORCES, net
    else:
        n = structure.n_atoms
    energy = structure.energy
    if energy is not None and n:
        if energy > _LARGEST_ENERGY * n:
            yield HIGH_ENERGY, energy / n
        elif energy < lowest_energy:
            yield LOW_ENERGY, energy / n


@dataclass(frozen=True)
class _Composition:
    number: int  # the same for the same elements in the same ratio
    lowest_energy: float  # eV, of all electrons together; -inf: an element is not known


class _Records:
    """A few numbers of every structure, in arrays."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.energy = array("d")  # eV; NaN: not known
        self._path_numbers: dict[str, int] = {}
        self._path = array("i")
        self._number = array("q")
        self._n_atoms = array("q")
        self._ratio = array("q")
        self._labels = array("d")  # three numbers each, see `label_numbers`
        self._keys = bytearray()  # zero where coordinates are not known
        self._ratios: dict[bytes, int] = {}
        self._compositions: dict[bytes, _Composition] = {}

    def add(self, path: str, number: int, structure: Frame | StructureSummary, ratio: int) -> None:
        self._path.append(self._path_numbers.setdefault(path, len(self.paths)))
        if len(self._path_numbers) > len(self.paths):
            self.paths.append(path)
        self._number.append(number)
        self._n_atoms.append(structure.n_atoms)
        self._ratio.append(ratio)
        self.energy.append(nan if structure.energy is None else structure.energy)
        if isinstance(structure, Frame):
            self._labels.extend(label_numbers(structure.energy, structure.forces, structure.stress))
            self._keys += structure_key(structure.atomic_numbers, structure.positions, structure.cell, structure.pbc)
        else:
            self._labels.extend((nan, nan, nan))
            self._keys += bytes(KEY_BYTES)

    def composition(self, structure: Frame | StructureSummary) -> _Composition:
        if isinstance(structure, Frame):
            counts = np.bincount(structure.atomic_numbers)
        else:
            counts = np.zeros(1 + max(structure.element_counts, default=0), dtype=np.int64)
            counts[list(structure.element_counts)] = list(structure.element_counts.values())
        key = counts.tobytes()
        found = self._compositions.get(key)
        if found is None:
            ratio = (counts // max(1, gcd(*counts.tolist()))).tobytes()
            bound = -_ATOM_BINDING * float(counts @ np.arange(len(counts)) ** (7 / 3))
            found = _Composition(self._ratios.setdefault(ratio, len(self._ratios)), -np.inf if counts[0] else bound)
            self._compositions[key] = found
        return found

    def place(self, row: int) -> tuple[str, int]:
        """Path and number in it of a structure."""
        return self.paths[self._path[row]], self._number[row]

    def per_atom(self) -> list[int]:
        """Rows of structures whose energies look like energies per atom."""
        energy = np.array(self.energy)
        n_atoms, ratio = np.array(self._n_atoms), np.array(self._ratio)
        rows = np.flatnonzero(np.isfinite(energy))
        rows = rows[np.argsort(ratio[rows], kind="stable")]
        ends = np.flatnonzero(np.diff(ratio[rows])) + 1
        found = [part[look_per_atom(energy[part], n_atoms[part])] for part in np.split(rows, ends)]
        return sorted(np.concatenate(found).tolist())

    def other_labels(self) -> Iterator[tuple[int, int]]:
        """Yield rows of copies whose labels differ from those of the first one, and the row of that."""
        first = first_rows(as_keys(self._keys))
        labels = np.array(self._labels).reshape(-1, 3)
        differ = labels_differ(labels, labels[first])  # summaries, all with one key, have no labels to compare
        for row in np.flatnonzero(differ).tolist():
            yield row, int(first[row])
