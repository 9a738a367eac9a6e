"""Energy shifts: how they are written, found by least squares and from isolated atoms, and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_sets import make_descriptor, make_potential

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.dft_inputs import summarize
from pyfit_gpu.models.energy_shift import (
    atomisation_shift,
    evaluation_shift,
    find_shift,
    fit_shift,
    isolated_shift,
    shift_of_elements,
)
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.elements import count_elements
from pyfit_gpu.structures.frames import Frame, StructureSummary

MakeFrame = Callable[..., Frame]
SIC = ("Si", "C")


class TestOfElements:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (2, (2.0, 2.0)),
            (0.5, (0.5, 0.5)),
            (np.float32(0.5), (0.5, 0.5)),
            ((107.1, 154.9), (107.1, 154.9)),
            ([107, 154.9], (107.0, 154.9)),
            (np.array([107.1, 154.9]), (107.1, 154.9)),
            (torch.tensor([107.1, 154.9], dtype=torch.float64), (107.1, 154.9)),
            ({"C": 154.9, "Si": 107.1}, (107.1, 154.9)),
        ],
        ids=str,
    )
    def test_forms(self, given: object, expected: tuple[float, ...]) -> None:
        found = shift_of_elements(given, SIC)
        assert found == expected
        assert [type(shift) for shift in found] == [float, float]

    @pytest.mark.parametrize(
        ("given", "match"),
        [
            ((1.0,), r"e_shift: expected one number, or one for each of Si, C, got \[1\.0\]"),
            ((1.0, 2.0, 3.0), r"e_shift: expected one number, or one for each of Si, C, got \[1\.0, 2\.0, 3\.0\]"),
            ([[1.0, 2.0]], r"e_shift: expected one number, or one for each of Si, C"),
            (np.nan, r"e_shift: expected finite numbers, got nan"),
            ((1.0, np.inf), r"e_shift: expected finite numbers, got \[1\.0, inf\]"),
            ({"Si": 1.0}, r"e_shift: expected every element of the potential \(Si, C\) once: C is missing$"),
            ({"Si": 1.0, "C": 1.0, "Ge": 2.0}, r"\(Si, C\) once: Ge is not one of them$"),
            ({"Si": 1.0, "Ge": 2.0}, r"\(Si, C\) once: C is missing, Ge is not one of them$"),
            ("fit", r"e_shift: expected a number, or one for each of Si, C, got 'fit' \(.*find_shift finds one"),
            ("isolated", r"e_shift: .*got 'isolated' \(.*find_shift finds one"),
            ("107", r"e_shift: expected a number, or one for each of Si, C, got '107'$"),
        ],
        ids=str,
    )
    def test_refused(self, given: object, match: str) -> None:
        with pytest.raises(InputError, match=match):
            shift_of_elements(given, SIC)


def test_of_a_training_set(random_frame: MakeFrame) -> None:
    """In the potential's order, whatever the form; each atom adds that of its element."""
    frames = [random_frame(seed, 5, elements=SIC, energy=-3.0 - seed) for seed in range(3)]
    structures, potential = Structures.from_frames(frames), make_potential(("C", "Si"))
    by_name = build_training_set(structures, potential, e_shift={"Si": 100.0, "C": 10.0})
    in_order = build_training_set(structures, potential, e_shift=(10.0, 100.0))
    assert by_name.energy_shift == in_order.energy_shift == (10.0, 100.0)
    expected = [
        frame.energy + 100 * np.sum(frame.atomic_numbers == 14) + 10 * np.sum(frame.atomic_numbers == 6)
        for frame in frames
    ]
    assert by_name.energy_used.tolist() == expected
    assert by_name.energy.tolist() == [-3.0, -4.0, -5.0]
    with pytest.raises(InputError, match=r"e_shift: .*one for each of C, Si, got \[1\.0, 2\.0, 3\.0\]"):
        build_training_set(structures, potential, e_shift=(1.0, 2.0, 3.0))


