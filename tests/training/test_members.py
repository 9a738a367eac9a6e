"""Several networks in one fit: each as if it were alone, with an end, restarts and observers of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from objective_values import errors_of
from sample_sets import NAN, make_potential, make_set, make_settings
from torch import Tensor

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.networks import member_seed
from pyfit_gpu.models.potential import Potential, join_members
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training import closure
from pyfit_gpu.training.fit import TrainingFailure, fit
from pyfit_gpu.training.history import History, MemberHistory, StepRecord
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.restarts import RESTART_MAX_RANDOM
from pyfit_gpu.training.settings import FitSettings, Keep

MakeFrames = Callable[..., list[Frame]]
BOTH_ELEMENTS = ("Si", "C")
SETTINGS = make_settings(steps=4, max_iterations=6, seed=11)


pytestmark = pytest.mark.usefixtures("small_lanes", "threads")


def bits(potential: Potential, member: int = 0) -> bytes:
    return potential.networks.flat()[member].numpy().tobytes()


def sets(elements: Sequence[str] = ("Si",)) -> tuple[TrainingSet, TrainingSet]:
    weight = np.random.default_rng(2).uniform(0.2, 2.0, 200).tolist()
    train = make_set([1 + (5 * k) % 30 for k in range(200)], elements, seed=1, weight=weight)
    return train, make_set([3, 1, 4, 2, 2], elements, seed=2)


def assert_alike(found: MemberHistory, expected: MemberHistory) -> None:
    """Every number, bit for bit."""
    assert found.to_json() == expected.to_json()


VARIANTS = {
    "strong Wolfe": {},
    "classic": {"line_search": "none", "learning_rate": 0.05},
    "penalty": {"l2": 1e-3},
    "targets": {"group_targets": {"a": 0.05}},
    "ramp": {"learning_rate_ramp": 3},
    "short memory": {"history_size": 2, "steps": 6},
}


class TestAsIfAlone:
    """Member k among K has the bits of member k by itself."""

    @pytest.mark.parametrize("elements", [("Si",), BOTH_ELEMENTS], ids="-".join)
    @pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
    def test_energies(self, variant: dict[str, object], elements: tuple[str, ...]) -> None:
        train, validation = sets(elements)
        settings = make_settings(SETTINGS, **variant)
        potential = make_potential(elements)
        together = fit(potential, train, validation, members=3, settings=settings)
        assert len({member.loss[-1] for member in together.members}) == 3
        for k in (0, 1, 2):
            own = make_potential(elements)
            alone = fit(own, train, validation, members=1, first_member=k, settings=settings)
            assert_alike(together.members[k], alone.members[0])
            assert bits(together.potential, k) == bits(own)

    def test_forces_and_stress(self, mixed_frames: MakeFrames) -> None:
        frames = [frame for seed in (0, 1, 2) for frame in mixed_frames(BOTH_ELEMENTS, seed)]
        whole = build_training_set(Structures.from_frames(frames), make_potential(BOTH_ELEMENTS))
        train, validation = whole.select(range(4, len(whole))), whole.select(range(4))
        settings = make_settings(SETTINGS, steps=3, force_weight=0.3, stress_weight=0.2)
        together = fit(make_potential(BOTH_ELEMENTS), train, validation, members=3, settings=settings)
        assert together.errors[0].forces is not None
        for k in (0, 2):
            own = make_potential(BOTH_ELEMENTS)
            alone = fit(own, train, validation, members=1, first_member=k, settings=settings)
            assert_alike(together.members[k], alone.members[0])
            assert bits(together.potential, k) == bits(own)

    @pytest.mark.parametrize("elements", [("Si",), BOTH_ELEMENTS], ids="-".join)
    def test_with_any_number_of_threads(self, elements: tuple[str, ...]) -> None:
        """Several lanes, so that threads have something to share."""
        train, validation = sets(elements)
        assert len(Objective(train).lanes) > 1
        seen = set()
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            together = fit(make_potential(elements), train, validation, members=3, settings=SETTINGS)
            own = make_potential(elements)
            alone = fit(own, train, validation, members=1, first_member=1, settings=SETTINGS)
            assert_alike(together.members[1], alone.members[0])
            assert bits(together.potential, 1) == bits(own)
            seen.add((bits(own), together.potential.networks.flat().numpy().tobytes()))
        assert len(seen) == 1

    def test_wide_networks_with_any_number_of_threads(self) -> None:
        """So many weights that torch would share out their products."""
        train, seen = make_set([3, 1, 4] * 20), set()
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            potential = make_potential(hidden=(200, 180), max_random=0.1)
            assert potential.networks.n_parameters > 32_768
            fit(potential, train, settings=replace(SETTINGS, l2=1e-3), steps=2)
            seen.add(bits(potential))
        assert len(seen) == 1

    def test_given_potentials(self) -> None:
        """K starts of the user's own: those of the potential, in their order."""
        train, validation = sets()
        starts = [make_potential(seed=seed) for seed in (5, 6, 7)]
        joined = join_members(starts)
        together = fit(joined, train, validation, settings=SETTINGS)
        assert together.potential is joined
        for k, start in enumerate(starts):
            alone = fit(start, train, validation, settings=SETTINGS)
            assert_alike(together.members[k], alone.members[0])
            assert bits(joined, k) == bits(start)

    def test_single_precision(self) -> None:
        train, validation = (part.to("cpu", torch.float32) for part in sets())
        together = fit(make_potential(), train, validation, members=2, settings=SETTINGS)
        own = make_potential()
        alone = fit(own, train, validation, members=1, first_member=1, settings=SETTINGS)
        assert_alike(together.members[1], alone.members[0])
        assert bits(together.potential, 1) == bits(own)

    def test_tests_are_scored_alike(self) -> None:
        train, validation = sets()
        test = make_set([2, 5, 1], seed=9)
        together = fit(make_potential(), train, validation, test=test, members=2, settings=SETTINGS)
        alone = fit(make_potential(), train, validation, test=test, members=1, first_member=1, settings=SETTINGS)
        assert alone.members[0].test is not None
        assert together.members[1].test == alone.members[0].test
        assert together.members[1].test_group_errors == alone.members[0].test_group_errors


