"""Named numbers in one tensor: what goes in comes out under its own name."""

from __future__ import annotations

import pytest
import torch

from pyfit_gpu.training.columns import Columns

WIDTHS = {"energies": 3, "forces": None, "virial": None, "gradient": 2}


def values(dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """All numbers different."""
    numbers = torch.arange(1, 15, dtype=dtype).view(2, 7)
    return {"virial": numbers[:, 0], "energies": numbers[:, 1:4], "gradient": numbers[:, 4:6], "forces": numbers[:, 6]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_there_and_back(dtype: torch.dtype) -> None:
    columns = Columns(WIDTHS)
    packed = columns.pack(values(dtype))
    assert packed.shape == (2, columns.width) == (2, 7)
    assert packed.dtype == dtype
    found = columns.unpack(packed)
    assert list(found) == list(WIDTHS)
    for name, value in values(dtype).items():
        assert torch.equal(found[name], value), name


def test_the_order_of_the_values_does_not_matter() -> None:
    columns = Columns(WIDTHS)
    assert torch.equal(columns.pack(values()), columns.pack(dict(reversed(values().items()))))


@pytest.mark.parametrize("change", [{"stress": torch.zeros(2)}, {"virial": None}])
def test_other_names_are_refused(change: dict[str, torch.Tensor | None]) -> None:
    changed = {name: value for name, value in {**values(), **change}.items() if value is not None}
    with pytest.raises(ValueError, match="columns: expected energies, forces, virial, gradient, got"):
        Columns(WIDTHS).pack(changed)


def test_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"columns: expected 7 \(energies, .*\), got 8"):
        Columns(WIDTHS).unpack(torch.zeros(2, 8))
