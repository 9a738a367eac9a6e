"""The verb `evaluate`: predictions of a potential for structures, and their errors against the labels in the files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from ase.units import GPa

from pyfit_gpu.commands.frame_prediction import FramePrediction, predict_frames
from pyfit_gpu.commands.grades import chosen_uncertainty, describe_grades, own_file
from pyfit_gpu.commands.held_out import held_out_frames
from pyfit_gpu.commands.jobs import Setup, Sources, read_windows
from pyfit_gpu.commands.messages import shown
from pyfit_gpu.commands.report import (
    ERROR_BARS,
    EnergyTable,
    component_report,
    error_report,
    plot_energy_volume,
    plot_parity,
    save_csv,
    spread_report,
)
from pyfit_gpu.commands.warnings import warn_of_equal_members, warn_of_offset, warn_of_untrained_predictions
from pyfit_gpu.errors import InputError
from pyfit_gpu.files import atomic_text, check_writable
from pyfit_gpu.formats.extxyz.writer import write_extxyz
from pyfit_gpu.formats.opening import load_potentials
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.log import log
from pyfit_gpu.models.energy import energy_model
from pyfit_gpu.models.energy_shift import EnergyShift, evaluation_shift, shift_of_structures
from pyfit_gpu.structures.cells import FloatArray
from pyfit_gpu.structures.elements import count_elements
from pyfit_gpu.structures.frames import Frame


def evaluate(
    dft_files: Sequence[str],
    *,
    potential: str | Sequence[str],
    out: str,
    setup: Setup,
    e_shift: EnergyShift | None = None,
    forces: bool = False,
    plots: str = "",
    reading: ReadOptions | None = None,
    uncertainty: str | None = None,
    forces_uncertainty: bool = False,
    held_out: str = "",
) -> None:
    """Write energies, forces and stress of structures, tables of their errors, and plots (`pyfit-gpu evaluate`).

    With several members all values are means, given with their spread. `pyfit_gpu.evaluate` (models/prediction.py) is
    the function of the library, which gives energies and writes nothing.

    Args:
        potential: one file, or the files of several members.
        out: `.csv`: a row per structure, on the network's scale; `.extxyz`: structures with energies on the DFT scale,
            forces and stress.
        forces: compute forces and stress, and their errors, for a `.csv` too.
        e_shift: eV per atom, one number or one per element; None: the potential's own, or 0 with a warning if it is
            unknown.
        plots: folder for parity.png and energy_volume.png; empty: none.
        reading: names of labels, units, and what else the files leave open.
        uncertainty: uncertainty file of the potential; None: the one beside it, if there is one; "none": none.
        forces_uncertainty: compute error bars of forces too, which take several times as long as forces.
        held_out: name of a split: the files are training sets that store it, and only what validates or tests in it
            is predicted; empty: they are files of structures.
    """
    suffix = Path(out).suffix
    if suffix not in (".csv", ".extxyz"):
        raise InputError(f"{out}: expected a name that ends in .csv or .extxyz")
    members = [potential] if isinstance(potential, str) else list(potential)
    out = setup.output(out, [*dft_files, *members, *own_file(uncertainty)])
    plot_paths = _plot_paths(plots, setup) if plots else None
    model = load_potentials(members)
    energy_model(model, "evaluate")
    known = chosen_uncertainty(uncertainty, members, model, needs_error_bars=forces_uncertainty)
    shift = evaluation_shift(model, e_shift)
    if model.networks.n_members > 1:
        log.info("mean and spread of %d members", model.networks.n_members)
        warn_of_equal_members(model, members)
    windows: Iterable[list[Frame]]
    if held_out:
        windows = [[frame for path in dft_files for frame in held_out_frames(path, held_out)]]
    else:
        windows = read_windows(Sources.of(dft_files, reading), setup.device)
    derivatives = forces or forces_uncertainty or suffix == ".extxyz"
    frames: list[Frame] = []
    parts = []
    for window in windows:
        frames += window
        parts.append(
            predict_frames(
                window, model, setup, derivatives=derivatives, uncertainty=known, forces_uncertainty=forces_uncertainty
            )
        )
    found = FramePrediction.joined(parts)
    counts = count_elements(frames, model.descriptor.elements)
    warn_of_untrained_predictions(model, counts)
    shifts = shift_of_structures(torch.from_numpy(counts), shift).numpy()
    table = energy_table(frames, found, shifts)
    if e_shift is None:
        warn_of_offset(model, table.error)
    if suffix == ".csv":
        save_csv(table, out)
    else:
        with atomic_text(out) as file:
            predicted = found.frames(frames, found.energy - shifts)
            write_extxyz(file, predicted, found.label_spreads(), found.atom_columns(), found.more_values())
    if plot_paths:
        Path(plots).mkdir(exist_ok=True)
        plot_parity(table, plot_paths[0])
        plot_energy_volume(table, plot_paths[1])
    if not setup.quiet:
        print(shown(error_report(table, [frame.source for frame in frames])))
        _print_components(frames, found)
        if known is not None and table.highest_grade is not None:
            print(shown(describe_grades(frames, table, model, known, setup.device)))
    log.info("wrote %s", ", ".join((out, *(plot_paths or ()))))


def _print_components(frames: Sequence[Frame], found: FramePrediction) -> None:
    """Print tables of forces and stress, where they were computed, and the members' spread."""
    if found.forces is None or found.stress is None:
        return
    groups = [frame.group for frame in frames]
    forces = _differences(found.forces, [frame.forces for frame in frames])
    known = [None if frame.stress is None else frame.stress / GPa for frame in frames]
    stress = _differences(list(found.stress / GPa), known)
    spread = found.spread
    print(shown(component_report("forces", "eV/Å", groups, forces)))
    if spread is not None and spread.forces is not None:
        print(spread_report("components", "eV/Å", [part.ravel() for part in spread.forces], forces, 4))
    if found.error_bars is not None and found.error_bars.forces is not None:
        own = [part.ravel() for part in found.error_bars.forces]
        print(spread_report("components", "eV/Å", own, forces, 4, what=ERROR_BARS))
    print(shown(component_report("stress", "GPa", groups, stress)))
    if spread is not None and spread.stress is not None:
        print(spread_report("components", "GPa", list(spread.stress / GPa), stress, 4))


