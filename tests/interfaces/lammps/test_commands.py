"""The commands pair_style and pair_coeff: keywords, types, hybrids, and every fault with LAMMPS' own error."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from lammps_samples import Runner, calculated, coefficients, crystal, sample_potential, save_committee, thermo

from pyfit_gpu.errors import Failure
from pyfit_gpu.formats.nn_dat import save_draft, save_potential
from pyfit_gpu.interfaces.lammps.build import build_plugin
from pyfit_gpu.interfaces.lammps.installation import Installation

ENERGY = ["thermo_style custom step pe", "thermo_modify format float %.17g", "run 0"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save_committee(tmp_path / "potentials", 1, ("Si", "C"))[0]


def two_kinds() -> Atoms:
    return crystal((2, 2, 2), second="C")


def energy(output: str) -> float:
    return float(thermo(output)[0, 1])


# Keywords and types


@pytest.mark.parametrize(
    ("style", "shifted"), [("pyfit", True), ("pyfit energy dft", True), ("pyfit energy network", False)]
)
def test_energy_scales(run: Runner, file: Path, style: str, shifted: bool) -> None:
    atoms = two_kinds()
    found = energy(run(*run.setup(atoms, coefficients([file]), style=style), *ENERGY))
    shifts = 32 * 107.25 - 32 * 3.5
    expected = calculated(atoms, [file]).get_potential_energy()
    assert abs(found - (expected if shifted else expected + shifts)) < 1e-9


def test_types_in_another_order_and_alike(run: Runner, file: Path) -> None:
    """Types are mapped by name; several may be one element."""
    atoms = two_kinds()
    start = run.setup(atoms, coefficients([file], "C Si C"), elements=("C", "Si", "Ge"))
    output = run(*start, "set atom 2*4 type 3", *ENERGY)
    kinds = ["Si", "C"] * 32
    kinds[1:4] = "CCC"
    expected = Atoms(kinds, positions=atoms.positions, cell=atoms.cell, pbc=True)
    assert kinds != atoms.get_chemical_symbols()
    assert abs(energy(output) - calculated(expected, [file]).get_potential_energy()) < 1e-9


def test_settings_that_are_given_again(run: Runner, file: Path) -> None:
    """LAMMPS keeps the style, whose energy scale would be that of its first settings."""
    start = run.setup(two_kinds(), coefficients([file]))
    again = "pair_style pyfit energy network"
    with pytest.raises(Failure, match="All pair coeffs are not set"):
        run(*start, again, *ENERGY)
    alone = run(*start[:-2], again, start[-1], *ENERGY)
    assert energy(run(*start, again, start[-1], *ENERGY)) == energy(alone)


def test_coefficients_that_are_given_again(run: Runner, tmp_path: Path) -> None:
    """One potential after a committee: a compute of the committee's values finds none."""
    files = save_committee(tmp_path / "potentials", 3, ("Si", "C"))
    spread = ["compute spread all pair pyfit", "thermo_style custom step pe c_spread[1]", "run 0"]
    start = run.setup(two_kinds(), coefficients(files))
    output = run(*start, *spread, f"pair_coeff {coefficients(files[:1])}", "run 0")
    assert thermo(output)[0, 2] == 0.0
    assert abs(thermo(output)[0, 1] - calculated(two_kinds(), files[:1]).get_potential_energy()) < 1e-3


def test_an_unknown_shift_counts_as_zero(run: Runner, tmp_path: Path) -> None:
    potential = replace(sample_potential(("Si", "C")), energy_shift=torch.tensor([float("nan"), -3.5]).double())
    save_potential(potential, tmp_path / "nn.dat")
    output = run(*run.setup(two_kinds(), coefficients([tmp_path / "nn.dat"])), *ENERGY)
    assert output.count("does not say the energy shift of Si: it counts as 0") == 1
    known = replace(potential, energy_shift=torch.tensor([0.0, -3.5]).double())
    save_potential(known, tmp_path / "nn.dat")
    again = run(*run.setup(two_kinds(), coefficients([tmp_path / "nn.dat"])), *ENERGY)
    assert "WARNING: pair_style" not in again
    assert energy(output) == energy(again)


def test_untrained_elements(run: Runner, tmp_path: Path) -> None:
    save_potential(replace(sample_potential(("Si", "C")), untrained=("C",)), tmp_path / "nn.dat")
    output = run(*run.setup(two_kinds(), coefficients([tmp_path / "nn.dat"])), *ENERGY)
    assert "WARNING: pair_style pyfit: the parameters of C are random" in output
    silent = run(*run.setup(crystal(), coefficients([tmp_path / "nn.dat"], "Si")), *ENERGY)
    assert "WARNING: pair_style" not in silent


def test_suffix_is_ignored_with_a_warning(run: Runner, file: Path) -> None:
    start = run.setup(two_kinds(), coefficients([file]))
    plain, omp = run(*start, *ENERGY), run("suffix omp", *start, *ENERGY)
    assert "WARNING: pair_style pyfit has no variant with the suffix omp, which is ignored" in omp
    assert "WARNING: pair_style" not in plain
    assert energy(omp) == energy(plain)


