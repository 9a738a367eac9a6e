"""`train` with several members, splits by name, weights and targets, stopping: what it writes and what it refuses."""

from __future__ import annotations

import csv
import itertools
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands.helpers import (
    call,
    done,
    fresh_potential,
    log_rows,
    names,
    new_names,
    poscar_blocks,
    refused,
    set_up,
    weights,
    write_poscar,
)

import pyfit_gpu as pf
from pyfit_gpu.formats.run_file import load_run

SHIFT = 106.0  # eV per atom: brings the energies near to what the network says


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """34 structures in four groups, and a potential that asks for random weights."""
    set_up(tmp_path, monkeypatch)
    write_poscar("si.poscar.dat", poscar_blocks(), ["bulk", "bulk", "slab", "slab_2", "wire"])
    fresh_potential("fresh.nn.dat", "3 40 5 1")
    done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "si.h5", "--e-shift", SHIFT, "--quiet")


TRAIN = ("train", "si.h5", "--potential", "fresh.nn.dat", "--out", "out.nn.dat", "--backup-dir", "")
SPLIT = ("--train-fraction", "0.6", "--seed", "3")


def train(*words: object, steps: int = 3) -> str:
    return done(*TRAIN, "--steps", steps, *words).said


def table(path: str = "out.ranking.csv") -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def parts(fraction: float = 0.6, seed: int = 3, test_groups: tuple[str, ...] = ()) -> list[pf.TrainingSet]:
    """Training, validation and test structures."""
    whole = pf.load_training_set("si.h5")
    split = whole.plan_split(fraction, seed, test_groups)
    return [whole.select(rows) for rows in (split.train, split.validation, split.test)]


def energy_errors(network: str, part: pf.TrainingSet) -> np.ndarray:
    """(B,) eV/atom, by the Python interface for prediction, which knows no objective."""
    found = pf.predict(pf.load_potential(network), part.structures())
    return ((found.energy - part.energy_used) / part.sizes).numpy()


def rmse(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


MEMBERS = [f"m{k:03d}" for k in range(3)]


# ---------------------------------------------------------------------------------------------------------------------
# members


def test_files() -> None:
    before = names()
    done("train", "si.h5", "--potential", "fresh.nn.dat", "--out", "out.nn.dat", "--members", 3, "--steps", 3,
         "--backup-interval", 2, "--energy-volume-log", "ev.txt")  # fmt: skip
    each = ("nn.dat", "loss.txt", "validation.txt", "groups.csv")
    backups = ("backup/nn_bk_00000.nn.dat", "backup/nn_bk_00002.nn.dat")
    assert new_names(before) == {
        "out.nn.dat", "out.ranking.csv", "out.run.h5", *(f"ev.{name}.txt" for name in MEMBERS),
        *(f"out.{name}.{ending}" for name in MEMBERS for ending in (*each, *backups)),
    }  # fmt: skip
    for name in MEMBERS:
        assert [step for step, _ in log_rows(f"out.{name}.loss.txt")] == [0, 1, 2, 3]
        assert weights(f"out.{name}.nn.dat") != weights("fresh.nn.dat")
    assert len({weights(f"out.{name}.nn.dat") for name in MEMBERS}) == 3


def test_ranking() -> None:
    """Against the logs, and against an evaluation of the networks that were written."""
    said = train("--members", 3, *SPLIT, steps=6)
    rows = table()
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert sorted(row["member"] for row in rows) == ["0", "1", "2"]
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores)
    training, validation, _ = parts()
    for row in rows:
        name = MEMBERS[int(row["member"])]
        assert row["network"] == f"out.{name}.nn.dat"
        loss, validated = dict(log_rows(f"out.{name}.loss.txt")), dict(log_rows(f"out.{name}.validation.txt"))
        kept = int(row["kept_step"])
        assert validated[kept] == min(validated.values())
        assert row["score"] == row["validation_loss"] == f"{validated[kept]:.6e}"
        assert row["training_loss"] == f"{loss[kept]:.6e}"
        assert (row["steps"], row["status"], row["restarts"]) == ("6", "steps", "0")
        assert row["validation_forces"] == row["test_energy"] == row["test_forces"] == ""
        assert rmse(energy_errors(row["network"], validation)) == pytest.approx(validated[kept], rel=1e-8)
        assert rmse(energy_errors(row["network"], training)) == pytest.approx(loss[kept], rel=1e-8)
        assert float(row["validation_energy"]) == pytest.approx(validated[kept], rel=1e-6)
    assert Path("out.nn.dat").read_bytes() == Path(rows[0]["network"]).read_bytes()
    assert f"3 members: score {scores[0]:.6e} to {scores[2]:.6e} eV/atom; best is member {rows[0]['member']}" in said


