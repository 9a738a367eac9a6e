"""The gradient as it is written out, lanes and blocks that hold every structure once, and sums in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_sets import make_potential, make_set
from torch import Tensor

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.models.networks import ElementLayout, ElementNetworks
from pyfit_gpu.parallel import Workers, one_thread
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.sums import ordered_sum
from pyfit_gpu.training.blocks import Block, BlockValue
from pyfit_gpu.training.lanes import cut_blocks, lane_bounds
from pyfit_gpu.training.loss import LabelWeights
from pyfit_gpu.training.objective import Objective

MakeFrames = Callable[..., list[Frame]]

pytestmark = pytest.mark.usefixtures("small_lanes")


SIZES = [(1,), (5, 1, 3), (300,) * 40, (1,) * 3000, (5000, 1, 1, 5000, 2), tuple(range(1, 200))]


class TestCuts:
    @pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"{len(sizes)}x{sizes[0]}")
    @pytest.mark.parametrize("most", [1, 7, 1000, 10**9])
    def test_blocks_hold_every_structure_once(self, sizes: tuple[int, ...], most: int) -> None:
        """None is empty, or holds more than was asked for and a structure."""
        cuts = list(cut_blocks(sizes, most))
        assert [row for first, end in cuts for row in range(first, end)] == list(range(len(sizes)))
        assert 1 <= len(cuts) <= -(-sum(sizes) // most)
        for first, end in cuts:
            assert end > first
            assert sum(sizes[first:end]) <= most + max(sizes)

    def test_blocks_are_about_equal(self) -> None:
        """No small rest at the end, which would cost as many calls as a full one."""
        assert [30 * (end - first) for first, end in cut_blocks([30] * 70, 1000)] == [690, 720, 690]

    @pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"{len(sizes)}x{sizes[0]}")
    @pytest.mark.parametrize("n_lanes", [1, 4, 24])
    def test_lanes_hold_every_structure_once(self, sizes: tuple[int, ...], n_lanes: int) -> None:
        """None is empty, and few atoms are not spread thin."""
        lanes = lane_bounds(sizes, n_lanes, 1024)
        assert [row for first, end in lanes for row in range(first, end)] == list(range(len(sizes)))
        assert all(end > first for first, end in lanes)
        assert 1 <= len(lanes) <= max(1, min(n_lanes, sum(sizes) // 1024))

    def test_lanes_are_about_equal(self) -> None:
        atoms = [300 * (end - first) for first, end in lane_bounds([300] * 240, 24, 1024)]
        assert len(atoms) == 24
        assert max(atoms) == min(atoms) == 3000

    @pytest.mark.parametrize("block_atoms", [1, 50, 10**6])
    def test_of_an_objective(self, block_atoms: int) -> None:
        training_set = make_set([700, 1, 3] * 6)
        objective = Objective(training_set, n_lanes=4, block_atoms=block_atoms)
        assert len(objective.lanes) > 1
        rows = [row for lane in objective.lanes for _, part in lane for row in range(part.start, part.stop)]
        assert rows == list(range(len(training_set)))
        for lane in objective.lanes:
            for block, part in lane:
                assert torch.equal(block.sizes, training_set.sizes[part])


def many(elements: Sequence[str] = ("Si",), seed: int = 0) -> TrainingSet:
    """Enough atoms for several lanes, sizes that fit no block."""
    sizes = [1 + (7 * k) % 40 for k in range(160)]
    weight = np.random.default_rng(seed).uniform(0.1, 2.0, len(sizes)).tolist()
    return make_set(sizes, elements, seed=seed, weight=weight)


def points_of(training_set: TrainingSet, n_members: int = 2) -> tuple[ElementNetworks, Tensor]:
    template = make_potential(training_set.descriptor.elements).networks
    rng = np.random.default_rng(3)
    return template, torch.from_numpy(rng.normal(size=(n_members, template.n_parameters)))


ELEMENTS = [("Si",), ("Si", "C")]


@pytest.mark.parametrize("elements", ELEMENTS, ids="-".join)
class TestSums:
    def test_block_size_changes_only_the_rounding(self, elements: tuple[str, ...]) -> None:
        training_set = many(elements)
        template, points = points_of(training_set)
        expected = Objective(training_set, n_lanes=1, block_atoms=10**9).evaluate(points, template)
        assert expected.gradient is not None
        for n_lanes, block_atoms in ((1, 1), (1, 100), (3, 977), (24, 4096), (24, 1)):
            found = Objective(training_set, n_lanes=n_lanes, block_atoms=block_atoms).evaluate(points, template)
            torch.testing.assert_close(found.errors.loss, expected.errors.loss, rtol=1e-13, atol=0)
            torch.testing.assert_close(found.gradient, expected.gradient, rtol=1e-11, atol=1e-13)
            torch.testing.assert_close(found.energies, expected.energies, rtol=1e-12, atol=1e-13)

    @pytest.mark.usefixtures("threads")
    def test_bits_do_not_depend_on_threads_or_members(self, elements: tuple[str, ...]) -> None:
        training_set = many(elements)
        template, points = points_of(training_set, 4)
        seen = set()
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            objective = Objective(training_set)
            assert len(objective.lanes) > 2
            for chosen in ([0, 1, 2, 3], [2], [3, 2]):
                found = objective.evaluate(points[chosen], template)
                assert found.gradient is not None
                own = chosen.index(2)
                parts = (found.errors.loss[own], found.errors.energy[own], found.energies[own], found.gradient[own])
                seen.add(tuple(part.numpy().tobytes() for part in parts))
        assert len(seen) == 1

    @pytest.mark.usefixtures("threads")
    def test_with_forces_and_stress(self, elements: tuple[str, ...], mixed_frames: MakeFrames) -> None:
        frames = [frame for seed in range(3) for frame in mixed_frames(elements, seed)]
        training_set = build_training_set(Structures.from_frames(frames), make_potential(elements))
        template, points = points_of(training_set, 3)
        weights = {"forces": 0.3, "stress": 0.2}
        expected = Objective(training_set, weights, block_atoms=10**6).evaluate(points, template)
        seen = set()
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for chosen in ([0, 1, 2], [1]):
                objective = Objective(training_set, weights, block_atoms=7)
                assert len(objective.lanes[0]) > 5
                found = objective.evaluate(points[chosen], template)
                own = chosen.index(1)
                errors = found.errors
                assert found.gradient is not None
                assert errors.forces is not None
                assert errors.stress is not None
                parts = (errors.loss[own], errors.forces[own], errors.stress[own], found.gradient[own])
                seen.add(tuple(part.numpy().tobytes() for part in parts))
                torch.testing.assert_close(errors.loss[own], expected.errors.loss[1], rtol=1e-12, atol=0)
                torch.testing.assert_close(found.gradient[own], expected.gradient[1], rtol=1e-10, atol=1e-12)  # type: ignore[index]
        assert len(seen) == 1


@pytest.fixture(scope="module")
def training_set() -> TrainingSet:
    """More structures than torch adds up in one thread."""
    weight = (10 ** np.random.default_rng(1).uniform(-6, 6, 40_000)).tolist()
    return make_set([1] * len(weight), weight=weight)


class TestManyStructures:
    @pytest.mark.usefixtures("threads")
    def test_bits(self, training_set: TrainingSet) -> None:
        """At several points: another order of summation rounds alike now and then."""
        template = make_potential(hidden=(2,)).networks
        points = torch.from_numpy(np.random.default_rng(3).normal(size=(6, template.n_parameters)))
        seen = set()
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            objective = Objective(training_set)
            together = objective.evaluate(points, template).errors.loss
            alone = torch.cat([objective.evaluate(point[None], template).errors.loss for point in points])
            seen |= {together.numpy().tobytes(), alone.numpy().tobytes()}
        assert len(seen) == 1

    @pytest.mark.usefixtures("threads")
    def test_label_weights(self, training_set: TrainingSet) -> None:
        """Several sets of weights are tried: another order of summation can round to the same by chance."""
        rng = np.random.default_rng(2)
        for _ in range(8):
            weight = torch.from_numpy(10 ** rng.uniform(-6, 6, len(training_set)))
            seen = set()
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                weights = LabelWeights.of(replace(training_set, weight=weight))
                assert float(weights["energy"].sum()) == pytest.approx(1.0, rel=1e-12)
                seen.add(tuple(value.numpy().tobytes() for value in weights.by_term.values()))
            assert len(seen) == 1


class TestBlock:
    def test_factors_scale_each_structure(self) -> None:
        """The gradient of sum_s factor_s share_s (error_s)^2, member by member."""
        training_set = make_set([3, 1, 4, 2], ("Si", "C"), weight=[1.0, 0.5, 2.0, 0.0])
        template, points = points_of(training_set)
        block = Block(training_set, LabelWeights.of(training_set), memory=0.0)
        factor = torch.tensor([[1.0, 0.0, 0.25, 7.0], [0.5, 1.0, 0.0, 1.0]], dtype=torch.float64)
        leaf = points.clone().requires_grad_()
        target = training_set.energy_used / training_set.sizes
        layout = ElementLayout.of(training_set.species, 2)
        error = block.value(template.with_flat(points).without_offset(), None, gradient=False).energies - target

        def square(leaf: Tensor) -> Tensor:
            atomic = layout.restore(template.with_flat(leaf)(layout.arrange(training_set.features)))[..., 0]
            of_structure = torch.repeat_interleave(training_set.sizes)
            energy = torch.zeros(2, 4, dtype=torch.float64).index_add(1, of_structure, atomic)
            weight = training_set.weight / training_set.weight.sum()
            return ((energy / training_set.sizes - target) ** 2 * weight * factor).sum()

        (expected,) = torch.autograd.grad(square(leaf), leaf)
        value = block.value(template.with_flat(points).without_offset(), factor, gradient=True)
        torch.testing.assert_close(
            template.gradient_from_without_offset(value.gradient), expected, rtol=1e-12, atol=1e-14
        )
        torch.testing.assert_close(value.energies - target, error, rtol=0, atol=0)
        assert block.value(template.with_flat(points).without_offset(), None, gradient=False).gradient is None
        assert block.kept_bytes == 0

    def test_a_block_forgets_the_set(self) -> None:
        """Tensors of its own: changing the set afterwards changes nothing."""
        training_set = make_set([3, 1, 4])
        template, points = points_of(training_set)
        block = Block(training_set, LabelWeights.of(training_set), memory=0.0)
        before = block.value(template.with_flat(points).without_offset(), None, gradient=True)
        training_set.features.fill_(0.0)
        after = block.value(template.with_flat(points).without_offset(), None, gradient=True)
        assert before.gradient is not None
        assert after.gradient is not None
        assert torch.equal(before.gradient, after.gradient)

    def test_sum_and_join(self) -> None:
        def value(number: float, n_members: int, n_structures: int) -> BlockValue:
            return BlockValue(
                torch.full((n_members, n_structures), number),
                {"forces": torch.full((n_members,), number), "virial": torch.full((n_members,), 2 * number)},
                torch.full((n_members, 2), number),
            )

        added = BlockValue.sum([value(1.0, 2, 3), value(10.0, 2, 1)])
        assert added.energies.tolist() == [[1.0, 1.0, 1.0, 10.0]] * 2
        assert {name: square.tolist() for name, square in added.squares.items()} == {
            "forces": [11.0, 11.0],
            "virial": [22.0, 22.0],
        }
        assert added.gradient is not None
        assert added.gradient.tolist() == [[11.0] * 2] * 2
        joined = BlockValue.join([value(1.0, 1, 2), value(2.0, 1, 2)])
        assert joined.energies.tolist() == [[1.0, 1.0], [2.0, 2.0]]
        assert joined.squares["virial"].tolist() == [2.0, 4.0]
        assert joined.gradient is not None
        assert joined.gradient.tolist() == [[1.0, 1.0], [2.0, 2.0]]


@pytest.mark.usefixtures("threads")
class TestWorkers:
    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_results_in_order_with_one_thread_each(self, count: int) -> None:
        torch.set_num_threads(count)
        workers = Workers(torch.device("cpu"))
        found = workers.map(lambda item: (item, torch.get_num_threads()), range(50))
        assert found == [(item, 1) for item in range(50)]
        assert torch.get_num_threads() == count

    def test_an_error_comes_out(self) -> None:
        torch.set_num_threads(2)

        def task(item: int) -> int:
            if item == 3:
                raise ValueError("task 3")
            return item

        with pytest.raises(ValueError, match="task 3"):
            Workers(torch.device("cpu")).map(task, range(5))

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_one_after_the_other(self, count: int) -> None:
        """In their order; beside those being computed, at most one per thread is ahead."""
        torch.set_num_threads(count)
        begun: list[int] = []

        def task(item: int) -> int:
            begun.append(item)
            assert torch.get_num_threads() == 1
            return item

        workers = Workers(torch.device("cpu"))
        for expected, found in enumerate(workers.each(task, iter(range(30)))):
            assert found == expected
            assert len(begun) <= expected + 2 * count
        assert sorted(begun) == list(range(30))

    @pytest.mark.parametrize("count", [1, 2])
    def test_an_error_ends_the_others(self, count: int) -> None:
        torch.set_num_threads(count)

        def task(item: int) -> int:
            if item == 3:
                raise ValueError("task 3")
            return item

        results = Workers(torch.device("cpu")).each(task, range(100))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="task 3"):
            next(results)

    def test_one_thread_for_a_while(self) -> None:
        torch.set_num_threads(3)
        with one_thread():
            assert torch.get_num_threads() == 1
        with pytest.raises(ValueError, match="inside"), one_thread():
            raise ValueError("inside")
        assert torch.get_num_threads() == 3

    @pytest.mark.parametrize("n", [0, 1, 1023, 1024, 1025, 100_000])
    def test_ordered_sum(self, n: int) -> None:
        values = torch.from_numpy(np.random.default_rng(n).normal(size=(3, n)))
        found = ordered_sum(values)
        np.testing.assert_allclose(found, [np.sum(row) for row in values.numpy()], rtol=1e-11, atol=1e-11)
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(ordered_sum(values), found)
            for k in range(3):
                assert torch.equal(ordered_sum(values[k]), found[k])
