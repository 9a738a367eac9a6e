"""The group of a structure."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyfit_gpu.formats.groups import name_group


@pytest.mark.parametrize(
    ("path", "candidates", "expected"),
    [
        ("a/b.c.xyz", (), "b"),
        ("a/b.xyz", (None, " ", "fcc  bulk"), "fcc_bulk"),
        ("a/b.xyz", (0,), "0"),
        ("a/.hidden", (), ".hidden"),
        ("a/folder/", (), "folder"),
        ("/", (), "structures"),
    ],
)
def test_first_name_that_says_something(path: str, candidates: tuple[object, ...], expected: str) -> None:
    assert name_group(path, *candidates) == expected


def test_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "si.1").mkdir()
    monkeypatch.chdir(tmp_path / "si.1")
    assert name_group(".") == "si"
