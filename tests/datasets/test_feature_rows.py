"""Features left in files: the same numbers as in memory, whichever rows are asked for, and no more memory than said."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_sets import make_set

from pyfit_gpu.datasets import feature_rows
from pyfit_gpu.datasets.feature_rows import (
    FeatureFile,
    FeatureRows,
    hash_features,
    hash_rows,
    join_features,
    read_features,
)

WIDTH = 7
OFFSET = 24


def write(path: Path, n_rows: int, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(n_rows, WIDTH))
    path.write_bytes(b"x" * OFFSET + values.astype("<f8").tobytes() + b"the end")
    return values


@pytest.fixture
def rows_and_values(tmp_path: Path) -> tuple[FeatureRows, np.ndarray]:
    """Rows of three files, one of them without a row, and their values."""
    values = [write(tmp_path / str(k), n, k) for k, n in enumerate((40, 0, 25))]
    files = [FeatureFile(tmp_path / str(k), OFFSET, own.shape) for k, own in enumerate(values)]
    return FeatureRows.of(files), np.concatenate(values)


def choices() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "all": np.arange(65),
        "none": np.arange(0),
        "a run": np.arange(11, 19),
        "a run over the border": np.arange(35, 50),
        "backwards": np.arange(65)[::-1],
        "most, in order": np.flatnonzero(rng.random(65) < 0.9),
        "far apart": np.array([0, 1, 2, 39, 40, 64]),
        "in any order": rng.permutation(65),
        "some twice": np.array([3, 3, 4, 64, 2, 3, 41]),
    }


class TestTensor:
    @pytest.mark.parametrize("which", choices())
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize("piece", [1, 3 * 8 * WIDTH, 2**22], ids=["row by row", "three rows", "at once"])
    def test_same_bits_as_in_memory(
        self,
        rows_and_values: tuple[FeatureRows, np.ndarray],
        which: str,
        dtype: torch.dtype,
        piece: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(feature_rows, "_PIECE_BYTES", piece)
        rows, values = rows_and_values
        index = choices()[which].copy()
        found = rows.to("cpu", dtype)[torch.from_numpy(index)].tensor()
        assert found.dtype == dtype
        assert torch.equal(found, torch.from_numpy(values[index]).to(dtype))

    def test_choosing_twice(self, rows_and_values: tuple[FeatureRows, np.ndarray]) -> None:
        rows, values = rows_and_values
        chosen = rows[torch.arange(10, 60)][torch.tensor([49, 0, 7])]
        assert (chosen.shape, len(chosen)) == ((3, WIDTH), 3)
        assert torch.equal(chosen.tensor(), torch.from_numpy(values[[59, 10, 17]]))

    def test_nothing_is_read_before(self, rows_and_values: tuple[FeatureRows, np.ndarray]) -> None:
        """Choosing, joining and moving look at numbers of rows alone: a file that has become short shows later."""
        rows, _ = rows_and_values
        os.truncate(rows.files[2].path, OFFSET + 8 * WIDTH * 5)
        chosen = FeatureRows.concatenate([rows, rows]).to("cpu", torch.float32)[torch.tensor([4, 44, 45, 65 + 44])]
        assert chosen[torch.tensor([0, 1, 3])].tensor().shape == (3, WIDTH)
        with pytest.raises(OSError, match="the file ends"):
            chosen.tensor()

    def test_a_replaced_name_changes_nothing(self, tmp_path: Path) -> None:
        values = write(tmp_path / "set", 9, 1)
        rows = FeatureRows.of([FeatureFile(tmp_path / "set", OFFSET, values.shape)])
        write(tmp_path / "other", 9, 2)
        os.replace(tmp_path / "other", tmp_path / "set")
        assert torch.equal(rows.tensor(), torch.from_numpy(values))

    def test_files_are_closed(self, tmp_path: Path) -> None:
        values = write(tmp_path / "set", 9, 1)
        before = len(os.listdir("/proc/self/fd"))
        rows = FeatureRows.of([FeatureFile(tmp_path / "set", OFFSET, values.shape)])[torch.arange(3)]
        assert len(os.listdir("/proc/self/fd")) == before + 1
        del rows
        assert len(os.listdir("/proc/self/fd")) == before

    @pytest.mark.parametrize("share", [0.9, 0.02], ids=["most", "few"])
    def test_memory(self, tmp_path: Path, share: float) -> None:
        """Reading float32 from a file of 40 MB takes no float64 copy of the whole, nor all bytes between the rows."""
        n_rows = 5_000_000 // WIDTH
        values = write(tmp_path / "set", n_rows, 1)
        index = np.flatnonzero(np.random.default_rng(2).random(n_rows) < share)
        rows = FeatureRows.of([FeatureFile(tmp_path / "set", OFFSET, values.shape)]).to("cpu", torch.float32)
        rows = rows[torch.from_numpy(index)]
        expected = torch.from_numpy(values[index]).float()
        tracemalloc.start()  # which sees what numpy takes, and not the result
        found = rows.tensor()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert torch.equal(found, expected)
        assert peak < 8 * feature_rows._PIECE_BYTES < 8 * WIDTH * n_rows


class TestJoin:
    def test_in_files(self, rows_and_values: tuple[FeatureRows, np.ndarray], tmp_path: Path) -> None:
        rows, values = rows_and_values
        others = write(tmp_path / "others", 12, 7)
        other = FeatureRows.of([FeatureFile(tmp_path / "others", OFFSET, others.shape)])
        joined = join_features([rows[torch.arange(50, 60)], other[torch.arange(3, 9)], rows[torch.arange(5)]])
        assert isinstance(joined, FeatureRows)
        expected = np.concatenate((values[50:60], others[3:9], values[:5]))
        assert torch.equal(joined.tensor(), torch.from_numpy(expected))

    def test_with_a_tensor(self, rows_and_values: tuple[FeatureRows, np.ndarray]) -> None:
        """Rows that are in files stay there."""
        rows, values = rows_and_values
        held = torch.arange(2.0 * WIDTH, dtype=torch.float64).reshape(2, WIDTH)
        for place, parts in enumerate(([held, rows], [rows, held])):
            joined = join_features(parts)
            assert isinstance(joined, FeatureRows)
            assert (joined.dtype, joined.shape) == (rows.dtype, (len(values) + 2, WIDTH))
            first, second = (held.numpy(), values) if place == 0 else (values, held.numpy())
            expected = np.concatenate((first, second))
            assert torch.equal(joined.tensor(), torch.from_numpy(expected))
            some = torch.tensor([1, 0, len(expected) - 1, len(expected) - 2, 3, 1])
            assert torch.equal(joined[some].tensor(), torch.from_numpy(expected[some]))

    def test_tensors(self) -> None:
        parts = [torch.ones(2, WIDTH), torch.zeros(3, WIDTH)]
        joined = join_features(parts)
        assert isinstance(joined, torch.Tensor)
        assert torch.equal(joined, torch.cat(parts))

    def test_a_tensor_is_itself(self) -> None:
        features = make_set().features
        assert read_features(features) is features


class TestHashes:
    """Every row has its own, wherever it is, and all that happens to a row shows."""

    def test_the_same_in_files_and_in_memory(self, rows_and_values: tuple[FeatureRows, np.ndarray]) -> None:
        rows, values = rows_and_values
        expected = hash_rows(values)
        assert len(set(expected.tolist())) == 65
        held = torch.from_numpy(values)
        for which in map(torch.from_numpy, (row.copy() for row in choices().values())):
            np.testing.assert_array_equal(hash_features(rows[which]), expected[which.numpy()])
            np.testing.assert_array_equal(hash_features(held[which]), expected[which.numpy()])
        both = join_features([held[:3], rows])
        np.testing.assert_array_equal(hash_features(both), np.concatenate((expected[:3], expected)))

    def test_never_other_ones(self) -> None:
        """Run files hold them."""
        values = np.arange(14.0).reshape(2, WIDTH)
        assert hash_rows(values).tolist() == [3061820295047544832, 7590470394665893888]

    def test_any_change_shows(self) -> None:
        """Every bit by itself; signs of several numbers, their powers of two, two numbers that change places."""
        row = np.random.default_rng(1).normal(size=(1, WIDTH))
        bits = np.concatenate([np.uint64(1) << np.arange(64, dtype=np.uint64) for _ in range(WIDTH)])
        changed = np.repeat(row, len(bits), axis=0).view(np.uint64)
        changed[np.arange(len(bits)), np.repeat(np.arange(WIDTH), 64)] ^= bits
        assert not (hash_rows(changed.view(np.float64)) == hash_rows(row)).any()
        pairs = [(a, b) for a in range(WIDTH) for b in range(a)]
        for change in (lambda pair: -pair, lambda pair: 2 * pair, lambda pair: pair[::-1]):
            changed = np.repeat(row, len(pairs), axis=0)
            for one, pair in zip(changed, map(list, pairs), strict=True):
                one[pair] = change(one[pair])
            assert not (hash_rows(changed) == hash_rows(row)).any()

    def test_what_was_read_as_a_whole_is_not_read_again(self, tmp_path: Path) -> None:
        values = write(tmp_path / "file", 20, 1)
        file = FeatureFile(tmp_path / "file", OFFSET, values.shape)
        for _ in file.pieces():
            pass
        (tmp_path / "file").write_bytes(b"")
        np.testing.assert_array_equal(file.hashes(), hash_rows(values))