class TestSeeds:
    def test_numbers_of_members(self) -> None:
        """A later job continues the numbering of an earlier one."""
        train, _ = sets()
        first = fit(make_potential(), train, members=4, settings=SETTINGS, steps=1)
        later = fit(make_potential(), train, members=2, first_member=2, settings=SETTINGS, steps=1)
        for k in (0, 1):
            assert_alike(first.members[2 + k], later.members[k])

    def test_the_first_member_is_the_classic_start(self) -> None:
        """The first member starts as a network that is drawn without members."""
        train, _ = sets()
        drawn = make_potential().randomized(SETTINGS.seed)
        assert_alike(
            fit(make_potential(), train, members=2, settings=SETTINGS).members[0],
            fit(drawn, train, settings=SETTINGS, random_starts=True).members[0],
        )

    def test_neighbouring_seeds_have_nothing_in_common(self) -> None:
        """Job arrays count up their seeds, members and restarts are counted up beside them."""
        potential = make_potential(hidden=(2,))
        seen = set()
        for seed in range(6):
            for restart in range(4):
                for member in range(6):
                    drawn = potential.randomized(member_seed(seed, restart, member)).networks.flat()[0]
                    seen.add(drawn.numpy().tobytes())
        assert len(seen) == 6 * 4 * 6

    def test_no_seed_draws_anew(self) -> None:
        assert member_seed(None, 2, 5) is None
        settings = replace(SETTINGS, seed=None, steps=0)
        train, _ = sets()
        seen = {loss for _ in range(2) for loss in self.starts(train, settings)}
        assert len(seen) == 6

    def starts(self, train: TrainingSet, settings: FitSettings) -> list[float]:
        return [member.loss[0] for member in fit(make_potential(), train, members=3, settings=settings).members]

    @pytest.mark.parametrize("members", [0, -1])
    def test_how_many(self, members: int) -> None:
        with pytest.raises(InputError, match=f"members: expected a whole number above 0, got {members}"):
            fit(make_potential(), make_set(), members=members)


