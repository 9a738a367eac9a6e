"""When a fit stops and which weights it keeps: validation, target, time, a file, signals."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_sets import make_potential, make_set, make_settings

from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.commands.train.job import run_fit
from pyfit_gpu.commands.train.outputs import TrainingOutputs
from pyfit_gpu.datasets.splits import Split
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import load_potential
from pyfit_gpu.formats.run_file import load_run
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.optimizers.auto_settings import AutoSettings
from pyfit_gpu.optimizers.base import OptimizerSettings
from pyfit_gpu.optimizers.gauss_newton_settings import GaussNewtonSettings
from pyfit_gpu.training import loop as fit_run
from pyfit_gpu.training.fit import fit
from pyfit_gpu.training.history import History, StepRecord
from pyfit_gpu.training.loss import Errors
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.restarts import Restarts
from pyfit_gpu.training.settings import FitSettings

TRAIN = make_set([3, 1, 4, 2, 5, 2], seed=1)
VALIDATION = make_set([2, 4, 3], seed=2)


class Weights:
    """Parameters of the potential at each row."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_start(self) -> None:
        self.seen.clear()

    def on_step(self, row: StepRecord) -> None:
        self.seen.append(row.potential.networks.flat())


def scripted(monkeypatch: pytest.MonkeyPatch, losses: list[float], energies: list[float] | None = None) -> None:
    """Validation says these numbers, one after the other, whatever the networks are."""
    values = iter(zip(losses, energies or losses, strict=True))
    real = Objective.evaluate

    def evaluate(self: Objective, *arguments: object, **options: object) -> object:
        found = real(self, *arguments, **options)  # type: ignore[arg-type]
        if len(found.energies[0]) == len(VALIDATION) and options.get("gradient") is False:
            loss, energy = next(values)
            zero = found.errors.loss * 0
            found = replace(found, errors=Errors(zero + loss, {"energy": zero + energy}))
        return found

    monkeypatch.setattr(Objective, "evaluate", evaluate)


def run(settings: FitSettings, **keywords: object) -> tuple[History, Potential, list[torch.Tensor]]:
    potential, weights = make_potential(), Weights()
    history = fit(potential, TRAIN, VALIDATION, settings=settings, observers=[weights], **keywords)  # type: ignore[arg-type]
    return history, potential, weights.seen


@pytest.mark.parametrize("optimizer", [GaussNewtonSettings(), AutoSettings()], ids=lambda one: one.name)
class TestOtherOptimizers:
    """Whatever optimises, a fit ends as it does with LBFGS."""

    def test_patience(self, monkeypatch: pytest.MonkeyPatch, optimizer: OptimizerSettings) -> None:
        scripted(monkeypatch, [5.0, 4.0, 4.5, 4.1, 3.0])
        history, potential, weights = run(FitSettings(steps=9, patience=2, optimizer=optimizer))
        assert (history.best.step, history.best.kept_step, history.best.status) == (3, 1, "patience")
        assert torch.equal(potential.networks.flat(), weights[1])
        assert not torch.equal(weights[1], weights[3])

    def test_target(self, monkeypatch: pytest.MonkeyPatch, optimizer: OptimizerSettings) -> None:
        scripted(monkeypatch, [9.0, 9.0, 9.0, 9.0], energies=[0.5, 0.4, 0.2, 0.1])
        history, _, _ = run(FitSettings(steps=9, target_rmse=0.3, optimizer=optimizer))
        assert (history.best.step, history.best.status) == (2, "target")

    def test_time(self, monkeypatch: pytest.MonkeyPatch, optimizer: OptimizerSettings) -> None:
        ticks = itertools.count()
        monkeypatch.setattr("pyfit_gpu.training.loop.time.monotonic", lambda: 10.0 * next(ticks))
        history, _, _ = run(FitSettings(steps=1000, max_time=200.0, optimizer=optimizer))
        assert history.end == "time"
        assert 0 < history.best.step < 20


