"""vasprun.xml: the numbers of ASE, convergence by the last change of the energy, and what a killed run leaves."""

# mypy: allow-untyped-calls
from __future__ import annotations

import gzip
import logging
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.units import GPa
from vasp_samples import Ionic, Run, calculation, scstep, structure, varray, vasprun

from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.formats.ase_files import read_ase_frames
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.kinds import VASP_XML, identify
from pyfit_gpu.formats.opening import read_frames
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.vasp.vasprun import looks_like_vasprun, read_vasprun
from pyfit_gpu.structures.frames import Frame

STORED = Path(__file__).parents[2] / "data" / "vasp"
CONVERGED = ReadOptions(vasp_steps="converged")
LAST = Ionic((-9.0, -9.9999995, -10.0))  # the last change is below EDIFF
NEARLY = Ionic((-9.0, -9.999995, -10.0))  # five times EDIFF
SHORT = Ionic((-9.8, -9.9, -10.0))


def read(text: str, folder: Path, options: ReadOptions | None = None, name: str = "vasprun.xml") -> list[Frame]:
    (folder / name).write_text(text)
    return list(read_frames(folder / name, options=options))


# --- the numbers


@pytest.mark.parametrize("settings", [{}, {"PSTRESS": "100.00000000"}])
def test_same_numbers_as_ase(tmp_path: Path, settings: dict[str, str]) -> None:
    text = (STORED / "vasprun.xml").read_text()
    for name, value in settings.items():  # the enthalpy that VASP writes becomes an energy
        text = text.replace(f'"{name}">      0.00000000', f'"{name}">    {value}')
        assert value in text
    frames = read(text, tmp_path)
    for frame, atoms in zip(frames, ase.io.read(tmp_path / "vasprun.xml", index=":"), strict=True):
        results = atoms.calc.results
        assert frame.energy == pytest.approx(results["free_energy"], abs=1e-12)
        np.testing.assert_array_equal(frame.positions, atoms.positions)
        np.testing.assert_array_equal(frame.cell, atoms.cell.array)
        np.testing.assert_array_equal(frame.forces, results["forces"])
        np.testing.assert_allclose(frame.stress, results["stress"], rtol=1e-14)
        assert frame.atomic_numbers.tolist() == atoms.numbers.tolist()


def test_both_files_of_one_run_agree() -> None:
    pairs = zip(read_frames(STORED / "vasprun.xml"), read_frames(STORED / "OUTCAR"), strict=True)
    for xml, outcar in pairs:
        assert xml.energy == outcar.energy
        np.testing.assert_allclose(xml.positions, outcar.positions, atol=5.1e-6)
        np.testing.assert_allclose(xml.forces, outcar.forces, atol=5.1e-7)
        np.testing.assert_allclose(xml.stress, outcar.stress, atol=1e-8)


def test_fields_of_a_frame(tmp_path: Path) -> None:
    run = Run(species=(("C", 1), ("Zr", 2)))
    first, second = read(vasprun(run), tmp_path, name="run3.xml")
    assert first.energy == -10.0
    np.testing.assert_allclose(second.positions, run.positions(run.steps[1]), atol=1e-7)
    np.testing.assert_allclose(second.forces, run.forces(run.steps[1]), atol=1e-8)
    np.testing.assert_allclose(first.stress, -0.1 * GPa * np.array([1, 2, 3, 5, 6, 4]), rtol=1e-12)  # yz xz xy
    assert first.atomic_numbers.tolist() == [6, 40, 40]
    assert first.pbc.all()
    assert (first.group, second.source) == ("run3", f"{tmp_path / 'run3.xml'}, ionic step 2")


@pytest.mark.parametrize("isif", ["0", "1"])
def test_no_stress_where_vasp_computes_none_or_its_trace_alone(tmp_path: Path, isif: str) -> None:
    assert read(vasprun(Run(settings={"ISIF": isif})), tmp_path)[0].stress is None
    assert read(vasprun(Run(settings={"ISIF": "2"})), tmp_path)[0].stress is not None