class Recorder:
    """Rows of one member, attempt by attempt, with its weights in the potential at that moment."""

    def __init__(self) -> None:
        self.attempts: list[list[StepRecord]] = []
        self.weights: list[Tensor] = []
        self.energies: list[Tensor] = []

    def on_start(self) -> None:
        self.attempts.append([])
        self.weights.clear()
        self.energies.clear()

    def on_step(self, row: StepRecord) -> None:
        self.attempts[-1].append(row)
        self.weights.append(row.potential.networks.flat()[row.member].clone())
        self.energies.append(row.energies_per_atom())


def recorders(count: int) -> tuple[list[Recorder], Callable[[int], list[Recorder]]]:
    made = [Recorder() for _ in range(count)]
    return made, lambda k: [made[k]]


class Evaluations:
    """Which members the optimiser has evaluated, call by call; `spoil` says whose loss is lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[int], bool] = lambda k: False) -> None:
        self.calls: list[list[int]] = []
        real = closure.Closure.__call__

        def evaluate(self_: object, points: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            loss, gradient, extras = real(self_, points, members)  # type: ignore[arg-type]
            self.calls.append(members.tolist())
            lost = torch.tensor([spoil(k) for k in members.tolist()])
            loss, extras = loss.clone(), extras.clone()
            loss[lost], extras[lost, 0] = NAN, NAN
            return loss, gradient, extras

        monkeypatch.setattr(closure.Closure, "__call__", evaluate)


class TestEnds:
    def ended(self, monkeypatch: pytest.MonkeyPatch) -> tuple[History, Evaluations, list[Recorder], list[StepRecord]]:
        """Three members of which the target stops at least two, at different steps."""
        train, validation = sets()
        free = fit(make_potential(), train, validation, members=3, settings=SETTINGS, steps=8)
        curves = [[errors.energy for errors in member.validation_errors.values()] for member in free.members]
        fourth = sorted(curve[4] for curve in curves)
        target = 0.5 * (fourth[1] + fourth[2])  # the third is behind
        seen = Evaluations(monkeypatch)
        made, of_member = recorders(3)
        settings = replace(SETTINGS, steps=8, target_rmse=target)
        history = fit(make_potential(), train, validation, members=3, settings=settings, observers=of_member)
        expected = [next((s for s, e in enumerate(curve) if e <= target), 8) for curve in curves]
        assert [member.step for member in history.members] == expected
        return history, seen, made, [row for one in made for row in one.attempts[-1]]

    def test_each_has_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        history, _, made, _ = self.ended(monkeypatch)
        steps = [member.step for member in history.members]
        assert len(set(steps)) > 1
        assert [member.status for member in history.members].count("target") >= 2
        for member, recorder in zip(history.members, made, strict=True):
            assert [row.step for row in recorder.attempts[-1]] == list(range(member.step + 1))

    def test_who_has_ended_is_not_evaluated_any_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        history, seen, _, _ = self.ended(monkeypatch)
        counts = [sum(k in call for call in seen.calls) for k in range(3)]
        assert counts == [member.n_evaluations for member in history.members]
        longest = max(range(3), key=lambda k: history.members[k].step)
        assert any(call == [longest] for call in seen.calls)
        assert history.n_evaluations == sum(counts)

    def test_nor_validated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        history, _, _, _ = self.ended(monkeypatch)
        for member in history.members:
            assert list(member.validation) == list(range(member.step + 1))


class TestObservers:
    def test_of_each_member(self) -> None:
        train, validation = sets()
        made, of_member = recorders(3)
        history = fit(
            make_potential(),
            train,
            validation,
            members=3,
            settings=replace(SETTINGS, keep="last", conditioning="none"),
            observers=of_member,
        )
        for k, (recorder, member) in enumerate(zip(made, history.members, strict=True)):
            (rows,) = recorder.attempts
            assert {row.member for row in rows} == {k}
            assert [row.loss for row in rows] == member.loss
            assert [row.validation for row in rows] == list(member.validation.values())
            assert recorder.weights[-1].numpy().tobytes() == bits(history.potential, k)
            for row, weights, energies in zip(rows, recorder.weights, recorder.energies, strict=True):
                own = Objective(train).evaluate(weights[None], history.potential.networks)
                assert float(own.errors.loss) == row.loss
                assert torch.equal(own.energies[0], energies)
                groups = Objective(train).group_errors(own.energies)[0].tolist()
                assert row.group_errors == dict(zip("abc", groups, strict=True))
                assert set(row.validation_group_errors) == {"a", "b", "c"}

    def test_one_list_sees_all(self) -> None:
        train, _ = sets()
        recorder = Recorder()
        fit(make_potential(), train, members=2, settings=SETTINGS, steps=1, observers=[recorder])
        rows = [row for rows in recorder.attempts for row in rows]
        assert [(row.step, row.member) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]


class TestResult:
    def test_the_best_and_all(self) -> None:
        """The given potential becomes the best; all members are the history's."""
        train, validation = sets()
        potential = make_potential()
        history = fit(potential, train, validation, members=4, settings=SETTINGS)
        scores = [min(member.validation.values()) for member in history.members]
        assert history.ranking == sorted(range(4), key=scores.__getitem__)
        assert [member.score for member in history.members] == scores
        assert history.potential.networks.n_members == 4
        assert potential.networks.n_members == 1
        assert bits(potential) == bits(history.potential, history.ranking[0])
        assert history.loss == history.members[history.ranking[0]].loss
        objective = Objective(validation)
        found = objective.evaluate(history.potential.networks.flat(), potential.networks, gradient=False)
        assert found.errors.loss.tolist() == scores

    def test_both_take_over_the_shift(self) -> None:
        train = replace(sets()[0], energy_shift=(2.5,))
        potential = make_potential()
        history = fit(potential, train, members=2, steps=0)
        assert potential.energy_shift.tolist() == history.potential.energy_shift.tolist() == [2.5]

    def test_without_validation_by_training_loss(self) -> None:
        train, _ = sets()
        history = fit(make_potential(), train, members=4, settings=SETTINGS)
        assert history.ranking == sorted(range(4), key=lambda k: history.members[k].loss[-1])

    @pytest.mark.parametrize("keep", ["last", "best"])
    def test_last_weights_are_ranked_by_their_own_validation(self, keep: Keep) -> None:
        """Also those of a step that had no validation in its row."""
        train, validation = sets()
        settings = replace(SETTINGS, keep=keep, validation_interval=3, steps=4, conditioning="none")
        history = fit(make_potential(), train, validation, members=3, settings=settings)
        scores = errors_of(Objective(validation), history.potential.networks).loss.tolist()
        assert [member.score for member in history.members] == scores
        assert {member.kept_step for member in history.members} <= ({4} if keep == "last" else {0, 3, 4})
        for member in history.members:
            assert list(member.validation) == [0, 3]


