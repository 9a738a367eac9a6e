"""ASE-readable files: labels and units come over, and everything ASE would drop quietly is an error."""

# mypy: allow-untyped-calls
from __future__ import annotations

import gzip
import io
import os
import sqlite3
import subprocess
import sys
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
from pyfit_gpu.formats.ase_files import LabelSpread, looks_like_ase, read_ase_frames, write_extxyz
from pyfit_gpu.formats.head import Head, read_head
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.vasp.vasprun import read_vasprun
from pyfit_gpu.structures.frames import Frame

VASPRUN = Path(__file__).parents[1] / "data" / "vasp" / "vasprun.xml"
LATTICE = 'Lattice="4 0 0 0 4 0 0 0 4"'
FORCES = [[0.1, 0.0, -0.2], [-0.1, 0.0, 0.2]]


def read(path: Path) -> Any:
    return list(read_ase_frames(path))


def dimer(**results: Any) -> Atoms:
    atoms = Atoms("SiC", [[0, 0, 0], [1.1, 1.2, 1.3]], cell=[4, 5, 6], pbc=[True, True, False])
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def xyz(path: Path, comment: str, atoms: str = "Si 0 0 0\n") -> Path:
    path.write_text(f"{atoms.count(chr(10))}\n{comment}\n{atoms}")
    return path


def frame(**changes: object) -> Frame:
    random = np.random.default_rng(7)
    fields: dict[str, object] = {
        "positions": random.normal(size=(3, 3)),
        "cell": random.normal(size=(3, 3)) + 5 * np.eye(3),
        "pbc": np.array([True, False, True]),
        "atomic_numbers": np.array([14, 0, 118]),
        "group": "Si_B1",
        "source": "made here",
        "energy": -1 / 3,
        "forces": random.normal(size=(3, 3)) * 1e-9,
        "stress": random.normal(size=6) * 1e6,
        "weight": 0.1,
    }
    return Frame(**(fields | changes))  # type: ignore[arg-type]


def assert_same(got: Frame, expected: Frame) -> None:
    for name in ("positions", "cell", "pbc", "atomic_numbers", "forces", "stress"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)
    for name in ("energy", "group", "weight"):
        assert getattr(got, name) == getattr(expected, name), name


# --- what a structure carries


@pytest.mark.parametrize("name", ["a.extxyz", "a.xyz", "a.extxyz.gz", "a.xyz.bz2", "a.xyz.xz", "a.traj", "a.db"])
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
    ase.io.write(tmp_path / "a.extxyz", dimer(energy=-1.5))
    assert read(tmp_path / "a.extxyz")[0].energy == -1.5


def test_database_rows_carry_key_value_pairs(tmp_path: Path) -> None:
    with ase.db.connect(tmp_path / "rows.db") as database:
        database.write(dimer(energy=-1.5, free_energy=-1.25), group="fcc bulk", weight=2.5)
        database.write(dimer(energy=-2.5), config_type="liquid")
        database.write(dimer(), group=" ")
    frames = read(tmp_path / "rows.db")
    assert [f.group for f in frames] == ["fcc_bulk", "liquid", "rows"]
    assert [f.weight for f in frames] == [2.5, 1.0, 1.0]
    assert [f.energy for f in frames] == [-1.25, -2.5, None]


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


@pytest.mark.parametrize(
    ("info", "group"),
    [
        ("group=Si_B1 config_type=other", "Si_B1"),
        ("config_type=liquid", "liquid"),
        ('group="two  words"', "two_words"),
        ("group=12", "12"),
        ("", "si"),
    ],
)
def test_group(tmp_path: Path, info: str, group: str) -> None:
    assert read(xyz(tmp_path / "si.poscar.extxyz", f"{LATTICE} {info}"))[0].group == group


def test_group_of_a_file_whose_name_begins_with_a_dot_or_has_blanks(tmp_path: Path) -> None:
    assert read(xyz(tmp_path / ".hidden.xyz", LATTICE))[0].group == ".hidden.xyz"
    assert read(xyz(tmp_path / "my run.xyz", LATTICE))[0].group == "my_run"


