"""`new`: a potential file for given elements, and that everything else takes it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pair_sum
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_masses, atomic_numbers
from ase.io import write
from commands.helpers import OWN, Result, done, log_rows, new_names, refused

import pyfit_gpu as pf
from pyfit_gpu.formats.nn_dat_header import header_lines


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def new(*words: object, elements: str = "Si C", out: str = "new.nn.dat") -> Result:
    return done("new", "--elements", *elements.split(), "--out", out, *words)


def test_what_is_written() -> None:
    """Read by the tests' own reader."""
    new("--cutoff", "5")
    nn = pair_sum.read_nn_dat_header("new.nn.dat")
    assert nn["symbols"] == ["Si", "C"]
    assert nn["masses"] == [atomic_masses[atomic_numbers[symbol]] for symbol in ("Si", "C")]
    assert nn["e_shifts"] == [None, None]
    assert (nn["gi_mode"], nn["shift"], nn["activation"]) == (6, 0.0, 1)
    assert (nn["randomize"], nn["max_random"]) == (True, 0.1)
    assert (nn["rc"], nn["d"], nn["sigma"]) == (5.0, 1.0, 0.5)
    assert nn["legendre_orders"] == [0, 1, 2, 3, 4]
    assert Path("new.nn.dat").read_text().splitlines()[5] == " 5 0 1 2 3 4 1 3 1 1 2 1 2 3 2 2 2"
    assert nn["r0"].tolist() == [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5]
    assert (nn["baseline"], nn["baseline_parameters"].tolist()) == (False, [0.0] * 8)
    assert nn["layer_sizes"] == [3 * 5 * (8 + 7) + 4 * 3 * 8, 24, 24, 1]
    assert len(Path("new.nn.dat").read_text().splitlines()) == 9  # and no weights


def test_every_option() -> None:
    words = ("--cutoff", "4.5", "--gi-mode", "1", "--shift", "0.25", "--cutoff-width", "0.9", "--gaussian-width", "0.7")
    words += ("--legendre-orders", "3", "0", "--gaussian-centers", "1.1", "2.2", "3.3", "--hidden", "7", "6", "5")
    new(*words, "--activation", "0", "--max-random", "0.125", elements="Ge")
    nn = pair_sum.read_nn_dat_header("new.nn.dat")
    assert nn["symbols"] == ["Ge"]
    assert (nn["gi_mode"], nn["shift"], nn["activation"], nn["max_random"]) == (1, 0.25, 0, 0.125)
    assert (nn["rc"], nn["d"], nn["sigma"]) == (4.5, 0.9, 0.7)
    assert (nn["legendre_orders"], nn["r0"].tolist()) == ([3, 0], [1.1, 2.2, 3.3])
    assert nn["layer_sizes"] == [6, 7, 6, 5, 1]


@pytest.mark.parametrize(
    ("words", "orders", "cross_terms", "triples"),
    [
        ("", (0, 1, 2, 3, 4), 1, ((1, 1, 2), (1, 2, 3), (2, 2, 2))),
        ("--gi-mode 5", (0, 1, 2, 4, 6), 0, ()),
        ("--gi-mode 5 --cross-terms 0 --triples none", (0, 1, 2, 4, 6), 0, ()),
        ("--legendre-orders 0 2 1", (0, 2, 1), 1, ((1, 1, 2), (2, 2, 2))),  # 123 needs order 3
        ("--legendre-orders 0 3", (0, 3), 1, ()),
        ("--triples none --cross-terms 0", (0, 1, 2, 3, 4), 0, ()),
        ("--triples 224 011 --cross-terms 7", (0, 1, 2, 3, 4), 7, ((2, 2, 4), (0, 1, 1))),
        ("--legendre-orders 2 10 12 --triples 2,10,12 2,2,2", (2, 10, 12), 1, ((2, 10, 12), (2, 2, 2))),
        ("--gaussian-centers 2.5", (0, 1, 2, 3, 4), 0, ((1, 1, 2), (1, 2, 3), (2, 2, 2))),  # no other centre to cross
    ],
)
def test_further_terms(words: str, orders: tuple[int, ...], cross_terms: int, triples: tuple[tuple[int, ...]]) -> None:
    new("--cutoff", "4.5", *words.split(), elements="Si")
    descriptor = pf.load_potential("new.nn.dat").descriptor
    assert (descriptor.legendre_orders, descriptor.cross_terms, descriptor.triples) == (orders, cross_terms, triples)