def test_compressed(tmp_path: Path) -> None:
    path = tmp_path / "relaxed.gz"
    path.write_bytes(gzip.compress(vasprun(Run()).encode()))
    assert identify(path) is VASP_XML
    assert len(list(read_frames(path))) == 2
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"relaxed\.gz: cannot read"):
        list(read_vasprun(path, ReadOptions()))


# --- elements


@pytest.mark.parametrize(
    ("symbols", "titles", "expected"),
    [
        ("Zr Xe", ["PAW_PBE Zr_sv 07Sep2000", "PAW_PBE Xe 07Sep2000"], [40, 54]),
        ("r X", ["PAW_PBE Zr_sv 07Sep2000", "PAW_PBE Xe 07Sep2000"], [40, 54]),
        ("C H", ["^PAW_PBE Co_GW 31Mar2010", "PAW_PBE H1.25 07Sep2000"], [27, 1]),
        ("H O", [], [1, 8]),
        ("H O", ["hydrogen", "  H  1/r potential"], None),
        ("X O", [], None),
        ("r O", ["Zirconium"], None),
        ("Si O", ["PAW_PBE O 08Apr2002", "PAW_PBE Si 05Jan2001"], None),
    ],
)
def test_elements(tmp_path: Path, symbols: str, titles: list[str], expected: list[int] | None) -> None:
    text = vasprun(Run(species=tuple((symbol, 1) for symbol in symbols.split())), titles)
    if expected is None:
        with pytest.raises(InputError, match=r"which element is '\w+'\?.* the OUTCAR of the run"):
            read(text, tmp_path)
    else:
        assert read(text, tmp_path)[0].atomic_numbers.tolist() == expected


def test_rows_without_cells(tmp_path: Path) -> None:
    atom, title = "<rc><c>Si</c><c>   1</c></rc>", "<rc><c>  1</c><c>Q </c><c> 1.0</c><c> 4.0</c><c> PAW Si  </c></rc>"
    text = vasprun(Run(), ["PAW Si"])
    assert len(read(text.replace(title, "<rc></rc>"), tmp_path)) == 2
    with pytest.raises(InputError, match="which element is ''"):
        read(text.replace(atom, "<rc></rc>", 1), tmp_path)


# --- missing and unreadable numbers


@pytest.mark.parametrize("options", [None, CONVERGED])
@pytest.mark.parametrize(
    ("table", "expected", "found"),
    [("basis", 3, 2), ("positions", 2, 1), ("forces", 2, 1), ("stress", 3, 2)],
)
def test_missing_rows(tmp_path: Path, table: str, expected: int, found: int, options: ReadOptions | None) -> None:
    before, after = vasprun(Run()).rsplit(f'"{table}" >\n', 1)
    text = f'{before}"{table}" >\n' + after.partition("\n")[2]
    with pytest.raises(InputError, match=f"ionic step 2: expected {expected} rows of {table}, found {found}"):
        read(text, tmp_path, options)


def test_missing_atoms(tmp_path: Path) -> None:
    text = vasprun(Run()).replace("<rc><c>Si</c><c>   1</c></rc>\n", "", 1)
    with pytest.raises(InputError, match="expected 2 atoms in <atominfo>, found 1"):
        read(text, tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<v>       0.10000000", "<v> ****************"),
        ("<v>       0.10000000", "<v>"),
        ('"e_fr_energy"> -10.00000000 </i>\n</energy>', '"e_fr_energy"> *********** </i>\n</energy>'),
        ("<v>       1.00000000", "<v>              NaN"),
    ],
)
def test_numbers_that_cannot_be_read(tmp_path: Path, old: str, new: str) -> None:
    text = vasprun(Run())
    assert old in text
    text = text.replace(old, new, 1)
    with pytest.raises(InputError, match=r"ionic step 1: numbers that cannot be read, .*OUTCAR of the run"):
        read(text, tmp_path)
    assert len(read(text, tmp_path, CONVERGED)) == 1