@pytest.mark.parametrize("name", ["postgres.xyz", "si.dat", "noextension"])
def test_names_that_mean_more_to_ase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    xyz(Path(name), "energy=-3" if name.startswith("postgres") else f"{LATTICE} energy=-3")
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
    for name in ("a.traj", "a.db", "a.extxyz"):
        ase.io.write(tmp_path / name, atoms)
        np.testing.assert_allclose(read(tmp_path / name)[0].forces, FORCES)


def test_element_unknown_is_zero(tmp_path: Path) -> None:
    assert read(xyz(tmp_path / "a.xyz", LATTICE, "X 0 0 0\n"))[0].atomic_numbers.tolist() == [0]


def test_plain_xyz_has_no_cell(tmp_path: Path) -> None:
    (plain,) = read(xyz(tmp_path / "a.xyz", "water, from a book", "O 0 0 0\nH 1 0 0\n"))
    assert not plain.cell.any()
    assert not plain.pbc.any()
    assert plain.energy is None


def test_streams_one_structure_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(f"1\n{LATTICE}\nSi 0 0 0\n1\n{LATTICE}\nSi 0 0 broken\n")
    frames = read_ase_frames(path)
    assert next(frames).source.endswith("structure 1")
    with pytest.raises(InputError, match=r"a\.xyz, structure 2: ASE cannot read it .*broken") as caught:
        next(frames)
    assert isinstance(caught.value.__cause__, ValueError)


# --- what is refused


@pytest.mark.parametrize("bad", ["nan", "inf"])
@pytest.mark.parametrize(
    ("name", "comment", "row"),
    [
        ("positions", LATTICE, "Si 0 {} 0\n"),
        ("cell", 'Lattice="4 0 0 0 {} 0 0 0 4"', "Si 0 0 0\n"),
        ("energy", f"{LATTICE} energy={{}}", "Si 0 0 0\n"),
        ("forces", f"{LATTICE} Properties=species:S:1:pos:R:3:forces:R:3", "Si 0 0 0 0 0 {}\n"),
        ("stress", f'{LATTICE} stress="1 0 0 0 {{}} 0 0 0 1"', "Si 0 0 0\n"),
        ("weight", f"{LATTICE} weight={{}}", "Si 0 0 0\n"),
    ],
)
def test_nan_and_infinity(tmp_path: Path, name: str, comment: str, row: str, bad: str) -> None:
    assert len(read(xyz(tmp_path / "good.xyz", comment.format(1), row.format(1)))) == 1
    good = f"1\n{LATTICE}\nSi 0 0 0\n"
    path = tmp_path / "bad.xyz"
    path.write_text(f"{good}1\n{comment.format(bad)}\n{row.format(bad)}{good}")
    with pytest.raises(InputError, match=rf"bad\.xyz, structure 2: {name} has NaN or infinity"):
        read(path)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ("weight=-1", r"weight must be 0 or more, got -1\.0"),
        ("weight=heavy", "weight must be numbers of shape .*heavy"),
        ("weight=T", r"weight must be numbers of shape \(\), got bool"),
        ('weight="1 2"', r"weight must be numbers of shape \(\), got int64 \(2,\)"),
        ("energy=low", "energy must be numbers of shape .*low"),
        ("energy", r"energy must be numbers of shape \(\), got bool"),
    ],
)
def test_values_that_are_not_numbers(tmp_path: Path, info: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"a\.xyz, structure 1: {message}"):
        read(xyz(tmp_path / "a.xyz", f"{LATTICE} {info}"))


def test_weight_zero_is_a_weight(tmp_path: Path) -> None:
    assert read(xyz(tmp_path / "a.xyz", f"{LATTICE} weight=0"))[0].weight == 0.0


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


