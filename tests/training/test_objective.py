"""The loss and its penalty against plain NumPy, gradients against differences, and what must not leak into them."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pair_sum
import pytest
import torch
from objective_values import energies_of, errors_of, loss_of
from sample_sets import NAN, make_potential, make_set
from torch import Tensor

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.feature_rows import FeatureRows
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.training_set.reader import save_training_set
from pyfit_gpu.models.energy import network_outputs
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.sums import sum_over_atoms
from pyfit_gpu.training.loss import LossWeights, l2_penalty
from pyfit_gpu.training.objective import Evaluation, Objective

MakeFrames = Callable[..., list[Frame]]

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


def networks_of(flat: Tensor, template: ElementNetworks) -> ElementNetworks:
    return ElementNetworks.from_flat(
        flat, template.layer_sizes, n_elements=template.n_elements, activation=template.activation
    )


class TestLoss:
    @pytest.mark.parametrize("elements", ELEMENTS, ids="-".join)
    @pytest.mark.parametrize("activation", [0, 1, 2])
    @pytest.mark.parametrize("weight", [None, (1.0, 0.0, 2.5, 0.3, 7.0, 1.0)], ids=["alike", "weighted"])
    def test_against_numpy(self, elements: tuple[str, ...], activation: int, weight: tuple[float, ...] | None) -> None:
        shift = (1.5, -0.5, 0.25)[: len(elements)]
        training_set = make_set([3, 1, 4, 2, 5, 1], elements, weight=weight, energy_shift=shift)
        networks, _ = random_networks(training_set, activation=activation)
        objective = Objective(training_set)
        assert float(loss_of(objective, networks)) == pytest.approx(expected_loss(networks, training_set), rel=1e-13)
        energies = expected_energies(networks, training_set) / training_set.sizes.numpy()
        np.testing.assert_allclose(energies_of(objective, networks)[0], energies, rtol=1e-12, atol=1e-13)

    def test_weights_are_relative(self) -> None:
        training_set = make_set()
        networks, _ = random_networks(training_set)
        loss = loss_of(Objective(training_set), networks)
        for factor in (1e-3, 4.0):
            scaled = replace(training_set, weight=training_set.weight * factor)
            torch.testing.assert_close(loss_of(Objective(scaled), networks), loss, rtol=1e-14, atol=0)

    def test_a_weight_counts_like_copies(self) -> None:
        training_set = make_set([2, 1, 3], weight=[1.0, 3.0, 0.0])
        copies = replace(training_set, weight=torch.ones(3, dtype=torch.float64)).select([0, 1, 1, 1])
        networks, _ = random_networks(training_set)
        expected = loss_of(Objective(copies), networks)
        torch.testing.assert_close(loss_of(Objective(training_set), networks), expected, rtol=1e-13, atol=0)

    def test_members_are_evaluated_apart(self) -> None:
        training_set = make_set([3, 1, 4, 2], ("Si", "C"))
        networks, _ = random_networks(training_set, n_members=3)
        losses = loss_of(Objective(training_set), networks)
        assert losses.shape == (3,)
        expected = [expected_loss(networks, training_set, member) for member in range(3)]
        np.testing.assert_allclose(losses, expected, rtol=1e-13)

    def test_single_precision(self) -> None:
        training_set = make_set([3, 1, 4, 2], ("Si", "C"))
        networks, _ = random_networks(training_set)
        single = loss_of(Objective(training_set.to("cpu", torch.float32)), networks.to("cpu", torch.float32))
        expected = expected_loss(networks, training_set)
        assert single.dtype == torch.float64  # of energies that were computed in float32
        assert float(single) == pytest.approx(expected, rel=1e-5)
        assert float(single) != pytest.approx(expected, rel=1e-10)

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
        assert not torch.isfinite(loss_of(Objective(training_set), networks)).any()
        flat[0, 0] = NAN
        assert not torch.isfinite(loss_of(Objective(training_set), networks)).any()


class TestExactFit:
    def test_loss_and_gradient_are_zero(self) -> None:
        """The square root has no derivative at 0: the gradient there is 0, not NaN."""
        training_set = make_set([2, 1, 3], energy=[0.0, 0.0, 0.0])
        networks, flat = random_networks(training_set)
        flat.zero_()
        flat.requires_grad_(True)
        loss = loss_of(Objective(training_set), networks_of(flat, networks))
        (gradient,) = torch.autograd.grad(loss.sum(), flat)
        assert loss.item() == 0.0
        assert torch.equal(gradient, torch.zeros_like(flat))

    def test_energies_of_the_networks_themselves(self) -> None:
        training_set = make_set([2, 1, 3], ("Si", "C"))
        potential = make_potential(("Si", "C"))
        outputs = network_outputs(potential, training_set.features, training_set.species)[..., 0]
        energy = sum_over_atoms(outputs, training_set.sizes)[0]
        fitted = Objective(replace(training_set, energy=energy))
        flat = potential.networks.flat().requires_grad_(True)
        loss = loss_of(fitted, networks_of(flat, potential.networks))
        (gradient,) = torch.autograd.grad(loss.sum(), flat)
        assert loss.item() < 1e-15
        assert torch.isfinite(gradient).all()

    def test_one_member_of_several(self) -> None:
        """An exact fit beside another member disturbs neither."""
        training_set = make_set([2, 1, 3], energy=[0.0, 0.0, 0.0])
        networks, flat = random_networks(training_set, n_members=2)
        flat[0] = 0.0
        flat.requires_grad_(True)
        loss = loss_of(Objective(training_set), networks_of(flat, networks))
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
        (gradient,) = torch.autograd.grad((loss_of(objective, made) + l2 * l2_penalty(made)).sum(), leaf)

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
            return loss_of(objective, made) + 0.01 * l2_penalty(made)

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
            loss = loss_of(Objective(only_silicon), networks_of(moved, networks))
            (gradient,) = torch.autograd.grad(loss.sum(), moved)
            assert torch.equal(gradient[0, half:], torch.zeros(half, dtype=torch.float64))
            results.append((loss.item(), gradient[0, :half].tolist()))
        assert results[0] == results[1]

    def test_an_atom_counts_in_its_own_structure_only(self) -> None:
        """Unequal numbers of atoms per element need padding: moving one atom's inputs moves one energy."""
        training_set = make_set([3, 1, 4, 2], ("Si", "C"), seed=2)
        assert torch.bincount(training_set.species).unique().numel() == 2
        networks, _ = random_networks(training_set)
        before = energies_of(Objective(training_set), networks)[0]
        for atom in range(training_set.n_atoms):
            features = training_set.features.clone()
            features[atom] += 1.0
            after = energies_of(Objective(replace(training_set, features=features)), networks)[0]
            owner = int(torch.repeat_interleave(training_set.sizes)[atom])
            assert (after != before).nonzero().flatten().tolist() == [owner]

    def test_the_other_elements_network_does_not_see_an_atom(self) -> None:
        training_set = make_set([3, 1, 4, 2], ("Si", "C"))
        training_set = replace(training_set, species=torch.tensor([0, 1, 0, 0, 1, 0, 1, 1, 0, 0]))
        networks, flat = random_networks(training_set)
        moved = flat.clone()
        moved[0, flat.shape[1] // 2 :] += 1.0  # carbon's
        before = energies_of(Objective(training_set), networks)[0]
        after = energies_of(Objective(training_set), networks_of(moved, networks))[0]
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


# ---------------------------------------------------------------------------------------------------------------------
# forces and stress

SHIFT = {"Si": 1.5, "C": -0.5}  # eV per atom
WEIGHTS: dict[str, LossWeights] = {
    "forces": {"forces": 0.3},  # Å^2
    "stress": {"stress": 0.7},
    "both": {"forces": 0.3, "stress": 0.7},
}


@dataclass(frozen=True)
class Expected:
    """Expected values of one member, by the formulas, structure by structure."""

    loss: float
    energy: float
    forces: float
    stress: float


def expected_errors(frames: Sequence[Frame], networks: ElementNetworks, weights: LossWeights) -> list[Expected]:
    """Loss and errors of every member. What a frame does not know is left out of the sums, and so is its stress where
    it has no full cell.
    """
    found = []
    structures = Structures.from_frames(frames)
    flat = networks.flat().detach()
    for member in range(len(flat)):
        elements = ("Si", "C")[: networks.n_elements]
        potential = replace(make_potential(elements), networks=networks_of(flat[member : member + 1], networks))
        predicted = predict(potential, structures)
        energies, stress = predicted.energy.numpy(), predicted.stress.numpy()
        forces = np.split(predicted.forces.numpy(), np.cumsum(structures.sizes)[:-1])
        square = dict.fromkeys(("energy", "forces", "virial", "stress"), 0.0)
        norm = dict.fromkeys(("energy", "forces", "stress"), 0.0)
        for row, frame in enumerate(frames):
            w, n, volume = frame.weight, frame.n_atoms, abs(np.linalg.det(frame.cell))
            shift = sum(SHIFT["C" if number == 6 else "Si"] for number in frame.atomic_numbers)
            square["energy"] += w * ((energies[row] - frame.energy - shift) / n) ** 2
            norm["energy"] += w
            if frame.forces is not None:
                for found_force, force in zip(forces[row], frame.forces, strict=True):
                    square["forces"] += w * ((found_force - force) ** 2).sum()
                norm["forces"] += 3 * w * n
            if frame.stress is not None and volume > 0:
                error = stress[row] - frame.stress
                square["virial"] += w * ((volume / n * error) ** 2).sum()
                square["stress"] += w * (error**2).sum()
                norm["stress"] += 6 * w
        e2 = square["energy"] / norm["energy"]
        f2 = square["forces"] / norm["forces"] if norm["forces"] else 0.0
        v2 = square["virial"] / norm["stress"] if norm["stress"] else 0.0
        s2 = square["stress"] / norm["stress"] if norm["stress"] else 0.0
        loss = np.sqrt(e2 + weights.get("forces", 0.0) * f2 + weights.get("stress", 0.0) * v2)
        found.append(Expected(float(loss), *map(float, np.sqrt((e2, f2, s2)))))
    return found


def incomplete(frames: Sequence[Frame]) -> list[Frame]:
    """Unequal weights, one of them 0; forces and stress missing on different structures."""
    weight = (1.0, 0.5, 2.0, 1.5, 1.0, 3.0, 0.0, 0.7)
    frames = [replace(frame, weight=w) for frame, w in zip(frames, weight, strict=True)]
    for row in (1, 3):
        frames[row] = replace(frames[row], forces=None)
    for row in (0, 3):
        frames[row] = replace(frames[row], stress=None)
    return frames


def set_of(frames: Sequence[Frame], elements: tuple[str, ...]) -> TrainingSet:
    shift = {element: SHIFT[element] for element in elements}
    return build_training_set(Structures.from_frames(frames), make_potential(elements), e_shift=shift)


def memory_of(training_set: TrainingSet, memory: str) -> float:
    """Bytes that hold all derivatives, half of them, or none."""
    whole = Objective(training_set, {"forces": 1.0, "stress": 1.0}).kept_bytes
    assert whole > 0
    return {"kept": whole, "partly": whole // 2, "recomputed": 0}[memory]


def gradient_of(objective: Objective, flat: Tensor, template: ElementNetworks) -> Tensor:
    leaf = flat.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss_of(objective, networks_of(leaf, template)).sum(), leaf)
    return gradient


@pytest.fixture(params=ELEMENTS[:2], ids="-".join)
def elements(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.param


@pytest.fixture
def frames(mixed_frames: MakeFrames, elements: tuple[str, ...]) -> list[Frame]:
    return incomplete(mixed_frames(elements))


class TestForcesAndStress:
    @pytest.mark.parametrize("weights", WEIGHTS)
    @pytest.mark.parametrize("n_members", [1, 3])
    @pytest.mark.parametrize("memory", ["kept", "partly", "recomputed"])
    def test_against_numpy(
        self, frames: list[Frame], elements: tuple[str, ...], weights: str, n_members: int, memory: str
    ) -> None:
        training_set = set_of(frames, elements)
        networks, _ = random_networks(training_set, n_members=n_members)
        objective = Objective(
            training_set,
            WEIGHTS[weights],
            memory=memory_of(training_set, memory),
        )
        assert (objective.kept_bytes > 0) == (memory != "recomputed")
        errors = errors_of(objective, networks)
        expected = expected_errors(frames, networks, WEIGHTS[weights])
        assert errors.loss.shape == (n_members,)
        np.testing.assert_allclose(errors.loss, [one.loss for one in expected], rtol=1e-12)
        np.testing.assert_allclose(loss_of(objective, networks), errors.loss, rtol=0)
        np.testing.assert_allclose(errors.energy, [one.energy for one in expected], rtol=1e-12)
        for name, part in (("forces", errors.forces), ("stress", errors.stress)):
            assert (part is not None) == (weights in (name, "both"))
            if part is not None:
                np.testing.assert_allclose(part, [getattr(one, name) for one in expected], rtol=1e-12)

    def test_every_term_counts(self, frames: list[Frame], elements: tuple[str, ...]) -> None:
        """The comparison above compares numbers that are large enough to matter."""
        networks, _ = random_networks(set_of(frames, elements))
        (one,) = expected_errors(frames, networks, {})
        (with_forces,) = expected_errors(frames, networks, WEIGHTS["forces"])
        (both,) = expected_errors(frames, networks, WEIGHTS["both"])
        assert one.loss * 1.01 < with_forces.loss < both.loss / 1.01

    @pytest.mark.parametrize("memory", ["kept", "recomputed"])
    @pytest.mark.parametrize("n_members", [1, 3])
    def test_gradient_against_differences(
        self, frames: list[Frame], elements: tuple[str, ...], n_members: int, memory: str
    ) -> None:
        """Differences of the NumPy loss, along random directions in which nothing cancels, to fourth order."""
        training_set = set_of(frames, elements)
        networks, flat = random_networks(training_set, n_members=n_members)
        weights = WEIGHTS["both"]
        objective = Objective(training_set, weights, memory=memory_of(training_set, memory))
        gradient = gradient_of(objective, flat, networks)
        rng = np.random.default_rng(3)
        step = 1e-3
        for _ in range(3):
            direction = torch.from_numpy(rng.uniform(size=tuple(flat.shape))) * gradient.sign()
            losses = {
                k: np.array(
                    [
                        one.loss
                        for one in expected_errors(frames, networks_of(flat + k * step * direction, networks), weights)
                    ]
                )
                for k in (-2, -1, 1, 2)
            }
            difference = (8 * (losses[1] - losses[-1]) - (losses[2] - losses[-2])) / (12 * step)
            np.testing.assert_allclose((gradient * direction).sum(dim=1), difference, rtol=1e-8)

    def test_members_do_not_mix(self, frames: list[Frame], elements: tuple[str, ...]) -> None:
        """The gradient of one member's loss is that of this member alone, kept or not."""
        training_set = set_of(frames, elements)
        networks, flat = random_networks(training_set, n_members=3)
        for memory in ("kept", "recomputed"):
            n_bytes = memory_of(training_set, memory)
            objective = Objective(training_set, WEIGHTS["both"], memory=n_bytes)
            together = gradient_of(objective, flat, networks)
            alone = torch.cat([gradient_of(objective, flat[k : k + 1], networks) for k in range(3)])
            torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)

    def test_weights_of_zero_are_the_classic_loss(self, frames: list[Frame], elements: tuple[str, ...]) -> None:
        """Bit for bit, with all their labels and without any."""
        training_set = set_of(frames, elements)
        bare = set_of([replace(frame, forces=None, stress=None) for frame in frames], elements)
        networks, flat = random_networks(training_set, n_members=2)
        classic = Objective(bare)
        objective = Objective(training_set, {"forces": 0.0, "stress": 0.0})
        errors = errors_of(objective, networks)
        assert torch.equal(errors.loss, loss_of(classic, networks))
        assert torch.equal(errors.energy, errors.loss)
        assert (errors.forces, errors.stress, objective.kept_bytes) == (None, None, 0)
        assert torch.equal(gradient_of(objective, flat, networks), gradient_of(classic, flat, networks))

    def test_single_precision(self, frames: list[Frame], elements: tuple[str, ...]) -> None:
        training_set = set_of(frames, elements)
        networks, flat = random_networks(training_set)
        expected = Objective(training_set, WEIGHTS["both"])
        objective = Objective(training_set.to("cpu", torch.float32), WEIGHTS["both"])
        errors, wanted = errors_of(objective, networks.to("cpu", torch.float32)), errors_of(expected, networks)
        for name in ("loss", "energy", "forces", "stress"):
            found = getattr(errors, name)
            assert found.dtype == torch.float64  # of what was computed in float32
            assert float(found) == pytest.approx(float(getattr(wanted, name)), rel=1e-4), name
            assert float(found) != pytest.approx(float(getattr(wanted, name)), rel=1e-10), name
        gradient = gradient_of(objective, flat.float(), networks)
        assert gradient.dtype == torch.float32
        exact = gradient_of(expected, flat, networks)
        torch.testing.assert_close(gradient.double(), exact, rtol=0, atol=1e-4 * float(exact.abs().max()))


class TestMissingLabels:
    def errors_and_gradient(
        self, frames: Sequence[Frame], elements: tuple[str, ...], weights: LossWeights, memory: float
    ) -> tuple[dict[str, float | None], Tensor]:
        training_set = set_of(frames, elements)
        networks, flat = random_networks(training_set)
        objective = Objective(training_set, weights, memory=memory)
        errors = errors_of(objective, networks)
        values = {name: getattr(errors, name) for name in ("loss", "energy", "forces", "stress")}
        gradient = gradient_of(objective, flat, networks)
        return {name: None if value is None else float(value) for name, value in values.items()}, gradient

    @pytest.mark.parametrize("memory", [float("inf"), 0.0])
    def test_no_nan_leaks(self, frames: list[Frame], elements: tuple[str, ...], memory: float) -> None:
        """Not from unknown forces or stress, not from a molecule's stress, not into the gradient."""
        for weights in WEIGHTS.values():
            values, gradient = self.errors_and_gradient(frames, elements, weights, memory)
            assert all(np.isfinite(value) for value in values.values() if value is not None)
            assert torch.isfinite(gradient).all()
            assert bool(gradient.any())

    def test_half_known_forces_are_not_known(self, mixed_frames: MakeFrames) -> None:
        """A structure whose forces are not known on all atoms counts as one without forces."""
        frames = mixed_frames()
        whole = set_of(frames, ("Si",))
        forces = whole.forces.clone()
        forces[2, 1] = NAN  # an atom of structure 0
        half = replace(whole, forces=forces)
        assert half.has_forces.tolist() == [False] + [True] * 7
        none = set_of([replace(frames[0], forces=None), *frames[1:]], ("Si",))
        networks, flat = random_networks(whole)
        found, expected = (Objective(one, {"forces": 0.3}) for one in (half, none))
        assert torch.equal(loss_of(found, networks), loss_of(expected, networks))
        assert torch.equal(gradient_of(found, flat, networks), gradient_of(expected, flat, networks))

    @pytest.mark.parametrize("weights", WEIGHTS)
    def test_a_structure_without_them_adds_nothing(
        self, mixed_frames: MakeFrames, elements: tuple[str, ...], weights: str
    ) -> None:
        """Neither to the forces nor to the stress: their errors stay as they were, that of the energies does not."""
        frames = mixed_frames(elements)
        bare = replace(frames[3], forces=None, stress=None, weight=5.0)
        fewer, _ = self.errors_and_gradient(frames[4:], elements, WEIGHTS[weights], np.inf)
        more, _ = self.errors_and_gradient([bare, *frames[4:]], elements, WEIGHTS[weights], np.inf)
        for name in ("forces", "stress"):
            if weights in (name, "both"):
                assert more[name] == pytest.approx(fewer[name], rel=1e-13)
        assert more["energy"] != pytest.approx(fewer["energy"], rel=1e-3)

    def test_a_structure_of_weight_0_adds_nothing(self, mixed_frames: MakeFrames, elements: tuple[str, ...]) -> None:
        frames = mixed_frames(elements)
        mad = replace(frames[3], energy=1e3, forces=1e6 * frames[3].forces, stress=np.full(6, 1e6), weight=0.0)
        weights = WEIGHTS["both"]
        fewer, gradient = self.errors_and_gradient(frames[4:], elements, weights, np.inf)
        more, with_it = self.errors_and_gradient([mad, *frames[4:]], elements, weights, np.inf)
        assert more == pytest.approx(fewer, rel=1e-13)
        torch.testing.assert_close(with_it, gradient, rtol=1e-11, atol=1e-13)

    @pytest.mark.parametrize("weights", [{"forces": 1.0}, {"stress": 1.0}], ids=["forces", "stress"])
    def test_labels_of_weight_0_are_none(self, mixed_frames: MakeFrames, weights: LossWeights) -> None:
        """Their error is not known, and nothing is computed or kept for them."""
        frames = mixed_frames()
        others = [replace(frame, forces=None, stress=None) for frame in frames[1:]]
        training_set = set_of([replace(frames[0], weight=0.0), *others], ("Si",))
        objective = Objective(training_set, weights)
        networks, _ = random_networks(training_set)
        errors = errors_of(objective, networks)
        assert (errors.forces, errors.stress, objective.kept_bytes) == (None, None, 0)
        assert torch.equal(errors.loss, loss_of(Objective(training_set), networks))

    def test_a_weight_counts_like_copies(self, mixed_frames: MakeFrames, elements: tuple[str, ...]) -> None:
        frames = mixed_frames(elements)
        heavy = [frames[0], replace(frames[3], weight=3.0), frames[6]]
        copies = [frames[0], frames[3], frames[3], frames[3], frames[6]]
        weights = WEIGHTS["both"]
        found, gradient = self.errors_and_gradient(heavy, elements, weights, np.inf)
        expected, of_copies = self.errors_and_gradient(copies, elements, weights, np.inf)
        assert found == pytest.approx(expected, rel=1e-13)
        torch.testing.assert_close(gradient, of_copies, rtol=1e-11, atol=1e-13)

    def test_the_stress_of_a_molecule_is_none(self, mixed_frames: MakeFrames) -> None:
        """Whatever its file says."""
        frames = mixed_frames()
        assert frames[2].stress is not None
        found, _ = self.errors_and_gradient(frames, ("Si",), {"forces": 0.0, "stress": 1.0}, np.inf)
        frames[2], frames[4] = replace(frames[2], stress=None), replace(frames[4], stress=None)
        expected, _ = self.errors_and_gradient(frames, ("Si",), {"forces": 0.0, "stress": 1.0}, np.inf)
        assert found == expected

    @pytest.mark.parametrize("label", ["forces", "stress"])
    def test_what_no_structure_has_changes_nothing(self, mixed_frames: MakeFrames, label: str) -> None:
        """A weight for it, as a validation set may meet."""
        frames = [replace(frame, **{label: None}) for frame in mixed_frames()]
        other = {"forces": {"forces": 0.0, "stress": 0.7}, "stress": {"forces": 0.3, "stress": 0.0}}[label]
        found, gradient = self.errors_and_gradient(frames, ("Si",), {"forces": 0.3, "stress": 0.7}, np.inf)
        expected, of_other = self.errors_and_gradient(frames, ("Si",), other, np.inf)
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-13)
        torch.testing.assert_close(gradient, of_other, rtol=1e-11, atol=1e-13)

    @pytest.mark.parametrize("label", ["forces", "stress"])
    def test_what_no_structure_has_takes_no_part(self, mixed_frames: MakeFrames, label: str) -> None:
        """Its error is not known, not 0: logs would show a perfect fit."""
        frames = [replace(frame, **{label: None}) for frame in mixed_frames()]
        found, _ = self.errors_and_gradient(frames, ("Si",), {"forces": 0.3, "stress": 0.7}, np.inf)
        assert found[label] is None

    def test_nothing_but_energies(self, mixed_frames: MakeFrames) -> None:
        """Weights for what no structure has leave the classic loss, bit for bit."""
        frames = [replace(frame, forces=None, stress=None) for frame in mixed_frames()]
        found, gradient = self.errors_and_gradient(frames, ("Si",), {"forces": 0.3, "stress": 0.7}, np.inf)
        expected, classic = self.errors_and_gradient(frames, ("Si",), {}, np.inf)
        assert found == expected
        assert (found["forces"], found["stress"]) == (None, None)
        assert torch.equal(gradient, classic)


