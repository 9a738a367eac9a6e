"""The names of all files of a fit in its folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pyfit_gpu.commands.train.outputs import beside, member_path

SPLIT = "fit"  # name of the split in the set
RECORD = "fit.json"


@dataclass(frozen=True)
class Trained:
    """Names of what one training leaves in the folder."""

    folder: str
    name: str
    n_members: int

    @property
    def best(self) -> str:
        return str(Path(self.folder) / f"{self.name}.nn.dat")

    @property
    def members(self) -> list[str]:
        return [member_path(self.best, number) for number in range(self.n_members)]

    @property
    def run_file(self) -> str:
        return beside(self.best, ".run.h5")

    def remove(self) -> None:
        """Remove what training writes, of however many members, and what belongs to it."""
        own = [beside(self.best, ending) for ending in _ENDINGS]
        remove([*map(str, Path(self.folder).glob(f"{self.name}.m[0-9]*.*")), *own])


_ENDINGS = (".nn.dat", ".run.h5", ".ranking.csv", ".uncertainty.txt")


@dataclass(frozen=True)
class Layout:
    """Names in the folder of a fit, as docs/fit.md lists them."""

    folder: str
    n_members: int

    def path(self, name: str) -> str:
        return str(Path(self.folder) / name)

    @property
    def energies(self) -> Trained:
        """Where the training on energies alone writes, of fits that begin with one."""
        return Trained(self.folder, "energies", self.n_members)

    @property
    def trained(self) -> Trained:
        return Trained(self.folder, "fit", self.n_members)

    @property
    def uncertainties(self) -> list[str]:
        return [beside(path, ".uncertainty.txt") for path in (self.trained.best, *self.trained.members)]

    def remove_all(self) -> None:
        """Remove what a fit writes, of however many members; other files in the folder stay."""
        self.energies.remove()
        self.trained.remove()
        remove(self.path(name) for name in _OTHERS)


_OTHERS = ("start.nn.dat", "doctor.json", "set.h5", "errors.csv", "report", "lammps", "commands.sh")


def remove(paths: Iterable[str]) -> None:
    """Remove files and folders, where they exist."""
    for path in map(Path, paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
