"""Exact resume: N steps, a cut, M steps give the files of N + M steps, byte for byte; and what is refused."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands.helpers import assert_same_files, snapshot
from objective_values import errors_of
from sample_sets import make_potential, make_set, make_settings
from torch import Tensor

from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.commands.train import job as fit_job
from pyfit_gpu.commands.train.job import Resumption, run_fit
from pyfit_gpu.commands.train.outputs import FILES, TrainingOutputs
from pyfit_gpu.commands.train.same_run import FIXED_SETTINGS, FREE_SETTINGS, describe_data, require_same_run
from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.splits import Split
from pyfit_gpu.datasets.training_set import ATOM_FIELDS, STRUCTURE_FIELDS, TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.run_file import Run, load_run, save_run
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.optimizers import auto
from pyfit_gpu.optimizers.auto_settings import AutoSettings
from pyfit_gpu.optimizers.gauss_newton_settings import GaussNewtonSettings
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.fit import FitState, fit
from pyfit_gpu.training.history import History
from pyfit_gpu.training.objective import Evaluation, Objective
from pyfit_gpu.training.settings import FitSettings

SETUP = Setup(torch.device("cpu"), quiet=True)
MakeFrames = Callable[..., list[Frame]]


@pytest.fixture(autouse=True)
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of small files: what a power failure would do to them is not the subject."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Killed(BaseException):
    """Nobody catches it."""


@dataclass
class Job:
    """A fit with all its files, in the current folder."""

    whole: TrainingSet
    start: Potential
    settings: FitSettings
    members: tuple[int, ...] = ()

    def outputs(self) -> TrainingOutputs:
        return TrainingOutputs(
            network="out.nn.dat",
            loss_log="loss.txt",
            validation_log="validation.txt",
            group_log="groups.csv",
            energy_volume_log="volumes.txt",
            energy_volume_interval=2,
            backup_dir="backup",
            backup_interval=3,
            run_file="run.h5",
            ranking="ranking.csv" if self.members else "",
            members=self.members,
        )

    def run(self, resumption: Resumption | None = None, stop_file: str = "", **changes: Any) -> int:
        rows = range(len(self.whole))
        split = Split([k for k in rows if k % 3], [k for k in rows if k % 3 == 0 and k > 3], 2, (), test=[0, 3])
        resumption = resumption or Resumption(interval=0.0)
        # As `train` does it: a run that goes on has the weights of its run file.
        start = resumption.run.potential if resumption.run else self.start
        copy = replace(start, networks=start.networks.with_flat(start.networks.flat().clone()))
        copy = replace(copy, energy_shift=start.energy_shift.clone())
        settings = replace(self.settings, **changes)
        return run_fit(
            copy,
            self.whole,
            split,
            settings,
            self.outputs(),
            SETUP,
            random_starts=bool(self.members),
            resumption=resumption,
            stop_file=stop_file,
        )

    def resume(self, *, changed: bool = False, **changes: Any) -> int:
        return self.run(Resumption(interval=0.0, run=load_run("run.h5"), changed=changed), **changes)


class Cut:
    """Ways to end a run after `step` steps."""

    @staticmethod
    def finished(job: Job, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """It was given only so many steps."""
        assert job.run(steps=step) == 0

    @staticmethod
    def stopped(job: Job, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """A stop file (a signal, time that is up): it saves and writes everything."""
        steps_until(monkeypatch, step, lambda: Path("stop").touch())
        assert job.run(stop_file="stop") == 0
        Path("stop").unlink()

    @staticmethod
    def killed(job: Job, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the step after the next: logs and backups are ahead of the run file."""
        save = fit_job._Checkpoints._save

        def save_early(self: Any, state: FitState, *, done: bool) -> None:
            if steps_of(state) <= step:
                save(self, state, done=done)

        monkeypatch.setattr(fit_job._Checkpoints, "_save", save_early)
        steps_until(monkeypatch, step + 2, kill)
        with pytest.raises(Killed):
            job.run()


def steps_of(state: FitState) -> int:
    """Steps of the member that has taken most."""
    return max(len(member["history"]["loss"]) - 1 for member in state.members)


def kill() -> None:
    raise Killed