def test_a_structure_without_forces_has_none(tmp_path: Path) -> None:
    run = Run((LAST,))
    text = vasprun(run).replace(varray("forces", run.forces(LAST)), "")
    assert read(text, tmp_path)[0].forces is None


# --- convergence


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (Run((SHORT,)), r"not converged: last energy change 0\.1, EDIFF 1e-06, stopped after 3 of 60 steps"),
        (Run((SHORT,), nelm=3), r"not converged: all NELM = 3 steps used, last energy change 0\.1, EDIFF 1e-06"),
        (Run((SHORT,), nelm=3, ediff=None), r"not converged: all NELM = 3 steps used, last energy change 0\.1$"),
        (Run((SHORT,), nelm=None), r"cannot tell .* does not give NELM; last energy change 0\.1"),
        (Run((Ionic((-10.0,)),), nelm=1), "all NELM = 1 steps used, last energy change not known"),
        (Run((Ionic((-10.0,)),)), "last energy change not known after 1 electronic steps .*OUTCAR"),
        (Run((Ionic(()),)).changed(steps=(Ionic((), final=-10.0),)), "no electronic steps: not a DFT calculation"),
    ],
)
def test_not_converged(tmp_path: Path, run: Run, message: str) -> None:
    with pytest.raises(InputError, match=f"ionic step 1: .*{message.removesuffix('$')}"):
        read(vasprun(run), tmp_path)
    with pytest.raises(InputError, match=r"no ionic step can be taken; left out: step 1 \("):
        read(vasprun(run), tmp_path, CONVERGED)


@pytest.mark.parametrize(
    "run",
    [
        Run((LAST,), nelm=3),  # in its last step
        Run((LAST,), nelm=4),
        Run((LAST,), nelm=None),
        Run((SHORT,), ediff=None),
        Run((NEARLY,)),  # by VASP's own measure, which is not this change
        Run((Ionic((-9.0, -9.99999999, -10.0)),), nelm=3, ediff=1e-8),  # as far as eight decimals tell
    ],
)
def test_converged(tmp_path: Path, run: Run) -> None:
    assert len(read(vasprun(run), tmp_path)) == 1


def test_beyond_its_last_step_only_the_change_itself_counts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="all NELM = 3 steps used, last energy change 5e-06, EDIFF 1e-06"):
        read(vasprun(Run((NEARLY,), nelm=3)), tmp_path)


@pytest.mark.parametrize(("bands", "is_taken"), [(-12.0, True), (-11.9, False)])
def test_additions_to_the_last_energy_are_no_change(tmp_path: Path, bands: float, is_taken: bool) -> None:
    """In the last electronic step alone VASP writes the parts, and may have added the dispersion to their sum."""
    step = Ionic((-9.0, -10.0, -10.5), final=-10.5)
    parts = f'<i name="ewald"> 2.00000000 </i><i name="bandstr"> {bands:.8f} </i>'
    text = vasprun(Run((step,))).replace(scstep(-10.5), scstep(-10.5, parts))
    if is_taken:
        assert read(text, tmp_path)[0].energy == -10.5
    else:
        with pytest.raises(InputError, match=r"last energy change 0\.1,"):
            read(text, tmp_path)


def test_the_nelm_of_the_response_functions_is_another(tmp_path: Path) -> None:
    """VASP 5.2.11 to 5.4.4 writes one, of 1, where INCAR sets none."""
    other = '<separator name="response functions" >\n<i type="int" name="NELM">     1</i>\n</separator>\n</parameters>'
    assert len(read(vasprun(Run((NEARLY,))).replace("</parameters>", other), tmp_path)) == 1


