"""`evaluate`: tables and structures; `info`: what a file is; `convert`: between the classic and the new formats."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from commands.helpers import (
    N_ATOMS,
    N_STRUCTURES,
    OWN,
    call,
    done,
    fresh_potential,
    names,
    new_names,
    poscar_blocks,
    refused,
    set_up,
    weights,
    with_header,
    write_poscar,
)

import pyfit_gpu as pf
from pyfit_gpu.formats.extxyz.reader import read_extxyz
from pyfit_gpu.formats.extxyz.writer import write_extxyz
from pyfit_gpu.formats.opening import read_frames
from pyfit_gpu.structures.frames import Frame

COLUMNS = ["index", "group", "n_atoms", "volume_per_atom", "energy_per_atom", "reference_energy_per_atom"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)


def evaluate(*words: object, files: tuple[str, ...] = ("si.poscar.dat",), out: str = "out.csv") -> str:
    return done("evaluate", *files, "--potential", "si.nn.dat", "--out", out, *words).said


def rows_of(path: str = "out.csv") -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == COLUMNS
    return rows


def column(name: str, path: str = "out.csv") -> np.ndarray:
    return np.array([float(row[name]) for row in rows_of(path)])


def sizes_and_energies() -> tuple[np.ndarray, np.ndarray]:
    blocks = poscar_blocks("si.poscar.dat")
    return np.array([int(block[5]) for block in blocks]), np.array([float(block[-1]) for block in blocks])


def mix_in_no_dft() -> list[int]:
    """Every fifth structure loses its energy; which ones."""
    blocks = poscar_blocks("si.poscar.dat")
    without = list(range(0, N_STRUCTURES, 5))
    for row in without:
        blocks[row] = ["NO_DFT_x", *blocks[row][1:-1], "0.0"]
    write_poscar("si.poscar.dat", blocks)
    return without


# ---------------------------------------------------------------------------------------------------------------------
# evaluate


@pytest.mark.parametrize("case", ["nn_mode0", "nn_mode1", "nn_wide"])
def test_csv_against_the_reference_program(case: str) -> None:
    shutil.copy(OWN / f"{case}.nn.dat", "si.nn.dat")
    before = names()
    evaluate("--e-shift", "106")
    assert new_names(before) == {"out.csv"}
    sizes, energies = sizes_and_energies()
    rows = rows_of()
    assert [row["index"] for row in rows] == [str(k) for k in range(N_STRUCTURES)]
    assert [row["group"] for row in rows] == ["even", "odd"] * 17
    assert [row["n_atoms"] for row in rows] == [str(size) for size in sizes]
    expected = np.load(OWN / f"{case}.npz")["energy_per_atom"]
    assert np.allclose(column("energy_per_atom"), expected, rtol=0, atol=1e-11)
    assert np.allclose(column("reference_energy_per_atom"), energies / sizes + 106, rtol=1e-13, atol=0)
    cells = [np.array([line.split() for line in block[2:5]], dtype=float) for block in poscar_blocks("si.poscar.dat")]
    volumes = [abs(np.linalg.det(cell)) / size for cell, size in zip(cells, sizes, strict=True)]
    assert np.allclose(column("volume_per_atom"), volumes, rtol=1e-12)


def test_csv_against_the_python_interface() -> None:
    """All digits: the numbers come back as they were computed."""
    evaluate()
    structures, potential = pf.load_structures("si.poscar.dat"), pf.load_potential("si.nn.dat")
    energies = pf.evaluate(potential, structures).numpy() / np.array(structures.sizes)
    assert np.array_equal(column("energy_per_atom"), energies)


def test_extxyz_is_on_the_dft_scale() -> None:
    """E_nn - n e_shift, with the structures as they were read; ASE reads it."""
    evaluate("--e-shift", "106", out="out.extxyz")
    frames = ase.io.read("out.extxyz", index=":")
    sizes, _ = sizes_and_energies()
    assert [len(frame) for frame in frames] == sizes.tolist()
    expected = sizes * (np.load(OWN / "nn_mode1.npz")["energy_per_atom"] - 106)
    found = [frame.get_potential_energy() for frame in frames]
    assert np.allclose(found, expected, rtol=0, atol=1e-9)
    for frame, block in zip(frames, poscar_blocks("si.poscar.dat"), strict=True):
        assert frame.pbc.all()
        assert np.array_equal(frame.cell.array, np.array([line.split() for line in block[2:5]], dtype=float))
        positions = np.array([line.split() for line in block[7:-1]], dtype=float)
        assert np.allclose(frame.positions, positions, rtol=0, atol=1e-14)
    assert [frame.info["group"] for frame in frames] == ["even", "odd"] * 17


def test_extxyz_can_be_prepared_again() -> None:
    """Predictions, with the shift that they were made with, are a set without an error."""
    evaluate("--e-shift", "106", out="out.extxyz")
    evaluate("--e-shift", "106", files=("out.extxyz",))
    errors = column("energy_per_atom") - column("reference_energy_per_atom")
    assert np.abs(errors).max() < 1e-12


@pytest.fixture
def shifted() -> str:
    """The same potential, which says that it was trained with a shift."""
    return with_header("shifted.nn.dat", {3: " Si 28.0855 - e_shift 106.5"})


@pytest.mark.parametrize(("words", "shift"), [((), 106.5), (("--e-shift", "2"), 2.0), (("--e-shift", "0"), 0.0)])
def test_shift_of_the_potential(shifted: str, words: tuple[str, ...], shift: float) -> None:
    for out in ("out.csv", "out.extxyz"):
        result = done("evaluate", "si.poscar.dat", "--potential", shifted, "--out", out, *words)
        assert "e_shift" not in result.err
    sizes, energies = sizes_and_energies()
    assert np.allclose(column("reference_energy_per_atom"), energies / sizes + shift, rtol=1e-13)
    found = np.array([frame.get_potential_energy() for frame in ase.io.read("out.extxyz", index=":")])
    assert np.allclose(found, sizes * (column("energy_per_atom") - shift), rtol=0, atol=1e-10)


def test_unknown_shift_is_zero_with_a_note() -> None:
    assert re.search(r"e_shift.*0\.0 is taken \(give --e-shift\)", evaluate())
    sizes, energies = sizes_and_energies()
    assert np.allclose(column("reference_energy_per_atom"), energies / sizes, rtol=1e-13)


def test_a_trained_potential_brings_its_shift() -> None:
    done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "si.h5", "--e-shift", "106")
    done("train", "si.h5", "--potential", "si.nn.dat", "--out", "out.nn.dat", "--steps", "0")
    done("evaluate", "si.poscar.dat", "--potential", "out.nn.dat", "--out", "out.csv")
    sizes, energies = sizes_and_energies()
    assert np.allclose(column("reference_energy_per_atom"), energies / sizes + 106, rtol=1e-13)


def test_no_dft_structures_have_an_empty_reference() -> None:
    without = mix_in_no_dft()
    said = evaluate("--e-shift", "106")
    rows = rows_of()
    assert [k for k, row in enumerate(rows) if row["reference_energy_per_atom"] == ""] == without
    expected = np.load(OWN / "nn_mode1.npz")["energy_per_atom"]
    assert np.allclose(column("energy_per_atom"), expected, rtol=0, atol=1e-11)
    assert re.search(rf"{len(without)} of {N_STRUCTURES}\b.*no reference", said)
    assert "NO_DFT" not in said.split("worst")[0]
    evaluate("--e-shift", "106", out="out.extxyz")
    found = [frame.get_potential_energy() for frame in ase.io.read("out.extxyz", index=":")]
    assert np.isfinite(found).all()


def table_rows(said: str) -> dict[str, list[float]]:
    """Numbers of the printed table by their first word, down to the empty line."""
    lines = said.split("meV/atom\n", 1)[1].split("\n\n")[0].splitlines()
    return {line.split()[0]: [float(cell) for cell in line.split()[1:]] for line in lines}


def test_printed_table() -> None:
    """Number, RMSE, MAE and largest error of each group and of all, in meV/atom, over what has a reference."""
    without = mix_in_no_dft()
    said = evaluate("--e-shift", "106")
    sizes, energies = sizes_and_energies()
    errors = 1000 * (np.load(OWN / "nn_mode1.npz")["energy_per_atom"] - energies / sizes - 106)
    rows = np.array([row for row in range(N_STRUCTURES) if row not in without])
    chosen = {"even": rows[rows % 2 == 0], "odd": rows[rows % 2 == 1], "all": rows}
    table = table_rows(said)
    assert list(table) == ["even", "odd", "all"]
    for name, of in chosen.items():
        expected = [len(of), np.sqrt(np.mean(errors[of] ** 2)), np.mean(abs(errors[of])), abs(errors[of]).max()]
        assert table[name] == pytest.approx(expected, abs=6e-4)
    worst = max(rows, key=lambda row: abs(errors[row]))
    first = said.split("worst structures")[1].splitlines()[1]
    assert float(first.split()[0]) == pytest.approx(errors[worst], abs=6e-4)
    assert re.search(rf"si\.poscar\.dat, structure {worst + 1}\b", first)


def test_nothing_to_compare_with() -> None:
    write_poscar("none.dat", poscar_blocks(), ["NO_DFT"])
    said = evaluate(files=("none.dat",))
    assert re.search(rf"{N_STRUCTURES} of {N_STRUCTURES}\b.*no reference", said)
    assert "RMSE" not in said


def test_several_files() -> None:
    evaluate()
    evaluate(files=("si.poscar.dat", "si.poscar.dat"), out="twice.csv")
    twice = rows_of("twice.csv")
    assert [row["index"] for row in twice] == [str(k) for k in range(2 * N_STRUCTURES)]
    once = [list(row.values())[1:] for row in rows_of()]
    assert [list(row.values())[1:] for row in twice] == once * 2


def test_evaluate_in_single_precision_is_close() -> None:
    evaluate()
    evaluate("--dtype", "float32", out="single.csv")
    difference = np.abs(column("energy_per_atom", "single.csv") - column("energy_per_atom"))
    assert 0 < difference.max() < 1e-4


def test_two_evaluations_give_the_same_bytes() -> None:
    evaluate(out="a.csv")
    evaluate(out="b.csv")
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()


def test_evaluate_refuses_what_it_cannot_do() -> None:
    words = ("evaluate", "si.poscar.dat", "--out", "out.csv", "--potential")
    refused(*words[:3], "out.txt", *words[4:], "si.nn.dat", match=r"out\.txt.*\.csv.*\.extxyz")
    refused(*words, "none.nn.dat", match=r"none\.nn\.dat")


@pytest.mark.parametrize("ending", [".csv", ".extxyz"])
def test_evaluate_a_physically_informed_potential(ending: str) -> None:
    """Energies of the C++ program, forces as predicted from Python."""
    done("evaluate", "si.poscar.dat", "--out", f"out{ending}", "--forces", "--potential", OWN / "pinn_mode1.nn.dat")
    with np.load(OWN / "pinn_mode1.npz") as arrays:
        expected = arrays["energy_per_atom"]
    if ending == ".csv":
        found = column("energy_per_atom")
    else:
        frames = ase.io.read("out.extxyz", ":")
        found = np.array([atoms.get_potential_energy() / len(atoms) for atoms in frames])
        predicted = pf.predict(pf.load_potential(OWN / "pinn_mode1.nn.dat"), pf.load_structures("si.poscar.dat"))
        forces = np.concatenate([atoms.get_forces() for atoms in frames])
        np.testing.assert_allclose(forces, predicted.forces, atol=1e-12)
    np.testing.assert_allclose(found, expected, atol=1e-11)


def test_evaluate_does_not_replace_what_is_there() -> None:
    Path("out.csv").write_text("something precious")
    words = ("evaluate", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "out.csv")
    refused(*words, match=r"out\.csv.*exists.*--overwrite")
    done(*words, "--unique")
    assert Path("out.csv").read_text() == "something precious"
    assert len(rows_of("out.00000.csv")) == N_STRUCTURES
    done(*words, "--overwrite")
    assert Path("out.csv").read_bytes() == Path("out.00000.csv").read_bytes()


PLOTS = {"plots/parity.png", "plots/energy_volume.png"}


def test_plots() -> None:
    mix_in_no_dft()
    before = names()
    evaluate("--e-shift", "106", "--plots", "plots")
    assert new_names(before) == {"out.csv", *PLOTS}
    for name in PLOTS:
        assert Path(name).read_bytes().startswith(b"\x89PNG")
        assert Path(name).stat().st_size > 5000


def test_names_of_any_letters() -> None:
    """Escape sequences are shown, not sent, by every verb; tables and plots take all names."""
    groups = ["\x1b]0;title\x07\x1b[31mred", r"$\foo$", "=1,2", "_a\u202e"]
    write_poscar("named.dat", poscar_blocks(), groups)
    said = [evaluate("--plots", "plots", files=("named.dat",)), done("info", "named.dat").out]
    done("prepare", "named.dat", "--potential", "si.nn.dat", "--out", "named.h5", "--e-shift", "106", "--quiet")
    words = ("--potential", "si.nn.dat", "--out", "x.nn.dat", "--steps", "1", "--test-groups", "nosuch")
    said += [done("info", "named.h5").out, refused("train", "named.h5", *words, match="nosuch").said]
    for text in said:
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text), text
        assert r"\x1b[31mred" in text
    assert {row["group"] for row in rows_of()} == set(groups)


def test_plots_that_exist_are_not_replaced() -> None:
    Path("plots").mkdir()
    Path("plots/parity.png").write_text("something precious")
    words = ("evaluate", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "out.csv", "--plots", "plots")
    refused(*words, match=r"parity\.png.*exists.*--overwrite")
    done(*words, "--overwrite")
    assert Path("plots/parity.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("plots", ["si.nn.dat", "si.nn.dat/plots"])
def test_plots_into_a_file(plots: str) -> None:
    words = ("evaluate", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "out.csv", "--plots", plots)
    refused(*words, match=r"si\.nn\.dat")


# ---------------------------------------------------------------------------------------------------------------------
# forces and stress


@pytest.fixture
def labelled(example_data: Path) -> list[Frame]:
    """dft.extxyz: structures with forces and stress, less some of them, and a molecule; the potential: dft.nn.dat."""
    frames = list(read_frames(example_data / "si_dft.extxyz"))[::12]
    frames[2] = replace(frames[2], forces=None)
    frames[4] = replace(frames[4], forces=None, stress=None)
    frames[5] = replace(frames[5], stress=None)
    molecule = replace(frames[7], cell=np.zeros((3, 3)), pbc=np.zeros(3, dtype=bool), group="molecule")
    frames.insert(3, molecule)  # with a stress that its file claims and nothing can be compared with
    write_extxyz("dft.extxyz", frames)
    fit_header = (example_data / "si.start.nn.dat").read_text()
    Path("start.nn.dat").write_text(fit_header)
    pf.save_potential(pf.load_potential("start.nn.dat", seed=4), "dft.nn.dat")
    return frames


def predicted() -> tuple[list[np.ndarray], np.ndarray]:
    """Forces of each structure and the stress, by the Python interface."""
    structures = pf.load_structures("dft.extxyz")
    found = pf.predict(pf.load_potential("dft.nn.dat"), structures)
    return np.split(found.forces.numpy(), np.cumsum(structures.sizes)[:-1]), found.stress.numpy()


def evaluate_dft(*words: object, out: str) -> str:
    return done("evaluate", "dft.extxyz", "--potential", "dft.nn.dat", "--out", out, "--e-shift", "107", *words).said


def test_extxyz_has_forces_and_stress(labelled: list[Frame]) -> None:
    """Both are predicted, not copied from the input; ASE reads them. A molecule has no stress."""
    evaluate_dft(out="out.extxyz")
    atoms = ase.io.read("out.extxyz", index=":")
    forces, stress = predicted()
    assert len(atoms) == len(labelled)
    for row, (found, frame) in enumerate(zip(atoms, labelled, strict=True)):
        assert np.allclose(found.get_forces(), forces[row], rtol=0, atol=1e-12 * max(1.0, np.abs(forces[row]).max()))
        if frame.group == "molecule":
            assert "stress" not in found.calc.results
            assert np.isnan(stress[row]).all()
            assert not found.pbc.any()
        else:
            assert np.allclose(found.get_stress(), stress[row], rtol=0, atol=1e-12)
    assert sum("stress" in found.calc.results for found in atoms) == len(labelled) - 1
    labels = [(found.get_forces(), frame.forces) for found, frame in zip(atoms, labelled, strict=True)]
    assert max(np.abs(found - of_file).max() for found, of_file in labels if of_file is not None) > 0.1


def test_two_extxyz_files_are_the_same_bytes(labelled: list[Frame]) -> None:
    evaluate_dft(out="a.extxyz")
    evaluate_dft(out="b.extxyz")
    assert Path("a.extxyz").read_bytes() == Path("b.extxyz").read_bytes()


def test_what_the_extxyz_says_is_a_fit_without_error(labelled: list[Frame]) -> None:
    """Energies, forces and stress come back on the scale that they were written on."""
    evaluate_dft(out="out.extxyz")
    words = ("--potential", "dft.nn.dat", "--e-shift", "107")
    said = done("evaluate", "out.extxyz", *words, "--out", "again.csv", "--forces").said
    for label in ("forces", "stress"):
        assert component_rows(said, label)["all"][1:] == [0.0, 0.0, 0.0]
    assert component_rows(said, "forces")["all"][0] == len(labelled)
    assert component_rows(said, "stress")["all"][0] == len(labelled) - 1
    errors = column("energy_per_atom", "again.csv") - column("reference_energy_per_atom", "again.csv")
    assert np.abs(errors).max() < 1e-12


UNITS = {"forces": "eV/Å", "stress": "GPa"}


def component_rows(said: str, label: str) -> dict[str, list[float]]:
    """Numbers of the printed table of forces or stress by their first word."""
    header, *lines = said.split(f"\n{label}:\n", 1)[1].split("\n\n")[0].splitlines()
    assert header.endswith(f"{UNITS[label]}, per component")
    numbers = [line.split() for line in lines if re.search(r"\d$", line)]
    return {cells[0]: [float(cell) for cell in cells[1:]] for cells in numbers}


@pytest.mark.parametrize("words", [("out.extxyz",), ("out.csv", "--forces"), ("out.extxyz", "--forces")], ids=str)
def test_printed_tables_of_forces_and_stress(labelled: list[Frame], words: tuple[str, ...]) -> None:
    """Number, RMSE, MAE and largest error over the components, of each group and of all, over what has a reference."""
    said = evaluate_dft(*words[1:], out=words[0])
    forces, stress = predicted()
    known = {
        "forces": [
            None if frame.forces is None else f - frame.forces for f, frame in zip(forces, labelled, strict=True)
        ],
        "stress": [
            None if frame.stress is None or frame.group == "molecule" else (s - frame.stress) * 160.21766208
            for s, frame in zip(stress, labelled, strict=True)
        ],
    }
    for label, errors in known.items():
        rows = component_rows(said, label)
        by_group = {
            name: [
                error for error, frame in zip(errors, labelled, strict=True) if error is not None and frame.group in of
            ]
            for name in rows
            for of in [{name} if name != "all" else {frame.group for frame in labelled}]
        }
        scored = {frame.group for error, frame in zip(errors, labelled, strict=True) if error is not None}
        assert list(rows) == [*sorted(scored), "all"]
        assert len(scored) > 5
        for name, members in by_group.items():
            error = np.concatenate([one.ravel() for one in members])
            expected = [len(members), np.sqrt(np.mean(error**2)), np.mean(np.abs(error)), np.abs(error).max()]
            assert rows[name] == pytest.approx(expected, rel=1e-6, abs=6e-5), (label, name)
        n_unknown = sum(error is None for error in errors)
        assert n_unknown == {"forces": 2, "stress": 3}[label]
        assert f"\n{n_unknown} of {len(labelled)} structures have no reference {label}\n" in said + "\n"
    assert "molecule" in component_rows(said, "forces")
    assert "molecule" not in component_rows(said, "stress")


def test_a_table_of_energies_alone(labelled: list[Frame]) -> None:
    """Unless forces are asked for, a .csv is quick: none are computed; the energies are the same."""
    said = evaluate_dft(out="a.csv")
    assert "meV/atom" in said
    assert "eV/Å" not in said  # no table of forces or stress
    evaluate_dft("--forces", out="b.csv")
    names = ("energy_per_atom", "reference_energy_per_atom", "volume_per_atom")
    for name in names:
        assert np.allclose(column(name, "a.csv"), column(name, "b.csv"), rtol=1e-12, atol=1e-12)


def test_no_reference_forces() -> None:
    """The classic text has none: that is said, and there is no table."""
    said = evaluate("--forces", "--e-shift", "106")
    for label in ("forces", "stress"):
        assert f"{label}:\n{N_STRUCTURES} of {N_STRUCTURES} structures have no reference {label}\n" in said
    assert "per component" not in said


def test_forces_in_single_precision_are_close(labelled: list[Frame]) -> None:
    evaluate_dft("--dtype", "float32", out="out.extxyz")
    forces, stress = predicted()
    for row, found in enumerate(ase.io.read("out.extxyz", index=":")):
        assert np.allclose(found.get_forces(), forces[row], rtol=0, atol=1e-3)
        if "stress" in found.calc.results:
            assert np.allclose(found.get_stress(), stress[row], rtol=0, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# several members


@pytest.fixture
def ensemble(labelled: list[Frame]) -> tuple[str, ...]:
    """m0.nn.dat, m1.nn.dat, m2.nn.dat: different weights under one header."""
    files = tuple(f"m{seed}.nn.dat" for seed in range(3))
    for seed, name in enumerate(files):
        pf.save_potential(pf.load_potential("start.nn.dat", seed=seed), name)
    return files


def evaluate_members(files: tuple[str, ...], *words: object, out: str) -> str:
    return done("evaluate", "dft.extxyz", "--potential", *files, "--out", out, "--e-shift", "107", *words).said


def member_columns(files: tuple[str, ...], name: str) -> np.ndarray:
    """(K, ..): what each member says alone, by the Python interface."""
    structures = pf.load_structures("dft.extxyz")
    return np.stack([getattr(pf.predict(pf.load_potential(file), structures), name).numpy() for file in files])


@pytest.mark.parametrize("words", [(), ("--forces",)], ids=str)
def test_csv_of_members(ensemble: tuple[str, ...], labelled: list[Frame], words: tuple[str, ...]) -> None:
    """Means in the usual columns, and one more at the end; of one member, the file is as it was."""
    said = evaluate_members(ensemble, *words, out="out.csv")
    assert "mean and spread of 3 members\n" in said
    with open("out.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*COLUMNS, "energy_per_atom_std"]
    sizes = np.array([frame.n_atoms for frame in labelled])
    energies = member_columns(ensemble, "energy") / sizes
    expected = {"energy_per_atom": energies.mean(axis=0), "energy_per_atom_std": energies.std(axis=0, ddof=1)}
    for name, values in expected.items():
        found = np.array([float(row[name]) for row in rows])
        assert np.allclose(found, values, rtol=1e-11, atol=1e-13), name
    assert expected["energy_per_atom_std"].max() > 0.01
    alone = evaluate_members(ensemble[:1], *words, out="one.csv")
    assert rows_of("one.csv")
    assert not re.search("spread|member", alone)


def test_extxyz_of_members(ensemble: tuple[str, ...], labelled: list[Frame]) -> None:
    """Spreads, which ASE does not know as labels, stay in info and arrays, and are no labels when read again."""
    evaluate_members(ensemble, out="out.extxyz")
    found = ase.io.read("out.extxyz", index=":")
    sizes = np.array([frame.n_atoms for frame in labelled])
    energies, forces, stress = (member_columns(ensemble, name) for name in ("energy", "forces", "stress"))
    splits = np.cumsum(sizes)[:-1]
    mean, std = (np.split(values, splits) for values in (forces.mean(axis=0), forces.std(axis=0, ddof=1)))
    for row, (atoms, frame) in enumerate(zip(found, labelled, strict=True)):
        assert atoms.get_potential_energy() == pytest.approx(energies[:, row].mean() - 107 * sizes[row], abs=1e-9)
        assert atoms.info["energy_std"] == pytest.approx(energies[:, row].std(ddof=1), rel=1e-9)
        assert np.allclose(atoms.get_forces(), mean[row], rtol=1e-10, atol=1e-12)
        assert np.allclose(atoms.arrays["forces_std"], std[row], rtol=1e-9, atol=1e-12)
        if frame.group == "molecule":
            assert "stress_std" not in atoms.info
            continue
        assert np.allclose(atoms.info["stress_std"], stress[:, row].std(axis=0, ddof=1), rtol=1e-9, atol=1e-14)
    again = list(read_extxyz("out.extxyz"))
    assert np.allclose(np.concatenate([frame.forces for frame in again]), np.concatenate(mean), rtol=1e-10, atol=1e-12)
    evaluate_members(ensemble[:1], out="one.extxyz")
    assert "_std" not in Path("one.extxyz").read_text()


def test_printed_spread(ensemble: tuple[str, ...], labelled: list[Frame]) -> None:
    """Mean spread, and how it compares with the errors: energies, forces, stress, each below its own table."""
    said = evaluate_members(ensemble, out="out.extxyz")
    sizes = np.array([frame.n_atoms for frame in labelled])
    energies = 1000 * member_columns(ensemble, "energy") / sizes
    spread = energies.std(axis=0, ddof=1)
    known = np.array([1000 * (frame.energy / frame.n_atoms + 107) for frame in labelled])
    within = np.mean(np.abs(energies.mean(axis=0) - known) <= 2 * spread)
    line = f"spread of the members: mean {spread.mean():.3f}, largest {spread.max():.3f} meV/atom\n"
    assert line + f"error within 2 spreads for {within:.0%} of {len(known)} structures; rank correlation" in said
    forces = member_columns(ensemble, "forces").std(axis=0, ddof=1)
    n_known = sum(3 * frame.n_atoms for frame in labelled if frame.forces is not None)
    line = f"spread of the members: mean {forces.mean():.4f}, largest {forces.max():.4f} eV/Å\n"
    assert line in said.split("\nforces:\n")[1].split("\nstress:\n")[0]
    assert f"of {n_known} components; rank correlation" in said
    stress = member_columns(ensemble, "stress").std(axis=0, ddof=1) * 160.21766208
    line = f"spread of the members: mean {np.nanmean(stress):.4f}, largest {np.nanmax(stress):.4f} GPa\n"
    assert line in said.split("\nstress:\n")[1]


def test_members_without_references(ensemble: tuple[str, ...]) -> None:
    write_poscar("none.dat", poscar_blocks(), ["NO_DFT"])
    said = done("evaluate", "none.dat", "--potential", *ensemble, "--out", "out.csv", "--forces").said
    assert len(re.findall(r"^spread of the members: mean \S+, largest \S+ (?:meV/atom|eV/Å|GPa)$", said, re.M)) == 3
    assert "within" not in said
    assert "RMSE" not in said


def test_members_are_plotted_and_quiet(ensemble: tuple[str, ...]) -> None:
    assert evaluate_members(ensemble, "--plots", "plots", "--quiet", out="out.csv") == ""
    assert names() >= PLOTS


def test_members_that_do_not_go_together(ensemble: tuple[str, ...]) -> None:
    words = ("evaluate", "dft.extxyz", "--out", "out.csv", "--potential", *ensemble)
    refused(*words, "si.nn.dat", match=r"si\.nn\.dat cannot be a member beside m0\.nn\.dat: \w+: expected .*found")
    refused(*words, "none.nn.dat", match=r"none\.nn\.dat")
    refused(*words[:3], "m1.nn.dat.csv", *words[4:], OWN / "pinn_mode1.nn.dat", match="pinn_mode1.*cannot be a member")
    shutil.copy("m1.nn.dat", "m1.csv")
    refused(*words[:3], "m1.csv", *words[4:], "m1.csv", "--overwrite", match=r"m1\.csv.*input m1\.csv")


# ---------------------------------------------------------------------------------------------------------------------
# info


@pytest.fixture
def everything() -> None:
    """One file of every kind."""
    prepare = ("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--e-shift", "106")
    done(*prepare, "--out", "si.h5")
    done(*prepare, "--out", "parts.h5", "--shard", "0/1")
    done("convert", "si.h5", "set.dat")
    done("convert", "si.poscar.dat", "si.extxyz")
    done("train", "si.h5", "--potential", "si.nn.dat", "--out", "out.nn.dat", "--steps", "3", "--train-fraction", "0.6",
         "--energy-volume-log", "ev.txt")  # fmt: skip
    evaluate()
    Path("job.json").write_text('// a comment\n{"run_training": true, "learning_rate": 0.25}')


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("si.nn.dat", ["40-16-16-1", "Si", "4.5", "0 1 2 4 6", "1.6 2 2.4 2.8", "unknown", "945"]),
        ("out.nn.dat", ["40-16-16-1", "106"]),
        ("si.h5", ["34", "146", "even (17)", "odd (17)", "106", "Si", "4.5", "0 1 2 4 6", "40"]),
        ("parts.json", ["34", "146", "even (17)", "odd (17)", "106", "Si", "4.5", "40"]),
        ("parts.0-of-1.h5", ["34", "146", "106"]),
        ("set.dat", ["34", "146", "even (17)", "odd (17)", "106", "Si", "4.5", "40"]),
        ("si.poscar.dat", ["34", "146", "even (17)", "odd (17)"]),
        ("si.extxyz", ["34", "146", "even (17)", "odd (17)"]),
        ("out.loss.txt", ["4", "0 to 3"]),
        ("out.validation.txt", ["4", "0 to 3"]),
        ("ev.txt", ["20", "000000", "000003"]),
        ("out.csv", ["34"]),
        ("job.json", ["run_training", "0.25"]),
    ],
)
def test_info(everything: None, name: str, expected: list[str]) -> None:
    before = names()
    result = done("info", name)
    assert result.err == ""
    assert name in result.out.splitlines()[0]
    assert 2 <= len(result.out.splitlines()) <= 12
    for text in expected:
        assert re.search(rf"(?<![\w.]){re.escape(text)}(?!\w)", result.out), text
    assert new_names(before) == set()


KINDS = {
    "potential": ["si.nn.dat", "out.nn.dat", "out.backup/nn_bk_00000.nn.dat"],
    "training set": ["si.h5", "set.dat"],
    "structures": ["si.poscar.dat", "si.extxyz"],
    "configuration": ["job.json"],
    "log": ["out.loss.txt", "out.validation.txt", "ev.txt"],
    "table": ["out.csv"],
}


def test_info_tells_the_kinds_apart(everything: None) -> None:
    """By what is in the file: its name may be any."""
    for kind, files in KINDS.items():
        for name in files:
            shutil.copy(name, "anything")
            first = done("info", "anything").out.splitlines()[0]
            assert {other for other in KINDS if other in first} == {kind}, (name, first)


@pytest.mark.parametrize("case", ["pinn_mode1", "pinn_mode3", "pinn_mode4"])
def test_info_of_a_physically_informed_potential(case: str) -> None:
    assert "physically informed" in done("info", OWN / f"{case}.nn.dat").out


def test_info_of_a_potential_that_asks_for_random_weights() -> None:
    fresh_potential("fresh.nn.dat")
    assert "random" in done("info", "fresh.nn.dat").out
    assert "random" not in done("info", "si.nn.dat").out


def test_info_counts_energies() -> None:
    without = mix_in_no_dft()
    done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "si.h5")
    for name in ("si.poscar.dat", "si.h5"):
        assert re.search(rf"{N_STRUCTURES}, {N_STRUCTURES - len(without)} with an energy", done("info", name).out)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "empty"),
        (b"\0\1\2\3" * 100, "binary"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 200, "cannot read|damaged"),
        (b"{", "JSON"),
        (b'{"training_iteration": 5}', "training_iterations"),
        (b"# 1 - not a set\n", "expected"),
        (b"just some text\nof no kind\n", "expected"),
    ],
)
def test_info_of_what_is_nothing(content: bytes, match: str) -> None:
    Path("thing").write_bytes(content)
    refused("info", "thing", match=rf"thing.*({match})")


def test_info_of_a_folder_and_of_nothing() -> None:
    Path("folder").mkdir()
    refused("info", "folder", match="folder")
    refused("info", "none.dat", match=r"none\.dat")


# ---------------------------------------------------------------------------------------------------------------------
# convert


def convert(source: str, target: str, *words: object) -> None:
    before = names()
    done("convert", source, target, *words)
    assert new_names(before) == {target}


@pytest.fixture
def training_set() -> str:
    mix_in_no_dft()
    done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "si.h5", "--e-shift", "106")
    return "si.h5"


def test_a_set_as_text_and_back(training_set: str) -> None:
    """Text holds seven digits and no positions; groups, sizes, elements, shift and unknown energies survive."""
    convert(training_set, "set.dat")
    convert("set.dat", "back.h5")
    original, back = pf.load_training_set(training_set), pf.load_training_set("back.h5")
    assert back.groups == original.groups
    assert back.sizes.tolist() == original.sizes.tolist()
    assert back.energy_shift == original.energy_shift
    assert back.descriptor.identity() == original.descriptor.identity()
    assert np.allclose(back.features.numpy(), original.features.numpy(), rtol=1e-6, atol=0)
    known = original.has_energy.numpy()
    assert np.array_equal(back.has_energy.numpy(), known)
    used, expected = back.energy_used.numpy()[known], original.energy_used.numpy()[known]
    assert np.allclose(used, expected, rtol=1e-6, atol=0)
    assert back.positions.isnan().all()
    convert("back.h5", "again.dat")
    assert Path("again.dat").read_bytes() == Path("set.dat").read_bytes()


def test_text_set_as_specified(training_set: str) -> None:
    convert(training_set, "set.dat")
    lines = Path("set.dat").read_text().splitlines()
    header, rows = lines[:12], lines[12:]
    assert all(line.startswith(" # ") for line in header)
    numbers = ["1 0.5 1", "1", "Si 28.0855", "0 1.0 4.5 1.0 1.0", "5 0 1 2 4 6", "8 1.6 2.0 2.4 2.8 3.2 3.6 4.0 4.3"]
    for line, expected in zip(header, numbers, strict=False):
        assert line[3:].split()[: len(expected.split())] == expected.split()
    assert header[7].split()[1:] == ["4", "40", "16", "16", "1"]
    assert header[8:11] == [
        " # 1 - Potential Type",
        f" # {N_STRUCTURES} - Number of Structures",
        f" # {N_ATOMS} - Number of Atoms",
    ]
    columns = "ATOM-ID GROUP-NAME GROUP_ID STRUCTURE_ID STRUCTURE_Natom STRUCTURE_E_DFT STRUCTURE_Vol"
    assert header[11] == f" # {columns}"
    assert len(rows) == 2 * N_ATOMS
    original = pf.load_training_set(training_set)
    groups = list(dict.fromkeys(original.groups))
    atom = 0
    for structure, (group, size) in enumerate(zip(original.groups, original.sizes.tolist(), strict=True)):
        used = original.energy_used[structure].item() if original.has_energy[structure] else 0.0
        cells = f"{group} {groups.index(group) + 1} {structure} {size} {used:.6E} "
        cells += f"{original.volume_per_atom[structure]:.6E}"
        for _ in range(size):
            assert rows[2 * atom] == f"ATOM-{atom} {cells}"
            inputs = " ".join(f"{value:.6E}" for value in original.features[atom].tolist())
            assert rows[2 * atom + 1] == f"Gi  {inputs}"
            atom += 1


def test_a_set_as_hdf5_again(training_set: str) -> None:
    convert(training_set, "copy.hdf5")
    assert Path("copy.hdf5").read_bytes() == Path(training_set).read_bytes()


def test_structures_as_extxyz_and_back() -> None:
    """Every digit survives."""
    without = mix_in_no_dft()
    convert("si.poscar.dat", "si.extxyz")
    frames = ase.io.read("si.extxyz", index=":")
    blocks = poscar_blocks("si.poscar.dat")
    assert [frame.info["group"] for frame in frames] == [block[0] for block in blocks]
    for row, (frame, block) in enumerate(zip(frames, blocks, strict=True)):
        if row in without:
            assert frame.calc is None
        else:
            assert frame.get_potential_energy() == float(block[-1])
    convert("si.extxyz", "back.poscar.dat")
    for mine, other in zip(poscar_blocks("back.poscar.dat"), blocks, strict=True):
        assert mine[0] == other[0]
        assert mine[5] == other[5]
        for row in (2, 3, 4):
            assert [float(cell) for cell in mine[row].split()] == [float(cell) for cell in other[row].split()]
    first, last = pf.load_structures("si.poscar.dat"), pf.load_structures("back.poscar.dat")
    assert np.array_equal(first.positions.numpy(), last.positions.numpy())
    assert np.array_equal(first.energy.numpy(), last.energy.numpy(), equal_nan=True)


@pytest.mark.parametrize("target", ["copy.nn.dat", "copy.dat"])
def test_a_potential(target: str) -> None:
    convert("si.nn.dat", target)
    assert weights(target) == weights("si.nn.dat")
    assert Path(target).read_text().splitlines()[4:8] == Path("si.nn.dat").read_text().splitlines()[4:8]
    convert(target, "again.nn.dat")
    assert Path("again.nn.dat").read_bytes() == Path(target).read_bytes()


def test_a_potential_with_eight_outputs_and_one_of_two_elements() -> None:
    for name in ("pinn_mode1", "two_elements"):
        shutil.copy(OWN / f"{name}.nn.dat", f"{name}.nn.dat")
        convert(f"{name}.nn.dat", f"copy.{name}.nn.dat")
        assert weights(f"copy.{name}.nn.dat") == weights(f"{name}.nn.dat")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("si.poscar.dat", "out.h5"),
        ("si.poscar.dat", "out.nn"),
        ("si.nn.dat", "out.h5"),
        ("si.nn.dat", "out.extxyz"),
        ("job.json", "out.dat"),
    ],
)
def test_conversions_that_do_not_exist(source: str, target: str) -> None:
    Path("job.json").write_text('{"run_training": true}')
    refused("convert", source, target, match=rf"{re.escape(source)}|{re.escape(target)}")


@pytest.mark.parametrize("target", ["out.extxyz", "out.nn.dat"])
def test_a_set_under_a_name_of_another_kind(training_set: str, target: str) -> None:
    """Not a text set under a name that says something else: either it is refused, or it is what the name says."""
    result = call("convert", training_set, target)
    if result.status == 0:
        assert target == "out.extxyz"
        assert len(ase.io.read(target, index=":")) == N_STRUCTURES
    else:
        assert result.status == 2
        assert target in result.err
        assert not Path(target).exists()


def test_convert_does_not_replace_what_is_there(training_set: str) -> None:
    Path("set.dat").write_text("something precious")
    refused("convert", training_set, "set.dat", match=r"set\.dat.*exists.*--overwrite")
    done("convert", training_set, "set.dat", "--unique")
    assert Path("set.dat").read_text() == "something precious"
    done("convert", training_set, "set.dat", "--overwrite")
    assert Path("set.dat").read_bytes() == Path("set.00000.dat").read_bytes()


def test_converting_onto_itself(training_set: str) -> None:
    refused("convert", training_set, training_set, match="exists")


def test_a_manifest_becomes_one_file() -> None:
    prepare = ("prepare", "si.poscar.dat", "--potential", "si.nn.dat")
    done(*prepare, "--out", "whole.h5")
    for index in range(2):
        done(*prepare, "--out", "si.h5", "--shard", f"{index}/2")
    assert json.loads(Path("si.json").read_text())["count"] == 2
    convert("si.json", "joined.h5")
    assert Path("joined.h5").read_bytes() == Path("whole.h5").read_bytes()
    convert("si.json", "joined.dat")
    convert("whole.h5", "whole.dat")
    assert Path("joined.dat").read_bytes() == Path("whole.dat").read_bytes()


def test_each_element_has_its_own_shift() -> None:
    """E_used = E_file + the shift of each atom's element: in the table, and taken off again in the structures."""
    text = (OWN / "two_elements.nn.dat").read_text()
    text = text.replace(" Si 28.0855", " Si 28.0855 - e_shift 100").replace(" C 12.011", " C 12.011 - e_shift 200")
    Path("sic.nn.dat").write_text(text)
    frames = ase.io.read(OWN / "two_elements.extxyz", index=":")
    atoms = next(a for a in frames if set(a.symbols) == {"Si", "C"})
    n_silicon, n_carbon = (int(np.sum(atoms.symbols == symbol)) for symbol in ("Si", "C"))
    atoms.calc = SinglePointCalculator(atoms, energy=-7.0)
    ase.io.write("sic.extxyz", atoms)
    done("evaluate", "sic.extxyz", "--potential", "sic.nn.dat", "--out", "out.csv")
    done("evaluate", "sic.extxyz", "--potential", "sic.nn.dat", "--out", "out.extxyz")
    shift = 100 * n_silicon + 200 * n_carbon
    with open("out.csv") as file:
        (row,) = csv.DictReader(file)
    assert float(row["reference_energy_per_atom"]) * len(atoms) == pytest.approx(-7.0 + shift, abs=1e-9)
    on_dft_scale = ase.io.read("out.extxyz").get_potential_energy()
    assert on_dft_scale == pytest.approx(float(row["energy_per_atom"]) * len(atoms) - shift, abs=1e-9)
