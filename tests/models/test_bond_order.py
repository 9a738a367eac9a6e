"""Bond-order potentials against plain loops and differences, symmetries, degenerate surroundings, forms, elements."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from bond_order_samples import CUTOFF, loops, make_bond_order
from element_order import block_order, reorder_atoms
from sample_sets import make_potential
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.errors import InputError
from pyfit_gpu.models import bond_order, surroundings
from pyfit_gpu.models.batches import batches, featurize
from pyfit_gpu.models.bond_order import BondOrder
from pyfit_gpu.models.chunk_walk import ChunkWalk
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Form, Potential, join_members
from pyfit_gpu.models.prediction import Prediction, evaluate, predict
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.models.walk_base import Wanted
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.clusters import build_extrapolation_grade

MakeFrame = Callable[..., Frame]

FORMS: tuple[Form, ...] = ("squared", "plain")
ELEMENTS = [("Si",), ("Si", "C"), ("O", "Si", "C")]
STEP = 1e-3  # Å, strain and parameters
EXACT = 1e-11
STRESS_ORDER = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def predicted(potential: Potential, *frames: Frame, **keywords: object) -> Prediction:
    return predict(potential, Structures.from_frames(frames), **keywords)


def slope(energy: Callable[[float], float], step: float = STEP) -> float:
    """Fourth-order central difference at 0."""
    one, two = (energy(n * step) - energy(-n * step) for n in (1, 2))
    return (8 * one - two) / (12 * step)


def assert_close(found: Tensor | None, expected: Tensor | np.ndarray, tolerance: float = EXACT) -> None:
    assert found is not None
    difference = np.abs(found.double().numpy() - np.asarray(expected))
    assert found.shape == difference.shape
    assert np.isfinite(found.numpy()).all()
    assert difference.max(initial=0.0) < tolerance


def assert_slopes(potential: Potential, frame: Frame, tolerance: float = 1e-8) -> None:
    """Forces and stress against differences of the plain loops' energies."""
    found = predicted(potential, frame)
    assert_close(found.atomic_energies, loops(potential, frame))
    assert found.forces is not None
    for atom, axis in ((0, 0), (frame.n_atoms - 1, 1), (frame.n_atoms // 2, 2)):
        move = np.zeros_like(frame.positions)
        move[atom, axis] = 1.0

        def moved(step: float, move: np.ndarray = move) -> float:
            return float(loops(potential, replace(frame, positions=frame.positions + step * move)).sum())

        assert float(found.forces[atom, axis]) == pytest.approx(-slope(moved), abs=tolerance)
    assert_close(found.forces.sum(dim=0), np.zeros(3), 1e-9)
    if frame.volume == 0:
        return
    assert found.stress is not None
    for number in (0, 3, 5):
        strain = np.zeros((3, 3))
        for row, column in (STRESS_ORDER[number], STRESS_ORDER[number][::-1]):
            strain[row, column] += 0.5

        def strained(step: float, strain: np.ndarray = strain) -> float:
            stretch = np.eye(3) + step * strain
            whole = replace(frame, positions=frame.positions @ stretch, cell=frame.cell @ stretch)
            return float(loops(potential, whole).sum())

        assert float(found.stress[0, number]) == pytest.approx(slope(strained) / frame.volume, abs=tolerance)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("elements", ELEMENTS, ids="".join)
@pytest.mark.parametrize("bare", [True, False], ids=["bare", "network"])
def test_energies_forces_and_stress(random_frame: MakeFrame, elements: tuple[str, ...], form: Form, bare: bool) -> None:
    """Images of atoms screen one another: the cell is smaller than the reach of the screening."""
    frame = random_frame(1, 3, length=4.2, elements=elements, scatter=1)
    assert_slopes(make_bond_order(elements, form, bare=bare), frame)


@pytest.mark.parametrize("gi_mode", [0, 1, 2, 3, 4, 6])
def test_every_mode(random_frame: MakeFrame, gi_mode: int) -> None:
    """Features look as far as the bonds or as far as what screens them."""
    assert_slopes(make_bond_order(gi_mode=gi_mode), random_frame(4, 2, length=4.0))


@pytest.mark.parametrize("bare", [True, False], ids=["bare", "network"])
@pytest.mark.parametrize("elements", ELEMENTS[:2], ids="".join)
def test_unlike_structures(mixed_frames: Callable[..., list[Frame]], elements: tuple[str, ...], bare: bool) -> None:
    """Crystals, molecules, slabs and lone atoms, all in one batch and one by one."""
    potential, frames = make_bond_order(elements, bare=bare), mixed_frames(elements)
    together = predicted(potential, *frames)
    assert_close(together.atomic_energies, np.concatenate([loops(potential, frame) for frame in frames]))
    for row, frame in enumerate(frames):
        alone = predicted(potential, frame)
        assert torch.equal(alone.energy[0], together.energy[row])
        assert alone.forces is not None
        assert alone.forces.isfinite().all()
    energies = predicted(potential, *frames, derivatives=False)
    assert torch.equal(energies.atomic_energies, together.atomic_energies)


class TestFewNeighbors:
    def test_alone(self, make_frame: MakeFrame) -> None:
        found = predicted(make_bond_order(bare=True), make_frame([[0.0, 0, 0]]))
        assert float(found.energy) == 0.0
        assert_close(found.forces, np.zeros((1, 3)))

    @pytest.mark.parametrize("distance", [1.4, 2.4, CUTOFF - 1e-3, CUTOFF - 1e-9, CUTOFF, 1.2 * CUTOFF])
    @pytest.mark.parametrize("form", FORMS)
    def test_dimer(self, make_frame: MakeFrame, form: Form, distance: float) -> None:
        """One bond and nothing that screens it; the root goes to zero at the cutoff, and its slope with it."""
        potential, frame = make_bond_order(form=form, bare=True), make_frame([[0.0, 0, 0], [0, distance, 0]])
        found = predicted(potential, frame)
        assert_close(found.atomic_energies, loops(potential, frame))
        assert found.forces is not None
        along = np.array([[0, -1.0, 0], [0, 1.0, 0]])
        step = 1e-7 if distance > 3 else 1e-4

        def moved(change: float) -> float:
            return float(loops(potential, replace(frame, positions=frame.positions + change * along)).sum())

        expected = along * slope(moved, step) / 2
        assert_close(found.forces, -expected, 1e-5 if distance > 3 else 1e-8)
        if distance >= CUTOFF:
            assert float(found.energy) == 0.0

    def test_atoms_in_a_line(self, make_frame: MakeFrame) -> None:
        """The middle atom screens the outer bond by all it can: x is zero."""
        potential = make_bond_order(bare=True)
        frame = make_frame([[0.0, 0, 0], [1.5, 0, 0], [3.0, 0, 0]])
        assert_slopes(potential, frame)


class TestFactorsOfZero:
    """With a narrow cutoff function and lambda 0 an atom far inside takes the whole bond: factors are exactly zero."""

    @staticmethod
    def numbers(screening: float) -> tuple[float, ...]:
        """Without the promotion energy, whose root has no slope where all bonds are screened."""
        return (9.6, 4.7, 4.3, 1.45, 0.12, 0.0, 0.9, screening)

    @pytest.mark.parametrize("n_atoms", [3, 4], ids=["one-factor", "two-factors"])
    def test_derivatives_are_those_of_the_product(self, make_frame: MakeFrame, n_atoms: int) -> None:
        """dS/dlambda is the sum over factors of x times the product of all others: not zero with one of zero."""
        made = make_bond_order(form="plain", bare=True, cutoff_width=1e-4)
        potential = replace(made, bond_order_parameters=self.numbers(0.0))
        frame = make_frame([[0.0, 0, 0], [2.2, 0, 0], [0.3, 2.1, 0], [0.2, 0.4, 2.3]][:n_atoms])
        found = predicted(potential, frame)
        assert_close(found.atomic_energies, loops(potential, frame))
        assert found.forces is not None
        assert found.forces.isfinite().all()

        def energy(change: float) -> float:
            moved = replace(potential, bond_order_parameters=self.numbers(change))
            return float(loops(moved, frame).sum())

        expected = slope(energy, 1e-4)
        assert float(gradients(potential, frame)[0, :, -1].sum()) == pytest.approx(expected, abs=1e-6)
        assert (abs(expected) > 1e-2) == (n_atoms == 3)


def gradients(potential: Potential, frame: Frame) -> Tensor:
    """(K, n, N): derivatives of energies with respect to the networks' outputs."""
    structures = Structures.from_frames([frame])
    (batch,) = batches(structures.sizes, structures.select, potential)
    kept: dict[int, Tensor] = {}
    walk = ChunkWalk(potential, batch, Wanted(derivatives=True))
    inner = walk.model.vjp

    def noting(outputs: Tensor, species: Tensor, chunk: Any) -> Any:
        found = inner(outputs, species, chunk)
        for number, atom in enumerate(chunk.atoms.tolist()):
            kept[atom] = found[1][:, number]
        return found

    walk.model.vjp = noting
    walk.run()
    return torch.stack([kept[atom] for atom in range(frame.n_atoms)], dim=1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("elements", ELEMENTS[:2], ids="".join)
def test_gradient_of_the_parameters(random_frame: MakeFrame, elements: tuple[str, ...], form: Form) -> None:
    potential = make_bond_order(elements, form, bare=True)
    frame = random_frame(6, 3, length=4.5, elements=elements)
    structures = Structures.from_frames([frame])
    species = potential.species_index(structures)
    grads = gradients(potential, frame)[0]
    count = len(potential.bond_order_parameters) // len(elements)
    for number in range(len(potential.bond_order_parameters)):

        def energy(step: float, number: int = number) -> float:
            numbers = list(potential.bond_order_parameters)
            numbers[number] += step
            return float(loops(replace(potential, bond_order_parameters=tuple(numbers)), frame).sum())

        own = grads[species == number // count, number % count].sum()
        assert float(own) == pytest.approx(slope(energy), abs=1e-8)


class TestForms:
    def test_plain_is_squared_with_the_squares(self, random_frame: MakeFrame) -> None:
        squared, frame = make_bond_order(bare=True), random_frame(2, 5)
        *others, a, screening = squared.bond_order_parameters
        plain = replace(squared, form="plain", bond_order_parameters=(*others, a**2, screening**2))
        first, second = predicted(squared, frame), predicted(plain, frame)
        assert_close(first.atomic_energies, second.atomic_energies)
        assert_close(first.forces, second.forces)

    def test_squared_does_not_see_signs(self, random_frame: MakeFrame) -> None:
        potential, frame = make_bond_order(bare=True), random_frame(2, 5)
        *others, a, screening = potential.bond_order_parameters
        mirrored = replace(potential, bond_order_parameters=(*others, -a, -screening))
        assert_close(predicted(mirrored, frame).forces, predicted(potential, frame).forces)

    def test_parameters_that_make_no_sense_are_named(self, random_frame: MakeFrame) -> None:
        """A strongly negative a makes 1 + z negative: the atom and its parameters are named."""
        potential, frame = make_bond_order(form="plain", bare=True, scatter=0), random_frame(2, 5)
        *others, _, screening = potential.bond_order_parameters
        wrong = replace(potential, bond_order_parameters=(*others, -50.0, screening))
        expected = (
            r"made.dat, structure 1 .line 1., atom \d: expected outputs of the network that make sense, but there "
        )
        expected += re.escape("is no energy with A 9.6, alpha 4.7, B 4.3, beta 1.45, h 0.12, sigma 0.8, a -50, lambda")
        for derivatives in (True, False):
            with pytest.raises(InputError, match=expected):
                predicted(wrong, frame, derivatives=derivatives)

    def test_the_member_is_named(self, random_frame: MakeFrame) -> None:
        potential = make_bond_order(form="plain", bare=True)
        wrong = torch.zeros_like(potential.networks.biases[0])
        wrong[..., 6] = -50.0
        other = replace(potential, networks=replace(potential.networks, biases=(wrong,)))
        with pytest.raises(InputError, match=r"atom \d: .* but member 2 has no energy with A "):
            predicted(join_members([potential, other]), random_frame(2, 5))


class TestSymmetries:
    @pytest.mark.parametrize("elements", ELEMENTS[:2], ids="".join)
    def test_rotation_and_reflection(self, random_frame: MakeFrame, elements: tuple[str, ...]) -> None:
        potential, frame = make_bond_order(elements), random_frame(5, 6, elements=elements)
        rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
        turned = replace(frame, positions=frame.positions @ rotation, cell=frame.cell @ rotation)
        first, second = predicted(potential, frame), predicted(potential, turned)
        assert_close(second.atomic_energies, first.atomic_energies)
        assert first.forces is not None
        assert_close(second.forces, first.forces.numpy() @ rotation)

    def test_permutation_of_atoms(self, random_frame: MakeFrame) -> None:
        potential, frame = make_bond_order(("Si", "C")), random_frame(5, 6, elements=("Si", "C"))
        order = [3, 5, 0, 1, 4, 2]
        first, second = predicted(potential, frame), predicted(potential, reorder_atoms(frame, order))
        assert first.forces is not None
        assert_close(second.atomic_energies, first.atomic_energies[order])
        assert_close(second.forces, first.forces[order])

    @pytest.mark.parametrize("bare", [True, False], ids=["bare", "network"])
    def test_permutation_of_elements(self, random_frame: MakeFrame, bare: bool) -> None:
        elements, order = ("O", "Si", "C"), [2, 0, 1]
        potential, frame = make_bond_order(elements, bare=bare), random_frame(5, 6, elements=elements)
        assert_close(
            predicted(reordered(potential, order), frame).atomic_energies, predicted(potential, frame).atomic_energies
        )

    def test_elements_that_are_the_same(self, random_frame: MakeFrame) -> None:
        """Two elements with one another's parameters are one: also for a network of inputs that are sums of blocks."""
        one = make_bond_order(gi_mode=3, shift=0.0)
        frame = random_frame(5, 6, elements=("Si", "C"))
        alike = replace(frame, atomic_numbers=np.full_like(frame.atomic_numbers, 14))
        first, second = predicted(one, alike), predicted(doubled(one), frame)
        assert_close(second.atomic_energies, first.atomic_energies)
        assert_close(second.forces, first.forces)
        assert_close(second.stress, first.stress)


def reordered(potential: Potential, order: Sequence[int]) -> Potential:
    """Element k of the new potential is element order[k] of the old one."""
    s, order = potential.descriptor.n_elements, list(order)
    sizes = (s, s, s, s, s * s, 1, s * s, s * s)
    places = [part.tolist() for part in np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])]
    pairs = [s * a + b for a in order for b in order]
    moved = [[part[k] for k in (order if len(part) == s else pairs if len(part) > 1 else [0])] for part in places]
    columns = [place for part in moved for place in part]
    weights = [weight[:, order] for weight in potential.networks.weights]
    biases = [bias[:, order] for bias in potential.networks.biases]
    weights[-1], biases[-1] = weights[-1][..., columns], biases[-1][..., columns]
    if not potential.is_bare:
        blocks = block_order(order)
        weights[0] = weights[0].unflatten(2, (len(blocks), -1))[:, :, blocks].flatten(2, 3)
    return replace(
        potential,
        descriptor=replace(potential.descriptor, elements=tuple(potential.descriptor.elements[k] for k in order)),
        networks=ElementNetworks(tuple(weights), tuple(biases), potential.networks.activation),
        bond_order_parameters=tuple(potential.baseline[order][:, columns].flatten().tolist()),
    )


def doubled(one: Potential) -> Potential:
    """The same potential with silicon under two names."""
    twice = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 5, 6, 6, 6, 6, 7, 7, 7, 7])
    weights, biases = list(one.networks.weights), list(one.networks.biases)
    weights[0] = weights[0].repeat(1, 1, 3, 1)  # one for each pair of elements
    weights[-1], biases[-1] = weights[-1][..., twice], biases[-1][..., twice]
    return replace(
        one,
        descriptor=replace(one.descriptor, elements=("Si", "C")),
        networks=ElementNetworks(
            tuple(w.repeat(1, 2, 1, 1) for w in weights), tuple(b.repeat(1, 2, 1) for b in biases), 1
        ),
        masses=one.masses * 2,
        bond_order_parameters=tuple(one.baseline[0, twice].tolist() * 2),
        energy_shift=one.energy_shift.repeat(2),
    )