def test_ranking_against_evaluate() -> None:
    """The verb, on the validation structures alone."""
    train("--members", 2, *SPLIT, steps=4)
    _, validation, _ = parts()
    blocks = poscar_blocks("si.poscar.dat")
    lowest = [float(block[-1]) for block in blocks]
    chosen = [lowest.index(energy) for energy in validation.energy.tolist()]
    write_poscar("validation.dat", [blocks[k] for k in chosen])
    for row in table():
        words = ("--potential", row["network"], "--out", "found.csv", "--overwrite")
        done("evaluate", "validation.dat", *words)
        found = np.genfromtxt("found.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
        error = rmse(found["energy_per_atom"] - found["reference_energy_per_atom"])
        assert float(row["validation_energy"]) == pytest.approx(error, rel=1e-6)


def test_run_file() -> None:
    train("--members", 3, "--first-member", 4)
    run = load_run("out.run.h5")
    assert (run.done, run.first_member, run.potential.networks.n_members) == (True, 4, 3)
    for k in range(3):
        name = f"m{4 + k:03d}"
        history = run.state.members[k]["history"]
        assert [round(value, 15) for value in history["loss"]] == pytest.approx(
            [loss for _, loss in log_rows(f"out.{name}.loss.txt")], rel=1e-9
        )
        assert run.potential.member(k).networks.flat().numpy().tobytes() == weights(f"out.{name}.nn.dat")
    assert sorted(run.logs) == sorted(
        f"out.m{4 + k:03d}.{ending}" for k in range(3) for ending in ("loss.txt", "validation.txt", "groups.csv")
    )
    for path, position in run.logs.items():
        assert position == (0, Path(path).stat().st_size)


GAUSS_NEWTON = ("--optimizer", "gauss-newton", "--steps", "7")


@pytest.mark.parametrize("words", [(), ("--dtype", "float32"), ("--l2", "1e-3"), GAUSS_NEWTON])
def test_a_member_has_the_bits_of_a_job_of_its_own(words: tuple[str, ...]) -> None:
    """One job with three members, or an array of three jobs."""
    train("--members", 3, *words)
    for k, name in enumerate(MEMBERS):
        own = ("--out", "own.nn.dat", "--members", 1, "--first-member", k, "--overwrite")
        train(*own, *words)
        for ending in ("nn.dat", "loss.txt", "validation.txt", "groups.csv"):
            assert Path(f"own.{name}.{ending}").read_bytes() == Path(f"out.{name}.{ending}").read_bytes()
        assert weights("own.nn.dat") == weights(f"own.{name}.nn.dat")


def test_a_member_without_a_name_of_its_own() -> None:
    """--first-member alone: an array of plain fits."""
    train("--members", 2)
    before = names()
    done("train", "si.h5", "--potential", "fresh.nn.dat", "--out", "own.nn.dat", "--first-member", 1, "--steps", 3,
         "--backup-dir", "")  # fmt: skip
    assert new_names(before) == {"own.nn.dat", "own.loss.txt", "own.validation.txt", "own.groups.csv", "own.run.h5"}
    assert weights("own.nn.dat") == weights("out.m001.nn.dat")


def test_seeds() -> None:
    """The weights' seed decides the members, the split's the split."""
    found = {}
    for seed in (5, 6):
        train("--members", 2, "--weight-seed", seed, "--overwrite", steps=0)
        found[seed] = [weights(f"out.{name}.nn.dat") for name in MEMBERS[:2]]
    train("--members", 2, "--weight-seed", 5, "--overwrite", steps=0)
    assert [weights(f"out.{name}.nn.dat") for name in MEMBERS[:2]] == found[5]
    assert len({*found[5], *found[6]}) == 4


def test_several_potentials() -> None:
    train("--members", 2, steps=1)
    for name in MEMBERS[:2]:
        shutil.copy(f"out.{name}.nn.dat", f"start.{name}.nn.dat")
    starts = [f"start.{name}.nn.dat" for name in MEMBERS[:2]]
    before = names()
    done("train", "si.h5", "--potential", *starts, "--out", "two.nn.dat", "--steps", 2, "--backup-dir", "")
    assert {"two.m000.nn.dat", "two.m001.nn.dat", "two.ranking.csv"} <= new_names(before)
    for k, start in enumerate(starts):
        done("train", "si.h5", "--potential", start, "--out", "one.nn.dat", "--steps", 2, "--backup-dir", "",
             "--overwrite")  # fmt: skip
        assert weights("one.nn.dat") == weights(f"two.m{k:03d}.nn.dat")


# ---------------------------------------------------------------------------------------------------------------------
# which structures train


def test_test_groups() -> None:
    """Whole groups by a pattern: scored at the end, neither trained on nor validated."""
    said = train("--members", 2, "--test-groups", "slab*", *SPLIT, steps=4)
    training, validation, test = parts(test_groups=("slab*",))
    assert set(test.groups) == {"slab", "slab_2"}
    assert not {"slab", "slab_2"} & {*training.groups, *validation.groups}
    assert len(training) + len(validation) + len(test) == 34
    assert f"{len(test)} test ({test.n_atoms} atoms)" in said
    for row in table():
        assert float(row["test_energy"]) == pytest.approx(rmse(energy_errors(row["network"], test)), rel=1e-6)
        assert float(row["training_loss"]) == pytest.approx(rmse(energy_errors(row["network"], training)), rel=1e-6)
    best = table()[0]
    errors = energy_errors(best["network"], test)
    assert f"test RMSE: energy {1000 * rmse(errors):.3f} meV/atom\n" in said
    for group in ("slab", "slab_2"):
        own = rmse(errors[[name == group for name in test.groups]])
        assert f"  {group}: energy {1000 * own:.3f} meV/atom\n" in said
    header = Path("out.m000.groups.csv").read_text().splitlines()[0]
    assert header == "step,part,bulk,wire"


def test_group_log() -> None:
    train(*SPLIT, "--keep", "last", "--validation-interval", 2)
    with open("out.groups.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["part"]) for row in rows] == [
        ("000000", "train"), ("000000", "validation"), ("000001", "train"), ("000002", "train"),
        ("000002", "validation"), ("000003", "train"),
    ]  # fmt: skip
    training, _, _ = parts()
    errors = energy_errors("out.nn.dat", training)
    for group in ("bulk", "slab", "slab_2", "wire"):
        own = rmse(errors[[name == group for name in training.groups]])
        assert float(rows[-1][group]) == pytest.approx(own, rel=1e-8)


def test_a_split_by_name() -> None:
    """Drawn by the first job, used by the second, which says nothing of its own about it."""
    train("--split", "mine", *SPLIT, "--test-groups", "wire")
    first = {ending: Path(f"out.{ending}").read_bytes() for ending in ("loss.txt", "validation.txt", "nn.dat")}
    train("--split", "mine", "--overwrite")
    assert {ending: Path(f"out.{ending}").read_bytes() for ending in first} == first
    split = pf.load_training_set("si.h5").splits["mine"]
    assert (split.train_fraction, split.seed, split.test_groups) == (0.6, 3, ("wire",))
    assert "mine" in done("info", "si.h5").out
    train(*SPLIT, "--test-groups", "wire", "--overwrite")
    assert {ending: Path(f"out.{ending}").read_bytes() for ending in first} == first
    refused(
        *TRAIN, "--split", "mine", "--train-fraction", "0.7", "--overwrite", match=r"mine.*train_fraction.*0\.6.*0\.7"
    )
    refused(*TRAIN, "--split", "mine", "--test-groups", "slab", "--overwrite", match=r"mine.*test_groups.*wire.*slab")


# ---------------------------------------------------------------------------------------------------------------------
# weights and targets


def weighted_rmse(network: str, part: pf.TrainingSet, weight: np.ndarray) -> float:
    return float(np.sqrt(np.average(energy_errors(network, part) ** 2, weights=weight)))


def test_group_weight() -> None:
    train(*SPLIT, "--group-weight", "bulk=5", "slab*=0.5", "slab_2=0", "--keep", "last")
    training, validation, _ = parts()
    factors = {"bulk": 5.0, "slab": 0.5, "slab_2": 0.0, "wire": 1.0}
    for part, log in ((training, "out.loss.txt"), (validation, "out.validation.txt")):
        expected = weighted_rmse("out.nn.dat", part, np.array([factors[group] for group in part.groups]))
        assert log_rows(log)[-1][1] == pytest.approx(expected, rel=1e-8)
        assert expected != pytest.approx(rmse(energy_errors("out.nn.dat", part)), rel=1e-3)
    rows = [line.split(",") for line in Path("out.groups.csv").read_text().splitlines()]
    assert math.isnan(float(rows[-1][4]))  # slab_2 has no weight


def test_window_weight() -> None:
    """By energy above the lowest of the whole set, not of the training structures."""
    whole = pf.load_training_set("si.h5")
    above = (whole.energy_used / whole.sizes).numpy()
    edge = float(np.median(above - above.min()))
    train(*SPLIT, "--window-weight", f"{edge}:=0.1", "--keep", "last")
    training, _, _ = parts()
    high = (training.energy_used / training.sizes).numpy() - above.min() >= edge
    assert 0 < high.sum() < len(training)
    expected = weighted_rmse("out.nn.dat", training, np.where(high, 0.1, 1.0))
    assert log_rows("out.loss.txt")[-1][1] == pytest.approx(expected, rel=1e-8)


def test_group_target() -> None:
    train(*SPLIT, "--group-target", "slab*=0.2", "--keep", "last")
    training, _, _ = parts()
    errors, square = energy_errors("out.nn.dat", training), 0.0
    for group in sorted(set(training.groups)):
        own = np.array([name == group for name in training.groups])
        target = 0.2 if group.startswith("slab") else 0.0
        square += own.mean() * max(0.0, rmse(errors[own]) - target) ** 2
    assert log_rows("out.loss.txt")[-1][1] == pytest.approx(math.sqrt(square), rel=1e-8)
    assert math.sqrt(square) < 0.99 * rmse(errors)
    aimed = weights("out.nn.dat")
    train(*SPLIT, "--keep", "last", "--overwrite")
    assert weights("out.nn.dat") != aimed


# ---------------------------------------------------------------------------------------------------------------------
# stopping


def test_keep() -> None:
    """The best validation's weights, or the last; a backup of each step tells which."""
    words = (*SPLIT, "--train-fraction", "0.35", "--backup-dir", "bk", "--backup-interval", 1, "--overwrite")
    said = train(*words, steps=30)
    validated = dict(log_rows("out.validation.txt"))
    best = min(validated, key=validated.__getitem__)
    assert best < 30
    assert weights("out.nn.dat") == weights(f"bk/nn_bk_{best:05d}.nn.dat")
    assert f"kept: the parameters of step {best}," in said
    said = train(*words, "--keep", "last", steps=30)
    assert weights("out.nn.dat") == weights("bk/nn_bk_00030.nn.dat")
    assert "kept: " not in said


def test_patience() -> None:
    words = (*SPLIT, "--train-fraction", "0.35", "--patience", 4, "--members", 2)
    said = train(*words, "--overwrite", steps=200)
    steps = []
    for name, row in zip(MEMBERS, sorted(table(), key=lambda row: row["member"]), strict=False):
        validated = [loss for _, loss in log_rows(f"out.{name}.validation.txt")]
        steps.append(len(validated) - 1)
        assert min(range(len(validated)), key=validated.__getitem__) == steps[-1] - 4
        assert (row["status"], int(row["steps"]), int(row["kept_step"])) == ("patience", steps[-1], steps[-1] - 4)
    assert max(steps) < 200
    assert "no more improvement after" in said
    train(*words, "--min-improvement", "100", "--overwrite", steps=200)
    assert len(log_rows("out.m000.loss.txt")) == 1 + 4 + 0


def test_target_rmse() -> None:
    train(*SPLIT, steps=10)
    free = [loss for _, loss in log_rows("out.validation.txt")]
    target = min(free) * 1.000001
    assert free[0] > target
    said = train(*SPLIT, "--target-rmse", target, "--overwrite", steps=100)
    validated = [loss for _, loss in log_rows("out.validation.txt")]
    assert validated == free[: len(validated)]
    assert validated[-1] <= target < min(validated[:-1])
    assert "target reached after" in said


def test_max_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is written, and the status says that it is not done. The clock goes on when it is looked at."""
    looks = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: 0.01 * next(looks))
    words = ("--max-time", "0:00:01", "--steps", 10**6, "--line-search", "none", "--learning-rate", "1e-7")
    result = call(*TRAIN, "--members", 2, *words)
    assert result.status == 75, result.said
    assert "out of time after" in result.said
    rows = table()
    assert {row["status"] for row in rows} == {"running"}
    assert int(rows[0]["steps"]) == len(log_rows(f"out.{MEMBERS[int(rows[0]['member'])]}.loss.txt")) - 1 > 0
    assert not load_run("out.run.h5").done


def test_the_stop_file_is_there_already() -> None:
    Path("out.stop").touch()
    refused(*TRAIN, match=r"out\.stop: the stop file is there already")
    train("--stop-file", "")


def test_learning_rate_ramp() -> None:
    """Its first step is that of a smaller rate."""
    words = ("--line-search", "none", "--max-iterations", 3)
    train(*words, "--learning-rate", "0.8", "--learning-rate-ramp", "4")
    ramp = log_rows("out.loss.txt")
    train(*words, "--learning-rate", "0.2", "--overwrite")
    flat = log_rows("out.loss.txt")
    assert ramp[:2] == flat[:2]
    assert ramp[2] != flat[2]


# ---------------------------------------------------------------------------------------------------------------------
# what is refused


REFUSED = [
    (("--members", "0"), "members: expected a whole number from 1 to 10000, got 0"),
    (("--members", "-1"), "members"),
    (("--members", "2.5"), "members"),
    (("--potential", "si.nn.dat", "--members", "2"), r"members: si\.nn\.dat holds one start: expected --randomize"),
    (
        ("--potential", "fresh.nn.dat", "fresh.nn.dat", "--members", "3"),
        "members: expected 2, one of each potential, got 3",
    ),
    (("--potential", "si.nn.dat", "si.nn.dat", "--randomize"), "randomize: expected one potential"),
    (("--potential", "si.nn.dat", "missing.nn.dat"), r"missing\.nn\.dat"),
    (("--test-groups", "nothing*"), r"nothing\*"),
    (("--test-groups", "*"), "energy|train"),
    (("--split", "a/b"), "split"),
    (("--group-weight", "bulk"), r"--group-weight: expected PATTERN=NUMBER, got 'bulk'"),
    (("--group-weight", "bulk=-1"), r"--group-weight 'bulk=-1': expected a number of 0 or more"),
    (("--group-weight", "none=1"), "group weight.*none"),
    (("--group-weight", "*=0"), "weight above 0"),
    (("--window-weight", "1=2"), "--window-weight: expected LOW:HIGH=NUMBER, got '1=2'"),
    (("--window-weight", "2:1=2"), "expected a lower end below the upper one"),
    (("--group-target", "bulk=nan"), "--group-target 'bulk=nan': expected a number of 0 or more"),
    (("--group-target", "none=1"), "group target.*none"),
    (("--patience", "-1"), "patience"),
    (("--min-improvement", "-1"), "min_improvement: expected a number >= 0"),
    (("--target-rmse", "-1"), "target_rmse: expected a number >= 0"),
    (("--max-time", "soon"), "max-time"),
    (("--max-time", "-5"), "max.time"),
    (("--keep", "first"), "keep"),
    (("--max-evaluations", "0"), "max_evaluations: expected a whole number above 0"),
    (("--line-search-evaluations", "0"), "line_search_evaluations: expected a whole number above 0"),
    (("--tolerance-gradient", "-1"), "tolerance_gradient: expected a number >= 0"),
    (("--learning-rate", "0"), "learning_rate: expected a number above 0"),
    (("--run-file", "missing/run.h5"), "missing"),
    (("--members", "2", "--ranking", "missing/r.csv"), "missing"),
    (("--run-file", "si.h5", "--overwrite"), r"run file: si\.h5 is the training set as well"),
    (("--run-file", "out.loss.txt"), "out.loss.txt"),
    (("--resume", "--run-file", ""), "resume: expected the name of a run file"),
    (("--resume", "--unique"), "resume: expected the outputs' own names"),
]


@pytest.mark.parametrize(
    ("words", "match"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_refused(words: tuple[str, ...], match: str) -> None:
    """Status 2, one line, nothing written."""
    result = refused(*TRAIN, *words, match=match)
    lines = [line for line in result.err.splitlines() if re.search(r"error: ", line)]
    assert len(lines) == 1, result.err


def test_outputs_in_the_way_are_said_at_once() -> None:
    """A line for each, of every member; backups beside a run file are that run's."""
    Path("out.m001.nn.dat").write_text("precious")
    Path("out.m000.backup").mkdir()
    Path("out.m000.backup/something").touch()
    words = ("train", "si.h5", "--potential", "fresh.nn.dat", "--out", "out.nn.dat", "--members", 2)
    result = refused(*words, match=r"out\.m001\.nn\.dat.*exists")
    assert re.search(r"out\.m000\.backup: the backup folder is not empty", result.err)
    Path("out.run.h5").write_text("precious")
    result = refused(*words, match=r"out\.run\.h5: there is a run already \(give --resume")
    assert "backup" not in result.err


def test_an_input_is_no_output() -> None:
    """Also where only a member's name meets it."""
    shutil.copy("fresh.nn.dat", "out.m001.loss.txt")
    words = ("train", "si.h5", "--potential", "out.m001.loss.txt", "--out", "out.nn.dat", "--members", 2, "--overwrite")
    refused(*words, match=r"out\.m001\.loss\.txt")