def test_file_in_a_folder_of_potentials(run: Runner, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMMPS_POTENTIALS", str(file.parent))
    assert "ERROR" not in run(*run.setup(two_kinds(), f"* * {file.name} Si C"), *ENERGY)


# Beside other styles


def test_hybrid(run: Runner, file: Path) -> None:
    """Atoms of NULL types are no neighbours: energies add up to those of the parts."""
    atoms = crystal((2, 2, 2), symbol="Si", second="C")
    atoms.symbols[[0, 9, 33]] = "Ge"
    lines = run.setup(atoms, coefficients([file], "Si C NULL"), elements=("Si", "C", "Ge"))
    lines[-2:] = [
        "pair_style hybrid pyfit lj/cut 4.0",
        f"pair_coeff * * pyfit {file} Si C NULL",
        "pair_coeff 1*3 3 lj/cut 0.05 2.2",
    ]
    output = run(*lines, "compute one all pair pyfit", "compute two all pair lj/cut",
                 "thermo_style custom step pe c_one c_two pxx pyy pzz pxy pxz pyz",
                 "thermo_modify format float %.17g", "run 0")  # fmt: skip
    mapped = atoms[atoms.numbers != 32]
    expected = calculated(mapped, [file])
    row = thermo(output)[0]
    assert abs(row[2] - expected.get_potential_energy()) < 1e-9
    assert row[3] != 0.0
    assert abs(row[1] - row[2] - row[3]) < 1e-9


@pytest.mark.parametrize("modify", ["", "pair_modify nofdotr"])
def test_hybrid_overlay(run: Runner, file: Path, modify: str) -> None:
    """Energy, forces and stress of the sum are the sums."""
    atoms = two_kinds()
    pieces = {
        "pyfit": ["pair_style pyfit", f"pair_coeff * * {file} Si C"],
        "lj": ["pair_style lj/cut 4", "pair_coeff * * 0.1 2"],
    }
    overlay = [
        "pair_style hybrid/overlay pyfit lj/cut 4",
        f"pair_coeff * * pyfit {file} Si C",
        "pair_coeff * * lj/cut 0.1 2",
    ]
    start = run.setup(atoms, "")[:-2]
    found = []
    for commands in ([*pieces["pyfit"]], [*pieces["lj"]], [*overlay, modify]):
        output = run(
            *start,
            *commands,
            "dump 1 all custom 1 dump id fx fy fz",
            "dump_modify 1 sort id format float %.17g",
            "thermo_style custom step pe pxx pyy pzz pxy pxz pyz",
            "thermo_modify format float %.17g",
            "run 0",
            ranks=2,
        )
        found.append((thermo(output)[0, 1:], run.dump()[0, :, 1:]))
    for one, two, both in zip(*found, strict=True):
        np.testing.assert_allclose(one + two, both, rtol=1e-11, atol=1e-9)


# Faults


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ("pyfit energy vasp", "pyfit: energy: expected dft or network, found vasp"),
        ("pyfit energy", "pyfit: energy: expected dft or network, found nothing"),
        ("pyfit forces_std 1", "pyfit: forces_std: expected yes or no, found 1"),
        ("pyfit 5.0", "pyfit: expected the keywords energy, forces_std, grade_stop or grade_every, found 5.0"),
    ],
)
def test_keywords_refused(run: Runner, file: Path, style: str, message: str) -> None:
    with pytest.raises(Failure, match=message):
        run(*run.setup(two_kinds(), coefficients([file]), style=style))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("* * {file} Si", r"expected \* \* FILE \[FILE ...\] and 2 element\(s\), one for each atom type .*found 4"),
        ("1 2 {file} Si C", r"Pair_coeff must start with \* \* for pair style pyfit"),
        ("* *", r"expected \* \* FILE .* found 2 word"),
        ("* * {file} Si Ge", "atom type 2: expected an element of the potential .Si, C. or NULL, found Ge"),
        ("* * {file} si C", "atom type 1: expected an element of the potential .Si, C. or NULL, found si"),
        ("* * {file} NULL NULL", "expected an element for one atom type at least"),
        ("* * {file} Si NULL", "All pair coeffs are not set"),
        ("* * missing.nn.dat Si C", "missing.nn.dat: cannot read: no such file"),
        ("* * {long} Si C", "pyfit: xxx+: cannot read: no such file"),
        ("* * . Si C", "pyfit: .: cannot read: expected a file, found something else"),
        ("* * cut.nn.dat Si C", "cut.nn.dat: expected 248 weights and biases .* found 100"),
        ("* * random.nn.dat Si C", "random.nn.dat, line 5: expected randomize 0"),
        ("* * outputs.nn.dat Si C", "outputs.nn.dat, line 9: expected 1 output .* or 21 .*of an atom among 2 elements"),
        ("* * nan.nn.dat Si C", "nan.nn.dat, line 20: expected a weight or bias, one number, found 'nan'"),
        ("* * {file} mode.nn.dat Si C", "mode.nn.dat cannot be a member beside .*nn.dat: gi_mode: expected 5, found 3"),
        ("* * {file} width.nn.dat Si C", "width.nn.dat cannot be .*: gaussian_width: expected 0.8, found 0.7 "),
        ("* * {file} order.nn.dat Si C", "order.nn.dat cannot be .*: elements: expected Si C, found C Si"),
        ("* * {file} layers.nn.dat Si C", "layers.nn.dat cannot be .*: layer sizes: expected 18 5 4 1, found 18 5 1"),
        ("* * {file} sigmoid.nn.dat Si C", "sigmoid.nn.dat cannot be .*: activation: expected 1, found 0"),
        ("* * {file} shift.nn.dat Si C", "shift.nn.dat cannot be .*: e_shift of C: expected -3.5, found 0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_coefficients_refused(run: Runner, file: Path, words: str, message: str, ranks: int) -> None:
    write_faulty(run.folder, file.read_text())
    with pytest.raises(Failure, match=f"ERROR.*{message}"):
        run(*run.setup(two_kinds(), words.format(file=file, long="x" * 300)), "run 0", ranks=ranks)


def write_faulty(folder: Path, whole: str) -> None:
    def variant(name: str, elements: tuple[str, ...] = ("Si", "C"), **settings: object) -> None:
        save_potential(sample_potential(elements, **settings), folder / f"{name}.nn.dat")

    lines = whole.splitlines(keepends=True)
    (folder / "cut.nn.dat").write_text("".join(lines[: 9 + 100]))
    (folder / "nan.nn.dat").write_text("".join([*lines[:19], "nan\n", *lines[20:]]))
    save_draft(sample_potential(("Si", "C")), folder / "random.nn.dat")
    save_potential(sample_potential(("Si", "C"), n_outputs=8), folder / "outputs.nn.dat")
    variant("mode", gi_mode=3)
    variant("width", gaussian_width=0.7)
    variant("order", ("C", "Si"))
    variant("layers", hidden=(5,))
    variant("sigmoid", activation=0)
    other = replace(sample_potential(("Si", "C")), energy_shift=torch.tensor([107.25, 0.0]).double())
    save_potential(other, folder / "shift.nn.dat")


def test_a_pipe_is_not_opened(run: Runner, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Failure, match="pipe: cannot read: expected a file, found something else"):
        run(*run.setup(two_kinds(), "* * pipe Si C"))


@pytest.mark.parametrize("units", ["lj", "si", "electron"])
def test_units_refused(run: Runner, file: Path, units: str) -> None:
    with pytest.raises(Failure, match=f"pyfit: expected units metal or real, found units {units}"):
        run(*run.setup(two_kinds(), coefficients([file]), units=units))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("newton off", "run 0", "pyfit: expected newton on for pairs, found newton off"),
        ("", "compute 1 all group/group all\nrun 0", "Pair style does not support compute group/group"),
        ("", "pair_write 1 1 10 r 1.0 2.0 table Si", "style pyfit does not support pair_write"),
        ("", "run_style respa 2 2 inner 1 3.0 4.0 outer 2\nfix 1 all nve\nrun 1", "(?i)respa"),
    ],
)
def test_what_a_many_body_style_cannot_do(run: Runner, file: Path, before: str, after: str, message: str) -> None:
    with pytest.raises(Failure, match=message):
        run(before, *run.setup(two_kinds(), coefficients([file])), after)


