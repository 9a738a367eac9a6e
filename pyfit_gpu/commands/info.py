"""The verb `info`: a few lines about a file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ase.data import chemical_symbols

from pyfit_gpu.commands.kinds import COMMAND_KINDS, CommandKind
from pyfit_gpu.commands.parsing import triples_as_text
from pyfit_gpu.datasets.splits import Split
from pyfit_gpu.datasets.summary import LabelCounts
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.errors import shortened
from pyfit_gpu.formats.json_text import brief
from pyfit_gpu.formats.kinds import RUN, FileKind, StructuresKind, TrainingSetKind, identify
from pyfit_gpu.formats.nn_dat import load_header, load_potential
from pyfit_gpu.formats.opening import read_reported
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.read_report import ReadReport
from pyfit_gpu.formats.run_file import load_run
from pyfit_gpu.models.activations import ACTIVATIONS
from pyfit_gpu.models.potential import Potential, n_bond_order_parameters
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.history import MemberHistory


def info(path: str | os.PathLike[str], *, reading: ReadOptions | None = None) -> str:
    """Describe a file in a few lines. It is read as a whole, so that damage is noticed.

    Raises:
        InputError: unreadable, damaged, or of no known kind.
    """
    name = os.fspath(path)
    kind = identify(name, COMMAND_KINDS)
    return "\n".join(
        [f"{name}: {kind.title}", *(f"  {line}" for line in _describe(kind, name, reading or ReadOptions()))]
    )


def _describe(kind: FileKind, name: str, reading: ReadOptions) -> list[str]:
    if isinstance(kind, CommandKind):
        return kind.describe(Path(name))
    if isinstance(kind, StructuresKind):
        report = ReadReport(reading)
        lines = _structures(read_reported([name], report, reading))
        report.require_used()
        report.log_doubts()
        return lines + [f"not read      {names}" for names in report.unread(name)]
    if isinstance(kind, TrainingSetKind):
        return _training_set(kind.read(name, True))
    return _run(name) if kind is RUN else _potential(name)


def _descriptor_lines(descriptor: LocalStructureParameters) -> list[str]:
    centers = " ".join(f"{center:g}" for center in descriptor.gaussian_centers)
    more_terms = [f"cross terms   {descriptor.cross_terms}", f"triples       {triples_as_text(descriptor.triples)}"]
    return [
        f"elements      {' '.join(descriptor.elements)}",
        f"inputs        {descriptor.n_features}{input_shares(descriptor)}, "
        f"gi_mode {descriptor.gi_mode} ({descriptor.mode.text}), shift {descriptor.shift:g}",
        f"cutoff        {descriptor.cutoff:g} Å, width {descriptor.cutoff_width:g} Å",
        f"orders        {' '.join(map(str, descriptor.legendre_orders))}",
        *(more_terms if descriptor.mode.more_terms else ()),
        f"Gaussians     centres {centers} Å, width {descriptor.gaussian_width:g} Å",
    ]


def input_shares(descriptor: LocalStructureParameters) -> str:
    """How many of the inputs are of either kind, in parentheses; empty where there is one kind."""
    if not descriptor.mode.more_terms:
        return ""
    return f" ({descriptor.n_pair_features} of pairs, {descriptor.n_four_body_features} of four bodies)"


def _potential(path: str) -> list[str]:
    potential = load_potential(path, seed=0)
    networks = potential.networks
    shifts = potential.energy_shift.tolist()
    known = "unknown" + (", energies are those of atomisation" if potential.is_physically_informed else "")
    if potential.knows_shift:
        known = " ".join(f"{shift:g}" for shift in shifts) + " eV/atom"
    header = load_header(path)
    randomize = "; random weights are drawn on loading" if header.randomize else ""
    shared = "" if header.shared is None else f", of one network for all elements ({header.shared.name})"
    return [
        f"network       {_network(potential)}, {networks.n_parameters} parameters{shared}{randomize}",
        f"activation    {networks.activation} ({ACTIVATIONS[networks.activation]})",
        *_bond_order_lines(potential),
        f"e_shift       {known}",
        *([f"untrained     {' '.join(potential.untrained)}"] if potential.untrained else []),
        *_descriptor_lines(potential.descriptor),
    ]


def _network(potential: Potential) -> str:
    """Kind of a potential with its form, and its layers."""
    n_parameters = n_bond_order_parameters(potential.descriptor.n_elements)
    if potential.is_bare:
        return f"none, bare bond-order potential ({potential.form} form, {n_parameters} bond-order parameters)"
    kind = "straight"
    if potential.is_physically_informed:
        kind = f"physically informed ({potential.form} form, {n_parameters} bond-order parameters)"
    return f"{kind}, {'-'.join(map(str, potential.networks.layer_sizes))}"


def _bond_order_lines(potential: Potential) -> list[str]:
    """The baseline of each element of the host atom."""
    if not potential.is_physically_informed:
        return []
    if not potential.use_baseline:
        return ["baseline      none"]
    rows = zip(potential.descriptor.elements, potential.baseline.tolist(), strict=True)
    return [f"baseline      {symbol}: {' '.join(f'{value:g}' for value in row)}" for symbol, row in rows]


def _run(path: str) -> list[str]:
    run = load_run(path)
    networks = run.potential.networks
    histories = [MemberHistory.from_json(member["history"]) for member in run.state.members]
    lines = [
        f"state         {'done' if run.done else 'to be resumed'}, {len(histories)} members, "
        f"{brief(run.settings.get('steps', '?'))} steps asked for",
        f"network       {_network(run.potential)}, {networks.n_parameters} parameters each",
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


def _training_set(training_set: TrainingSet) -> list[str]:
    groups = Counter(training_set.groups)
    labels = LabelCounts.of(training_set)
    shifts = training_set.energy_shift
    lines = [
        f"structures    {len(training_set)}, {labels}",
        f"atoms         {training_set.n_atoms}",
        f"groups        {len(groups)}: {_most_common(groups)}",
        f"e_shift       {'unknown' if shifts is None else ' '.join(f'{shift:g}' for shift in shifts) + ' eV/atom'}",
    ]
    if labels.energy:
        used = (training_set.energy_used / training_set.sizes)[training_set.has_energy]
        lines.append(f"energies      {float(used.min()):.6g} to {float(used.max()):.6g} eV/atom, e_shift added")
    lines += [f"split         {_split(name, split)}" for name, split in sorted(training_set.splits.items())]
    return lines + _descriptor_lines(training_set.descriptor)


def _split(name: str, split: Split) -> str:
    counts = f"{len(split.train)} train, {len(split.validation)} validate, {len(split.test)} test"
    test_groups = f", test groups {shortened(split.test_groups)}" if split.test_groups else ""
    return (
        f"{name}: {counts}, of {split.n_structures} structures; train fraction {split.train_fraction:g}, "
        f"seed {split.seed}{test_groups}"
    )


def _most_common(groups: Counter[str]) -> str:
    return shortened(f"{name} ({count})" for name, count in groups.most_common())


def _structures(frames: Iterable[Frame]) -> list[str]:
    groups: Counter[str] = Counter()
    elements: set[int] = set()
    labels = LabelCounts()
    n_atoms, largest = 0, 0
    for frame in frames:
        groups[frame.group] += 1
        elements |= set(frame.atomic_numbers.tolist())
        n_atoms += frame.n_atoms
        largest = max(largest, frame.n_atoms)
        labels += LabelCounts.of_structure(frame)
    named = " ".join(chemical_symbols[number] for number in sorted(elements - {0}))
    return [
        f"structures    {groups.total()}, {labels}",
        f"atoms         {n_atoms}, at most {largest} in a structure",
        f"elements      {named or 'not named in the file'}",
        f"groups        {len(groups)}: {_most_common(groups)}",
    ]
