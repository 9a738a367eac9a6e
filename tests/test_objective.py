"""The loss and its penalty against plain NumPy, gradients against differences, and what must not leak into them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pair_sum
import pytest
import torch
from sample_sets import NAN, make_potential, make_set
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.networks import ElementNetworks
from pyfit_gpu.objective import Objective, l2_penalty
from pyfit_gpu.potential import predict_energies
from pyfit_gpu.training_set import TrainingSet

ELEMENTS = [("Si",), ("Si", "C"), ("Si", "C", "Ge")]


def layers_of(networks: ElementNetworks, member: int, element: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (n_out, n_in) and biases, as the tests' own evaluation of a network takes them."""
    return [
        (weight[member, element].detach().numpy().T, bias[member, element].detach().numpy())
        for weight, bias in zip(networks.weights, networks.biases, strict=True)
    ]


def expected_energies(networks: ElementNetworks, training_set: TrainingSet, member: int = 0) -> np.ndarray:
    """(B,) eV, atom by atom."""
    layers = [layers_of(networks, member, element) for element in range(networks.n_elements)]
    energies, atom = [], 0
    for size in training_set.sizes.tolist():
        total = 0.0
        for _ in range(size):
            element = int(training_set.species[atom])
            features = training_set.features[atom].numpy()
            total += pair_sum.network(features, layers[element], networks.activation)[0]
            atom += 1
        energies.append(total)
    return np.array(energies)


def expected_loss(networks: ElementNetworks, training_set: TrainingSet, member: int = 0) -> float:
    """sqrt( sum_s w_s ((E_nn,s - E_used,s) / n_s)^2 / sum_s w_s ), with all w = 1 that of the classic program."""
    sizes = training_set.sizes.numpy()
    used, atom = [], 0
    for energy, size in zip(training_set.energy.tolist(), sizes.tolist(), strict=True):
        shift = training_set.energy_shift or (0.0,) * networks.n_elements
        used.append(energy + sum(shift[kind] for kind in training_set.species[atom : atom + size].tolist()))
        atom += size
    error = (expected_energies(networks, training_set, member) - np.array(used)) / sizes
    weight = training_set.weight.numpy()
    return float(np.sqrt((weight * error**2).sum() / weight.sum()))


def random_networks(training_set: TrainingSet, *, n_members: int = 1, activation: int = 1, seed: int = 5) -> tuple:
    """Networks and the flat tensor (K, n_parameters) that they are views of."""
    elements = training_set.descriptor.elements
    start = make_potential(elements, activation=activation).networks
    flat = torch.from_numpy(np.random.default_rng(seed).normal(size=(n_members, start.n_parameters)))
    return networks_of(flat, start), flat


def networks_of(flat: Tensor, like: ElementNetworks) -> ElementNetworks:
    return ElementNetworks.from_flat(flat, like.layer_sizes, n_elements=like.n_elements, activation=like.activation)


class TestLoss:
    @pytest.mark.parametrize("elements", ELEMENTS, ids="-".join)
    @pytest.mark.parametrize("activation", [0, 1])
    @pytest.mark.parametrize("weight", [None, (1.0, 0.0, 2.5, 0.3, 7.0, 1.0)], ids=["alike", "weighted"])
    def test_against_numpy(self, elements: tuple[str, ...], activation: int, weight: tuple[float, ...] | None) -> None:
        shift = (1.5, -0.5, 0.25)[: len(elements)]
        training_set = make_set([3, 1, 4, 2, 5, 1], elements, weight=weight, energy_shift=shift)
        networks, _ = random_networks(training_set, activation=activation)
        objective = Objective(training_set)
        assert float(objective.loss(networks)) == pytest.approx(expected_loss(networks, training_set), rel=1e-13)
        energies = expected_energies(networks, training_set) / training_set.sizes.numpy()
        np.testing.assert_allclose(objective.energies_per_atom(networks)[0], energies, rtol=1e-12, atol=1e-13)

    def test_weights_are_relative(self) -> None:
        training_set = make_set()
        networks, _ = random_networks(training_set)
        loss = Objective(training_set).loss(networks)
        for factor in (1e-3, 4.0):
            scaled = replace(training_set, weight=training_set.weight * factor)
            torch.testing.assert_close(Objective(scaled).loss(networks), loss, rtol=1e-14, atol=0)

    def test_a_weight_counts_like_copies(self) -> None:
        training_set = make_set([2, 1, 3], weight=[1.0, 3.0, 0.0])
        copies = replace(training_set, weight=torch.ones(3, dtype=torch.float64)).select([0, 1, 1, 1])
        networks, _ = random_networks(training_set)
        expected = Objective(copies).loss(networks)
        torch.testing.assert_close(Objective(training_set).loss(networks), expected, rtol=1e-13, atol=0)

    def test_members_are_evaluated_apart(self) -> None:
        training_set = make_set([3, 1, 4, 2], ("Si", "C"))
        networks, _ = random_networks(training_set, n_members=3)
        losses = Objective(training_set).loss(networks)
        assert losses.shape == (3,)
        expected = [expected_loss(networks, training_set, member) for member in range(3)]
        np.testing.assert_allclose(losses, expected, rtol=1e-13)

    def test_single_precision(self) -> None:
        training_set = make_set([3, 1, 4, 2], ("Si", "C"))
        networks, _ = random_networks(training_set)
        single = Objective(training_set.to("cpu", torch.float32)).loss(networks.to("cpu", torch.float32))
        assert single.dtype == torch.float32
        assert float(single) == pytest.approx(expected_loss(networks, training_set), rel=1e-5)

    def test_a_large_shift_costs_no_digits(self) -> None:
        """E_file and the shift are large and nearly cancel: E_used / n must have float32's accuracy all the same."""
        sizes = [64, 200, 216]
        energy = [n * (-107.3 - 0.001 * k) for k, n in enumerate(sizes)]
        training_set = make_set(sizes, energy=energy, energy_shift=(107.0,))
        target = Objective(training_set.to("cpu", torch.float32)).target
        np.testing.assert_allclose(target, [-0.3, -0.301, -0.302], rtol=5e-7)

    @pytest.mark.parametrize("bad", [NAN, float("inf")])
    def test_not_a_number_is_no_perfect_fit(self, bad: float) -> None:
        """Weights that are lost give a loss that says so, never 0."""
        training_set = make_set()
        networks, flat = random_networks(training_set)
        flat[0, -1] = bad  # the bias of the output: every energy is NaN or infinite
        assert not torch.isfinite(Objective(training_set).loss(networks)).any()
        flat[0, 0] = NAN
        assert not torch.isfinite(Objective(training_set).loss(networks)).any()


