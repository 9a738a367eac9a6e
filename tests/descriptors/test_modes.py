"""The table of modes: slopes against differences, what a mode says of itself, and that help can read it."""

from __future__ import annotations

import subprocess
import sys

import pair_sum
import pytest
import torch

from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.descriptors.modes import GI_MODES, describe_modes
from pyfit_gpu.errors import InputError

SETTINGS = {
    "cutoff": 4.3,
    "cutoff_width": 1.1,
    "gaussian_width": 0.8,
    "legendre_orders": (0, 2),
    "gaussian_centers": (1.7, 2.5),
}


@pytest.mark.parametrize("number", GI_MODES)
def test_slopes_are_the_derivatives(number: int) -> None:
    """At G = 0, an atom without neighbours, too; blocks of two elements can be negative."""
    mode, step = GI_MODES[number], 1e-5
    shift = mode.default_shift or 0.3
    raw = torch.tensor([0.0, 1e-6, 0.02, 0.7, 5.0, 120.0], dtype=torch.float64)
    if mode.several_elements:
        raw = torch.cat((raw, -raw))
    ends = [mode.transform(raw + sign * step, shift) for sign in (1, -1)]
    torch.testing.assert_close(mode.slope(raw, shift), (ends[0] - ends[1]) / (2 * step), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("number", GI_MODES)
def test_what_is_given_stays(number: int) -> None:
    raw = torch.rand(5, dtype=torch.float64)
    before = raw.clone()
    for function in (GI_MODES[number].transform, GI_MODES[number].slope):
        assert function(raw, 0.5).shape == raw.shape
        assert torch.equal(raw, before)


@pytest.mark.parametrize("number", GI_MODES)
def test_the_shift_decides_where_it_is_used(number: int) -> None:
    mode = GI_MODES[number]
    raw = torch.rand(5, dtype=torch.float64)
    differs = not torch.equal(mode.transform(raw, 0.5), mode.transform(raw, 0.7))
    assert differs == mode.uses_shift
    lsp = LocalStructureParameters(elements=("Si",), gi_mode=number, shift=0.5, **SETTINGS)
    assert lsp.identity()["shift"] == (0.5 if mode.uses_shift else None)


@pytest.mark.parametrize("number", GI_MODES)
def test_several_elements(number: int) -> None:
    made = {"elements": ("Si", "C"), "gi_mode": number, "shift": 0.5, **SETTINGS}
    if GI_MODES[number].several_elements:
        assert LocalStructureParameters(**made).n_features == 12
    else:
        with pytest.raises(InputError, match=rf"gi_mode: expected one that takes 2 elements .*, got {number}"):
            LocalStructureParameters(**made)


def test_the_reference_knows_every_mode() -> None:
    """Otherwise features and forces of one would be compared with nothing."""
    assert set(pair_sum.MODES) == set(GI_MODES)


def test_an_unknown_mode_names_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"gi_mode: expected one of \(0: G \+ shift, N = 16; 1: .*\), got 7"):
        LocalStructureParameters(elements=("Si",), gi_mode=7, shift=0.5, **SETTINGS)
    assert describe_modes().count(":") == len(GI_MODES)


def test_the_table_loads_without_torch() -> None:
    code = "import sys, pyfit_gpu.descriptors.modes; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