def _plot_paths(folder: str, setup: Setup) -> tuple[str, str]:
    """Names of both plots in a folder that exists or can be made."""
    parity, energy_volume = str(Path(folder) / "parity.png"), str(Path(folder) / "energy_volume.png")
    if not Path(folder).exists():
        check_writable(folder)
        return parity, energy_volume
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: expected a folder for plots, found a file")
    return setup.output(parity), setup.output(energy_volume)


def _differences(found: Sequence[FloatArray], known: Sequence[FloatArray | None]) -> list[FloatArray]:
    """Predicted minus known components of every structure; empty where one of them is not known."""
    none = np.empty(0)
    pairs = zip(found, known, strict=True)
    return [none if k is None or np.isnan(f).any() else (f - k).ravel() for f, k in pairs]


def energy_table(frames: Sequence[Frame], found: FramePrediction, shifts: np.ndarray) -> EnergyTable:
    """Table of what was found for frames, and their own energies plus `shifts` (B,) eV."""
    n_atoms = np.array([frame.n_atoms for frame in frames])
    reference = np.array([math.nan if frame.energy is None else frame.energy for frame in frames])
    volume = np.array([frame.volume for frame in frames])
    return EnergyTable(
        groups=tuple(frame.group for frame in frames),
        n_atoms=n_atoms,
        volume_per_atom=volume / n_atoms,
        energy_per_atom=found.energy / n_atoms,
        reference_energy_per_atom=(reference + shifts) / n_atoms,
        energy_per_atom_std=None if found.spread is None else found.spread.energy / n_atoms,
        energy_per_atom_uncertainty=None if found.error_bars is None else found.error_bars.energy / n_atoms,
        highest_grade=None if found.grades is None else np.array([own.max() for own in found.grades]),
        highest_grade_atom=None if found.grades is None else np.array([own.argmax() + 1 for own in found.grades]),
    )
