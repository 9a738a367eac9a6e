"""Files of their own for validation and test, beside the set that trains: sets, or structures as DFT programs write."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pyfit_gpu.commands.jobs import Setup, Sources, featurize_frames, read_all_frames
from pyfit_gpu.datasets.splits import Split
from pyfit_gpu.datasets.summary import describe_set
from pyfit_gpu.datasets.training_set import TrainingSet, concatenate
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.kinds import StructuresKind, TrainingSetKind, identify
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.log import log

PURPOSES = ("validation", "test")


@dataclass(frozen=True, eq=False)
class OtherFile:
    """A file whose structures validate or test."""

    path: str
    purpose: str  # one of PURPOSES
    content: TrainingSet
    digest: str

    @classmethod
    def read(cls, path: str, purpose: str, whole: TrainingSet, setup: Setup, options: ReadOptions) -> OtherFile:
        """Read a set, or structures, whose features are computed with the descriptor and energy shift of a set.

        Raises:
            InputError: as the file's reader; other descriptor settings or another energy shift than the set's; no
                structure with an energy.
        """
        kind = identify(path)
        if isinstance(kind, TrainingSetKind):
            found = load_training_set(path, lazy=True)
        elif isinstance(kind, StructuresKind):
            if whole.energy_shift is None:
                raise InputError(
                    f"{path}: the training set does not know its e_shift, which energies of a DFT program need: "
                    f"expected a set for {purpose}"
                )
            frames = read_all_frames(Sources.of([path], options), training=True)
            found = featurize_frames(frames, whole.potential, setup, e_shift=whole.energy_shift)
        else:
            raise InputError(f"{path}: expected a training set or structures for {purpose}, found {kind.described}")
        try:
            concatenate([whole.select([]), found.select([])])
        except InputError as error:
            raise error.at(path) from error
        if not bool(found.has_energy.any()):
            raise InputError(f"{path}: no structure has an energy: expected some for {purpose}")
        log.info("%s (%s): %s", path, purpose, describe_set(found))
        return cls(path, purpose, found, _digest(found))


def _digest(part: TrainingSet) -> str:
    """Hash of structures and labels, whatever kind of file they are in."""
    digest = hashlib.sha256(repr((part.groups, part.energy_shift)).encode())
    digest.update(part.structure_keys().tobytes())
    for name in ("energy", "forces", "stress", "weight"):
        digest.update(getattr(part, name).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Together:
    """A set and the other files, as one set whose first structures are the set's."""

    whole: TrainingSet
    files: tuple[OtherFile, ...]

    @classmethod
    def read(cls, own: TrainingSet, paths: Mapping[str, Sequence[str]], setup: Setup, options: ReadOptions) -> Together:
        """Read the files of each purpose; see `OtherFile.read`."""
        files = tuple(
            OtherFile.read(path, purpose, own, setup, options) for purpose in PURPOSES for path in paths[purpose]
        )
        parts = [own, *(file.content for file in files)]
        return cls(replace(concatenate(parts), splits=own.splits) if files else own, files)

    def complete(self, split: Split) -> Split:
        """Add the structures of the files that have an energy to a split of the set."""
        first = split.n_structures
        rows: dict[str, list[int]] = {purpose: [] for purpose in PURPOSES}
        for file in self.files:
            known = file.content.has_energy.cpu().numpy()
            rows[file.purpose] += (first + np.flatnonzero(known)).tolist()
            first += len(known)
        return replace(split, validation=split.validation + rows["validation"], test=split.test + rows["test"])

    def digests(self) -> dict[str, list[str]]:
        """Hashes of the files by purpose, for a run file."""
        return {_entry(purpose): [file.digest for file in self._files(purpose)] for purpose in PURPOSES}

    def _files(self, purpose: str) -> list[OtherFile]:
        return [file for file in self.files if file.purpose == purpose]

    def require_same(self, data: Mapping[str, object]) -> None:
        """Refuse files that are not those of an earlier run.

        Args:
            data: the run's, see `Run`.

        Raises:
            InputError: another file (named), or another number of them.
        """
        for purpose in PURPOSES:
            earlier = data.get(_entry(purpose), [])
            expected = earlier if isinstance(earlier, list) else []
            files = self._files(purpose)
            if len(files) != len(expected):
                raise InputError(f"resume: {purpose}: expected {len(expected)} files (the run's), got {len(files)}")
            for file, digest in zip(files, expected, strict=True):
                if file.digest != digest:
                    raise InputError(f"resume: {file.path}: expected the structures of the run for {purpose}, "
                                     "found others")  # fmt: skip


def _entry(purpose: str) -> str:
    return f"{purpose} files"
