"""A further label: one more `LossTerm` trains, is logged, ranked, planned and resumed; no other module changes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from objective_values import errors_of, loss_of
from sample_sets import make_potential
from torch import Tensor

import pyfit_gpu
from pyfit_gpu.commands.info import info
from pyfit_gpu.commands.train.logs import LossLog
from pyfit_gpu.commands.train.outputs import TrainingOutputs
from pyfit_gpu.commands.train.summary import describe_errors, write_ranking
from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.run_file import FitState
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training import loss
from pyfit_gpu.training.fit import fit
from pyfit_gpu.training.history import LabelErrors
from pyfit_gpu.training.loss import Comparison, Labelled, LossTerm
from pyfit_gpu.training.memory_plan import plan_memory
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.settings import FitSettings

MakeFrames = Callable[..., list[Frame]]
TODAY = loss.TERMS
PACKAGE = Path(pyfit_gpu.__file__).parent


class PressureErrors:
    """The mean of the first three components of the stress, beside the virials."""

    def __init__(self, labelled: Labelled) -> None:
        training_set, rows = labelled.training_set, labelled.rows
        self.weight = labelled.label_weight[:, None]
        self.pressure = training_set.stress[rows].nan_to_num()[:, None, :3].mean(dim=2)
        self.volume = training_set.volume[rows, None].clamp(min=1.0)

    def squares(self, predicted: Tensor) -> dict[str, Tensor]:
        error = predicted[..., :3].mean(dim=2) / self.volume - self.pressure
        return {"pressure": (error.square() * self.weight).sum(dim=0)}


PRESSURE = LossTerm(
    name="pressure",
    unit="eV/Å^3",
    known=lambda training_set: training_set.has_stress,
    described=lambda error: f"pressure {error:.3f} eV/Å^3",
    weight_name="pressure_weight",
    label="a pressure",
    prediction="virials",
    compare=PressureErrors,
    counted="pressure",
    reported="pressure",
)


@dataclass(frozen=True)
class PressureSettings(FitSettings):
    pressure_weight: float = 0.0


def use(terms: tuple[LossTerm, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this the table of all modules that have imported it."""
    now = loss.TERMS
    for module in [module for module in sys.modules.values() if vars(module).get("TERMS") is now]:
        monkeypatch.setattr(module, "TERMS", terms)


@pytest.fixture
def with_pressure(monkeypatch: pytest.MonkeyPatch) -> None:
    use((*TODAY, PRESSURE), monkeypatch)


@pytest.fixture(scope="module")
def training_set(mixed_frames: MakeFrames) -> TrainingSet:
    frames = [frame for seed in range(3) for frame in mixed_frames(("Si",), seed)]
    return build_training_set(Structures.from_frames(frames), make_potential())


def pressure_error(training_set: TrainingSet, potential: pyfit_gpu.Potential) -> float:
    """Root mean square over structures with a stress, by their weights."""
    found = predict(potential, training_set.structures(), derivatives=True)
    known = training_set.has_stress
    assert found.stress is not None
    error = (found.stress - training_set.stress)[known][:, :3].mean(dim=1)
    weight = training_set.weight[known]
    return float(((weight * error**2).sum() / weight.sum()).sqrt())


