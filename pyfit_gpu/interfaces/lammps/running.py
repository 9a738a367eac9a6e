"""Running LAMMPS in a process of its own: scripts, and energies, forces and virials of many structures."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pyfit_gpu.errors import Failure, InputError
from pyfit_gpu.interfaces.lammps.cells import Box
from pyfit_gpu.interfaces.lammps.data_file import boundary, quoted, write_data
from pyfit_gpu.interfaces.lammps.installation import Installation
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.elements import index_elements
from pyfit_gpu.structures.frames import Frame

_BAR = 1.6021765e6  # bar in one eV/Å^3, LAMMPS' own number: with it no digits are lost
_TENSOR = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))  # LAMMPS' order: xx yy zz xy xz yz
_VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # ASE's: xx yy zz yz xz xy


@dataclass(frozen=True)
class PairStyle:
    """Commands that choose a potential, for `units metal`."""

    style: str  # arguments of pair_style
    coefficients: str  # arguments of pair_coeff
    elements: tuple[str, ...]  # of the types
    masses: tuple[float, ...]  # u, of the types
    plugin: Path | None = None  # file to load first
    has_grades: bool = False  # whether the extrapolation grades of atoms are wanted

    @classmethod
    def of(
        cls,
        potential: Potential,
        files: Sequence[str | os.PathLike[str]],
        plugin: Path | None,
        uncertainty: str | os.PathLike[str] | None = None,
    ) -> PairStyle:
        """Choose a potential whose members are in these files; its elements are the types.

        Args:
            uncertainty: its file; None: there are no extrapolation grades.
        """
        elements = potential.descriptor.elements
        words = ["* *", *(quoted(os.path.abspath(file)) for file in files), *elements]
        if uncertainty is not None:
            words += ["uncertainty", quoted(os.path.abspath(uncertainty))]
        return cls("pyfit", " ".join(words), elements, potential.masses, plugin, uncertainty is not None)


@dataclass(frozen=True, eq=False)
class LammpsResult:
    """Results of LAMMPS for one structure, in the structure's orientation."""

    energy: float  # eV
    atomic_energies: FloatArray  # (n,) eV
    forces: FloatArray  # (n, 3) eV/Å
    virial: FloatArray  # (6,) eV, stress times volume, ASE's sign and order
    grades: FloatArray | None = None  # (n,), extrapolation grades; None: not wanted

    def stress(self, volume: float) -> FloatArray:
        """(6,) eV/Å^3, ASE's sign and order, for a volume in Å^3."""
        return self.virial / volume