def test_the_settings_that_vasp_used_count_not_its_input(tmp_path: Path) -> None:
    told = '<incar>\n<i type="int" name="NELM">  3</i><i name="EDIFF"> 0.00000000</i>\n'
    assert len(read(vasprun(Run((LAST,), nelm=3)).replace("<incar>\n", told), tmp_path)) == 1
    with pytest.raises(InputError, match="all NELM = 3 steps used"):  # where it does not say what it used
        read(vasprun(Run((SHORT,), nelm=None)).replace("<incar>\n", told), tmp_path)


def test_nelm_that_is_no_number(tmp_path: Path) -> None:
    text = vasprun(Run()).replace('name="NELM">    60', 'name="NELM">******')
    with pytest.raises(InputError, match=r"NELM must be a whole number, got '\*+'"):
        read(text, tmp_path)


# --- killed runs


def test_cut_anywhere(tmp_path: Path) -> None:
    text = vasprun(Run())
    steps = [0, *(k + len("</calculation>") for k in range(len(text)) if text.startswith("</calculation>", k))]
    for kept in range(25, text.index("</modeling>"), 31):
        done = sum(kept >= end for end in steps) - 1
        with pytest.raises(InputError, match=f"truncated after {done} ionic steps: no final </modeling>") as caught:
            read(text[:kept], tmp_path)
        assert caught.value.remedy is (Remedy.CONVERGED_STEPS if done else None)
        if done:
            assert len(read(text[:kept], tmp_path, CONVERGED)) == done


def test_what_was_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = vasprun(Run((LAST, SHORT, LAST, LAST), ended=False)).rsplit("<energy>", 1)[0]
    with pytest.raises(InputError, match=r"ionic step 2: .*; 2 of 4 ionic steps are whole and converged"):
        read(text, tmp_path)
    with caplog.at_level(logging.INFO):
        assert len(read(text, tmp_path, CONVERGED)) == 2
    (line,) = caplog.messages
    assert line == (
        f"{tmp_path / 'vasprun.xml'}: 2 of 4 ionic steps taken; left out: step 2 (not converged: last energy change "
        "0.1, EDIFF 1e-06, stopped after 3 of 60 steps), step 4 (incomplete); truncated after 3 ionic steps: no final "
        "</modeling>"
    )


@pytest.mark.parametrize("options", [None, CONVERGED])
def test_damage_is_no_early_end(tmp_path: Path, options: ReadOptions | None) -> None:
    text = vasprun(Run())
    with pytest.raises(InputError, match=r"vasprun\.xml: not valid XML: .*line \d+"):
        read(text.replace("<structure>", "<structure", 1), tmp_path, options)
    with pytest.raises(InputError, match="not valid XML: junk after document element"):
        read(text + text, tmp_path, options)


def test_a_step_without_energy_or_structure(tmp_path: Path) -> None:
    text = vasprun(Run())
    with pytest.raises(InputError, match="ionic step 1: incomplete, it has no final energy"):
        read(text.replace('<energy>\n<i name="e_fr_energy"> -10.00000000 </i>\n</energy>\n', "", 1), tmp_path)
    with pytest.raises(InputError, match="ionic step 1: incomplete, it has no structure"):
        read(text.replace(structure(Run(), Ionic()), "", 1), tmp_path)


# --- linear response, force fields


@pytest.mark.parametrize("settings", [{"LEPSILON": "T"}, {"LCALCEPS": "T"}, {"LCHIMAG": "T"}, {"IBRION": "8"}])
def test_linear_response_is_no_ionic_step(tmp_path: Path, settings: dict[str, str]) -> None:
    perturbed = "<calculation>\n" + scstep(-3.0) + scstep(-2.0) + "</calculation>\n"
    run = Run(settings=settings)
    for text in (
        vasprun(run).replace("</modeling>", perturbed + "</modeling>"),  # on its own
        vasprun(run).replace("<eigenvalues>", scstep(-3.0) + "<eigenvalues>"),  # behind the ground state
        vasprun(run).replace("<structure>", scstep(-3.0) + "<structure>"),
    ):
        assert len(read(text, tmp_path)) == 2
    behind = vasprun(Run()).replace("<eigenvalues>", scstep(-3.0) + "<eigenvalues>")
    assert len(read(behind, tmp_path)) == 2  # whatever the settings are
    with pytest.raises(InputError, match=r"ionic step 3: .*not converged|incomplete"):
        read(vasprun(Run()).replace("</modeling>", perturbed + "</modeling>"), tmp_path)


