"""Strains as six numbers in the order of ASE's stress, xx yy zz yz xz xy, shears as twice the tensor's element."""

from __future__ import annotations

import numpy as np

from pyfit_gpu.structures.cells import FloatArray

PLACES = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def strain_tensor(voigt: FloatArray) -> FloatArray:
    """(3, 3), symmetric, of a strain (6,)."""
    tensor = np.zeros((3, 3))
    for value, (i, j) in zip(voigt, PLACES, strict=True):
        tensor[i, j] += value / 2
        tensor[j, i] += value / 2
    return tensor
