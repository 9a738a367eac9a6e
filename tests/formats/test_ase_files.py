"""ASE-readable files: labels and units come over, and everything ASE would drop quietly is an error."""

# mypy: allow-untyped-calls
from __future__ import annotations

import gzip
import os
import sqlite3
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.ase_files import looks_like_ase, read_ase_frames
from pyfit_gpu.formats.head import Head, read_head
from pyfit_gpu.formats.read_options import ReadOptions

VASPRUN = Path(__file__).parents[1] / "data" / "vasp" / "vasprun.xml"
FORCES = [[0.1, 0.0, -0.2], [-0.1, 0.0, 0.2]]


def read(path: Path) -> Any:
    return list(read_ase_frames(path))


def dimer(**results: Any) -> Atoms:
    atoms = Atoms("SiC", [[0, 0, 0], [1.1, 1.2, 1.3]], cell=[4, 5, 6], pbc=[True, True, False])
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


# --- what a structure carries


@pytest.mark.parametrize("name", ["a.traj", "a.db", "a.json", "a.traj.gz"])
def test_labels_come_from_every_format(tmp_path: Path, name: str) -> None:
    stress = np.array([1.0, 2.0, 3.0, 0.4, 0.5, 0.6])
    images = [dimer(energy=-1.5, free_energy=-1.25, forces=FORCES, stress=stress), dimer()]
    ase.io.write(tmp_path / name, images)
    full, bare = read(tmp_path / name)
    assert full.energy == -1.25  # force-consistent before extrapolated
    np.testing.assert_allclose(full.forces, FORCES)
    np.testing.assert_array_equal(full.stress, stress)
    np.testing.assert_allclose(full.positions[1], [1.1, 1.2, 1.3])
    np.testing.assert_array_equal(full.cell, np.diag([4.0, 5.0, 6.0]))
    assert full.pbc.tolist() == [True, True, False]
    assert full.atomic_numbers.tolist() == [14, 6]
    assert (bare.energy, bare.forces, bare.stress) == (None, None, None)
    assert bare.source == f"{tmp_path / name}, structure 2"
    assert (bare.group, bare.weight) == ("a", 1.0)
    for array in (full.positions, full.cell, full.forces, full.stress):
        assert array.dtype == np.float64
    assert full.atomic_numbers.dtype == np.int64


def test_energy_without_free_energy(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.traj", dimer(energy=-1.5))
    assert read(tmp_path / "a.traj")[0].energy == -1.5


def test_database_rows_carry_key_value_pairs(tmp_path: Path) -> None:
    with ase.db.connect(tmp_path / "rows.db") as database:
        database.write(dimer(energy=-1.5, free_energy=-1.25), group="fcc bulk", weight=2.5)
        database.write(dimer(energy=-2.5), config_type="liquid")
        database.write(dimer(), group=" ")
    frames = read(tmp_path / "rows.db")
    assert [f.group for f in frames] == ["fcc_bulk", "liquid", "rows"]
    assert [f.weight for f in frames] == [2.5, 1.0, 1.0]
    assert [f.energy for f in frames] == [-1.25, -2.5, None]


def test_compressed_databases_are_named(tmp_path: Path) -> None:
    with ase.db.connect(tmp_path / "rows.db") as database:
        database.write(dimer())
    (tmp_path / "rows.db.gz").write_bytes(gzip.compress((tmp_path / "rows.db").read_bytes()))
    with pytest.raises(InputError, match=r"rows\.db\.gz: expected a database of ASE as it is, found a compressed one"):
        read(tmp_path / "rows.db.gz")


def test_someone_elses_database_is_refused_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (x INTEGER)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"other\.db: ASE cannot read it .*no such table: systems"):
        read(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["postgres.traj", "si.dat", "noextension"])
def test_names_that_mean_more_to_ase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    ase.io.write("a.traj", dimer(energy=-3.0))
    os.rename("a.traj", name)
    frames = list(read_ase_frames(name))
    assert (frames[0].energy, frames[0].source) == (-3.0, f"{name}, structure 1")


def test_at_sign_in_a_name_is_no_index(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "set.traj", [dimer(), dimer()])
    os.rename(tmp_path / "set.traj", tmp_path / "set@1.traj")
    assert len(read(tmp_path / "set@1.traj")) == 2


