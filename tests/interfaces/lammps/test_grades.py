"""The extrapolation grade in LAMMPS: that of the package, asked for by fix pair, or ending a run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from lammps_samples import Runner, coefficients, crystal, inputs_of, sample_uncertainty, save_committee

from pyfit_gpu.descriptors.feature_names import feature_names
from pyfit_gpu.errors import Failure
from pyfit_gpu.formats.nn_dat import load_potential
from pyfit_gpu.formats.opening import load_potentials
from pyfit_gpu.formats.uncertainty_file import save_uncertainty
from pyfit_gpu.models.uncertainty import Uncertainty

MORE_TERMS = {"gi_mode": 6, "legendre_orders": (0, 1, 2), "cross_terms": 1, "triples": ((0, 1, 1), (0, 2, 2))}
DUMP = ["dump grades all custom {0} dump id x y z f_grade", "dump_modify grades sort id format float %.17g"]


def grade_every(steps: int, trigger: int = 1) -> list[str]:
    """Commands that write the grade of each atom to the dump."""
    return [f"fix grade all pair {steps} pyfit grade {trigger}", *(line.format(steps) for line in DUMP)]


def moving(kelvin: float = 3000.0) -> list[str]:
    return [f"velocity all create {kelvin} 7 loop geom", "fix motion all nve"]


class Case:
    """Atoms, a committee or one potential for them, and an uncertainty file."""

    def __init__(self, folder: Path, atoms: Atoms, n_members: int = 1, **settings: object) -> None:
        self.atoms = atoms
        self.elements = list(dict.fromkeys(atoms.get_chemical_symbols()))
        self.files = save_committee(folder / "potentials", n_members, self.elements, **settings)
        self.potential = load_potentials([str(file) for file in self.files])
        self.file = folder / "fit.uncertainty.txt"
        self.write(sample_uncertainty(atoms, self.potential, n_clusters=[5, 3][: len(self.elements)]))

    def write(self, uncertainty: Uncertainty) -> None:
        self.uncertainty = uncertainty
        save_uncertainty(uncertainty, self.file)

    @property
    def words(self) -> str:
        """Arguments of pair_coeff."""
        return f"{coefficients(self.files, ' '.join(self.elements))} uncertainty {self.file}"

    def grades(self, positions: np.ndarray | None = None) -> np.ndarray:
        atoms = self.atoms.copy()
        if positions is not None:
            atoms.positions = positions
        return self.uncertainty.grade(*inputs_of(atoms, self.potential)).numpy()

    def farthest(self, atom: int, positions: np.ndarray) -> int:
        """Number of the input, from 1."""
        atoms = self.atoms.copy()
        atoms.positions = positions
        return int(self.uncertainty.grade.contributions(*inputs_of(atoms, self.potential))[atom].argmax()) + 1


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path, crystal((2, 2, 2), second="C"))


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize(
    ("second", "settings"),
    [(None, {"gi_mode": 1}), (None, MORE_TERMS), ("C", {"gi_mode": 5}), ("C", MORE_TERMS)],
    ids=["Si, mode 1", "Si, mode 6", "SiC, mode 5", "SiC, mode 6"],
)
def test_same_as_the_package(
    run: Runner, second: str | None, settings: dict[str, object], ranks: int, tmp_path: Path
) -> None:
    """Along a run, of as many atoms as leave places of a block empty."""
    atoms = crystal((3, 2, 2), second=second)[:91]
    case = Case(tmp_path, atoms, **settings)
    run(*run.setup(atoms, case.words), *moving(), *grade_every(5), "run 10", ranks=ranks)
    frames = run.dump()
    assert len(frames) == 3
    for frame in frames:
        expected = case.grades(frame[:, 1:4])
        assert np.unique(expected.round(6)).size > 50
        np.testing.assert_allclose(frame[:, 4], expected, rtol=1e-9, atol=1e-9)


def test_few_atoms(run: Runner, tmp_path: Path) -> None:
    """Most clusters have no atom, and most ranks neither."""
    atoms = Atoms("SiCSi", [[1, 1, 1], [1.2, 1.4, 2.9], [2.5, 2.5, 1.2]], cell=[20] * 3, pbc=True)
    case = Case(tmp_path, crystal((2, 2, 2), second="C"))
    case.atoms = atoms
    run(*run.setup(atoms, case.words), *grade_every(1), "run 0", ranks=3)
    np.testing.assert_allclose(run.dump()[0, :, 4], case.grades(), rtol=1e-9)


@pytest.mark.parametrize("whose", ["of all members", "of the third member"])
def test_beside_the_spreads_of_a_committee(run: Runner, whose: str, tmp_path: Path) -> None:
    """Members have the same inputs, so the file of one of them serves all."""
    case = Case(tmp_path, crystal((2, 2, 2), second="C"), n_members=3)
    if whose == "of the third member":
        case.write(Uncertainty.of(load_potential(case.files[2]), case.uncertainty.grade))
    start = run.setup(case.atoms, case.words, style="pyfit forces_std yes grade_stop 1000")
    spreads = "fix spread all pair 1 pyfit energy_std 1 fx_std 1 grade 1"
    dump = ["dump 1 all custom 1 dump id f_spread[*]", "dump_modify 1 sort id format float %.17g"]
    run(*start, spreads, *dump, "run 0", ranks=2)
    alone = run.dump()[0]
    np.testing.assert_allclose(alone[:, 3], case.grades(), rtol=1e-9)
    start = run.setup(case.atoms, coefficients(case.files), style="pyfit forces_std yes")
    run(*start, spreads.removesuffix(" grade 1"), *dump, "run 0", ranks=2)
    np.testing.assert_array_equal(alone[:, 1:3], run.dump()[0, :, 1:3])


def test_energies_and_forces_stay_the_same(run: Runner, case: Case) -> None:
    dump = ["dump 1 all custom 1 forces id fx fy fz", "dump_modify 1 sort id format float %.17g"]
    run(*run.setup(case.atoms, case.words), *moving(), *grade_every(1), *dump, "run 3")
    graded = run.dump("forces")
    run(*run.setup(case.atoms, coefficients(case.files)), *moving(), *dump, "run 3")
    np.testing.assert_array_equal(graded, run.dump("forces"))


def test_only_where_asked_for(run: Runner, case: Case) -> None:
    """Without the trigger of fix pair nothing is computed, so there is nothing to give."""
    with pytest.raises(Failure, match=r"cannot extract (property )?grade"):
        run(*run.setup(case.atoms, case.words), *moving(), *grade_every(1, trigger=0), "run 1")
    start = run.setup(case.atoms, case.words, style="pyfit grade_stop 1000")
    run(*start, *moving(), *grade_every(1, trigger=0), "run 1")
    np.testing.assert_allclose(run.dump()[0, :, 4], case.grades(), rtol=1e-9)


def test_atoms_of_other_styles_have_none(run: Runner, tmp_path: Path) -> None:
    case = Case(tmp_path, crystal((2, 2, 2), second="C"))
    atoms = case.atoms.copy()
    atoms.symbols[[0, 9, 33]] = "Ge"
    lines = run.setup(atoms, "", elements=("Si", "C", "Ge"))
    words = case.words.replace(" Si C", " Si C NULL").replace("* *", "* * pyfit")
    lines[-2:] = ["pair_style hybrid pyfit lj/cut 4.0", f"pair_coeff {words}", "pair_coeff 1*3 3 lj/cut 0.05 2.2"]
    run(*lines, *grade_every(1), "run 0")
    found = run.dump()[0, :, 4]
    case.atoms = atoms[atoms.numbers != 32]
    assert (found[[0, 9, 33]] == 0).all()
    np.testing.assert_allclose(found[atoms.numbers != 32], case.grades(), rtol=1e-9)


# The end of a run


def message_of(error: pytest.ExceptionInfo[Failure]) -> tuple[int, int, str, float, float, int]:
    """Step, atom, element, both grades and the input of the message, which is there once."""
    found = re.findall(
        r"pyfit: grade_stop: step (\d+), atom (\d+) \((\w+)\): expected an extrapolation grade of at most (\S+), "
        r"found (\S+) \(farthest out: input (\d+), ", str(error.value),
    )  # fmt: skip
    assert len(set(found)) == 1
    step, atom, element, most, grade, number = found[0]
    return int(step), int(atom), element, float(most), float(grade), int(number)


@pytest.mark.parametrize(("every", "ranks"), [(1, 1), (4, 2), (1, 3)])
def test_a_run_ends(run: Runner, case: Case, every: int, ranks: int) -> None:
    """At the first step that is looked at and has an atom beyond; the atom of the highest grade is named."""
    run(*run.setup(case.atoms, case.words), *moving(50000), *grade_every(1), "run 40")
    frames = run.dump()
    stop = float(f"{frames[:20, :, 4].max():.4g}")
    beyond = [k for k, frame in enumerate(frames) if frame[:, 4].max() > stop and k % every == 0]
    assert beyond[0] > 5
    style = f"pyfit grade_stop {stop}" + (f" grade_every {every}" if every > 1 else "")
    with pytest.raises(Failure) as error:
        run(*run.setup(case.atoms, case.words, style=style), *moving(50000), "run 40", ranks=ranks)
    frame = frames[beyond[0]]
    atom = int(frame[:, 4].argmax())
    step, number, element, most, grade, farthest = message_of(error)
    assert (step, number, element) == (beyond[0], atom + 1, case.atoms.symbols[atom])
    assert most == stop
    assert abs(grade / frame[atom, 4] - 1) < 1e-3
    assert farthest == case.farthest(atom, frame[:, 1:4])


def test_an_element_that_did_not_train(run: Runner, case: Case) -> None:
    only_silicon = sample_uncertainty(case.atoms, case.potential, n_clusters=[4, 0])
    case.write(only_silicon)
    run(*run.setup(case.atoms, case.words), *grade_every(1), "run 0", ranks=2)
    found = run.dump()[0, :, 4]
    np.testing.assert_allclose(found[::2], case.grades()[::2], rtol=1e-9)
    assert np.isinf(found[1::2]).all()
    with pytest.raises(Failure, match=r"atom \d+ \(C\): .* found inf \(farthest out: no atom of C trained\)"):
        run(*run.setup(case.atoms, case.words, style="pyfit grade_stop 1e9"), "run 0", ranks=2)


def test_while_minimising(run: Runner, case: Case) -> None:
    stop = float(f"{case.grades().max() * 0.9:.4g}")
    with pytest.raises(Failure, match="grade_stop: step 0, atom"):
        run(*run.setup(case.atoms, case.words, style=f"pyfit grade_stop {stop}"), "minimize 0 0 5 20")
    run(*run.setup(case.atoms, case.words), *grade_every(1), "minimize 0 0 3 20")
    for frame in run.dump():
        np.testing.assert_allclose(frame[:, 4], case.grades(frame[:, 1:4]), rtol=1e-8, atol=1e-8)


# Names of inputs


@pytest.mark.parametrize("number", [0, 4, 11, 17])
def test_names_of_inputs(run: Runner, number: int, tmp_path: Path) -> None:
    check_name(run, number, Case(tmp_path, crystal((2, 2, 2), second="C"), gaussian_centers=(1.75, 2.5, 3.0)))


@pytest.mark.parametrize("number", [0, 3, 34, 44, 45, 56, 68])
def test_names_of_more_terms(run: Runner, number: int, tmp_path: Path) -> None:
    check_name(run, number, Case(tmp_path, crystal((2, 2, 2), second="C"), **MORE_TERMS))


def check_name(run: Runner, number: int, case: Case) -> None:
    """One coordinate of the centres is far away; the name is that of the package."""
    names = feature_names(case.potential.descriptor)
    grade = sample_uncertainty(case.atoms, case.potential, n_clusters=[1, 1], n_directions=0).grade
    centers = grade.centers.clone()
    centers[:, number] += 100.0
    case.write(Uncertainty.of(case.potential, replace(grade, centers=centers)))
    with pytest.raises(Failure, match=re.escape(f"(farthest out: input {number + 1}, {names[number]})")):
        run(*run.setup(case.atoms, case.words, style="pyfit grade_stop 50"), "run 0")


# Faults


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ("pyfit grade_stop -1", "pyfit: grade_stop: expected a number above 0, found -1"),
        ("pyfit grade_stop 0", "pyfit: grade_stop: expected a number above 0, found 0"),
        ("pyfit grade_stop nan", "pyfit: grade_stop: expected a number above 0, found nan"),
        ("pyfit grade_stop", "pyfit: grade_stop: expected a number above 0, found nothing"),
        ("pyfit grade_stop 5 grade_stop 6", "pyfit: grade_stop: expected this keyword once, found it twice"),
        ("pyfit grade_stop 5 grade_every 0", "grade_every: expected a whole number of steps above 0, found 0"),
        ("pyfit grade_stop 5 grade_every 2.5", "grade_every: expected a whole number of steps above 0, found 2.5"),
        ("pyfit grade_every 2", "pyfit: grade_every: expected grade_stop beside it, which it is for"),
    ],
)  # fmt: skip
def test_keywords_refused(run: Runner, case: Case, style: str, message: str) -> None:
    with pytest.raises(Failure, match=re.escape(message)):
        run(*run.setup(case.atoms, case.words, style=style))


def test_a_stop_without_a_file(run: Runner, case: Case) -> None:
    start = run.setup(case.atoms, coefficients(case.files), style="pyfit grade_stop 5")
    with pytest.raises(Failure, match="grade_stop: expected uncertainty FILE at the end of pair_coeff"):
        run(*start)


def test_a_grade_without_a_file(run: Runner, case: Case) -> None:
    start = run.setup(case.atoms, coefficients(case.files))
    with pytest.raises(Failure, match="pyfit: grade: expected uncertainty FILE at the end of pair_coeff"):
        run(*start, *grade_every(1))


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{file} Si C uncertainty", "pair_style pyfit: uncertainty: expected a file after it, found nothing"),
        ("{file} Si C uncertainty a uncertainty b", "uncertainty: expected this keyword once, found it twice"),
        ("{file} uncertainty {own} Si C", "uncertainty: cannot read: no such file"),
        ("{file} Si C uncertainty none.txt", "pyfit: none.txt: cannot read: no such file"),
        ("{file} Si C uncertainty .", "pyfit: .: cannot read: expected a file, found something else"),
        ("{file} Si C uncertainty {file}", r"nn.dat, line 1: expected an uncertainty file, which begins with "),
        ("{file} Si C uncertainty cut.txt", "cut.txt: cut off after line .*: expected .* found the end of the file"),
        ("{other} Si C uncertainty {own}", r"fit.uncertainty.txt: belongs to another potential: expected the checksum "
         r"[0-9a-f]{{8}} of this one's parameters, found [0-9a-f]{{8}}"),
        ("{turned} Si C uncertainty {own}", "expected the elements C, Si of the potential, found Si, C"),
        ("{larger} Si C uncertainty {own}", "expected 27 inputs as the potential has, found 18"),
    ],
)  # fmt: skip
def test_coefficients_refused(run: Runner, case: Case, words: str, message: str, ranks: int, tmp_path: Path) -> None:
    text = case.file.read_text()
    (tmp_path / "cut.txt").write_text(text[: text.rindex("direction")])
    files = {
        "file": case.files[0],
        "own": case.file,
        "other": save_committee(tmp_path / "more", 2, ("Si", "C"))[1],
        "turned": save_committee(tmp_path / "turned", 1, ("C", "Si"))[0],
        "larger": save_committee(tmp_path / "larger", 1, ("Si", "C"), legendre_orders=(0, 1, 2))[0],
    }
    with pytest.raises(Failure, match=message.format()):
        run(*run.setup(case.atoms, "* * " + words.format(**files)), "run 0", ranks=ranks)


def test_another_potential_later(run: Runner, case: Case) -> None:
    """A second pair_coeff without a file leaves no grade of the first."""
    start = run.setup(case.atoms, case.words)
    with pytest.raises(Failure, match="pyfit: grade: expected uncertainty FILE"):
        run(*start, *grade_every(1), "run 0", f"pair_coeff {coefficients(case.files)}", "run 1")


def test_numbers_of_the_sample(case: Case) -> None:
    """The grades of the tests are of all sizes, and several clusters are in use."""
    grades = torch.from_numpy(case.grades())
    assert 0.01 < grades.min() < grades.max()
    assert len(case.uncertainty.grade.clusters(*inputs_of(case.atoms, case.potential)).unique()) > 4