class TestCounts:
    def test_in_the_order_of_the_elements(self, make_frame: MakeFrame) -> None:
        frames = [make_frame(np.zeros((len(s), 3)), symbols=list(s)) for s in ("SCC", "S", "CCCC")]
        assert count_elements(frames, ("S", "C")).tolist() == [[1, 2], [1, 0], [0, 4]]
        assert count_elements(frames, ("C", "O", "S")).tolist() == [[2, 0, 1], [0, 0, 1], [4, 0, 0]]

    def test_outlines_count_as_their_frames(self, make_frame: MakeFrame) -> None:
        frames = [make_frame(np.zeros((k, 3)), symbols=["C", "S", "C", "C"][:k], energy=-2.0 * k) for k in (1, 4, 2)]
        outlines = [summarize(frame) for frame in frames]
        assert count_elements(outlines, ("S", "C")).tolist() == [[0, 1], [1, 3], [1, 1]]
        assert fit_shift(outlines, ("S", "C")) == fit_shift(frames, ("S", "C"))
        nameless = StructureSummary({0: 2, 14: 1}, "g", "here")
        assert count_elements([nameless], ("Si",)).tolist() == [[3]]
        with pytest.raises(InputError, match=r"^here: .*\(Si, C\), the file names no element"):
            count_elements([nameless], SIC)

    def test_atoms_without_a_name_are_the_only_element(self, make_frame: MakeFrame) -> None:
        frame = replace(make_frame(np.zeros((3, 3))), atomic_numbers=np.array([0, 14, 0]))
        assert count_elements([frame], ("Si",)).tolist() == [[3]]
        with pytest.raises(InputError, match=r"made\.dat.*atom 1: .*\(Si, C\).*names no element"):
            count_elements([frame], SIC)

    def test_an_element_that_the_potential_lacks(self, make_frame: MakeFrame) -> None:
        good = make_frame(np.zeros((2, 3)))
        bad = make_frame(np.zeros((2, 3)), symbols=["C", "Ge"], source="b.dat, structure 9")
        for method in ("fit", "isolated"):
            with pytest.raises(InputError, match=r"b\.dat, structure 9, atom 2: .*\(Si, C\), found Ge"):
                find_shift(method, [good, bad], make_descriptor(SIC))


Compose = Callable[[str, float | None], Frame]


@pytest.fixture
def compose(make_frame: MakeFrame) -> Compose:
    """A structure of the one-letter symbols of a word. Least squares does not look at positions."""

    def make(word: str, energy: float | None) -> Frame:
        return make_frame(np.zeros((len(word), 3)), symbols=list(word), source=f"{word}.dat", energy=energy)

    return make


def normal_equations(frames: Sequence[Frame], numbers: Sequence[int]) -> np.ndarray:
    """The minimum where it is unique, by the equations that the gradient's zero gives."""
    matrix, vector = np.zeros((len(numbers),) * 2), np.zeros(len(numbers))
    for frame in frames:
        x = np.array([np.mean(frame.atomic_numbers == number) for number in numbers])
        matrix += np.outer(x, x)
        vector -= x * frame.energy / frame.n_atoms
    return np.linalg.inv(matrix) @ vector


