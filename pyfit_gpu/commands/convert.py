"""The verb `convert`: between the classic and the new formats."""

from __future__ import annotations

from pathlib import Path

from pyfit_gpu.commands.jobs import HDF5_SUFFIXES, Setup, log
from pyfit_gpu.errors import InputError
from pyfit_gpu.files import atomic_text
from pyfit_gpu.formats.ase_files import write_extxyz
from pyfit_gpu.formats.dft_text import write_dft_text
from pyfit_gpu.formats.identify import FileKind, identify
from pyfit_gpu.formats.nn_dat import load_potential, save_potential
from pyfit_gpu.formats.opening import load_training_set, read_frames
from pyfit_gpu.formats.text_set import write_text_set
from pyfit_gpu.formats.training_set.reader import save_training_set


def convert(source: str, target: str, *, setup: Setup) -> None:
    """Between the classic and the new formats of sets, structures and potentials; the ending of `target` decides."""
    kind = identify(source)
    ending = Path(target).suffix
    target = setup.output(target, [source])
    if kind in (FileKind.TRAINING_SET, FileKind.MANIFEST, FileKind.TEXT_SET):
        training_set = load_training_set(source, lazy=ending in HDF5_SUFFIXES)
        if ending in HDF5_SUFFIXES:
            save_training_set(training_set, target)
        elif ending in (".extxyz", ".xyz", ".json", ".csv") or target.endswith(".nn.dat"):
            raise InputError(f"{target}: expected .h5, .hdf5 or the name of a text training set, such as set.dat")
        else:
            write_text_set(training_set, target)
    elif kind in (FileKind.DFT_TEXT, FileKind.ASE):
        frames = list(read_frames(source))
        with atomic_text(target) as file:
            if ending in (".extxyz", ".xyz"):
                write_extxyz(file, frames)
            elif ending in (".dat", ".txt", ".poscar"):
                write_dft_text(file, frames)
            else:
                raise InputError(f"{target}: expected .extxyz, or .dat, .txt or .poscar for the classic text")
    elif kind is FileKind.POTENTIAL:
        if not target.endswith(".dat"):
            raise InputError(f"{target}: expected a potential's name to end in .nn.dat")
        save_potential(load_potential(source), target)
    else:
        raise InputError(f"{source}: expected a training set, structures or a potential, found a {kind.value}")
    log.info("wrote %s (from a %s)", target, kind.value)
