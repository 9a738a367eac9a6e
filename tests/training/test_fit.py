"""Training against torch's own optimiser on a loss written here; restarts, failures, signals, and who is refused."""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pair_sum
import pytest
import torch
from objective_values import errors_of, loss_of
from sample_sets import NAN, make_potential, make_set, make_settings, with_settings
from torch import Tensor

from pyfit_gpu.commands.interrupts import Terminated, signals_are_exceptions, signals_end_the_process, stop_on_signals
from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.commands.train.job import run_fit
from pyfit_gpu.commands.train.outputs import TrainingOutputs
from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.splits import Split
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.dft_text import read_dft_text
from pyfit_gpu.formats.nn_dat import load_potential, save_potential
from pyfit_gpu.formats.opening import read_frames
from pyfit_gpu.formats.text_set import read_text_set, write_text_set
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.optimizers.lbfgs_settings import LBFGSSettings
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.fit import TrainingFailure, fit
from pyfit_gpu.training.history import History, LabelErrors, Observer, StepRecord
from pyfit_gpu.training.loss import LossWeights
from pyfit_gpu.training.objective import Evaluation, Objective
from pyfit_gpu.training.objective_builder import KEPT_MEMORY
from pyfit_gpu.training.settings import FitSettings

CLASSIC = make_settings(steps=5, line_search="none", learning_rate=0.05, max_iterations=10, conditioning="none")