def test_two_atoms_at_one_place(run: Runner, file: Path) -> None:
    atoms = Atoms("Si2", [[1, 1, 1], [1, 1, 1]], cell=[20] * 3, pbc=True)
    with pytest.raises(Failure, match=r"pyfit: expected atoms apart, found two at one place \(step 0\)"):
        run(*run.setup(atoms, coefficients([file], "Si"), elements=("Si",)), "run 0")


def test_the_logarithm_of_zero(run: Runner, tmp_path: Path) -> None:
    save_potential(sample_potential(gi_mode=1, shift=0.0), tmp_path / "nn.dat")
    atoms = Atoms("Si", [[1, 1, 1]], cell=[20] * 3, pbc=True)
    with pytest.raises(Failure, match=r"pyfit: feature 1: the logarithm of G . shift needs a number above 0"):
        run(*run.setup(atoms, "* * nn.dat Si"), "run 0")


# Another LAMMPS


@pytest.mark.slow
def test_another_version_of_lammps(lammps: Installation, compiler: tuple[str, ...], run: Runner, file: Path) -> None:
    """The plugin of another version loads, lets other potentials run, and is refused where it is used."""
    other = replace(lammps, version=replace(lammps.version, date="2 Aug 2023", update=""))
    plugin = build_plugin(other, out=run.folder / "otherplugin.so", flags=["-O0"]).plugin
    old = replace(run, plugin=plugin)
    lines = old.setup(two_kinds(), coefficients([file]))
    assert "ERROR" not in old(*lines[:-2], "pair_style lj/cut 3", "pair_coeff * * 0.1 2", "run 0")
    here = re.escape(lammps.version.date)
    message = f"built for LAMMPS 2 Aug 2023, and this is LAMMPS {here}: build it anew .* pyfit-gpu lammps build"
    with pytest.raises(Failure, match=message):
        old(*lines, "run 0")