@pytest.mark.parametrize("n_members", [2, 8])
@pytest.mark.parametrize("own_baselines", [False, True])
def test_members(random_frame: MakeFrame, n_members: int, own_baselines: bool) -> None:
    """Means and spreads of members that are computed alone; derivatives by both ways of the walk."""
    members = [make_bond_order(("Si", "C"), seed=seed, max_random=0.1) for seed in range(n_members)]
    if not own_baselines:
        members = [replace(one, bond_order_parameters=members[0].bond_order_parameters) for one in members]
    frame = random_frame(5, 6, elements=("Si", "C"))
    alone = [predicted(one, frame) for one in members]
    together = predicted(join_members(members), frame)
    assert together.spread is not None
    for name in ("energy", "forces", "stress"):
        values = torch.stack([getattr(one, name) for one in alone])
        assert_close(getattr(together, name), values.mean(dim=0))
        assert_close(getattr(together.spread, name), values.std(dim=0))


def test_single_precision(random_frame: MakeFrame) -> None:
    potential, frame = make_bond_order(("Si", "C")), random_frame(5, 6, elements=("Si", "C"))
    exact, single = predicted(potential, frame), predicted(potential.to("cpu", torch.float32), frame)
    assert single.energy.dtype == torch.float32
    assert_close(single.atomic_energies, exact.atomic_energies, 2e-4)
    assert_close(single.forces, exact.forces, 2e-3)


