"""The arguments of a fit, and the data that it is asked to fit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import atomic_numbers as ATOMIC_NUMBERS
from ase.data import chemical_symbols as CHEMICAL_SYMBOLS

from pyfit_gpu.commands.fit.choices import Amount, NetworkShape
from pyfit_gpu.commands.jobs import Sources, read_all_frames
from pyfit_gpu.commands.new import draft_of
from pyfit_gpu.datasets.splits import held_out
from pyfit_gpu.errors import InputError, shortened
from pyfit_gpu.files import file_digest
from pyfit_gpu.formats.head import files_of
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.models.energy_shift import composition_residuals
from pyfit_gpu.structures.elements import count_elements
from pyfit_gpu.structures.frames import Frame


@dataclass(frozen=True)
class Request:
    """Arguments of `fit`."""

    data: tuple[str, ...]
    out: str
    seconds: float = 1800.0  # of training
    members: int = 4
    elements: tuple[str, ...] = ()  # none: those of the data
    cutoff: float | None = None  # Å; None: from the data
    test_groups: tuple[str, ...] = ()
    seed: int = 2
    pinn: bool = False  # a physically informed network
    reading: ReadOptions = field(default_factory=ReadOptions)
    reading_words: tuple[str, ...] = ()  # the same as words of a command
    computing_words: tuple[str, ...] = ()  # where to compute
    quiet: bool = False

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise InputError(f"time: expected a time above 0, got {self.seconds:g} s")
        if self.members < 1:
            raise InputError(f"members: expected a whole number above 0, got {self.members}")
        if self.seed < 1:
            raise InputError(f"seed: expected a whole number above 0, got {self.seed}")

    def arguments(self) -> dict[str, Any]:
        """Arguments that decide the result, for JSON; the data are in `digests`."""
        return {
            "members": self.members,
            "elements": list(self.elements),
            "cutoff": self.cutoff,
            "test-groups": list(self.test_groups),
            "seed": self.seed,
            "pinn": self.pinn,
            "how the files are read": list(self.reading_words),
        }

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file of the data, by name."""
        return {path: file_digest(path) for path in itertools.chain(*map(files_of, self.data))}


@dataclass(frozen=True)
class Survey:
    """Facts about the data that choices depend on."""

    amount: Amount
    shape: NetworkShape
    has_derivatives: bool  # whether there are forces or stress of structures with an energy


def survey_data(request: Request) -> Survey:
    """Read the data, and see whether there is something to fit.

    Raises:
        InputError: unreadable files, no energies, elements or groups that are not in the data, a cutoff without sense.
    """
    frames = read_all_frames(Sources.of(request.data, request.reading), training=True)
    labelled = [frame for frame in frames if frame.energy is not None]
    if not labelled:
        raise InputError(f"{shortened(request.data)}: no structure has an energy: there is nothing to train on")
    _check_elements(frames, request.elements)
    held_out([frame.group for frame in frames], np.array([frame.energy is not None for frame in frames]),
             request.test_groups)  # fmt: skip
    form = "plain" if request.pinn else None
    draft = draft_of(request.elements or None, frames, {"cutoff": request.cutoff, "form": form})
    n_components = sum(3 * frame.n_atoms for frame in labelled if frame.forces is not None)
    n_atoms = sum(frame.n_atoms for frame in labelled)
    has_derivatives = any(frame.forces is not None or frame.stress is not None for frame in labelled)
    spread = _energy_spread(labelled, draft.descriptor.elements)
    amount = Amount(len(labelled), len(labelled) + n_components, n_atoms, spread)
    sizes = draft.networks.layer_sizes
    return Survey(amount, NetworkShape(sizes[0], draft.descriptor.n_elements, sizes[-1]), has_derivatives)


def _energy_spread(labelled: Sequence[Frame], elements: Sequence[str]) -> float:
    """Standard deviation of the energies per atom about their least squares by composition, eV."""
    per_atom = np.array([frame.energy for frame in labelled], dtype=float) / [frame.n_atoms for frame in labelled]
    return float(np.std(composition_residuals(count_elements(labelled, elements), per_atom)))


def _check_elements(frames: Sequence[Frame], elements: Sequence[str]) -> None:
    """Refuse elements of which the data have no atom, and data with others."""
    if not elements:
        return
    unknown = [symbol for symbol in elements if symbol not in ATOMIC_NUMBERS]
    if unknown:
        raise InputError(f"elements: expected chemical symbols, got {shortened(unknown)}")
    there = dict.fromkeys(CHEMICAL_SYMBOLS[number] for frame in frames for number in frame.element_counts if number)
    if not there:  # the files name no elements
        return
    for what, symbols in (
        ("are not in the data", [symbol for symbol in elements if symbol not in there]),
        ("are in the data and not given", [symbol for symbol in there if symbol not in elements]),
    ):
        if symbols:
            raise InputError(f"elements: expected those of the data, {' '.join(there)}: {shortened(symbols)} {what}")