def test_structure_without_atoms(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(f"1\n{LATTICE}\nSi 0 0 0\n0\n{LATTICE}\n")
    with pytest.raises(InputError, match=r"a\.xyz, structure 2: no atoms"):
        read(tmp_path / "a.xyz")


def test_atomic_number_beyond_the_table(tmp_path: Path) -> None:
    path = xyz(tmp_path / "a.xyz", f"{LATTICE} Properties=Z:I:1:pos:R:3", "119 0 0 0\n")
    with pytest.raises(InputError, match=r"structure 1: atomic numbers must be 0 to 118, got 119 to 119"):
        read(path)


def test_truncated_xyz(tmp_path: Path) -> None:
    path = xyz(tmp_path / "a.xyz", LATTICE, "Si 0 0 0\nSi 1 1 1\n")
    path.write_text(path.read_text().replace("Si 1 1 1\n", ""))
    with pytest.raises(InputError, match=r"a\.xyz: ASE cannot read it \(XYZError: .*1 atoms, expected 2"):
        read(path)


def test_structures_after_a_blank_line_are_not_lost(tmp_path: Path) -> None:
    one = f"1\n{LATTICE}\nSi 0 0 0\n"
    (tmp_path / "end.xyz").write_text(one + one + "\n \n")
    assert len(read(tmp_path / "end.xyz")) == 2
    for text in (f"{one}\n{one}", f"\n{one}"):
        (tmp_path / "middle.xyz").write_text(text)
        with pytest.raises(InputError, match=r"middle\.xyz: blank line between structures, before '1\\n'"):
            read(tmp_path / "middle.xyz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.xyz", b"", "empty file"),
        ("empty.db", b"", "empty file"),
        ("blank.xyz", b"\n\n", "no structures in it"),
        ("unknown.abc", b"nothing that anyone knows\n", r"ASE cannot read it \(UnknownFileTypeError: "),
        ("binary.xyz", bytes(range(256)), r"ASE cannot read it \(UnicodeDecodeError: "),
        ("binary.traj", bytes(range(256)), "ASE cannot read it"),
        ("binary.db", bytes(range(256)), r"ASE cannot read it \(DatabaseError: "),
        ("binary", bytes(range(256)), r"ASE cannot read it \(UnknownFileTypeError: "),
        ("text.xyz", b"not a number\n", r"ASE cannot read it \(XYZError: "),
        ("text.xyz.gz", b"1\n\nSi 0 0 0\n", r"ASE cannot read it \(BadGzipFile: "),
        ("half.xyz.gz", gzip.compress(b"1\n\nSi 0 0 0\n" * 99, mtime=0)[:-9], r"ASE cannot read it \(EOFError: "),
        ("other.json", b'{"shards": []}', "ASE cannot read it"),
    ],
)
def test_files_that_hold_nothing(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: {message}"):
        read(tmp_path / name)


def test_files_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"absent\.xyz: cannot be read: No such file") as caught:
        read(tmp_path / "absent.xyz")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    (tmp_path / "folder.traj").mkdir()
    with pytest.raises(InputError, match=r"folder\.traj: cannot be read: Is a directory"):
        read(tmp_path / "folder.traj")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # the superuser may read every file
    with pytest.raises(InputError, match=r"closed\.xyz: cannot be read: Permission denied"):
        read(tmp_path / "closed.xyz")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, MemoryError])
def test_what_is_no_fault_of_the_file_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise stop

    path = xyz(tmp_path / "a.xyz", LATTICE)
    monkeypatch.setattr(ase.io, "iread", interrupted)
    with pytest.raises(stop):
        read(path)


# --- recognising


@pytest.mark.parametrize(
    "name",
    [
        *("a.xyz", "A.XYZ", "a.extxyz.gz", "a.db", "a.traj", "a.cif", "a.xml"),
    ],
)
def test_looks_like_ase_by_name(tmp_path: Path, name: str) -> None:
    assert looks_like_ase(Head(str(tmp_path / name), b"whatever"))