class Largest(TorchDispatchMode):
    """Notes the most numbers of a tensor that any operation makes."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.most = max(self.most, result.numel())
        return result


def test_memory_does_not_grow_with_pairs_times_neighbors(
    make_frame: MakeFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays of bonds and neighbours are made for a few atoms at a time, whatever the number of atoms."""
    monkeypatch.setattr(bond_order, "_PAIRS_CPU", 2**17)
    potential = make_bond_order(bare=True, cutoff=5.0)
    crystal = make_frame([[0.1, 0.2, 0.3]], 2.0 * (1 - np.eye(3)))  # 42 bonds of 134 neighbours
    structures = Structures.from_frames([crystal] * 40)
    (batch,) = batches(structures.sizes, structures.select, potential)
    n_pairs = len(batch.neighbors.index)
    assert n_pairs > 4000
    with Largest() as noted:
        ChunkWalk(potential, batch, Wanted(derivatives=True)).run()
    assert noted.most < 16 * n_pairs  # with the bonds of all atoms it would be 48 times


def test_pieces_change_nothing(random_frame: MakeFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    potential, frame = make_bond_order(("Si", "C")), random_frame(5, 7, elements=("Si", "C"))
    whole = predicted(potential, frame)
    monkeypatch.setattr(bond_order, "_PAIRS_CPU", 1)
    pieces = predicted(potential, frame)
    for name in ("atomic_energies", "forces", "stress"):
        assert torch.equal(getattr(pieces, name), getattr(whole, name))


@pytest.mark.parametrize("bare", [True, False], ids=["bare", "network"])
def test_grades(mixed_frames: Callable[..., list[Frame]], bare: bool) -> None:
    """Grades are those of the inputs, also where no network takes these; they belong to a baseline, too."""
    potential, frames = make_bond_order(("Si", "C"), bare=bare), mixed_frames(("Si", "C"))
    structures = Structures.from_frames(frames)
    grade = build_extrapolation_grade(build_training_set(structures, potential), potential)
    uncertainty = Uncertainty.of(potential, grade)
    expected = grade(featurize(structures, potential), potential.species_index(structures))
    for derivatives in (True, False):
        found = predict(potential, structures, derivatives=derivatives, uncertainty=uncertainty)
        assert found.uncertainty is not None
        assert_close(found.uncertainty.grade, expected)
        assert torch.equal(found.energy, predict(potential, structures, derivatives=derivatives).energy)
    numbers = potential.bond_order_parameters
    other = replace(potential, bond_order_parameters=(numbers[0] + 1e-6, *numbers[1:]))
    with pytest.raises(InputError, match="belongs to another potential"):
        predict(other, structures, uncertainty=uncertainty)


@pytest.mark.parametrize("elements", ELEMENTS[:2], ids="".join)
def test_the_ways_of_a_gpu_give_the_same(
    mixed_frames: Callable[..., list[Frame]], elements: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are tried on a CPU: other lists, sums without adding to one place twice, one block for all atoms."""
    potential, frames = make_bond_order(elements, "plain"), mixed_frames(elements)
    expected = predicted(potential, *frames)
    for module in (bond_order, surroundings):
        monkeypatch.setattr(module, "on_cpu", lambda values: False)
    found = predicted(potential, *frames)
    for name in ("atomic_energies", "forces"):
        assert_close(getattr(found, name), getattr(expected, name))


def test_far_atoms_screen(make_frame: MakeFrame) -> None:
    """An atom beyond the cutoff of the bonds and of the features changes the energy of the one it screens."""
    potential = make_bond_order(bare=True)
    bent = [[0.0, 0, 0], [3.0, 0, 0], [3.9, 0.5, 0.0]]
    near, without = (predicted(potential, make_frame(bent[:n])).atomic_energies[0] for n in (3, 2))
    assert math.dist(bent[0], bent[2]) > CUTOFF
    assert abs(float(near - without)) > 1e-4


def test_the_model_of_a_straight_potential_is_another() -> None:
    assert BondOrder.n_outputs(1) == 8
    assert evaluate(make_potential(), Structures.from_frames([_atom()])).shape == (1,)


def _atom() -> Frame:
    return Frame(np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool), np.array([14]), "", "made.dat")
