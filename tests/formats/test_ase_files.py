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
from ase.units import GPa
from frame_samples import assert_same

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.ase_files import looks_like_ase, read_ase_frames
from pyfit_gpu.formats.head import Head, read_head
from pyfit_gpu.formats.read_options import ReadOptions

VASP = Path(__file__).parents[1] / "data" / "vasp"
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
        ("empty.db", b"", "empty file"),
        ("unknown.abc", b"nothing that anyone knows\n", r"ASE cannot read it \(UnknownFileTypeError: "),
        ("text.cif", b"not a crystal\n", "ASE cannot read it"),
        ("binary.traj", bytes(range(256)), "ASE cannot read it"),
        ("binary.db", bytes(range(256)), r"ASE cannot read it \(DatabaseError: "),
        ("binary", bytes(range(256)), r"ASE cannot read it \(UnknownFileTypeError: "),
        ("text.traj.gz", b"no archive\n", r"ASE cannot read it \(BadGzipFile: "),
        ("half.cif.gz", gzip.compress(b"data_a\n" * 99, mtime=0)[:-9], r"ASE cannot read it \(EOFError: "),
        ("other.json", b'{"shards": []}', "ASE cannot read it"),
    ],
)
def test_files_that_hold_nothing(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: {message}"):
        read(tmp_path / name)


def test_files_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"absent\.traj: cannot be read: No such file") as caught:
        read(tmp_path / "absent.traj")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    (tmp_path / "folder.traj").mkdir()
    with pytest.raises(InputError, match=r"folder\.traj: cannot be read: Is a directory"):
        read(tmp_path / "folder.traj")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # the superuser may read every file
    with pytest.raises(InputError, match=r"closed\.traj: cannot be read: Permission denied"):
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


# --- VASP


def vasp_copy(folder: Path, name: str, *changes: tuple[str, str, int], to: str = "") -> Path:
    """The stored file with its n-th occurrence of a text replaced, packed if the new name says so."""
    text = (VASP / name).read_text()
    for old, new, occurrence in changes:
        parts = text.split(old)
        assert len(parts) > occurrence, f"{old!r} is not {occurrence} times in {name}"
        text = old.join(parts[:occurrence]) + new + old.join(parts[occurrence:])
    path = folder / (to or name)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "to"),
    [
        ("vasprun.xml", "vasprun.xml"),
        ("vasprun.xml", "vasprun.xml.gz"),
        ("vasprun.xml", "relaxed.xml"),
        ("OUTCAR", "OUTCAR"),
        ("OUTCAR", "OUTCAR.gz"),
        ("OUTCAR", "relaxed.txt"),
    ],
)
def test_vasp_run(tmp_path: Path, name: str, to: str) -> None:
    frames = read(vasp_copy(tmp_path, name, to=to))
    assert [f.energy for f in frames] == [-10.81234719, -10.82399067]  # TOTEN, not energy(sigma->0)
    np.testing.assert_allclose(frames[0].forces[0], [0.21837412, 0.0, -0.21837412], atol=1e-6)
    kilobar = np.array([5.26341072, 4.91870233, 5.26341072, -1.03487120, 0.00312045, 0.00312045])
    np.testing.assert_allclose(frames[0].stress, -0.1 * GPa * kilobar, atol=1e-8)  # VASP's sign is the other
    half = 5.468728 / 2
    np.testing.assert_allclose(frames[1].cell, half * (1 - np.eye(3)), atol=1e-8)
    np.testing.assert_allclose(frames[1].positions[1], half * np.array([0.498, 0.5, 0.502]), atol=5e-6)
    assert frames[1].atomic_numbers.tolist() == [14, 14]
    assert frames[1].pbc.all()
    assert frames[1].group == to.split(".")[0]


def test_vasp_outputs_of_one_run_agree() -> None:
    for xml, outcar in zip(read(VASP / "vasprun.xml"), read(VASP / "OUTCAR"), strict=True):
        assert xml.energy == outcar.energy
        np.testing.assert_allclose(xml.positions, outcar.positions, atol=5.1e-6)
        np.testing.assert_allclose(xml.forces, outcar.forces, atol=5.1e-7)
        np.testing.assert_allclose(xml.stress, outcar.stress, atol=1e-8)


