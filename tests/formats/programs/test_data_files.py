"""Data of other fitting programs and of Qbox: every field in eV and Å, and every fault with its place."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import program_samples as samples
import pytest

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.opening import read_frames
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.structures.frames import Frame

HARTREE, BOHR = 27.211386, 0.52917721
GPA = 1 / 160.21766
ANGSTROM = ReadOptions(units="eV,Ang")


def expect_sample(frame: Frame, stress: np.ndarray | None = samples.STRESS, tolerance: float = 1e-12) -> None:
    """The frame is the structure of the samples."""
    np.testing.assert_allclose(frame.positions, samples.POSITIONS, atol=tolerance)
    np.testing.assert_allclose(frame.cell, 5 * np.eye(3), rtol=tolerance)
    np.testing.assert_allclose(frame.forces, samples.FORCES, atol=tolerance)
    assert frame.energy == pytest.approx(samples.ENERGY, rel=tolerance)
    assert frame.pbc.all()
    assert frame.stress is None if stress is None else np.allclose(frame.stress, stress, rtol=max(tolerance, 1e-7))


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Frame]]:
    """Frames of a text."""

    def read(text: str, options: ReadOptions | None = None) -> list[Frame]:
        (tmp_path / "data").write_text(text)
        return list(read_frames(tmp_path / "data", options=options))

    return read


class TestQbox:
    def test_numbers(self, read: Callable[..., list[Frame]]) -> None:
        (frame,) = read(samples.QBOX)
        assert frame.energy == pytest.approx(-7.9 * HARTREE, rel=1e-7)
        np.testing.assert_allclose(frame.cell, 10 * BOHR * np.eye(3), rtol=1e-7)
        np.testing.assert_allclose(frame.positions[1], np.array([4, 2, 2]) * BOHR, rtol=1e-7)
        np.testing.assert_allclose(frame.forces[0], [0.01 * HARTREE / BOHR, 0, 0], rtol=1e-7)
        np.testing.assert_allclose(frame.stress, -GPA * np.array([1, 2, 3, 0.4, 0.5, 0.6]), rtol=1e-6)
        assert frame.atomic_numbers.tolist() == [14, 14]

    def test_no_stress_at_rest(self, read: Callable[..., list[Frame]]) -> None:
        (frame,) = read(samples.QBOX.replace("sigma_eks_", "sigma_"))
        assert frame.stress is None

    @pytest.mark.parametrize(
        ("old", "new", "reason"),
        [
            ("</iteration>", "", "expected iterations that end"),
            ("1.78.4", "qb@LL", "written by qb@ll"),
            ("<etotal>", "<etotal> -3.0 </etotal><etotal>", "structure 1: expected one etotal, found 2"),
            ("0.01 0.0 0.0", "0.01 0.0 nan", "structure 1: force: expected 3 numbers"),
            ('b="0.0 10.0 0.0"', "", "structure 1: unit_cell b: expected 3 numbers, found ''"),
            ("</atomset>", "", "iteration 1: expected XML"),
            ('species="silicon"', 'species="carbon"', "expected chemical symbols, found None"),
        ],
    )
    def test_faults(self, old: str, new: str, reason: str, read: Callable[..., list[Frame]]) -> None:
        with pytest.raises(InputError, match=re.escape(reason)):
            read(samples.QBOX.replace(old, new, 1))


class TestRunner:
    def test_numbers(self, read: Callable[..., list[Frame]]) -> None:
        first, second = read(samples.RUNNER * 2, ANGSTROM)
        expect_sample(first, stress=None)
        assert second.source.endswith("data, structure 2 (line 11)")

    def test_atomic_units(self, read: Callable[..., list[Frame]]) -> None:
        (frame,) = read(samples.RUNNER, ReadOptions(units="hartree,bohr"))
        assert frame.energy == pytest.approx(-10.5 * HARTREE, rel=1e-7)
        assert frame.positions[1, 0] == pytest.approx(2 * BOHR, rel=1e-7)
        assert frame.cell[0, 0] == pytest.approx(5 * BOHR, rel=1e-7)
        assert frame.forces[0, 0] == pytest.approx(0.25 * HARTREE / BOHR, rel=1e-7)

    def test_molecules_and_lines_without_forces(self, read: Callable[..., list[Frame]]) -> None:
        text = re.sub(r"lattice.*\n", "", samples.RUNNER)
        text = re.sub(r" Si .*", " Si", text).replace("energy -10.5\n", "")
        (frame,) = read(text, ANGSTROM)
        assert not frame.pbc.any()
        assert frame.forces is None
        assert frame.energy is None

    def test_units_must_be_given(self, read: Callable[..., list[Frame]]) -> None:
        with pytest.raises(InputError, match=r"any units and do not say which \(give units='hartree,bohr'") as error:
            read(samples.RUNNER)
        assert error.value.setting == "units"

    @pytest.mark.parametrize(
        ("old", "new", "reason"),
        [
            ("end\n", "", "data: expected a line 'end', found the end of the file"),
            ("energy -10.5", "energy -10.5 eV", "line 8: expected 1 number, found 'energy -10.5 eV'"),
            ("energy", "enthalpy", "line 8: expected lattice, atom"),
            ("lattice 0.0 0.0 5.0\n", "", "structure 1 (line 1): expected 3 lattice vectors or none"),
            ("Si 0.0 0.0 -0.25 0.0 0.0", "Si", "as many cells for all atoms"),
            ("Si", "Sj", "expected chemical symbols, found 'Sj'"),
            ("begin\n", "begin position(3) element\n", "line 1: expected a line 'begin' alone"),
        ],
    )
    def test_faults(self, old: str, new: str, reason: str, read: Callable[..., list[Frame]]) -> None:
        with pytest.raises(InputError, match=re.escape(reason)):
            read(samples.RUNNER.replace(old, new, 1), ANGSTROM)


class TestMtp:
    def test_units_of_other_files_mean_nothing(self, read: Callable[..., list[Frame]]) -> None:
        """The format has eV and Å; an `input.data` in the same set may need others."""
        for got, expected in zip(read(samples.MTP, ReadOptions(units="hartree,bohr")), read(samples.MTP), strict=True):
            assert got.energy == expected.energy
            np.testing.assert_array_equal(got.positions, expected.positions)
            np.testing.assert_array_equal(got.forces, expected.forces)

    def test_numbers(self, read: Callable[..., list[Frame]]) -> None:
        first, second = read(samples.MTP + "\n" + samples.MTP)
        expect_sample(first)
        expect_sample(second)
        assert first.atomic_numbers.tolist() == [0, 0]  # the potential's only element

    def test_columns_and_components_in_another_order(self, read: Callable[..., list[Frame]]) -> None:
        text = samples.MTP.replace("id type cartes_x cartes_y cartes_z fx fy fz", "fz fy fx type nbh site direct_z "
                                   "direct_y direct_x")  # fmt: skip
        text = text.replace("1 0 0.0 0.0 0.0 0.25 0.0 0.0", "0 0 0.25 1 3.5 1 0 0 0")
        text = text.replace("2 0 2.0 1.0 1.0 -0.25 0.0 0.0", "0 0 -0.25 0 3.5 2 0.2 0.2 0.4")
        text = text.replace("xx yy zz yz xz xy\n    1.0 2.0 3.0 0.4 0.5 0.6", "xx yy zz xy xz yz\n 1.0 2 3 0.6 0.5 0.4")
        (frame,) = read(text, ReadOptions(elements=("C", "Si")))
        expect_sample(frame)
        assert frame.atomic_numbers.tolist() == [14, 6]
        assert frame.unread == ("column nbh", "column site")

    def test_elements_must_be_given_for_several_types(self, read: Callable[..., list[Frame]]) -> None:
        with pytest.raises(InputError, match=r"expected the elements of types 0 to 1 \(give elements=") as error:
            read(samples.MTP.replace("2 0 2.0", "2 1 2.0"))
        assert error.value.setting == "elements"
        with pytest.raises(InputError, match=r"expected types 0 to 0 \(of 1 elements\), found 0 to 1"):
            read(samples.MTP.replace("2 0 2.0", "2 1 2.0"), ReadOptions(elements=("Si",)))

    def test_a_virial_without_a_cell_is_not_read(self, read: Callable[..., list[Frame]]) -> None:
        cell = " Supercell\n    5.0 0.0 0.0\n    0.0 5.0 0.0\n    0.0 0.0 5.0\n"
        (frame,) = read(samples.MTP.replace(cell, ""))
        assert (frame.energy, frame.stress) == (samples.ENERGY, None)
        assert frame.unread == ("key virial (without a full cell)",)

    @pytest.mark.parametrize(
        ("old", "new", "reason"),
        [
            ("END_CFG", "", "expected END_CFG, found the end of the file"),
            ("    2\n Super", "    3\n Super", "line 11: expected 8 numbers, found 'Energy'"),
            ("    2\n Super", "    99999999999\n Super", "line 3: expected the number of atoms"),
            ("PlusStress", "Stress", "expected Size, Supercell, AtomData:, Energy, PlusStress"),
            ("cartes_x", "x", "expected AtomData with cartes_x"),
            ("EFS_by  VASP", "EFS_by  VASP_not_converged", "expected a structure whose calculation converged"),
            ("1 0 0.0", "1 0.5 0.0", "expected types 0, 1, .., found other numbers"),
        ],
    )
    def test_faults(self, old: str, new: str, reason: str, read: Callable[..., list[Frame]]) -> None:
        with pytest.raises(InputError, match=re.escape(reason)):
            read(samples.MTP.replace(old, new, 1))


class TestFitsnap:
    def test_numbers(self, tmp_path: Path) -> None:
        samples.write_fitsnap(tmp_path / "Si.json")
        (frame,) = read_frames(tmp_path / "Si.json")
        expect_sample(frame)
        assert frame.atomic_numbers.tolist() == [14, 14]

    def test_kilobar_and_no_comment(self, tmp_path: Path) -> None:
        content = samples.fitsnap(Stress=(samples.VIRIAL / 125 * 1602.176634).tolist())
        content["Dataset"]["StressStyle"] = "kB"
        (tmp_path / "Si.json").write_text(json.dumps(content))
        (frame,) = read_frames(tmp_path / "Si.json")
        expect_sample(frame)

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"NumAtoms": 3}, "expected 3 atom types (NumAtoms), found 2"),
            ({"Energy": "low"}, "Energy: expected numbers, found 'low'"),
            ({"Forces": [[0, 0, 0]]}, "forces must be numbers of shape (2, 3), got float64 (1, 3)"),
            ({"AtomTypes": [1, 2]}, "expected chemical symbols, found 1"),
            ({"Lattice": [[5, 0], [0, 5]]}, "cell must be numbers of shape (3, 3)"),
            ({"Energy": float("nan")}, "expected finite numbers, found NaN"),
        ],
    )
    def test_faults(self, changes: dict, reason: str, tmp_path: Path) -> None:
        samples.write_fitsnap(tmp_path / "Si.json", samples.fitsnap(**changes))
        with pytest.raises(InputError, match=re.escape(reason)):
            list(read_frames(tmp_path / "Si.json"))

    def test_an_unknown_unit(self, tmp_path: Path) -> None:
        content = samples.fitsnap()
        content["Dataset"]["EnergyStyle"] = "kcalpermole"
        samples.write_fitsnap(tmp_path / "Si.json", content)
        with pytest.raises(InputError, match=r"EnergyStyle: expected electronvolt, found 'kcalpermole'"):
            list(read_frames(tmp_path / "Si.json"))


class TestPymatgen:
    KBAR = 0.1 * GPA

    def test_numbers(self, tmp_path: Path) -> None:
        """VASP's pressures in kbar; xy comes before the other two, which are equal here."""
        samples.write_pymatgen(tmp_path / "training.json")
        (frame,) = read_frames(tmp_path / "training.json")
        expect_sample(frame, stress=-self.KBAR * np.array([10, 20, 30, 5, 5, 6]))
        assert frame.group == "Elastic"
        assert frame.atomic_numbers.tolist() == [14, 14]

    def test_an_order_that_is_not_known_is_left_out(self, tmp_path: Path) -> None:
        outputs = {"energy": samples.ENERGY, "forces": samples.FORCES.tolist(), "virial_stress": [1, 2, 3, 4, 5, 6]}
        samples.write_pymatgen(tmp_path / "training.json", samples.pymatgen(outputs=outputs))
        (frame,) = read_frames(tmp_path / "training.json")
        assert frame.stress is None
        assert "key virial_stress (yz and xz differ, and files have them in either order)" in frame.unread

    def test_records_of_a_database(self, tmp_path: Path) -> None:
        """Deeper in objects, with names that the user gives."""
        labels = {"e": -1.0, "outputs": {}, "stress": np.eye(3).tolist(), "kind": "bulk", "w": 2}
        record = samples.pymatgen(**labels)
        (tmp_path / "mp.json").write_text(json.dumps({"mp-1": {"mp-1-0": record, "mp-1-1": record}}))
        options = ReadOptions(energy_key="e", stress_key="stress", group_key="kind", weight_key="w")
        frames = list(read_frames(tmp_path / "mp.json", options=options))
        assert [(frame.energy, frame.group, frame.weight) for frame in frames] == [(-1, "bulk", 2)] * 2
        assert frames[0].stress.tolist() == [1, 1, 1, 0, 0, 0]
        plain = next(iter(read_frames(tmp_path / "mp.json")))
        assert plain.energy is None
        assert "key stress (its unit and sign are not known)" in plain.unread

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"structure": {"sites": []}}, "structure 1: no atoms"),
            ({"structure": {"lattice": {}}}, "expected 'sites', found keys lattice"),
            ({"structure": {"sites": [{"xyz": [0, 0, 0], "species": ["Si"]}]}}, "another layout than expected"),
            (
                {"structure": {"sites": [{"xyz": [0, 0, 0], "species": [{"element": "Si", "occu": 0.5}]}]}},
                "one element",
            ),
            ({"outputs": {"energy": True}}, "energy must be numbers of shape ()"),
            ({"outputs": {"energy": -1, "forces": [[0, 0, 0], [0, 0]]}}, "another layout than expected"),
        ],
    )
    def test_faults(self, changes: dict, reason: str, tmp_path: Path) -> None:
        samples.write_pymatgen(tmp_path / "training.json", samples.pymatgen(**changes))
        with pytest.raises(InputError, match=re.escape(reason)):
            list(read_frames(tmp_path / "training.json"))

    def test_cut_off(self, tmp_path: Path) -> None:
        path = tmp_path / "training.json"
        samples.write_pymatgen(path)
        path.write_text(path.read_text()[:-3])
        with pytest.raises(InputError, match=r"training\.json: no valid JSON: .* line 1 column"):
            list(read_frames(path))


def test_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"\xef\xbb\xbf" + samples.MTP.replace("\n", "\r\n").encode())
    (frame,) = read_frames(tmp_path / "data")
    expect_sample(frame)


def test_compressed(tmp_path: Path) -> None:
    (tmp_path / "train.cfg.gz").write_bytes(gzip.compress(samples.MTP.encode()))
    (frame,) = read_frames(tmp_path / "train.cfg.gz")
    assert frame.group == "train"
    (tmp_path / "cut.cfg.gz").write_bytes(gzip.compress(samples.MTP.encode() * 3000)[:-100])
    with pytest.raises(InputError, match=r"cut\.cfg\.gz: cannot read: .*damaged"):
        list(read_frames(tmp_path / "cut.cfg.gz"))