class TestExactFitOfForces:
    @pytest.mark.parametrize("memory", [float("inf"), 0.0])
    def test_loss_and_gradient_are_zero(
        self, mixed_frames: MakeFrames, elements: tuple[str, ...], memory: float
    ) -> None:
        """A network of zeros and labels of zero, all of them known."""
        frames = [
            replace(frame, energy=0.0, forces=0.0 * frame.forces, stress=np.zeros(6))
            for frame in mixed_frames(elements)
        ]
        training_set = replace(set_of(frames, elements), energy_shift=None)
        networks, flat = random_networks(training_set, n_members=2)
        flat[0] = 0.0
        flat.requires_grad_(True)
        objective = Objective(training_set, {"forces": 1.0, "stress": 1.0}, memory=memory)
        errors = errors_of(objective, networks_of(flat, networks))
        (gradient,) = torch.autograd.grad(errors.loss.sum(), flat)
        for part in (errors.loss, errors.energy, errors.forces, errors.stress):
            assert part is not None
            assert part[0].item() == 0.0
            assert part[1].item() > 0.0
        assert torch.equal(gradient[0], torch.zeros_like(gradient[0]))
        assert torch.isfinite(gradient).all()
        assert bool(gradient[1].any())

    @pytest.mark.parametrize("memory", [float("inf"), 0.0])
    def test_labels_of_the_network_itself(
        self, mixed_frames: MakeFrames, elements: tuple[str, ...], memory: float
    ) -> None:
        frames = mixed_frames(elements)
        structures = Structures.from_frames(frames)
        potential = make_potential(elements)
        found = predict(potential, structures)
        training_set = replace(
            set_of(frames, elements),
            energy_shift=None,
            energy=found.energy,
            forces=found.forces,
            stress=found.stress,
        )
        assert training_set.has_stress.sum() == len(frames) - 2
        flat = potential.networks.flat()
        objective = Objective(training_set, {"forces": 1.0, "stress": 1.0}, memory=memory)
        assert float(loss_of(objective, potential.networks)) < 1e-14
        assert torch.isfinite(gradient_of(objective, flat, potential.networks)).all()
        scale = loss_of(
            Objective(training_set, {"forces": 1.0, "stress": 1.0}), networks_of(0 * flat, potential.networks)
        )
        assert float(scale) > 0.05


