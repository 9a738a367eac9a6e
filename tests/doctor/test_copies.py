"""Rows that are equal to rounding, and the error that no function of them can go below."""

from __future__ import annotations

import numpy as np
import pytest

from pyfit_gpu.doctor.copies import equal_rows, noise_floor


def test_equal_rows_to_rounding() -> None:
    random = np.random.default_rng(1)
    distinct = random.normal(size=(300, 20)) * 10.0 ** np.arange(-10, 10)
    chosen = random.integers(0, 300, size=2000)
    rows = distinct[chosen] * (1 + 1e-9 * random.normal(size=(2000, 20)))
    expected = [np.flatnonzero(chosen == k)[0] for k in chosen]
    np.testing.assert_array_equal(equal_rows(rows), expected)


def test_one_column_makes_the_difference() -> None:
    rows = np.tile(np.arange(5.0), (3, 1))
    rows[2, 4] += 1e-3
    rows = np.concatenate((rows, [[0.0, 0, 0, 0, 0]]))
    np.testing.assert_array_equal(equal_rows(rows), [0, 0, 2, 3])


def test_neighbours_in_a_row_are_not_joined_from_one_to_the_next() -> None:
    """Each equals the next one, but not the last one the first."""
    rows = np.concatenate((np.arange(50.0)[:, None] * 8e-7, [[1.0]]))
    first = equal_rows(rows)
    assert np.abs(rows[first] - rows).max() <= 1.1e-6
    assert len(np.unique(first)) > 20


def test_without_any_difference() -> None:
    np.testing.assert_array_equal(equal_rows(np.ones((4, 3))), [0, 0, 0, 0])
    np.testing.assert_array_equal(equal_rows(np.ones((1, 3))), [0])


def test_the_noise_floor_is_the_error_of_the_best_function() -> None:
    first = np.array([0, 1, 0, 0, 1, 5])
    energy = np.array([1.0, 5.0, 2.0, np.nan, 5.5, 7.0])
    best = [1.5, 5.25, 1.5, np.nan, 5.25, 7.0]
    assert noise_floor(energy, first) == pytest.approx(np.sqrt(np.nanmean((energy - best) ** 2)))
