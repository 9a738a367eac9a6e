"""Sets that are written in parts: the same bytes, little memory, no file that is not complete."""

from __future__ import annotations

import os
import resource
import tracemalloc
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from sample_sets import assert_same_set, make_potential, make_set

from pyfit_gpu.datasets import feature_rows
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat_header import header_lines
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.training_set.reader import save_training_set
from pyfit_gpu.formats.training_set.writer import writing_set


@pytest.fixture
def whole() -> TrainingSet:
    return make_set([2, 1, 3, 4, 2, 1], ("Si", "C"), groups=["b", "a", "c", "a", "c", "b"], energy_shift=(1.0, 2.0))


def write(path: Path, parts: list[TrainingSet], n_structures: int, n_atoms: int) -> str:
    with writing_set(path, n_structures, n_atoms, parts[0].features.shape[1]) as writer:
        for part in parts:
            writer.append(part)
    return writer.content_hash


@pytest.mark.parametrize("cuts", [(0, 6), (0, 1, 6), (0, 3, 5, 6), range(7), (0, 0, 4, 4, 6)], ids=str)
def test_parts_give_the_bytes_of_the_whole(whole: TrainingSet, cuts: tuple[int, ...], tmp_path: Path) -> None:
    expected = save_training_set(whole, tmp_path / "whole.h5")
    parts = [whole.select(range(*ends)) for ends in pairwise(cuts)]
    assert write(tmp_path / "set.h5", parts, 6, 13) == expected
    assert (tmp_path / "set.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert_same_set(load_training_set(tmp_path / "set.h5"), whole)


def test_features_that_stay_in_a_file(whole: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in that of the set that is replaced; read a few rows at a time."""
    monkeypatch.setattr(feature_rows, "_PIECE_BYTES", 2 * 8 * whole.features.shape[1])
    save_training_set(whole, tmp_path / "whole.h5")
    save_training_set(whole.select([0, 1, 2]), tmp_path / "set.h5")
    first = load_training_set(tmp_path / "set.h5", lazy=True)
    write(tmp_path / "set.h5", [first, whole.select([3, 4, 5])], 6, 13)
    assert (tmp_path / "set.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()


@pytest.mark.parametrize(("n_structures", "n_atoms"), [(5, 13), (7, 13), (6, 12), (6, 14)])
def test_other_numbers_than_announced(whole: TrainingSet, n_structures: int, n_atoms: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"\({n_structures}, {n_atoms}\), got \(6, 13\)"):
        write(tmp_path / "set.h5", [whole], n_structures, n_atoms)
    assert os.listdir(tmp_path) == []


def test_an_error_between_two_parts(whole: TrainingSet, tmp_path: Path) -> None:
    save_training_set(whole, tmp_path / "set.h5")
    before = (tmp_path / "set.h5").read_bytes()

    def break_off() -> None:
        with writing_set(tmp_path / "set.h5", 6, 13, 18) as writer:
            writer.append(whole.select([0]))
            raise InputError("the input")

    with pytest.raises(InputError, match="the input"):
        break_off()
    assert os.listdir(tmp_path) == ["set.h5"]
    assert (tmp_path / "set.h5").read_bytes() == before


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """It shows before what comes inside, which is the work."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with (
            pytest.raises(InputError, match=r"set\.h5: cannot write: File too large"),
            writing_set(tmp_path / "set.h5", 1000, 10_000, 18),
        ):
            pytest.fail("the work has begun")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_memory_is_that_of_a_part(tmp_path: Path) -> None:
    """And of two buffers for the hash; 40 parts make 40 times the file."""
    part = make_set([100] * 50, gaussian_centers=tuple(1.5 + 0.1 * k for k in range(40)))
    size = 8 * part.features.numel()
    peaks = []
    for count in (2, 40):
        tracemalloc.start()
        write(tmp_path / "set.h5", [part] * count, 50 * count, part.n_atoms * count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (tmp_path / "set.h5").stat().st_size > count * size
    assert peaks[1] < peaks[0] + 0.2 * size
    assert peaks[1] < 2 * 2**22 + 0.2 * size


def test_it_stays_the_set_of_its_settings(whole: TrainingSet, tmp_path: Path) -> None:
    """The file has the settings of the first part."""
    second = replace(whole, potential=make_potential(("Si", "C"), hidden=(9,)).without_parameters())
    write(tmp_path / "set.h5", [whole, second], 12, 26)
    found = load_training_set(tmp_path / "set.h5")
    assert header_lines(found.potential) == header_lines(whole.potential)
