"""Choices for reading files that contradict themselves or mean nothing are refused by name."""

from __future__ import annotations

import dataclasses

import pytest

from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.read_options import LABEL_KEYS, ReadOptions


def test_default_chooses_nothing() -> None:
    assert not any(getattr(ReadOptions(), key) for key in LABEL_KEYS)
    assert (ReadOptions().vasp_steps, ReadOptions().units) == ("all", "")


def test_keys() -> None:
    assert LABEL_KEYS == ("energy_key", "forces_key", "stress_key", "virial_key", "group_key", "weight_key")


def test_they_can_be_kept_as_keys_of_a_cache() -> None:
    assert hash(ReadOptions(energy_key="a")) == hash(ReadOptions(energy_key="a"))
    assert ReadOptions(energy_key="a") != ReadOptions(energy_key="b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        ReadOptions().units = "eV,Ang"  # type: ignore[misc]


def test_stress_and_virial() -> None:
    with pytest.raises(InputError, match="stress_key: expected without virial_key") as caught:
        ReadOptions(stress_key="a", virial_key="b")
    assert caught.value.setting == "stress_key"


def test_vasp_steps() -> None:
    assert ReadOptions(vasp_steps="converged").vasp_steps == "converged"
    with pytest.raises(InputError, match="vasp_steps: expected one of all, converged, got 'some'"):
        ReadOptions(vasp_steps="some")  # type: ignore[arg-type]


def test_units() -> None:
    assert ReadOptions(units="hartree,bohr").units == "hartree,bohr"
    with pytest.raises(InputError, match="units: expected"):
        ReadOptions(units="hartree")