class TestPatience:
    CURVE = (5.0, 4.0, 4.5, 4.1, 3.0, 3.1, 3.2, 3.3, 2.0, 1.0)

    @pytest.mark.parametrize(
        ("patience", "min_improvement", "step"),
        [
            (1, 0.0, 2),  # after the first validation that is no better
            (2, 0.0, 3),
            (3, 0.0, 7),
            (4, 0.0, 9),
            (0, 0.0, 9),
            (2, 0.5, 3),
            (2, 1.0, 2),  # 5 to 4 is no improvement of more than 1; 5 to 3 would be
            (3, 1.5, 3),
            (4, 1.5, 8),
        ],
    )
    def test_steps(self, monkeypatch: pytest.MonkeyPatch, patience: int, min_improvement: float, step: int) -> None:
        scripted(monkeypatch, list(self.CURVE))
        history, _, _ = run(FitSettings(steps=9, patience=patience, min_improvement=min_improvement))
        assert history.best.step == step
        assert history.best.status == ("patience" if step < 9 else "steps")
        assert history.end == "done"

    def test_counts_validations_not_steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scripted(monkeypatch, [5.0, 4.0, 4.5, 4.6, 9.0])
        history, _, _ = run(FitSettings(steps=50, patience=2, validation_interval=3))
        assert list(history.validation) == [0, 3, 6, 9]
        assert (history.best.step, history.best.status, history.best.kept_step) == (9, "patience", 3)

    def test_small_improvements_are_kept_although_they_do_not_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scripted(monkeypatch, [5.0, 4.9, 4.8, 4.7])
        history, potential, weights = run(FitSettings(steps=9, patience=3, min_improvement=1.0))
        assert (history.best.step, history.best.kept_step, history.best.status) == (3, 3, "patience")
        assert torch.equal(potential.networks.flat(), weights[3])

    def test_slow_improvements_add_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """They are measured from the last one that counted."""
        scripted(monkeypatch, [5.0, 4.6, 4.2, 3.8, 3.4, 3.0])
        history, _, _ = run(FitSettings(steps=5, patience=3, min_improvement=1.0))
        assert history.best.status == "steps"

    def test_without_validation_there_is_none(self) -> None:
        history = fit(make_potential(), TRAIN, settings=FitSettings(steps=4, patience=1, min_improvement=9.0))
        assert history.best.status == "steps"

    def test_a_restart_forgets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Earlier validations count for nothing."""
        scripted(monkeypatch, [5.0, 1.0, 6.0, 5.0, 4.0, 3.0, 2.0])
        lost = iter([False] * 2 + [True] + [False] * 99)
        real = Restarts.is_lost
        monkeypatch.setattr(Restarts, "is_lost", lambda self, loss: real(self, loss) or next(lost))
        settings = FitSettings(steps=4, patience=2, error_restart_level=1e9, seed=1)
        history, _, _ = run(settings)
        assert (history.n_restarts, history.best.status, history.best.kept_step) == (1, "steps", 4)
        assert list(history.validation.values()) == [6.0, 5.0, 4.0, 3.0, 2.0]


class TestKeep:
    @pytest.mark.parametrize(
        ("curve", "kept"),
        [([5.0, 4.0, 3.0, 2.0], 3), ([5.0, 2.0, 3.0, 2.5], 1), ([5.0, 2.0, 2.0, 2.0], 1), ([1.0, 2.0, 3.0, 4.0], 0)],
    )
    def test_best(self, monkeypatch: pytest.MonkeyPatch, curve: list[float], kept: int) -> None:
        """The first of the least; also the start, where training made it only worse."""
        scripted(monkeypatch, curve)
        history, potential, weights = run(FitSettings(steps=3, conditioning="none"))
        assert history.best.kept_step == kept
        assert torch.equal(potential.networks.flat(), weights[kept])
        assert history.best.score == min(curve)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_what_is_kept_scores_as_the_row_said(self, dtype: torch.dtype) -> None:
        train, validation = (part.to("cpu", dtype) for part in (TRAIN, VALIDATION))
        potential = make_potential()
        history = fit(potential, train, validation, settings=FitSettings(steps=30))
        least = min(history.validation.values())
        assert history.validation[history.best.kept_step] == least
        found = Objective(validation).evaluate(potential.networks.flat(), potential.networks)
        assert float(found.errors.loss) == least
        assert history.best.kept_step < 30

    def test_last(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scripted(monkeypatch, [5.0, 2.0, 3.0, 2.5])
        history, potential, weights = run(FitSettings(steps=3, keep="last"))
        assert history.best.kept_step == 3
        assert torch.equal(potential.networks.flat(), weights[3])
        assert history.best.score == 2.5

    def test_without_validation_the_last(self) -> None:
        for validation, interval in ((None, 1), (VALIDATION, 0)):
            potential, weights = make_potential(), Weights()
            settings = FitSettings(steps=3, validation_interval=interval)
            history = fit(potential, TRAIN, validation, settings=settings, observers=[weights])
            assert history.best.kept_step == 3
            assert torch.equal(potential.networks.flat(), weights.seen[3])

    def test_only_what_was_validated(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scripted(monkeypatch, [5.0, 4.0, 4.5, 4.25])
        history, potential, weights = run(FitSettings(steps=7, validation_interval=3))
        assert list(history.validation) == [0, 3, 6]
        assert (history.best.kept_step, history.best.score) == (3, 4.0)
        assert torch.equal(potential.networks.flat(), weights[3])

    def test_last_weights_may_be_the_best(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """They are validated at the end, whether or not their row was."""
        scripted(monkeypatch, [5.0, 4.0, 4.5, 3.5])
        history, potential, weights = run(FitSettings(steps=7, validation_interval=3))
        assert list(history.validation) == [0, 3, 6]
        assert (history.best.kept_step, history.best.score) == (7, 3.5)
        assert torch.equal(potential.networks.flat(), weights[7])

    def test_when_interrupted_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scripted(monkeypatch, [5.0, 2.0, 3.0, 2.5])
        asked = itertools.count()
        history, potential, weights = run(FitSettings(steps=9), should_stop=lambda: next(asked) == 3)
        assert (history.end, history.best.kept_step) == ("interrupted", 1)
        assert torch.equal(potential.networks.flat(), weights[1])

    def test_unknown(self) -> None:
        with pytest.raises(InputError, match="keep: expected best or last, got 'first'"):
            FitSettings(keep="first")  # type: ignore[arg-type]

    def test_structures_of_weight_0_validate_nothing(self) -> None:
        silent = replace(VALIDATION, weight=torch.zeros(3, dtype=torch.float64))
        history = fit(make_potential(), TRAIN, silent, settings=FitSettings(steps=2))
        assert history.validation == {}
        assert history.best.kept_step == 2


class TestTarget:
    def test_of_validation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The energy RMSE counts, not the loss with its other terms."""
        scripted(monkeypatch, [9.0, 8.0, 0.1, 7.0, 6.0], energies=[5.0, 4.0, 3.0, 1.5, 1.0])
        history, _, _ = run(FitSettings(steps=9, target_rmse=1.5))
        assert (history.best.step, history.best.status) == (3, "target")

    @pytest.mark.parametrize("validation", [None, VALIDATION], ids=["none", "never looked at"])
    def test_of_training(self, validation: TrainingSet | None) -> None:
        """Where nothing validates."""
        free = fit(make_potential(), TRAIN, steps=8).loss
        assert free[4] < free[3]
        settings = FitSettings(steps=8, target_rmse=0.5 * (free[3] + free[4]), validation_interval=0)
        history = fit(make_potential(), TRAIN, validation, settings=settings)
        assert (history.loss, history.best.status) == (free[:5], "target")

    def test_only_where_it_validates(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scripted(monkeypatch, [5.0, 1.0, 0.5])
        history, _, _ = run(FitSettings(steps=9, target_rmse=1.5, validation_interval=4))
        assert (history.best.step, history.best.status) == (4, "target")

    def test_reached_at_the_start(self) -> None:
        potential = make_potential()
        before = potential.networks.flat()
        history = fit(potential, TRAIN, VALIDATION, settings=FitSettings(steps=5, target_rmse=99.0))
        assert (history.best.step, history.best.status) == (0, "target")
        assert torch.equal(potential.networks.flat(), before)


class Clock:
    """Time that passes only where it is told to; `step` seconds in each step of the optimiser."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: list[float]) -> None:
        self.now = 1000.0
        lengths = iter(steps)
        real = fit_run.FitRun._step

        def step(one: fit_run.FitRun, running: list[int]) -> None:
            real(one, running)
            self.now += next(lengths)

        monkeypatch.setattr(fit_run.FitRun, "_step", step)
        monkeypatch.setattr("time.monotonic", lambda: self.now)


class TestTime:
    @pytest.mark.parametrize(
        ("lengths", "limit", "steps"),
        [
            ([1.0] * 20, 5.0, 4),  # a fifth step would end at 5, but may be longer than those before
            ([1.0] * 20, 5.3, 5),
            ([3.0] + [1.0] * 20, 10.0, 5),  # the longest counts: 6 + 3.6 is below 10, 7 + 3.6 is not
            ([1.0] * 20, 0.0, 9),
            ([1.0] * 20, 1e9, 9),
        ],
    )
    def test_ends_before_the_step_that_would_pass_it(
        self, monkeypatch: pytest.MonkeyPatch, lengths: list[float], limit: float, steps: int
    ) -> None:
        clock = Clock(monkeypatch, lengths)
        history = fit(make_potential(), TRAIN, settings=FitSettings(steps=9, max_time=limit))
        assert history.best.step == steps
        assert history.end == ("done" if steps == 9 else "time")
        assert history.best.status == ("steps" if steps == 9 else "running")
        assert limit == 0 or clock.now - 1000.0 < limit

    def test_a_fit_that_has_ended_is_done(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also if its time was up with its last step."""
        Clock(monkeypatch, [1.0, 1.0, 50.0])
        history = fit(make_potential(), TRAIN, settings=FitSettings(steps=3, max_time=5.0))
        assert (history.best.step, history.end) == (3, "done")

    def test_a_wish_to_stop_after_the_end_changes_nothing(self) -> None:
        weights = Weights()
        history = fit(make_potential(), TRAIN, steps=2, observers=[weights], should_stop=lambda: len(weights.seen) == 3)
        assert (history.best.step, history.end) == (2, "done")

    def test_real_time(self) -> None:
        settings = make_settings(steps=10**6, max_time=0.5, line_search="none", learning_rate=1e-6)
        history = fit(make_potential(), TRAIN, settings=settings)
        assert history.end == "time"


class TestRunFit:
    """Exit statuses, and that whatever ends it leaves everything behind."""

    SETUP = Setup(torch.device("cpu"), quiet=True)
    SPLIT = Split([0, 2, 3, 4], [1, 5], 2, ())

    @pytest.fixture
    def outputs(self, tmp_path: Path) -> TrainingOutputs:
        return TrainingOutputs(
            network=str(tmp_path / "out.nn.dat"),
            loss_log=str(tmp_path / "loss.txt"),
            group_log=str(tmp_path / "groups.csv"),
            run_file=str(tmp_path / "out.run.h5"),
        )

    def ended(
        self, outputs: TrainingOutputs, settings: FitSettings, at_step_2: Callable[[], object], stop_file: str = ""
    ) -> tuple[int, int]:
        """Exit status and steps of a fit in which something happens at step 2."""
        potential = make_potential()

        class Happens(TrainingOutputs):
            def observers(self, train: TrainingSet, validation: TrainingSet | None = None) -> list:  # type: ignore[type-arg]
                class Look:
                    def on_start(self) -> None: ...

                    def on_step(self, row: StepRecord) -> None:
                        if row.step == 2:
                            at_step_2()

                return [*super().observers(train, validation), Look()]

        status = run_fit(
            potential, TRAIN, self.SPLIT, settings, Happens(**vars(outputs)), self.SETUP, stop_file=stop_file
        )
        written = load_potential(outputs.network).networks.flat()
        assert torch.equal(written, potential.networks.flat())
        run = load_run(outputs.run_file)
        assert torch.equal(run.potential.networks.flat(), written)
        rows = Path(outputs.loss_log).read_text().splitlines()
        assert [int(row.split()[0]) for row in rows] == list(range(len(rows)))
        assert run.done == (status == 0 and not stop_file)
        return status, len(rows) - 1

    FOR_EVER = make_settings(steps=10**6, line_search="none", learning_rate=1e-6)

    def test_the_end(self, outputs: TrainingOutputs) -> None:
        assert self.ended(outputs, FitSettings(steps=5), lambda: None) == (0, 5)

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
    def test_signals(self, outputs: TrainingOutputs, number: signal.Signals, status: int) -> None:
        before = signal.getsignal(number)
        assert self.ended(outputs, self.FOR_EVER, lambda: os.kill(os.getpid(), number)) == (status, 2)
        assert signal.getsignal(number) == before

    def test_a_stop_file(self, outputs: TrainingOutputs, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Someone's wish is no failure."""
        caplog.set_level("INFO", logger="pyfit_gpu")
        stop = tmp_path / "out.stop"
        assert self.ended(outputs, self.FOR_EVER, stop.touch, stop_file=str(stop)) == (0, 2)
        assert f"stopped by {stop}" in caplog.text

    def test_time_is_up(self, outputs: TrainingOutputs, monkeypatch: pytest.MonkeyPatch) -> None:
        Clock(monkeypatch, [0.1] * 20)
        assert self.ended(outputs, replace(self.FOR_EVER, max_time=0.75), lambda: None) == (75, 7)


class TestTestGroups:
    TEST = make_set([2, 2, 3], groups=("t", "u", "t"), seed=3)

    def test_scored_with_the_kept_weights(self) -> None:
        potential = make_potential()
        settings = FitSettings(steps=20, conditioning="none")
        history = fit(potential, TRAIN, VALIDATION, test=self.TEST, settings=settings)
        assert history.best.test is not None
        objective = Objective(self.TEST)
        found = objective.evaluate(potential.networks.flat(), potential.networks)
        assert history.best.test.energy == float(found.errors.energy)
        groups = objective.group_errors(found.energies)[0].tolist()
        assert history.best.test_group_errors == dict(zip("tu", groups, strict=True))

    def test_it_changes_nothing(self) -> None:
        found = [fit(make_potential(), TRAIN, VALIDATION, test=test, steps=4).loss for test in (None, self.TEST)]
        assert found[0] == found[1]

    def test_weights_of_0_do_not_end_hours_of_training(self) -> None:
        silent = replace(self.TEST, weight=torch.zeros(3, dtype=torch.float64))
        history = fit(make_potential(), TRAIN, test=silent, steps=1)
        assert history.best.test is None

    def test_what_cannot_be_scored_is_said_before(self) -> None:
        potential = make_potential()
        before = potential.networks.flat()
        bare = replace(self.TEST, energy=torch.full_like(self.TEST.energy, np.nan))
        with pytest.raises(InputError, match="have an energy"):
            fit(potential, TRAIN, test=bare, steps=1)
        assert torch.equal(potential.networks.flat(), before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patience", -1),
        ("learning_rate_ramp", -1),
        ("min_improvement", -0.1),
        ("min_improvement", np.nan),
        ("target_rmse", -1.0),
        ("target_rmse", np.inf),
        ("max_time", -1.0),
        ("max_time", np.nan),
        ("max_evaluations", 0),
        ("line_search_evaluations", 0),
        ("tolerance_gradient", -1e-9),
        ("tolerance_change", np.nan),
    ],
)
def test_impossible_settings(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name}: expected .*, got {value}"):
        make_settings(**{name: value})  # type: ignore[arg-type]


def test_learning_rate_ramp() -> None:
    """In equal parts up to its value: 1/4, 2/4, 3/4, 1, 1, .."""
    settings = make_settings(learning_rate_ramp=4)
    assert [settings.learning_rate_factor(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert FitSettings().learning_rate_factor(0) == 1.0
    settings = make_settings(steps=1, line_search="none", max_iterations=1, learning_rate=0.5)
    slow = fit(make_potential(), TRAIN, settings=replace(settings, learning_rate_ramp=5)).loss
    assert slow == fit(make_potential(), TRAIN, settings=make_settings(settings, learning_rate=0.1)).loss
