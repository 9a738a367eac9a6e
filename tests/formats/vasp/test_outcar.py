"""OUTCAR: the numbers of ASE, and each fault of a run named or left out with its count."""

# mypy: allow-untyped-calls
from __future__ import annotations

import bz2
import gzip
import logging
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.data import chemical_symbols
from ase.units import GPa
from vasp_samples import (
    ENDING,
    REACHED,
    UNREACHED,
    Ionic,
    Run,
    final_energy,
    iteration,
    learned_step,
    outcar,
    outcar_head,
    outcar_step,
)

from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.formats.head import Head, read_head
from pyfit_gpu.formats.kinds import VASP_OUTCAR, identify
from pyfit_gpu.formats.opening import read_frames
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.vasp.outcar import looks_like_outcar, read_outcar
from pyfit_gpu.structures.frames import Frame

STORED = Path(__file__).parents[2] / "data" / "vasp" / "OUTCAR"
CONVERGED = ReadOptions(vasp_steps="converged")
SHORT = Ionic((-9.0, -9.5))


def read(text: str, folder: Path, options: ReadOptions | None = None, name: str = "OUTCAR") -> list[Frame]:
    (folder / name).write_text(text)
    return list(read_frames(folder / name, options=options))


def energies(frames: Sequence[Frame]) -> list[float | None]:
    return [frame.energy for frame in frames]


# --- the numbers


def test_same_numbers_as_ase() -> None:
    frames = list(read_frames(STORED))
    for frame, atoms in zip(frames, ase.io.read(STORED, index=":", format="vasp-out"), strict=True):
        results = atoms.calc.results
        assert frame.energy == results["free_energy"]
        np.testing.assert_array_equal(frame.positions, atoms.positions)
        np.testing.assert_array_equal(frame.cell, atoms.cell.array)
        np.testing.assert_array_equal(frame.forces, results["forces"])
        np.testing.assert_allclose(frame.stress, results["stress"], rtol=1e-14)
        assert frame.atomic_numbers.tolist() == atoms.numbers.tolist()
    assert [frame.source for frame in frames] == [f"{STORED}, ionic step {n}" for n in (1, 2)]


def test_fields_of_a_frame(tmp_path: Path) -> None:
    run = Run(species=(("C", 1), ("Zr_sv", 2)))
    first, second = read(outcar(run), tmp_path, name="md_OUTCAR.1")
    assert energies((first, second)) == [-10.0, -10.0]
    np.testing.assert_allclose(second.positions, run.positions(run.steps[1]), atol=1e-5)
    np.testing.assert_allclose(second.forces, run.forces(run.steps[1]), atol=1e-6)
    np.testing.assert_allclose(first.stress, -0.1 * GPa * np.array([1, 2, 3, 5, 6, 4]), rtol=1e-12)  # yz xz xy
    np.testing.assert_array_equal(first.cell, np.diag(run.cell))
    assert first.atomic_numbers.tolist() == [6, 40, 40]
    assert first.pbc.all()
    assert first.group == "md_OUTCAR"


def test_no_energy_where_the_name_says_so(tmp_path: Path) -> None:
    assert energies(read(outcar(Run()), tmp_path, name="NO_DFT_OUTCAR")) == [None, None]


@pytest.mark.parametrize("isif", ["0", "1"])
def test_no_stress_where_vasp_computes_none_or_its_trace_alone(tmp_path: Path, isif: str) -> None:
    assert read(outcar(Run(settings={"ISIF": isif})), tmp_path)[0].stress is None
    assert read(outcar(Run(settings={"ISIF": "2"})), tmp_path)[0].stress is not None


PACKED = [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]


