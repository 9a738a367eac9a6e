"""Ranges one after the other, against Python's own; sums in repeated places."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyfit_gpu import sums
from pyfit_gpu.sums import RepeatedPlaces, ragged_range, sum_in_parts


@pytest.mark.parametrize("counts", [[2, 3], [0, 4, 0, 1], [0, 0], [], [5]], ids=str)
def test_against_python(counts: list[int]) -> None:
    first = np.random.default_rng(0).integers(0, 100, len(counts)).tolist()
    owners, numbers = ragged_range(
        torch.tensor(first, dtype=torch.int64), torch.tensor(counts, dtype=torch.int64), sum(counts)
    )
    pairs = [(row, a + k) for row, (a, n) in enumerate(zip(first, counts, strict=True)) for k in range(n)]
    assert list(zip(owners.tolist(), numbers.tolist(), strict=True)) == pairs


@pytest.mark.parametrize("sorts", [False, True])
def test_repeated_places(sorts: bool) -> None:
    """Places as they stand, for a CPU, and sorted, for a GPU."""
    rng = np.random.default_rng(2)
    places, rows = rng.integers(0, 6, 40), rng.normal(size=(40, 3))
    places[places == 4] = 3  # one that gets nothing
    chosen = RepeatedPlaces.of(torch.from_numpy(places), 5)
    if sorts:
        known = np.flatnonzero(places != 5)
        order = known[np.argsort(places[known], kind="stable")]
        once, lengths = np.unique(places[order], return_counts=True)
        chosen = RepeatedPlaces(*(torch.from_numpy(part) for part in (once, order, lengths)))
    table = torch.ones(6, 3, dtype=torch.float64)
    chosen.add(table, torch.from_numpy(rows), sign=-1)
    expected = np.ones((6, 3))
    np.subtract.at(expected, places, rows)
    np.testing.assert_allclose(table[:5].numpy(), expected[:5], atol=1e-14)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_repeated_places_on_a_gpu() -> None:
    rng = np.random.default_rng(3)
    places, rows = (torch.from_numpy(own) for own in (rng.integers(0, 50, 20_000), rng.normal(size=(20_000, 7))))
    expected = torch.zeros(50, 7, dtype=torch.float64).index_add_(0, places, rows)
    found = []
    for _ in range(10):
        table = torch.zeros(50, 7, dtype=torch.float64, device="cuda")
        RepeatedPlaces.of(places.cuda(), 49).add(table, rows.cuda())
        found.append(table.cpu()[:49])
    torch.testing.assert_close(found[0], expected[:49])
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("lengths", [[5000], [1, 4097, 0, 64, 65, 300], [0, 0, 70], [3, 2]], ids=str)
def test_long_runs_in_parts(lengths: list[int]) -> None:
    """Whole numbers, whose sums are exact in any order."""
    values = torch.from_numpy(np.random.default_rng(5).integers(-50, 50, (sum(lengths), 2, 3)).astype(np.float64))
    counts = torch.tensor(lengths)
    found = sum_in_parts(values, counts, max(lengths))
    assert torch.equal(found, torch.stack([own.sum(dim=0) for own in values.split(lengths)]))


def test_parts_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread adds up more than a part, whatever the runs are."""
    longest = []
    each = sums._sum_each

    def noted(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        longest.append(int(lengths.max()))
        return each(values, lengths)

    monkeypatch.setattr(sums, "_sum_each", noted)
    sum_in_parts(torch.ones(300_005, 1), torch.tensor([5, 300_000]), 300_000)
    assert len(longest) == 4
    assert max(longest) <= 64