@pytest.mark.parametrize(
    ("elements", "counts"), [("Si", (99, 75, 24)), ("Si C", (321, 225, 96)), ("Si C Ge", (690, 450, 240))]
)
def test_number_of_inputs_by_default(elements: str, counts: tuple[int, int, int]) -> None:
    said = new("--cutoff", "4.5", elements=elements).out
    total, pairs, four_bodies = counts
    assert f" {total} inputs ({pairs} of pairs, {four_bodies} of four bodies), " in said


def test_the_library_has_the_same_settings() -> None:
    from pyfit_gpu.models.new_potential import new_potential

    made = new_potential(["Si"], 4.0, cross_terms=2, triples=[[1, 1, 2]]).descriptor
    new("--cutoff", 4, "--cross-terms", 2, "--triples", "112", elements="Si")
    assert pf.load_potential("new.nn.dat").descriptor == made


@pytest.mark.parametrize(("gi_mode", "shift"), [(0, 0.0), (1, 0.5), (3, 0.0), (4, 0.5), (5, 0.0), (6, 0.0)])
def test_shift_of_the_modes(gi_mode: int, shift: float) -> None:
    """An atom without neighbours must have a logarithm."""
    new("--cutoff", "4", "--gi-mode", gi_mode, elements="Si")
    assert pf.load_potential("new.nn.dat").descriptor.shift == shift


@pytest.mark.parametrize(
    ("words", "first", "last"),
    [
        (("--cutoff", "4.5"), 1.0, 4.0),
        (("--cutoff", "6", "--cutoff-width", "1.5"), 1.0, 5.25),
        (("--cutoff", "6", "--first-center", "1.8"), 1.8, 5.5),
        (("--cutoff", "4.5", "--gi-mode", "5"), 1.5, 4.0),
        (("--cutoff", "4", "--gi-mode", "3"), 1.5, 5.5),  # features reach to 1.5 times the cutoff
    ],
    ids=str,
)
@pytest.mark.parametrize("count", [2, 5, 8])
def test_centers_are_spread_evenly(words: tuple[str, ...], first: float, last: float, count: int) -> None:
    new(*words, "--n-centers", count, elements="Si")
    centers = pf.load_potential("new.nn.dat").descriptor.gaussian_centers
    assert centers == pytest.approx([first + k * (last - first) / (count - 1) for k in range(count)], abs=5.1e-5)


def test_loading_draws_the_weights() -> None:
    new("--cutoff", "4", "--max-random", "0.2")
    before = Path("new.nn.dat").read_bytes()
    flat = [pf.load_potential("new.nn.dat", seed=seed).networks.flat() for seed in (1, 1, 2)]
    assert torch.equal(flat[0], flat[1])
    assert not torch.equal(flat[0], flat[2])
    assert 0.19 < flat[0].abs().max() <= 0.2
    assert Path("new.nn.dat").read_bytes() == before


def test_the_header_is_that_of_every_potential() -> None:
    """Only that a trained file does not ask for random weights."""
    new("--cutoff", "4")
    lines = Path("new.nn.dat").read_text().splitlines()
    saved = header_lines(pf.load_potential("new.nn.dat", seed=1))
    assert [line for line in lines if line not in saved] == [" 1 0.1 4.0 1.0 0.5"]
    assert [line for line in saved if line not in lines] == [" 0 0.1 4.0 1.0 0.5"]


def test_prepare_train_and_evaluate() -> None:
    shutil.copy(OWN / "structures.poscar.dat", "si.poscar.dat")
    new("--cutoff", "4.5", "--hidden", "5", elements="Si", out="si.nn.dat")
    done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "si.h5", "--e-shift", "fit")
    done("train", "si.h5", "--potential", "si.nn.dat", "--out", "out.nn.dat", "--steps", "5")
    losses = [loss for _, loss in log_rows("out.loss.txt")]
    assert losses[-1] < 0.5 * losses[0]
    done("evaluate", "si.poscar.dat", "--potential", "out.nn.dat", "--out", "out.csv")


def test_info() -> None:
    new("--cutoff", "5")
    said = done("info", "new.nn.dat").out
    for text in (
        "straight, 321-24-24-1",
        "random weights are drawn on loading",
        "Si C",
        "e_shift       unknown",
        "5 Å",
        "inputs        321 (225 of pairs, 96 of four bodies), gi_mode 6",
        "cross terms   1",
        "triples       112 123 222",
    ):
        assert text in said