def steps_until(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], object]) -> None:
    """Do something after so many steps, when their rows are written."""
    real = fit

    def watched(*arguments: Any, **keywords: Any) -> History:
        checkpoint = keywords["checkpoint"]

        def check(state: Callable[[], FitState], last: bool) -> None:
            checkpoint(state, last)
            if steps_of(state()) >= step:
                action()

        # What asks whether to stop comes before the checkpoint of the same step.
        return real(*arguments, **{**keywords, "checkpoint": check})

    monkeypatch.setattr(fit_job, "fit", watched)


CUTS = {"finished": Cut.finished, "stopped": Cut.stopped, "killed": Cut.killed}


def compare(job: Job, step: int, how: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes | None]:
    """The files of an undisturbed run and of one that is cut are the same."""
    for name in ("whole", "cut"):
        (folder / name).mkdir()
    monkeypatch.chdir(folder / "whole")
    assert job.run() == 0
    expected = snapshot()
    monkeypatch.chdir(folder / "cut")
    with monkeypatch.context() as patch:
        CUTS[how](job, step, patch)
    between = snapshot()
    assert between["run.h5"] != expected["run.h5"]
    assert job.resume() == 0
    assert_same_files(snapshot(), expected)
    return expected


def taught_set(frames: list[Frame]) -> TrainingSet:
    """Structures with the labels that another network of the same shape gives them."""
    structures = Structures.from_frames(frames)
    labels = predict(make_potential(seed=8, max_random=1.5), structures)
    made = build_training_set(structures, make_potential())
    groups = tuple("abc"[k % 3] for k in range(len(made)))
    return replace(made, energy=labels.energy, forces=labels.forces, stress=labels.stress, groups=groups)


@pytest.fixture(scope="module")
def with_forces(mixed_frames: MakeFrames) -> TrainingSet:
    return taught_set([*mixed_frames(seed=10), *mixed_frames(seed=20)])


@pytest.fixture(scope="module")
def energies() -> TrainingSet:
    return make_set([2, 1, 3, 4, 2, 3, 1, 2, 5, 2, 3, 4], energy_shift=(0.5,))


