"""Cross terms and triples in the settings of a set, as HDF5 and as text."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest
import torch
from formats.training_set.test_reader import edit, settings
from sample_sets import make_descriptor, make_set, with_settings

from pyfit_gpu.datasets.training_set import TrainingSet, require_same_inputs
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.text_set import read_text_set, write_text_set
from pyfit_gpu.formats.training_set.reader import save_training_set

MORE = {"gi_mode": 6, "cross_terms": 1, "triples": ((0, 2, 2), (2, 2, 2))}


@pytest.fixture
def sample() -> TrainingSet:
    return make_set(elements=("Si", "C"), **MORE)


@pytest.fixture
def saved(sample: TrainingSet, tmp_path: Path) -> Path:
    path = tmp_path / "set.h5"
    save_training_set(sample, path)
    return path


@pytest.mark.parametrize("lazy", [False, True])
def test_round_trip(sample: TrainingSet, saved: Path, lazy: bool) -> None:
    assert load_training_set(saved, lazy=lazy).descriptor == sample.descriptor
    with h5py.File(saved) as file:
        written = json.loads(file.attrs["settings"])
    assert (written["cross_terms"], written["triples"]) == (1, [[0, 2, 2], [2, 2, 2]])


def test_other_modes_do_not_have_them(tmp_path: Path) -> None:
    save_training_set(make_set(), tmp_path / "set.h5")
    with h5py.File(tmp_path / "set.h5") as file:
        assert not {"cross_terms", "triples"} & json.loads(file.attrs["settings"]).keys()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"cross_terms": None}, "settings: expected an object with the keys .*cross_terms"),
        ({"triples": None}, "settings: expected an object with the keys .*triples"),
        ({"gi_mode": 5}, "settings: expected an object with the keys"),
        ({"gi_mode": 7}, "settings: "),
        ({"cross_terms": 1.0}, "settings: cross_terms: expected a whole number, found 1.0"),
        ({"cross_terms": True}, "settings: cross_terms: expected a whole number"),
        ({"cross_terms": 3}, "settings: cross_terms: expected a whole number from 0 to 2"),
        ({"cross_terms": 0}, "atoms/features|contradicts settings"),
        ({"triples": [0, 2, 2]}, "settings: triples: expected a list of lists of whole numbers"),
        ({"triples": [["0", 2, 2]]}, "settings: triples: expected a list of lists of whole numbers"),
        ({"triples": [[0, 2, 2], [2, 2]]}, "settings: triples: triple 2, 2 2: expected three Legendre orders"),
        ({"triples": [[0, 2, 2], []]}, "settings: triples: triple 2, .*: expected three Legendre orders"),
        ({"triples": [[0, 2, 2], [0, 2, 4]]}, "settings: triples: triple 2, 0 2 4: order 4 is not one"),
        ({"triples": [[0, 2, 2], [0, 2, 2]]}, "settings: triples: triple 2, 0 2 2: it is there twice"),
        ({"triples": [[0, 2, 2], [0, 0, 0]]}, "contradicts settings"),
        ({"triples": {}}, "settings: triples: expected a list of lists"),
    ],
    ids=str,
)
@pytest.mark.parametrize("lazy", [False, True])
def test_damaged_settings(saved: Path, changed: dict[str, object], message: str, lazy: bool) -> None:
    edit(saved, settings(**changed))
    with pytest.raises(InputError, match=rf"set\.h5: .*({message})"):
        load_training_set(saved, lazy=lazy)


def test_text_set(sample: TrainingSet, tmp_path: Path) -> None:
    write_text_set(sample, tmp_path / "set.txt")
    assert " # 2 0 2 1 2 0 2 2 2 2 2\n" in (tmp_path / "set.txt").read_text()
    found = read_text_set(tmp_path / "set.txt")
    assert found.descriptor == sample.descriptor
    assert torch.allclose(found.features, sample.features, rtol=1e-6)


def test_a_fault_in_a_text_set_is_named(sample: TrainingSet, tmp_path: Path) -> None:
    path = tmp_path / "set.txt"
    write_text_set(sample, path)
    path.write_text(path.read_text().replace(" # 2 0 2 1 2 0", " # 2 0 2 1 2 1"))
    with pytest.raises(InputError, match=r"set\.txt, line 6: triples: triple 1, 1 2 2: order 1 is not one"):
        read_text_set(path)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"triples": ()}, r"triples: expected \[\[0, 2, 2\], \[2, 2, 2\]\], found \[\]"),
        ({"triples": ((2, 2, 2), (0, 2, 2))}, r"triples: expected .*, found \[\[2, 2, 2\], \[0, 2, 2\]\]"),
        ({"cross_terms": 2}, "cross_terms: expected 1, found 2"),
        ({"gi_mode": 5, "cross_terms": 0, "triples": ()}, "gi_mode: expected 6, found 5"),
    ],
)
def test_another_potential(sample: TrainingSet, other: dict[str, object], message: str) -> None:
    mine = make_descriptor(("Si", "C"), **MORE)
    require_same_inputs(mine, with_settings(sample, shift=9.0).descriptor, "x")  # the shift decides nothing
    with pytest.raises(InputError, match=message):
        require_same_inputs(mine, with_settings(sample, **other).descriptor, "x")