@pytest.mark.parametrize("shape", [(3, 3), (9,)])
def test_stress_matrix_becomes_voigt(tmp_path: Path, shape: tuple[int, ...]) -> None:
    atoms = dimer(energy=0.0)
    atoms.calc.results["stress"] = np.array([[1, 6, 5], [6, 2, 4], [5, 4, 3]], float).reshape(shape)
    ase.io.write(tmp_path / "a.traj", atoms)
    assert read(tmp_path / "a.traj")[0].stress.tolist() == [1, 2, 3, 4, 5, 6]


def test_constraints_do_not_touch_forces(tmp_path: Path) -> None:
    atoms = dimer(energy=0.0, forces=FORCES)
    atoms.set_constraint(FixAtoms([0, 1]))
    for name in ("a.traj", "a.db"):
        ase.io.write(tmp_path / name, atoms)
        np.testing.assert_allclose(read(tmp_path / name)[0].forces, FORCES)


def triangle() -> Atoms:
    return Atoms("Si3", 2.2 * np.eye(3), cell=[4, 4, 4], pbc=True)


def test_labels_under_other_names(tmp_path: Path) -> None:
    """Names in use are known in info; others are given, or named as not read."""
    atoms = triangle()
    forces = np.arange(9.0).reshape(3, 3)
    atoms.info |= {"REF_energy": -3.0, "virial": -64 * np.eye(3), "unit": np.eye(3), "my_stress": 2 * np.eye(3)}
    atoms.info |= {"dft_forces": forces, "my_forces": 2 * forces}  # a trajectory has no arrays of other names
    ase.io.write(tmp_path / "a.traj", atoms)
    (found,) = read(tmp_path / "a.traj")
    assert found.energy == -3
    np.testing.assert_array_equal(found.forces, forces)
    np.testing.assert_allclose(found.stress, [1, 1, 1, 0, 0, 0], atol=1e-12)
    assert set(found.unread) == {f"column {name}" for name in ("my_stress", "unit", "my_forces")}
    options = ReadOptions(stress_key="MY_stress", forces_key="my_forces")
    (chosen,) = read_ase_frames(tmp_path / "a.traj", options)
    np.testing.assert_array_equal(chosen.forces, 2 * forces)
    np.testing.assert_array_equal(chosen.stress, [2, 2, 2, 0, 0, 0])
    assert chosen.chosen == ("forces_key", "stress_key")


def test_a_stress_of_three_atoms_is_no_column(tmp_path: Path) -> None:
    atoms = triangle()
    atoms.info["stress"] = np.diag([1.0, 2.0, 3.0])
    ase.io.write(tmp_path / "a.traj", atoms)
    assert read(tmp_path / "a.traj")[0].stress.tolist() == [1, 2, 3, 0, 0, 0]


def test_contradictions_within_a_row_of_a_database(tmp_path: Path) -> None:
    with ase.db.connect(tmp_path / "rows.db") as database:
        database.write(dimer(energy=-1.5), dft_energy=-1.75)
    with pytest.raises(InputError, match=r"structure 1: has two labels .*: energy -1\.5; dft_energy -1\.75"):
        read(tmp_path / "rows.db")
    (found,) = read_ase_frames(tmp_path / "rows.db", ReadOptions(energy_key="dft_energy"))
    assert found.energy == -1.75


def test_data_of_a_database(tmp_path: Path) -> None:
    with ase.db.connect(tmp_path / "rows.db") as database:
        database.write(dimer(), data={"forces": np.array(FORCES), "REF_energy": -2.5, "note": "x"})
    (found,) = read(tmp_path / "rows.db")
    assert found.energy == -2.5
    np.testing.assert_array_equal(found.forces, FORCES)
    assert found.unread == ("key note",)


# --- what is refused


