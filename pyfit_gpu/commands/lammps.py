"""The verb `lammps`: its tasks build the plugin, check an installation and export a potential."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib import metadata
from typing import TypeVar

import numpy as np

from pyfit_gpu.commands.jobs import frames_of_set
from pyfit_gpu.commands.messages import shown
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.kinds import RUN, TrainingSetKind, identify, potential_kind
from pyfit_gpu.formats.nn_dat import NN_DAT_ENDING, PINN_ENDING, asks_for_random_weights
from pyfit_gpu.formats.opening import find_uncertainty, load_potentials, load_training_set, read_frames
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.interfaces.lammps.build import build_plugin
from pyfit_gpu.interfaces.lammps.cache import find_build
from pyfit_gpu.interfaces.lammps.check import check_lammps, find_plugin
from pyfit_gpu.interfaces.lammps.export import describe, export_potential
from pyfit_gpu.interfaces.lammps.installation import find_installation
from pyfit_gpu.interfaces.lammps.potential_files import stem_of
from pyfit_gpu.log import log
from pyfit_gpu.structures.frames import Frame

Item = TypeVar("Item")

MOST_COMPARED = 100  # structures of an export that LAMMPS computes too


def build(lammps: str | None, *, compiler: str | None, flags: str, out: str | None, quiet: bool) -> None:
    """Compile the plugin and print where it is and how it is loaded (`pyfit-gpu lammps build`)."""
    found = find_installation(lammps)
    built = build_plugin(found, compiler=compiler, flags=shlex.split(flags), out=out)
    if quiet:
        print(shown(str(built.plugin)))
        return
    is_asked = "pyfit-gpu" in metadata.entry_points(group="lammps.plugins").names
    by_itself = is_asked and lammps is None and find_build(str(found.version)) == (built.record, built.plugin)
    by_hand = f"plugin load {built.plugin.absolute()}"  # a path without a slash is not looked for in the folder
    loading = "lmp of this environment loads it when it starts" if by_itself else by_hand
    lines = [
        f"LAMMPS        {found.version} ({found.name})",
        f"compiled by   {built.record.compiler}; {' '.join(built.record.flags)}",
        f"plugin        {built.plugin}{'' if built.is_new else ' (built before)'}",
        f"loading       {loading}",
    ]
    print(shown("\n".join(lines)))


def check(potential: str | None, *, lammps: str | None, plugin: str) -> None:
    """Compute two atoms with LAMMPS and print what was found (`pyfit-gpu lammps check`).

    Raises:
        InputError: LAMMPS, plugin or another part is missing.
        Failure: LAMMPS ends with an error, or its results differ.
    """
    found = check_lammps(find_installation(lammps), potential=potential or "", plugin=plugin)
    print(shown("\n".join(found.lines)))
    found.comparison.require_small("check")


def export(
    potential: Sequence[str],
    *,
    out: str,
    structures: Sequence[str],
    lammps: str | None,
    plugin: str,
    reading: ReadOptions,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Write a potential for LAMMPS and compare both on structures (`pyfit-gpu lammps export`).

    The plugin is compiled, if the cache has none.
    """
    for path in potential:
        if potential_kind(path) is not RUN and asks_for_random_weights(path):
            raise InputError(f"{path}: expected a trained potential, found one that asks for random weights")
    model = load_potentials(potential)
    if model.untrained:
        log.warning("%s: no atoms of %s were trained on", potential[0], " and ".join(model.untrained))
    frames = evenly_spread([frame for path in structures for frame in _frames(path, reading)], MOST_COMPARED)
    found = find_installation(lammps)
    if plugin:
        file = find_plugin(found, plugin)[0]
    else:
        cached = find_build(str(found.version), found.sizes)
        file = cached[1] if cached else build_plugin(found).plugin
    uncertainty = find_uncertainty(potential, model)
    written = export_potential(
        model, out, found, file,
        stem=stem_of(potential[0]), frames=frames, uncertainty=uncertainty, overwrite=overwrite,
    )  # fmt: skip
    if not quiet:
        names = [path.name for path in written.files if path.name.endswith((NN_DAT_ENDING, PINN_ENDING))]
        print(shown(describe(written.comparison, found, names)))
    log.info("wrote %s", ", ".join(map(str, written.files)))


def _frames(path: str, reading: ReadOptions) -> list[Frame]:
    """Structures of a training set, evenly spread, or all of another file."""
    if isinstance(identify(path), TrainingSetKind):
        training_set = load_training_set(path, lazy=True)
        return frames_of_set(training_set, evenly_spread(range(len(training_set)), MOST_COMPARED), path)
    return list(read_frames(path, options=reading))


def evenly_spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, evenly spread, the first among them."""
    if len(items) <= most:
        return list(items)
    return [items[k] for k in np.linspace(0, len(items) - 1, most).round().astype(int)]
