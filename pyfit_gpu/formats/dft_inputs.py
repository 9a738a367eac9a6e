"""The structures of DFT files as `prepare` takes them: counted first, then window by window.

Classic text and extended XYZ beyond `HELD_BYTES` are read twice: once for the summaries of all structures (sizes,
energies, elements), and again for the coordinates, about `WINDOW_ATOMS` atoms at a time. Smaller inputs, and all other
formats, are read once and held.
"""

from __future__ import annotations

import itertools
import os
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.kinds import StructuresKind, structures_kind
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.read_report import ReadReport
from pyfit_gpu.structures.frames import Frame, StructureSummary

HELD_BYTES = 2**26  # bytes of text; about two million atoms, whose features would take 600 MB
WINDOW_ATOMS = 100_000  # atoms after which a window ends


@dataclass(frozen=True)
class DftFile:
    """A file of structures, and their place among those of all files."""

    path: str
    kind: StructuresKind
    first: int  # number of its first structure in all files
    is_held: bool
    options: ReadOptions

    def read(self, wanted: Callable[[int], bool]) -> Iterator[Frame | StructureSummary]:
        """Read its structures; those that are not wanted, by their number in all files, may come as summaries.

        Raises:
            InputError: as `read_frames`.
        """
        try:
            yield from self.kind.read(self.path, self.options, lambda number: wanted(self.first + number))
        except OSError as error:  # here, so that it does not look like a fault of the set that is written meanwhile
            raise InputError(f"{self.path}: cannot read: {error.strerror or error}") from error


@dataclass(frozen=True, eq=False)
class DftInputs:
    """Summaries of all structures, and access to those of one shard."""

    files: tuple[DftFile, ...]
    structures: tuple[Frame | StructureSummary, ...]  # structures of all files
    numbers: tuple[int, ...]  # of each structure in the set of all; -1: it is left out
    index: int  # structures with the numbers index, index + count, .. are taken
    count: int
    report: ReadReport

    @property
    def kept(self) -> tuple[Frame | StructureSummary, ...]:
        """Structures of the set of all, in order."""
        return tuple(itertools.compress(self.structures, (number >= 0 for number in self.numbers)))

    @property
    def taken(self) -> tuple[Frame | StructureSummary, ...]:
        return tuple(itertools.compress(self.structures, map(self._is_taken, range(len(self.structures)))))

    @property
    def n_atoms(self) -> int:
        """Number of atoms in the structures that are taken."""
        return sum(structure.n_atoms for structure in self.taken)

    def windows(self, most: int | None = None) -> Iterator[list[Frame]]:
        """Yield the structures that are taken, in order, in lists of `WINDOW_ATOMS` atoms or a little more.

        Args:
            most: atoms after which a window ends, if that are fewer.

        Raises:
            InputError: as `read_frames`, or a file that has changed since it was read first.
        """
        most = WINDOW_ATOMS if most is None else min(most, WINDOW_ATOMS)
        return in_windows((frame for _, frame in self._frames(self._is_taken)), most)

    def frames(self, numbers: Collection[int]) -> Iterator[tuple[Frame, str, int]]:
        """Yield the structures with these numbers in the set of all, in order, with file and place in it, from 0.

        Raises:
            InputError: as `windows`.
        """
        starts = [file.first for file in self.files]
        for place, frame in self._frames(lambda place: self.numbers[place] in numbers):
            file = self.files[bisect_right(starts, place) - 1]
            yield frame, file.path, place - file.first

    def _frames(self, is_wanted: Callable[[int], bool]) -> Iterator[tuple[int, Frame]]:
        ends = [file.first for file in self.files[1:]] + [len(self.structures)]
        for file, end in zip(self.files, ends, strict=True):
            known = self.structures[file.first : end]
            read = known if file.is_held else file.read(is_wanted)
            for number, (structure, before) in enumerate(itertools.zip_longest(read, known), start=file.first):
                if structure is None or before is None or not _is_same(structure, before):
                    raise InputError(f"{file.path}: structure {number - file.first + 1} is not what it was: the file "
                                     "has changed while it was read")  # fmt: skip
                if not file.is_held:  # coordinates come only now
                    self.report.doubt(file.path, number - file.first + 1, structure)
                if is_wanted(number) and isinstance(structure, Frame):
                    yield number, structure

    def _is_taken(self, place: int) -> bool:
        number = self.numbers[place]
        return number >= 0 and number % self.count == self.index


def in_windows(frames: Iterable[Frame], most: int = WINDOW_ATOMS) -> Iterator[list[Frame]]:
    """Yield structures in lists of `most` atoms or a little more."""
    window: list[Frame] = []
    held = 0
    for frame in frames:
        window.append(frame)
        held += frame.n_atoms
        if held >= most:
            yield window
            window, held = [], 0
    if window:
        yield window


def survey(
    paths: Sequence[str],
    *,
    shard: tuple[int, int] = (0, 1),
    atoms: bool = False,
    options: ReadOptions | None = None,
    keeps: Callable[[Frame], bool] | None = None,
) -> DftInputs:
    """Read the files once, for summaries or frames of all structures.

    Args:
        shard: (I, N): only structures I, I + N, .. are taken.
        atoms: whether structures of one atom must come as frames, wherever they stand.
        options: how to read the files.
        keeps: whether a structure is kept, asked for every one in order, which takes reading all coordinates; None:
            all are.

    Raises:
        InputError: as `read_frames`, or no file.
    """
    if not paths:
        raise InputError("expected at least one DFT file, got none")
    index, count = shard
    kinds = [structures_kind(path) for path in paths]
    large = [path for path, kind in zip(paths, kinds, strict=True) if kind.summarizes]  # all else is held in any case
    is_held = sum(map(os.path.getsize, large)) <= HELD_BYTES
    files: list[DftFile] = []
    structures: list[Frame | StructureSummary] = []
    numbers: list[int] = []
    n_kept = 0
    report = ReadReport(options)
    for path, kind in zip(paths, kinds, strict=True):
        file = DftFile(path, kind, len(structures), is_held or not kind.summarizes, options or ReadOptions())
        files.append(file)

        def wanted(place: int, file: DftFile = file) -> bool:
            return atoms or keeps is not None or (file.is_held and place % count == index)

        for number, structure in enumerate(report.watch(path, file.read(wanted)), start=1):
            if file.is_held:
                report.doubt(path, number, structure)
            is_kept = keeps is None or (isinstance(structure, Frame) and keeps(structure))
            numbers.append(n_kept if is_kept else -1)
            is_needed = is_kept and file.is_held and n_kept % count == index
            structures.append(structure if is_needed or (atoms and structure.n_atoms == 1) else summarize(structure))
            n_kept += is_kept
    return DftInputs(tuple(files), tuple(structures), tuple(numbers), index, count, report)


def summarize(structure: Frame | StructureSummary) -> StructureSummary:
    """Drop the coordinates of a structure, if it has any."""
    if isinstance(structure, StructureSummary):
        return structure
    return StructureSummary(
        structure.element_counts,
        structure.group,
        structure.source,
        structure.energy,
        structure.forces is not None,
        structure.stress is not None,
        structure.unread,
        structure.chosen,
    )


def _is_same(structure: Frame | StructureSummary, before: Frame | StructureSummary) -> bool:
    """Whether both have the same summary; a structure that is held is compared with itself."""
    return structure is before or summarize(structure) == summarize(before)
