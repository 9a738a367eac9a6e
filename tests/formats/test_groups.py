"""The group of a structure."""

from __future__ import annotations

import pytest

from pyfit_gpu.formats.groups import name_group


@pytest.mark.parametrize(
    ("path", "candidates", "expected"),
    [
        ("a/b.c.xyz", (), "b"),
        ("a/b.xyz", (None, " ", "fcc  bulk"), "fcc_bulk"),
        ("a/b.xyz", (0,), "0"),
        ("a/.hidden", (), ".hidden"),
    ],
)
def test_first_name_that_says_something(path: str, candidates: tuple[object, ...], expected: str) -> None:
    assert name_group(path, *candidates) == expected