class TestFit:
    def test_energies_that_are_sums_come_back(self, compose: Compose) -> None:
        energies = {"O": -430.25, "C": -154.125, "H": -13.5}
        words = ("OC", "HHO", "CHHHH", "O", "CCHO", "HHHHHHHHCCC")
        frames = [compose(word, sum(energies[letter] for letter in word)) for word in words]
        assert fit_shift(frames, ("H", "C", "O")) == (13.5, 154.125, 430.25)

    def test_against_the_normal_equations(self, compose: Compose) -> None:
        rng = np.random.default_rng(0)
        words = ["".join(rng.choice(["H", "C", "O"], size=rng.integers(1, 9))) for _ in range(40)]
        frames = [compose(word, len(word) * rng.normal(-100.0, 5.0)) for word in words]
        found = np.array(fit_shift(frames, ("O", "H", "C")))
        expected = normal_equations(frames, (8, 1, 6))
        assert np.ptp(expected) > 0.1
        np.testing.assert_array_equal(found, np.round(expected, 6))

    def test_every_structure_counts_once(self, compose: Compose) -> None:
        """Per atom: a large structure counts no more than a small one. One element: minus the mean energy per atom."""
        frames = [compose("C", -1.0), compose("CCCCCCCC", -32.0), compose("CC", -2.0)]
        assert fit_shift(frames, ("C",)) == (2.0,)

    def test_structures_without_an_energy_do_not_count(self, compose: Compose) -> None:
        frames = [compose("C", -1.0), compose("CO", None), compose("O", -2.0), compose("CCO", -4.0)]
        assert fit_shift(frames, ("C", "O")) == (1.0, 2.0)

    def test_what_is_said(self, compose: Compose, caplog: pytest.LogCaptureFixture) -> None:
        frames = [compose("C", -154.25), compose("O", -430.5), compose("O", -430.0), compose("C", None)]
        with caplog.at_level(logging.INFO, "pyfit_gpu"):
            fit_shift(frames, ("O", "C"))
        (record,) = caplog.records
        assert record.levelno == logging.INFO
        rmse = np.sqrt(2 * 0.25**2 / 3)
        assert record.getMessage() == (
            "e_shift fit to 3 structures: energy per atom of O -430.250000 eV, C -154.250000 eV; "
            f"RMSE {rmse:.6g} eV/atom"
        )

    @pytest.mark.parametrize(
        ("structures", "elements", "expected", "warnings"),
        [
            # all 1:1: only the sum is known, and equal shifts have the least norm
            ({"CO": -10.0, "COCO": -20.0}, "CO", (5.0, 5.0), ["energies of C and O apart"]),
            # 1:2 always: least norm is along the composition
            ({"COO": -15.0}, "CO", (3.0, 6.0), ["energies of C and O apart"]),
            # an element without atoms
            ({"C": -2.0, "CC": -4.0}, "CO", (2.0, 0.0), ["no structure with an energy has O atoms: shift 0"]),
            ({"C": -2.0}, "OCH", (0.0, 2.0, 0.0), ["has O or H atoms"]),
            # H is known, C and O only together
            ({"CO": -10.0, "H": -1.0}, "HOC", (1.0, 5.0, 5.0), ["energies of O and C apart"]),
            ({"CO": -10.0, "H": -1.0}, "HOCN", (1.0, 5.0, 5.0, 0.0), ["has N atoms", "energies of O and C apart"]),
        ],
        ids=str,
    )
    def test_undetermined(
        self,
        compose: Compose,
        caplog: pytest.LogCaptureFixture,
        structures: dict[str, float],
        elements: str,
        expected: tuple[float, ...],
        warnings: list[str],
    ) -> None:
        frames = [compose(word, energy) for word, energy in structures.items()]
        assert fit_shift(frames, tuple(elements)) == expected
        said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(said) == len(warnings)
        for message, part in zip(said, warnings, strict=True):
            assert part in message

    def test_no_warning_where_all_is_determined(self, compose: Compose, caplog: pytest.LogCaptureFixture) -> None:
        """By one atom in a thousand, too."""
        frames = [compose("CO" * 500, -1500.0), compose("CO" * 499 + "CC", -1499.0)]
        found = fit_shift(frames, ("C", "O"))
        assert found == pytest.approx((1.0, 2.0), abs=1e-6)
        assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == []

    def test_no_energies(self, compose: Compose) -> None:
        with pytest.raises(InputError, match=r"e_shift fit: expected structures with an energy, found none among 2"):
            fit_shift([compose("C", None), compose("CO", None)], ("C", "O"))


@pytest.fixture
def atom(make_frame: MakeFrame) -> Callable[..., Frame]:
    """One atom in vacuum, or in a cubic cell of the given length."""

    def make(symbol: str, energy: float | None, length: float | None = None, **keywords: object) -> Frame:
        cell = None if length is None else length * np.eye(3)
        source = f"{symbol}{energy}.dat"
        return make_frame([[0.1, 0.2, 0.3]], cell, symbols=[symbol], energy=energy, source=source, **keywords)

    return make