class Dense:
    """Energies, loss and penalty as the classic program computes them: torch.nn.Linear and a dense matrix."""

    def __init__(self, nn: dict[str, Any], training_set: TrainingSet) -> None:
        """For a potential as the tests' own reader returns it."""
        self.activation = nn["activation"]
        self.layers = [[self._linear(*layer) for layer in layers] for layers in nn["layers"]]
        sizes = training_set.sizes.tolist()
        structure = [row for row, size in enumerate(sizes) for _ in range(size)]
        self.features = training_set.features
        self.sum_atoms = torch.zeros(len(sizes), len(structure), dtype=torch.float64)  # structures x atoms
        self.sum_atoms[structure, range(len(structure))] = 1.0
        self.of_element = torch.stack([training_set.species == k for k in range(len(self.layers))]).double()
        shift = training_set.energy_shift or (0.0,) * len(self.layers)
        shifts = torch.tensor([shift[kind] for kind in training_set.species.tolist()], dtype=torch.float64)
        self.used = training_set.energy + self.sum_atoms @ shifts
        self.sizes = training_set.sizes.double()

    @staticmethod
    def _linear(weight: np.ndarray, bias: np.ndarray) -> torch.nn.Linear:
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
        return layer

    def parameters(self) -> list[Tensor]:
        return [parameter for layers in self.layers for layer in layers for parameter in layer.parameters()]

    def energies_per_atom(self) -> Tensor:
        atomic = torch.zeros(len(self.features), dtype=torch.float64)
        for layers, mask in zip(self.layers, self.of_element, strict=True):
            hidden = self.features
            for layer in layers[:-1]:
                hidden = torch.sigmoid(layer(hidden)) - {0: 0.0, 1: 0.5}[self.activation]
            atomic = atomic + mask * layers[-1](hidden)[:, 0]
        return self.sum_atoms @ atomic / self.sizes

    def loss(self) -> Tensor:
        return ((self.energies_per_atom() - self.used / self.sizes) ** 2).mean().sqrt()

    def train(self, settings: FitSettings) -> list[float]:
        """The loss before and after each step."""
        assert isinstance(settings.optimizer, LBFGSSettings)
        optimizer = torch.optim.LBFGS(
            self.parameters(),
            lr=settings.optimizer.step_length,
            max_iter=settings.optimizer.max_iterations,
            history_size=100,
            line_search_fn={"none": None, "strong-wolfe": "strong_wolfe"}[settings.optimizer.line_search],
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            optimised = self.loss()
            if settings.l2:
                optimised = optimised + settings.l2 * sum(parameter.norm() for parameter in self.parameters())
            optimised.backward()
            return optimised

        losses = [self.loss().item()]
        for _ in range(settings.steps):
            optimizer.step(closure)
            losses.append(self.loss().item())
        return losses


class Recorder:
    """Keeps every row of every attempt, with the weights that the potential has at that moment."""

    def __init__(self) -> None:
        self.attempts: list[list[StepRecord]] = []
        self.weights: list[list[Tensor]] = []

    def on_start(self) -> None:
        self.attempts.append([])
        self.weights.append([])

    def on_step(self, row: StepRecord) -> None:
        self.attempts[-1].append(row)
        self.weights[-1].append(row.potential.networks.flat())

    @property
    def rows(self) -> list[StepRecord]:
        return self.attempts[-1]


def weights_of(potential: Potential) -> bytes:
    return potential.networks.flat().numpy().tobytes()


def start_at(potential: Potential, weights: Tensor) -> Potential:
    """The same potential with copies of other weights (1, n_parameters)."""
    template = potential.networks
    networks = template.from_flat(
        weights.clone(), template.layer_sizes, n_elements=template.n_elements, activation=template.activation
    )
    return replace(potential, networks=networks, energy_shift=potential.energy_shift.clone())


def as_written(potential: Potential, folder: Path) -> dict[str, Any]:
    """Through a file, read by the tests' own reader."""
    save_potential(potential, folder / "start.nn.dat")
    return pair_sum.read_nn_dat(folder / "start.nn.dat")


@pytest.fixture(scope="module")
def own_set(own_data: Path) -> TrainingSet:
    structures = Structures.from_frames(list(read_dft_text(own_data / "structures.poscar.dat")))
    return build_training_set(structures, load_potential(own_data / "nn_mode1.nn.dat"), e_shift=107.0)


class TestAgainstTorch:
    """Rounding differs (other order of sums) and grows exponentially: hence few steps and these tolerances."""

    @pytest.mark.parametrize("l2", [0.0, 1e-3])
    @pytest.mark.parametrize("name", ["nn_mode0", "nn_mode1", "nn_wide"])
    def test_classic_settings(self, own_data: Path, name: str, l2: float) -> None:
        path = own_data / f"{name}.nn.dat"
        structures = Structures.from_frames(list(read_dft_text(own_data / "structures.poscar.dat")))
        potential = load_potential(path)
        training_set = build_training_set(structures, potential, e_shift=107.0)
        settings = replace(CLASSIC, l2=l2)
        expected = Dense(pair_sum.read_nn_dat(path), training_set).train(settings)
        history = fit(potential, training_set, settings=settings)
        np.testing.assert_allclose(history.loss, expected, rtol=1e-10, atol=0)
        assert history.loss[5] < 0.9 * history.loss[0]

    @pytest.mark.parametrize("l2", [0.0, 1e-3])
    def test_strong_wolfe(self, own_data: Path, own_set: TrainingSet, l2: float) -> None:
        path = own_data / "nn_mode1.nn.dat"
        settings = make_settings(steps=3, line_search="strong-wolfe", learning_rate=1.0, l2=l2, conditioning="none")
        expected = Dense(pair_sum.read_nn_dat(path), own_set).train(settings)
        history = fit(load_potential(path), own_set, settings=settings)
        np.testing.assert_allclose(history.loss, expected, rtol=1e-8, atol=0)
        assert history.loss[3] < 0.5 * history.loss[0]

    def test_penalty_changes_the_path_and_not_the_loss_of_a_row(self, own_data: Path, own_set: TrainingSet) -> None:
        """Rows hold the loss without the L2 term."""
        plain, penalised = (
            fit(load_potential(own_data / "nn_mode1.nn.dat"), own_set, settings=replace(CLASSIC, l2=l2)).loss
            for l2 in (0.0, 1e-3)
        )
        assert plain[0] == penalised[0]
        assert plain[1] != penalised[1]

    def test_two_elements(self, tmp_path: Path) -> None:
        training_set = make_set([3, 1, 4, 2, 5], ("Si", "C"), energy_shift=(1.5, -0.5))
        potential = make_potential(("Si", "C"), activation=0)
        settings = replace(CLASSIC, l2=0.01)
        expected = Dense(as_written(potential, tmp_path), training_set).train(settings)
        np.testing.assert_allclose(fit(potential, training_set, settings=settings).loss, expected, rtol=1e-10)

    def test_nist_silicon(self, reference_data: Path) -> None:
        """Some 260 structures of the optional folder of reference data, network 00."""
        frames = list(read_dft_text(reference_data.parent / "data" / "silicon_nist.poscar.dat"))[::12]
        path = reference_data / "ten_networks" / "00.nn.dat"
        potential = load_potential(path)
        training_set = build_training_set(Structures.from_frames(frames), potential, e_shift=0.795023)
        known = training_set.select(training_set.has_energy.nonzero()[:, 0])
        assert len(known) > 200
        expected = Dense(pair_sum.read_nn_dat(path), known).train(CLASSIC)
        np.testing.assert_allclose(fit(potential, known, settings=CLASSIC).loss, expected, rtol=1e-10, atol=0)

    def test_energies_and_validation_of_the_rows(self, tmp_path: Path) -> None:
        """A row holds the energies of its own weights, in the order of the training structures."""
        train, validation = make_set([2, 1, 3, 4], seed=1), make_set([3, 2], seed=2)
        potential, recorder = make_potential(), Recorder()
        predicted = []

        class Now:
            def on_start(self) -> None: ...

            def on_step(self, row: StepRecord) -> None:
                predicted.append(row.energies_per_atom().clone())

        fit(potential, train, validation, steps=3, observers=[recorder, Now()])
        for row, weights, energies in zip(recorder.rows, recorder.weights[0], predicted, strict=True):
            nn = as_written(start_at(potential, weights), tmp_path)
            assert row.loss == pytest.approx(Dense(nn, train).loss().item(), rel=1e-12)
            assert row.validation == pytest.approx(Dense(nn, validation).loss().item(), rel=1e-12)
            expected = Dense(nn, train).energies_per_atom().detach()
            torch.testing.assert_close(energies, expected, rtol=1e-12, atol=1e-13)


class TestRows:
    @pytest.mark.parametrize("line_search", ["none", "strong-wolfe"])
    def test_n_steps_are_n_plus_one_rows(self, line_search: str) -> None:
        recorder = Recorder()
        settings = make_settings(steps=4, line_search=line_search)
        history = fit(make_potential(), make_set(), settings=settings, observers=[recorder])
        assert [row.step for row in recorder.rows] == [0, 1, 2, 3, 4]
        assert [row.loss for row in recorder.rows] == history.loss
        assert (history.interrupted, history.gave_up, history.n_restarts) == (False, False, 0)
        assert history.n_evaluations > 4

    def test_zero_steps_change_nothing(self) -> None:
        """Not a bit of the weights, whatever the precision of the set."""
        for dtype in (torch.float64, torch.float32):
            potential, recorder = make_potential(), Recorder()
            before = weights_of(potential)
            history = fit(potential, make_set().to("cpu", dtype), steps=0, observers=[recorder])
            assert weights_of(potential) == before
            assert len(recorder.rows) == len(history.loss) == 1

    def test_zero_steps_do_not_restart(self) -> None:
        """0 iterations evaluate and leave the network as it is, also where its loss is above error_restart_level."""
        potential = make_potential()
        before = weights_of(potential)
        history = fit(potential, make_set(), settings=FitSettings(steps=0, error_restart_level=1e-9))
        assert weights_of(potential) == before
        assert len(history.loss) == 1

    def test_steps_can_be_given_apart(self) -> None:
        assert len(fit(make_potential(), make_set(), steps=2, settings=FitSettings(steps=7)).loss) == 3
        assert len(fit(make_potential(), make_set(), settings=FitSettings(steps=2)).loss) == 3

    def test_the_potential_has_the_weights_of_the_row(self) -> None:
        """The potential follows while training goes on, so that backups are of their step, and at the end."""
        potential, recorder = make_potential(), Recorder()
        before = potential.networks.flat()
        fit(potential, make_set(), steps=3, observers=[recorder])
        (weights,) = recorder.weights
        assert torch.equal(weights[0], before)
        for earlier, later in itertools.pairwise(weights):
            assert not torch.equal(earlier, later)
        assert torch.equal(potential.networks.flat(), weights[-1])

    def test_more_steps_begin_with_the_same_rows(self) -> None:
        short = fit(make_potential(), make_set(), steps=3).loss
        assert fit(make_potential(), make_set(), steps=6).loss[:4] == short

    def test_strong_wolfe_descends(self, own_data: Path, own_set: TrainingSet) -> None:
        """The default settings on real features: every step lowers the loss, and twenty lower it a lot."""
        history = fit(load_potential(own_data / "nn_mode1.nn.dat"), own_set, steps=20)
        assert all(later < earlier for earlier, later in itertools.pairwise(history.loss))
        assert history.loss[-1] < 0.03 * history.loss[0]

    @pytest.mark.parametrize(("interval", "steps"), [(1, [0, 1, 2, 3, 4, 5, 6, 7]), (3, [0, 3, 6]), (50, [0]), (0, [])])
    def test_validation_interval(self, interval: int, steps: list[int]) -> None:
        recorder = Recorder()
        settings = FitSettings(steps=7, validation_interval=interval)
        history = fit(make_potential(), make_set(), make_set(seed=9), settings=settings, observers=[recorder])
        assert list(history.validation) == steps
        assert [row.step for row in recorder.rows if row.validation is not None] == steps
        for row in recorder.rows:
            assert row.validation == history.validation.get(row.step)

    def test_validation_does_not_train(self) -> None:
        alone = fit(make_potential(), make_set(), steps=4).loss
        assert fit(make_potential(), make_set(), make_set(seed=9), steps=4).loss == alone

    def test_no_validation(self) -> None:
        for validation in (None, make_set().select([])):
            assert fit(make_potential(), make_set(), validation, steps=2).validation == {}

    def test_same_bits_twice(self) -> None:
        results = []
        for _ in range(2):
            potential = make_potential(("Si", "C"))
            history = fit(potential, make_set(elements=("Si", "C")), make_set(elements=("Si", "C"), seed=7), steps=8)
            results.append((history.loss, history.validation, weights_of(potential)))
        assert results[0] == results[1]

    def test_single_precision(self) -> None:
        """In the precision of the set; the weights that come back are float32 numbers."""
        train = make_set([3, 1, 4, 2, 5])
        double, single = make_potential(), make_potential()
        settings = replace(CLASSIC, steps=3)
        expected = fit(double, train, settings=settings).loss
        found = fit(single, train.to("cpu", torch.float32), settings=settings).loss
        assert found != expected
        np.testing.assert_allclose(found, expected, rtol=1e-3)
        assert single.dtype == torch.float64
        flat = single.networks.flat()
        assert torch.equal(flat, flat.float().double())

    @pytest.mark.parametrize("shift", [(107.25,), None])
    def test_the_energy_shift_goes_into_the_potential(self, shift: tuple[float, ...] | None) -> None:
        potential = make_potential()
        potential.energy_shift.fill_(3.0)
        fit(potential, replace(make_set(), energy_shift=shift), steps=0)
        np.testing.assert_array_equal(potential.energy_shift, [NAN if shift is None else 107.25])

    def test_shift_of_each_element(self, tmp_path: Path) -> None:
        potential = make_potential(("Si", "C"))
        fit(potential, make_set(elements=("Si", "C"), energy_shift=(107.5, 155.25)), steps=1)
        save_potential(potential, tmp_path / "out.nn.dat")
        assert pair_sum.read_nn_dat(tmp_path / "out.nn.dat")["e_shifts"] == [107.5, 155.25]

    def test_inside_no_grad(self) -> None:
        with torch.no_grad():
            history = fit(make_potential(), make_set(), steps=2)
        assert history.loss[2] < history.loss[0]


class TestStopping:
    def test_after_the_current_step(self) -> None:
        potential, recorder = make_potential(), Recorder()
        asked: list[int] = []

        def should_stop() -> bool:
            asked.append(len(recorder.rows))
            return len(recorder.rows) == 4

        history = fit(potential, make_set(), steps=50, observers=[recorder], should_stop=should_stop)
        assert history.interrupted
        assert len(history.loss) == len(recorder.rows) == 4
        assert torch.equal(potential.networks.flat(), recorder.weights[0][3])
        assert history.loss == fit(make_potential(), make_set(), steps=3).loss
        assert asked == [1, 2, 3, 4]

    def test_a_fit_that_ends_by_itself_was_not_interrupted(self) -> None:
        assert not fit(make_potential(), make_set(), steps=1).interrupted

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_signals(self, number: signal.Signals, status: int) -> None:
        before = [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)]
        recorder = Recorder()

        class Send:
            def on_start(self) -> None: ...

            def on_step(self, row: StepRecord) -> None:
                if row.step == 2:
                    os.kill(os.getpid(), number)

        with stop_on_signals() as stop:
            assert not stop
            assert stop.status == 0
            history = fit(
                make_potential(), make_set(), steps=50, observers=[recorder, Send()], should_stop=lambda: bool(stop)
            )
        assert (history.interrupted, len(recorder.rows), stop.status) == (True, 3, status)
        assert [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)] == before

    def test_without_a_signal_the_handlers_come_back(self) -> None:
        before = [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)]
        with stop_on_signals():
            assert signal.getsignal(signal.SIGTERM) != before[1]
        assert [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)] == before

    def test_the_second_signal_takes_effect_at_once(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), stop_on_signals() as stop:  # noqa: PT012
            os.kill(os.getpid(), signal.SIGINT)
            assert stop
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("the second signal was swallowed")
        assert signal.getsignal(signal.SIGINT) == before

    def test_signals_as_exceptions(self) -> None:
        before = [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)]
        try:
            signals_are_exceptions()
            with pytest.raises(Terminated):
                os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        finally:
            for name, action in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
                signal.signal(name, action)
        assert not issubclass(Terminated, Exception)  # nothing that catches errors may swallow it

    @pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_signals_that_end_the_process(
        self, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
    ) -> None:
        before = [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)]
        ended: list[int] = []
        monkeypatch.setattr(os, "_exit", ended.append)
        with signals_end_the_process():
            os.kill(os.getpid(), number)
        assert ended == [status]
        assert [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)] == before


