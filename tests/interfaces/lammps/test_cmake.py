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
    """A folder that is to the build what the sources of this LAMMPS are: headers, version.h, and an mpi.h in STUBS."""
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake")
    headers = next(folder for folder in lammps.include if (folder / "lammps.h").is_file())
    mpi = next(folder for folder in lammps.include if (folder / "mpi.h").is_file())
    folder = tmp_path / "src"
    shutil.copytree(headers, folder)
    (folder / "STUBS").mkdir()
    for file in mpi.glob("mpi*.h"):
        shutil.copy(file, folder / "STUBS")
    (folder / "version.h").write_text(f'#define LAMMPS_VERSION "{lammps.version.date}"\n')
    return folder


def configure(source: Path, build: Path) -> subprocess.CompletedProcess[str]:
    settings = [f"-DLAMMPS_SOURCE_DIR={source}", "-DPYFIT_MPI=OFF", "-DCMAKE_BUILD_TYPE=Debug"]
    return subprocess.run(["cmake", "-S", SOURCES, "-B", build, *settings], capture_output=True, text=True)


def test_same_plugin(run: Runner, source: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    done = configure(source, build)
    assert done.returncode == 0, done.stderr
    subprocess.run(["cmake", "--build", build], check=True, capture_output=True)
    start = run.setup(crystal(), coefficients(save_committee(tmp_path / "potentials", 1), "Si"))
    other = replace(run, plugin=build / "pyfitplugin.so")
    energies = [thermo(program(*start, "run 0"))[0, 2] for program in (run, other)]
    assert abs(energies[0] - energies[1]) < 1e-5


def test_without_a_version(source: Path, tmp_path: Path) -> None:
    (source / "version.h").unlink()
    done = configure(source, tmp_path / "build")
    assert done.returncode != 0
    assert "The version of LAMMPS is not known" in done.stderr