class TestIsolated:
    def test_minus_their_energies(self, atom: Callable[..., Frame], compose: Compose) -> None:
        frames = [compose("CO", -9.0), atom("Si", -101.123456789), atom("C", -147.5, 12.0), compose("CC", -11.0)]
        frames[0] = replace(frames[0], atomic_numbers=np.array([14, 6]))
        assert isolated_shift(frames, SIC, 5.0) == (101.123456789, 147.5)
        assert isolated_shift(frames, ("C", "Si"), 5.0) == (147.5, 101.123456789)
        descriptor = make_descriptor(SIC, cutoff=5.0)
        assert find_shift("isolated", frames, descriptor) == (101.123456789, 147.5)

    def test_a_crystal_of_one_atom_per_cell_is_not_isolated(self, atom: Callable[..., Frame]) -> None:
        """Lower in energy as it is."""
        frames = [atom("Si", -107.0, 2.7), atom("Si", -101.0, 5.01), atom("Si", -107.5, 4.99)]
        assert isolated_shift(frames, ("Si",), 5.0) == (101.0,)

    def test_images_in_one_direction_are_neighbours(self, atom: Callable[..., Frame]) -> None:
        wire = atom("Si", -105.0, 4.0, pbc=(False, True, False))
        assert isolated_shift([wire, atom("Si", -101.0)], ("Si",), 5.0) == (101.0,)
        vacuum = atom("Si", -105.0, 4.0, pbc=(False, False, False))
        assert isolated_shift([vacuum], ("Si",), 5.0) == (105.0,)

    def test_the_cutoff_is_that_of_the_features(self, atom: Callable[..., Frame]) -> None:
        """1.5 times as far in modes 3 and 4."""
        frames = [atom("Si", -101.0, 6.0), atom("Si", -100.0, 9.0)]
        for gi_mode, expected in ((0, 101.0), (3, 100.0)):
            descriptor = make_descriptor(("Si",), gi_mode=gi_mode, cutoff=5.0)
            assert find_shift("isolated", frames, descriptor) == (expected,)

    def test_several_of_an_element(self, atom: Callable[..., Frame], caplog: pytest.LogCaptureFixture) -> None:
        frames = [atom("Si", -100.0), atom("C", -147.0), atom("Si", -102.0), atom("Si", -101.0)]
        with caplog.at_level(logging.INFO, "pyfit_gpu"):
            assert isolated_shift(frames, SIC, 5.0) == (102.0, 147.0)
        (record,) = caplog.records
        assert record.getMessage() == (
            "e_shift from isolated atoms: energy of Si -102.0 eV (the lowest of 3: Si-102.0.dat), "
            "C -147.0 eV (C-147.0.dat)"
        )

    def test_an_energy_of_zero_is_one(self, atom: Callable[..., Frame]) -> None:
        """A shift of 0 comes out for sets of energies of formation, and no minus zero in the files."""
        (shift,) = isolated_shift([atom("Si", 0.0)], ("Si",), 5.0)
        assert (shift, np.signbit(shift)) == (0.0, False)

    def test_without_a_name_it_is_the_only_element(self, atom: Callable[..., Frame]) -> None:
        nameless = replace(atom("Si", -101.0), atomic_numbers=np.array([0]))
        assert isolated_shift([nameless], ("Ge",), 5.0) == (101.0,)

    @pytest.mark.parametrize(
        ("atoms", "match"),
        [
            ([("Si", -1.0, None)], r"within 5 Å; C: found none$"),
            ([("C", -1.0, None)], r"within 5 Å; Si: found none$"),
            (
                [("C", -1.0, 3.0)],
                r"; Si: found none; C: found none, but 1 with neighbours \(images of the atom itself\)$",
            ),
            ([("Si", -1.0, None), ("C", None, None)], r"; C: found none$"),
        ],
        ids=str,
    )
    def test_none_of_an_element(
        self, atom: Callable[..., Frame], atoms: list[tuple[str, float | None, float | None]], match: str
    ) -> None:
        frames = [atom(*one) for one in atoms]
        with pytest.raises(InputError, match=r"e_shift isolated: expected for each element a structure.*" + match):
            isolated_shift(frames, SIC, 5.0)

    def test_no_structure_of_one_atom(self, compose: Compose) -> None:
        with pytest.raises(InputError, match=r"C: found none; O: found none"):
            isolated_shift([compose("CO", -1.0)], ("C", "O"), 5.0)


