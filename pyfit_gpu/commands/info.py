"""The verb `info`: a few lines about a file."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from pyfit_gpu.commands.classic.config import load_classic_config
from pyfit_gpu.commands.train.logs import describe_energy_volume_log, describe_error_log, describe_group_log
from pyfit_gpu.commands.train.summary import describe_ranking
from pyfit_gpu.datasets.splits import Split
from pyfit_gpu.descriptors.lsp import GI_MODES, LocalStructureParameters
from pyfit_gpu.formats.identify import FileKind, identify
from pyfit_gpu.formats.nn_dat import asks_for_random_weights, load_potential
from pyfit_gpu.formats.opening import load_training_set, read_frames
from pyfit_gpu.formats.run_file import load_run
from pyfit_gpu.models.networks import ACTIVATIONS
from pyfit_gpu.training.history import MemberHistory


def info(path: str | os.PathLike[str]) -> str:
    """What a file is, in a few lines. The file is read whole, so that a damaged one is noticed.

    Raises:
        InputError: unreadable, damaged, or of no known kind.
    """
    kind = identify(path)
    describe = {
        FileKind.POTENTIAL: _potential,
        FileKind.TRAINING_SET: _training_set,
        FileKind.RUN: _run,
        FileKind.MANIFEST: _training_set,
        FileKind.TEXT_SET: _training_set,
        FileKind.DFT_TEXT: _structures,
        FileKind.ASE: _structures,
        FileKind.CLASSIC_CONFIG: _configuration,
        FileKind.ENERGY_VOLUME_LOG: describe_energy_volume_log,
        FileKind.ERROR_LOG: describe_error_log,
        FileKind.ENERGY_TABLE: _energy_table,
        FileKind.GROUP_LOG: describe_group_log,
        FileKind.RANKING: describe_ranking,
    }[kind]
    return "\n".join([f"{os.fspath(path)}: {kind.value}", *(f"  {line}" for line in describe(Path(path)))])


def _descriptor_lines(descriptor: LocalStructureParameters) -> list[str]:
    centers = " ".join(f"{center:g}" for center in descriptor.gaussian_centers)
    return [
        f"elements      {' '.join(descriptor.elements)}",
        f"inputs        {descriptor.n_features}, gi_mode {descriptor.gi_mode} ({GI_MODES[descriptor.gi_mode]}), "
        f"shift {descriptor.shift:g}",
        f"cutoff        {descriptor.cutoff:g} Å, width {descriptor.cutoff_width:g} Å",
        f"orders        {' '.join(map(str, descriptor.legendre_orders))}",
        f"Gaussians     centres {centers} Å, width {descriptor.gaussian_width:g} Å",
    ]


def _potential(path: Path) -> list[str]:
    potential = load_potential(path, seed=0)
    networks = potential.networks
    shifts = potential.energy_shift.tolist()
    known = "unknown" if np.isnan(shifts).any() else " ".join(f"{shift:g}" for shift in shifts) + " eV/atom"
    randomize = "; random weights are drawn on loading" if asks_for_random_weights(path) else ""
    layers = "-".join(map(str, networks.layer_sizes))
    kind = "physically informed (8 bond-order parameters)" if potential.is_physically_informed else "straight"
    return [
        f"network       {kind}, {layers}, {networks.n_parameters} parameters{randomize}",
        f"activation    {networks.activation} ({ACTIVATIONS[networks.activation]})",
        f"e_shift       {known}",
        *_descriptor_lines(potential.descriptor),
    ]


def _run(path: Path) -> list[str]:
    run = load_run(path)
    networks = run.potential.networks
    histories = [MemberHistory.from_json(member["history"]) for member in run.state.members]
    lines = [
        f"state         {'done' if run.done else 'to be resumed'}, {len(histories)} members, "
        f"{run.settings['steps']} steps asked for",
        f"network       {'-'.join(map(str, networks.layer_sizes))}, {networks.n_parameters} parameters each",
    ]
    for number, history in enumerate(histories, run.first_member):
        if not history.loss:
            lines.append(f"member {number:<6d} not begun")
            continue
        least = f", least validation {min(history.validation.values()):.4e}" if history.validation else ""
        lines.append(
            f"member {number:<6d} {history.status}, step {history.step}, loss {history.loss[-1]:.4e}{least} eV/atom"
        )
    return lines + _descriptor_lines(run.potential.descriptor)


def _training_set(path: Path) -> list[str]:
    training_set = load_training_set(path, lazy=True)
    groups = Counter(training_set.groups)
    n_energies = int(training_set.has_energy.sum())
    n_forces = int((~training_set.forces.isnan()).any(dim=1).sum())
    n_stress = int((~training_set.stress.isnan()).all(dim=1).sum())
    shifts = training_set.energy_shift
    lines = [
        f"structures    {len(training_set)}, {n_energies} with an energy, {n_stress} with a stress",
        f"atoms         {training_set.n_atoms}, {n_forces} with forces",
        f"groups        {len(groups)}: {_most_common(groups)}",
        f"e_shift       {'unknown' if shifts is None else ' '.join(f'{shift:g}' for shift in shifts) + ' eV/atom'}",
    ]
    if n_energies:
        used = (training_set.energy_used / training_set.sizes)[training_set.has_energy]
        lines.append(f"energies      {float(used.min()):.6g} to {float(used.max()):.6g} eV/atom, e_shift added")
    lines += [f"split         {_split(name, split)}" for name, split in sorted(training_set.splits.items())]
    return lines + _descriptor_lines(training_set.descriptor)


def _split(name: str, split: Split) -> str:
    counts = f"{len(split.train)} train, {len(split.validation)} validate, {len(split.test)} test"
    test_groups = f", test groups {', '.join(split.test_groups)}" if split.test_groups else ""
    return (
        f"{name}: {counts}, of {split.n_structures} structures; train fraction {split.train_fraction:g}, "
        f"seed {split.seed}{test_groups}"
    )


def _most_common(groups: Counter[str]) -> str:
    shown = ", ".join(f"{name} ({count})" for name, count in groups.most_common(6))
    return shown + (", ..." if len(groups) > 6 else "")


def _structures(path: Path) -> list[str]:
    groups: Counter[str] = Counter()
    elements: set[int] = set()
    n_atoms, n_energies, n_forces, largest = 0, 0, 0, 0
    for frame in read_frames(path):
        groups[frame.group] += 1
        elements |= set(frame.atomic_numbers.tolist())
        n_atoms += frame.n_atoms
        largest = max(largest, frame.n_atoms)
        n_energies += frame.energy is not None
        n_forces += frame.forces is not None
    named = " ".join(chemical_symbols[number] for number in sorted(elements - {0}))
    return [
        f"structures    {groups.total()}, {n_energies} with an energy, {n_forces} with forces",
        f"atoms         {n_atoms}, at most {largest} in a structure",
        f"elements      {named or 'not named in the file'}",
        f"groups        {len(groups)}: {_most_common(groups)}",
    ]


def _configuration(path: Path) -> list[str]:
    config = load_classic_config(path)
    tasks = [name for name in ("generate_training_set", "run_training") if getattr(config, name)]
    changed = {name: value for name, value in config if value != type(config).model_fields[name].default}
    return [
        f"tasks         {', '.join(tasks) or 'none'}",
        *(f"{name} = {value!r}" for name, value in changed.items() if name not in tasks),
    ]


def _energy_table(path: Path) -> list[str]:
    return [f"structures    {len(path.read_text(encoding='utf-8').splitlines()) - 1}"]
