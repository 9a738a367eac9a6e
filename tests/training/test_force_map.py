"""Forces and virials of a training set as a linear map: against `predict`, its transpose, and what is kept of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_sets import NAN, make_potential
from torch import Tensor

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.networks import ElementLayout, ElementNetworks
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.structures.batch import Structures, size_batches
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.force_map import ForceMap

MakeFrames = Callable[..., list[Frame]]
ELEMENTS = [("Si",), ("Si", "C")]
MEMORIES = {"kept": 1.0, "partly": 0.5, "recomputed": 0.0}  # share of what all derivatives need


def several_members(potential: Potential, n_members: int, seed: int = 11) -> Potential:
    template = potential.networks
    flat = torch.from_numpy(np.random.default_rng(seed).normal(size=(n_members, template.n_parameters)))
    networks = ElementNetworks.from_flat(
        flat, template.layer_sizes, n_elements=template.n_elements, activation=template.activation
    )
    return replace(potential, networks=networks)


def member_of(potential: Potential, member: int) -> Potential:
    template = potential.networks
    flat = template.flat()[member : member + 1]
    networks = template.from_flat(
        flat, template.layer_sizes, n_elements=template.n_elements, activation=template.activation
    )
    return replace(potential, networks=networks)


def of_features(potential: Potential, training_set: TrainingSet, atoms: Tensor) -> Tensor:
    """(n', M, n_features): dE/d(features) of the named atoms, by autograd through the networks."""
    layout = ElementLayout.of(training_set.species, training_set.descriptor.n_elements)
    grads = []
    for member in range(potential.networks.n_members):
        features = training_set.features.clone().requires_grad_(True)
        outputs = layout.restore(member_of(potential, member).networks(layout.arrange(features)))
        (grad,) = torch.autograd.grad(outputs.sum(), features)
        grads.append(grad[atoms])
    return torch.stack(grads, dim=1)


def draw_like(values: Tensor, seed: int = 7) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=tuple(values.shape)))


def full_size(training_set: TrainingSet, rows: Sequence[int]) -> int:
    """Bytes of all derivatives."""
    return ForceMap(training_set, rows, virials=False, memory=math.inf).kept_bytes