@pytest.mark.parametrize(("ending", "pack"), PACKED)
@pytest.mark.parametrize("name", ["OUTCAR", "relaxed.txt"])
def test_compressed(tmp_path: Path, name: str, ending: str, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / (name + ending)
    path.write_bytes(pack(outcar(Run()).encode()))
    assert identify(path) is VASP_OUTCAR
    assert len(list(read_frames(path))) == 2


@pytest.mark.parametrize(("ending", "pack"), PACKED)
def test_cut_after_it_was_compressed(tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"OUTCAR{ending}"
    path.write_bytes(pack(outcar(Run()).encode())[:-20])
    with pytest.raises(InputError, match=rf"OUTCAR{ending}: cannot read"):
        list(read_outcar(path, ReadOptions()))


# --- elements


def test_more_than_ten_species(tmp_path: Path) -> None:
    symbols = chemical_symbols[1:23]
    run = Run(species=tuple((symbol, 1 + k % 2) for k, symbol in enumerate(symbols)))
    expected = [number for number in range(1, 23) for _ in range(2 - number % 2)]
    assert read(outcar(run), tmp_path)[0].atomic_numbers.tolist() == expected


def test_more_than_ten_species_of_which_vasp_counts_ten(tmp_path: Path) -> None:
    run = Run(species=tuple((symbol, 1) for symbol in chemical_symbols[1:12]))
    lines = outcar(run).splitlines(keepends=True)
    first = next(k for k, line in enumerate(lines) if "ions per type" in line)
    with pytest.raises(InputError, match=r"10 atoms of 10 species, NIONS is 11; the vasprun\.xml"):
        read("".join(lines[: first + 1] + lines[first + 2 :]), tmp_path)


@pytest.mark.parametrize(
    ("kept", "found"),
    [(("VRHFIN",), [40, 40, 1]), (("TITEL",), [40, 40, 1]), (("POTCAR",), [40, 40, 1]), ((), None)],
)
def test_elements_from_whatever_names_them(tmp_path: Path, kept: tuple[str, ...], found: list[int] | None) -> None:
    """NWRITE = 0 or 1 leaves out some of the lines."""
    text = outcar(Run(species=(("Zr", 2), ("H", 1)))).replace("PAW_PBE H ", "^PAW_PBE H1.25 ")
    names = {"VRHFIN", "TITEL", "POTCAR"} - set(kept)
    text = "".join(line for line in text.splitlines(keepends=True) if not any(name in line for name in names))
    if found is None:
        with pytest.raises(InputError, match=r"expected the elements of 2 species.*vasprun\.xml"):
            read(text, tmp_path)
    else:
        assert read(text, tmp_path)[0].atomic_numbers.tolist() == found


# --- columns


def test_forces_without_dispersion_stand_beside_the_total_ones(tmp_path: Path) -> None:
    plain = outcar(Run())
    lines = plain.splitlines(keepends=True)
    for k, line in enumerate(lines):
        if "TOTAL-FORCE" in line:
            lines[k] = line.replace("\n", ",            FORCE-w/o vdW (eV/Angst)\n")
            for row in (k + 2, k + 3):
                lines[row] = lines[row].replace("\n", "     -7.000000      7.000000      7.000000\n")
    for got, expected in zip(read("".join(lines), tmp_path), read(plain, tmp_path), strict=True):
        np.testing.assert_array_equal(got.forces, expected.forces)
        np.testing.assert_array_equal(got.positions, expected.positions)


def test_numbers_that_run_together(tmp_path: Path) -> None:
    text = outcar(Run(cell=(100.0, 6.0, 7.0))).replace(
        "  in kB        1.00000     2.00000", "  in kB   -1001.00000-2000.00000"
    )
    text = text.replace("100.000000000  0.000000000", "100.000000000-10.000000000")
    text = text.replace("      0.50000      0.25000", "      0.50000 -1000.25000").replace(
        " -1000.25000", "-1000.25000"
    )
    frame = read(text, tmp_path)[0]
    np.testing.assert_allclose(frame.stress[:2], 0.1 * GPa * np.array([1001, 2000]))
    np.testing.assert_array_equal(frame.cell[0], [100, -10, 0])
    np.testing.assert_array_equal(frame.positions[1], [0.5, -1000.25, 0.125])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("      0.50000      0.25000", "************      0.25000"),
        ("      0.50000      0.25000", " 10000.5000010000.25000"),
        ("      0.50000      0.25000", "          NaN      0.25000"),
        ("  in kB        1.00000     2.00000", "  in kB   ************     2.00000"),
        ("  free  energy   TOTEN  =       -10.00000000 eV", "  free  energy   TOTEN  =       ************ eV"),
        ("    5.000000000  0.000000000", "    5.000000000*************"),
    ],
)
def test_numbers_that_cannot_be_read(tmp_path: Path, old: str, new: str) -> None:
    text = outcar(Run())
    assert old in text
    text = text.replace(old, new, 1)
    with pytest.raises(InputError, match=r"ionic step 1: numbers that cannot be read, .*vasprun\.xml"):
        read(text, tmp_path)
    assert len(read(text, tmp_path, CONVERGED)) == 1


