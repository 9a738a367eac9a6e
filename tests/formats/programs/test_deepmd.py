"""Folders of DeePMD-kit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import program_samples as samples
import pytest
from sample_sets import make_potential

from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.commands.prepare import prepare
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import save_potential
from pyfit_gpu.formats.opening import load_training_set, read_frames
from pyfit_gpu.formats.read_options import ReadOptions


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers(dtype: str, tmp_path: Path) -> None:
    samples.write_deepmd(tmp_path / "bulk", count=3, dtype=dtype)
    frames = list(read_frames(tmp_path / "bulk"))
    assert len(frames) == 3
    for frame in frames:
        np.testing.assert_allclose(frame.positions, samples.POSITIONS)
        np.testing.assert_allclose(frame.cell, 5 * np.eye(3))
        np.testing.assert_allclose(frame.forces, samples.FORCES)
        np.testing.assert_allclose(frame.stress, samples.STRESS, rtol=1e-6)
        assert frame.energy == samples.ENERGY
        assert frame.group == "bulk"
        assert frame.atomic_numbers.tolist() == [14, 14]
        assert all(one.dtype == np.float64 for one in (frame.positions, frame.cell, frame.forces, frame.stress))
    assert frames[2].source.endswith("bulk, set.000, structure 3")


def test_a_folder_of_systems(tmp_path: Path) -> None:
    for name in ("b", "a/deep"):
        samples.write_deepmd(tmp_path / "all" / name)
    assert [frame.group for frame in read_frames(tmp_path / "all")] == ["deep", "b"]


def test_labels_may_be_missing_and_cells_too(tmp_path: Path) -> None:
    samples.write_deepmd(tmp_path / "gas")
    for name in ("energy", "force", "virial", "box"):
        (tmp_path / "gas" / "set.000" / f"{name}.npy").unlink()
    (tmp_path / "gas" / "nopbc").touch()
    (frame,) = read_frames(tmp_path / "gas")
    assert frame.energy is frame.forces is frame.stress is None
    assert not frame.pbc.any()


def test_mixed_types(tmp_path: Path) -> None:
    """Each structure has its own types; -1 is no atom."""
    samples.write_deepmd(tmp_path / "mixed", count=2)
    (tmp_path / "mixed" / "type_map.raw").write_text("C\nSi\n")
    np.save(tmp_path / "mixed" / "set.000" / "real_atom_types.npy", [[1, 0], [1, -1]])
    first, second = read_frames(tmp_path / "mixed")
    assert first.atomic_numbers.tolist() == [14, 6]
    assert second.atomic_numbers.tolist() == [14]
    np.testing.assert_array_equal(second.forces, samples.FORCES[:1])


def test_elements(tmp_path: Path) -> None:
    samples.write_deepmd(tmp_path / "bulk")
    (tmp_path / "bulk" / "type_map.raw").unlink()
    assert next(read_frames(tmp_path / "bulk")).atomic_numbers.tolist() == [0, 0]  # the potential's only element
    (tmp_path / "bulk" / "type.raw").write_text("1 0")
    with pytest.raises(InputError, match=r"type_map\.raw is missing: expected the elements of types 0 to 1"):
        next(read_frames(tmp_path / "bulk"))
    options = ReadOptions(elements=("C", "Si"))
    assert next(read_frames(tmp_path / "bulk", options=options)).atomic_numbers.tolist() == [14, 6]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def damage_header(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"'descr'", b"(\0descr"))


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle": (lambda part: np.save(part / "energy.npy", [None], allow_pickle=True), "energy.npy: expected an array"),
    "cut": (lambda part: cut_short(part / "coord.npy"), "coord.npy: expected an array of NumPy"),
    "count": (
        lambda part: np.save(part / "energy.npy", [1.0, 2.0]),
        "energy.npy: expected 1 numbers, found float64 (2,)",
    ),
    "atoms": (lambda part: (part.parent / "type.raw").write_text("0"), "coord.npy: expected 1 x 1 x 3 numbers"),
    "words": (lambda part: np.save(part / "box.npy", ["x"] * 9), "box.npy: expected 1 x 3 x 3 numbers, found <U1"),
    "nan": (lambda part: np.save(part / "energy.npy", [np.nan]), "structure 1: energy has NaN or infinity"),
    "no_box": (lambda part: (part / "box.npy").unlink(), "expected box.npy, or a file nopbc"),
    "no_coord": (lambda part: (part / "coord.npy").unlink(), "coord.npy: expected coordinates, found none"),
    "no_set": (lambda part: part.rename(part.parent / "other"), "no structures in it: expected folders set.*"),
    "types": (lambda part: (part.parent / "type.raw").write_text("0 x"), "type.raw: expected types 0, 1, .."),
    "symbols": (lambda part: (part.parent / "type_map.raw").write_text("Sj"), "expected chemical symbols, found 'Sj'"),
    "few": (lambda part: (part.parent / "type.raw").write_text("0 1"), "expected types 0 to 0 (of 1 elements)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(fault: str, tmp_path: Path) -> None:
    samples.write_deepmd(tmp_path / "bulk")
    damage, reason = FAULTS[fault]
    damage(tmp_path / "bulk" / "set.000")
    with pytest.raises(InputError, match=re.escape(reason)):
        list(read_frames(tmp_path / "bulk"))


def test_declared_sizes_are_not_believed(tmp_path: Path) -> None:
    samples.write_deepmd(tmp_path / "bulk")
    path = tmp_path / "bulk" / "set.000" / "coord.npy"
    path.write_bytes(path.read_bytes().replace(b"(1, 6), }", b"(9999999999, 6), }").replace(b"          \n", b"\n"))
    with pytest.raises(InputError, match=r"coord\.npy: expected an array of NumPy"):
        list(read_frames(tmp_path / "bulk"))


def test_a_set_and_its_shards(tmp_path: Path, setup: Setup) -> None:
    """A folder goes through `prepare` as a file does, and its shards know when its content changes."""
    folder, potential, out = (str(tmp_path / name) for name in ("bulk", "si.nn.dat", "set"))
    samples.write_deepmd(Path(folder), count=2)
    save_potential(make_potential(), potential)
    prepare([folder], potential=potential, out=f"{out}.h5", setup=setup)
    assert load_training_set(f"{out}.h5").energy.tolist() == [samples.ENERGY] * 2
    prepare([folder], potential=potential, out=f"{out}.h5", setup=setup, shard=(0, 2))
    np.save(tmp_path / "bulk" / "set.000" / "energy.npy", [-1.0, -1.0])
    with pytest.raises(InputError, match="inputs"):
        prepare([folder], potential=potential, out=f"{out}.h5", setup=setup, shard=(1, 2))


@pytest.fixture
def setup() -> Setup:
    import torch

    return Setup(torch.device("cpu"), quiet=True)
