"""Reports on files: a line for each about labels that it lacks and names that are not read."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import program_samples as samples
import pytest

from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.formats.dft_inputs import survey
from pyfit_gpu.formats.opening import load_structures, read_reported
from pyfit_gpu.formats.read_options import LABEL_KEYS, ReadOptions
from pyfit_gpu.formats.read_report import ReadReport

LATTICE = 'Lattice="4 0 0 0 4 0 0 0 4"'
FORCES = "Properties=species:S:1:pos:R:3:forces:R:3"
CLASSIC = "Si_B1\n1.0\n4 0 0\n0 4 0\n0 0 4\n1\ndirect\n0 0 0\n-5.4\n"


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def structure(comment: str, columns: int = 0) -> str:
    """A structure of one atom, which moves from one to the next, so that none is twice the same."""
    structure.calls = getattr(structure, "calls", 0) + 1  # type: ignore[attr-defined]
    row = " ".join(["Si", f"{structure.calls / 1000:.4f}", "0", "0", *["0.0"] * columns])  # type: ignore[attr-defined]
    return f"1\n{LATTICE} {comment}\n{row}\n"


def said(
    caplog: pytest.LogCaptureFixture, *paths: str, training: bool = True, options: ReadOptions | None = None
) -> list[str]:
    """Lines of the report, with the level before them."""
    report = ReadReport(options)
    list(read_reported(paths, report, options))
    caplog.clear()
    with caplog.at_level(logging.INFO, "pyfit_gpu"):
        report.log_labels(training=training)
    return [f"{record.levelname} {record.getMessage()}" for record in caplog.records]


def test_nothing_is_said_of_a_complete_file(caplog: pytest.LogCaptureFixture) -> None:
    Path("a.xyz").write_text(structure("energy=-5") + structure("energy=-5 group=b"))
    assert said(caplog, "a.xyz") == []


def test_a_structure_without_an_energy(caplog: pytest.LogCaptureFixture) -> None:
    Path("a.xyz").write_text(structure("energy=-5") + structure(""))
    assert said(caplog, "a.xyz") == ["WARNING a.xyz: 1 of 2 structures has no energy"]
    assert said(caplog, "a.xyz", training=False) == ["INFO a.xyz: 1 of 2 structures has no energy"]


def test_no_structure_has_an_energy(caplog: pytest.LogCaptureFixture) -> None:
    """The line that a user with names of his own needs: what is missing, what is there, and the way out."""
    properties = "Properties=species:S:1:pos:R:3:grad:R:3"
    Path("b.xyz").write_text(structure(f"{properties} E0=-5", 3) * 3)
    text = "b.xyz: 3 of 3 structures have no energy; key E0, column grad are not read"
    assert said(caplog, "b.xyz") == [f"WARNING {text} ({Remedy.OTHER_NAMES})"]
    assert said(caplog, "b.xyz", training=False) == [f"INFO {text}"]


def test_names_that_are_not_read_beside_a_complete_file(caplog: pytest.LogCaptureFixture) -> None:
    Path("a.xyz").write_text(structure("energy=-5 title=x"))
    assert said(caplog, "a.xyz") == ["INFO a.xyz: key title is not read"]


def test_a_virial_without_a_cell(caplog: pytest.LogCaptureFixture) -> None:
    Path("a.xyz").write_text('1\nvirial="1 0 0 0 1 0 0 0 1" energy=-5\nSi 0 0 0\n')
    assert said(caplog, "a.xyz") == ["INFO a.xyz: key virial (without a full cell) is not read"]


def test_forces_are_missed_where_others_have_them(caplog: pytest.LogCaptureFixture) -> None:
    Path("a.xyz").write_text(structure(f"{FORCES} energy=-5", 3) + structure("energy=-5"))
    assert said(caplog, "a.xyz") == ["WARNING a.xyz: 1 of 2 structures has no forces"]
    Path("b.xyz").write_text(structure("energy=-5"))
    assert said(caplog, "b.xyz") == []
    assert "WARNING b.xyz: 1 of 1 structure has no forces" in said(caplog, "a.xyz", "b.xyz")


def test_several_files_have_a_line_of_counts_each(caplog: pytest.LogCaptureFixture) -> None:
    Path("a.xyz").write_text(structure('energy=-5 stress="0 0 0 0 0 0"') + structure("energy=-5"))
    Path("b.dat").write_text(CLASSIC)
    assert said(caplog, "a.xyz", "b.dat") == [
        "INFO a.xyz: 2 structures, 2 with an energy, 0 with forces, 1 with stress",
        "INFO b.dat: 1 structure, 1 with an energy, 0 with forces, 0 with stress",
    ]


def test_structures_for_predictions_only_lack_nothing(caplog: pytest.LogCaptureFixture) -> None:
    Path("a.xyz").write_text(structure("group=NO_DFT") + structure("energy=-5"))
    assert said(caplog, "a.xyz") == []


def test_many_names_make_no_long_line(caplog: pytest.LogCaptureFixture) -> None:
    Path("a.xyz").write_text(structure("energy=-5 " + " ".join(f"k{number}=1" for number in range(500))))
    (line,) = said(caplog, "a.xyz")
    assert line.endswith("key k5, ... (494 more) are not read")


# --- names of the user's own


@pytest.mark.parametrize("key", LABEL_KEYS)
def test_a_name_that_no_structure_has(caplog: pytest.LogCaptureFixture, key: str) -> None:
    """It would lose the label without a word, also where the label is there under another name."""
    labels = 'energy=-5 stress="0 0 0 0 0 0" group=a weight=2'
    Path("a.xyz").write_text(structure(f"{FORCES} {labels}", 3))
    options = ReadOptions(**{key: "mine"})
    with pytest.raises(InputError, match=rf"^{key}: no structure of a\.xyz has 'mine'; not read: ") as caught:
        said(caplog, "a.xyz", options=options)
    assert caught.value.setting == key


def test_a_name_that_one_structure_of_one_file_has(caplog: pytest.LogCaptureFixture) -> None:
    Path("a.xyz").write_text(structure("energy=-5 phase=b") + structure("energy=-5"))
    Path("b.dat").write_text(CLASSIC)
    said(caplog, "a.xyz", "b.dat", options=ReadOptions(group_key="PHASE"))
    with pytest.raises(InputError, match=r"group_key: no structure of b\.dat has 'phase'$"):
        said(caplog, "b.dat", options=ReadOptions(group_key="phase"))


@pytest.mark.parametrize(
    ("options", "key"),
    [(ReadOptions(units="hartree,bohr"), "units"), (ReadOptions(elements=("Si", "C")), "elements")],
)
def test_what_no_file_leaves_open_is_refused(caplog: pytest.LogCaptureFixture, options: ReadOptions, key: str) -> None:
    """Whoever gives units for extended XYZ would have them passed over."""
    Path("a.xyz").write_text(structure("energy=-5"))
    Path("b.dat").write_text(CLASSIC)
    with pytest.raises(InputError, match=rf"^{key}: .*leave their {key} open: none of a\.xyz, b\.dat does$") as caught:
        said(caplog, "a.xyz", "b.dat", options=options)
    assert caught.value.setting == key


def test_what_one_file_leaves_open(caplog: pytest.LogCaptureFixture) -> None:
    Path("a.xyz").write_text(structure("energy=-5"))
    Path("input.data").write_text(samples.RUNNER)
    Path("train.cfg").write_text(samples.MTP)
    said(caplog, "a.xyz", "input.data", options=ReadOptions(units="hartree,bohr"))
    said(caplog, "a.xyz", "train.cfg", options=ReadOptions(elements=("Si",)))
    samples.write_deepmd(Path("deepmd"))
    said(caplog, "a.xyz", "deepmd", options=ReadOptions(elements=("Si",)))


def test_a_stress_of_a_molecule_is_found(caplog: pytest.LogCaptureFixture) -> None:
    """Without a cell it is of no use, but the name is right."""
    Path("a.xyz").write_text('1\nmine="1 0 0 0 1 0 0 0 1" energy=-5\nSi 0 0 0\n')
    for key in ("stress_key", "virial_key"):
        said(caplog, "a.xyz", options=ReadOptions(**{key: "mine"}))


@pytest.mark.parametrize("held", [2**26, 0], ids=["held", "read twice"])
def test_survey_reports_the_same(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr("pyfit_gpu.formats.dft_inputs.HELD_BYTES", held)
    Path("a.xyz").write_text(structure("E=-5 phase=a title=x") + structure("phase=a"))
    options = ReadOptions(energy_key="E", group_key="phase")
    inputs = survey(["a.xyz"], options=options)
    with caplog.at_level(logging.INFO, "pyfit_gpu"):
        inputs.report.log_labels(training=True)
    assert [record.getMessage() for record in caplog.records] == [
        f"a.xyz: 1 of 2 structures has no energy; key title is not read ({Remedy.OTHER_NAMES})"
    ]
    assert [one.group for one in inputs.structures] == ["a", "a"]
    with pytest.raises(InputError, match="weight_key: no structure"):
        survey(["a.xyz"], options=ReadOptions(weight_key="w")).report.log_labels(training=True)


# --- doubts


def test_doubts(caplog: pytest.LogCaptureFixture) -> None:
    Path("a.xyz").write_text(structure('energy=-5 stress="25 0 0 0 25 0 0 0 25"'))
    report = ReadReport()
    list(read_reported(["a.xyz"], report))
    with caplog.at_level(logging.INFO, "pyfit_gpu"):
        report.log_doubts()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "a.xyz" in record.getMessage()
    assert "stress" in record.getMessage()


def test_load_structures_says_it_too(caplog: pytest.LogCaptureFixture) -> None:
    Path("a.xyz").write_text(structure('E=-5 stress="25 0 0 0 25 0 0 0 25"'))
    with caplog.at_level(logging.INFO, "pyfit_gpu"):
        loaded = load_structures("a.xyz", options=ReadOptions(energy_key="E"))
        load_structures("a.xyz")
    assert np.isclose(float(loaded.energy[0]), -5)
    messages = [record.getMessage() for record in caplog.records]
    assert "a.xyz: 1 of 1 structure has no energy; key E is not read" in messages
    assert sum("stress" in message for message in messages) == 2
    with pytest.raises(InputError, match=r"energy_key: no structure of a\.xyz has 'F'; not read: key E"):
        load_structures("a.xyz", options=ReadOptions(energy_key="F"))
