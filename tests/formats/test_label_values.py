"""Values of labels: texts and arrays give the same numbers, anything else is an error that says what it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.label_values import finite, parsed, text, voigt


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        ("-3.25", [-3.25]),
        ("1e-5", [1e-5]),
        ("1 2\t3", [1, 2, 3]),
        ("1, 2, 3", [1, 2, 3]),
        ("[1,2]", [1, 2]),
        ("_JSON [[1, 0.1], [1e3, 4]]", [1, 0.1, 1000, 4]),
        ("[1, 2], [3, 4]", [1, 2, 3, 4]),  # as a comment in brackets comes
        ("nan inf -Infinity", [np.nan, np.inf, -np.inf]),
        ("0.1", [0.1]),
    ],
)
def test_numbers_of_a_text(value: str, numbers: list[float]) -> None:
    np.testing.assert_array_equal(parsed(value), numbers)


@pytest.mark.parametrize("value", ["", " ", "[]", "low", "1 low", "1_0", "١", "1.0D0", "0x10", "T", "--1", "_JSON {}"])
def test_what_is_no_number_stays_text(value: str) -> None:
    assert parsed(value) is value


@pytest.mark.parametrize("value", ["-1.5", -1.5, np.float32(-1.5), np.array([-1.5]), [-1.5], "_JSON [-1.5]"])
def test_one_number(value: Any) -> None:
    found = finite(value, (), "energy", "here")
    assert found.dtype == np.float64
    assert (found.shape, float(found)) == ((), -1.5)


def test_arrays_are_copied() -> None:
    given = np.zeros((2, 3))
    found = finite(given, (2, 3), "forces", "here")
    found += 1
    assert not given.any()


@pytest.mark.parametrize(
    ("value", "shape", "message"),
    [
        ("low", (), r"must be numbers of shape \(\), got 'low'"),
        ("", (), r"must be numbers of shape \(\), got ''"),
        ("1 2", (), r"must be numbers of shape \(\), got float64 \(2,\)"),
        (True, (), r"must be numbers of shape \(\), got bool"),
        (1j, (), r"must be numbers of shape \(\), got complex"),
        ({"a": 1}, (), r"must be numbers of shape \(\), got object"),
        (np.zeros((1, 3)), (2, 3), r"must be numbers of shape \(2, 3\), got float64 \(1, 3\)"),
        ("1 2 nan", (3,), "has NaN or infinity"),
        ("1e400", (), "has NaN or infinity"),
        (np.inf, (), "has NaN or infinity"),
    ],
)
def test_what_is_refused(value: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=f"^a.xyz, structure 2: energy {message}"):
        finite(value, shape, "energy", "a.xyz, structure 2")


def test_a_message_is_short() -> None:
    for value in ("x" * 10_000, "1 " * 10_000, np.zeros(10_000)):
        with pytest.raises(InputError) as caught:
            finite(value, (), "energy", "here")
        assert len(str(caught.value)) < 200


def test_voigt() -> None:
    """Six numbers are xx yy zz yz xz xy; nine are a matrix, of which the symmetric part counts."""
    six = [1, 2, 3, 4, 5, 6]
    matrix = np.array([[1, 6, 5], [6, 2, 4], [5, 4, 3]])
    for value in (six, "1 2 3 4 5 6", matrix, matrix.ravel(), "1 6 5 6 2 4 5 4 3", "_JSON [[1,6,5],[6,2,4],[5,4,3]]"):
        assert voigt(value, "stress", "here").tolist() == six
    assert voigt("1 7 5 5 2 4 5 4 3", "stress", "here")[5] == 6


@pytest.mark.parametrize("value", ["1", "1 2 3", "1 2 3 4 5 6 7 8", "1 2 3 4 5 6 7 8 low", np.zeros((6, 6)), "high"])
def test_voigt_of_anything_else(value: Any) -> None:
    with pytest.raises(InputError, match=r"here: stress must be numbers of shape \(6,\)"):
        voigt(value, "stress", "here")


def test_voigt_that_is_not_finite() -> None:
    with pytest.raises(InputError, match="stress has NaN"):
        voigt("1 0 0 0 nan 0 0 0 1", "stress", "here")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("bulk", "bulk"), (12, "12"), ('_JSON "001"', "001"), ("_JSON [1, 2]", "[1, 2]"), ("_JSON bulk", "_JSON bulk"),
     ("_JSON " + "[" * 100_000, "_JSON " + "[" * 100_000)],
    ids=["word", "number", "json", "list", "not json", "deep"],
)  # fmt: skip
def test_text(value: Any, expected: str) -> None:
    assert text(value) == expected
