"""The plugin built by CMake, as on a cluster, from a source tree of LAMMPS."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from lammps_samples import Runner, coefficients, crystal, save_committee, thermo

from pyfit_gpu.interfaces.lammps.cache import SOURCES
from pyfit_gpu.interfaces.lammps.installation import Installation

pytestmark = pytest.mark.slow


@pytest.fixture
def source(lammps: Installation, tmp_path: Path) -> Path:
    """The folder of LAMMPS' sources, as far as the build knows them: headers, version.h, and an mpi.h in STUBS."""
    headers = next(folder for folder in lammps.include if (folder / "lammps.h").is_file())
    mpi = next(folder for folder in lammps.include if (folder / "mpi.h").is_file())
    folder = tmp_path / "src"
    shutil.copytree(headers, folder)
    (folder / "STUBS").mkdir()
    for file in mpi.glob("mpi*.h"):
        shutil.copy(file, folder / "STUBS")
    (folder / "version.h").write_text(f'#define LAMMPS_VERSION "{lammps.version.date}"\n')
    return folder


def configure(cmake: str, source: Path, build: Path) -> subprocess.CompletedProcess[str]:
    settings = [f"-DLAMMPS_DIR={source.parent}", "-DPYFIT_MPI=OFF", "-DCMAKE_BUILD_TYPE=Debug"]
    return subprocess.run([cmake, "-S", SOURCES, "-B", build, *settings], capture_output=True, text=True)


def test_same_plugin(run: Runner, cmake: str, source: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    done = configure(cmake, source, build)
    assert done.returncode == 0, done.stderr
    subprocess.run([cmake, "--build", build], check=True, capture_output=True)
    start = run.setup(crystal(), coefficients(save_committee(tmp_path / "potentials", 1), "Si"))
    other = replace(run, plugin=build / "pyfitplugin.so")
    energies = [thermo(program(*start, "run 0"))[0, 2] for program in (run, other)]
    assert abs(energies[0] - energies[1]) < 1e-5


def test_without_a_version(cmake: str, source: Path, tmp_path: Path) -> None:
    (source / "version.h").unlink()
    done = configure(cmake, source, tmp_path / "build")
    assert done.returncode != 0
    assert "has no version.h: give -D LAMMPS_VERSION" in " ".join(done.stderr.split())