class TestRestart:
    @pytest.fixture(autouse=True)
    def quiet(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING, logger="pyfit_gpu")

    def test_three_restarts_and_no_more(self, caplog: pytest.LogCaptureFixture) -> None:
        """A level below any loss: the 4th time training ends, with the weights of that attempt."""
        potential, recorder = make_potential(max_random=2.0), Recorder()
        before = potential.networks.flat()
        settings = FitSettings(steps=5, error_restart_level=1e-9, seed=1, conditioning="none")
        history = fit(potential, make_set(), settings=settings, observers=[recorder])
        assert (history.n_restarts, history.gave_up, history.interrupted) == (3, True, False)
        assert len(recorder.attempts) == 4
        after = potential.networks.flat()
        assert not torch.equal(after, before)
        assert 0.3 < float(after.abs().max()) <= 0.5
        assert len(caplog.records) == 3
        assert "restart 3 of 3" in caplog.text

    @pytest.mark.parametrize("seed", [None, 1])
    def test_each_restart_draws_other_weights(self, seed: int | None) -> None:
        """Row 0 of each attempt is above the level already."""
        seen: list[float] = []

        class Losses(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                seen.append(record.args[2])

        handler = Losses()
        logging.getLogger("pyfit_gpu").addHandler(handler)
        try:
            fit(make_potential(), make_set(), settings=FitSettings(error_restart_level=1e-9, seed=seed))
        finally:
            logging.getLogger("pyfit_gpu").removeHandler(handler)
        assert len(set(seen)) == 3

    def diverging(self, **keywords: object) -> tuple[Potential, Recorder, History, FitSettings]:
        """A fit that runs for some steps, jumps above the level, and reaches its end after a restart."""
        for seed in range(40):
            recorder = Recorder()
            potential = make_potential(seed=seed, max_random=0.3)
            settings = make_settings(
                CLASSIC, steps=6, learning_rate=1.0, max_iterations=2, error_restart_level=0.8, seed=seed
            )
            train = make_set([2, 1, 3, 4, 2, 1, 2, 3])
            history = fit(potential, train, settings=settings, observers=[recorder], **keywords)
            if 0 < history.n_restarts < 3 and len(recorder.rows) == 7 and len(recorder.attempts[-2]) > 2:
                return potential, recorder, history, settings
        raise AssertionError("no seed gives such a fit: choose another level")

    def test_everything_begins_anew(self) -> None:
        """After a restart rows are those of a fresh fit from the drawn weights: the optimiser remembers nothing."""
        potential, recorder, history, settings = self.diverging()
        weights = recorder.weights[-1][0]
        assert float(weights.abs().max()) <= 0.5
        fresh = start_at(potential, weights)
        again = fit(fresh, make_set([2, 1, 3, 4, 2, 1, 2, 3]), settings=settings)
        assert again.n_restarts == 0
        assert history.loss == again.loss == [row.loss for row in recorder.rows]
        assert weights_of(fresh) == weights_of(potential)
        assert not history.gave_up

    def test_validation_begins_anew(self) -> None:
        _, recorder, history, _ = self.diverging(validation=make_set(seed=4))
        assert list(history.validation) == [0, 1, 2, 3, 4, 5, 6]
        assert list(history.validation.values()) == [row.validation for row in recorder.rows]

    def test_rows_above_the_level_are_not_recorded(self) -> None:
        _, recorder, _, _ = self.diverging()
        assert all(row.loss <= 0.8 for rows in recorder.attempts for row in rows)

    def test_a_seed_makes_it_repeatable(self) -> None:
        settings = FitSettings(steps=5, error_restart_level=1e-9, seed=1)
        results = []
        for _ in range(2):
            potential = make_potential()
            fit(potential, make_set(), settings=settings)
            results.append(weights_of(potential))
        assert results[0] == results[1]

    def test_zero_is_never(self) -> None:
        assert fit(make_potential(), make_set(), settings=FitSettings(steps=1)).n_restarts == 0

    @pytest.mark.parametrize("learning_rate", [1e300, 1e308])
    def test_giving_up_leaves_numbers(self, learning_rate: float) -> None:
        """The outputs of a run that gives up must be readable: no NaN among the weights, however it diverged."""
        settings = make_settings(CLASSIC, learning_rate=learning_rate, error_restart_level=100.0, seed=1)
        potential = make_potential()
        history = fit(potential, make_set(), settings=settings)
        assert history.gave_up
        assert torch.isfinite(potential.networks.flat()).all()


class TestFailure:
    @pytest.mark.parametrize("learning_rate", [1e200, 1e300, 1e308])
    def test_the_last_good_weights_are_kept(self, learning_rate: float) -> None:
        """The loss becomes infinite or NaN in the first step; neither is a loss of 0."""
        potential, recorder = make_potential(), Recorder()
        before = weights_of(potential)
        settings = make_settings(CLASSIC, learning_rate=learning_rate)
        with pytest.raises(TrainingFailure, match=r"after step 1 the loss is (inf|nan).*step 0 are kept"):
            fit(potential, make_set(), settings=settings, observers=[recorder])
        assert len(recorder.rows) == 1
        assert weights_of(potential) == before

    def test_later(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """After two good steps the loss is no number: the weights of the second are kept."""
        potential, recorder = make_potential(), Recorder()
        evaluate = Objective.evaluate

        def spoilt(self: Objective, *arguments: Any, **options: Any) -> Evaluation:
            found = evaluate(self, *arguments, **options)
            if len(recorder.rows) > 2:
                found.errors.loss.fill_(NAN)
            return found

        monkeypatch.setattr(Objective, "evaluate", spoilt)
        with pytest.raises(TrainingFailure, match="after step 3 the loss is"):
            fit(potential, make_set(), settings=CLASSIC, observers=[recorder])
        assert len(recorder.rows) == 3
        assert torch.equal(potential.networks.flat(), recorder.weights[0][2])

    def test_a_start_that_is_no_number(self) -> None:
        potential = make_potential()
        potential.networks.biases[-1].fill_(NAN)
        with pytest.raises(TrainingFailure, match="after step 0 the loss is nan"):
            fit(potential, make_set(), steps=3)


MakeFrames = Callable[..., list[Frame]]
BOTH = FitSettings(steps=4, force_weight=0.5, stress_weight=0.5, conditioning="none")


def taught_set(frames: list[Frame], elements: tuple[str, ...] = ("Si",)) -> TrainingSet:
    """Structures with the labels that another network of the same shape gives them."""
    structures = Structures.from_frames(frames)
    labels = predict(make_potential(elements, seed=8, max_random=1.5), structures)
    training_set = build_training_set(structures, make_potential(elements))
    return replace(training_set, energy=labels.energy, forces=labels.forces, stress=labels.stress)


def label_errors_of(potential: Potential, training_set: TrainingSet, settings: FitSettings) -> LabelErrors:
    found = errors_of(Objective(training_set, settings.loss_weights), potential.networks)
    return LabelErrors({name: float(error) for name, error in found.items()})


class TestForces:
    @pytest.fixture
    def train(self, mixed_frames: MakeFrames) -> TrainingSet:
        return taught_set([*mixed_frames(seed=10), *mixed_frames(seed=20)])

    @pytest.fixture
    def validation(self, mixed_frames: MakeFrames) -> TrainingSet:
        return taught_set(mixed_frames(seed=30))

    def test_labels_of_a_network_are_recovered(self, train: TrainingSet, validation: TrainingSet) -> None:
        settings = replace(BOTH, steps=30)
        history = fit(make_potential(), train, validation, settings=settings)
        first, last = history.errors[0], history.errors[-1]
        for name in ("energy", "forces", "stress"):
            assert getattr(last, name) < getattr(first, name) / 20, name
        first, last = history.validation_errors[0], history.validation_errors[30]
        assert last.forces < first.forces / 5

    def test_a_weight_lowers_its_error(self, train: TrainingSet) -> None:
        """The same start and steps: each label's error is smaller where it takes part."""
        found = {}
        for name, weights in {"none": {}, "forces": {"force_weight": 1.0}, "stress": {"stress_weight": 10.0}}.items():
            potential = make_potential()
            fit(potential, train, settings=FitSettings(steps=15, **weights))
            found[name] = label_errors_of(potential, train, BOTH)
        assert found["forces"].forces < 0.5 * found["none"].forces
        assert found["stress"].stress < 0.5 * found["none"].stress

    def test_history(self, train: TrainingSet, validation: TrainingSet) -> None:
        """An entry per row: the errors that the weights of that row have."""
        recorder = Recorder()
        settings = replace(BOTH, validation_interval=3)
        history = fit(make_potential(), train, validation, settings=settings, observers=[recorder])
        assert len(history.errors) == len(history.loss) == 5
        assert list(history.validation_errors) == list(history.validation) == [0, 3]
        for row, weights in zip(recorder.rows, recorder.weights[0], strict=True):
            potential = start_at(make_potential(), weights)
            assert row.errors == history.errors[row.step] == label_errors_of(potential, train, settings)
            assert row.validation_errors == history.validation_errors.get(row.step)
            if row.validation_errors is not None:
                assert row.validation_errors == label_errors_of(potential, validation, settings)
                loss = loss_of(Objective(validation, settings.loss_weights), potential.networks)
                assert row.validation == float(loss)
        assert len({errors.forces for errors in history.errors}) == 5

    @pytest.mark.parametrize(
        ("weights", "known"),
        [({}, ()), ({"force_weight": 0.5}, ("forces",)), ({"stress_weight": 0.5}, ("stress",))],
        ids=["energies", "forces", "stress"],
    )
    def test_errors_of_what_takes_part(
        self, train: TrainingSet, validation: TrainingSet, weights: dict[str, float], known: tuple[str, ...]
    ) -> None:
        """The others are not known. Where only energies train, their error is the loss."""
        history = fit(make_potential(), train, validation, settings=FitSettings(steps=1, **weights))
        for errors in (*history.errors, *history.validation_errors.values()):
            for name in ("forces", "stress"):
                assert (getattr(errors, name) is not None) == (name in known)
        if not known:
            assert [errors.energy for errors in history.errors] == history.loss
            found = {step: errors.energy for step, errors in history.validation_errors.items()}
            assert found == history.validation

    def test_without_weights_labels_do_not_count(self, train: TrainingSet) -> None:
        """Bit for bit: neither forces and stress nor positions are looked at."""
        results = []
        nan = {name: torch.full_like(getattr(train, name), NAN) for name in ("positions", "forces", "stress")}
        for one in (train, replace(train, **nan)):
            potential = make_potential()
            history = fit(potential, one, steps=4)
            results.append((history.loss, weights_of(potential)))
        assert results[0] == results[1]

    def test_same_bits_twice(self, mixed_frames: MakeFrames) -> None:
        elements = ("Si", "C")
        results = []
        for _ in range(2):
            potential = make_potential(elements)
            train, validation = (taught_set(mixed_frames(elements, seed), elements) for seed in (10, 20))
            history = fit(potential, train, validation, settings=BOTH)
            results.append((history.members, weights_of(potential)))
        assert results[0] == results[1]

    def test_memory_changes_only_the_rounding(self, train: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
        losses = []
        for memory in (0, 2**40):
            monkeypatch.setattr(
                "pyfit_gpu.training.objective_builder.total_memory", lambda device, memory=memory: memory
            )
            losses.append(fit(make_potential(), train, settings=BOTH).loss)
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9, atol=0)

    @pytest.mark.parametrize("share", [0.4, 0.9, 1.2, 2.5])
    def test_training_and_validation_share_the_memory(
        self, train: TrainingSet, validation: TrainingSet, share: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Training first; together never more than may be kept."""
        whole = Objective(train, BOTH.loss_weights).kept_bytes
        may_be_kept = share * whole
        kept = []

        class Spy(Objective):
            def __init__(self, training_set: TrainingSet, weights: LossWeights, **options: Any) -> None:
                super().__init__(training_set, weights, **options)
                kept.append(self.kept_bytes)

        monkeypatch.setattr(
            "pyfit_gpu.training.objective_builder.total_memory", lambda device: may_be_kept / KEPT_MEMORY
        )
        monkeypatch.setattr("pyfit_gpu.training.objective_builder.Objective", Spy)
        fit(make_potential(), train, validation, settings=replace(BOTH, steps=0))
        assert len(kept) == 2
        assert sum(kept) <= may_be_kept
        assert (kept[0] == whole) == (share >= 1)
        assert (kept[1] == Objective(validation, BOTH.loss_weights).kept_bytes) == (share > 2)

    def test_a_restart_forgets_the_errors(
        self, train: TrainingSet, validation: TrainingSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In the first attempt the loss is lost after two steps; what stays is of the second, which is shorter."""
        recorder, evaluate = Recorder(), Objective.evaluate

        def spoilt(self: Objective, *arguments: Any, **options: Any) -> Evaluation:
            found = evaluate(self, *arguments, **options)
            if [len(rows) for rows in recorder.attempts] == [3]:
                found.errors.loss.fill_(NAN)
            return found

        monkeypatch.setattr(Objective, "evaluate", spoilt)
        settings = make_settings(BOTH, line_search="none", error_restart_level=1e9, seed=1)

        def should_stop() -> bool:
            return [len(rows) for rows in recorder.attempts] == [3, 2]

        potential = make_potential()
        history = fit(potential, train, validation, settings=settings, observers=[recorder], should_stop=should_stop)
        assert (history.n_restarts, history.interrupted) == (1, True)
        assert list(history.validation_errors) == [0, 1]
        assert history.errors == [row.errors for row in recorder.rows]
        assert list(history.validation_errors.values()) == [row.validation_errors for row in recorder.rows]

    def test_validation_without_forces(self, train: TrainingSet, validation: TrainingSet) -> None:
        bare = replace(validation, forces=torch.full_like(validation.forces, NAN))
        history = fit(make_potential(), train, bare, settings=FitSettings(steps=1, force_weight=0.5))
        assert history.errors[1].forces is not None
        assert history.validation_errors[1] == LabelErrors({"energy": history.validation[1]})

    def test_single_precision(self, train: TrainingSet) -> None:
        double, single = make_potential(), make_potential()
        expected = fit(double, train, settings=replace(BOTH, steps=2))
        found = fit(single, train.to("cpu", torch.float32), settings=replace(BOTH, steps=2))
        assert found.loss != expected.loss
        np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-3)
        flat = single.networks.flat()
        assert torch.equal(flat, flat.float().double())

    def test_labels_that_no_structure_has(self, train: TrainingSet) -> None:
        """A structure of weight 0 has no say either."""
        n = len(train)
        for name, label in (("force", "forces"), ("stress", "stress")):
            known = getattr(train, label)
            without = replace(train, **{label: torch.full_like(known, NAN)})
            only_the_first = getattr(train.select([0]), label)
            partly = torch.full_like(known, NAN)
            partly[: len(only_the_first)] = only_the_first
            weight = torch.ones(n, dtype=torch.float64)
            weight[0] = 0.0
            silent = replace(train, **{label: partly}, weight=weight)
            for one in (without, silent):
                potential, recorder = make_potential(), Recorder()
                with pytest.raises(InputError, match=rf"{name}_weight: expected 0, got 0.5: no training structure has"):
                    fit(potential, one, settings=FitSettings(**{f"{name}_weight": 0.5}), observers=[recorder])
                assert not recorder.attempts
            settings = FitSettings(steps=0, **{f"{name}_weight": 0.5})
            fit(make_potential(), replace(silent, weight=torch.ones_like(weight)), settings=settings)

    def test_a_text_set(self, train: TrainingSet, tmp_path: Path) -> None:
        """It holds neither forces nor positions."""
        write_text_set(train, tmp_path / "set.dat")
        text = read_text_set(tmp_path / "set.dat")
        with pytest.raises(InputError, match=r"force_weight: .* no training structure has forces"):
            fit(make_potential(), text, settings=FitSettings(force_weight=0.5))
        blind = replace(train, positions=text.positions)
        with pytest.raises(InputError, match=r"needs positions.*an HDF5 set made from structures does"):
            fit(make_potential(), blind, settings=FitSettings(force_weight=0.5))
        assert len(fit(make_potential(), text, steps=1).loss) == 2

    @pytest.mark.slow
    def test_silicon(self, example_data: Path) -> None:
        """Density-functional labels that were not trained on: the forces at least twice as good, the energies not
        half as much worse again. With other start weights the forces were better by 2.1 to 2.5, the energies too.
        """
        path = example_data / "si.start.nn.dat"
        structures = Structures.from_frames(list(read_frames(str(example_data / "si_dft.extxyz"))))
        whole = build_training_set(structures, load_potential(path, seed=1), e_shift=107.0)
        train, validation = whole.split(0.9, 2)
        errors = []
        for force_weight in (0.0, 0.2):
            potential = load_potential(path, seed=1)
            # With fewer atoms than parameters: as `train` then does.
            fit(potential, train, settings=FitSettings(steps=40, force_weight=force_weight, conditioning="none"))
            errors.append(label_errors_of(potential, validation, FitSettings(force_weight=1.0)))
        assert errors[1].forces < 0.5 * errors[0].forces
        assert errors[1].energy < 1.5 * errors[0].energy


OTHER_SETTINGS = {
    "elements": ("Ge",),
    "gi_mode": 3,
    "shift": 0.25,
    "cutoff": 4.4,
    "cutoff_width": 1.2,
    "gaussian_width": 0.7,
    "legendre_orders": (0, 3),
    "gaussian_centers": (1.7, 2.5, 3.4),
}


class TestRefusals:
    @pytest.mark.parametrize("name", OTHER_SETTINGS)
    def test_a_set_of_another_potential(self, name: str) -> None:
        potential = make_potential(gi_mode=0)
        before = weights_of(potential)
        mine = make_set(gi_mode=0)
        other = with_settings(mine, **{name: OTHER_SETTINGS[name]})
        with pytest.raises(InputError, match=rf"training set.*: {name}: expected .*, found "):
            fit(potential, other)
        with pytest.raises(InputError, match=rf"validation set.*: {name}: expected .*, found "):
            fit(potential, mine, other)
        assert weights_of(potential) == before

    @pytest.mark.parametrize(
        "other",
        [
            {"hidden": (7,)},
            {"hidden": ()},
            {"activation": 0},
            {"masses": (30.0,)},
            {"max_random": 2.0},
            {"use_baseline": True, "bond_order_parameters": (1.0,) * 8},
        ],
        ids=lambda other: next(iter(other)),
    )
    def test_what_does_not_decide_the_inputs_may_differ(self, other: dict[str, Any]) -> None:
        made = {key: value for key, value in other.items() if key in ("hidden", "activation", "max_random")}
        potential = make_potential(gi_mode=0, **made)
        potential = replace(potential, **{key: value for key, value in other.items() if key not in made})
        history = fit(potential, make_set(gi_mode=0), steps=2)
        assert history.loss[2] < history.loss[0]

    def test_shift_may_differ_in_mode_5(self) -> None:
        fit(make_potential(shift=0.25), make_set(shift=0.5), steps=0)

    def test_outputs_of_no_kind_of_potential(self) -> None:
        potential = make_potential(n_outputs=3)
        with pytest.raises(InputError, match=r"train: expected networks with 1 output .* or 8 .*, got 3 outputs"):
            fit(potential, make_set())

    def test_unknown_energies(self) -> None:
        with pytest.raises(InputError, match="have an energy"):
            fit(make_potential(), make_set([1, 2], energy=[-1.0, NAN]))
        with pytest.raises(InputError, match="have an energy"):
            fit(make_potential(), make_set(), make_set([1, 2], energy=[-1.0, NAN]))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("steps", -1),
            ("validation_interval", -1),
            ("max_iterations", 0),
            ("history_size", 0),
            ("l2", -1e-3),
            ("l2", NAN),
            ("error_restart_level", -1.0),
            ("error_restart_level", math.inf),
            ("force_weight", -1e-3),
            ("force_weight", NAN),
            ("force_weight", math.inf),
            ("stress_weight", -1.0),
            ("stress_weight", NAN),
            ("learning_rate", 0.0),
            ("learning_rate", -0.05),
            ("learning_rate", NAN),
            ("line_search", "wolfe"),
        ],
    )
    def test_settings(self, name: str, value: object) -> None:
        with pytest.raises(InputError, match=rf"{name}: expected .*, got {re.escape(repr(value))}"):
            make_settings(**{name: value})


