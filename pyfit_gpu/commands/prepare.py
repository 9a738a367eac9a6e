"""The verb `prepare`: makes an HDF5 training set from DFT files."""

from __future__ import annotations

import functools
import hashlib
import itertools
import operator
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pyfit_gpu.commands.copies import say_what_was_left_out, seen_structures, warn_of_added_copies
from pyfit_gpu.commands.jobs import Setup, Sources, featurize_windows, survey_files
from pyfit_gpu.datasets.summary import SetSummary
from pyfit_gpu.datasets.training_set import TrainingSet, require_same_inputs
from pyfit_gpu.errors import InputError, shortened
from pyfit_gpu.files import check_writable, file_digest
from pyfit_gpu.formats.dft_inputs import DftInputs
from pyfit_gpu.formats.head import files_of
from pyfit_gpu.formats.kinds import HDF5_SET
from pyfit_gpu.formats.nn_dat import load_potential
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.training_set.shards import Shard, known_shard, manifest_path, register_shard, shard_path
from pyfit_gpu.formats.training_set.writer import writing_set
from pyfit_gpu.locks import exclusive
from pyfit_gpu.log import log
from pyfit_gpu.models.energy_shift import (
    METHODS,
    NEED_ATOMS,
    ShiftRequest,
    find_shift,
    shift_of_elements,
)
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.copies import UniqueStructures

_LARGE_ENERGY = 30.0  # eV/atom; cohesive energies are below 10


def prepare(
    dft_files: Sequence[str],
    *,
    potential: str,
    out: str,
    setup: Setup,
    e_shift: ShiftRequest | None = None,
    append: bool = False,
    shard: tuple[int, int] | None = None,
    unique_structures: bool = False,
    reading: ReadOptions | None = None,
) -> None:
    """Make an HDF5 training set from DFT files.

    Args:
        dft_files: structures, any format that `load_structures` reads.
        potential: .nn.dat file whose header gives the descriptor.
        out: the set, `.h5`.
        e_shift: eV per atom, one number or one per element; or one of `METHODS`: found from the structures, always
            all of them, also for a shard; None: the shift of the set that is appended to, else 0.
        append: whether to add to an existing set, whose structures are not computed again.
        shard: (I, N): only the structures whose number mod N is I, into a file of their own.
        unique_structures: whether to leave out copies of structures before them, in the set or in the files.
        reading: names of labels, units, and what else the files leave open.
    """
    if append and (shard is not None or setup.unique or setup.overwrite):
        raise InputError("--append: expected without --shard, --unique and --overwrite")
    if shard is not None and setup.unique:
        raise InputError("--shard: expected without --unique: the shards of one set must agree on its name")
    if not out.endswith(HDF5_SET.endings):
        raise InputError(
            f"{out}: expected a name that ends in {' or '.join(HDF5_SET.endings)} (convert writes text sets)"
        )
    if append and isinstance(e_shift, str) and e_shift in METHODS:
        raise InputError(
            f"--e-shift {e_shift}: expected without --append: a set has one energy shift, and what it holds was "
            "prepared with its own"
        )
    sources = Sources.of(dft_files, reading)
    if shard is not None:
        _prepare_shard(sources, potential, out, setup, e_shift, shard, unique_structures)
        return
    if append:
        with exclusive(out):
            _append(sources, potential, out, setup, e_shift, unique_structures)
        return
    out = setup.output(out, [*dft_files, potential])
    model = load_potential(potential)
    inputs, shifts = _inputs_and_shifts(sources, model, e_shift, unique=_unique(unique_structures, model))
    summary, _ = _write_features(out, inputs, model, setup, shifts)
    _warn_of_energies(summary, model)
    log.info("wrote %s: %s", out, summary)


def _write_features(
    path: str | Path,
    inputs: DftInputs,
    model: Potential,
    setup: Setup,
    shifts: tuple[float, ...],
    *,
    existing: TrainingSet | None = None,
    shard: dict[str, Any] | None = None,
) -> tuple[SetSummary, str]:
    """Write a set of the structures that are taken, after existing ones; returns its summary and content hash."""
    first = [] if existing is None else [existing]
    n_structures = sum(map(len, first)) + len(inputs.taken)
    n_atoms = sum(part.n_atoms for part in first) + inputs.n_atoms
    splits = {} if existing is None else existing.splits
    summaries = []
    keys = []
    with writing_set(path, n_structures, n_atoms, model.descriptor.n_features, splits=splits, shard=shard) as writer:
        for part in itertools.chain(first, featurize_windows(inputs, model, setup, e_shift=shifts)):
            writer.append(part)
            summaries.append(SetSummary.of(part))
            keys.append(part.structure_keys())
    if shard is None:
        warn_of_added_copies(np.concatenate(keys), [structure.source for structure in inputs.taken])
    return functools.reduce(operator.add, summaries), writer.content_hash