def test_counts_that_nothing_can_hold(tmp_path: Path) -> None:
    """No list of as many atoms as a damaged header says is made before there are so many rows."""
    text = (
        outcar(Run())
        .replace("NIONS =      2", "NIONS = 999999999999")
        .replace("      2\n   NELM", "999999999999\n   NELM")
    )
    with pytest.raises(InputError, match="ionic step 1: numbers that cannot be read, '2 rows for 999999999999 atoms'"):
        read(text, tmp_path)


def test_a_row_too_few(tmp_path: Path) -> None:
    row = "      0.50000      0.25000      0.12500         -0.100000     -0.200000     -0.300000\n"
    text = outcar(Run())
    assert row in text
    with pytest.raises(InputError, match="ionic step 1: numbers that cannot be read, '1 rows for 2 atoms'"):
        read(text.replace(row, "", 1), tmp_path)


# --- convergence

LAST = Ionic((-9.0, -9.9999995, -10.0))  # the last change is below EDIFF


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (Run((Ionic(verdict=UNREACHED),)), "VASP says 'aborting loop EDIFF was not reached"),
        (Run((Ionic(verdict="aborting loop because hard stop was set"),)), "VASP says .*hard stop"),
        (Run((Ionic(verdict=""),)), "no line 'aborting loop because EDIFF"),
        (Run((SHORT,), nelm=2), "all NELM = 2 steps used, last energy change 0.5, EDIFF 1e-06"),
        (Run((Ionic((-10.0,)),), nelm=1), r"all NELM = 1 steps used, last energy change 10, EDIFF 1e-06"),
    ],
)
def test_not_converged(tmp_path: Path, run: Run, message: str) -> None:
    with pytest.raises(InputError, match=rf"OUTCAR, ionic step 1: electronic steps not converged: .*{message}"):
        read(outcar(run), tmp_path)
    with pytest.raises(InputError, match=r"no ionic step can be taken; left out: step 1 \(not converged: "):
        read(outcar(run), tmp_path, CONVERGED)


@pytest.mark.parametrize(
    "run",
    [
        Run((LAST,), nelm=3),
        Run((LAST,), nelm=4),
        Run((SHORT,)),  # VASP says so, and had steps left
        Run((SHORT,), nelm=None, ediff=None),
    ],
)
def test_converged(tmp_path: Path, run: Run) -> None:
    assert len(read(outcar(run), tmp_path)) == 1


@pytest.mark.parametrize("kept", ["total energy-change", "free energy    TOTEN"])
def test_the_last_change_from_either_line(tmp_path: Path, kept: str) -> None:
    other = {"total energy-change": "free energy    TOTEN", "free energy    TOTEN": "total energy-change"}[kept]
    for step, is_taken in ((LAST, True), (Ionic((-9.0, -9.999, -10.0)), False)):
        text = outcar(Run((step,), nelm=3))
        text = "".join(line for line in text.splitlines(keepends=True) if other not in line)
        if is_taken:
            assert len(read(text, tmp_path)) == 1
        else:
            with pytest.raises(InputError, match=r"all NELM = 3 steps used, last energy change 0\.001, EDIFF 1e-06"):
                read(text, tmp_path)