def test_looks_like_ase_by_content(tmp_path: Path) -> None:
    path = tmp_path / "set.dat"
    ase.io.write(path, dimer(), format="extxyz")
    assert looks_like_ase(read_head(path))
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


# --- writing


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"forces": None, "stress": None, "energy": None, "weight": 1.0},
        {"cell": np.zeros((3, 3)), "pbc": np.zeros(3, bool)},
        {"weight": 0.0, "energy": 0.0},
        {"energy": -5e20, "stress": np.array([1e-300, -0.0, 1.0, 2.0, 3.0, 1 / 7])},
        *({"group": word} for word in ("001", "1e5", "T", "false", "nan", "1,2", "a,b", "a=b", "Å", "_JSON")),
        *({"group": word} for word in ('q"q', "it's", "back\\slash", "[x]", "{x}")),
    ],
    ids=str,
)
def test_round_trip_keeps_every_bit(tmp_path: Path, changes: dict[str, object]) -> None:
    path = tmp_path / "set.extxyz"
    frames = [frame(**changes), frame()]
    write_extxyz(path, frames)
    for got, expected in zip(read_ase_frames(path), frames, strict=True):
        assert_same(got, expected)
    (first, _) = ase.io.read(path, index=":")  # and plain ASE reads the same file
    np.testing.assert_array_equal(first.positions, frames[0].positions)
    assert ("weight" in first.info) == (frames[0].weight != 1)
    assert first.symbols[1] == "X"


def test_write_to_an_open_file_and_from_a_generator(tmp_path: Path) -> None:
    text = io.StringIO()
    write_extxyz(text, (frame() for _ in range(2)))
    write_extxyz(os.fspath(tmp_path / "a.xyz"), [frame(), frame()])
    assert not text.closed
    assert text.getvalue() == (tmp_path / "a.xyz").read_text()
    assert text.getvalue().startswith('3\nLattice="')


def test_spread_is_written_beside_the_labels(tmp_path: Path) -> None:
    """All digits, for ASE in info and arrays; our reader takes the labels alone."""
    rng = np.random.default_rng(2)
    labelled = frame(energy=-1.5, forces=rng.normal(size=(3, 3)), stress=rng.normal(size=6))
    spreads = [LabelSpread(0.1 + 0.2, rng.uniform(size=(3, 3)), rng.uniform(size=6)), LabelSpread(0.25, None, None)]
    write_extxyz(tmp_path / "a.extxyz", [labelled, frame(energy=-1.5)], spreads)
    first, second = ase.io.read(tmp_path / "a.extxyz", index=":")
    assert first.info["energy_std"] == 0.1 + 0.2
    assert np.array_equal(first.arrays["forces_std"], spreads[0].forces)
    assert np.array_equal(first.info["stress_std"], spreads[0].stress)
    assert np.array_equal(first.get_forces(), labelled.forces)
    assert second.info["energy_std"] == 0.25
    assert "stress_std" not in second.info
    assert "forces_std" not in second.arrays
    for got, expected in zip(read_ase_frames(tmp_path / "a.extxyz"), [labelled, frame(energy=-1.5)], strict=True):
        assert_same(got, expected)
    with pytest.raises(ValueError, match="shorter"):
        write_extxyz(tmp_path / "b.extxyz", [labelled, labelled], spreads[:1])


def test_what_ase_wrote_comes_back_the_same_through_our_writer(tmp_path: Path) -> None:
    first = list(read_vasprun(VASPRUN, ReadOptions()))
    write_extxyz(tmp_path / "vasprun.extxyz", first)
    for got, expected in zip(read_ase_frames(tmp_path / "vasprun.extxyz"), first, strict=True):
        assert_same(got, expected)


def test_import_does_not_import_ase() -> None:
    use = "import sys, pyfit_gpu.formats.ase_files as files; files.looks_like_ase(files.Head('a.dat', b'text'))"
    code = f"{use}; sys.exit('ase' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
