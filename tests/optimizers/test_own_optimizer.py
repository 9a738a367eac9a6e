"""The seam: an optimiser that the package does not know, written on the protocols alone, in place of LBFGS."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from commands.helpers import assert_same_files, snapshot
from objective_values import loss_of
from sample_sets import make_potential, make_set
from torch import Tensor

from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.commands.train.job import Resumption, run_fit
from pyfit_gpu.commands.train.outputs import TrainingOutputs
from pyfit_gpu.commands.train.same_run import describe_data, require_same_run
from pyfit_gpu.datasets.splits import Split
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.run_file import FitState, load_run
from pyfit_gpu.optimizers.base import Gives, MemberObjective, Optimizer, OptimizerSettings, option, require_given
from pyfit_gpu.optimizers.known import OPTIMIZERS
from pyfit_gpu.optimizers.lbfgs_settings import LBFGSSettings
from pyfit_gpu.training.fit import TrainingFailure, fit
from pyfit_gpu.training.memory_plan import plan_memory
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.restarts import MAX_RESTARTS
from pyfit_gpu.training.settings import FitSettings


class SteepestDescent:
    """Every step goes down the gradient by the learning rate times its length."""

    def __init__(self, parameters: Tensor, settings: SteepestDescentSettings) -> None:
        self.settings = settings
        self._parameters = parameters.clone()
        self._gradient = torch.zeros_like(self._parameters)
        self._extras: Tensor | None = None
        self._known = [False] * len(parameters)
        self._n_evaluations = [0] * len(parameters)

    @property
    def parameters(self) -> Tensor:
        return self._parameters

    @property
    def extras(self) -> Tensor:
        return self._parameters[:, :0] if self._extras is None else self._extras

    @property
    def n_evaluations(self) -> list[int]:
        return list(self._n_evaluations)

    def evaluate(self, objective: MemberObjective, members: Sequence[int]) -> None:
        chosen = [k for k in sorted(members) if not self._known[k]]
        if not chosen:
            return
        _, gradient, extras = objective(self._parameters[chosen], torch.tensor(chosen))
        if self._extras is None:
            self._extras = extras.new_full((len(self._known), extras.shape[1]), math.nan)
        self._gradient[chosen], self._extras[chosen] = gradient, extras
        for k in chosen:
            self._known[k] = True
            self._n_evaluations[k] += 1

    def step(self, objective: MemberObjective, members: Sequence[int], learning_rate_factor: float = 1.0) -> None:
        self.evaluate(objective, members)
        for k in members:
            self._parameters[k] -= self.settings.rate * learning_rate_factor * self._gradient[k]
            self._known[k] = False

    def forget(self, member: int) -> None:
        self._known[member] = False

    def restart(self, member: int, parameters: Tensor) -> None:
        self._parameters[member] = parameters
        self._known[member] = False

    def state(self) -> dict[str, Tensor]:
        # At the known parameters the next evaluation gives the same again; what it cost is counted already.
        counted = [n - known for n, known in zip(self._n_evaluations, self._known, strict=True)]
        return {"parameters": self._parameters.clone(), "n_evaluations": torch.tensor(counted)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if "parameters" not in state or state["parameters"].shape != self._parameters.shape:
            raise InputError("optimiser state: expected parameters of steepest descent")
        self._parameters.copy_(state["parameters"])
        self._known = [False] * len(self._known)
        self._n_evaluations = state["n_evaluations"].tolist()


@dataclass(frozen=True)
class SteepestDescentSettings:
    rate: float = field(default=0.2, metadata=option("step length by length of the gradient", "R"))

    name: ClassVar[str] = "steepest-descent"
    needs: ClassVar[Gives] = Gives.GRADIENT
    fixed: ClassVar[tuple[str, ...]] = ()
    remedies: ClassVar[tuple[str, ...]] = ("a smaller rate",)

    def build(self, parameters: Tensor) -> Optimizer:
        return SteepestDescent(parameters, self)

    def memory_bytes(self, n_members: int, n_parameters: int, *, on_gpu: bool) -> int:
        return 2 * 8 * n_members * n_parameters

    def describe(self) -> str:
        return f"steepest descent, rate {self.rate:g}"


SETTINGS = FitSettings(steps=12, optimizer=SteepestDescentSettings(), seed=3)


@pytest.fixture
def sets() -> tuple[TrainingSet, TrainingSet]:
    return make_set([2, 1, 3, 4, 2, 3, 1, 2, 5]), make_set([2, 3, 4])


def states(settings: FitSettings, sets: tuple[TrainingSet, TrainingSet], **options: Any) -> tuple[Any, list[FitState]]:
    """A fit of three members, and its state after each step."""
    found: list[FitState] = []

    def keep(state: Callable[[], FitState], last: bool) -> None:
        found.append(state())

    start = make_potential().random_members(range(3), 3)
    return fit(start, *sets, settings=settings, checkpoint=keep, **options), found


def test_it_trains(sets: tuple[TrainingSet, TrainingSet]) -> None:
    """Step by step what torch.optim.SGD makes of the same loss."""
    history, _ = states(replace(SETTINGS, conditioning="none"), sets)
    objective, template = Objective(sets[0]), make_potential().networks
    for k, member in enumerate(history.members):
        flat = make_potential().random_members(range(3), 3).networks.flat()[k : k + 1].requires_grad_(True)
        reference = torch.optim.SGD([flat], lr=0.2)
        losses = []
        for _ in range(13):
            reference.zero_grad()
            loss = loss_of(objective, template.with_flat(flat))
            losses.append(loss.item())
            loss.sum().backward()
            reference.step()
        assert member.loss == pytest.approx(losses, rel=1e-12)
        assert member.status == "steps"
        assert member.n_evaluations >= 13
    assert history.best.loss[-1] < 0.9 * history.best.loss[0]


def test_it_goes_on_bit_for_bit(sets: tuple[TrainingSet, TrainingSet]) -> None:
    history, whole = states(SETTINGS, sets)
    resumed, _ = states(SETTINGS, sets, resume=whole[5])
    assert [member.to_json() for member in resumed.members] == [member.to_json() for member in history.members]
    assert torch.equal(resumed.potential.networks.flat(), history.potential.networks.flat())


def test_the_ramp_reaches_it(sets: tuple[TrainingSet, TrainingSet]) -> None:
    ramped, _ = states(replace(SETTINGS, steps=1, learning_rate_ramp=4), sets)
    slow, _ = states(replace(SETTINGS, steps=1, optimizer=SteepestDescentSettings(rate=0.05)), sets)
    assert [member.loss for member in ramped.members] == [member.loss for member in slow.members]


def test_members_restart_and_fail_with_its_own_advice(sets: tuple[TrainingSet, TrainingSet]) -> None:
    settings = replace(SETTINGS, optimizer=SteepestDescentSettings(rate=1e300))
    with pytest.raises(TrainingFailure, match="try a smaller rate, or an error_restart_level"):
        fit(make_potential(), *sets, settings=settings)
    history, _ = states(replace(settings, error_restart_level=1e9), sets)
    assert [member.n_restarts for member in history.members] == [MAX_RESTARTS] * 3
    assert {member.status for member in history.members} == {"gave up"}


def test_a_state_of_another_optimiser_is_refused(sets: tuple[TrainingSet, TrainingSet]) -> None:
    _, own = states(replace(SETTINGS, steps=1), sets)
    _, other = states(FitSettings(steps=1), sets)
    for settings, state in ((SETTINGS, other[-1]), (FitSettings(), own[-1])):
        with pytest.raises(InputError, match="optimiser state"):
            states(settings, sets, resume=state)


def test_the_objective_must_give_what_it_needs(sets: tuple[TrainingSet, TrainingSet]) -> None:
    class NeedsResiduals(SteepestDescentSettings):
        needs = Gives.RESIDUALS

    class OnlyGradient:
        gives = frozenset({Gives.GRADIENT})

    with pytest.raises(InputError, match=r"steepest-descent needs J\^T J of residuals.*, this objective gives the"):
        require_given(NeedsResiduals(), OnlyGradient())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="l2_form: expected squared with steepest-descent, got norm"):
        FitSettings(optimizer=NeedsResiduals(), l2=1e-4)
    potential = make_potential()
    fit(potential, *sets, settings=FitSettings(optimizer=NeedsResiduals(), l2=1e-4, l2_form="squared", steps=1))


def test_a_job_with_a_run_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state and settings go through the file; files are those of a job that was not interrupted."""
    whole, setup = make_set([2, 1, 3, 4, 2, 3, 1, 2, 5]), Setup(torch.device("cpu"), quiet=True)
    split = Split([0, 1, 2, 3, 4, 5, 6], [7, 8], 2, ())
    outputs = TrainingOutputs(network="out.nn.dat", loss_log="loss.txt", run_file="run.h5")
    data = describe_data(whole, make_potential())

    def run(steps: int, resume: bool = False) -> None:
        resumption = Resumption(data=data, run=load_run("run.h5") if resume else None)
        potential = resumption.run.potential if resumption.run else make_potential()
        run_fit(potential, whole, split, replace(SETTINGS, steps=steps), outputs, setup, resumption=resumption)

    for folder, pieces in (("whole", (6,)), ("cut", (2, 6))):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        for number, steps in enumerate(pieces):
            run(steps, resume=bool(number))
    monkeypatch.chdir(tmp_path / "whole")
    expected = snapshot()
    monkeypatch.chdir(tmp_path / "cut")
    assert_same_files(snapshot(), expected)
    earlier = load_run("run.h5")
    assert (earlier.settings["optimizer"], earlier.settings["rate"]) == ("steepest-descent", 0.2)
    assert set(earlier.state.optimizer) == {"parameters", "n_evaluations"}
    asked = replace(SETTINGS, steps=6, optimizer=SteepestDescentSettings(rate=0.1))
    with pytest.raises(InputError, match=r"rate: expected 0.2 \(the run's\), got 0.1 \(--allow-change rate\)"):
        require_same_run(earlier, asked.by_name(), data, ())
    with pytest.raises(InputError, match=r"optimizer: expected steepest-descent .* cannot change, got lbfgs"):
        require_same_run(earlier, FitSettings(seed=3).by_name(), data, ("optimizer",))


