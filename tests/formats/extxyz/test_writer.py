"""Written files come back with the same bits, through our reader and through ASE's."""

# mypy: allow-untyped-calls
from __future__ import annotations

import io
import os
from pathlib import Path

import ase.io
import numpy as np
import pytest
from frame_samples import assert_same, frame

from pyfit_gpu.formats.extxyz.reader import read_extxyz
from pyfit_gpu.formats.extxyz.writer import LabelSpread, write_extxyz
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.vasp.vasprun import read_vasprun
from pyfit_gpu.structures.frames import Frame

VASP = Path(__file__).parents[2] / "data" / "vasp"


def read(path: Path) -> list[Frame]:
    return [one for one in read_extxyz(path) if isinstance(one, Frame)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"forces": None, "stress": None, "energy": None, "weight": 1.0},
        {"cell": np.zeros((3, 3)), "pbc": np.zeros(3, bool)},
        {"weight": 0.0, "energy": 0.0},
        {"energy": -5e20, "stress": np.array([1e-300, -0.0, 1.0, 2.0, 3.0, 1 / 7])},
        *({"group": word} for word in ("001", "1e5", "T", "false", "nan", "1,2", "a,b", "a=b", "Å", "_JSON")),
        *({"group": word} for word in ('q"q', "it's", "back\\slash", "end\\", "[x]", "{x}", "{", "Lattice=")),
    ],
    ids=str,
)
def test_round_trip_keeps_every_bit(tmp_path: Path, changes: dict[str, object]) -> None:
    path = tmp_path / "set.extxyz"
    frames = [frame(**changes), frame()]
    write_extxyz(path, frames)
    for got, expected in zip(read(path), frames, strict=True):
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
    """All digits, for ASE in info and arrays; our reader takes the labels alone, and says what it leaves."""
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
    again = read(tmp_path / "a.extxyz")
    for got, expected in zip(again, [labelled, frame(energy=-1.5)], strict=True):
        assert_same(got, expected)
    assert again[0].unread == ("key energy_std", "key stress_std", "column forces_std")
    with pytest.raises(ValueError, match="shorter"):
        write_extxyz(tmp_path / "b.extxyz", [labelled, labelled], spreads[:1])


def test_what_another_reader_gave_comes_back_the_same(tmp_path: Path) -> None:
    first = list(read_vasprun(VASP / "vasprun.xml", ReadOptions()))
    write_extxyz(tmp_path / "vasprun.extxyz", first)
    for got, expected in zip(read(tmp_path / "vasprun.extxyz"), first, strict=True):
        assert_same(got, expected)


def test_notes_on_structures_come_back(tmp_path: Path) -> None:
    """Names of files are texts for ASE, whatever they look like; numbers keep their digits."""
    words = ["pool/a b.xyz", "../x.xyz", "/data/x.xyz", "001", "T", "1e5", 'q"x']
    notes = [{"pool_file": word, "pool_index": k, "score": 0.1 * k} for k, word in enumerate(words)]
    write_extxyz(tmp_path / "a.extxyz", [frame() for _ in words], notes=notes)
    for note, atoms in zip(notes, ase.io.read(tmp_path / "a.extxyz", index=":"), strict=True):
        assert {name: atoms.info[name] for name in note} == note
    with pytest.raises(ValueError, match="shorter"):
        write_extxyz(tmp_path / "b.extxyz", [frame(), frame()], notes=notes[:1])
