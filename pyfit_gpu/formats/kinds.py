"""The table of file kinds: how each is recognised, read, written and named.

To add a format, write a module that reads it and enter it here: a `StructuresKind`, `TrainingSetKind` or
`PotentialKind` in `KINDS`. `load_structures`, `load_training_set`, `load_potentials`, `prepare`, `evaluate`, `info` and
`convert` take it from there. The order counts: where several kinds recognise a file, the first is taken.

The command line has kinds of its own, logs and tables, which it hands to `identify`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TextIO, TypeVar

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.ase_files import looks_like_ase, read_ase_frames
from pyfit_gpu.formats.dft_text import read_dft_text
from pyfit_gpu.formats.dft_text_writer import write_dft_text
from pyfit_gpu.formats.extxyz.reader import looks_like_extxyz, read_extxyz
from pyfit_gpu.formats.extxyz.writer import write_extxyz
from pyfit_gpu.formats.head import Head, read_head
from pyfit_gpu.formats.nn_dat import (
    PINN_ENDING,
    load_potential,
    looks_like_pinn,
    looks_like_potential,
    save_potential,
)
from pyfit_gpu.formats.programs.deepmd import looks_like_deepmd, read_deepmd
from pyfit_gpu.formats.programs.fitsnap import looks_like_fitsnap, read_fitsnap
from pyfit_gpu.formats.programs.mtp import looks_like_mtp, read_mtp
from pyfit_gpu.formats.programs.outputs import looks_like_output, read_output
from pyfit_gpu.formats.programs.pymatgen_json import looks_like_pymatgen, read_pymatgen
from pyfit_gpu.formats.programs.qbox import looks_like_qbox, read_qbox
from pyfit_gpu.formats.programs.runner import looks_like_runner, read_runner
from pyfit_gpu.formats.programs.unknown import describe, is_foreign
from pyfit_gpu.formats.read_options import ReadOptions, Wanted
from pyfit_gpu.formats.run_file import is_run_file, load_run_members
from pyfit_gpu.formats.text_set import looks_like_text_set, read_text_set, write_text_set
from pyfit_gpu.formats.training_set.reader import load_hdf5, save_training_set
from pyfit_gpu.formats.training_set.shards import MANIFEST_NAME, load_manifest
from pyfit_gpu.formats.vasp.ml_ab import looks_like_ml_ab, read_ml_ab
from pyfit_gpu.formats.vasp.outcar import looks_like_outcar, read_outcar
from pyfit_gpu.formats.vasp.vasprun import looks_like_vasprun, read_vasprun
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.frames import Frame, StructureSummary


def read_only(content: object, target: object) -> NoReturn:
    """Stand for the writer of a kind that is only read."""
    raise TypeError("files of this kind are not written")


@dataclass(frozen=True, eq=False, kw_only=True)
class FileKind:
    """A kind of file, and how it is recognised."""

    title: str
    sniff: Callable[[Head], bool]  # whether a file can be of this kind, by its name and first bytes
    confirm: Callable[[Head], bool] | None = None  # whether it is one, if another kind is possible too; may open it
    endings: tuple[str, ...] = ()  # endings of the names of such files; "": also names that end like no other kind's
    write: Callable[..., object] = read_only  # takes the result of `read`, and the target

    @property
    def described(self) -> str:
        """The title within a sentence."""
        return f"{'an' if self.title[0] in 'aeiou' else 'a'} {self.title}"


@dataclass(frozen=True, eq=False, kw_only=True)
class StructuresKind(FileKind):
    """Structures, read one by one in file order."""

    read: Callable[[str, ReadOptions, Wanted | None], Iterator[Frame | StructureSummary]]  # as `read_frames`
    summarizes: bool = False  # `read` skips unwanted structures quickly, so that large files are read twice
    write: Callable[[TextIO, Iterable[Frame]], object] = read_only

    @property
    def described(self) -> str:
        return self.title


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingSetKind(FileKind):
    """Files of training sets."""

    read: Callable[[str, bool], TrainingSet]  # path, and whether features may be left in the file
    write: Callable[[TrainingSet, str], object] = read_only
    holds_splits: bool = True  # splits can be stored under names, see named_splits.py


@dataclass(frozen=True, eq=False, kw_only=True)
class PotentialKind(FileKind):
    """Files of potentials with one or several members."""

    read: Callable[[str], Potential]
    write: Callable[[Potential, str], object] = read_only


RUN = PotentialKind(
    title="run file of a fit",
    sniff=lambda head: head.is_hdf5,
    confirm=lambda head: is_run_file(head.path),
    read=load_run_members,
)
HDF5_SET = TrainingSetKind(
    title="training set (HDF5)",
    sniff=lambda head: head.is_hdf5,
    read=lambda path, lazy: load_hdf5(path, lazy=lazy)[0],
    write=save_training_set,
    endings=(".h5", ".hdf5"),
)
EXTXYZ = StructuresKind(
    title="structures (extended XYZ)",
    sniff=looks_like_extxyz,
    read=read_extxyz,
    summarizes=True,
    write=write_extxyz,
    endings=(".extxyz", ".xyz"),
)
ASE = StructuresKind(
    title="structures (read by ASE)",
    sniff=looks_like_ase,
    read=lambda path, options, wanted: read_ase_frames(path, options),
)


def _of_program(
    title: str, sniff: Callable[[Head], bool], read: Callable[[str, ReadOptions], Iterator[Frame]]
) -> StructuresKind:
    return StructuresKind(title=title, sniff=sniff, read=lambda path, options, wanted: read(path, options))


VASP_XML = _of_program("structures (vasprun.xml of VASP)", looks_like_vasprun, read_vasprun)
VASP_OUTCAR = _of_program("structures (OUTCAR of VASP)", looks_like_outcar, read_outcar)
ML_AB = _of_program("structures (ML_AB of VASP)", looks_like_ml_ab, read_ml_ab)
OUTPUT = _of_program("structures (output of an electronic-structure program)", looks_like_output, read_output)
QBOX = _of_program("structures (output of Qbox)", looks_like_qbox, read_qbox)
DEEPMD = _of_program("structures (folder of DeePMD data)", looks_like_deepmd, read_deepmd)
RUNNER = _of_program("structures (n2p2 or RuNNer)", looks_like_runner, read_runner)
MTP = _of_program("structures (MTP)", looks_like_mtp, read_mtp)
FITSNAP = _of_program("structures (FitSNAP)", looks_like_fitsnap, read_fitsnap)
PYMATGEN = _of_program("structures (JSON with structures of pymatgen)", looks_like_pymatgen, read_pymatgen)
MANIFEST = TrainingSetKind(
    title="training set in shards (manifest)",
    sniff=lambda head: head.begins_with("{"),
    confirm=lambda head: f'"{MANIFEST_NAME}"'.encode() in head.raw,
    read=lambda path, lazy: load_manifest(Path(path), lazy=lazy),
    endings=(".json",),
)
TEXT_SET = TrainingSetKind(
    title="training set (classic text)",
    sniff=lambda head: head.begins_with("#") and not is_foreign(head),
    confirm=looks_like_text_set,
    read=lambda path, lazy: read_text_set(path),
    write=write_text_set,
    endings=(".dat", ".txt", ""),
    holds_splits=False,
)
PINN = PotentialKind(
    title="potential (.pinn)",
    sniff=lambda head: head.is_text and not is_foreign(head),
    confirm=looks_like_pinn,
    read=load_potential,
    write=save_potential,
    endings=(PINN_ENDING,),
)
POTENTIAL = PotentialKind(
    title="potential (.nn.dat)",
    sniff=lambda head: head.is_text and not is_foreign(head),
    confirm=looks_like_potential,
    read=load_potential,
    write=save_potential,
    endings=(".nn.dat", ".dat"),
)
# The classic text has no mark of its own: any text that is of no other kind.
DFT_TEXT = StructuresKind(
    title="structures with energies (classic text)",
    sniff=lambda head: head.is_text and not is_foreign(head),
    read=lambda path, options, wanted: read_dft_text(path) if wanted is None else read_dft_text(path, wanted),
    summarizes=True,
    write=write_dft_text,
    endings=(".dat", ".txt", ".poscar"),
)

PROGRAM_KINDS = (VASP_XML, VASP_OUTCAR, ML_AB, OUTPUT, QBOX, DEEPMD, RUNNER, MTP, FITSNAP, PYMATGEN)
KINDS: tuple[FileKind, ...] = (
    RUN, HDF5_SET, *PROGRAM_KINDS, EXTXYZ, ASE, MANIFEST, TEXT_SET, PINN, POTENTIAL, DFT_TEXT,
)  # fmt: skip

Kind = TypeVar("Kind", bound=FileKind)


def identify(path: str | os.PathLike[str], more: Sequence[FileKind] = ()) -> FileKind:
    """Tell the kind of a file by its name and first bytes.

    Args:
        more: kinds beside those of the table.

    Raises:
        InputError: unreadable, empty, or none of the kinds.
    """
    head = read_head(path)
    found = _first([*KINDS[:-1], *more, KINDS[-1]], head) if head.lines or head.is_folder else None
    if found is None:
        raise InputError(f"{head.path}: expected structures, a training set, a potential or a log, {describe(head)}")
    return found


def longest_ending(path: str, kinds: Sequence[FileKind]) -> str:
    """The longest ending of a name that files of these kinds have; empty: none is known."""
    return max((ending for kind in kinds for ending in kind.endings if path.endswith(ending)), key=len)


def check_ending(path: str, kind: FileKind, *more: FileKind) -> None:
    """Refuse to write a file under a name that ends like those of other kinds; unknown endings may be anything's.

    Args:
        more: kinds whose names it may have, too.

    Raises:
        InputError: with the endings that are expected.
    """
    longest = longest_ending(path, KINDS)
    endings = [ending for one in (kind, *more) for ending in one.endings]
    if longest not in (*endings, "", ".txt"):
        others = next(one for one in KINDS if longest in one.endings)
        raise InputError(
            f"{path}: cannot hold {kind.described}: expected a name that ends in {' or '.join(endings)}, "
            f"found the ending of {others.described}"
        )


def structures_kind(path: str | os.PathLike[str]) -> StructuresKind:
    """The kind of a file of structures.

    Raises:
        InputError: unreadable, empty, or of a kind that holds no structures.
    """
    return _one_of(StructuresKind, read_head(path), "structures")


def training_set_kind(path: str | os.PathLike[str]) -> TrainingSetKind:
    """The kind of a training set's file.

    Raises:
        InputError: unreadable, empty, or of another kind.
    """
    return _one_of(TrainingSetKind, read_head(path), "a training set (HDF5, shard manifest or classic text)")


def potential_kind(path: str | os.PathLike[str]) -> PotentialKind:
    """The kind of a file of potentials.

    Raises:
        InputError: unreadable, empty, or of another kind.
    """
    return _one_of(PotentialKind, read_head(path), "a potential (.nn.dat, .pinn) or a run file")


def _one_of(wanted: type[Kind], head: Head, expected: str) -> Kind:
    """The kind among the wanted ones; text that may be anything is looked at more closely.

    Other files are left to the reader, which says what is wrong with them.
    """
    kind = _first([kind for kind in KINDS if isinstance(kind, wanted)], head)
    if kind not in (None, DFT_TEXT, POTENTIAL):
        return kind
    sure = next((one for one in KINDS if one.sniff(head) and (one.confirm is None or one.confirm(head))), None)
    if kind is not None and (sure in (None, DFT_TEXT) or isinstance(sure, wanted)):
        return kind
    found = describe(head) if sure is None else f"found {sure.described}"
    raise InputError(f"{head.path}: expected {expected}, {'found another file' if sure is DFT_TEXT else found}")


def _first(kinds: Sequence[Kind], head: Head) -> Kind | None:
    """The first kind that recognises a file; the last possible one needs no confirmation."""
    possible: Kind | None = None
    for kind in kinds:
        if not kind.sniff(head):
            continue
        if possible is not None and possible.confirm is not None and possible.confirm(head):
            return possible
        possible = kind
        if kind.confirm is None:
            return kind
    return possible
