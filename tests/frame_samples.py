"""A frame with every label, and the comparison of two frames to the bit."""

from __future__ import annotations

import numpy as np

from pyfit_gpu.structures.frames import Frame


def frame(**changes: object) -> Frame:
    random = np.random.default_rng(7)
    fields: dict[str, object] = {
        "positions": random.normal(size=(3, 3)),
        "cell": random.normal(size=(3, 3)) + 5 * np.eye(3),
        "pbc": np.array([True, False, True]),
        "atomic_numbers": np.array([14, 0, 118]),
        "group": "Si_B1",
        "source": "made here",
        "energy": -1 / 3,
        "forces": random.normal(size=(3, 3)) * 1e-9,
        "stress": random.normal(size=6) * 1e6,
        "weight": 0.1,
    }
    return Frame(**(fields | changes))  # type: ignore[arg-type]


def assert_same(got: Frame, expected: Frame) -> None:
    for name in ("positions", "cell", "pbc", "atomic_numbers", "forces", "stress"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)
    for name in ("energy", "group", "weight"):
        assert getattr(got, name) == getattr(expected, name), name