class TestExactFit:
    def test_loss_and_gradient_are_zero(self) -> None:
        """The square root has no derivative at 0: the gradient there is 0, not NaN."""
        training_set = make_set([2, 1, 3], energy=[0.0, 0.0, 0.0])
        networks, flat = random_networks(training_set)
        flat.zero_()
        flat.requires_grad_(True)
        loss = Objective(training_set).loss(networks_of(flat, networks))
        (gradient,) = torch.autograd.grad(loss.sum(), flat)
        assert loss.item() == 0.0
        assert torch.equal(gradient, torch.zeros_like(flat))

    def test_energies_of_the_networks_themselves(self) -> None:
        training_set = make_set([2, 1, 3], ("Si", "C"))
        potential = make_potential(("Si", "C"))
        energy = predict_energies(potential, training_set.features, training_set.species, training_set.sizes)[0]
        fitted = Objective(replace(training_set, energy=energy))
        flat = potential.networks.flat().requires_grad_(True)
        loss = fitted.loss(networks_of(flat, potential.networks))
        (gradient,) = torch.autograd.grad(loss.sum(), flat)
        assert loss.item() < 1e-15
        assert torch.isfinite(gradient).all()

    def test_one_member_of_several(self) -> None:
        """An exact fit beside another member disturbs neither."""
        training_set = make_set([2, 1, 3], energy=[0.0, 0.0, 0.0])
        networks, flat = random_networks(training_set, n_members=2)
        flat[0] = 0.0
        flat.requires_grad_(True)
        loss = Objective(training_set).loss(networks_of(flat, networks))
        (gradient,) = torch.autograd.grad(loss.sum(), flat)
        assert loss[0].item() == 0.0
        assert torch.equal(gradient[0], torch.zeros_like(gradient[0]))
        assert torch.isfinite(gradient).all()
        assert bool(gradient[1].abs().max() > 0)


class TestGradient:
    @pytest.mark.parametrize("elements", ELEMENTS[:2], ids="-".join)
    @pytest.mark.parametrize("l2", [0.0, 0.01])
    def test_against_central_differences(self, elements: tuple[str, ...], l2: float) -> None:
        """By the NumPy loss, so that an error in the forward pass cannot hide in both."""
        training_set = make_set([3, 1, 4, 2], elements, weight=[1.0, 2.0, 0.5, 1.0])
        networks, flat = random_networks(training_set)
        objective = Objective(training_set)
        leaf = flat.clone().requires_grad_(True)
        made = networks_of(leaf, networks)
        (gradient,) = torch.autograd.grad((objective.loss(made) + l2 * l2_penalty(made)).sum(), leaf)

        def value(moved: Tensor) -> float:
            made = networks_of(moved, networks)
            return expected_loss(made, training_set) + l2 * expected_penalty(made)

        step = 1e-5
        for k in range(0, flat.shape[1], 3):
            moved = [flat.clone(), flat.clone()]
            moved[0][0, k] += step
            moved[1][0, k] -= step
            difference = (value(moved[0]) - value(moved[1])) / (2 * step)
            assert float(gradient[0, k]) == pytest.approx(difference, rel=1e-6, abs=1e-9), k

    def test_gradcheck(self) -> None:
        training_set = make_set([3, 1, 2], ("Si", "C"))
        networks, flat = random_networks(training_set, n_members=2)
        objective = Objective(training_set)

        def optimised(flat: Tensor) -> Tensor:
            made = networks_of(flat, networks)
            return objective.loss(made) + 0.01 * l2_penalty(made)

        assert torch.autograd.gradcheck(optimised, (flat.requires_grad_(True),))


