"""Sources of kernels: templates, and straight-line code of the angular functions run as plain Python."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch

from pyfit_gpu.descriptors.harmonics import angular_jvp, angular_rows, angular_vjp, n_rows
from pyfit_gpu.descriptors.kernels.angular import add_moved_rows, add_rows, gradient_of_level, levels
from pyfit_gpu.descriptors.kernels.source import fill

ORDERS = [(0,), (1, 0), (0, 1, 2, 3, 4, 6), (5, 2, 2)]


class TestTemplates:
    def test_lines_are_indented_as_their_place(self) -> None:
        template = "\ndef $name():\n    for i in range($N):\n        $body\n    $end\n"
        filled = fill(template, name="f", N=3, body=["a = i", "b = a"], end=[])
        assert filled == "def f():\n    for i in range(3):\n        a = i\n        b = a\n"

    def test_longer_names_first(self) -> None:
        assert fill("$N $N_ROWS", N=1, N_ROWS=2) == "1 2\n"


@pytest.mark.parametrize("orders", ORDERS, ids=str)
def test_rows(orders: tuple[int, ...]) -> None:
    unit, tangent = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    f = torch.linspace(0.5, 2, 5, dtype=torch.float64)
    names = dict(zip(("x", "y", "z", "dx", "dy", "dz"), (*unit, *tangent), strict=True))
    zeros = {f"a_0_{row}": torch.zeros(5, dtype=torch.float64) for row in range(n_rows(orders))}
    rows = angular_rows(unit, orders, torch.empty(n_rows(orders), 5, dtype=torch.float64))
    assert_same(run(add_rows(orders, 1), {**names, **zeros, "f_0": f}), f * rows)
    moved = angular_jvp(unit, orders, tangent, torch.empty_like(rows))
    found = run(add_moved_rows(orders, 1), {**names, **zeros, "f_0": f, "d_0": f.flip(0)})
    assert_same(found, f * moved + f.flip(0) * rows)


@pytest.mark.parametrize("orders", ORDERS, ids=str)
def test_gradient(orders: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    unit = torch.randn(3, 5, dtype=torch.float64, generator=generator)
    weights = torch.randn(n_rows(orders), 5, dtype=torch.float64, generator=generator)
    zero = torch.zeros(5, dtype=torch.float64)
    names = dict(zip("xyz", unit, strict=True)) | {f"g{axis}": zero.clone() for axis in "xyz"}
    for level in levels(orders, derivatives=True):
        exec("\n".join(level.lines), names)
        for part in "cs" if level.m else "c":
            names[f"value_{part}"] = sum(weights[row.number(part)] * eval(row.polynomial, names) for row in level.rows)
            names[f"slope_{part}"] = zero + sum(
                weights[row.number(part)] * row.slope * eval(row.above, names) for row in level.rows if row.above
            )
        exec("\n".join(gradient_of_level(level)), names)
    found = torch.stack([names["gx"], names["gy"], names["gz"]])
    torch.testing.assert_close(found, angular_vjp(unit, orders, weights), rtol=1e-13, atol=1e-13)


def run(lines: Iterable[str], given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Run code that adds to a_0_row, and stack these."""
    names = {name: value.clone() for name, value in given.items()}  # they are changed in place
    exec("\n".join(lines), names)
    return torch.stack([value for name, value in names.items() if name.startswith("a_0_")])


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
