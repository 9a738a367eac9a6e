"""Handing a potential over to LAMMPS: its files, a script that runs, a structure, and the proof that both agree."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu._version import __version__
from pyfit_gpu.errors import Failure, InputError, Remedy
from pyfit_gpu.files import atomic_text, check_writable
from pyfit_gpu.formats.opening import load_potentials
from pyfit_gpu.formats.uncertainty_file import load_uncertainty, save_uncertainty, uncertainty_path
from pyfit_gpu.interfaces.lammps.cells import Box
from pyfit_gpu.interfaces.lammps.comparison import Comparison, compare
from pyfit_gpu.interfaces.lammps.data_file import boundary, quoted, write_data
from pyfit_gpu.interfaces.lammps.installation import Installation
from pyfit_gpu.interfaces.lammps.potential_files import member_names, save_members
from pyfit_gpu.interfaces.lammps.running import PairStyle, run_lammps, types_of
from pyfit_gpu.interfaces.lammps.start_structures import copies_for, simple_crystal
from pyfit_gpu.models.energy import energy_model
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import evaluate
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame

SCRIPT = "in.pyfit"
DATA = "structure.data"
VERIFICATION = "verification.txt"
_ROUNDING = 1e-12  # of biases, where constant inputs are moved into them
_RATTLE = 0.05  # Å, standard deviation: in a perfect crystal there are no forces to compare


@dataclass(frozen=True)
class Export:
    """A potential as it was handed over."""

    files: tuple[Path, ...]  # all that were written
    comparison: Comparison


def export_potential(
    potential: Potential,
    out: str | os.PathLike[str],
    lammps: Installation,
    plugin: Path,
    *,
    stem: str = "potential",
    frames: Sequence[Frame] = (),
    uncertainty: Uncertainty | None = None,
    overwrite: bool = False,
) -> Export:
    """Write a folder for LAMMPS, read it again and compare its results with those of `predict`.

    Args:
        out: folder, which may exist.
        stem: of the names of the potential's files.
        frames: structures to compare; the data file has that of the lowest energy per atom. None: a simple crystal.
        uncertainty: of the potential, whose grades LAMMPS is to have.

    Raises:
        InputError: outputs that exist or cannot be written, an element that the potential lacks, no plugin.
        Failure: the results differ by more than rounding, which the file of differences says too; LAMMPS' errors.
    """
    energy_model(potential, "lammps export")
    folder = Path(out)
    names = member_names(potential, stem)
    grades = None if uncertainty is None else uncertainty_path(folder / names[0])
    extra = [] if grades is None else [grades.name]
    _prepare(folder, [*names, *extra, SCRIPT, DATA, VERIFICATION], overwrite=overwrite)
    frames = list(frames) or [simple_crystal(potential.descriptor.elements)]
    for frame in frames:
        types_of(frame, potential.descriptor.elements)
    first = _calmest(frames, potential)
    box, types = _start(first, potential)
    (folder / VERIFICATION).unlink(missing_ok=True)  # it belongs to files that are replaced now
    files = save_members(potential, folder, names)
    if uncertainty is not None and grades is not None:
        save_uncertainty(uncertainty, grades)
        files.append(grades)
    with atomic_text(folder / DATA) as file:
        write_data(file, box, types, potential.descriptor.elements, potential.masses, first.source)
    with atomic_text(folder / SCRIPT) as file:
        file.write(_script(potential, names, box, extra))
    reread = _reread(potential, files[: len(names)])
    _try_script(lammps, plugin, folder)
    pair = PairStyle.of(reread, files[: len(names)], plugin, grades)
    known = None if grades is None else load_uncertainty(grades)
    comparison = compare(lammps, pair, reread, _rattled(frames), uncertainty=known)
    with atomic_text(folder / VERIFICATION) as file:
        file.write(describe(comparison, lammps, names))
    comparison.require_small(str(folder / VERIFICATION))
    return Export((*files, folder / DATA, folder / SCRIPT, folder / VERIFICATION), comparison)


def _prepare(folder: Path, names: Sequence[str], *, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder, found a file")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot write: {error.strerror}") from error
    for path in (folder / name for name in names):
        if path.exists() and not overwrite:
            raise InputError(f"{path}: exists already", remedy=Remedy.OVERWRITE)
        check_writable(path)


def _calmest(frames: Sequence[Frame], potential: Potential) -> Frame:
    """Structure with the lowest energy per atom on the network's scale, of those with the most elements."""
    kinds = np.array([len(np.unique(frame.atomic_numbers)) for frame in frames])
    energies = evaluate(potential, Structures.from_frames(frames)).double().cpu().numpy()
    per_atom = energies / np.array([frame.n_atoms for frame in frames])
    return frames[int(np.argmin(np.where(kinds == kinds.max(), per_atom, np.inf)))]


