"""Stacked networks against a loop over atoms, their gradients, the order of the .nn.dat file, the layout by element."""

from __future__ import annotations

import itertools

import numpy as np
import pair_sum
import pytest
import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.models.networks import ElementLayout, ElementNetworks, count_parameters

SIZES = (5, 4, 3, 2)


def random_networks(
    n_members: int, n_elements: int, activation: int = 1, sizes: tuple[int, ...] = SIZES, seed: int = 0
) -> tuple[ElementNetworks, np.ndarray]:
    """Networks and the flat numbers (K, n_parameters) they are made of."""
    rng = np.random.default_rng(seed)
    flat = rng.normal(size=(n_members, n_elements * count_parameters(sizes)))
    made = ElementNetworks.from_flat(torch.tensor(flat), sizes, n_elements=n_elements, activation=activation)
    return made, flat


def layers_of(flat: np.ndarray, sizes: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (n_out, n_in) and biases of one network from its numbers in file order, one at a time."""
    numbers = iter(flat.tolist())
    layers = []
    for n_in, n_out in itertools.pairwise(sizes):
        weight = np.empty((n_out, n_in))
        for leaving in range(n_in):
            for arriving in range(n_out):
                weight[arriving, leaving] = next(numbers)
        layers.append((weight, np.array([next(numbers) for _ in range(n_out)])))
    assert next(numbers, None) is None
    return layers


@pytest.mark.parametrize("activation", [0, 1, 2])
@pytest.mark.parametrize(("n_members", "n_elements"), [(1, 1), (3, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("sizes", [SIZES, (5, 1)], ids=str)
def test_against_one_atom_at_a_time(n_members: int, n_elements: int, activation: int, sizes: tuple[int, ...]) -> None:
    networks, flat = random_networks(n_members, n_elements, activation, sizes)
    inputs = np.random.default_rng(1).normal(size=(n_elements, 6, sizes[0]))
    outputs = networks(torch.tensor(inputs))
    assert outputs.shape == (n_members, n_elements, 6, sizes[-1])
    by_element = flat.reshape(n_members, n_elements, -1)
    for member, element, atom in np.ndindex(n_members, n_elements, 6):
        expected = pair_sum.network(inputs[element, atom], layers_of(by_element[member, element], sizes), activation)
        np.testing.assert_allclose(outputs[member, element, atom], expected, rtol=1e-13, atol=1e-13)


def test_activation_functions() -> None:
    """One hidden neuron, weights 1 and biases 0: the output is the activation function. (1 is tanh(x / 2) / 2.)"""
    for activation, function in ((0, lambda x: 1 / (1 + np.exp(-x))), (1, lambda x: np.tanh(x / 2) / 2), (2, np.tanh)):
        flat = torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=torch.float64)  # one input, one hidden, one output
        networks = ElementNetworks.from_flat(flat, (1, 1, 1), n_elements=1, activation=activation)
        x = np.linspace(-30, 30, 61)
        found = networks(torch.tensor(x)[None, :, None])[0, 0, :, 0]
        np.testing.assert_allclose(found, function(x), rtol=1e-14, atol=1e-15)


def test_output_layer_is_linear() -> None:
    networks, _ = random_networks(1, 1, sizes=(3, 1))
    inputs = torch.randn(1, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    zero = networks(torch.zeros_like(inputs))
    torch.testing.assert_close(networks(50 * inputs) - zero, 50 * (networks(inputs) - zero))


def test_members_and_batch_size_do_not_matter() -> None:
    """A member of several equals the member alone, an atom in a batch the atom alone, to rounding."""
    networks, flat = random_networks(4, 2)
    inputs = torch.randn(2, 9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = networks(inputs)
    for member in range(4):
        alone = ElementNetworks.from_flat(torch.tensor(flat[member : member + 1]), SIZES, n_elements=2, activation=1)
        torch.testing.assert_close(alone(inputs)[0], together[member], rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(networks(inputs[:, 3:4]), together[:, :, 3:4], rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("n_members", "n_elements"), [(1, 1), (3, 2)])
def test_flat_is_the_inverse_of_from_flat(n_members: int, n_elements: int) -> None:
    networks, flat = random_networks(n_members, n_elements)
    np.testing.assert_array_equal(networks.flat(), flat)
    assert networks.n_members == n_members
    assert networks.n_elements == n_elements
    assert networks.layer_sizes == SIZES
    assert networks.n_parameters == flat.shape[1]


def test_from_flat_gives_views_and_flat_a_copy() -> None:
    """The optimiser moves one vector, and the networks follow."""
    flat = torch.zeros(1, count_parameters(SIZES), dtype=torch.float64)
    networks = ElementNetworks.from_flat(flat, SIZES, n_elements=1, activation=0)
    copy = networks.flat()
    flat += 1
    assert all(tensor.eq(1).all() for tensor in (*networks.weights, *networks.biases))
    assert copy.eq(0).all()


def test_gradients_reach_the_flat_vector() -> None:
    flat = torch.tensor(random_networks(2, 2)[1], requires_grad=True)
    inputs = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def outputs(flat: Tensor) -> Tensor:
        return ElementNetworks.from_flat(flat, SIZES, n_elements=2, activation=1)(inputs)

    assert torch.autograd.gradcheck(outputs, (flat,))


ONE_OUTPUT = [(5, 4, 3, 1), (5, 6, 1), (5, 1)]


@pytest.mark.parametrize("activation", [0, 1, 2])
@pytest.mark.parametrize(("n_members", "n_elements"), [(1, 1), (3, 2)])
@pytest.mark.parametrize("sizes", ONE_OUTPUT, ids=str)
def test_gradient_by_the_inputs(n_members: int, n_elements: int, activation: int, sizes: tuple[int, ...]) -> None:
    """Against autograd of a call, values and, for training on forces, derivatives by the weights."""
    _, flat = random_networks(n_members, n_elements, activation, sizes)
    numbers = torch.tensor(flat, requires_grad=True)
    networks = ElementNetworks.from_flat(numbers, sizes, n_elements=n_elements, activation=activation)
    rng = np.random.default_rng(2)
    inputs = torch.tensor(rng.normal(size=(n_elements, 6, 5)))
    output, gradient = networks.with_gradient(inputs)
    assert output.shape == (n_members, n_elements, 6)
    assert gradient.shape == (n_members, n_elements, 6, 5)

    # One member at a time: all members share the inputs, and autograd would sum over them.
    each = inputs.clone().requires_grad_()
    called = networks(each)[..., 0]
    torch.testing.assert_close(output, called, rtol=1e-14, atol=1e-14)
    by_member = [torch.autograd.grad(called[k].sum(), each, create_graph=True)[0] for k in range(n_members)]
    expected = torch.stack(by_member)
    torch.testing.assert_close(gradient, expected, rtol=1e-13, atol=1e-14)

    for_output, for_gradient = (torch.tensor(rng.normal(size=tuple(t.shape))) for t in (output, gradient))
    found = torch.autograd.grad((output * for_output).sum() + (gradient * for_gradient).sum(), numbers)[0]
    value = (called * for_output).sum() + (expected * for_gradient).sum()
    torch.testing.assert_close(found, torch.autograd.grad(value, numbers)[0], rtol=1e-12, atol=1e-13)


def test_gradient_keeps_dtype_and_device() -> None:
    """Tensors on the meta device refuse to meet any of the host."""
    networks = random_networks(2, 2, sizes=(5, 4, 1))[0].to("meta", torch.float32)
    for tensor in networks.with_gradient(torch.empty(2, 6, 5, device="meta")):
        assert (tensor.dtype, tensor.device.type) == (torch.float32, "meta")


def test_random_weights() -> None:
    def draw(seed: int | None, max_random: float = 0.3) -> Tensor:
        return ElementNetworks.random((20, 30, 1), max_random, seed, n_elements=2, activation=0).flat()

    values = draw(1)
    assert values.shape == (1, 2 * count_parameters((20, 30, 1)))
    assert values.abs().max() <= 0.3
    assert values.min() < -0.29
    assert values.max() > 0.29
    assert abs(values.mean()) < 0.03
    assert torch.equal(values, draw(1))
    assert not torch.equal(values, draw(2))
    assert not torch.equal(draw(None), draw(None))
    assert draw(1, 0.0).eq(0).all()


@pytest.mark.parametrize("activation", [3, -1])
def test_unknown_activation(activation: int) -> None:
    with pytest.raises(InputError, match=rf"activation: expected one of \(0: .*1: .*got {activation}"):
        random_networks(1, 1, activation)


def test_dtype_and_device_follow_the_weights() -> None:
    networks, _ = random_networks(2, 3)
    meta = networks.to("meta", torch.float32)
    assert {tensor.device.type for tensor in (*meta.weights, *meta.biases)} == {"meta"}
    outputs = meta(torch.empty(3, 7, 5, device="meta"))  # would fail if anything were made on the host
    assert outputs.device.type == "meta"
    assert outputs.dtype == torch.float32
    assert outputs.shape == (2, 3, 7, 2)


@pytest.mark.parametrize("species", [[0, 0, 0], [2, 0, 1, 0, 2, 2, 0], [1, 1, 1, 1], [2]], ids=str)
def test_layout_by_element(species: list[int]) -> None:
    """Every atom stands in its element's row, once, and comes back to its place."""
    kinds = torch.tensor(species)
    layout = ElementLayout.of(kinds, 3)
    values = torch.arange(1.0, 2 * len(species) + 1).view(-1, 2)
    arranged = layout.arrange(values)
    assert arranged.shape == (3, max(np.bincount(species)), 2)
    for element in range(3):
        expected = values[kinds == element]
        assert torch.equal(arranged[element, : len(expected)], expected)
    restored = layout.restore(torch.stack([arranged, -arranged]))
    assert torch.equal(restored, torch.stack([values, -values]))


def test_layout_of_one_element_moves_nothing() -> None:
    layout = ElementLayout.of(torch.zeros(4, dtype=torch.int64), 1)
    values = torch.arange(8.0).view(4, 2)
    assert torch.equal(layout.arrange(values), values[None])
    assert torch.equal(layout.restore(values[None, None]), values[None])