def _warn_of_energies(summary: SetSummary, model: Potential) -> None:
    """Warn of sets that are rarely intended: no energy at all, or total energies without a shift."""
    if not summary.labels.energy:
        log.warning("no structure has an energy: nothing can be trained on")
        return
    mean = summary.energy_sum / summary.labels.energy
    if abs(mean) > _LARGE_ENERGY:
        remedy = "fit brings them near 0"
        if model.is_physically_informed:
            remedy = "atomisation brings them to the scale of bond-order potentials"
        log.warning("with e_shift, energies are %.4g eV/atom on average: --e-shift %s", mean, remedy)


def _inputs_and_shifts(
    sources: Sources,
    model: Potential,
    e_shift: ShiftRequest | None,
    shard: tuple[int, int] = (0, 1),
    unique: UniqueStructures | None = None,
) -> tuple[DftInputs, tuple[float, ...]]:
    """Structures of the files and the energy shift of each element, which is the same for all shards."""
    if not isinstance(e_shift, str):  # faulty numbers show before anything is read
        e_shift = shift_of_elements(0.0 if e_shift is None else e_shift, model.descriptor.elements)
    inputs = survey_files(sources, shard, atoms=e_shift in NEED_ATOMS, keeps=unique.take if unique else None)
    if unique:
        say_what_was_left_out(unique, len(inputs.structures))
    return inputs, find_shift(e_shift, inputs.kept, model.descriptor)


def _unique(wanted: bool, model: Potential, existing: TrainingSet | None = None) -> UniqueStructures | None:
    return seen_structures(model.descriptor.elements, existing) if wanted else None


def _append(
    sources: Sources, potential: str, out: str, setup: Setup, e_shift: ShiftRequest | None, unique_structures: bool
) -> None:
    existing = load_training_set(out, lazy=True)
    check_writable(out)
    shifts = _appended_shift(existing, e_shift, out)
    model = load_potential(potential)
    require_same_inputs(existing.descriptor, model.descriptor, f"{potential} does not fit {out}")
    inputs, _ = _inputs_and_shifts(sources, model, shifts, unique=_unique(unique_structures, model, existing))
    if not inputs.kept:
        log.info("%s stays as it is: all structures are in it", out)
        return
    summary, _ = _write_features(out, inputs, model, setup, shifts, existing=existing)
    log.info("wrote %s: %s", out, summary)


def _appended_shift(existing: TrainingSet, e_shift: ShiftRequest | None, out: str) -> tuple[float, ...]:
    """(S,) eV: the set's own energy shift; refuses a different one."""
    own, elements = existing.energy_shift, existing.descriptor.elements
    if own is None:
        raise InputError(f"{out}: cannot append: e_shift: expected a set that knows its own, found it unknown")
    given = own if e_shift is None else shift_of_elements(e_shift, elements)
    if given != own:
        expected, got = (", ".join(f"{a} {b}" for a, b in zip(elements, x, strict=True)) for x in (own, given))
        raise InputError(f"{out}: cannot append: e_shift: expected {expected} (the set's), got {got}")
    return own


def _prepare_shard(
    sources: Sources,
    potential: str,
    out: str,
    setup: Setup,
    e_shift: ShiftRequest | None,
    shard: tuple[int, int],
    unique_structures: bool,
) -> None:
    index, count = shard
    target = shard_path(out, index, count)
    replace(setup, overwrite=True).output(str(target), [*sources.paths, potential])
    model = load_potential(potential)
    inputs, shifts = _inputs_and_shifts(sources, model, e_shift, shard, _unique(unique_structures, model))
    n_structures = len(inputs.kept)
    if count > n_structures:
        raise InputError(f"shard: expected at most {n_structures} shards, one structure each, got {count}")
    described = Shard(index, count, n_structures, _hash_inputs(sources, potential, shifts, unique_structures))
    missing = known_shard(out, described, overwrite=setup.overwrite)
    if missing is not None:
        log.info("%s is there already, of the same inputs: it is not computed again", target)
    else:
        summary, content_hash = _write_features(target, inputs, model, setup, shifts, shard=described.describe())
        missing = register_shard(out, described, content_hash, summary.n_structures)
        log.info("wrote %s: %s", target, summary)
    still = f"shards {shortened(missing)} are missing" if missing else "all shards are there"
    log.info("%s: %s", manifest_path(out), still)


def _hash_inputs(sources: Sources, potential: str, shifts: tuple[float, ...], unique_structures: bool) -> str:
    """Hash that the shards of one set share on any machine: of contents, options and energy shifts, not of names."""
    digest = hashlib.sha256(repr((shifts, sources.options)).encode())
    if unique_structures:
        digest.update(b"unique structures")
    for path in itertools.chain(*map(files_of, sources.paths), [potential]):
        digest.update(bytes.fromhex(file_digest(path)))
    return digest.hexdigest()
