"""Conditioned inputs: statistics, the first layer that absorbs them, training in them, and what stays outside."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from held_memory import PeakMemory
from sample_sets import make_potential, make_set, make_settings
from torch import Tensor

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.run_file import FitState
from pyfit_gpu.formats.training_set.reader import save_training_set
from pyfit_gpu.models.conditioning import Conditioning
from pyfit_gpu.models.networks import ElementNetworks, member_seed
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.fit import fit
from pyfit_gpu.training.history import History, StepRecord
from pyfit_gpu.training.input_statistics import ConditioningKind, condition, statistics_bytes
from pyfit_gpu.training.loss import l2_penalty
from pyfit_gpu.training.memory_plan import plan_memory
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.restarts import RESTART_MAX_RANDOM
from pyfit_gpu.training.settings import FitSettings

MakeFrames = Callable[..., list[Frame]]
TWO = ("Si", "C")
WEIGHTS = {"forces": 0.3, "stress": 0.2}
SETTINGS = make_settings(steps=4, max_iterations=4, seed=3)
KINDS: list[ConditioningKind] = ["half", "std", "centre"]


@pytest.fixture
def real(mixed_frames: MakeFrames) -> TrainingSet:
    """Structures of two elements, some with forces and stress."""
    return build_training_set(Structures.from_frames(mixed_frames(TWO, 0)), make_potential(TWO))


def conditioned(training_set: TrainingSet, kind: ConditioningKind = "half") -> Conditioning:
    found = condition(training_set, kind)
    assert found is not None
    return found


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


class TestStatistics:
    @pytest.mark.parametrize("kind", KINDS)
    def test_formulas(self, kind: ConditioningKind, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also where atoms come in several portions."""
        training_set = make_set([3, 1, 4, 2, 5, 9], TWO)
        for at_once in (4096, 5):
            monkeypatch.setattr("pyfit_gpu.training.input_statistics._AT_ONCE", at_once)
            found = conditioned(training_set, kind)
            for element in range(2):
                own = training_set.features[training_set.species == element]
                deviation = own.std(dim=0, correction=0)
                typical = deviation.square().mean().sqrt()
                scale = {
                    "half": (deviation * typical).sqrt(),
                    "std": deviation,
                    "centre": typical.expand(len(deviation)),
                }
                assert_close(found.mean[element], own.mean(dim=0))
                assert_close(found.scale[element], scale[kind])

    def test_structures_without_weight_do_not_count(self) -> None:
        training_set = make_set([3, 1, 4, 2, 5], TWO, weight=[1.0, 0.0, 2.0, 0.0, 0.5])
        found, expected = conditioned(training_set), conditioned(training_set.select([0, 2, 4]))
        assert torch.equal(found.mean, expected.mean)
        assert torch.equal(found.scale, expected.scale)
        assert not torch.equal(found.mean, conditioned(make_set([3, 1, 4, 2, 5], TWO)).mean)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("value", [0.0, 0.1, 1234.5])
    def test_constant_input(self, kind: ConditioningKind, value: float, caplog: pytest.LogCaptureFixture) -> None:
        """It has the scale s_0 and is named; also where equal inputs differ by their rounding."""
        caplog.set_level("INFO", "pyfit_gpu")
        training_set = make_set([3, 1, 4, 2, 5, 9])
        features = training_set.features.clone()
        features[:, 2] = value
        features[::2, 2] *= 1 + 4e-16
        found = conditioned(replace(training_set, features=features), kind)
        deviation = features.std(dim=0, correction=0)
        deviation[2] = 0
        assert_close(found.scale[0, 2], deviation.square().mean().sqrt())
        assert found.mean[0, 2] == pytest.approx(value, rel=1e-15)
        (line,) = caplog.messages
        assert line == "inputs that are the same for all atoms that train (number, by element): Si 3"

    def test_elements_without_spread(self, caplog: pytest.LogCaptureFixture) -> None:
        """One atom: its inputs are the mean, the scale is 1. No atom: the inputs stay as they are."""
        caplog.set_level("INFO", "pyfit_gpu")
        training_set = make_set([2, 3], ("Si", "C", "O"))
        training_set = replace(training_set, species=torch.tensor([0, 0, 1, 0, 0]))
        found = conditioned(training_set)
        assert torch.equal(found.mean[1], training_set.features[2])
        assert torch.equal(found.mean[2], torch.zeros_like(found.mean[2]))
        assert bool((found.scale[1:] == 1).all())
        assert caplog.messages == ["inputs that are the same for all atoms that train (number, by element): C all"]

    def test_many_names_are_cut(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "pyfit_gpu")
        training_set = make_set([2, 3], legendre_orders=(0, 1, 2, 3, 4))
        features = training_set.features.clone()
        features[:, :-1] = 0.5
        conditioned(replace(training_set, features=features))
        (line,) = caplog.messages
        assert line.endswith("Si 1, 2, 3, 4, 5, 6, ... (8 more)")

    def test_far_from_zero(self) -> None:
        """Spreads keep their digits beside a large mean."""
        training_set = make_set([3, 1, 4, 2, 5, 9])
        far = replace(training_set, features=training_set.features + 1e6)
        assert_close(conditioned(far, "std").scale, conditioned(training_set, "std").scale, 1e-9)

    def test_rounded_to_the_precision_of_the_set(self) -> None:
        single = conditioned(make_set([3, 1, 4], TWO).to("cpu", torch.float32))
        for values in single:
            assert values.dtype == torch.float64
            assert torch.equal(values, values.float().double())

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_lazily_read_features_have_the_same_bits(
        self, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pyfit_gpu.training.input_statistics._AT_ONCE", 7)
        save_training_set(make_set([3, 1, 4, 2, 5, 9], TWO), tmp_path / "set.h5")
        found = [
            conditioned(load_training_set(tmp_path / "set.h5", lazy=lazy).select([4, 0, 1, 5]).to("cpu", dtype))
            for lazy in (False, True)
        ]
        assert torch.equal(found[0].mean, found[1].mean)
        assert torch.equal(found[0].scale, found[1].scale)

    def test_threads_change_no_bit(self) -> None:
        training_set = make_set([3000, 2000, 4000], legendre_orders=tuple(range(12)))
        before, found = torch.get_num_threads(), []
        try:
            for n_threads in (1, 2, 3):
                torch.set_num_threads(n_threads)
                found.append(conditioned(training_set))
        finally:
            torch.set_num_threads(before)
        for other in found[1:]:
            assert torch.equal(other.mean, found[0].mean)
            assert torch.equal(other.scale, found[0].scale)

    def test_none_and_nothing_that_counts(self) -> None:
        assert condition(make_set(), "none") is None
        assert condition(make_set(weight=[0.0] * 5), "half") is None

    def test_the_memory_plan_counts_them(self) -> None:
        training_set, potential = make_set([30, 10]), make_potential()
        plans = [
            plan_memory(training_set, potential, FitSettings(conditioning=kind), memory=2**40)  # type: ignore[arg-type]
            for kind in ("none", "half")
        ]
        assert plans[1].host - plans[0].host == statistics_bytes(40, potential.descriptor.n_features, 1)

    @pytest.mark.parametrize(("sizes", "orders"), [([20000, 20000], (0,)), ([3000], tuple(range(12)))])
    def test_they_take_no_more_than_planned(self, sizes: list[int], orders: tuple[int, ...]) -> None:
        """Also of many atoms with few inputs."""
        training_set = make_set(sizes, TWO, legendre_orders=orders)
        planned = statistics_bytes(training_set.n_atoms, training_set.descriptor.n_features, 2)
        with PeakMemory() as memory:
            conditioned(training_set)
        assert memory.peak <= planned <= 1.6 * memory.peak


class TestFirstLayer:
    def networks(self) -> ElementNetworks:
        return make_potential(TWO).random_members(range(3), 1).networks

    def test_there_and_back(self) -> None:
        networks, conditioning = self.networks(), conditioned(make_set(elements=TWO))
        assert_close(conditioning.fold(conditioning.unfold(networks)).flat(), networks.flat())
        assert_close(conditioning.unfold(conditioning.fold(networks)).flat(), networks.flat())
        assert not torch.allclose(conditioning.fold(networks).flat(), networks.flat())

    def test_the_same_outputs(self) -> None:
        networks, features = self.networks(), torch.randn(2, 7, 6, dtype=torch.float64)
        conditioning = conditioned(make_set(elements=TWO, gaussian_centers=(1.7,)))
        networks = make_potential(TWO, gaussian_centers=(1.7,)).random_members(range(3), 1).networks
        z = (features - conditioning.mean[:, None]) / conditioning.scale[:, None]
        assert_close(conditioning.fold(networks)(features), networks(z))
        assert_close(conditioning.unfold(networks)(z), networks(features))

    def test_a_member_has_the_same_bits_alone(self) -> None:
        networks, conditioning = self.networks(), conditioned(make_set(elements=TWO))
        for k in range(3):
            alone = networks.member(k)
            assert torch.equal(conditioning.fold(alone).flat()[0], conditioning.fold(networks).flat()[k])
            assert torch.equal(conditioning.unfold(alone).flat()[0], conditioning.unfold(networks).flat()[k])

    def test_none_changes_no_bit(self) -> None:
        networks = self.networks()
        none = Conditioning.none(2, networks.layer_sizes[0])
        assert torch.equal(none.fold(networks).flat(), networks.flat())
        assert torch.equal(none.unfold(networks).flat(), networks.flat())


class TestObjective:
    @pytest.mark.parametrize("memory", [math.inf, 0.0])
    @pytest.mark.parametrize("weights", [{}, WEIGHTS])
    def test_chain_rule(self, weights: dict[str, float], memory: float, real: TrainingSet) -> None:
        """Loss and errors at z are those at x, and gradients go through the first layer; kept or computed anew."""
        conditioning, networks = conditioned(real), make_potential(TWO).random_members(range(2), 1).networks
        leaf = networks.flat().requires_grad_()
        folded = conditioning.fold(networks.with_flat(leaf)).flat()
        expected = Objective(real, weights, memory=memory).evaluate(folded.detach(), networks)
        found = Objective(real, weights, memory=memory, conditioning=conditioning).evaluate(leaf, networks)
        assert list(found.errors) == ["energy", *weights]
        for name in found.errors:
            assert_close(found.errors[name], expected.errors[name])
        assert_close(found.errors.loss, expected.errors.loss)
        assert found.gradient is not None
        assert expected.gradient is not None
        (chained,) = torch.autograd.grad(folded, leaf, expected.gradient)
        assert_close(found.gradient, chained, 1e-11)
        unscaled = Objective(real, weights).evaluate(leaf, networks)
        assert not torch.allclose(found.errors.loss, unscaled.errors.loss)

    @pytest.mark.parametrize("weights", [{}, WEIGHTS])
    def test_streamed(self, weights: dict[str, float], real: TrainingSet, tmp_path: Path) -> None:
        save_training_set(real, tmp_path / "set.h5")
        lazy, networks = load_training_set(tmp_path / "set.h5", lazy=True), make_potential(TWO).networks
        conditioning = conditioned(lazy)
        results = [
            Objective(part, weights, memory=0.0, stream=stream, conditioning=conditioning, block_atoms=9).evaluate(
                networks.flat(), networks
            )
            for part, stream in ((real, False), (lazy, False), (lazy, True))
        ]
        for found in results[1:]:
            assert torch.equal(found.errors.loss, results[0].errors.loss)
            assert torch.equal(found.gradient, results[0].gradient)  # type: ignore[arg-type]

    def test_single_precision(self, real: TrainingSet) -> None:
        networks, results = make_potential(TWO).networks, []
        for dtype in (torch.float64, torch.float32):
            part = real.to("cpu", dtype)
            objective = Objective(part, WEIGHTS, conditioning=conditioned(part))
            results.append(objective.evaluate(networks.flat(), networks))
        torch.testing.assert_close(results[1].gradient, results[0].gradient, rtol=1e-4, atol=1e-5)

    def test_the_set_keeps_its_features(self, real: TrainingSet) -> None:
        before = real.features.clone()
        for weights in ({}, WEIGHTS):
            Objective(real, weights, conditioning=conditioned(real))
        one = make_set()
        kept = one.features.clone()
        Objective(one, {"forces": 1.0}, conditioning=conditioned(one))
        assert torch.equal(real.features, before)
        assert torch.equal(one.features, kept)


class Seen:
    """Parameters that an observer saw, by row."""

    def __init__(self) -> None:
        self.parameters: list[Tensor] = []
        self.records: list[StepRecord] = []

    def on_start(self) -> None: ...

    def on_step(self, row: StepRecord) -> None:
        self.parameters.append(row.potential.networks.flat().clone())
        self.records.append(row)


def state_of(potential: Potential, train: TrainingSet, **keywords: object) -> tuple[History, list[FitState]]:
    states: list[FitState] = []
    history = fit(potential, train, checkpoint=lambda state, last: states.append(state()), **keywords)  # type: ignore[arg-type]
    return history, states


class TestFit:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_warm_start_of_no_steps(self, kind: ConditioningKind) -> None:
        potential, train = make_potential(TWO), make_set(elements=TWO)
        before = potential.networks.flat().clone()
        history, states = state_of(potential, train, settings=FitSettings(steps=0, conditioning=kind))
        assert torch.equal(potential.networks.flat(), before)
        assert_close(torch.tensor(history.loss), torch.tensor(fit_none(make_potential(TWO), train).loss))
        unfolded = conditioned(train, kind).unfold(potential.networks)
        assert torch.equal(states[0].last_finite, unfolded.flat())

    def test_a_warm_start_whose_first_row_is_kept(self) -> None:
        train, validation = make_set(elements=TWO), make_set(elements=TWO, seed=4)
        potential = make_potential(TWO)
        fit(potential, validation, settings=FitSettings(steps=60))
        before = potential.networks.flat()
        history, states = state_of(potential, train, validation=validation, settings=SETTINGS)
        assert history.best.kept_step == 0
        assert_close(potential.networks.flat(), before)
        for state in states:  # those of a fit that goes on have no other bits
            again = replace(potential, networks=potential.networks.with_flat(before.clone()))
            assert fit(again, train, validation, settings=SETTINGS, resume=state).loss == history.loss
            assert torch.equal(again.networks.flat(), potential.networks.flat())

    def test_outside_are_coordinates_of_the_file(self, real: TrainingSet) -> None:
        """Observers, the result, its test score: unscaled objectives give the numbers of the rows."""
        seen, potential = Seen(), make_potential(TWO)
        settings = replace(SETTINGS, force_weight=0.3)
        history = fit(potential, real, real, test=real, settings=settings, observers=[seen])
        plain = Objective(real, {"forces": 0.3})
        for parameters, row in zip(seen.parameters, seen.records, strict=True):
            loss = plain.evaluate(parameters, potential.networks, gradient=False).errors.loss
            assert float(loss) == pytest.approx(row.loss, rel=1e-11)
        assert torch.equal(potential.networks.flat(), seen.parameters[history.best.kept_step])
        assert history.best.test is not None
        assert history.best.test.energy == pytest.approx(history.errors[history.best.kept_step].energy, rel=1e-11)
        assert torch.equal(history.potential.networks.flat(), potential.networks.flat())

    def test_random_starts_are_drawn_in_z(self) -> None:
        train, seen = make_set(elements=TWO), Seen()
        drawn = make_potential(TWO).random_members(range(2), SETTINGS.seed).networks
        _, states = state_of(
            make_potential(TWO), train, members=2, settings=SETTINGS, observers=lambda k: [seen] * (not k)
        )
        assert torch.equal(states[0].last_finite, drawn.flat())
        assert torch.equal(seen.parameters[0], conditioned(train).fold(drawn).flat())

    def test_restarts_are_drawn_in_z(self) -> None:
        settings = replace(SETTINGS, error_restart_level=1e-9)
        _, states = state_of(make_potential(TWO), make_set(elements=TWO), settings=settings)
        drawn = make_potential(TWO).randomized(member_seed(SETTINGS.seed, 3, 0), RESTART_MAX_RANDOM)
        assert torch.equal(states[-1].last_finite, drawn.networks.flat())

    def test_the_penalty_is_on_the_scaled_parameters(self) -> None:
        train = make_set(elements=TWO)
        history, states = state_of(make_potential(TWO), train, settings=replace(SETTINGS, l2=1e-3))
        scaled = make_potential(TWO).networks.with_flat(states[-1].last_finite)
        expected = history.loss[-1] + 1e-3 * l2_penalty(scaled)
        assert_close(states[-1].optimizer["loss"], expected)
        assert not torch.allclose(l2_penalty(conditioned(train).fold(scaled)), l2_penalty(scaled))

    def test_as_few_evaluations_as_it_promises(self) -> None:
        """Inputs of very different sizes: conditioned, the loss is far lower after equally many steps."""
        train = make_set([3, 1, 4, 2, 5, 9])
        sizes = torch.logspace(-3, 0, train.features.shape[1], dtype=torch.float64)
        train = replace(train, features=2 + sizes * train.features)
        losses = [
            fit(make_potential(), train, members=1, settings=replace(SETTINGS, steps=20, conditioning=kind)).loss[-1]  # type: ignore[arg-type]
            for kind in ("half", "none")
        ]
        assert losses[0] < 0.5 * losses[1]

    def test_members_alone_are_members_together(self) -> None:
        train, validation = make_set(elements=TWO), make_set(elements=TWO, seed=7)
        together = fit(make_potential(TWO), train, validation, members=3, settings=SETTINGS)
        for k in range(3):
            alone = fit(make_potential(TWO), train, validation, members=1, first_member=k, settings=SETTINGS)
            assert alone.members[0].to_json() == together.members[k].to_json()
            assert torch.equal(alone.potential.networks.flat()[0], together.potential.networks.flat()[k])

    @pytest.mark.parametrize("cut", [0, 1, 3])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_resume(self, cut: int, dtype: torch.dtype) -> None:
        """From any state, with random starts: also from before the first row. Settings of the state win."""
        train = make_set(elements=TWO).to("cpu", dtype)
        whole, seen = make_potential(TWO), Seen()
        history, states = state_of(whole, train, members=2, settings=SETTINGS, observers=lambda k: [seen] * (not k))
        resumed, later = make_potential(TWO), Seen()
        settings = replace(SETTINGS, conditioning="none")
        again = fit(resumed, train, members=2, settings=settings, resume=states[cut],
                    observers=lambda k: [later] * (not k))  # fmt: skip
        assert [one.to_json() for one in again.members] == [one.to_json() for one in history.members]
        assert torch.equal(again.potential.networks.flat(), history.potential.networks.flat())
        assert torch.equal(resumed.networks.flat(), whole.networks.flat())
        assert torch.equal(later.parameters[0][0], seen.parameters[cut][0])

    def test_a_state_without_statistics_goes_on_unscaled(self) -> None:
        train = make_set(elements=TWO)
        history, states = state_of(make_potential(TWO), train, settings=replace(SETTINGS, conditioning="none"))
        assert states[2].conditioning is None
        again = fit(make_potential(TWO), train, settings=SETTINGS, resume=states[2])
        assert again.loss == history.loss

    @pytest.mark.parametrize("forces", [0.0, 0.3])
    def test_streamed_is_in_memory(self, forces: float, real: TrainingSet, tmp_path: Path) -> None:
        save_training_set(real, tmp_path / "set.h5")
        lazy = load_training_set(tmp_path / "set.h5", lazy=True)
        settings = replace(SETTINGS, force_weight=forces)
        plan = plan_memory(lazy, make_potential(TWO), settings, memory=2**40)
        losses = [
            fit(make_potential(TWO), part, settings=settings, plan=replace(plan, stream=stream, kept_bytes=0)).loss
            for part, stream in ((real, False), (lazy, True))
        ]
        assert losses[0] == losses[1]


def fit_none(potential: Potential, train: TrainingSet) -> History:
    return fit(potential, train, settings=FitSettings(steps=0, conditioning="none"))


def test_settings() -> None:
    assert FitSettings().conditioning == "half"
    with pytest.raises(InputError, match="conditioning: expected half, std, centre, none, got 'full'"):
        FitSettings(conditioning="full")  # type: ignore[arg-type]
