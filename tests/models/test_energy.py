"""Energy models: the straight network, and the seam, shown by a model that is made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_sets import make_potential
from torch import Tensor

from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.errors import InputError
from pyfit_gpu.models import energy
from pyfit_gpu.models.bond_order import BondOrder
from pyfit_gpu.models.energy import ENERGY_MODELS, Straight, energy_model
from pyfit_gpu.models.potential import Potential, join_members
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame

MakeFrame = Callable[..., Frame]


class Springs:
    """E_i = p_i0^2 + p_i1 sum_j f(r_ij) with f = (r - rc)^2: outputs and distances both enter."""

    name = "springs"
    uses_vectors = True
    forces_are_linear = False
    cutoff = 4.3

    def __init__(self, potential: Potential) -> None:
        pass

    @staticmethod
    def n_outputs(n_elements: int) -> int:
        return 2

    def describe(self, outputs: Tensor, species: int) -> str:
        return f"springs {outputs.tolist()} of element {species}"

    def energies(self, outputs: Tensor, species: Tensor, chunk: Chunk) -> Tensor:
        return outputs[..., 0] ** 2 + outputs[..., 1] * self._function(chunk).sum(dim=-1)

    def vjp(self, outputs: Tensor, species: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor | None]:
        grad = torch.stack((2 * outputs[..., 0], self._function(chunk).sum(dim=-1).expand(outputs.shape[:-1])), dim=-1)
        distance, inside = self._distance(chunk)
        slope = torch.where(inside, 2 * (distance - self.cutoff) / distance, 0.0)  # f' / r
        vectors = chunk.vectors * slope[:, None]
        return self.energies(outputs, species, chunk), grad, outputs[..., 1].T[:, :, None, None] * vectors[:, None]

    def _distance(self, chunk: Chunk) -> tuple[Tensor, Tensor]:
        inside = chunk.pairs < len(chunk._all_vectors)
        return torch.linalg.vector_norm(chunk.vectors, dim=1), inside

    def _function(self, chunk: Chunk) -> Tensor:
        distance, inside = self._distance(chunk)
        return torch.where(inside, (distance - self.cutoff) ** 2, 0.0)


@pytest.fixture
def springs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "ENERGY_MODELS", [*ENERGY_MODELS, Springs])


def test_straight() -> None:
    outputs, species = torch.randn(3, 5, 1), torch.zeros(5, dtype=torch.int64)
    model = energy_model(make_potential(), "predict")
    assert isinstance(model, Straight)
    energies, grad, grad_vectors = model.vjp(outputs, species, None)
    assert torch.equal(energies, outputs[..., 0])
    assert torch.equal(model.energies(outputs, species, None), energies)
    assert grad_vectors is None
    assert torch.equal(grad, torch.ones_like(outputs))


def test_the_number_of_outputs_decides() -> None:
    assert isinstance(energy_model(make_potential(n_outputs=8), "predict"), BondOrder)
    assert isinstance(energy_model(make_potential(("Si", "C"), n_outputs=21), "predict"), BondOrder)


@pytest.mark.parametrize(("elements", "n_outputs"), [(("Si",), 2), (("Si", "C"), 8)])
def test_outputs_without_a_model_are_refused(elements: tuple[str, ...], n_outputs: int) -> None:
    with pytest.raises(InputError, match=rf"relax: expected networks with 1 output .energy. or .*, got {n_outputs}"):
        energy_model(make_potential(elements, n_outputs=n_outputs), "relax")


@pytest.mark.usefixtures("springs")
@pytest.mark.parametrize("n_members", [1, 3, 9])
@pytest.mark.parametrize("elements", [("Si",), ("Si", "C")], ids="".join)
def test_a_model_of_its_own(random_frame: MakeFrame, elements: tuple[str, ...], n_members: int) -> None:
    """Energies written out, forces by central differences: all that a model must bring is its two methods."""
    members = [make_potential(elements, n_outputs=2, seed=k, hidden=(4,)) for k in range(n_members)]
    potential = join_members(members)
    frame = random_frame(3, 5, elements=elements)
    found = predict(potential, Structures.from_frames([frame]))
    assert found.forces is not None
    step = 1e-4
    for atom, axis in ((0, 0), (2, 1), (4, 2)):
        ends = []
        for sign in (1, -1):
            positions = frame.positions.copy()
            positions[atom, axis] += sign * step
            moved = Structures.from_frames([replace(frame, positions=positions)])
            ends.append(float(predict(potential, moved, derivatives=False).energy))
        assert float(found.forces[atom, axis]) == pytest.approx(-(ends[0] - ends[1]) / (2 * step), abs=1e-6)
    assert np.isfinite(found.forces.numpy()).all()