@pytest.mark.parametrize(
    ("property", "value", "message"),
    [
        ("forces", np.zeros((1, 3)), r"forces must be numbers of shape \(2, 3\), got float64 \(1, 3\)"),
        ("stress", np.zeros(5), r"stress must be numbers of shape \(6,\), got float64 \(5,\)"),
    ],
)
def test_labels_of_a_wrong_shape(tmp_path: Path, property: str, value: object, message: str) -> None:
    atoms = dimer(energy=0.0)
    atoms.calc.results[property] = value
    ase.io.write(tmp_path / "a.traj", atoms)
    with pytest.raises(InputError, match=rf"a\.traj, structure 1: {message}"):
        read(tmp_path / "a.traj")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.db", b"", "the file is empty"),
        ("unknown.abc", b"nothing that anyone knows\n", r"ASE cannot read it \(UnknownFileTypeError: "),
        ("text.cif", b"not a crystal\n", "ASE cannot read it"),
        ("binary.traj", bytes(range(256)), "ASE cannot read it"),
        ("binary.db", bytes(range(256)), r"ASE cannot read it \(DatabaseError: "),
        ("binary", bytes(range(256)), r"ASE cannot read it \(UnknownFileTypeError: "),
        ("text.traj.gz", b"no archive\n", r"cannot read: Not a gzipped file .* \(damaged, "),
        ("half.cif.gz", gzip.compress(b"data_a\n" * 99, mtime=0)[:-9], r"cannot read: Compressed .* \(damaged, "),
        ("other.json", b'{"shards": []}', "ASE cannot read it"),
    ],
)
def test_files_that_hold_nothing(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: {message}"):
        read(tmp_path / name)


def test_files_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"absent\.traj: cannot read: No such file") as caught:
        read(tmp_path / "absent.traj")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    (tmp_path / "folder.traj").mkdir()
    with pytest.raises(InputError, match=r"folder\.traj: cannot read: Is a directory"):
        read(tmp_path / "folder.traj")

    ase.io.write(tmp_path / "closed.traj", dimer())

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "closed.traj").touch()
    monkeypatch.setattr("builtins.open", refuse)  # the superuser may read every file
    with pytest.raises(InputError, match=r"closed\.traj: cannot read: Permission denied"):
        read(tmp_path / "closed.traj")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_is_no_fault_of_the_file_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise stop

    path = tmp_path / "a.traj"
    ase.io.write(path, dimer())
    monkeypatch.setattr(ase.io, "iread", interrupted)
    with pytest.raises(stop):
        read(path)


# --- recognising


@pytest.mark.parametrize(
    "name",
    [
        *("a.db", "A.DB", "a.traj", "a.traj.gz", "a.cif"),
    ],
)
def test_looks_like_ase_by_name(tmp_path: Path, name: str) -> None:
    assert looks_like_ase(Head(str(tmp_path / name), b"whatever"))


def test_looks_like_ase_by_content(tmp_path: Path) -> None:
    path = tmp_path / "set.dat"
    ase.io.write(path, dimer(), format="traj")
    assert looks_like_ase(read_head(path))
    with ase.db.connect(tmp_path / "a.db") as database:
        database.write(dimer())
    path.write_bytes((tmp_path / "a.db").read_bytes())
    assert looks_like_ase(read_head(path))


POSCAR = "Si_B1\n1.0\n4 0 0\n0 4 0\n0 0 4\n1\ndirect\n0 0 0\n-5.4\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("si.poscar.dat", POSCAR + "\n" + POSCAR),
        ("POSCAR", POSCAR),
        ("label.dat", POSCAR.replace("Si_B1", "2")),  # a number for a label
        ("vasp.dat", POSCAR.replace("Si_B1", "vasp.6 relaxed")),
        ("SET.json", '{"shards": ["SET.0-of-2.h5"]}'),
        ("si.nn.dat", "1 0 1\n1\nSi 28\n"),
        ("text.gz", "named wrongly"),
        ("empty.dat", ""),
    ],
)
def test_looks_like_ase_is_false(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert not looks_like_ase(Head(str(tmp_path / name), text.encode()))


# --- one name in two places


def test_one_name_in_two_places_must_agree(tmp_path: Path) -> None:
    atoms = dimer(energy=-1.5)
    atoms.info["energy"] = -1.5
    ase.io.write(tmp_path / "a.traj", atoms)
    (frame,) = read(tmp_path / "a.traj")
    assert (frame.energy, frame.unread) == (-1.5, ())
    atoms.info["energy"] = -2.5
    ase.io.write(tmp_path / "a.traj", atoms)
    with pytest.raises(InputError, match=r"two labels for energy, which differ: energy -1\.5; info\.energy -2\.5"):
        read(tmp_path / "a.traj")
    (frame,) = read_ase_frames(tmp_path / "a.traj", ReadOptions(energy_key="info.energy"))
    assert (frame.energy, frame.unread) == (-2.5, ("key energy",))


def test_data_of_a_database_that_contradict_its_results(tmp_path: Path) -> None:
    with ase.db.connect(tmp_path / "a.db") as database:
        database.write(dimer(forces=FORCES), data={"forces": (2 * np.array(FORCES)).tolist()})
    with pytest.raises(InputError, match=r"two labels for forces, which differ: forces -?0\.2; data\.forces"):
        read(tmp_path / "a.db")