VARIANTS: dict[str, dict[str, Any]] = {
    "wolfe": {},
    "classic": {"line_search": "none", "learning_rate": 0.05},
    "wolfe-forces": {"force_weight": 0.5, "stress_weight": 0.2},
    "classic-forces": {"force_weight": 0.5, "line_search": "none", "learning_rate": 0.02},
    "interval": {"validation_interval": 3},
    "ramp": {"learning_rate_ramp": 9},
    "short-history": {"history_size": 3, "l2": 1e-4},
    "targets": {"group_targets": {"a": 0.05, "b": 0.0}},
    "last": {"keep": "last"},
}


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_member(
    variant: str,
    how: str,
    energies: TrainingSet,
    with_forces: TrainingSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = VARIANTS[variant]
    whole = with_forces if "force_weight" in changes else energies
    settings = make_settings(**{"steps": 10, "max_iterations": 3, "seed": 4, **changes})
    compare(Job(whole, make_potential(), settings), 5, how, tmp_path, monkeypatch)
    run = load_run("run.h5")
    assert run.done
    (member,) = run.state.members
    assert len(member["history"]["loss"]) == 11
    assert member["history"]["status"] == "steps"
    assert len(Path("loss.txt").read_text().splitlines()) == 11


# Gauss-Newton, the penalty by the evidence, and both; `auto` changes to Gauss-Newton before the cut, and after it.
FORCES = {"force_weight": 0.5, "stress_weight": 0.2}
EVIDENCE = {"l2": "auto", "l2_form": "squared"}
WITH_MATRICES: dict[str, dict[str, Any]] = {
    "gauss-newton": {"optimizer": GaussNewtonSettings(), **FORCES},
    "gauss-newton-targets": {"optimizer": GaussNewtonSettings(), "group_targets": {"a": 0.05, "b": 0.0}, **EVIDENCE},
    "gauss-newton-forces": {"optimizer": GaussNewtonSettings(damping=0.1), **FORCES, **EVIDENCE},
    "lbfgs": {"max_iterations": 3, **FORCES, **EVIDENCE},
    "auto-before": {"optimizer": AutoSettings(max_iterations=1), **FORCES, **EVIDENCE},
    "auto-after": {"optimizer": AutoSettings(max_iterations=3), **FORCES, "l2": 1e-6, "l2_form": "squared"},
}


@pytest.fixture
def steady_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of LBFGS takes as long as a trial of Gauss-Newton: one tick."""
    ticks = itertools.count()
    monkeypatch.setattr(auto, "clock", lambda: float(next(ticks)))


@pytest.mark.usefixtures("steady_clock")
@pytest.mark.parametrize(
    ("variant", "how"),
    [
        *((variant, "killed") for variant in WITH_MATRICES),
        ("gauss-newton-forces", "finished"),
        ("gauss-newton-forces", "stopped"),
        ("auto-before", "finished"),
        ("auto-after", "stopped"),
    ],
)
def test_other_optimizers(
    variant: str, how: str, with_forces: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "_FIRST_TRIAL", 8 if variant == "auto-after" else 3)
    settings = make_settings(**{"steps": 11, "seed": 4, **WITH_MATRICES[variant]})
    members = () if how == "finished" else (0, 1)
    start = make_potential().random_members(range(len(members)), 4) if members else make_potential()
    compare(Job(with_forces, start, settings, members), 6, how, tmp_path, monkeypatch)
    state = load_run("run.h5").state
    assert len(state.members[0].get("penalty", [])) == (6 if settings.l2 == "auto" else 0)
    if "changed" in state.optimizer:
        assert bool(state.optimizer["changed"].all())
        assert state.optimizer["n_steps"].tolist() == [auto._FIRST_TRIAL] * max(1, len(members))


@pytest.mark.parametrize("step", [0, 1, 8])
def test_cut_elsewhere(step: int, energies: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make_settings(steps=10, max_iterations=3)
    compare(Job(energies, make_potential(), settings), step, "stopped", tmp_path, monkeypatch)


@pytest.mark.parametrize("how", CUTS)
def test_single_precision(how: str, energies: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.test_resume.SETUP", replace(SETUP, dtype=torch.float32))
    settings = make_settings(steps=10, max_iterations=3)
    compare(Job(energies, make_potential(), settings), 5, how, tmp_path, monkeypatch)


def test_cut_again_and_again(energies: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every step."""
    settings = make_settings(steps=7, max_iterations=3, learning_rate_ramp=4)
    job = Job(energies, make_potential().random_members(range(2), 1), settings, (0, 1))
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    job.run()
    expected = snapshot()
    monkeypatch.chdir(tmp_path / "cut")
    job.run(steps=0)
    for steps in range(1, 8):
        job.resume(steps=steps)
    assert_same_files(snapshot(), expected)


# ---------------------------------------------------------------------------------------------------------------------
# three members, each at another stage


# Members that stop by patience, go on, and are restarted up to three times, the last time in step 4 or 5.
STAGES: dict[str, dict[str, Any]] = {
    "restarts": {"learning_rate": 0.1, "seed": 9},
    "more-restarts": {"learning_rate": 0.2, "seed": 10, "validation_interval": 2, "patience": 2},
    "wolfe": {"line_search": "strong-wolfe", "learning_rate": 1.0, "seed": 9, "max_iterations": 2, "patience": 6},
}


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize(("stage", "step"), [(stage, step) for stage in STAGES for step in (3, 6)])
def test_members_at_different_stages(
    stage: str, step: int, how: str, energies: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"steps": 12, "max_iterations": 3, "line_search": "none", "error_restart_level": 1.0, "patience": 4}
    settings = make_settings(**{**own, **STAGES[stage]})
    start = make_potential().random_members(range(3), settings.seed)
    job = Job(energies, start, settings, (0, 1, 2))
    expected = compare(job, step, how, tmp_path, monkeypatch)
    assert {f"out.m00{k}.nn.dat" for k in range(3)} | {"ranking.csv", "out.nn.dat", "run.h5"} <= set(expected)
    histories = [member["history"] for member in load_run("run.h5").state.members]
    assert len({len(history["loss"]) for history in histories}) > 1
    assert "patience" in {history["status"] for history in histories}
    assert (max(history["n_restarts"] for history in histories) > 1) == (stage != "wolfe")


def test_the_first_weights_can_be_the_best(energies: TrainingSet) -> None:
    """Where every step makes the validation worse, the weights of row 0 are kept."""
    train, validation = energies.select(range(8)), energies.select(range(8, 12))
    taught = make_potential(seed=12)
    fit(taught, validation, settings=FitSettings(steps=40, conditioning="none"))
    before = taught.networks.flat().clone()
    history = fit(taught, train, validation, settings=FitSettings(steps=3, conditioning="none"))
    assert min(history.validation, key=history.validation.__getitem__) == 0
    assert history.best.kept_step == 0
    assert torch.equal(taught.networks.flat(), before)


# ---------------------------------------------------------------------------------------------------------------------
# logs


def finished_job(whole: TrainingSet, steps: int = 4) -> Job:
    job = Job(whole, make_potential(), make_settings(steps=steps, max_iterations=3))
    assert job.run() == 0
    return job


@pytest.mark.parametrize("name", ["loss.txt", "validation.txt", "groups.csv", "volumes.txt"])
@pytest.mark.parametrize("fault", ["missing", "shorter", "a folder"])
def test_a_log_that_is_not_what_the_run_file_says(
    name: str, fault: str, energies: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is changed then, in the other logs neither."""
    monkeypatch.chdir(tmp_path)
    job = finished_job(energies)
    for log in ("loss.txt", "validation.txt", "groups.csv", "volumes.txt"):
        with open(log, "a") as file:
            file.write("rows of a run that was killed\n")
    size = load_run("run.h5").logs[name][1]
    if fault == "shorter":
        os.truncate(name, size - 1)
        match = rf"{name}: cannot resume: expected at least {size} bytes, found {size - 1}"
    else:
        os.unlink(name)
        match = rf"{name}: cannot resume: No such file"
        if fault == "a folder":
            os.mkdir(name)
            match = rf"{name}: cannot resume: Is a directory"
    before = snapshot()
    with pytest.raises(InputError, match=match):
        job.resume(steps=6)
    assert_same_files(snapshot(), before)


def test_rows_beyond_the_run_file_are_cut_off(
    energies: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = finished_job(energies)
    before = snapshot()
    for log in ("loss.txt", "validation.txt", "groups.csv", "volumes.txt"):
        with open(log, "a") as file:
            file.write("000005 half a ro")
    assert job.resume() == 0
    assert_same_files(snapshot(), before)


def test_a_log_that_the_run_did_not_have_begins(
    energies: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    job = finished_job(energies)
    Path("groups.csv").rename("elsewhere.csv")
    run = load_run("run.h5")
    logs = {path: position for path, position in run.logs.items() if path != "groups.csv"}
    assert job.run(Resumption(interval=0.0, run=replace(run, logs=logs)), steps=6) == 0
    rows = Path("groups.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "000005", "000005", "000006", "000006"]
    assert len(Path("loss.txt").read_text().splitlines()) == 7


def test_a_run_goes_on_from_another_folder(
    energies: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logs are found beside the run file, by whatever path; a run that was moved has them there, too."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    job = finished_job(energies)
    moved = folder.rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    outputs = job.outputs()
    names = (*FILES, "backup_dir")
    paths = {name: str(moved / getattr(outputs, name)) for name in names if getattr(outputs, name)}
    monkeypatch.setattr(job, "outputs", lambda: replace(outputs, **paths))
    assert job.run(Resumption(interval=0.0, run=load_run(moved / "run.h5")), steps=6) == 0
    assert len((moved / "loss.txt").read_text().splitlines()) == 7
    assert sorted(load_run(moved / "run.h5").logs) == ["groups.csv", "loss.txt", "validation.txt", "volumes.txt"]


def test_a_log_that_begins_after_the_last_step(
    energies: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is empty when the run file is written, and grows when more steps follow."""
    monkeypatch.chdir(tmp_path)
    job = finished_job(energies)
    run = load_run("run.h5")
    logs = {path: position for path, position in run.logs.items() if path != "loss.txt"}
    assert job.run(Resumption(interval=0.0, run=replace(run, logs=logs))) == 0
    assert load_run("run.h5").logs["loss.txt"] == (0, 0)
    assert job.resume(steps=5) == 0
    assert [row.split()[0] for row in Path("loss.txt").read_text().splitlines()] == ["000005"]


# ---------------------------------------------------------------------------------------------------------------------
# other settings


def test_a_changed_weight_is_evaluated_anew(
    with_forces: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on like a fit with the new weight from where the first one ended, without the optimiser's memory."""
    monkeypatch.chdir(tmp_path)
    job = Job(with_forces, make_potential(), make_settings(steps=3, max_iterations=3, force_weight=0.5, keep="last"))
    assert job.run() == 0
    run = load_run("run.h5")
    weights = run.state.last_finite
    assert job.resume(changed=True, steps=4, force_weight=4.0, validation_interval=1) == 0
    row = [float(value) for value in Path("loss.txt").read_text().splitlines()[-1].split()]
    found = load_run("run.h5")
    assert not torch.equal(found.state.last_finite, weights)
    # The row belongs to the new weights under the new loss.
    rows = range(len(with_forces))
    train = with_forces.select([k for k in rows if k % 3])
    networks = found.potential.networks.with_flat(found.state.last_finite)
    objective = Objective(train, {"forces": 4.0, "stress": 0.0}, conditioning=found.state.conditioning)
    errors = errors_of(objective, networks)
    assert row[0] == 4
    assert row[1] == pytest.approx(float(errors.loss), rel=1e-9)
    # And the step went down the new loss, not the old one whose value was remembered.
    before = errors_of(Objective(train, {"forces": 4.0, "stress": 0.0}), networks.with_flat(weights))
    assert float(errors.loss) < float(before.loss)


def test_what_the_optimiser_knew_is_not_used(
    with_forces: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first evaluation of the step after a change is that of the weights where they are."""
    monkeypatch.chdir(tmp_path)
    job = Job(with_forces, make_potential(), make_settings(steps=3, max_iterations=3, force_weight=0.5))
    assert job.run() == 0
    train = with_forces.select([k for k in range(len(with_forces)) if k % 3])
    for changed in (False, True):
        run, points = load_run("run.h5"), []
        real = Objective.evaluate

        def watched(self: Objective, at: Tensor, *arguments: Any, **keywords: Any) -> Evaluation:
            points.append(at.clone())  # noqa: B023 - called before the loop goes on
            return real(self, at, *arguments, **keywords)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(Objective, "evaluate", watched)
            settings = replace(job.settings, steps=4)
            fit(run.potential, train, settings=settings, resume=replace(run.state, known=not changed))
        assert torch.equal(points[0], run.state.last_finite) == changed


BASE = FitSettings(steps=4, seed=2)
OPTIONS = {"dtype": "float64", "first_member": 0, "group_weight": [], "window_weight": []}
FIXED = BASE.optimizer.fixed
CHANGED: dict[str, Any] = {
    "optimizer": "another",
    "line_search": "none",
    "learning_rate": 0.3,
    "learning_rate_ramp": 2,
    "max_iterations": 7,
    "max_evaluations": 5,
    "history_size": 9,
    "tolerance_gradient": 1e-5,
    "tolerance_change": 1e-6,
    "line_search_evaluations": 8,
    "conditioning": "std",
    "l2": 0.1,
    "l2_form": "squared",
    "huber": 0.05,
    "negative_penalty": 0.5,
    "size_penalty": 0.01,
    "spread_penalty": 0.02,
    "force_weight": 0.2,
    "stress_weight": 0.3,
    "group_targets": {"a": 0.1},
    "error_restart_level": 2.0,
    "validation_interval": 4,
    "seed": 3,
    "dtype": "float32",
    "first_member": 2,
    "group_weight": ["a=2"],
    "window_weight": ["0:1=3"],
}
FREE: dict[str, Any] = {
    "steps": 9,
    "max_time": 3.0,
    "patience": 2,
    "min_improvement": 0.1,
    "target_rmse": 0.01,
    "keep": "last",
}


def asked(**changes: Any) -> dict[str, Any]:
    """Settings of a job with these options, as the run file keeps them."""
    own = {name: value for name, value in changes.items() if name in BASE.by_name() and name != "optimizer"}
    rest = {name: value for name, value in changes.items() if name not in own}
    return {**make_settings(BASE, **own).by_name(), **OPTIONS, **rest}


@pytest.fixture
def earlier(energies: TrainingSet, tmp_path: Path) -> Run:
    """Through a file: JSON may turn tuples into lists and the like."""
    potential = make_potential().random_members(range(2), 1)
    states: list[FitState] = []
    fit(potential, energies, settings=BASE, steps=1, checkpoint=lambda state, last: states.append(state()))
    run = Run(potential, states[-1], asked(), describe_data(energies, potential), {}, 0, False)
    save_run(run, tmp_path / "run.h5")
    return load_run(tmp_path / "run.h5")


@pytest.fixture
def data(energies: TrainingSet) -> dict[str, Any]:
    return describe_data(energies, make_potential().random_members(range(2), 1))


class TestChangedSettings:
    def test_every_setting_is_one_of_the_two_kinds(self) -> None:
        assert {field.name for field in fields(FitSettings)} < set(BASE.by_name())
        assert set(BASE.by_name()) | set(OPTIONS) == set(CHANGED) | set(FREE)
        assert set(FREE) == set(FREE_SETTINGS)

    def test_earlier_run_files_do_not_name_the_conditioning(self, earlier: Run, data: dict[str, Any]) -> None:
        settings = {name: value for name, value in earlier.settings.items() if name != "conditioning"}
        old = replace(earlier, settings=settings)
        assert require_same_run(old, asked(conditioning="none"), data, (), FIXED) is False
        with pytest.raises(
            InputError, match=r"conditioning: expected none \(the run's\), which cannot change, got half"
        ):
            require_same_run(old, asked(), data, ("conditioning",), FIXED)

    def test_run_files_of_version_0_1_0_name_no_optimiser(self, earlier: Run, data: dict[str, Any]) -> None:
        settings = {name: value for name, value in earlier.settings.items() if name != "optimizer"}
        old = replace(earlier, settings=settings)
        assert require_same_run(old, asked(), data, (), FIXED) is False
        with pytest.raises(InputError, match=r"optimizer: expected lbfgs \(.*\), which cannot change, got another"):
            require_same_run(old, asked(optimizer="another"), data, ("optimizer",), FIXED)

    def test_the_same_may_go_on(self, earlier: Run, data: dict[str, Any]) -> None:
        assert require_same_run(earlier, asked(), data, (), FIXED) is False

    @pytest.mark.parametrize(("until", "expected"), [(0, False), (1, True), (3, True)])
    def test_float32_steps_of_an_earlier_version(
        self, until: int, expected: bool, earlier: Run, data: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """The run goes on, in float64; what is known of the loss is forgotten where it was computed in float32."""
        caplog.set_level("INFO", "pyfit_gpu")
        run = replace(earlier, settings={**earlier.settings, "float32_steps": until})
        assert require_same_run(run, asked(), data, (), FIXED) is expected
        assert ("float64 from here on" in caplog.text) == expected

    def test_float32_steps_that_are_over(self, earlier: Run, data: dict[str, Any]) -> None:
        members = [{**one, "history": {**one["history"], "loss": [1.0] * 5}} for one in earlier.state.members]
        state = replace(earlier.state, members=members)
        run = replace(earlier, state=state, settings={**earlier.settings, "float32_steps": 3})
        assert require_same_run(run, asked(), data, (), FIXED) is False

    @pytest.mark.parametrize("name", CHANGED)
    def test_refused_and_allowed(self, name: str, earlier: Run, data: dict[str, Any]) -> None:
        before = asked()[name]
        new = asked(**{name: CHANGED[name]})
        with pytest.raises(InputError) as raised:
            require_same_run(earlier, new, data, (), FIXED)
        (line,) = str(raised.value).splitlines()
        if name in (*FIXED_SETTINGS, *FIXED):
            assert line == f"resume: {name}: expected {before} (the run's), which cannot change, got {CHANGED[name]}"
            with pytest.raises(InputError, match="which cannot change"):
                require_same_run(earlier, new, data, (name,), FIXED)
            return
        assert line == f"resume: {name}: expected {before} (the run's), got {CHANGED[name]} (--allow-change {name})"
        assert require_same_run(earlier, new, data, (name,), FIXED) is True

    @pytest.mark.parametrize("name", FREE)
    def test_free(self, name: str, earlier: Run, data: dict[str, Any]) -> None:
        assert require_same_run(earlier, asked(**{name: FREE[name]}), data, (), FIXED) is False

    def test_all_of_them_at_once(self, earlier: Run, data: dict[str, Any]) -> None:
        penalties = ("negative_penalty", "size_penalty", "spread_penalty")
        allowed = ("l2", "l2_form", "huber", "learning_rate", "seed", *penalties)
        with pytest.raises(InputError) as raised:
            require_same_run(earlier, asked(**CHANGED, **FREE), data, allowed, FIXED)
        lines = str(raised.value).splitlines()  # a screenful at most, of which one more would be too much
        assert len(lines) == len(CHANGED) - len(allowed)
        for name in set(CHANGED) - set(allowed):
            assert sum(line.startswith(f"resume: {name}: ") for line in lines) == 1

    def test_allowing_what_does_not_differ_or_is_none(self, earlier: Run, data: dict[str, Any]) -> None:
        assert require_same_run(earlier, asked(), data, ("l2",), FIXED) is False
        with pytest.raises(InputError, match=r"allow_change: expected names of settings \(.*\), got learnin_rate"):
            require_same_run(earlier, asked(), data, ("learnin_rate",), FIXED)

    def test_another_set(self, earlier: Run, energies: TrainingSet) -> None:
        """A single number in any field is named; no option lets it pass."""
        potential = make_potential().random_members(range(2), 1)

        def changed(name: str) -> TrainingSet:
            values = getattr(energies, name).clone()
            first = values.view(-1)[:1]
            first.copy_(~first if values.dtype == torch.bool else first.nan_to_num(0.0) + 1)
            return replace(energies, **{name: values})

        others = {name: changed(name) for name in (*ATOM_FIELDS, *STRUCTURE_FIELDS)}
        others["groups"] = replace(energies, groups=("z", *energies.groups[1:]))
        others["energy_shift"] = replace(energies, energy_shift=(0.25,))
        for what, other in others.items():
            with pytest.raises(InputError, match=rf"resume: s\.h5 is not the set .* trained on: its {what} differ$"):
                require_same_run(earlier, asked(), describe_data(other, potential), (), FIXED, set_name="s.h5")
        energy = energies.energy.clone()
        energy[3] = energy[3].nextafter(torch.tensor(0.0, dtype=torch.float64))
        for other in (
            replace(energies, energy=energy),
            energies.select(range(11)),
            energies.select([1, 0, *range(2, 12)]),
        ):
            with pytest.raises(InputError, match="is not the set that the run was trained on"):
                require_same_run(earlier, asked(), describe_data(other, potential), (), FIXED)

    def test_a_run_of_version_0_1_0_is_compared_by_what_it_knows(self, earlier: Run, energies: TrainingSet) -> None:
        """Labels and positions, not features."""
        potential = make_potential().random_members(range(2), 1)

        def without_the_set(data: dict[str, Any]) -> Run:
            return replace(earlier, data={name: value for name, value in data.items() if name != "training set"})

        old = without_the_set(describe_data(energies, potential, without_the_set(earlier.data)))
        assert old.data.keys() - earlier.data.keys() == {"training set (hash of its labels)"}
        other = describe_data(replace(energies, features=energies.features + 1), potential, old)
        assert require_same_run(old, asked(), other, (), FIXED) is False
        other = describe_data(replace(energies, energy=energies.energy + 1), potential, old)
        with pytest.raises(InputError, match="trained on: its labels, positions or groups differ"):
            require_same_run(old, asked(), other, (), FIXED)

    def test_another_program_version_is_a_note(
        self, earlier: Run, data: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "pyfit_gpu")
        require_same_run(earlier, asked(), data, (), FIXED)
        assert "written by" not in caplog.text
        assert require_same_run(replace(earlier, created_by="pyfit-gpu 0.0.9"), asked(), data, (), FIXED) is False
        assert "the run file was written by pyfit-gpu 0.0.9, this is pyfit-gpu" in caplog.text

    def test_another_network(self, earlier: Run, energies: TrainingSet) -> None:
        others = {
            "members": make_potential(),
            "layers": make_potential(hidden=(5, 5)).random_members(range(2), 1),
            "activation": make_potential(activation=0).random_members(range(2), 1),
            "descriptor": make_potential(cutoff=4.4).random_members(range(2), 1),
        }
        for name, potential in others.items():
            with pytest.raises(InputError) as raised:
                require_same_run(earlier, asked(), describe_data(energies, potential), (), FIXED)
            (line,) = str(raised.value).splitlines()
            # Of the descriptor only the setting that differs.
            part, value = (": cutoff", 4.3) if name == "descriptor" else ("", earlier.data[name])
            assert line.startswith(f"resume: {name}{part}: expected {value} (the run's), found ")
