"""Settings that the command leaves open: found from the data, or those of the run that goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands.helpers import call, done, refused, snapshot, weights
from sample_sets import NAN, make_potential, make_set

import pyfit_gpu as pf
from pyfit_gpu.commands.train.left_open import L2, MAY_BE_OPEN, settled
from pyfit_gpu.datasets.label_scales import balanced_weights
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.formats.nn_dat import save_potential
from pyfit_gpu.formats.run_file import load_run
from pyfit_gpu.formats.text_set import write_text_set
from pyfit_gpu.formats.training_set.reader import save_training_set
from pyfit_gpu.training.settings import FitSettings

N_PARAMETERS = 64  # of the network below: 6 inputs, 5 and 4 neurons
NETWORK = 7 * 5 + 6 * 4 + 5
TRAIN = ("train", "set.h5", "--potential", "start.nn.dat", "--out", "out.nn.dat", "--train-fraction", "0.5",
         "--n-threads", "1")  # fmt: skip


def crystals(count: int = 40, seed: int = 1) -> TrainingSet:
    """Structures of four atoms in a large cell, near each other, with random labels."""
    made = make_set([4] * count, seed=seed)
    corners = torch.tensor([[0, 0, 0], [2.4, 0, 0], [0, 2.4, 0], [0, 0, 2.4]], dtype=torch.float64)
    return replace(
        made,
        positions=corners.repeat(count, 1) + 0.1 * made.positions,
        cell=12.0 * torch.eye(3, dtype=torch.float64).expand(count, 3, 3),
        pbc=torch.ones_like(made.pbc),
        volume=torch.full_like(made.volume, 1728.0),
        stress=1e-3 * made.stress,
    )


def save(training_set: TrainingSet, path: str = "set.h5") -> TrainingSet:
    Path(path).unlink(missing_ok=True)
    save_training_set(training_set, path)
    return training_set


@pytest.fixture(autouse=True)
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingSet:
    monkeypatch.chdir(tmp_path)
    save_potential(make_potential(), "start.nn.dat")
    return save(crystals())


def train(*words: object, steps: int = 1) -> str:
    return done(*TRAIN, "--steps", steps, *words).said


def settings_of_the_run(path: str = "out.run.h5") -> tuple[object, ...]:
    found = load_run(path).settings
    return tuple(found[name] for name in MAY_BE_OPEN)


def test_what_is_found_is_said_and_kept(whole: TrainingSet) -> None:
    said = train()
    part, _ = whole.split(0.5, 2)
    force, stress = balanced_weights(part)
    assert force != balanced_weights(whole)[0]  # the part that trains is what counts
    chosen = f"conditioning half, force_weight {force}, l2 {L2}, l2_form norm, stress_weight {stress}"
    assert f"not given and chosen: {chosen}\n" in said
    assert f"weights: energy 1, force {force:g} Å^2, stress {stress:g}\n" in said
    assert settings_of_the_run() == ("half", force, L2, "norm", stress)


def test_explicit_values_give_the_same_bits() -> None:
    """The logged line can be given as options."""
    said = train(steps=3)
    left_open = weights("out.nn.dat")
    (found,) = re.findall(r"chosen: (.*)", said)
    words = [word for setting in found.split(", ") for word in f"--{setting.replace('_', '-')}".split()]
    said = train(*words, "--overwrite", steps=3)
    assert "chosen" not in said
    assert weights("out.nn.dat") == left_open


def test_explicit_values_win() -> None:
    assert "chosen: l2 0.0001, l2_form norm, stress_weight" in train("--conditioning", "std", "--force-weight", "0.125")
    assert settings_of_the_run()[:2] == ("std", 0.125)


def test_zero_means_none() -> None:
    said = train("--force-weight", "0", "--stress-weight", "0", "--l2", "0", "--conditioning", "none")
    assert "chosen" not in said
    assert "energies alone train; forces are known" in said
    assert settings_of_the_run() == ("none", 0.0, 0.0, "norm", 0.0)


@pytest.mark.parametrize(
    ("words", "l2", "form"),
    [
        ("--optimizer gauss-newton", "auto", "squared"),
        ("--optimizer auto", "auto", "squared"),
        ("--l2-form squared", "auto", "squared"),
        ("--l2-form norm", L2, "norm"),
        ("--l2 auto", "auto", "squared"),
        ("--l2 0.01", 0.01, "norm"),
        ("--l2 1e-6 --l2-form squared --optimizer gauss-newton", 1e-6, "squared"),
    ],
)
def test_the_penalty_goes_with_the_optimiser(words: str, l2: float | str, form: str) -> None:
    train(*words.split(), "--force-weight", "0", "--stress-weight", "0")
    assert settings_of_the_run()[2:4] == (l2, form)


def test_a_number_alone_is_that_of_the_norms() -> None:
    """Whatever the optimiser: it is refused where they cannot be minimised."""
    words = ("--optimizer", "gauss-newton", "--l2", "0.01")
    refused(*TRAIN, *words, match="l2_form: expected squared with gauss-newton, got norm")


def test_the_weights_of_structures_count(whole: TrainingSet) -> None:
    train("--group-weight", "a=0", "b=3", "--train-fraction", "1", "--force-weight", "0.1")
    factor = torch.tensor([{"a": 0.0, "b": 3.0, "c": 1.0}[group] for group in whole.groups], dtype=torch.float64)
    assert settings_of_the_run()[4] == balanced_weights(replace(whole, weight=factor))[1]


class TestResume:
    def test_a_run_keeps_its_values(self) -> None:
        """A run that was given other values than the data call for keeps them, to the bit."""
        words = ("--conditioning", "std", "--force-weight", "0.3", "--stress-weight", "0", "--l2", "0.01")
        train(*words, steps=4)
        unbroken = weights("out.nn.dat"), log_rows_of("out.loss.txt")
        train(*words, "--overwrite", steps=2)
        said = train("--resume", steps=4)
        assert "chosen" not in said
        assert settings_of_the_run() == ("std", 0.3, 0.01, "norm", 0.0)
        assert (weights("out.nn.dat"), log_rows_of("out.loss.txt")) == unbroken

    def test_a_run_without_them_goes_on_with_what_it_found(self) -> None:
        train(steps=4)
        unbroken = weights("out.nn.dat"), settings_of_the_run()
        train("--overwrite", steps=2)
        train("--resume", steps=4)
        assert (weights("out.nn.dat"), settings_of_the_run()) == unbroken

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("--force-weight 0.2", r"resume: force_weight: expected 0.3 \(the run's\), got 0.2 \(--allow-change"),
            ("--stress-weight 0.2", r"resume: stress_weight: expected 0.0 \(the run's\), got 0.2"),
            ("--l2 0", r"resume: l2: expected 0.01 \(the run's\), got 0.0"),
            ("--conditioning half", r"resume: conditioning: expected std \(the run's\), which cannot change, got half"),
        ],
    )
    def test_others_are_refused(self, words: str, message: str) -> None:
        train("--conditioning", "std", "--force-weight", "0.3", "--stress-weight", "0", "--l2", "0.01")
        refused(*TRAIN, "--steps", 3, "--resume", *words.split(), match=message)

    def test_another_optimiser_is_the_only_fault(self) -> None:
        """Its settings, which the run does not have, are no faults of their own."""
        train("--optimizer", "gauss-newton", "--force-weight", "0", "--stress-weight", "0")
        said = refused(*TRAIN, "--steps", 3, "--resume", match="resume: optimizer: expected gauss-newton").said
        assert said.count("resume: ") == 1

    def test_a_penalty_of_a_number_becomes_one_by_the_evidence(self) -> None:
        words = ("--force-weight", "0", "--stress-weight", "0")
        train(*words, steps=2)
        said = train(*words, "--resume", "--l2", "auto", "--allow-change", "l2", "l2_form", steps=8)
        assert "l2 changes from 0.0001 to auto" in said
        assert "evidence: l2 of weights, biases of each layer" in said

    def test_or_changed_on_request(self) -> None:
        train("--force-weight", "0.3", "--stress-weight", "0")
        said = train("--resume", "--force-weight", "0.2", "--allow-change", "force_weight", steps=2)
        assert "force_weight changes from 0.3 to 0.2" in said

    def test_without_a_run_file_training_starts(self) -> None:
        assert "chosen: conditioning half" in train("--resume")


class TestConditioning:
    """By the number of atoms that train, against that of the parameters."""

    @pytest.mark.parametrize(("n_structures", "kind"), [(15, "none"), (16, "half")])
    def test_by_the_amount_of_data(self, n_structures: int, kind: str) -> None:
        assert NETWORK == N_PARAMETERS == 16 * 4
        save(crystals(n_structures))
        assert f"chosen: conditioning {kind}, " in train("--train-fraction", "1", "--validation-interval", "0")

    def test_structures_that_do_not_train_do_not_count(self) -> None:
        made = crystals(17)
        energy = made.energy.clone()
        energy[3] = NAN
        weight = made.weight.clone()
        parameters = make_potential()
        for changed, kind in (({"energy": energy}, "half"), ({"energy": energy, "weight": weight}, "none")):
            weight[5] = 0.0 if kind == "none" else 1.0
            assert found(replace(made, **changed), parameters).conditioning == kind

    def test_members(self) -> None:
        """Each has all the data."""
        said = train("--members", "2", "--randomize", "--train-fraction", "1")
        assert "chosen: conditioning half, " in said
        assert settings_of_the_run()[0] == "half"


def found(train: TrainingSet, potential: pf.Potential | None = None) -> FitSettings:
    return settled(FitSettings(), MAY_BE_OPEN, train, potential or make_potential(), None)


def log_rows_of(path: str) -> str:
    return Path(path).read_text()


@pytest.mark.parametrize(
    "words", [(), ("--force-weight", "0"), ("--stress-weight", "0", "--conditioning", "none")], ids=" ".join
)
def test_the_plan_is_that_of_the_training(words: tuple[str, ...]) -> None:
    """With and without derivatives for forces, and with the statistics of the inputs."""
    for n_structures in (40, 15):
        save(crystals(n_structures))
        (trained,) = re.findall(r"memory: (.*) of ", train("--train-fraction", "1", "--overwrite", *words))
        if "--conditioning" not in words:
            table = done("plan", "set.h5", "--potential", "start.nn.dat", *words).out
            assert re.search(rf"^total +{trained}$", table, re.MULTILINE), (trained, table)


def test_a_plan_writes_nothing() -> None:
    before = snapshot()
    assert "chosen: conditioning half, force_weight" in done("plan", "set.h5", "--potential", "start.nn.dat").out
    assert snapshot() == before


class TestDataThatLackSomething:
    def test_a_text_set_has_no_positions(self, whole: TrainingSet) -> None:
        """Energies alone can train."""
        write_text_set(whole, "text.dat")
        said = done("train", "text.dat", *TRAIN[2:], "--steps", "1").said
        assert "force_weight 0.0, l2 0.0001, l2_form norm, stress_weight 0.0\n" in said
        no_positions = replace(whole, positions=torch.full_like(whole.positions, NAN))
        assert (found(no_positions).force_weight, found(no_positions).stress_weight) == (0.0, 0.0)
        assert found(whole).force_weight > 0

    @pytest.mark.parametrize(
        ("change", "force", "stress"),
        [
            (lambda made: {"forces": made.forces * 0}, False, True),
            (lambda made: {"forces": made.forces * NAN}, False, True),
            (lambda made: {"forces": made.forces * first_half(made, NAN).repeat_interleave(4)[:, None]}, True, True),
            (lambda made: {"stress": made.stress * NAN}, True, False),
            (lambda made: {"stress": made.stress * first_half(made, NAN)[:, None]}, True, True),
            (lambda made: {"energy": made.energy * 0 - 12.0}, True, True),
        ],
        ids=["zero forces", "no forces", "some forces", "no stress", "some stress", "equal energies"],
    )
    def test_it_trains(
        self, change: Callable[[TrainingSet], dict[str, torch.Tensor]], force: bool, stress: bool, whole: TrainingSet
    ) -> None:
        save(replace(whole, **change(whole)))
        train(steps=2)
        _, force_weight, _, _, stress_weight = settings_of_the_run()
        assert (force_weight > 0, stress_weight > 0) == (force, stress)
        assert pf.load_potential("out.nn.dat").networks.flat().isfinite().all()

    def test_one_structure(self) -> None:
        save(crystals(1))
        result = call("train", "set.h5", "--potential", "start.nn.dat", "--out", "out.nn.dat", "--steps", "2")
        assert result.status == 0, result.said
        assert "chosen: conditioning none, force_weight" in result.said

    def test_forces_of_structures_that_validate_only(self, whole: TrainingSet) -> None:
        """None of those that train has any: energies alone train."""
        save(replace(whole, forces=whole.forces * NAN, stress=whole.stress * NAN), "energies.h5")
        said = done("train", "energies.h5", "--validation", "set.h5", *TRAIN[2:6], "--steps", "1").said
        assert "force_weight 0.0, l2 0.0001, l2_form norm, stress_weight 0.0\n" in said


def first_half(made: TrainingSet, value: float) -> torch.Tensor:
    """A factor for each structure: 1, and for the last half the value."""
    factor = torch.ones(len(made), dtype=torch.float64)
    factor[len(made) // 2 :] = value
    return factor
