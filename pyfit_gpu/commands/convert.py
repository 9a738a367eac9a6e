"""The verb `convert`: between the classic and the new formats."""

from __future__ import annotations

from typing import TypeVar

from pyfit_gpu.commands.jobs import Setup, Sources, read_all_frames
from pyfit_gpu.commands.kinds import COMMAND_KINDS
from pyfit_gpu.errors import InputError
from pyfit_gpu.files import atomic_text
from pyfit_gpu.formats.kinds import (
    HDF5_SET,
    KINDS,
    RUN,
    FileKind,
    PotentialKind,
    StructuresKind,
    TrainingSetKind,
    identify,
    longest_ending,
    read_only,
)
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.log import log

Kind = TypeVar("Kind", bound=FileKind)


def convert(source: str, target: str, *, setup: Setup, reading: ReadOptions | None = None) -> None:
    """Convert sets, structures and potentials between classic and new formats; the ending of `target` decides."""
    kind = identify(source, COMMAND_KINDS)
    target = setup.output(target, [source])
    origin = f"{source}, {kind.described},"
    if isinstance(kind, TrainingSetKind):
        to_set = _kind_to_write(TrainingSetKind, target, origin)
        # Where the features are written as they are read, they need not be in memory.
        to_set.write(kind.read(source, to_set is HDF5_SET), target)
    elif isinstance(kind, StructuresKind):
        to_structures = _kind_to_write(StructuresKind, target, origin)
        frames = read_all_frames(Sources.of([source], reading), training=False)
        with atomic_text(target) as file:
            to_structures.write(file, frames)
    elif isinstance(kind, PotentialKind) and kind is not RUN:  # a run file has many, `train` has written them
        _kind_to_write(PotentialKind, target, origin).write(kind.read(source), target)
    else:
        raise InputError(f"{source}: expected a training set, structures or a potential, found {kind.described}")
    log.info("wrote %s (from %s)", target, kind.described)


def _kind_to_write(wanted: type[Kind], target: str, origin: str) -> Kind:
    """Kind to write by the target's name: its longest known ending must be one of the wanted kinds'."""
    kinds = [*KINDS, *COMMAND_KINDS]
    longest = longest_ending(target, kinds)
    written = [kind for kind in kinds if isinstance(kind, wanted) and kind.write is not read_only]
    for kind in written:
        if longest in kind.endings:
            return kind
    names = [f"{' or '.join(filter(None, kind.endings))} for {kind.described}" for kind in written]
    raise InputError(f"{target}: cannot hold {origin} expected a name that ends in {', in '.join(names)}")