def expected_penalty(networks: ElementNetworks, member: int = 0) -> float:
    """The sum of the Euclidean norms, not squared, of every weight matrix and every bias vector of every element."""
    tensors = [
        tensor
        for element in range(networks.n_elements)
        for layer in layers_of(networks, member, element)
        for tensor in layer
    ]
    assert len(tensors) == 2 * networks.n_elements * len(networks.weights)
    return sum(float(np.sqrt((tensor**2).sum())) for tensor in tensors)


class TestPenalty:
    @pytest.mark.parametrize("elements", ELEMENTS, ids="-".join)
    def test_against_numpy(self, elements: tuple[str, ...]) -> None:
        networks, _ = random_networks(make_set(elements=elements), n_members=2)
        penalty = l2_penalty(networks)
        assert penalty.shape == (2,)
        np.testing.assert_allclose(penalty, [expected_penalty(networks, k) for k in range(2)], rtol=1e-14)

    def test_written_out(self) -> None:
        """Two inputs, one hidden, one output: |(3, 4)| + |-2| + |5| + |0| = 12."""
        flat = torch.tensor([[3.0, 4.0, -2.0, 5.0, 0.0]], dtype=torch.float64)
        networks = ElementNetworks.from_flat(flat, (2, 1, 1), n_elements=1, activation=1)
        assert l2_penalty(networks).tolist() == [12.0]

    def test_zero_vectors_have_a_finite_gradient(self) -> None:
        """Biases often start at zero, where a norm has no derivative."""
        networks, flat = random_networks(make_set())
        for bias in networks.biases:
            bias.zero_()
        leaf = flat.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(l2_penalty(networks_of(leaf, networks)).sum(), leaf)
        assert torch.isfinite(gradient).all()
        made = networks_of(gradient, networks)
        assert all(torch.equal(bias, torch.zeros_like(bias)) for bias in made.biases)
        for weight, of_weight in zip(networks.weights, made.weights, strict=True):
            torch.testing.assert_close(of_weight, weight / torch.linalg.vector_norm(weight))


class TestNoLeaks:
    def test_an_element_without_atoms(self) -> None:
        """Its network, evaluated on nothing but padding, decides nothing, whatever its weights are."""
        training_set = make_set([3, 1, 2], ("Si", "C"))
        only_silicon = replace(training_set, species=torch.zeros_like(training_set.species))
        networks, flat = random_networks(training_set)
        half = flat.shape[1] // 2
        results = []
        for value in (0.0, 1e6):
            moved = flat.clone()
            moved[0, half:] = value
            moved.requires_grad_(True)
            loss = Objective(only_silicon).loss(networks_of(moved, networks))
            (gradient,) = torch.autograd.grad(loss.sum(), moved)
            assert torch.equal(gradient[0, half:], torch.zeros(half, dtype=torch.float64))
            results.append((loss.item(), gradient[0, :half].tolist()))
        assert results[0] == results[1]

    def test_an_atom_counts_in_its_own_structure_only(self) -> None:
        """Unequal numbers of atoms per element need padding: moving one atom's inputs moves one energy."""
        training_set = make_set([3, 1, 4, 2], ("Si", "C"), seed=2)
        assert torch.bincount(training_set.species).unique().numel() == 2
        networks, _ = random_networks(training_set)
        before = Objective(training_set).energies_per_atom(networks)[0]
        for atom in range(training_set.n_atoms):
            features = training_set.features.clone()
            features[atom] += 1.0
            after = Objective(replace(training_set, features=features)).energies_per_atom(networks)[0]
            owner = int(torch.repeat_interleave(training_set.sizes)[atom])
            assert (after != before).nonzero().flatten().tolist() == [owner]

    def test_the_other_elements_network_does_not_see_an_atom(self) -> None:
        training_set = make_set([3, 1, 4, 2], ("Si", "C"))
        training_set = replace(training_set, species=torch.tensor([0, 1, 0, 0, 1, 0, 1, 1, 0, 0]))
        networks, flat = random_networks(training_set)
        moved = flat.clone()
        moved[0, flat.shape[1] // 2 :] += 1.0  # carbon's
        before = Objective(training_set).energies_per_atom(networks)[0]
        after = Objective(training_set).energies_per_atom(networks_of(moved, networks))[0]
        has_carbon = training_set.count_species(1) > 0
        assert has_carbon.tolist() == [True, False, True, False]
        assert torch.equal(after != before, has_carbon)


class TestRefusals:
    def test_unknown_energy(self) -> None:
        with pytest.raises(InputError, match="all have an energy"):
            Objective(make_set([1, 2], energy=[-1.0, NAN]))

    def test_no_structure(self) -> None:
        with pytest.raises(InputError, match="all have an energy"):
            Objective(make_set().select([]))

    def test_no_weight(self) -> None:
        with pytest.raises(InputError, match="a weight above 0"):
            Objective(make_set([1, 2], weight=[0.0, 0.0]))
