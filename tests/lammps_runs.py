"""LAMMPS with the plugin, for tests: building it, running structures through it, and what came out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyfit_gpu

PLUGIN_FOLDER = Path(pyfit_gpu.__file__).parent / "interfaces" / "lammps" / "plugin"


@dataclass(frozen=True)
class Toolchain:
    """A compiler and the plugin's sources."""

    compiler: str
    folder: Path = PLUGIN_FOLDER

    def compile(self, sources: Sequence[Path], target: Path, *flags: str) -> None:
        command = [self.compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{self.folder}", *flags]
        done = subprocess.run([*command, *map(str, sources), "-o", str(target)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