def test_the_settings_that_vasp_used_count_not_the_input_that_it_repeats(tmp_path: Path) -> None:
    text = outcar(Run((LAST,), nelm=4)).replace(" POTCAR:", "   NELM = 3\n   EDIFF = 1D-9\n POTCAR:", 1)
    assert len(read(text, tmp_path)) == 1
    text = outcar(Run((LAST,), nelm=3, ediff=None)).replace(" POTCAR:", "   EDIFF = 1D-6 ! tight\n POTCAR:", 1)
    assert len(read(text, tmp_path)) == 1


# --- killed runs


def test_cut_anywhere(tmp_path: Path) -> None:
    """A killed job leaves a file that ends anywhere, also inside of a number."""
    text = outcar(Run())
    end = text.index(ENDING)
    for kept in range(1, end, 23):
        with pytest.raises(InputError, match=r"OUTCAR: truncated after \d ionic steps"):
            read(text[:kept], tmp_path)
    last = text.rindex("TOTEN")  # of the second step
    for kept in range(last, last + 40):
        is_whole = "eV\n" in text[last:kept]
        assert energies(read(text[:kept], tmp_path, CONVERGED)) == [-10.0] * (1 + is_whole)


def test_the_message_names_the_way_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    steps = (Ionic(), Ionic(), Ionic(), Ionic((-9.0, -9.9988), verdict=UNREACHED), Ionic())
    text = outcar(Run(steps, ended=False)).rsplit("  FREE ENERGIE", 1)[0]
    with pytest.raises(InputError, match=r"ionic step 4: .*; 3 of 5 ionic steps are whole and converged") as caught:
        read(text, tmp_path)
    assert caught.value.remedy is Remedy.CONVERGED_STEPS
    with caplog.at_level(logging.INFO):
        frames = read(text, tmp_path, CONVERGED)
    assert [frame.source.rpartition(", ")[2] for frame in frames] == [f"ionic step {n}" for n in (1, 2, 3)]
    (line,) = caplog.messages
    assert line.startswith(
        f"{tmp_path / 'OUTCAR'}: 3 of 5 ionic steps taken; left out: step 4 (not converged: VASP says "
    )
    assert "last energy change 1, EDIFF 1e-06" in line
    assert "step 5 (incomplete, it has no final energy)" in line
    assert line.endswith("truncated after 4 ionic steps: no closing timing section")


def test_nothing_comes_after_a_step_that_is_refused(tmp_path: Path) -> None:
    """The rest is read for the counts of the message."""
    (tmp_path / "OUTCAR").write_text(outcar(Run((Ionic(), Ionic(verdict=UNREACHED), Ionic()))))
    frames = read_frames(tmp_path / "OUTCAR")
    assert next(frames).source.endswith("ionic step 1")
    with pytest.raises(InputError, match="2 of 3 ionic steps are whole and converged"):
        next(frames)


def test_many_left_out_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    steps = (*[Ionic(verdict=UNREACHED)] * 30, Ionic())
    with caplog.at_level(logging.INFO):
        assert len(read(outcar(Run(steps)), tmp_path, CONVERGED)) == 1
    (line,) = caplog.messages
    assert line.endswith("OUTCAR: 1 of 31 ionic steps taken; left out: 30 not converged")


def test_a_whole_run_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        read(outcar(Run()), tmp_path, CONVERGED)
        read(outcar(Run()), tmp_path)
    assert caplog.messages == []


def test_nothing_to_take_has_no_way_out(tmp_path: Path) -> None:
    text = outcar_head(Run()) + iteration(1, 1)
    with pytest.raises(InputError, match=r"truncated after 0 .*; no other ionic step is whole") as caught:
        read(text, tmp_path)
    assert caught.value.remedy is None
    with pytest.raises(InputError, match=r"no ionic step can be taken; left out: step 1 .incomplete"):
        read(text, tmp_path, CONVERGED)


