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
class Layout:
    """Names in the folder of a fit, as docs/fit.md lists them."""

    folder: str
    n_members: int

    def path(self, name: str) -> str:
        return str(Path(self.folder) / name)

    @property
    def best(self) -> str:
        return self.path("fit.nn.dat")

    @property
    def members(self) -> list[str]:
        return [member_path(self.best, number) for number in range(self.n_members)]

    @property
    def run_file(self) -> str:
        return beside(self.best, ".run.h5")

    @property
    def uncertainties(self) -> list[str]:
        return [beside(path, ".uncertainty.txt") for path in (self.best, *self.members)]

    def remove_all(self) -> None:
        """Remove what a fit writes, of however many members; other files in the folder stay."""
        self.remove_training()
        remove(self.path(name) for name in _OTHERS)

    def remove_training(self) -> None:
        """Remove what training writes, of however many members, and what belongs to it."""
        remove([*map(str, Path(self.folder).glob("fit.m[0-9]*.*")), *(self.path(name) for name in _TRAINED)])


_TRAINED = ("fit.nn.dat", "fit.run.h5", "fit.ranking.csv", "fit.uncertainty.txt")
_OTHERS = ("start.nn.dat", "doctor.json", "set.h5", "errors.csv", "report", "lammps", "commands.sh")


def remove(paths: Iterable[str]) -> None:
    """Remove files and folders, where they exist."""
    for path in map(Path, paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
