"""Files of a potential's members, one for each, as `pair_coeff` takes them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from pyfit_gpu.formats.nn_dat import ending_of, save_potential
from pyfit_gpu.models.potential import Potential

_ENDINGS = (".nn.dat", ".run.h5", ".pinn", ".dat", ".h5")


def stem_of(path: str | os.PathLike[str]) -> str:
    """Name of a potential's or run's file without its ending and a member's number."""
    name = Path(path).name
    ending = next((ending for ending in _ENDINGS if name.endswith(ending) and name != ending), "")
    return re.sub(r"(?<=.)\.m\d+$", "", name.removesuffix(ending))


def member_names(potential: Potential, stem: str) -> list[str]:
    """Names of the files of a potential's members."""
    n_members, ending = potential.networks.n_members, ending_of(potential)
    return [f"{stem}{ending}"] if n_members == 1 else [f"{stem}.m{k:03d}{ending}" for k in range(n_members)]


def save_members(potential: Potential, folder: Path, names: Sequence[str]) -> list[Path]:
    """Write each member to a file of its own, and return the files."""
    for member, name in enumerate(names):
        save_potential(potential, folder / name, member=member)
    return [folder / name for name in names]
