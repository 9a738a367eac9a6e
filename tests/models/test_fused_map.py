"""Derivatives for training on forces, computed anew by fused kernels, interpreted: those of the chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import interpreted  # noqa: F401, first
import pytest
import torch
from sample_sets import make_descriptor

from pyfit_gpu import fused as fused_kernels
from pyfit_gpu.descriptors import lsp
from pyfit_gpu.descriptors.kernels.chunk import FusedChunk
from pyfit_gpu.models.map_parts import MapPart
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.neighbors import find_neighbors

MORE = {"gi_mode": 6, "cross_terms": 1, "triples": ((0, 2, 2),)}


@pytest.mark.parametrize("settings", [{}, MORE], ids=["mode 5", "mode 6"])
@pytest.mark.parametrize("elements", [("Si",), ("Si", "C")], ids="-".join)
def test_derivatives_by_kernels(
    random_frame: Callable[..., Frame],
    monkeypatch: pytest.MonkeyPatch,
    elements: Sequence[str],
    settings: dict[str, Any],
) -> None:
    """For two members, with atoms of unequal numbers of neighbours and one that has none."""
    descriptor = make_descriptor(elements, **settings)
    frames = [random_frame(1, 3, elements=elements), random_frame(2, 1, length=9.0, skew=0.1)]
    structures = Structures.from_frames(frames)
    neighbors = find_neighbors(structures, descriptor.neighbor_cutoff)
    species = (structures.flatten(structures.atomic_numbers) == 6).long() * (len(elements) - 1)
    sizes = torch.tensor(structures.sizes)
    generator = torch.Generator().manual_seed(1)
    found: list[list[torch.Tensor]] = []
    for fused in (False, True):
        for module in (fused_kernels, lsp):
            monkeypatch.setattr(module, "has_fused_kernels", lambda _, fused=fused: fused)
        part = MapPart.of(neighbors, species, sizes, descriptor)
        generator.manual_seed(1)
        own = []
        for block in part.blocks:
            assert isinstance(block.chunk, FusedChunk) == fused
            n, width = block.chunk.pairs.shape
            grad = torch.randn(n, 2, descriptor.n_features, dtype=torch.float64, generator=generator)
            tangent = torch.randn(n, 2, 3, width, dtype=torch.float64, generator=generator)
            tangent *= (block.chunk.pairs < len(neighbors.index))[:, None, None]
            own += [block.grad_vectors(grad), block.vjp(tangent), block.jacobian_of(torch.arange(0, n, 2))]
        found.append(own)
    assert len(found[0]) >= 6
    for plain, kernels in zip(*found, strict=True):
        torch.testing.assert_close(kernels, plain, rtol=1e-12, atol=1e-12)