@pytest.mark.usefixtures("with_pressure")
class TestAFurtherLabel:
    def test_error_and_gradient(self, training_set: TrainingSet) -> None:
        potential = make_potential()
        weights = {"forces": 0.3, "stress": 0.2, "pressure": 50.0}
        objective = Objective(training_set, weights)
        errors = errors_of(objective, potential.networks)
        assert list(errors) == ["energy", "forces", "stress", "pressure"]
        assert float(errors["pressure"]) == pytest.approx(pressure_error(training_set, potential), rel=1e-10)
        without = errors_of(Objective(training_set, {"forces": 0.3, "stress": 0.2}), potential.networks)
        expected = (without.loss**2 + 50.0 * errors["pressure"] ** 2).sqrt()
        torch.testing.assert_close(errors.loss, expected, rtol=1e-12, atol=0)
        template = potential.networks
        flat = template.flat().clone()
        found = objective.evaluate(flat, template).gradient
        assert found is not None
        direction = torch.from_numpy(np.random.default_rng(0).normal(size=flat.shape))
        up, down = (loss_of(objective, template.with_flat(flat + sign * 1e-6 * direction)) for sign in (1, -1))
        assert float((found * direction).sum()) == pytest.approx(float(up - down) / 2e-6, rel=1e-6)

    @pytest.mark.parametrize(
        "weights", [{"pressure": 1.0}, {"forces": 0.1, "pressure": 1.0}], ids=lambda w: "-".join(w)
    )
    def test_it_trains(self, weights: dict[str, float], training_set: TrainingSet, tmp_path: Path) -> None:
        """Log, ranking, test structures; only it and what else has a weight is in the errors."""
        names = {"forces": "force_weight", "pressure": "pressure_weight"}
        settings = PressureSettings(steps=3, seed=1, **{names[name]: value for name, value in weights.items()})
        potential = make_potential()
        log = LossLog(tmp_path / "loss.txt")
        train, validation = training_set.select(range(4, len(training_set))), training_set.select(range(4))
        history = fit(
            potential,
            train,
            validation,
            test=validation,
            members=2,
            settings=settings,
            observers=lambda k: [log] * (k == 0),
        )
        log.close()
        member = history.members[0]
        assert list(member.errors[-1]) == ["energy", *weights]
        assert list(member.validation_errors[3]) == ["energy", *weights]
        assert member.test is not None
        row = (tmp_path / "loss.txt").read_text().splitlines()[-1].split()
        columns = dict(zip((term.name for term in (*TODAY, PRESSURE)), row[2:], strict=True))
        for name, cell in columns.items():
            expected = member.errors[-1].get(name)
            assert (cell == "nan") if expected is None else float(cell) == pytest.approx(expected, rel=1e-9)
        assert f"pressure {member.errors[-1]['pressure']:.3f}" in describe_errors(member.errors[-1])
        outputs = TrainingOutputs(str(tmp_path / "nn.dat"), ranking=str(tmp_path / "ranking.csv"), members=(0, 1))
        write_ranking(history, outputs)
        head, best, _ = (line.split(",") for line in (tmp_path / "ranking.csv").read_text().splitlines())
        shown = dict(zip(head, best, strict=True))
        kept = history.best.kept_validation_errors
        assert kept is not None
        assert float(shown["validation_pressure"]) == pytest.approx(kept["pressure"], rel=1e-6)
        assert "ranking of members" in info(tmp_path / "ranking.csv")

    def test_an_earlier_state_goes_on(self, training_set: TrainingSet, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run file of a version that did not know the label: its columns are fewer, its rows shorter."""
        settings = PressureSettings(steps=4, seed=1, force_weight=0.3)
        expected = fit(make_potential(), training_set, settings=settings)
        states: list[FitState] = []
        use(TODAY, monkeypatch)
        fit(
            make_potential(),
            training_set,
            settings=settings,
            steps=2,
            checkpoint=lambda state, last: states.append(state()),
        )
        use((*TODAY, PRESSURE), monkeypatch)
        state = states[-1]
        assert [len(row) for row in state.members[0]["history"]["errors"]] == [3, 3, 3]
        found = fit(make_potential(), training_set, settings=settings, resume=state)
        assert found.loss == expected.loss
        assert found.errors == expected.errors

    def test_what_it_needs(self, training_set: TrainingSet) -> None:
        with pytest.raises(InputError, match="pressure_weight: expected a number >= 0, got -1"):
            PressureSettings(pressure_weight=-1.0)
        without = training_set.select((~training_set.has_stress).nonzero()[:, 0])
        with pytest.raises(
            InputError, match=r"pressure_weight: expected 0, got 2\.0: no training structure has a pressure"
        ):
            fit(make_potential(), without, settings=PressureSettings(pressure_weight=2.0))

    def test_it_takes_memory(self, training_set: TrainingSet) -> None:
        potential = make_potential()
        plans = [
            plan_memory(training_set, potential, PressureSettings(pressure_weight=w), memory=2**34) for w in (0.0, 1.0)
        ]
        assert [plan.jacobian_bytes > 0 for plan in plans] == [False, True]


class TestTheTable:
    def test_names_are_unique_and_every_square_is_named(self) -> None:
        assert len({term.name for term in TODAY}) == len(TODAY)
        assert TODAY[0].name == "energy"
        for term in TODAY[1:]:
            assert term.weight_name in FitSettings.__dataclass_fields__
            assert term.compare is not None
            assert term.counted
            assert term.reported
            assert not {term.counted, term.reported} & {"energies", "gradient"}  # of `BlockValue.named`

    def test_comparisons_name_their_squares(self, training_set: TrainingSet) -> None:
        rows = training_set.has_stress.nonzero()[:, 0]
        sizes = training_set.sizes[rows]
        atoms = torch.arange(int(sizes.sum()))
        predictions = {"forces": torch.zeros(len(atoms), 2, 3), "virials": torch.zeros(len(rows), 2, 6)}
        for term in TODAY[1:]:
            assert term.compare is not None
            labelled = Labelled(training_set, rows, atoms, torch.ones(len(rows), dtype=torch.float64))
            comparison: Comparison = term.compare(labelled)
            found = comparison.squares(predictions[term.prediction].double())
            assert found.keys() == {term.counted, term.reported}
            assert all(square.shape == (2,) for square in found.values())

    def test_modules_that_know_a_label_by_name(self) -> None:
        """Beside the data, a further label touches these, and blocks.py where its prediction is a new one."""
        folders = ("training", "optimizers", "commands")
        files = [file for folder in folders for file in (PACKAGE / folder).rglob("*.py")]
        texts = {str(file.relative_to(PACKAGE)): file.read_text(encoding="utf-8") for file in files}
        naming = {name for name, text in texts.items() if "stress_weight" in text or "stress-weight" in text}
        verbs = {f"commands/{name}.py" for name in ("train_options", "train_settings", "verbs", "train/left_open")}
        assert naming <= {"training/loss.py", "training/settings.py", *verbs}


def test_errors_by_label() -> None:
    errors = LabelErrors({"stress": 3.0, "energy": 1.0})
    assert list(errors) == ["energy", "stress"]
    assert (errors.energy, errors.forces, errors.stress) == (1.0, None, 3.0)
    assert "forces" not in errors
    assert errors == LabelErrors({"energy": 1.0, "stress": 3.0}) != LabelErrors({"energy": 1.0})
    assert LabelErrors.from_json(errors.to_json()) == errors
    with pytest.raises(AttributeError, match="LabelErrors has no attribute 'charge'"):
        _ = errors.charge
    with pytest.raises(KeyError):
        _ = errors["forces"]