def test_its_memory_is_planned() -> None:
    potential = make_potential()
    sizes = {
        name: plan_memory(make_set(), potential, FitSettings(optimizer=optimizer)).host
        for name, optimizer in (("own", SteepestDescentSettings()), ("lbfgs", LBFGSSettings()))
    }
    n_parameters = potential.networks.n_parameters
    assert sizes["lbfgs"] - sizes["own"] > 150 * 8 * n_parameters


def test_its_settings_have_names_of_their_own() -> None:
    @dataclass(frozen=True)
    class Clashing(SteepestDescentSettings):
        steps: int = 3

    with pytest.raises(ValueError, match=r"other names of settings than those of a fit, got \['steps'\]"):
        FitSettings(optimizer=Clashing())


@pytest.mark.parametrize("kind", [*OPTIMIZERS.values(), SteepestDescentSettings])
def test_known_settings_keep_to_the_protocol(kind: type[OptimizerSettings]) -> None:
    """Words and numbers with a help text each, which the command line and run files can hold."""
    settings = kind()
    assert settings.needs in Gives
    assert set(settings.fixed) <= {one.name for one in fields(kind)}
    assert settings.describe()
    for one in fields(kind):
        assert one.metadata["help"], one.name
        assert one.default is None or isinstance(one.default, int | float | str), one.name
    assert not {one.name for one in fields(kind)} & {one.name for one in fields(FitSettings)}
