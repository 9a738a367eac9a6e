"""ML_AB: units, signs and order of its numbers, and files that are cut or contradict themselves."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from ase.units import GPa
from vasp_samples import Ionic, Run, ml_ab, vasprun

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.kinds import ML_AB, identify
from pyfit_gpu.formats.opening import read_frames
from pyfit_gpu.structures.frames import Frame

RUN = Run(species=(("Si", 1), ("O", 2)))


def read(text: str, folder: Path) -> list[Frame]:
    (folder / "ML_AB").write_text(text)
    return list(read_frames(folder / "ML_AB"))


def test_fields_of_a_frame(tmp_path: Path) -> None:
    frames = read(ml_ab(RUN, "SiO2  at 300 K"), tmp_path)
    for frame, step in zip(frames, RUN.steps, strict=True):
        assert frame.energy == -10.0
        np.testing.assert_allclose(frame.positions, RUN.positions(step), rtol=1e-14)
        np.testing.assert_allclose(frame.forces, RUN.forces(step), rtol=1e-14)
        np.testing.assert_array_equal(frame.cell, np.diag(RUN.cell))
        np.testing.assert_allclose(frame.stress, -0.1 * GPa * np.array([1, 2, 3, 5, 6, 4]), rtol=1e-12)  # yz xz xy
        assert frame.atomic_numbers.tolist() == [14, 8, 8]
        assert frame.pbc.all()
        assert frame.group == "SiO2_at_300_K"
    assert frames[1].source == f"{tmp_path / 'ML_AB'}, configuration 2"


def test_the_same_run_in_vasprun_xml(tmp_path: Path) -> None:
    (tmp_path / "vasprun.xml").write_text(vasprun(RUN))
    for ours, other in zip(read(ml_ab(RUN), tmp_path), read_frames(tmp_path / "vasprun.xml"), strict=True):
        assert ours.energy == other.energy
        for name in ("positions", "forces", "cell", "stress"):
            np.testing.assert_allclose(getattr(ours, name), getattr(other, name), atol=1e-7)


def test_group_of_a_system_without_a_name(tmp_path: Path) -> None:
    assert read(ml_ab(RUN, ""), tmp_path)[0].group == "ML_AB"


def test_recognised_by_content(tmp_path: Path) -> None:
    (tmp_path / "data.gz").write_bytes(gzip.compress(ml_ab(RUN).encode()))
    assert identify(tmp_path / "data.gz") is ML_AB
    assert len(list(read_frames(tmp_path / "data.gz"))) == 2


def test_cut_anywhere(tmp_path: Path) -> None:
    text = ml_ab(RUN).rstrip()
    for kept in range(text.index("Configuration"), len(text) + 1, 17):
        with pytest.raises(InputError, match="ML_AB"):
            read(text[:kept], tmp_path)
    with pytest.raises(InputError, match="ML_AB: expected a line end after the last number"):
        read(text, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("          2\n*", "          3\n*", "expected 3 configurations, found 2"),
        ("          2\n*", "          1\n*", "expected 1 configurations, found 2"),
        ("          2\n*", "        two\n*", "expected the number of configurations, found 'two'"),
        ("     Si      1", "     Xx      1", "configuration 1: expected an element and .*found 'Xx +1'"),
        ("     Si      1", "     Si      7", "configuration 1: expected 3 atoms, found 9"),
        ("        3\n*", "999999999999\n*", "configuration 1: expected 999999999999 atoms, found 3 by their types"),
        ("     XX YY ZZ\n", "     XX YY\n", "configuration 1: expected 1 lines of 'XX YY ZZ', found 0"),
        ("  5.000000000000000E+000", "  ***********************", "configuration 1: Primitive .*cannot read"),
        ("  0.000000000000000E+000  0.000000000000000E+000  0.000000000000000E+000\n", "", "3 lines of 'Atomic"),
    ],
)
def test_faults(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = ml_ab(RUN)
    assert old in text
    with pytest.raises(InputError, match=f"ML_AB.*{message}"):
        read(text.replace(old, new, 1), tmp_path)


def test_no_configurations(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no configurations in it"):
        read(ml_ab(RUN.changed(steps=())), tmp_path)


def test_energy_without_digits(tmp_path: Path) -> None:
    text = ml_ab(Run((Ionic((-5.0,)),)))
    with pytest.raises(InputError, match=r"Total energy .*: cannot read '-5.0 eV'"):
        read(text.replace("-5.000000000000000E+000", "-5.0 eV"), tmp_path)