def test_what_is_said() -> None:
    said = new("--cutoff", "4.5", "--n-centers", "2").out
    assert said == (
        "wrote new.nn.dat: Si C, network 69-24-24-1, 69 inputs (45 of pairs, 24 of four bodies), cutoff 4.5 Å, "
        "Gaussian centres 1 4 Å, parameters are drawn on loading\n"
    )
    assert (
        ", network 30-16-16-1, 30 inputs, "
        in new("--cutoff", "4.5", "--n-centers", "2", "--gi-mode", "5", "--unique").out
    )
    assert new("--cutoff", "4.5", "--overwrite", "--quiet").said == ""


def test_outputs_that_exist() -> None:
    Path("new.nn.dat").write_text("precious")
    refused(
        "new", "--elements", "Si", "--cutoff", "4", "--out", "new.nn.dat", match=r"new\.nn\.dat: exists.*--overwrite"
    )
    before = {"new.nn.dat"}
    new("--cutoff", "4", "--unique")
    assert new_names(before) == {"new.00000.nn.dat"}
    assert Path("new.nn.dat").read_text() == "precious"
    new("--cutoff", "4", "--overwrite")
    assert Path("new.nn.dat").read_bytes() == Path("new.00000.nn.dat").read_bytes()


@pytest.mark.parametrize(
    ("elements", "words", "match"),
    [
        ("Si Si C", "--cutoff 4", r"elements: expected different chemical symbols.*: Si is there twice$"),
        ("Si Xx", "--cutoff 4", r"elements: expected different chemical symbols.*: Xx is no element$"),
        ("si", "--cutoff 4", "elements: .*si is no element"),
        ("Si", "", "cutoff: expected, or structures from which to take it"),
        ("Si", "--cutoff 0", "cutoff: expected a length above 0 Å, got 0"),
        ("Si", "--cutoff -4", "cutoff: expected a length above 0 Å, got -4"),
        ("Si", "--cutoff four", "--cutoff.*four"),
        ("Si", "--cutoff 4 --cutoff-width 0", "cutoff_width: expected a length above 0"),
        ("Si", "--cutoff 4 --gaussian-width 0", "gaussian_width: expected a length above 0"),
        ("Si", "--cutoff 4 --gi-mode 7", "gi_mode: expected one of .*got 7"),
        ("Si C", "--cutoff 4 --gi-mode 1", "gi_mode: expected one that takes 2 elements .0, 2, 3, 5, 6., got 1"),
        ("Si", "--cutoff 4 --activation 3", "activation: expected one of .*got 3"),
        ("Si", "--cutoff 4 --legendre-orders 0 1.5", "--legendre-orders.*1.5"),
        ("Si", "--cutoff 4 --hidden 5 0", r"hidden: expected numbers of neurons above 0, got \[5, 0\]"),
        ("Si", "--cutoff 4 --max-random 0", "max_random: expected a number above 0"),
        ("Si", "--cutoff 4 --legendre-orders 0 2 2", "legendre_orders: expected different numbers"),
        ("Si", "--cutoff 4 --legendre-orders 0 61", "legendre_orders: expected whole numbers from 0 to 60"),
        ("Si", "--cutoff 4 --max-random -1", "max_random: expected a number above 0"),
        ("Si", "--cutoff 4 --gaussian-centers 2 0", "gaussian_centers: expected lengths above"),
        ("Si", "--cutoff 4 --n-centers 2 --gaussian-centers 2 3", "n_centers: expected without gaussian_centers"),
        ("Si", "--cutoff 4 --n-centers 1", "n_centers: expected at least 2, got 1"),
        ("Si", "--cutoff 4 --cross-terms 8", "cross_terms: expected a whole number from 0 to 7 .there are 8 .*got 8"),
        ("Si", "--cutoff 4 --cross-terms -1", "cross-terms.*-1"),
        ("Si", "--cutoff 4 --gi-mode 5 --cross-terms 1", "cross_terms: expected none in gi_mode 5, got 1"),
        ("Si", "--cutoff 4 --gi-mode 1 --triples 112", "triples: expected none in gi_mode 1, got ..1, 1, 2"),
        ("Si", "--cutoff 4 --triples 112 122", "triples: triple 2, 1 2 2: the sum of the orders, 5, is odd"),
        ("Si", "--cutoff 4 --triples 211", "triples: triple 1, 2 1 1: expected ascending orders"),
        ("Si", "--cutoff 4 --triples 114", "triples: triple 1, 1 1 4: 4 is above 1 . 1"),
        ("Si", "--cutoff 4 --triples 222 112 222", "triples: triple 3, 2 2 2: it is there twice"),
        ("Si", "--cutoff 4 --triples 246", r"triples: triple 1, 2 4 6: order 6 is not one .*\(0, 1, 2, 3, 4\)"),
        ("Si", "--cutoff 4 --triples 12", "--triples: expected three Legendre orders a word.*got '12'"),
        ("Si", "--cutoff 4 --triples 112 none", "--triples: expected three .*got 'none'"),
        ("Si", "--cutoff 4 --triples 1,2,x", "--triples: expected three .*got '1,2,x'"),
        ("Si", "--cutoff 2 --first-center 1.9", "n_centers: .*room.*from 1.9 Å.*got 1.5 Å.*gaussian_centers"),
        ("Si", "--cutoff 4 --first-center 0", "gaussian_centers: expected lengths above"),
        ("Si", "--cutoff 4 --first-center 2 --gaussian-centers 2 3", "first_center: expected without gaussian_centers"),
    ],
)
def test_settings_that_are_refused(elements: str, words: str, match: str) -> None:
    refused("new", "--elements", *elements.split(), "--out", "new.nn.dat", *words.split(), match=match)