def assert_equal_to(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Relative to the largest number: the rounding of a sum is that of its terms, not that of a result near zero."""
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


class Sample:
    """Structures, the set made of them, and networks with several members."""

    def __init__(self, frames: Sequence[Frame], potential: Potential) -> None:
        self.structures = Structures.from_frames(frames)
        self.potential = potential
        self.set = build_training_set(self.structures, potential)
        self.rows = list(range(len(frames)))

    def expected(self, rows: Tensor, atoms: Tensor) -> tuple[Tensor, Tensor]:
        """Forces (n', M, 3) and stress (B', M, 6), by `predict`, member after member."""
        found = [
            predict(member_of(self.potential, member), self.structures)
            for member in range(self.potential.networks.n_members)
        ]
        return torch.stack([one.forces[atoms] for one in found], 1), torch.stack([one.stress[rows] for one in found], 1)

    def map(self, rows: Sequence[int] | None = None, *, virials: bool = True, memory: str = "kept") -> ForceMap:
        rows = self.rows if rows is None else rows
        n_bytes = MEMORIES[memory] * full_size(self.set, rows)
        return ForceMap(self.set, rows, virials=virials, memory=n_bytes)

    def inputs(self, force_map: ForceMap) -> Tensor:
        return of_features(self.potential, self.set, force_map.atoms)


@pytest.fixture(params=ELEMENTS, ids="-".join)
def elements(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.param


@pytest.fixture
def sample(mixed_frames: MakeFrames, elements: tuple[str, ...]) -> Sample:
    return Sample(mixed_frames(elements), several_members(make_potential(elements), 3))


@pytest.fixture(params=[8, 20_000], ids=["several batches", "one batch"])
def batch_sizes(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[int]:
    """Sizes of the batches that are made; with few atoms in each, the structures of `sample` need several."""
    seen: list[int] = []

    def batches(sizes: Sequence[int]) -> list[list[int]]:
        made = list(size_batches(sizes, max_atoms=request.param))
        seen.extend(map(len, made))
        return made

    monkeypatch.setattr("pyfit_gpu.training.force_map.size_batches", batches)
    return seen


class TestAgainstPredict:
    @pytest.mark.parametrize("memory", MEMORIES)
    @pytest.mark.parametrize("n_members", [1, 3])
    def test_forces_and_stress(
        self, sample: Sample, memory: str, n_members: int, batch_sizes: list[int], request: pytest.FixtureRequest
    ) -> None:
        """Virials are stress times volume; a structure without a cell has a virial and no stress."""
        sample.potential = several_members(sample.potential, n_members)
        force_map = sample.map(memory=memory)
        assert (max(batch_sizes) < len(sample.rows)) == ("several batches" in request.node.callspec.id)
        assert (force_map.kept_bytes > 0) == (memory != "recomputed")
        forces, virials = force_map(sample.inputs(force_map))
        assert virials is not None
        expected, stress = sample.expected(force_map.rows, force_map.atoms)
        assert forces.shape == (sample.set.n_atoms, n_members, 3)
        assert_equal_to(forces, expected)
        volume = sample.set.volume[force_map.rows]
        with_cell = volume > 0
        assert int(with_cell.sum()) == len(sample.rows) - 2
        assert_equal_to(virials[with_cell], (stress * volume[:, None, None])[with_cell])
        assert torch.isnan(stress[~with_cell]).all()
        assert torch.isfinite(virials).all()

    def test_lone_atoms_feel_nothing(self, sample: Sample) -> None:
        force_map = sample.map()
        forces, virials = force_map(torch.ones_like(sample.inputs(force_map)))
        assert virials is not None
        lone = [int((force_map.rows == row).nonzero()) for row in (4, 5)]
        atoms = torch.cumsum(sample.set.sizes[force_map.rows], 0) - 1
        assert not forces[atoms[lone]].any()
        assert not virials[lone].any()
        assert bool(forces.any())

    @pytest.mark.parametrize("memory", ["kept", "recomputed"])
    def test_nothing_but_lone_atoms(self, sample: Sample, memory: str) -> None:
        force_map = sample.map([5, 4, 4], memory=memory)
        inputs = sample.inputs(force_map)
        assert inputs.shape[:2] == (3, 3)
        forces, virials = force_map(inputs)
        assert virials is not None
        assert not forces.any()
        assert not virials.any()
        back = force_map.vjp(torch.ones_like(forces), torch.ones_like(virials))
        assert torch.equal(back, torch.zeros_like(inputs))

    def test_forces_add_up_to_nothing(self, sample: Sample) -> None:
        """Whatever the derivatives by the features are."""
        force_map = sample.map()
        forces, _ = force_map(draw_like(sample.inputs(force_map)))
        sums = torch.segment_reduce(forces, "sum", lengths=sample.set.sizes[force_map.rows], axis=0)
        assert float(sums.abs().max()) < 1e-12 * float(forces.abs().max()) * sample.set.n_atoms

    @pytest.mark.parametrize("memory", MEMORIES)
    @pytest.mark.parametrize("rows", [[6, 0, 4, 2], [7], [3, 1]], ids=str)
    def test_some_rows_in_any_order(self, sample: Sample, rows: list[int], memory: str, batch_sizes: list[int]) -> None:
        """`rows` and `atoms` say where a result belongs in the set."""
        force_map = sample.map(rows, memory=memory)
        assert sorted(force_map.rows.tolist()) == sorted(rows)
        first = np.cumsum([0, *sample.set.sizes.tolist()])
        atoms = [atom for row in force_map.rows.tolist() for atom in range(first[row], first[row + 1])]
        assert force_map.atoms.tolist() == atoms
        forces, virials = force_map(sample.inputs(force_map))
        assert virials is not None
        expected, stress = sample.expected(force_map.rows, force_map.atoms)
        assert_equal_to(forces, expected)
        volume = sample.set.volume[force_map.rows]
        for row in (volume > 0).nonzero()[:, 0].tolist():
            assert_equal_to(virials[row], stress[row] * volume[row])

    @pytest.mark.parametrize("gi_mode", [0, 1, 3, 4, 6])
    @pytest.mark.parametrize("memory", ["kept", "recomputed"])
    def test_modes(self, mixed_frames: MakeFrames, gi_mode: int, memory: str) -> None:
        """The others have other slopes; 3 and 4 see further."""
        terms = {"cross_terms": 1, "triples": ((2, 2, 2), (0, 2, 2))} if gi_mode == 6 else {}
        sample = Sample(mixed_frames(), several_members(make_potential(gi_mode=gi_mode, cutoff=3.2, **terms), 2))
        force_map = sample.map(memory=memory)
        forces, virials = force_map(sample.inputs(force_map))
        assert virials is not None
        expected, stress = sample.expected(force_map.rows, force_map.atoms)
        assert_equal_to(forces, expected)
        with_cell = sample.set.volume[force_map.rows] > 0
        volume = sample.set.volume[force_map.rows][with_cell, None, None]
        assert_equal_to(virials[with_cell], stress[with_cell] * volume)

    @pytest.mark.parametrize("memory", ["kept", "recomputed"])
    def test_single_precision(self, sample: Sample, memory: str) -> None:
        """In the precision of the features, with neighbours found in that of the positions."""
        force_map = sample.map(memory=memory)
        inputs = sample.inputs(force_map)
        expected = force_map(inputs)
        single = replace(sample.set, features=sample.set.features.float())
        force_map = ForceMap(single, sample.rows, virials=True, memory=full_size(single, sample.rows))
        for found, wanted in zip(force_map(inputs.float()), expected, strict=True):
            assert found is not None
            assert found.dtype == torch.float32
            assert_equal_to(found.double(), wanted, 1e-5)
            assert not torch.equal(found.double(), wanted)


class TestMemory:
    def test_all_ways_agree(self, sample: Sample, batch_sizes: list[int]) -> None:
        """Forwards and back, with random numbers."""
        maps = [sample.map(memory=memory) for memory in MEMORIES]
        assert [force_map.kept_bytes > 0 for force_map in maps] == [True, True, False]
        assert maps[1].kept_bytes < maps[0].kept_bytes
        inputs = draw_like(sample.inputs(maps[0]))
        expected = maps[0](inputs)
        gradients = [draw_like(value) for value in expected]
        back = maps[0].vjp(*gradients)
        for force_map in maps[1:]:
            assert torch.equal(force_map.atoms, maps[0].atoms)
            for found, wanted in zip(force_map(inputs), expected, strict=True):
                assert_equal_to(found, wanted)
            assert_equal_to(force_map.vjp(*gradients), back)

    def test_never_more_than_given(self, sample: Sample, batch_sizes: list[int]) -> None:
        """The bytes counted are those kept, and one byte less than all cannot hold all."""
        whole = full_size(sample.set, sample.rows)
        seen = set()
        for memory in (0, 1, whole // 7, whole // 3, whole // 2, whole - 1, whole, 2 * whole):
            force_map = ForceMap(sample.set, sample.rows, virials=True, memory=memory)
            blocks = [block for part in force_map.parts for block in part.blocks]
            held = [block.jacobian.nbytes for block in blocks if block.jacobian is not None]
            assert force_map.kept_bytes == sum(held) <= memory
            assert (len(held) == len(blocks)) == (memory >= whole)
            seen.add(force_map.kept_bytes)
        assert len(seen) >= 4

    def test_the_same_bits_twice(self, sample: Sample) -> None:
        for memory in MEMORIES:
            force_map = sample.map(memory=memory)
            inputs = sample.inputs(force_map)
            first, again, other = force_map(inputs), force_map(inputs), sample.map(memory=memory)(inputs)
            for one, two, three in zip(first, again, other, strict=True):
                assert torch.equal(one, two)
                assert torch.equal(one, three)


class TestTranspose:
    @pytest.mark.parametrize("memory", MEMORIES)
    @pytest.mark.parametrize("virials", [True, False], ids=["virials", "forces alone"])
    def test_inner_products(self, sample: Sample, memory: str, virials: bool, batch_sizes: list[int]) -> None:
        """<map x, y> = <x, transpose y>, for each member."""
        force_map = sample.map(memory=memory, virials=virials)
        inputs = draw_like(sample.inputs(force_map))
        forces, found = force_map(inputs)
        assert (found is not None) == virials
        of_forces = draw_like(forces)
        of_virials = draw_like(found, seed=8) if found is not None else None
        left = (forces * of_forces).sum(dim=(0, 2))
        scale = (forces * of_forces).abs().sum(dim=(0, 2))
        if found is not None:
            left += (found * of_virials).sum(dim=(0, 2))
            scale += (found * of_virials).abs().sum(dim=(0, 2))
        right = (inputs * force_map.vjp(of_forces, of_virials)).sum(dim=(0, 2))
        assert float(((left - right) / scale).abs().max()) < 1e-13

    @pytest.mark.parametrize("memory", ["kept", "recomputed"])
    def test_gradcheck(self, sample: Sample, memory: str) -> None:
        force_map = sample.map([4, 6, 1], memory=memory)
        inputs = sample.inputs(force_map)[:, :2].clone().requires_grad_(True)
        assert torch.autograd.gradcheck(force_map, (inputs,), fast_mode=True)

    @pytest.mark.parametrize("memory", ["kept", "recomputed"])
    def test_a_loss_of_one_of_them(self, sample: Sample, memory: str) -> None:
        """Unused results get no derivative; expanded gradients, as those of a sum, are accepted too."""
        force_map = sample.map(memory=memory)
        inputs = sample.inputs(force_map).requires_grad_(True)
        forces, virials = force_map(inputs)
        assert virials is not None
        (by_forces,) = torch.autograd.grad((2 * forces[:, :, 1]).sum(), inputs)
        ones = torch.zeros_like(forces)
        ones[:, :, 1] = 2.0
        assert_equal_to(by_forces, force_map.vjp(ones, None))
        _, virials = force_map(inputs)
        (by_virials,) = torch.autograd.grad(virials.sum(), inputs)
        expected = force_map.vjp(torch.zeros_like(forces), torch.ones_like(virials))
        assert_equal_to(by_virials, expected)


class TestPositions:
    def test_a_set_without_positions(self, sample: Sample) -> None:
        """A text set has no positions; the message says what to do."""
        blind = replace(sample.set, positions=torch.full_like(sample.set.positions, NAN))
        with pytest.raises(InputError, match=r"needs positions.*text set cannot.*HDF5 set made from structures does"):
            ForceMap(blind, sample.rows, virials=False, memory=math.inf)

    def test_only_the_positions_that_are_needed(self, sample: Sample) -> None:
        positions = sample.set.positions.clone()
        positions[0] = NAN  # of structure 0
        partly = replace(sample.set, positions=positions)
        with pytest.raises(InputError, match="needs positions"):
            ForceMap(partly, [3, 0], virials=False, memory=math.inf)
        force_map = ForceMap(partly, [3, 6], virials=False, memory=math.inf)
        forces, virials = force_map(sample.inputs(force_map))
        assert virials is None
        assert torch.isfinite(forces).all()


def test_without_virials_the_forces_are_the_same(sample: Sample) -> None:
    plain, both = sample.map(virials=False), sample.map()
    forces, virials = plain(sample.inputs(plain))
    assert virials is None
    assert torch.equal(forces, both(sample.inputs(both))[0])