def run_lammps(lammps: Installation, script: str, folder: Path, *, ranks: int = 1, name: str = "in.lammps") -> str:
    """Run a script in a folder and return what LAMMPS prints; the script stays there under `name`.

    Raises:
        InputError: the installation has no program, or no mpirun for several ranks.
        Failure: LAMMPS ends with an error, which is given.
    """
    if lammps.program is None:
        raise InputError(f"{lammps.name}: expected the program lmp, found none")
    command = [str(lammps.program), "-in", name, "-log", "none", "-nocite"]
    if ranks > 1:
        if lammps.launcher is None:
            raise InputError(f"{lammps.name}: expected mpirun for {ranks} ranks, found none")
        command = [str(lammps.launcher), "-np", str(ranks), *command]
    (folder / name).write_text(script, encoding="utf-8")
    done = subprocess.run(
        command,
        cwd=folder,
        env=lammps.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        raise Failure(f"{lammps.name}: {last_error(done.stdout + done.stderr)}")
    return done.stdout


def last_error(output: str) -> str:
    """LAMMPS' error message in its output, with that of a plugin that was not loaded, or else the last lines."""
    errors = re.findall(
        r"^(?:ERROR|Open of (?:plugin )?file .* failed|Plugin symbol lookup failure).*", output, re.MULTILINE
    )
    return "; ".join(errors) if errors else "\n".join(output.strip().splitlines()[-5:]) or "LAMMPS printed nothing"


def describe_mpi(lammps: Installation) -> str:
    """MPI library of a LAMMPS, as its help text names it.

    Raises:
        InputError: the installation has no program.
        Failure: it does not run.
    """
    if lammps.program is None:
        raise InputError(f"{lammps.name}: expected the program lmp, found none")
    done = subprocess.run(
        [lammps.program, "-h"], env=lammps.environment(), capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        raise Failure(f"{lammps.program} -h: {last_error(done.stdout + done.stderr)}")
    match = re.search(r"^MPI v[\d.]+: *(.*\S)", done.stdout, re.MULTILINE)
    return " ".join(match[1].split()) if match else "unknown"


def evaluate_frames(
    lammps: Installation, frames: Sequence[Frame], pair: PairStyle, folder: Path, *, ranks: int = 1, extra: str = ""
) -> list[LammpsResult]:
    """Compute structures with LAMMPS, all in one process.

    Args:
        folder: an empty one, for data files and dumps.
        extra: commands before each run.

    Raises:
        InputError: an element that the potential lacks.
        Failure: as `run_lammps`.
    """
    boxes = [Box.of(frame) for frame in frames]
    script = [f"plugin load {quoted(pair.plugin)}"] if pair.plugin else []
    for number, (frame, box) in enumerate(zip(frames, boxes, strict=True)):
        types = types_of(frame, pair.elements)
        with open(folder / f"{number}.data", "w", encoding="utf-8") as file:
            write_data(file, box, types, pair.elements, pair.masses, frame.source)
        script += _single_point(number, boundary(box), pair, extra)
    output = run_lammps(lammps, "\n".join(script) + "\n", folder, ranks=ranks)
    rows = dict(re.findall(r"^result (\d+) (.*)", output, re.MULTILINE))
    return [_result(box, rows[str(k)], folder / f"{k}.dump") for k, box in enumerate(boxes)]


def types_of(frame: Frame, elements: Sequence[str]) -> NDArray[np.int64]:
    """(n,), number of each atom's element, counted from 0.

    Raises:
        InputError: an element that is not one of them.
    """
    numbers = torch.from_numpy(np.asarray(frame.atomic_numbers))
    return index_elements(numbers, elements, lambda atom: f"{frame.source}, atom {atom + 1}").numpy()


def _single_point(number: int, boundaries: str, pair: PairStyle, extra: str) -> list[str]:
    immediate = ("pe", "vol", *(f"c_virial[{k + 1}]" for k in range(len(_TENSOR))))
    return [
        "clear",
        "units metal",
        "atom_style atomic",
        f"boundary {boundaries}",
        "box tilt large",
        f"read_data {number}.data",
        f"pair_style {pair.style}",
        f"pair_coeff {pair.coefficients}",
        "compute virial all pressure NULL virial",
        "compute energies all pe/atom",
        *(["fix grades all pair 1 pyfit grade 1"] if pair.has_grades else []),
        f"dump result all custom 1 {number}.dump id c_energies fx fy fz{' f_grades' if pair.has_grades else ''}",
        "dump_modify result sort id format float %.17g",
        "thermo_style custom step pe vol c_virial[*]",
        *([extra] if extra else []),
        "run 0 post no",
        f'print "result {number} ' + " ".join(f"$({name}:%.17g)" for name in immediate) + '"',
    ]


def _result(box: Box, row: str, dump: Path) -> LammpsResult:
    energy, volume, *pressure = map(float, row.split())
    tensor = np.zeros((3, 3))
    for (i, j), value in zip(_TENSOR, pressure, strict=True):
        tensor[i, j] = tensor[j, i] = -value / _BAR * volume
    tensor = box.tensor_back(tensor)
    atoms = np.loadtxt(dump, skiprows=9, ndmin=2)  # the lines before are the dump's header
    return LammpsResult(
        energy=energy,
        atomic_energies=atoms[:, 1],
        forces=box.vectors_back(atoms[:, 2:5]),
        virial=np.array([tensor[i, j] for i, j in _VOIGT]),
        grades=atoms[:, 5] if atoms.shape[1] > 5 else None,
    )