ABORT = "aborting loop because EDIFF is reached"
NOT_REACHED = "aborting loop EDIFF was not reached (unconverged)"


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vasprun.xml", [("</modeling>", "", 1)], "truncated after 2 ionic steps: no final </modeling>"),
        (
            "vasprun.xml",
            [('NELM">    60', 'NELM">     4', 1)],
            "ionic step 1: electronic steps not converged: all NELM = 4 steps used",
        ),
        ("vasprun.xml", [('name="NELM"', 'name="NELMGW"', 1)], "ionic step 1: cannot tell .* NELM"),
        ("vasprun.xml", [('NELM">    60', 'NELM">******', 1)], r"NELM must be a whole number, got '\*+'"),
        ("vasprun.xml", [("<structure>", "<structure", 2)], "not valid XML: .*line"),
        ("OUTCAR", [(ABORT, NOT_REACHED, 2)], f"ionic step 2: .*VASP says '{NOT_REACHED[:30]}"),
        ("OUTCAR", [(ABORT, "aborting loop because hard stop was set", 1)], "ionic step 1: .*hard stop"),
        ("OUTCAR", [(ABORT, "", 2)], "ionic step 2: .*not converged: no line 'aborting loop because EDIFF"),
        ("OUTCAR", [("NELM   =     60", "NELM   =      4", 1)], "ionic step 1: .*all NELM = 4 steps used"),
        ("OUTCAR", [("  FREE ENERGIE", "  ML FREE ENERGIE", 2)], "holds steps of a machine-learned"),
        ("OUTCAR", [("  FREE ENERGIE", "", 2)], "ionic step 2: incomplete, it has no final energy"),
        (
            "OUTCAR",
            [("General timing and accounting", "", 1), ("Total CPU time used", "", 1)],
            "truncated after 2 ionic steps: no closing timing section",
        ),
    ],
)
def test_vasp_run_that_ase_would_take(
    tmp_path: Path, name: str, changes: list[tuple[str, str, int]], message: str, packed: str
) -> None:
    path = vasp_copy(tmp_path, name, *changes, to=name + packed)
    with pytest.raises(InputError, match=rf"{name}{packed}.*{message}"):
        read(path)


@pytest.mark.parametrize("name", ["vasprun.xml", "OUTCAR"])
def test_vasp_run_cut_anywhere(tmp_path: Path, name: str) -> None:
    """A killed job leaves a file that ends anywhere; ASE reads most of these without a word."""
    lines = (VASP / name).read_text().splitlines(keepends=True)
    end = next(i for i, line in enumerate(lines) if "</modeling>" in line or "General timing" in line)
    path = tmp_path / name
    for kept in range(1, end):
        path.write_text("".join(lines[:kept]))
        with pytest.raises(InputError, match="truncated"):
            read(path)


def test_vasp_step_without_electronic_steps(tmp_path: Path) -> None:
    text = (VASP / "vasprun.xml").read_text()
    path = tmp_path / "vasprun.xml"
    path.write_text(text.replace("scstep", "mlstep"))
    with pytest.raises(InputError, match=r"vasprun\.xml, ionic step 1: no electronic steps"):
        read(path)


def test_vasp_run_that_just_converged_is_read(tmp_path: Path) -> None:
    """One electronic step fewer than NELM; the used value in <parameters> counts, not the one in <incar>."""
    incar = ("<incar>", '<incar>\n  <i type="int" name="NELM">     3</i>', 1)
    five = ('NELM">    60', 'NELM">     5', 1)
    assert len(read(vasp_copy(tmp_path, "vasprun.xml", incar, five))) == 2
    echo = ("   NSW = 2", "   NELM = 3", 1)  # VASP 6 repeats the INCAR file
    five = ("NELM   =     60", "NELM   =      5", 1)
    assert len(read(vasp_copy(tmp_path, "OUTCAR", echo, five))) == 2


def test_vasp_iterations_of_a_response_calculation_are_not_ionic_steps(tmp_path: Path) -> None:
    after = "--------------------------------------- Iteration      2(  99)  -----\n writing wavefunctions"
    assert len(read(vasp_copy(tmp_path, "OUTCAR", (" writing wavefunctions", after, 1)))) == 2


def test_vasp_selective_dynamics_keeps_forces(tmp_path: Path) -> None:
    flags = '<varray name="selective" ><v type="logical" > F F F </v><v type="logical" > T F T </v></varray>'
    initial = (" </structure>\n <calculation>", f" {flags}\n </structure>\n <calculation>", 1)
    fixed = read(vasp_copy(tmp_path, "vasprun.xml", initial))
    for got, free in zip(fixed, read(VASP / "vasprun.xml"), strict=True):
        assert_same(got, free)


@pytest.mark.parametrize("name", ["OUTCAR", "OUTCAR.gz"])
def test_broken_contcar_beside_an_outcar_does_not_matter(tmp_path: Path, name: str) -> None:
    (tmp_path / "CONTCAR").write_text("killed while\n")
    path = vasp_copy(tmp_path, "OUTCAR", to=name)
    assert len(read(path)) == 2
    with pytest.raises(RuntimeError, match="scaling factors"):  # what ASE does by itself
        ase.io.read(path)


def test_vasp_latin1_title(tmp_path: Path) -> None:
    for name in ("vasprun.xml", "OUTCAR"):
        text = (VASP / name).read_text().replace("two silicon atoms", "zwölf Å")
        (tmp_path / name).write_bytes(text.encode("latin-1"))
        assert len(read(tmp_path / name)) == 2


# --- recognising


@pytest.mark.parametrize(
    "name",
    [
        *("a.db", "A.DB", "a.traj", "a.traj.gz", "a.cif"),
        *("vasprun.xml", "vasprun_3.xml.gz", "vasprun.bak", "OUTCAR", "OUTCAR.2"),
    ],
)
def test_looks_like_ase_by_name(tmp_path: Path, name: str) -> None:
    assert looks_like_ase(Head(str(tmp_path / name), b"whatever"))


def test_looks_like_ase_by_content(tmp_path: Path) -> None:
    path = tmp_path / "set.dat"
    path.write_bytes((VASP / "vasprun.xml").read_bytes())
    assert looks_like_ase(read_head(path))
    path.write_bytes((VASP / "OUTCAR").read_bytes())
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