@pytest.mark.parametrize("lost", ["FREE ENERGIE", "direct lattice", "POSITION "])
def test_a_step_that_lost_a_part(tmp_path: Path, lost: str) -> None:
    for settings in ({}, {"LEPSILON": "T"}):
        text = outcar(Run(settings=settings))
        for number, (before, after) in enumerate((text.split(lost, 1), text.rsplit(lost, 1)), start=1):
            message = f"OUTCAR, ionic step {number}: incomplete, it has no (final energy|cell|table)"
            with pytest.raises(InputError, match=message):
                read(before + after, tmp_path)


def test_a_step_that_lost_all_but_its_electronic_steps(tmp_path: Path) -> None:
    run = Run()
    text = outcar_head(run) + iteration(1, 1) + outcar_step(run, run.steps[1], 2) + ENDING
    with pytest.raises(InputError, match="OUTCAR, ionic step 1: incomplete, it has no final energy"):
        read(text, tmp_path)
    assert len(read(text, tmp_path, CONVERGED)) == 1


def test_two_final_energies(tmp_path: Path) -> None:
    run = Run((Ionic(),), ended=False)
    assert len(read(outcar(run) + final_energy(-10.0) + ENDING, tmp_path)) == 1
    with pytest.raises(InputError, match=r"after ionic step 1: another final energy .*vasprun\.xml"):
        read(outcar(run) + final_energy(-10.5) + ENDING, tmp_path)


# --- linear response, force fields, several runs

PERTURBED = "".join(iteration(n, 1) + iteration(n, 2) + f"--- {REACHED} ---\n" for n in (1, 2, 3))


@pytest.mark.parametrize("settings", [{}, {"LEPSILON": "T"}, {"IBRION": "8"}])
def test_linear_response_comes_last(tmp_path: Path, settings: dict[str, str]) -> None:
    text = outcar(Run(settings=settings)).replace(ENDING, PERTURBED + ENDING)
    assert len(read(text, tmp_path)) == 2


@pytest.mark.parametrize("settings", [{"LEPSILON": "T"}, {"LCALCEPS": ".TRUE."}, {"LCHIMAG": "T"}, {"IBRION": "7"}])
def test_linear_response_before_displacements(tmp_path: Path, settings: dict[str, str]) -> None:
    run = Run(settings=settings)
    first, second = (outcar_step(run, step, n) for n, step in enumerate(run.steps, start=1))
    assert len(read(outcar_head(run) + first + PERTURBED + second + ENDING, tmp_path)) == 2
    with pytest.raises(InputError, match=r"truncated after 2 .*; 2 of 2 ionic steps"):
        read(outcar_head(run) + first + second + PERTURBED, tmp_path)


def test_finite_differences_are_ionic_steps(tmp_path: Path) -> None:
    run = Run(settings={"IBRION": "6"})
    assert len(read(outcar(run), tmp_path)) == 2
    text = outcar_head(run) + PERTURBED + outcar_step(run, run.steps[0], 4) + ENDING
    with pytest.raises(InputError, match="ionic step 1: incomplete"):
        read(text, tmp_path)


def test_steps_of_a_force_field_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run()
    learned = learned_step(run, -99.0)
    first, last = (outcar_step(run, step, n) for step, n in zip(run.steps, (1, 57), strict=True))
    text = outcar_head(run) + learned + first + learned * 55 + learned + last + learned * 2 + ENDING
    with caplog.at_level(logging.INFO):
        frames = read(text, tmp_path)
    assert energies(frames) == [-10.0, -10.0]
    for frame, step in zip(frames, run.steps, strict=True):
        np.testing.assert_allclose(frame.forces, run.forces(step))
        np.testing.assert_array_equal(frame.cell, np.diag(run.cell))
        assert frame.stress[0] == pytest.approx(-0.1 * GPa)
    assert frames[1].source.endswith("ionic step 57")
    (line,) = caplog.messages
    no_stress = "".join(
        row for row in text.splitlines(keepends=True) if "  FORCE on" not in row and "1.00000 " not in row
    )
    assert [(frame.stress, *np.diag(frame.cell)) for frame in read(no_stress, tmp_path)] == [(None, *run.cell)] * 2
    assert line.endswith(": 2 of 59 ionic steps taken; left out: 57 of a machine-learned force field")