def _start(frame: Frame, potential: Potential) -> tuple[Box, np.ndarray]:
    """Box of the data file, and its atoms' types."""
    box = Box.of(frame)
    counts = copies_for(box, potential.neighbor_cutoff)
    types = types_of(frame, potential.descriptor.elements)
    return box.repeated(counts), np.tile(types, int(np.prod(counts)))


def _script(potential: Potential, names: Sequence[str], box: Box, grades: Sequence[str]) -> str:
    elements = " ".join(potential.descriptor.elements)
    stop = ["# grade_stop 5.0 after pyfit ends the run where an atom is too far from the training set (docs/lammps.md)"]
    known = "".join(f" uncertainty {quoted(name)}" for name in grades)
    several = ["# several files are the members of one potential: energies and forces are their means"]
    return "\n".join(
        [
            f"# A potential of pyfit-gpu {__version__}, {elements}: a start of a simulation. Run it by",
            f"#   lmp -in {SCRIPT}",
            "# Where LAMMPS does not load the plugin by itself, LAMMPS_PLUGIN_PATH names its folder, or this its file:",
            "# plugin load /path/to/pyfitplugin.so",
            "",
            "variable temperature index 300.0  # K",
            "variable steps index 100",
            "",
            "units metal",
            "atom_style atomic",
            f"boundary {boundary(box, open_end='s')}",
            "box tilt large",
            f"read_data {DATA}",
            "",
            *(several if len(names) > 1 else []),
            *(stop if known else []),
            "pair_style pyfit",
            f"pair_coeff * * {' '.join(map(quoted, names))} {elements}{known}",
            "",
            "velocity all create ${temperature} 4711 mom yes rot no",
            "fix motion all nve",
            "timestep 0.001  # ps",
            "thermo 10",
            "thermo_style custom step time temp pe ke etotal press",
            "run ${steps}",
            "",
        ]
    )


def _reread(potential: Potential, files: Sequence[Path]) -> Potential:
    """Read the files that were written, which must hold the same numbers (but for rounding in a network for all)."""
    found = load_potentials(files)
    rounding = _ROUNDING if potential.form == "plain" and potential.descriptor.n_elements > 1 else 0.0
    if not torch.allclose(_numbers(found), _numbers(potential), rtol=rounding, atol=rounding):
        raise Failure(f"{files[0]}: the parameters that were read again differ from those written")
    return found


def _numbers(potential: Potential) -> Tensor:
    """(K, P), parameters of the members and what is added to the networks' outputs."""
    if potential.is_bare or not (potential.is_physically_informed and potential.use_baseline):
        return potential.parameters
    return torch.cat(
        [potential.parameters, potential.baseline.flatten().expand(potential.networks.n_members, -1)], dim=1
    )


def _try_script(lammps: Installation, plugin: Path, folder: Path) -> None:
    """Let LAMMPS read everything, without a step, in a folder of its own that may be littered."""
    with tempfile.TemporaryDirectory(prefix="pyfit-lammps-") as name:
        place = Path(name)
        for file in folder.iterdir():
            if file.is_file():
                (place / file.name).symlink_to(file.resolve())
        script = f"plugin load {quoted(plugin)}\nvariable steps index 0\ninclude {SCRIPT}\n"
        run_lammps(lammps, script, place, name="in.tried")


def _rattled(frames: Sequence[Frame]) -> list[Frame]:
    """The frames, the only one of them with its atoms moved a little."""
    if len(frames) > 1:
        return list(frames)
    moved = np.random.default_rng(1).normal(scale=_RATTLE, size=frames[0].positions.shape)
    return [replace(frames[0], positions=frames[0].positions + moved, source=f"{frames[0].source}, atoms moved")]


def describe(comparison: Comparison, lammps: Installation, names: Sequence[str]) -> str:
    """Text of the file of differences."""
    lines = [
        f"LAMMPS {lammps.version} with pair_style pyfit beside predict of pyfit-gpu {__version__}, "
        f"for {comparison.n_structures} structure(s), {comparison.n_atoms} atoms",
        f"potential: {' '.join(names)}",
        "",
        f"{'largest difference':<20s}{'':<10s}{'allowed':<12s}{'unit':<10s}{'structure'}",
    ]
    for one in comparison.differences:
        allowed = one.tolerance * max(1.0, one.magnitude)
        lines.append(f"{one.name:<20s}{one.largest:<10.1e}{allowed:<12.1e}{one.unit:<10s}{one.source}")
    return "\n".join([*lines, "", "the same" if comparison.is_small else "DIFFERENT", ""])
