"""Two atoms through LAMMPS and through the package: what is installed, what is missing, whether both agree."""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from ase.data import atomic_numbers as ATOMIC_NUMBERS

from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.formats.nn_dat import load_potential, save_draft
from pyfit_gpu.formats.opening import find_uncertainty, load_potentials
from pyfit_gpu.formats.uncertainty_file import uncertainty_path
from pyfit_gpu.interfaces.lammps.cache import BuildRecord, find_build
from pyfit_gpu.interfaces.lammps.comparison import Comparison, compare
from pyfit_gpu.interfaces.lammps.installation import Installation
from pyfit_gpu.interfaces.lammps.potential_files import member_names, save_members
from pyfit_gpu.interfaces.lammps.running import PairStyle, describe_mpi
from pyfit_gpu.models.energy import energy_model
from pyfit_gpu.models.new_potential import new_potential
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.frames import Frame


@dataclass(frozen=True)
class Check:
    """A LAMMPS with the plugin, as it was found."""

    lammps: Installation
    mpi: str  # as LAMMPS says it
    plugin: Path
    record: BuildRecord | None  # None: the plugin is not in the cache
    loads_itself: bool  # whether the wheel's lmp loads this plugin when it starts
    comparison: Comparison

    @property
    def lines(self) -> list[str]:
        """Lines for a terminal."""
        built = f"{self.record.compiler}; {' '.join(self.record.flags)}" if self.record else "unknown"
        loading = (
            "by lmp itself, when it starts" if self.loads_itself else f"with the command plugin load {self.plugin}"
        )
        return [
            f"LAMMPS        {self.lammps.version} ({self.lammps.name})",
            f"program       {self.lammps.command or self.lammps.program}",
            f"MPI           {self.mpi}; {self.lammps.launcher or 'no mpirun found'}",
            f"plugin        {self.plugin}",
            f"compiled by   {built}",
            f"loaded        {loading}",
            f"two atoms     {self.comparison.energies[0]:.9f} eV",
            *(f"{one.name:<14s}differs by {one.largest:.1e} {one.unit}" for one in self.comparison.differences),
        ]


def check_lammps(lammps: Installation, *, potential: str = "", plugin: str | os.PathLike[str] = "") -> Check:
    """Run two atoms through the plugin and through `predict`.

    Args:
        potential: .nn.dat or .pinn file, with an uncertainty file beside it or without; empty: random numbers.
        plugin: file; empty: that in the cache.

    Raises:
        InputError: no plugin, no program, or not a potential.
        Failure: LAMMPS ends with an error.
    """
    file, record = find_plugin(lammps, plugin)
    mpi = describe_mpi(lammps)
    with tempfile.TemporaryDirectory(prefix="pyfit-lammps-") as name:
        folder = Path(name)
        uncertainty = None
        if potential:
            model = load_potentials(potential)
            energy_model(model, "lammps check")
            uncertainty = find_uncertainty(potential, model)
        else:
            model = _random_potential(folder)
        files = save_members(model, folder, member_names(model, "check"))
        pair = PairStyle.of(model, files, file, uncertainty_path(potential) if uncertainty else None)
        comparison = compare(lammps, pair, model, [_two_atoms(model)], uncertainty=uncertainty)
        loads_itself = _loads_itself(lammps, file, folder)
    return Check(lammps, mpi, file, record, loads_itself, comparison)


def find_plugin(lammps: Installation, plugin: str | os.PathLike[str] = "") -> tuple[Path, BuildRecord | None]:
    """File of the plugin that was named, or of that in the cache, with its record.

    Raises:
        InputError: there is none.
    """
    if plugin:
        file = Path(os.path.abspath(plugin))
        if not file.is_file():
            raise InputError(f"{file}: expected the plugin, found nothing")
        return file, None
    found = find_build(str(lammps.version), lammps.sizes)
    if found is None:
        raise InputError(
            f"plugin: none was built for LAMMPS {lammps.version}, this version of pyfit-gpu and this processor",
            remedy=Remedy.PLUGIN,
        )
    return found[1], found[0]


def _random_potential(folder: Path) -> Potential:
    draft = folder / "draft.nn.dat"
    save_draft(new_potential(["Si"], 5.0), draft)
    # Larger numbers than a fit begins with: forces that could be seen to differ.
    large = load_potential(draft, seed=1).randomized(1, max_random=1.0)
    return replace(large, energy_shift=torch.zeros(1, dtype=torch.float64))


def _two_atoms(potential: Potential) -> Frame:
    """Two atoms in a box, at a distance where all terms matter."""
    elements = potential.descriptor.elements
    return Frame(
        positions=np.array([[0.0, 0.0, 0.0], [0.35, 0.2, 0.3]]) * potential.descriptor.cutoff,
        cell=np.eye(3) * 3 * potential.neighbor_cutoff,
        pbc=np.ones(3, dtype=np.bool_),
        atomic_numbers=np.array([ATOMIC_NUMBERS[elements[0]], ATOMIC_NUMBERS[elements[-1]]]),
        group="",
        source="two atoms",
    )


def _loads_itself(lammps: Installation, plugin: Path, folder: Path) -> bool:
    """Whether the program that users call loads this plugin, or one in the same folder, when it starts."""
    if lammps.command is None or lammps.command == lammps.program:
        return False
    environment = {key: value for key, value in os.environ.items() if key != "LAMMPS_PLUGIN_PATH"}
    (folder / "in.list").write_text("plugin list\n", encoding="utf-8")
    done = subprocess.run(
        [lammps.command, "-in", "in.list", "-log", "none"],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    return f"Loaded 1 plugins from {plugin.parent}" in done.stdout