@pytest.mark.parametrize("out", ["new.h5", "new"])
def test_a_potential_needs_its_ending(out: str) -> None:
    refused("new", "--elements", "Si", "--cutoff", "4", "--out", out, match=rf"{out}: expected .*\.nn\.dat")


def test_masses_of_all_elements_are_numbers() -> None:
    from pyfit_gpu.models.new_potential import new_potential

    symbols = [symbol for symbol, number in atomic_numbers.items() if number > 0]
    masses = [new_potential([symbol], 4.0).masses[0] for symbol in symbols]
    assert np.isfinite(masses).all()
    assert min(masses) > 1


class TestStructures:
    """Structures give what is not given."""

    @staticmethod
    def made(*words: object) -> tuple[tuple[str, ...], float, float]:
        done("new", "--out", "new.nn.dat", "--overwrite", *words)
        found = pf.load_potential("new.nn.dat").descriptor
        return found.elements, found.cutoff, found.gaussian_centers[0]

    @pytest.fixture(autouse=True)
    def files(self) -> None:
        write("si.extxyz", bulk("Si", "diamond", a=5.43))  # shells at 2.351, 3.840 and 4.502 Å
        write("sic.extxyz", bulk("SiC", "zincblende", a=4.36, cubic=True))  # 1.888, 3.083 and 3.615 Å
        write("cu.extxyz", bulk("Cu", "fcc", a=3.6))  # third shell at 4.409 Å

    def test_one_file(self) -> None:
        assert self.made("--structures", "si.extxyz") == (("Si",), 5.3, 1.8)
        assert self.made("--structures", "cu.extxyz", "--cutoff-width", 1.5) == (("Cu",), 5.6, 1.9)

    def test_several_files_in_their_order(self) -> None:
        """Eight of eleven atoms are those of silicon carbide."""
        assert self.made("--structures", "cu.extxyz", "sic.extxyz", "si.extxyz") == (("Cu", "Si", "C"), 4.4, 1.3)

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ("--elements C Si", (("C", "Si"), 4.4, 1.3)),
            ("--cutoff 5.5", (("Si", "C"), 5.5, 1.3)),
            ("--first-center 0.7", (("Si", "C"), 4.4, 0.7)),
            ("--gaussian-centers 1.1 2.2", (("Si", "C"), 4.4, 1.1)),
        ],
    )
    def test_what_is_given_wins(self, words: str, expected: tuple[tuple[str, ...], float, float]) -> None:
        assert self.made("--structures", "sic.extxyz", *words.split()) == expected

    def test_one_atom_alone(self) -> None:
        write("ar.extxyz", Atoms("Ar"))
        assert self.made("--structures", "ar.extxyz") == (("Ar",), 6.0, 2.4)

    @pytest.mark.parametrize(
        ("words", "match"),
        [
            ("", "elements: expected, or structures from which to take it"),
            ("--structures absent.extxyz", "absent.extxyz"),
            ("--structures bad.extxyz", "bad.extxyz"),
            ("--structures old.dat", "elements: expected, the structures do not name theirs"),
        ],
    )
    def test_refused(self, words: str, match: str) -> None:
        Path("bad.extxyz").write_text("2\nnothing\nSi 0 0\n")
        shutil.copy(OWN / "structures.poscar.dat", "old.dat")
        refused("new", "--out", "new.nn.dat", *words.split(), match=match)

    def test_structures_are_not_overwritten(self) -> None:
        shutil.copy("si.extxyz", "si.dat")
        refused("new", "--structures", "si.dat", "--out", "si.dat", "--overwrite", match=r"si\.dat")