class TestLossWeights:
    @pytest.mark.parametrize("name", ["forces", "stress"])
    @pytest.mark.parametrize("value", [-1e-3, NAN, float("inf"), -float("inf")])
    def test_refused(self, name: str, value: float) -> None:
        with pytest.raises(
            InputError, match=rf"{name.removesuffix('s')}.*_weight: expected a number >= 0, got {value}"
        ):
            Objective(make_set(), {name: value})

    def test_a_name_that_is_none(self) -> None:
        with pytest.raises(InputError, match="weights: expected names among forces, stress, got 'charge'"):
            Objective(make_set(), {"charge": 1.0})

    def test_a_set_without_positions(self, mixed_frames: MakeFrames) -> None:
        training_set = set_of(mixed_frames(), ("Si",))
        blind = replace(training_set, positions=torch.full_like(training_set.positions, NAN))
        for weights in ({"forces": 1.0}, {"stress": 1.0}):
            with pytest.raises(InputError, match="needs positions"):
                Objective(blind, weights)
        networks, _ = random_networks(training_set)
        assert torch.equal(loss_of(Objective(blind), networks), loss_of(Objective(training_set), networks))


class TestStreamed:
    """Features that stay in the file: block by block, the same bits as with everything in memory."""

    def evaluations(
        self,
        training_set: TrainingSet,
        path: Path,
        *,
        n_members: int = 3,
        dtype: torch.dtype = torch.float64,
        weights: LossWeights | None = None,
        **settings: object,
    ) -> list[list[Evaluation]]:
        """In memory and streamed; with the gradient and without. A lane holds several blocks."""
        save_training_set(training_set, path)
        networks, flat = random_networks(training_set, n_members=n_members)
        found = []
        for lazy in (False, True):
            part = load_training_set(path, dtype=dtype, lazy=lazy)
            assert isinstance(part.features, Tensor) == (not lazy)
            objective = Objective(part, weights, memory=math.inf if lazy else 0, stream=lazy, **settings)
            assert objective.kept_bytes == 0
            assert max(len(lane) for lane in objective.lanes) > 1
            found.append([objective.evaluate(flat, networks, gradient=gradient) for gradient in (True, False)])
        return found

    def assert_equal(self, evaluations: list[list[Evaluation]]) -> None:
        for streamed, expected in zip(*evaluations, strict=True):
            assert torch.equal(streamed.energies, expected.energies)
            assert torch.equal(streamed.errors.loss, expected.errors.loss)
            assert streamed.errors.keys() == expected.errors.keys()
            for name, value in expected.errors.items():
                assert torch.equal(streamed.errors[name], value), name
            assert (streamed.gradient is None) == (expected.gradient is None)
            assert expected.gradient is None or torch.equal(streamed.gradient, expected.gradient)

    @pytest.mark.parametrize("elements", ELEMENTS, ids="-".join)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize("targets", [{}, {"a": 0.2, "b": 1e3}], ids=["", "targets"])
    def test_energies(
        self, elements: tuple[str, ...], dtype: torch.dtype, targets: dict[str, float], tmp_path: Path
    ) -> None:
        rng = np.random.default_rng(1)
        training_set = make_set(rng.integers(1, 30, 200).tolist(), elements)
        found = self.evaluations(training_set, tmp_path / "set.h5", dtype=dtype, targets=targets, block_atoms=100)
        self.assert_equal(found)

    def test_structures_stay_in_order(self, tmp_path: Path) -> None:
        """Against NumPy, with several blocks in a lane."""
        training_set = make_set([3, 1, 4, 1, 5, 9, 2, 6], ("Si", "C"))
        found = self.evaluations(training_set, tmp_path / "set.h5", block_atoms=7)
        networks, _ = random_networks(training_set, n_members=3)
        for member in range(3):
            energies = expected_energies(networks, training_set, member) / training_set.sizes.numpy()
            for evaluation in (found[0][0], found[1][0]):
                np.testing.assert_allclose(evaluation.energies[member], energies, rtol=1e-12, atol=1e-13)

    @pytest.mark.parametrize("weights", WEIGHTS)
    @pytest.mark.parametrize("n_members", [1, 3])
    def test_forces_and_stress(
        self, frames: list[Frame], elements: tuple[str, ...], weights: str, n_members: int, tmp_path: Path
    ) -> None:
        found = self.evaluations(
            set_of(frames, elements),
            tmp_path / "set.h5",
            n_members=n_members,
            weights=WEIGHTS[weights],
            block_atoms=8,
        )
        self.assert_equal(found)

    def test_in_threads(self, mixed_frames: MakeFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Blocks are then read, and their neighbours found, side by side."""
        monkeypatch.setattr("pyfit_gpu.training.lanes.LANE_ATOMS", (50, 50, 50))
        frames = [frame for seed in range(20) for frame in incomplete(mixed_frames(("Si", "C"), seed))]
        training_set = set_of(frames, ("Si", "C"))
        torch.set_num_threads(3)
        try:
            found = self.evaluations(
                training_set, tmp_path / "set.h5", weights={"forces": 0.3, "stress": 0.7}, block_atoms=32, n_lanes=5
            )
            assert len(Objective(training_set, n_lanes=5).lanes) == 5
        finally:
            torch.set_num_threads(1)
        self.assert_equal(found)

    def test_blocks_are_opened_once_for_all_members_and_dropped(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_training_set(make_set([7] * 40), tmp_path / "set.h5")
        part = load_training_set(tmp_path / "set.h5", lazy=True)
        read, held = [], []
        plain = FeatureRows.tensor

        def watched(rows: FeatureRows) -> Tensor:
            held.append(sum(tensor() is not None for tensor in read))
            found = plain(rows)
            read.append(weakref.ref(found))
            return found

        monkeypatch.setattr(FeatureRows, "tensor", watched)
        objective = Objective(part, stream=True, block_atoms=28)
        assert read == []
        networks, flat = random_networks(part, n_members=4)
        objective.evaluate(flat, networks)
        assert len(read) == 10
        assert max(held) == 0
        assert all(tensor() is None for tensor in read)

    def test_a_set_without_positions_is_refused_at_once(self, mixed_frames: MakeFrames) -> None:
        training_set = set_of(mixed_frames(), ("Si",))
        blind = replace(training_set, positions=torch.full_like(training_set.positions, NAN))
        with pytest.raises(InputError, match="needs positions"):
            Objective(blind, {"forces": 1.0}, stream=True)
