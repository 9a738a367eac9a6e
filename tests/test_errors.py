"""`InputError`: fault, place and remedy."""

from __future__ import annotations

import pickle

import pytest

from pyfit_gpu.errors import InputError, Remedy, shortened


def test_a_message_alone() -> None:
    error = InputError("si.h5: expected a set")
    assert str(error) == error.fault == "si.h5: expected a set"
    assert (error.setting, error.where, error.remedy) == ("", "", None)


def test_a_python_user_is_told_the_keyword() -> None:
    error = InputError("si.h5: exists already", remedy=Remedy.OVERWRITE)
    assert str(error) == "si.h5: exists already (overwrite=True replaces it)"
    assert error.fault == "si.h5: exists already"


def test_no_message_is_longer_than_a_screen() -> None:
    """Its beginning says where, its end what was found, whatever word a damaged file had."""
    error = InputError(f"si.xml: expected {'{' * 5000}", remedy=Remedy.CONVERT).at("a.tar")
    assert len(str(error)) < 24 * 80
    assert str(error).startswith("a.tar: si.xml: expected {{{{")
    assert str(error).endswith("{{{{ (save_training_set writes it as HDF5)")
    assert str(InputError("x" * 1700)) == "x" * 1700


def test_place() -> None:
    error = InputError("cutoff: expected a length, got 0", setting="cutoff", remedy=Remedy.E_SHIFT)
    placed = error.at("si.nn.dat, line 4")
    assert str(placed) == "si.nn.dat, line 4: cutoff: expected a length, got 0 (give e_shift)"
    assert (placed.setting, placed.where, placed.remedy) == ("cutoff", "si.nn.dat, line 4", Remedy.E_SHIFT)


@pytest.mark.parametrize("remedy", [None, Remedy.CONVERT])
def test_between_processes(remedy: Remedy | None) -> None:
    error = InputError("a fault", setting="x", where="here", remedy=remedy)
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), vars(back)) == (str(error), vars(error))


@pytest.mark.parametrize(
    ("n", "expected"),
    [(0, ""), (1, "0"), (3, "0, 1, 2"), (4, "0, 1, ... (2 more)"), (500, "0, 1, ... (498 more)")],
)
def test_lists_in_messages_are_short(n: int, expected: str) -> None:
    assert shortened(range(n), most=2) == expected
