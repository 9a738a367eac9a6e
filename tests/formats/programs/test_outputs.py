"""Outputs of electronic-structure programs, made up in their style: numbers in eV and Å, and what is refused."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from program_outputs import (
    AIMS,
    AIMS_END,
    AIMS_HEAD,
    AIMS_SCF,
    CASTEP,
    CASTEP_MD,
    ESPRESSO,
    ESPRESSO_END,
    ESPRESSO_HEAD,
    ESPRESSO_MOVE,
    ESPRESSO_STEP,
    GAUSSIAN,
    GAUSSIAN_END,
    GPAW,
    GPAW_STEP,
    NWCHEM,
    ORCA,
)

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.opening import read_frames
from pyfit_gpu.structures.frames import Frame

HARTREE, BOHR = 27.211386, 0.52917721  # eV, Å
RYDBERG = HARTREE / 2
GPA = 1 / 160.21766  # eV/Å^3


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Frame]]:
    """Frames of a text, under a name that says nothing."""

    def read(text: str, name: str = "run") -> list[Frame]:
        (tmp_path / name).write_text(text)
        return list(read_frames(tmp_path / name))

    return read


ATOMIC_FORCE = 0.01 * HARTREE / BOHR
WHOLE = {
    "espresso": (ESPRESSO, -15 * RYDBERG, 0.01 * RYDBERG / BOHR, 5 * BOHR, 10 * BOHR),
    "aims": (AIMS, -15728.181, 0.25, 2.35, 5),
    "gpaw": (GPAW, -9.25, 0.25, 2.35, 5),  # the free energy: forces are its derivative
    "castep": (CASTEP, -340.75, 0.25, 1.25, 5),
    "castep_md": (CASTEP_MD, -12.5 * HARTREE, ATOMIC_FORCE, 5 * BOHR, 10 * BOHR),
    "gaussian": (GAUSSIAN, -578.5 * HARTREE, ATOMIC_FORCE, 2.35, 0),
    "orca": (ORCA, -578.5 * HARTREE, ATOMIC_FORCE, 2.35, 0),
    "nwchem": (NWCHEM, -578.5 * HARTREE, ATOMIC_FORCE, 2.35, 0),
}


@pytest.mark.parametrize("program", WHOLE)
def test_numbers_are_in_ev_and_angstrom(program: str, read: Callable[..., list[Frame]]) -> None:
    text, energy, force, x, edge = WHOLE[program]
    (frame,) = read(text)
    assert frame.energy == pytest.approx(energy, rel=1e-6)
    np.testing.assert_allclose(frame.forces, [[force, 0, 0], [-force, 0, 0]], rtol=1e-6, atol=1e-12)
    assert frame.positions[1, 0] == pytest.approx(x, rel=1e-6)
    np.testing.assert_allclose(frame.cell, edge * np.eye(3), rtol=1e-6)
    assert frame.pbc.all() == (edge > 0)
    assert frame.atomic_numbers.tolist() == [14, 14]
    assert frame.group == "run"
    assert frame.source.endswith("run, structure 1")


def test_signs_of_stress(read: Callable[..., list[Frame]]) -> None:
    """Quantum ESPRESSO prints pressures, CASTEP prints tension."""
    unit = -RYDBERG / BOHR**3
    np.testing.assert_allclose(read(ESPRESSO)[0].stress, unit * np.array([1e-4, 2e-4, 3e-4, 3e-5, 2e-5, 1e-5]), 1e-6)
    np.testing.assert_allclose(read(CASTEP)[0].stress, GPA * np.array([1, 2, 3, 0.3, 0.2, 0.1]), 1e-6)


def test_every_step_of_a_relaxation(read: Callable[..., list[Frame]]) -> None:
    frames = read(ESPRESSO_HEAD + ESPRESSO_STEP + ESPRESSO_MOVE + ESPRESSO_STEP + ESPRESSO_END)
    assert [frame.positions[0, 0] for frame in frames] == [0, 0.1]
    assert len(read(GPAW + GPAW_STEP)) == 2


def test_compressed(tmp_path: Path) -> None:
    (tmp_path / "si.pwo.gz").write_bytes(gzip.compress(ESPRESSO.encode()))
    (frame,) = read_frames(tmp_path / "si.pwo.gz")
    assert frame.group == "si"


CONVERGE = "NOT achieved|not yet converged|not converge|groundstate|fully converged|failed to converge"
UNCONVERGED = {
    "espresso": (ESPRESSO_HEAD + ESPRESSO_STEP + ESPRESSO_MOVE
                 + "     convergence NOT achieved after 100 iterations: stopping\n" + ESPRESSO_END, 2),
    "aims": (AIMS_HEAD + "  Self-consistency cycle not yet converged - terminating.\n" + AIMS_SCF + AIMS_END, 1),
    "gpaw": (GPAW + GPAW_STEP.replace("Converged after 12 iterations", "Did not converge!"), 2),
    "castep": (CASTEP.replace("Final energy, E", "*Warning* max. SCF cycles performed but system has not reached the "
                              "groundstate.\nFinal energy, E"), 1),
    "gaussian": (GAUSSIAN.replace(" ------", " *** SCF has not converged.  Gradients are GARBAGE!!!\n ------", 1), 1),
    "orca": (ORCA.replace("-578.500000000000", "-578.500000000000 (Wavefunction not fully converged!)"), 1),
    "nwchem": (NWCHEM.replace("         Total DFT", "   Calculation failed to converge\n         Total DFT"), 1),
}  # fmt: skip


@pytest.mark.parametrize("program", UNCONVERGED)
def test_unconverged_electrons_are_refused(program: str, read: Callable[..., list[Frame]]) -> None:
    text, number = UNCONVERGED[program]
    with pytest.raises(InputError, match=rf"run, structure {number}: the electrons did not converge: '.*({CONVERGE})"):
        read(text)


CUT = {
    "espresso": ESPRESSO_HEAD + ESPRESSO_STEP,
    "aims": AIMS_HEAD + AIMS_SCF,
    "castep": CASTEP[: CASTEP.index("Finalisation")],
    "gaussian": GAUSSIAN.removesuffix(GAUSSIAN_END),
    "orca": ORCA[: ORCA.index("****ORCA")],
    "nwchem": NWCHEM[: NWCHEM.index(" Total times")],
}


@pytest.mark.parametrize("program", CUT)
def test_a_run_that_did_not_end_is_refused(program: str, read: Callable[..., list[Frame]]) -> None:
    with pytest.raises(InputError, match=r"run: the run of .* did not end: expected"):
        read(CUT[program])


WITHOUT = NWCHEM[: NWCHEM.index(" " * 29 + "Geometry")]
NWCHEM_MODULE = NWCHEM[NWCHEM.index(" " * 33 + "NWChem DFT") :]
OTHER = {
    "hybrid": (ESPRESSO.replace("!    total", "!!   total energy = -15.1 Ry\n!    total"), "hybrid functional"),
    "two_energies": (ESPRESSO_HEAD + ESPRESSO_STEP * 2 + ESPRESSO_END, "2 energies for 1 structures"),
    "hartree_alone": (AIMS_HEAD + AIMS_SCF.replace("compact", "other") + AIMS_END, "0 final energies for 1 structures"),
    "killed": (GPAW + GPAW_STEP[: GPAW_STEP.index("Energy")], "1 of 2 structures have an energy"),
    "two_runs": (CASTEP * 2, "several runs in one file"),
    "hartree": (CASTEP.replace(": eV\n", ": Ha\n"), "its energy unit is Ha"),
    "cut_block": (CASTEP_MD.rstrip("\n"), "1 energies for 0 structures"),
    "turned": (GAUSSIAN.replace("Input", "Standard"), "would belong to turned coordinates"),
    "no_geometry": (WITHOUT + NWCHEM_MODULE.replace("atom  ", "none  ") + NWCHEM_MODULE, "step without a geometry"),
    "plane_waves": (NWCHEM.replace(" Total times", "   * NWPW PSPW Calculation *\n Total times"), "plane-wave module"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHER)
def test_what_ase_would_take_silently_is_refused(case: str, read: Callable[..., list[Frame]]) -> None:
    text, reason = OTHER[case]
    with pytest.raises(InputError, match=rf"run: output of .*: .*{reason}"):
        read(text)


def test_damage_is_an_error_that_names_the_file(read: Callable[..., list[Frame]]) -> None:
    with pytest.raises(InputError, match=r"run: ASE cannot read it as output of Quantum ESPRESSO"):
        read(ESPRESSO.replace("0.01000000    0.00000000", "0.0100****** 0.00000000", 1))
    with pytest.raises(InputError, match=r"run, structure 1: forces has NaN or infinity"):
        read(ESPRESSO.replace("0.01000000    0.00000000", "NaN    0.00000000", 1))
    for text in (AIMS, ORCA, CASTEP, ESPRESSO):  # ASE would make an array of that size
        with pytest.raises(InputError, match=r"run: expected output of .*, found 2\d{5} atoms and fewer lines"):
            read(re.sub(r"(?i)(number of (?:atoms|ions).*)2", r"\g<1>200000", text, count=1))
    with pytest.raises(InputError, match=r"run: expected output of Quantum ESPRESSO .*, found binary data"):
        read(ESPRESSO.replace("0.01000000", "0.01\0000000", 1))