@pytest.mark.parametrize("name", ["ML_LMLFF", "ML_FF_LMLFF"])
def test_steps_of_a_force_field(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(settings={name: "T"})
    bare = structure(run, Ionic(shift=2.0)) + varray("forces", run.forces(Ionic()))  # as VASP 6.3 writes them
    alone = calculation(run, Ionic((), final=-99.0))
    text = vasprun(run).replace("</atominfo>\n", "</atominfo>\n" + bare * 3 + alone)
    with caplog.at_level(logging.INFO):
        frames = read(text, tmp_path)
    assert [frame.energy for frame in frames] == [-10.0, -10.0]
    (line,) = caplog.messages
    assert line.endswith(": 2 of 6 ionic steps taken; left out: 4 of a machine-learned force field")
    with pytest.raises(InputError, match="no ionic step can be taken; left out: 3 of a machine-learned force field"):
        read(vasprun(run.changed(steps=())).replace("</modeling>", bare * 3 + "</modeling>"), tmp_path)


def test_selective_dynamics_keeps_forces(tmp_path: Path) -> None:
    flags = '<varray name="selective" ><v type="logical" > F F F </v><v type="logical" > T F T </v></varray>'
    text = vasprun(Run())
    fixed = read(text.replace("</structure>", flags + "</structure>"), tmp_path)
    for got, free in zip(fixed, read(text, tmp_path), strict=True):
        np.testing.assert_array_equal(got.forces, free.forces)
        np.testing.assert_array_equal(got.positions, free.positions)


# --- recognising


@pytest.mark.parametrize(
    ("name", "raw", "expected"),
    [
        ("a.xml", b'<?xml version="1.0"?>\n<modeling>', True),
        ("OUTCAR", b"<modeling>", True),
        ("vasprun.bak", b'<?xml version="1.0"?>', True),
        ("other.xml", b'<?xml version="1.0"?>\n<gpaw>', False),
        ("vasprun.extxyz", b"2\nLattice=\n", False),
        ("vasprun.h5", b"\x89HDF\r\n\x1a\n", False),
    ],
)
def test_recognised(name: str, raw: bytes, expected: bool) -> None:
    assert looks_like_vasprun(Head(name, raw)) is expected


@pytest.mark.parametrize("declared", ["ISO-8859-1", "UTF-8", "EBCDIC"])
def test_titles_in_any_encoding(tmp_path: Path, declared: str) -> None:
    text = vasprun(Run()).replace("All", "zwölf Å").replace("ISO-8859-1", declared)
    (tmp_path / "vasprun.xml").write_bytes(text.encode("latin-1"))
    assert len(list(read_frames(tmp_path / "vasprun.xml"))) == 2


def test_not_read_leniently_by_ase() -> None:
    with pytest.raises(InputError, match=r"vasprun\.xml: the output of VASP is not read through ASE"):
        list(read_ase_frames(STORED / "vasprun.xml"))


def test_vectors_that_are_no_rows(tmp_path: Path) -> None:
    """VASP 6 writes MAGDIPOLOUT after the tables of every step; nothing of it belongs to them."""
    text = (STORED / "vasprun.xml").read_text()
    extra = '<separator name="orbital magnetization"><v name="MAGDIPOLOUT"> 0.1 0.2 0.3</v></separator>'
    assert text.count("</calculation>") == 2
    frames = read(text.replace("</calculation>", f"{extra}</calculation>"), tmp_path)
    for got, expected in zip(frames, read_frames(STORED / "vasprun.xml"), strict=True):
        np.testing.assert_array_equal(got.stress, expected.stress)
        np.testing.assert_array_equal(got.forces, expected.forces)