def lose(number: int, recorder: Recorder, attempts: Sequence[int], after: int = 2) -> Callable[[int], bool]:
    """The loss of this member is lost after so many steps of each of these attempts, counted from 1."""

    def lost(k: int) -> bool:
        return k == number and len(recorder.attempts) in attempts and len(recorder.attempts[-1]) > after

    return lost


class TestRestarts:
    def test_of_one_member_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It begins anew with other weights and counts its steps from 0; the others notice nothing."""
        train, validation = sets()
        settings = make_settings(SETTINGS, line_search="none", steps=5)
        undisturbed = fit(make_potential(), train, validation, members=3, settings=settings)
        made, of_member = recorders(3)
        with monkeypatch.context() as patch:
            Evaluations(patch, lose(1, made[1], [1]))
            history = fit(make_potential(), train, validation, members=3, settings=settings, observers=of_member)
        for k in (0, 2):
            assert_alike(history.members[k], undisturbed.members[k])
            assert len(made[k].attempts) == 1
        restarted = history.members[1]
        assert restarted.n_restarts == 1
        assert len(made[1].attempts) == 2
        assert [row.step for row in made[1].attempts[1]] == [0, 1, 2, 3, 4, 5]
        assert restarted.status == "steps"
        drawn = make_potential().randomized(member_seed(settings.seed, 1, 1), RESTART_MAX_RANDOM)
        fresh = fit(drawn, train, validation, settings=settings, random_starts=True)
        assert restarted.loss == fresh.loss
        assert restarted.validation == fresh.validation
        assert bits(history.potential, 1) == bits(drawn)

    def test_a_start_that_is_no_number(self) -> None:
        train, validation = sets()
        starts = [make_potential(seed=seed) for seed in (5, 6, 7)]
        starts[1].networks.biases[-1].fill_(NAN)
        history = fit(join_members(starts), train, validation, settings=SETTINGS)
        assert [member.n_restarts for member in history.members] == [0, 1, 0]
        assert all(member.status == "steps" for member in history.members)
        for k in (0, 2):
            assert_alike(history.members[k], fit(starts[k], train, validation, settings=SETTINGS).members[0])

    def test_one_that_is_lost_for_good(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        """After three restarts it fails; the others reach their end, and it is the last of the ranking."""
        train, validation = sets()
        settings = make_settings(SETTINGS, line_search="none", steps=6)
        undisturbed = fit(make_potential(), train, validation, members=3, settings=settings)
        made, of_member = recorders(3)
        with monkeypatch.context() as patch:
            seen = Evaluations(patch, lose(1, made[1], [1, 2, 3, 4], after=0))
            history = fit(make_potential(), train, validation, members=3, settings=settings, observers=of_member)
        failed = history.members[1]
        assert (failed.status, failed.n_restarts, failed.score) == ("failed", 3, math.inf)
        assert history.ranking[2] == 1
        assert "restart 3 of 3" in caplog.text
        assert "member 1: after step 1 the loss is nan" in caplog.text
        for k in (0, 2):
            assert_alike(history.members[k], undisturbed.members[k])
        assert seen.calls[-1] == [0, 2]
        assert history.potential.networks.flat().isfinite().all()

    def test_all_are_lost(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each with weights for which its loss was a number."""
        train, _ = sets()
        potential = join_members([make_potential(seed=seed) for seed in (5, 6)])
        Evaluations(monkeypatch, lambda k: True)
        with pytest.raises(TrainingFailure, match="the loss is nan"):
            fit(potential, train, settings=SETTINGS)
        assert potential.networks.flat().isfinite().all()

    def test_a_level_counts_for_each(self) -> None:
        """A loss above it restarts its member only; after three restarts that member gives up."""
        train, validation = sets()
        starts = [make_potential(seed=seed) for seed in (5, 6)]
        starts[1].networks.biases[-1].fill_(50.0)
        settings = replace(SETTINGS, error_restart_level=10.0)
        history = fit(join_members(starts), train, validation, settings=settings)
        assert [member.n_restarts for member in history.members] == [0, 1]
        given_up = fit(
            join_members([make_potential(seed=seed) for seed in (5, 6)]),
            train,
            validation,
            settings=replace(SETTINGS, error_restart_level=1e-9),
        )
        assert [member.status for member in given_up.members] == ["gave up"] * 2
        assert [member.score for member in given_up.members] == [math.inf] * 2
