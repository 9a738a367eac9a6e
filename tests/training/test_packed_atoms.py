"""Networks on packed of atoms: where atoms stand, outputs as of a plain call, and the gradient as it is written out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

import pyfit_gpu.training.packed_atoms as packed_atoms
from pyfit_gpu.models.networks import ElementLayout, ElementNetworks
from pyfit_gpu.training.packed_atoms import PackedAtoms, forward, vjp

HIDDEN = [(), (4,), (5, 3), (4, 3, 5)]
N_ATOMS = 53
CASES = list(itertools.product(HIDDEN, [0, 1, 2], [(1, 1), (3, 1), (1, 2), (3, 3)]))


@pytest.fixture(autouse=True)
def _short_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several of each element."""
    monkeypatch.setattr(packed_atoms, "PACK", {"cpu": 16})


def random_networks(sizes: Sequence[int], shape: tuple[int, int], activation: int) -> tuple[ElementNetworks, Tensor]:
    """Networks and the flat tensor (K, n_parameters) that they are views of."""
    n_members, n_elements = shape
    count = n_elements * sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(sizes))
    flat = torch.from_numpy(np.random.default_rng(0).normal(size=(n_members, count))).requires_grad_()
    return ElementNetworks.from_flat(flat, sizes, n_elements=n_elements, activation=activation), flat


def random_atoms(n_elements: int, n_features: int, n_members: int) -> tuple[Tensor, Tensor, Tensor]:
    """Species, unevenly spread, features, and derivatives by the outputs."""
    rng = np.random.default_rng(7)
    species = np.minimum(rng.geometric(0.5, N_ATOMS) - 1, n_elements - 1)
    features = rng.normal(size=(N_ATOMS, n_features))
    grad_outputs = rng.normal(size=(n_members, N_ATOMS))
    return torch.from_numpy(species), torch.from_numpy(features), torch.from_numpy(grad_outputs)


def through_packs(
    networks: ElementNetworks, species: Tensor, features: Tensor, grad_outputs: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs (K, n_atoms) and the gradient (K, n_parameters) of their sum times `grad_outputs`."""
    packed = PackedAtoms.of(species, networks.n_elements)
    inputs = packed.arrange(features)
    with torch.no_grad():
        plain = networks.without_offset()
        outputs, sigmoids = forward(plain, packed, inputs)
        found = vjp(plain, packed, inputs, sigmoids, packed.arrange_values(grad_outputs))
        return packed.restore(outputs, len(species)), networks.gradient_from_without_offset(found)


@pytest.mark.parametrize(("hidden", "activation", "shape"), CASES)
class TestWrittenOutGradient:
    def test_against_autograd(self, hidden: tuple[int, ...], activation: int, shape: tuple[int, int]) -> None:
        """A plain call of the same networks gives the same, for any derivatives with respect to the outputs."""
        networks, flat = random_networks((6, *hidden, 1), shape, activation)
        species, features, grad_outputs = random_atoms(shape[1], 6, shape[0])
        layout = ElementLayout.of(species, shape[1])
        expected = layout.restore(networks(layout.arrange(features)))[..., 0]
        (slope,) = torch.autograd.grad((expected * grad_outputs).sum(), flat)
        outputs, found = through_packs(networks, species, features, grad_outputs)
        torch.testing.assert_close(outputs, expected.detach(), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(found, slope, rtol=1e-12, atol=1e-13)
        assert found.shape == (shape[0], networks.n_parameters)

    def test_against_central_differences(
        self, hidden: tuple[int, ...], activation: int, shape: tuple[int, int]
    ) -> None:
        """Differences in every parameter of the last member, which know nothing of autograd, give the same."""
        networks, flat = random_networks((3, *hidden, 1), shape, activation)
        species, features, grad_outputs = random_atoms(shape[1], 3, shape[0])
        point = flat.detach()

        def value(moved: Tensor) -> float:
            outputs, _ = through_packs(networks.with_flat(moved), species, features, grad_outputs)
            return float((outputs * grad_outputs)[-1].sum())

        gradient = through_packs(networks, species, features, grad_outputs)[1][-1]
        step, slopes = 1e-5, []
        for k in range(point.shape[1]):
            up, down = point.clone(), point.clone()
            up[-1, k] += step
            down[-1, k] -= step
            slopes.append((value(up) - value(down)) / (2 * step))
        np.testing.assert_allclose(gradient, slopes, rtol=1e-7, atol=2e-7)


@pytest.mark.parametrize("n_elements", [1, 2, 3])
class TestPackedAtoms:
    def test_every_atom_stands_in_a_run_of_its_element(self, n_elements: int) -> None:
        species, features, _ = random_atoms(n_elements, 4, 1)
        packed = PackedAtoms.of(species, n_elements)
        assert torch.equal(torch.bincount(packed.element, minlength=n_elements), packed.packs_of_element)
        inputs = packed.arrange(features)
        assert inputs.shape == (packed.n_packs, 5, packed.length)
        for element in range(n_elements):
            own = inputs[packed.element == element].transpose(1, 2).flatten(0, 1)
            own = own[own[:, 4] == 1]
            assert torch.equal(own[:, :4], features[species == element])
        assert int((inputs[:, 4] == 1).sum()) == N_ATOMS
        assert not bool(inputs.transpose(1, 2)[inputs[:, 4] == 0].any())

    def test_values_come_back_to_their_atoms(self, n_elements: int) -> None:
        species, _, values = random_atoms(n_elements, 1, 3)
        packed = PackedAtoms.of(species, n_elements)
        arranged = packed.arrange_values(values)
        assert arranged.shape == (packed.n_packs, 3, packed.length)
        assert torch.equal(packed.restore(arranged, N_ATOMS), values)
        torch.testing.assert_close(arranged.sum(), values.sum(), rtol=1e-13, atol=1e-13)

    def test_packed_are_no_longer_than_they_need_be(self, n_elements: int) -> None:
        species, _, _ = random_atoms(n_elements, 1, 1)
        packed = PackedAtoms.of(species, n_elements)
        largest = int(torch.bincount(species).max())
        assert 8 <= packed.length <= 16
        assert int(packed.packs_of_element.max()) * packed.length < largest + 8 * int(packed.packs_of_element.max())


def test_an_element_without_atoms_has_no_run_and_no_gradient() -> None:
    networks, _ = random_networks((3, 4, 1), (2, 3), 1)
    species = torch.tensor([2, 0, 2, 2])
    assert PackedAtoms.of(species, 3).packs_of_element.tolist() == [1, 0, 1]
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 3, dtype=torch.float64, generator=generator)
    _, gradient = through_packs(networks, species, features, torch.ones(2, 4, dtype=torch.float64))
    by_element = gradient.unflatten(1, (3, -1))
    assert not bool(by_element[:, 1].any())
    assert bool((by_element[:, [0, 2]] != 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_row_of_ones_is_exactly_one(dtype: torch.dtype) -> None:
    networks, _ = random_networks((3, 4, 5, 1), (1, 1), 0)
    packed = PackedAtoms.of(torch.zeros(9, dtype=torch.int64), 1)
    inputs = packed.arrange(torch.randn(9, 3, dtype=dtype, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        _, sigmoids = forward(networks.to("cpu", dtype), packed, inputs)
    for sigmoid in sigmoids:
        assert bool((sigmoid[:, -1].flatten()[:9] == 1).all())
