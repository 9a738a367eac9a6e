"""Training sets as classic text: there and back within seven digits, and every fault with its file and line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_sets import NAN, make_set

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats import text_set
from pyfit_gpu.formats.dft_text import read_dft_text
from pyfit_gpu.formats.nn_dat import load_potential
from pyfit_gpu.formats.text_set import read_text_set, write_text_set
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.training.fit import fit

Read = Callable[[str | bytes], TrainingSet]

# 2 features (orders 0 and 3, one centre); structures of 2 and 1 atoms; atom lines 13, 15, 17, features 14, 16, 18.
TEXT = """\
 # 1 0.5 1 - Gi version, reference Gi and type of logistic function.
 # 1 - number of chemical species in the system.
 # Si 28.0855
 # 0 0.25 4.5 1.0 0.8
 # 2 0 3
 # 1 2.5
 # 0 9.6 4.7 4.3 1.45 0.12 0.8 0.9 0.85
 # 3 2 2 1
 # 1 - Potential Type
 # 2 - Number of Structures
 # 3 - Number of Atoms
 # ATOM-ID GROUP-NAME GROUP_ID STRUCTURE_ID STRUCTURE_Natom STRUCTURE_E_DFT STRUCTURE_Vol
ATOM-0 Si_B1 1 0 2 -8.500000E+00 2.050000E+01
Gi  -3.125000E-01 1.250000E-01
ATOM-1 Si_B1 1 0 2 -8.500000E+00 2.050000E+01
Gi  -5.000000E-01 7.500000E-01
ATOM-2 Si_B2 2 1 1 -4.250000E+00 1.975000E+01
Gi  6.250000E-02 -2.000000E+00
"""

TWO_ELEMENTS = (
    TEXT.replace("# 1 0.5 1", "# 5 0.5 1")
    .replace(" # 1 - number", " # 2 - number")
    .replace(" # Si 28.0855\n", " # Si 28.0855\n # C 12.011\n")
    .replace("# 2 0 3", "# 1 0")
    .replace("# 3 2 2 1", "# 3 3 2 1")
    .replace("2.050000E+01\n", "2.050000E+01 Si\n", 1)
    .replace("2.050000E+01\n", "2.050000E+01 C\n", 1)
    .replace("1.975000E+01\n", "1.975000E+01 C\n")
)
TWO_ELEMENTS = re.sub(r"^Gi .*$", r"\g<0> 3.500000E+00", TWO_ELEMENTS, flags=re.MULTILINE)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(content: str | bytes) -> TrainingSet:
        path = tmp_path / "set.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_text_set(path)

    return read


def assert_seven_digits(found: torch.Tensor | np.ndarray, expected: torch.Tensor | np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=5.0001e-7, atol=1e-300)


class TestReading:
    def test_everything(self, read: Read) -> None:
        found = read(TEXT)
        assert found.groups == ("Si_B1", "Si_B2")
        assert found.sizes.tolist() == [2, 1]
        assert found.energy.tolist() == found.energy_used.tolist() == [-8.5, -4.25]
        assert found.energy_shift is None
        assert found.volume_per_atom.tolist() == [20.5, 19.75]
        assert found.volume.tolist() == [41.0, 19.75]
        assert found.features.tolist() == [[-0.3125, 0.125], [-0.5, 0.75], [0.0625, -2.0]]
        assert found.species.tolist() == [0, 0, 0]
        descriptor = found.descriptor
        assert (descriptor.elements, descriptor.gi_mode, descriptor.shift) == (("Si",), 1, 0.5)
        assert (descriptor.cutoff, descriptor.cutoff_width, descriptor.gaussian_width) == (4.5, 1.0, 0.8)
        assert (descriptor.legendre_orders, descriptor.gaussian_centers) == ((0, 3), (2.5,))

    @pytest.mark.parametrize("piece", [1, 2, 5])
    def test_in_pieces(self, read: Read, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
        monkeypatch.setattr(text_set, "_PIECE", piece)
        assert read(TEXT).features.tolist() == [[-0.3125, 0.125], [-0.5, 0.75], [0.0625, -2.0]]
        assert read(TWO_ELEMENTS).species.tolist() == [0, 1, 1]
        with pytest.raises(InputError, match=r"line 18: .*finite"):
            read(FAULTS["infinities that cancel"][0])

    def test_one_input(self, read: Read) -> None:
        content = TEXT.replace("# 2 0 3", "# 1 0").replace("# 3 2 2 1", "# 3 1 2 1")
        content = re.sub(r"^(Gi +\S+) .*$", r"\1", content, flags=re.MULTILINE)
        assert read(content).features.tolist() == [[-0.3125], [-0.5], [0.0625]]

    def test_what_the_text_does_not_hold_is_unknown(self, read: Read) -> None:
        found = read(TEXT)
        for name, shape in (("positions", (3, 3)), ("forces", (3, 3)), ("cell", (2, 3, 3)), ("stress", (2, 6))):
            assert getattr(found, name).shape == shape
            assert getattr(found, name).isnan().all(), name
        assert found.weight.tolist() == [1.0, 1.0]
        assert found.pbc.all()

    def test_types(self, read: Read) -> None:
        for content in (TEXT, TWO_ELEMENTS):
            found = read(content)
            for name in ("features", "energy", "volume", "weight", "positions"):
                assert getattr(found, name).dtype == torch.float64, name
            assert found.species.dtype == found.sizes.dtype == torch.int64
            assert found.pbc.dtype == torch.bool

    def test_any_number_of_digits(self, read: Read) -> None:
        text = TEXT.replace("-3.125000E-01", "-0.31250000000000006").replace("1.250000E-01", "1e-1")
        text = text.replace("-8.500000E+00", "-8.123456789012345").replace("2.050000E+01", "+20.123456789012345")
        found = read(text)
        assert found.features[0].tolist() == [-0.31250000000000006, 0.1]
        assert found.energy[0] == -8.123456789012345
        assert found.volume_per_atom[0] == 20.123456789012345

    @pytest.mark.parametrize(
        "change",
        [
            lambda text: text.replace("\n", "\r\n"),
            lambda text: text.replace(" ", "  ").replace("Gi  ", "Gi\t"),
            lambda text: text.removesuffix("\n"),
            lambda text: "\n\n" + text.replace("\n", "\n\n"),
            lambda text: text.replace(" # ", "#"),
            lambda text: text.replace("Si 28", "'Si' 28"),
            lambda text: "\n".join(f"{line} \t " for line in text.splitlines()),
        ],
        ids=["CRLF", "blanks and tabs", "no final newline", "empty lines", "tight headers", "quotes", "trailing"],
    )
    def test_tolerance(self, read: Read, change: Callable[[str], str]) -> None:
        found, expected = read(change(TEXT)), read(TEXT)
        assert torch.equal(found.features, expected.features)
        assert torch.equal(found.energy, expected.energy)
        assert found.groups == expected.groups
        assert found.descriptor == expected.descriptor

    def test_group_ids_are_not_used(self, read: Read) -> None:
        assert read(TEXT.replace("Si_B1 1", "Si_B1 7")).groups == ("Si_B1", "Si_B2")

    def test_two_elements(self, read: Read) -> None:
        found = read(TWO_ELEMENTS)
        assert found.descriptor.elements == ("Si", "C")
        assert found.species.tolist() == [0, 1, 1]
        assert found.features[:, 2].tolist() == [3.5] * 3

    def test_an_eighth_cell_with_one_element(self, read: Read) -> None:
        assert read(TEXT.replace("E+01\n", "E+01 Si\n")).species.tolist() == [0, 0, 0]

    def test_energy_shift_in_the_header(self, read: Read) -> None:
        """E_used stays, the shift is taken off the energies that are kept beside it."""
        found = read(TEXT.replace("28.0855", "28.0855 - e_shift 107.5"))
        assert found.energy_shift == (107.5,)
        assert found.energy.tolist() == [-8.5 - 215.0, -4.25 - 107.5]
        assert found.energy_used.tolist() == [-8.5, -4.25]

    def test_energy_shift_of_each_element(self, read: Read) -> None:
        text = TWO_ELEMENTS.replace("28.0855", "28.0855 - e_shift 100.0").replace("12.011", "12.011 - e_shift 10.0")
        found = read(text)
        assert found.energy_shift == (100.0, 10.0)
        assert found.energy.tolist() == [-8.5 - 110.0, -4.25 - 10.0]

    def test_energy_shift_of_one_element_only_is_unknown(self, read: Read) -> None:
        found = read(TWO_ELEMENTS.replace("28.0855", "28.0855 - e_shift 100.0"))
        assert found.energy_shift is None
        assert found.energy.tolist() == [-8.5, -4.25]

    def test_no_dft(self, read: Read) -> None:
        found = read(TEXT.replace("Si_B1", "NO_DFT_x"))
        assert found.groups == ("NO_DFT_x", "Si_B2")
        assert found.has_energy.tolist() == [False, True]

    def test_it_can_be_trained_on(self, read: Read, tmp_path: Path) -> None:
        """With the header alone as a potential: what the set holds is enough."""
        header = [line.removeprefix(" # ") for line in TEXT.splitlines()[:8]]
        weights = [f"{0.1 * k} 0.0" for k in range(9)]
        (tmp_path / "si.nn.dat").write_text("\n".join([*header, *weights]) + "\n")
        history = fit(load_potential(tmp_path / "si.nn.dat"), read(TEXT), steps=3)
        assert history.loss[3] < history.loss[0]


class TestRoundTrip:
    @pytest.mark.parametrize(
        ("nn", "e_shift"), [("nn_mode1", 107.0), ("nn_mode0", 0.0), ("nn_mode1", 0.795023)], ids=str
    )
    def test_of_a_file(self, own_data: Path, tmp_path: Path, nn: str, e_shift: float) -> None:
        structures = Structures.from_frames(list(read_dft_text(own_data / "structures.poscar.dat")))
        whole = build_training_set(structures, load_potential(own_data / f"{nn}.nn.dat"), e_shift=e_shift)
        write_text_set(whole, tmp_path / "set.txt")
        found = read_text_set(tmp_path / "set.txt")
        assert found.groups == whole.groups
        assert found.descriptor == whole.descriptor
        assert found.energy_shift == (e_shift,)
        assert torch.equal(found.sizes, whole.sizes)
        assert torch.equal(found.species, whole.species)
        assert_seven_digits(found.features, whole.features)
        assert_seven_digits(found.energy_used, whole.energy_used)
        assert_seven_digits(found.volume_per_atom, whole.volume_per_atom)

    @pytest.mark.parametrize("shift", [(100.1, 10.2), None], ids=["shifts", "unknown shift"])
    def test_two_elements(self, tmp_path: Path, shift: tuple[float, float] | None) -> None:
        whole = replace(make_set([3, 1, 4, 2], ("Si", "C"), energy=[-1.0, NAN, -1.5, -0.25]), energy_shift=shift)
        assert set(whole.species.tolist()) == {0, 1}
        write_text_set(whole, tmp_path / "set.txt")
        found = read_text_set(tmp_path / "set.txt")
        assert found.energy_shift == shift
        assert torch.equal(found.species, whole.species)
        assert found.has_energy.tolist() == [True, False, True, True]
        known = whole.has_energy
        assert_seven_digits(found.energy_used[known], whole.energy_used[known])
        np.testing.assert_allclose(found.energy[known], whole.energy[known], atol=5e-4)
        assert_seven_digits(found.features, whole.features)

    def test_a_second_time_nothing_changes(self, tmp_path: Path) -> None:
        """Seven digits once lost are lost; the text itself is stable."""
        write_text_set(make_set([3, 1, 4], ("Si", "C"), energy_shift=(1.5, 2.5)), tmp_path / "one.txt")
        write_text_set(read_text_set(tmp_path / "one.txt"), tmp_path / "two.txt")
        write_text_set(read_text_set(tmp_path / "two.txt"), tmp_path / "three.txt")
        assert (tmp_path / "three.txt").read_bytes() == (tmp_path / "one.txt").read_bytes()

    def test_structures_without_an_energy(self, tmp_path: Path) -> None:
        """Their group says so, with the prefix if need be; the energy in the text is 0."""
        whole = make_set([1, 2, 1, 1], groups=["a", "a", "NO_DFT_b", "a"], energy=[-1.0, NAN, NAN, -2.0])
        write_text_set(whole, tmp_path / "set.txt")
        cells = [line.split() for line in (tmp_path / "set.txt").read_text().splitlines() if line.startswith("ATOM-")]
        assert [row[1] for row in cells] == ["a", "NO_DFT_a", "NO_DFT_a", "NO_DFT_b", "a"]
        assert [row[2] for row in cells] == ["1", "2", "2", "3", "1"]
        assert [float(row[5]) for row in cells] == [-1.0, 0.0, 0.0, 0.0, -2.0]
        found = read_text_set(tmp_path / "set.txt")
        assert found.has_energy.tolist() == [True, False, False, True]

    def test_from_another_precision(self, tmp_path: Path) -> None:
        whole = make_set()
        write_text_set(whole.to("cpu", torch.float32), tmp_path / "set.txt")
        np.testing.assert_allclose(read_text_set(tmp_path / "set.txt").features, whole.features, rtol=1e-6)


class TestWriting:
    def test_to_the_byte(self, read: Read, tmp_path: Path) -> None:
        """The classic layout. Comments on the header lines are ours; the numbers and all other lines are not."""
        write_text_set(read(TEXT), tmp_path / "out.txt")
        lines = (tmp_path / "out.txt").read_text().splitlines()
        expected = TEXT.splitlines()
        assert lines[8:] == expected[8:]
        assert len(lines) == len(expected)
        for line, model in zip(lines[:8], expected[:8], strict=True):
            assert line.startswith(" # ")
            numbers = model.split(" - ")[0].split()[1:]
            found = line.split()[1 : 1 + len(numbers)]
            assert [_number(cell) for cell in found] == [_number(cell) for cell in numbers]

    def test_element_column(self, read: Read, tmp_path: Path) -> None:
        write_text_set(read(TWO_ELEMENTS), tmp_path / "out.txt")
        assert (tmp_path / "out.txt").read_text().splitlines()[9:] == TWO_ELEMENTS.splitlines()[9:]

    def test_energies_are_those_used(self, tmp_path: Path) -> None:
        whole = make_set([2, 1], energy=[-215.25, -107.5], energy_shift=(107.0,))
        write_text_set(whole, tmp_path / "out.txt")
        cells = [line.split() for line in (tmp_path / "out.txt").read_text().splitlines() if line.startswith("ATOM-")]
        assert [row[5] for row in cells] == ["-1.250000E+00", "-1.250000E+00", "-5.000000E-01"]
        assert "e_shift 107.0" in (tmp_path / "out.txt").read_text()

    def test_the_shift_is_the_sets_own(self, tmp_path: Path) -> None:
        """Not that of the potential whose header the set carries."""
        whole = make_set([1])
        other = replace(whole.potential, energy_shift=torch.tensor([3.5], dtype=torch.float64))
        for shift in ((107.25,), None):
            write_text_set(replace(whole, potential=other, energy_shift=shift), tmp_path / "out.txt")
            assert read_text_set(tmp_path / "out.txt").energy_shift == shift

    def test_an_old_file_survives_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "set.txt"
        path.write_text("old")
        broken = replace(make_set([2, 1]), species=torch.tensor([0, 0]))
        with pytest.raises(Exception):  # noqa: B017 - whatever goes wrong half-way
            write_text_set(replace(broken, features=broken.features[:2]), path)
        assert path.read_text() == "old"
        assert [one.name for one in tmp_path.iterdir()] == ["set.txt"]

    @pytest.mark.parametrize("group", ["two words", "", "tab\tbed", "new\nline"])
    def test_a_group_that_is_not_one_word(self, tmp_path: Path, group: str) -> None:
        """Groups of other formats may be anything: what is written can be read, or nothing is written."""
        whole = make_set([1, 2], groups=["a", group])
        try:
            write_text_set(whole, tmp_path / "set.txt")
        except InputError:
            assert list(tmp_path.iterdir()) == []
        else:
            assert len(read_text_set(tmp_path / "set.txt")) == 2

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nowhere/set.txt: cannot write"):
            write_text_set(make_set(), tmp_path / "nowhere" / "set.txt")


def _number(cell: str) -> float | str:
    return float(cell) if re.fullmatch(r"[-+.\deE]+", cell) else cell.strip("'\"")


def with_line(number: int, text: str | None, content: str = TEXT) -> str:
    """Line `number` replaced, or taken out."""
    lines = content.splitlines(keepends=True)
    lines[number - 1] = "" if text is None else text + "\n"
    return "".join(lines)


# name: (content, what the message must say after the file's name)
FAULTS: dict[str, tuple[str, str]] = {
    "a number of structures that is too large": (TEXT.replace("# 2 - Number", "# 3 - Number"), r"3 structures"),
    "a number of structures that is too small": (TEXT.replace("# 2 - Number", "# 1 - Number"), r"1 structure"),
    "a number of atoms that is too large": (TEXT.replace("# 3 - Number", "# 4 - Number"), r"ATOM-3.*end of the file"),
    "more atoms than the memory holds": (
        TEXT.replace("# 3 - Number", "# 99999999999 - Number"),
        r"line 11: expected at most \d+ atoms.*found '# 99999999999 - Number",
    ),
    "a number of atoms that is too small": (TEXT.replace("# 3 - Number", "# 2 - Number"), r"line 17: .*2 atoms"),
    "atoms that end inside a structure": (
        with_line(17, None, with_line(18, None))
        .replace("B1 1 0 2", "B1 1 0 3")
        .replace("# 3 - Number", "# 2 - Number"),
        r"1 more atoms? of structure 0",
    ),
    "no atoms": (TEXT.replace("# 3 - Number", "# 0 - Number"), r"line 1[012]: .*at least one"),
    "no structures": (TEXT.replace("# 2 - Number", "# 0 - Number"), r"line 1[012]: .*at least one"),
    "a negative count": (TEXT.replace("# 3 - Number", "# -3 - Number"), r"line 11: .*number of atoms"),
    "a count with a fraction": (TEXT.replace("# 3 - Number", "# 3.5 - Number"), r"line 11: .*number of atoms"),
    "a count in other digits": (TEXT.replace("# 3 - Number", "# \N{SUPERSCRIPT THREE} - Number"), r"line 11: .*atoms"),
    "an informed network": (TEXT.replace("# 1 - Potential", "# 2 - Potential"), r"line 9: .*potential type"),
    "no potential type": (with_line(9, None), r"line 9: .*potential type"),
    "no number of structures": (with_line(10, None), r"line 11: .*number of atoms"),
    "no number of atoms": (with_line(11, None), r"line 11: .*number of atoms"),
    "no names of the columns": (with_line(12, None), r"line 12: .*columns.*ATOM-0"),
    "a wrong gi_mode": (with_line(1, " # 7 0.5 1"), r"line 1\b.*gi_mode"),
    "a gi_mode that is no number": (with_line(1, " # one 0.5 1"), r"line 1\b"),
    "a header line without its mark": (with_line(5, " 2 0 3"), r"line 5: .*#"),
    "too few Legendre orders": (with_line(5, " # 2 0"), r"line 5\b.*Legendre"),
    "an infinite cutoff": (with_line(4, " # 0 0.25 inf 1.0 0.8"), r"line 4\b"),
    "layers that do not fit": (with_line(8, " # 3 5 2 1"), r"line 8\b.*2 inputs"),
    "NaN among the inputs": (with_line(16, "Gi  -5.000000E-01 nan"), r"line 16: .*finite.*nan"),
    "infinity among the inputs": (with_line(18, "Gi  -inf 1.0"), r"line 18: .*finite"),
    "infinities that cancel": (with_line(18, "Gi  -inf inf"), r"line 18: .*finite"),
    "an input that is no number": (with_line(14, "Gi  -3.125000E-01 x"), r"line 14: .*2 network inputs"),
    "an input with an underscore": (with_line(14, "Gi  -3.125000E-01 1_0.0"), r"line 14: "),
    "Fortran's exponent": (with_line(14, "Gi  -3.125000D-01 1.0"), r"line 14: "),
    "too few inputs": (with_line(14, "Gi  -3.125000E-01"), r"line 14: .*2 network inputs"),
    "too many inputs": (with_line(14, "Gi  -3.125000E-01 1.0 2.0"), r"line 14: .*2 network inputs"),
    "no inputs": (with_line(14, None), r"line 14: .*Gi"),
    "inputs under another name": (with_line(14, "gi  -3.125000E-01 1.0"), r"line 14: .*Gi"),
    "inputs under a longer name": (with_line(14, "Gix -3.125000E-01 1.0"), r"line 14: .*Gi"),
    "an energy that is NaN": (TEXT.replace("-4.250000E+00", "nan"), r"line 17: .*finite"),
    "an energy that is no number": (TEXT.replace("-4.250000E+00", "unknown"), r"line 17: .*energy"),
    "an infinite volume": (TEXT.replace("1.975000E+01", "inf"), r"line 17: .*finite"),
    "a wrong atom id": (TEXT.replace("ATOM-1", "ATOM-2", 1), r"line 15: .*ATOM-1"),
    "an atom twice": (TEXT.replace("ATOM-2", "ATOM-1"), r"line 17: .*ATOM-2"),
    "an atom without its id": (TEXT.replace("ATOM-2 ", ""), r"line 17: .*ATOM-2"),
    "another group in a structure": (
        with_line(15, "ATOM-1 Si_B9 1 0 2 -8.500000E+00 2.050000E+01"),
        r"line 15: .*same",
    ),
    "another energy in a structure": (
        with_line(15, "ATOM-1 Si_B1 1 0 2 -8.600000E+00 2.050000E+01"),
        r"line 15: .*same",
    ),
    "another volume in a structure": (
        with_line(15, "ATOM-1 Si_B1 1 0 2 -8.500000E+00 2.060000E+01"),
        r"line 15: .*same",
    ),
    "another size in a structure": (with_line(15, "ATOM-1 Si_B1 1 0 3 -8.500000E+00 2.050000E+01"), r"line 15: .*same"),
    "another number in a structure": (
        with_line(15, "ATOM-1 Si_B1 1 1 2 -8.500000E+00 2.050000E+01"),
        r"line 15: .*same",
    ),
    "a structure number left out": (TEXT.replace("Si_B2 2 1 1", "Si_B2 2 2 1"), r"line 17: .*structure number 1"),
    "a structure of no atoms": (TEXT.replace("Si_B2 2 1 1", "Si_B2 2 1 0"), r"line 17: .*number of atoms"),
    "a structure that is larger than said": (
        TEXT.replace("Si_B2 2 1 1", "Si_B2 2 1 2"),
        r"1 more atoms? of structure 1",
    ),
    "a size that is no number": (TEXT.replace("Si_B2 2 1 1", "Si_B2 2 1 x"), r"line 17: "),
    "too few cells": (TEXT.replace(" 1.975000E+01", ""), r"line 17: "),
    "something after the last atom": (TEXT + "ATOM-3 Si_B2 2 2 1 0.0 1.0\n", r"line 19: .*no more"),
    "an element that the header lacks": (TWO_ELEMENTS.replace("+01 Si", "+01 Ge"), r"line 14: .*element.*Si, C"),
    "no element": (TWO_ELEMENTS.replace("+01 Si", "+01"), r"line 14: "),
}


class TestFaults:
    @pytest.mark.parametrize("name", FAULTS)
    def test_file_and_place_are_named(self, read: Read, tmp_path: Path, name: str) -> None:
        content, said = FAULTS[name]
        assert content not in (TEXT, TWO_ELEMENTS)
        with pytest.raises(InputError, match=rf"(?s)^{re.escape(str(tmp_path / 'set.txt'))}.*{said}"):
            read(content)

    def test_the_samples_are_sound(self, read: Read) -> None:
        """Or the faults above would prove nothing."""
        read(TEXT)
        read(TWO_ELEMENTS)

    @pytest.mark.parametrize("content", [TEXT, TWO_ELEMENTS], ids=["one element", "two elements"])
    def test_truncated_anywhere(self, read: Read, content: str) -> None:
        """After any line, and in the middle of any."""
        lines = content.splitlines(keepends=True)
        for count in range(len(lines)):
            with pytest.raises(InputError, match=r"set.txt.*(end of the file|expected)"):
                read("".join(lines[:count]))
            if 0 < count < len(lines) - 1:
                with pytest.raises(InputError, match=r"set.txt"):
                    read("".join(lines[:count]) + lines[count][: len(lines[count]) // 3])

    def test_the_shortest_lines_have_room(self, read: Read) -> None:
        """The number of atoms is bounded by the file's size: never below what a file can hold."""
        header = TEXT[: TEXT.index("ATOM-0")]
        atoms = "".join(f"ATOM-{atom} g 1 {atom} 1 1 1\nGi 1 1\n" for atom in range(1000))
        content = header.replace("# 2 - Number", "# 1000 - Number").replace("# 3 - Number", "# 1000 - Number") + atoms
        assert len(read(content.removesuffix("\n"))) == 1000

    def test_line_numbers_count_empty_lines(self, read: Read) -> None:
        """In the header as below it: the editor's line."""
        with pytest.raises(InputError, match=r"line 18: .*2 network inputs"):
            read("\n\n" + with_line(16, "Gi  1.0"))
        with pytest.raises(InputError, match=r"line 7\b.*Legendre"):
            read("\n\n" + with_line(5, " # 2 0"))

    @pytest.mark.parametrize("later", ["an atom", "the end"])
    def test_the_first_of_two_faults_is_named(self, read: Read, later: str) -> None:
        """Although numbers are parsed after the lines they stand on have been collected."""
        content = with_line(14, "Gi  -3.125000E-01 x")
        content = with_line(17, "ATOM-9", content) if later == "an atom" else content[: content.index("ATOM-2")]
        with pytest.raises(InputError, match=r"line 14: .*2 network inputs"):
            read(content)

    def test_binary(self, read: Read) -> None:
        for content in (b"\xff\xfe#\x00", TEXT.encode()[:200] + b"\xff\xfe", b"#\0\0\0\n" * 30, TEXT.encode() + b"\0"):
            with pytest.raises(InputError, match=r"set.txt.*(binary|expected)"):
                read(content)

    @pytest.mark.parametrize("content", [TEXT, TWO_ELEMENTS], ids=["one element", "two elements"])
    def test_cut_within_the_last_number(self, read: Read, content: str) -> None:
        last = content.split()[-1]
        assert len(read(content.removesuffix("\n"))) == 2
        for cut in range(2, len(last) + 1):
            with pytest.raises(InputError, match=r"set\.txt, line \d+: expected"):
                read(content[:-cut])
        with pytest.raises(InputError, match=r"line end after the last number, which may be cut.*found 'Gi"):
            read(content[:-2])

    @pytest.mark.parametrize("cell", ["\u0661.5", "1_0", "1\u0660"])
    @pytest.mark.parametrize("line", ["ATOM-2 Si_B2 2 1 1 {} 1.975000E+01", "ATOM-2 Si_B2 2 1 {} 1 1", "Gi  1 {}"])
    def test_forms_that_python_takes(self, read: Read, line: str, cell: str) -> None:
        place = 18 if line.startswith("Gi") else 17
        with pytest.raises(InputError, match=rf"set\.txt, line {place}: expected"):
            read(with_line(place, line.format(cell)))

    def test_a_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match=r"pipe: cannot read: expected a file, found a pipe"):
            read_text_set(tmp_path / "pipe")

    def test_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nowhere.txt: cannot read: No such file"):
            read_text_set(tmp_path / "nowhere.txt")