class TestRunFit:
    """A whole fit with its files, as both `train` and the classic job run it."""

    SETUP = Setup(torch.device("cpu"), quiet=True)

    @pytest.fixture
    def outputs(self, tmp_path: Path) -> TrainingOutputs:
        return TrainingOutputs(
            network=str(tmp_path / "out.nn.dat"),
            loss_log=str(tmp_path / "loss.txt"),
            validation_log=str(tmp_path / "validation.txt"),
            energy_volume_log=str(tmp_path / "energy_volume.txt"),
            energy_volume_interval=2,
            backup_dir=str(tmp_path / "backup"),
            backup_interval=2,
        )

    def test_every_output(self, outputs: TrainingOutputs, tmp_path: Path) -> None:
        whole = make_set([2, 1, 3, 4, 2], energy_shift=(1.5,))
        potential = make_potential()
        settings = FitSettings(steps=5, validation_interval=3)
        status = run_fit(potential, whole, Split([4, 0, 2], [1, 3], 2, ()), settings, outputs, self.SETUP)
        assert status == 0
        assert weights_of(load_potential(outputs.network)) == weights_of(potential)
        expected = fit(make_potential(), whole.select([4, 0, 2]), whole.select([1, 3]), settings=settings)
        loss = [line.split() for line in (tmp_path / "loss.txt").read_text().splitlines()]
        assert loss == [[f"{step:06d}", f"{value:.10E}"] for step, value in enumerate(expected.loss)]
        assert [line[:6] for line in (tmp_path / "validation.txt").read_text().splitlines()] == ["000000", "000003"]
        lines = (tmp_path / "energy_volume.txt").read_text().splitlines()
        assert lines[0].split()[1:] == [f"{whole.volume_per_atom[row]:.6E}" for row in (4, 0, 2)]
        assert [line.split()[0] for line in lines[1:]] == ["000000", "000002", "000004"]
        assert sorted(os.listdir(tmp_path / "backup")) == [f"nn_bk_{step:05d}.nn.dat" for step in (0, 2, 4)]

    def test_nothing_validates(self, outputs: TrainingOutputs, tmp_path: Path) -> None:
        split = Split([0, 1, 2, 3, 4], [], 2, ())
        assert run_fit(make_potential(), make_set(), split, FitSettings(steps=1), outputs, self.SETUP) == 0
        assert not (tmp_path / "validation.txt").exists()
        assert (tmp_path / "loss.txt").exists()

    def test_a_signal_writes_everything(self, outputs: TrainingOutputs, tmp_path: Path) -> None:
        potential = make_potential()
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        try:
            status = run_fit(
                potential,
                make_set(),
                Split([0, 1, 2, 3, 4], [], 2, ()),
                make_settings(CLASSIC, steps=100_000, learning_rate=1e-6),
                replace(outputs, energy_volume_interval=0, backup_interval=0),
                self.SETUP,
            )
        finally:
            timer.join()
        assert status == 143
        assert weights_of(load_potential(outputs.network)) == weights_of(potential)
        rows = (tmp_path / "loss.txt").read_text().splitlines()
        assert 1 < len(rows) < 100_000
        assert [int(row.split()[0]) for row in rows] == list(range(len(rows)))

    def test_a_lost_loss_writes_the_last_good_network(self, outputs: TrainingOutputs, tmp_path: Path) -> None:
        potential = make_potential()
        before = weights_of(potential)
        settings = make_settings(CLASSIC, learning_rate=1e200)
        with pytest.raises(TrainingFailure):
            run_fit(potential, make_set(), Split([0, 1, 2], [3, 4], 2, ()), settings, outputs, self.SETUP)
        assert weights_of(load_potential(outputs.network)) == before
        assert len((tmp_path / "loss.txt").read_text().splitlines()) == 1

    def test_a_log_without_room_does_not_lose_the_network(self, outputs: TrainingOutputs) -> None:
        """An hour of training is not thrown away because a log cannot be written any more."""
        potential = make_potential()

        class FillsUp(TrainingOutputs):
            def observers(self, train: TrainingSet, validation: TrainingSet | None = None) -> list[Observer]:
                chosen = super().observers(train, validation)

                class Full:
                    def on_start(self) -> None: ...

                    def on_step(self, row: StepRecord) -> None:
                        if row.step == 3:
                            raise InputError("loss.txt: cannot write: No space left on device")

                return [*chosen, Full()]

        full = FillsUp(**vars(outputs))
        with pytest.raises(InputError, match="No space left"):
            run_fit(potential, make_set(), Split([0, 1, 2], [3, 4], 2, ()), FitSettings(steps=9), full, self.SETUP)
        assert weights_of(load_potential(outputs.network)) == weights_of(potential)
        assert weights_of(potential) != weights_of(make_potential())