class TestAtomisation:
    """The shift with which energies are those of atomisation."""

    PAIR = ((0.0, 0.0, 0.0), (0.0, 0.0, 2.0))

    def solids(self, make_frame: MakeFrame) -> list[Frame]:
        energies = (("Si", "Si", -20.0), ("Si", "Si", -19.0), ("C", "C", -36.0), ("C", "C", -35.0))
        return [make_frame(self.PAIR, symbols=list(pair), energy=energy) for *pair, energy in energies]

    def test_isolated_atoms_are_taken_where_there_are_some_of_every_element(self, make_frame: MakeFrame) -> None:
        atoms = [make_frame([[0.0, 0.0, 0.0]], symbols=[one], energy=e) for one, e in (("Si", -5.0), ("C", -11.0))]
        frames = [*self.solids(make_frame), *atoms]
        assert find_shift("atomisation", frames, make_descriptor(SIC)) == (5.0, 11.0)

    def test_without_them_the_lowest_energy_is_that_of_the_solids(
        self, make_frame: MakeFrame, caplog: pytest.LogCaptureFixture
    ) -> None:
        lone = make_frame([[0.0, 0.0, 0.0]], symbols=["Si"], energy=-9.75)  # not both elements: no use
        with caplog.at_level(logging.INFO, "pyfit_gpu"):
            found = atomisation_shift([*self.solids(make_frame), lone], SIC, 5.0)
        # Means -9.75 and -17.75, lowest 0.25 below; cohesive energies of Kittel 4.63 and 7.37.
        assert found == pytest.approx((10.0 - 4.63, 18.0 - 7.37), abs=1e-6)
        (said,) = (record.getMessage() for record in caplog.records)
        assert "for want of isolated atoms (C: found none)" in said
        assert "Si 4.63, C 7.37 eV/atom" in said

    def test_compositions_that_leave_the_elements_open(
        self, make_frame: MakeFrame, caplog: pytest.LogCaptureFixture
    ) -> None:
        frames = [make_frame(self.PAIR, symbols=["Si", "C"], energy=energy) for energy in (-30.0, -29.0)]
        found = atomisation_shift(frames, SIC, 5.0)
        assert sum(found) - 30.0 == pytest.approx(-4.63 - 7.37, abs=1e-5)
        assert "e_shift atomisation: the compositions do not determine the energies of Si and C apart" in caplog.text

    def test_an_element_that_no_structure_has(self, make_frame: MakeFrame, caplog: pytest.LogCaptureFixture) -> None:
        frames = [make_frame(self.PAIR, symbols=["Si", "Si"], energy=energy) for energy in (-20.0, -19.0)]
        found = atomisation_shift(frames, SIC, 5.0)
        assert found == pytest.approx((10.0 - 4.63, 0.0), abs=1e-6)
        assert "e_shift atomisation: no structure with an energy has C atoms: shift 0 is taken" in caplog.text

    def test_no_energies(self, make_frame: MakeFrame) -> None:
        with pytest.raises(InputError, match="e_shift atomisation: expected structures with an energy, found none"):
            atomisation_shift([make_frame(self.PAIR, symbols=["Si", "Si"])], ("Si",), 5.0)


class TestEvaluation:
    def test_bond_order_potentials_are_on_a_scale_of_their_own(self, caplog: pytest.LogCaptureFixture) -> None:
        unknown = torch.full((1,), torch.nan, dtype=torch.float64)
        straight = replace(make_potential(("Si",)), energy_shift=unknown)
        informed = replace(make_potential(("Si",), n_outputs=8), energy_shift=unknown)
        with caplog.at_level(logging.WARNING, "pyfit_gpu"):
            assert evaluation_shift(informed, None) == (0.0,)
            assert not caplog.records
            assert evaluation_shift(straight, None) == (0.0,)
        assert len(caplog.records) == 1
        assert evaluation_shift(replace(informed, energy_shift=torch.ones_like(unknown)), None) == (1.0,)
