"""The verb `evaluate`: what a potential says about structures, and how far that is from what their files say."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from ase.units import GPa

from pyfit_gpu.energy_shift import EnergyShift, count_elements, evaluation_shift
from pyfit_gpu.errors import InputError
from pyfit_gpu.files import atomic_text, check_writable
from pyfit_gpu.formats.ase_files import write_extxyz
from pyfit_gpu.formats.nn_dat import load_potential
from pyfit_gpu.jobs import Setup, frame_batches, read_all_frames
from pyfit_gpu.potential import Potential, batches
from pyfit_gpu.prediction import Prediction, predict_batch
from pyfit_gpu.report import EnergyTable, component_report, error_report, plot_energy_volume, plot_parity, save_csv
from pyfit_gpu.structures import FloatArray, Frame

log = logging.getLogger("pyfit_gpu")


def evaluate(
    dft_files: Sequence[str],
    *,
    potential: str,
    out: str,
    setup: Setup,
    e_shift: EnergyShift | None = None,
    forces: bool = False,
    plots: str = "",
) -> None:
    """Energies, forces and stress of structures, tables of their errors, and plots.

    Args:
        out: `.csv`: a row per structure, on the network's scale; `.extxyz`: structures with energies on the DFT scale,
            forces and stress.
        forces: compute forces and stress, and their errors, for a `.csv` too.
        e_shift: eV per atom, one number or one per element; None: the potential's own, or 0 with a note if it does
            not know it.
        plots: folder for parity.png and energy_volume.png; empty: none.
    """
    suffix = Path(out).suffix
    if suffix not in (".csv", ".extxyz"):
        raise InputError(f"{out}: expected a name that ends in .csv or .extxyz")
    out = setup.output(out, [*dft_files, potential])
    plot_paths = _plot_paths(plots, setup) if plots else None
    model = load_potential(potential)
    model.require_straight("evaluate")
    shift = evaluation_shift(model, e_shift)
    frames = read_all_frames(dft_files)
    found = predict_frames(frames, model, setup, derivatives=forces or suffix == ".extxyz")
    shifts = count_elements(frames, model.descriptor.elements) @ shift
    table = energy_table(frames, found.energy, shifts)
    if suffix == ".csv":
        save_csv(table, out)
    else:
        with atomic_text(out) as file:
            write_extxyz(file, found.frames(frames, found.energy - shifts))
    if plot_paths:
        Path(plots).mkdir(exist_ok=True)
        plot_parity(table, plot_paths[0])
        plot_energy_volume(table, plot_paths[1])
    if not setup.quiet:
        print(error_report(table, [frame.source for frame in frames]))
        if found.forces is not None and found.stress is not None:
            known = [frame.forces for frame in frames]
            print(component_report("forces", "eV/Å", table.groups, _differences(found.forces, known)))
            known = [None if frame.stress is None else frame.stress / GPa for frame in frames]
            print(component_report("stress", "GPa", table.groups, _differences(list(found.stress / GPa), known)))
    log.info("wrote %s", ", ".join((out, *(plot_paths or ()))))


def _plot_paths(folder: str, setup: Setup) -> tuple[str, str]:
    """Names of both plots in a folder that exists or can be made."""
    parity, energy_volume = str(Path(folder) / "parity.png"), str(Path(folder) / "energy_volume.png")
    if not Path(folder).exists():
        check_writable(folder)
        return parity, energy_volume
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: expected a folder for plots, found a file")
    return setup.output(parity), setup.output(energy_volume)


@dataclass(frozen=True, eq=False)
class FramePrediction:
    """Of many frames, on the host; energies on the networks' own scale."""

    energy: FloatArray  # (B,) eV
    forces: list[FloatArray] | None  # per frame (n, 3) eV/Å; None: not asked for
    stress: FloatArray | None  # (B, 6) eV/Å^3, NaN for a frame without a full cell

    def frames(self, frames: Sequence[Frame], energy: FloatArray) -> list[Frame]:
        """The frames with predicted labels in place of their own, and `energy` (B,) eV."""
        forces: Sequence[FloatArray | None] = self.forces or [None] * len(frames)
        stress: Sequence[FloatArray | None] = [None] * len(frames) if self.stress is None else list(self.stress)
        return [
            replace(frame, energy=float(e), forces=f, stress=None if s is None or np.isnan(s).any() else s)
            for frame, e, f, s in zip(frames, energy, forces, stress, strict=True)
        ]


def predict_frames(frames: Sequence[Frame], model: Potential, setup: Setup, *, derivatives: bool) -> FramePrediction:
    """Batch after batch on the device, the results on the host in the frames' order."""
    model = model.to(setup.device, setup.dtype)
    sizes = [frame.n_atoms for frame in frames]
    like = torch.empty(0, dtype=torch.float64)
    whole = Prediction.empty(len(frames), sum(sizes), like, derivatives=derivatives)
    for batch in batches(sizes, frame_batches(frames, setup), model, dtype=setup.dtype):
        part = predict_batch(model, batch, derivatives=derivatives).to("cpu", torch.float64)
        whole.put(part, batch.rows.cpu(), batch.atoms.cpu())
    forces, stress = None, None
    if whole.forces is not None and whole.stress is not None:
        forces = [part.numpy() for part in whole.forces.split(sizes)]
        stress = whole.stress.numpy()
    return FramePrediction(whole.energy.numpy(), forces, stress)


def _differences(found: Sequence[FloatArray], known: Sequence[FloatArray | None]) -> list[FloatArray]:
    """Predicted minus known components of every structure; none where something is not known."""
    none = np.empty(0)
    pairs = zip(found, known, strict=True)
    return [none if k is None or np.isnan(f).any() else (f - k).ravel() for f, k in pairs]


def energy_table(frames: Sequence[Frame], energies: np.ndarray, shifts: np.ndarray) -> EnergyTable:
    """Predicted `energies` (B,) eV against the frames' own plus the `shifts` (B,) eV."""
    n_atoms = np.array([frame.n_atoms for frame in frames])
    reference = np.array([math.nan if frame.energy is None else frame.energy for frame in frames])
    volume = np.array([frame.volume for frame in frames])
    return EnergyTable(
        groups=tuple(frame.group for frame in frames),
        n_atoms=n_atoms,
        volume_per_atom=volume / n_atoms,
        energy_per_atom=energies / n_atoms,
        reference_energy_per_atom=(reference + shifts) / n_atoms,
    )