def test_what_a_force_field_says_of_a_dft_step(tmp_path: Path) -> None:
    """Its numbers may also come between VASP's own."""
    run = Run((LAST,), nelm=3)
    text = "".join(line for line in outcar(run).splitlines(keepends=True) if "energy-change" not in line)
    before, after = text.split("  FREE ENERGIE")
    (frame,) = read(f"{before}{learned_step(run, -99.0)}  FREE ENERGIE{after}", tmp_path)
    assert frame.energy == -10.0
    np.testing.assert_allclose(frame.forces, run.forces(Ionic()))
    assert frame.stress[0] == pytest.approx(-0.1 * GPa)
    np.testing.assert_array_equal(frame.cell, np.diag(run.cell))


def test_a_run_of_a_force_field_alone(tmp_path: Path) -> None:
    run = Run()
    text = outcar_head(run) + learned_step(run, -99.0) * 3 + ENDING
    with pytest.raises(InputError, match="no ionic step can be taken; left out: 3 of a machine-learned force field"):
        read(text, tmp_path)


def test_two_runs_in_one_file(tmp_path: Path) -> None:
    """By cat: each with the elements and settings of its own header."""
    carbon = Run((Ionic((-29.0, -30.0 + 1e-7, -30.0)),), (("C", 3),), nelm=3)
    frames = read(outcar(Run()) + outcar(carbon), tmp_path)
    assert energies(frames) == [-10.0, -10.0, -30.0]
    assert [frame.atomic_numbers.tolist() for frame in frames] == [[14, 14], [14, 14], [6, 6, 6]]
    assert [frame.source.partition(", ")[2] for frame in frames] == [
        "ionic step 1",
        "ionic step 2",
        "run 2, ionic step 1",
    ]


def test_a_killed_run_before_another(tmp_path: Path) -> None:
    killed = outcar(Run(ended=False)) + iteration(3, 1)
    with pytest.raises(InputError, match=r"OUTCAR, run 1: truncated after 2 .*; 4 of 5 ionic steps"):
        read(killed + outcar(Run()), tmp_path)
    assert len(read(killed + outcar(Run()), tmp_path, CONVERGED)) == 4


# --- recognising


@pytest.mark.parametrize("name", ["OUTCAR", "OUTCAR.2", "run_OUTCAR.bak", "OUTCAR.txt.gz"])
def test_by_name(name: str) -> None:
    assert looks_like_outcar(Head(name, b"whatever"))
    assert not looks_like_outcar(Head(name, b"\x89HDF\r\n\x1a\n\0"))
    assert not looks_like_outcar(Head(name, b'<?xml version="1.0"?>'))


@pytest.mark.parametrize("name", ["a.txt", "OUTCAR.xyz", "OUTCAR.extxyz.gz", "OUTCAR.h5", "OUTCAR.dat", "POSCAR"])
def test_not_by_name(name: str) -> None:
    assert not looks_like_outcar(Head(name, b"whatever"))


def test_by_content(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_text(outcar(Run()))
    assert looks_like_outcar(read_head(tmp_path / "a.dat"))


def test_titles_in_any_encoding_and_neighbours(tmp_path: Path) -> None:
    (tmp_path / "CONTCAR").write_text("killed while\n")  # ASE would read it, for constraints
    text = outcar(Run()).replace(" POTCAR:", " SYSTEM = zwölf Å\n POTCAR:", 1)
    (tmp_path / "OUTCAR").write_bytes(text.encode("latin-1"))
    assert len(list(read_frames(tmp_path / "OUTCAR"))) == 2
