"""`train`: what it writes, what it refuses, and that the same command gives the same bits."""

from __future__ import annotations

import math
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commands.helpers import (
    N_STRUCTURES,
    OWN,
    assert_same_files,
    call,
    done,
    fresh_potential,
    log_rows,
    names,
    new_names,
    poscar_blocks,
    refused,
    set_up,
    snapshot,
    weights,
    with_header,
    write_poscar,
)

import pyfit_gpu as pf
from pyfit_gpu.files import create_anew
from pyfit_gpu.formats.extxyz.reader import read_extxyz
from pyfit_gpu.formats.extxyz.writer import write_extxyz
from pyfit_gpu.formats.text_set import write_text_set

SHIFT = 106.0  # eV per atom: brings the energies near to what the network says


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)
    done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "si.h5", "--e-shift", SHIFT, "--quiet")


TRAIN = ("train", "si.h5", "--potential", "si.nn.dat", "--out", "out.nn.dat")
OUTPUTS = {"out.nn.dat", "out.loss.txt", "out.validation.txt", "out.groups.csv", "out.run.h5"}


def train(*words: object, steps: int = 2, status: int = 0) -> str:
    result = call(*TRAIN, "--steps", steps, *words)
    assert result.status == status, result.said
    return result.said


def reference_errors() -> np.ndarray:
    """(B,) eV/atom: the start network's errors, by the energies that the reference program gave."""
    blocks = poscar_blocks("si.poscar.dat")
    used = np.array([float(block[-1]) / int(block[5]) for block in blocks]) + SHIFT
    return np.load(OWN / "nn_mode1.npz")["energy_per_atom"] - used


def rmse(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


# ---------------------------------------------------------------------------------------------------------------------
# outputs


def test_files() -> None:
    before = names()
    train("--backup-interval", "2", steps=5)
    backups = {f"out.backup/nn_bk_{step:05d}.nn.dat" for step in (0, 2, 4)}
    assert new_names(before) == {*OUTPUTS, *backups}
    assert [step for step, _ in log_rows("out.loss.txt")] == [0, 1, 2, 3, 4, 5]
    assert [step for step, _ in log_rows("out.validation.txt")] == [0, 1, 2, 3, 4, 5]


def test_default_is_120_steps_and_a_backup_every_25() -> None:
    fresh_potential("small.nn.dat", "3 40 2 1")
    done("train", "si.h5", "--potential", "small.nn.dat", "--out", "out.nn.dat")
    assert len(log_rows("out.loss.txt")) == 121
    found = {name for name in names() if name.startswith("out.backup/")}
    assert found == {f"out.backup/nn_bk_{step:05d}.nn.dat" for step in (0, 25, 50, 75, 100)}


def test_named_logs() -> None:
    before = names()
    words = ("--loss-log", "a.txt", "--validation-log", "b.txt", "--backup-dir", "c/", "--energy-volume-log", "d.txt")
    words += ("--group-log", "e.csv", "--run-file", "f.h5")
    train(*words, "--validation-interval", "2", "--energy-volume-interval", "3", steps=4)
    assert new_names(before) == {"out.nn.dat", "a.txt", "b.txt", "c/nn_bk_00000.nn.dat", "d.txt", "e.csv", "f.h5"}
    assert [step for step, _ in log_rows("a.txt")] == [0, 1, 2, 3, 4]
    assert [step for step, _ in log_rows("b.txt")] == [0, 2, 4]
    assert [line.split()[0] for line in Path("d.txt").read_text().splitlines()] == [
        "training_index",
        "000000",
        "000003",
    ]


def test_only_the_network() -> None:
    before = names()
    without = ("--loss-log", "--validation-log", "--group-log", "--backup-dir", "--run-file")
    train(*(word for option in without for word in (option, "")))
    assert new_names(before) == {"out.nn.dat"}


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (("--validation-interval", "0"), "out.validation.txt"),
        (("--train-fraction", "1"), "out.validation.txt"),
        (("--backup-interval", "0"), "out.backup"),
        (("--energy-volume-log", "ev.txt", "--energy-volume-interval", "0"), "ev.txt"),
    ],
)
def test_never_means_no_file(words: tuple[str, ...], absent: str) -> None:
    train(*words)
    assert not Path(absent).exists()


def test_first_row_is_the_error_of_the_start_network() -> None:
    """The reference is the other program's energies."""
    train("--train-fraction", "1", steps=0)
    ((step, loss),) = log_rows("out.loss.txt")
    assert step == 0
    assert loss == pytest.approx(rmse(reference_errors()), rel=1e-9)


def test_training_and_validation_share_the_structures() -> None:
    """Both errors of row 0 together are the error of all structures; the split leaves out each group's extremes."""
    train("--train-fraction", "0.6", steps=0)
    (_, loss), (_, validation) = log_rows("out.loss.txt")[0], log_rows("out.validation.txt")[0]
    n_train = 2 * (2 + round((0.6 - 2 / 17) * 17))
    n_validation = N_STRUCTURES - n_train
    together = math.sqrt((n_train * loss**2 + n_validation * validation**2) / N_STRUCTURES)
    assert together == pytest.approx(rmse(reference_errors()), rel=1e-9)


def test_last_row_is_the_error_of_the_written_network() -> None:
    train("--train-fraction", "1", steps=3)
    done("evaluate", "si.poscar.dat", "--potential", "out.nn.dat", "--out", "out.csv")
    table = np.genfromtxt("out.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    found = rmse(table["energy_per_atom"] - table["reference_energy_per_atom"])
    assert log_rows("out.loss.txt")[-1][1] == pytest.approx(found, rel=1e-8)


def test_training_lowers_the_error() -> None:
    train(steps=10)
    losses = [loss for _, loss in log_rows("out.loss.txt")]
    assert losses[-1] < 0.2 * losses[0]


def test_backups_are_the_networks_of_their_steps() -> None:
    train("--backup-interval", "1", steps=2)
    assert weights("out.backup/nn_bk_00000.nn.dat") == weights("si.nn.dat")
    assert weights("out.backup/nn_bk_00002.nn.dat") == weights("out.nn.dat")
    between = weights("out.backup/nn_bk_00001.nn.dat")
    assert between not in (weights("si.nn.dat"), weights("out.nn.dat"))
    shutil.copy("out.backup/nn_bk_00001.nn.dat", "one.nn.dat")
    done("train", "si.h5", "--potential", "one.nn.dat", "--out", "again.nn.dat", "--steps", "0")
    assert log_rows("again.loss.txt")[0][1] == pytest.approx(log_rows("out.loss.txt")[1][1], rel=1e-9)


def test_energy_volume_log() -> None:
    train("--energy-volume-log", "ev.txt", "--train-fraction", "1", steps=1)
    lines = Path("ev.txt").read_text().splitlines()
    assert len(lines) == 3
    number = r"-?\d\.\d{6}E[+-]\d\d"
    assert re.fullmatch(rf"training_index( {number}){{{N_STRUCTURES}}}", lines[0])
    assert re.fullmatch(rf"000000( {number}){{{N_STRUCTURES}}}", lines[1])
    assert re.fullmatch(rf"000001( {number}){{{N_STRUCTURES}}}", lines[2])
    # with everything training: group after group in the order of their names, by volume in each
    training_set = pf.load_training_set("si.h5")
    volume = training_set.volume_per_atom.tolist()
    order = sorted(range(N_STRUCTURES), key=lambda row: (training_set.groups[row], volume[row]))
    assert [float(cell) for cell in lines[0].split()[1:]] == pytest.approx([volume[row] for row in order], rel=1e-6)
    energies = np.load(OWN / "nn_mode1.npz")["energy_per_atom"][order]
    assert [float(cell) for cell in lines[1].split()[1:]] == pytest.approx(energies.tolist(), rel=1e-6)


def test_the_potential_takes_over_the_shift_of_the_set() -> None:
    train()
    assert "e_shift 106.0" in Path("out.nn.dat").read_text().splitlines()[2]
    assert pf.load_potential("out.nn.dat").energy_shift.tolist() == [SHIFT]


def test_a_shift_that_the_set_does_not_know_stays_unknown() -> None:
    """Also where the start potential knew one: its energies were others."""
    lines = Path("si.nn.dat").read_text().splitlines()
    with_header("known.nn.dat", {3: f"{lines[2]} e_shift 7.0"})
    training_set = pf.load_training_set("si.h5")
    write_text_set(training_set, "si.dat")
    text = Path("si.dat").read_text()
    assert "e_shift" in text
    Path("si.dat").write_text(re.sub(r" - e_shift \S+", "", text))
    done("train", "si.dat", "--potential", "known.nn.dat", "--out", "out.nn.dat", "--steps", "1")
    assert "e_shift" not in Path("out.nn.dat").read_text()


def test_a_text_set_gives_the_same_start_up_to_its_digits() -> None:
    done("convert", "si.h5", "si.dat")
    for name in ("si.h5", "si.dat"):
        done("train", name, "--potential", "si.nn.dat", "--out", f"{name}.nn.dat", "--steps", "0")
    (_, binary), (_, text) = log_rows("si.h5.loss.txt")[0], log_rows("si.dat.loss.txt")[0]
    assert text == pytest.approx(binary, rel=1e-4)
    assert text != binary


def test_no_dft_structures_are_left_out() -> None:
    """A set with some of them trains as the set without them."""
    blocks = poscar_blocks("si.poscar.dat")
    without = [["NO_DFT_x", *block[1:-1], "0.0"] for block in blocks[:4]]
    write_poscar("mixed.dat", [*without[:2], *blocks, *without[2:]])
    done("prepare", "mixed.dat", "--potential", "si.nn.dat", "--out", "mixed.h5", "--e-shift", SHIFT)
    train()
    result = done("train", "mixed.h5", "--potential", "si.nn.dat", "--out", "mixed.nn.dat", "--steps", "2")
    assert "NO_DFT" not in result.err
    for ending in ("nn.dat", "loss.txt", "validation.txt"):
        assert Path(f"mixed.{ending}").read_bytes() == Path(f"out.{ending}").read_bytes()


# ---------------------------------------------------------------------------------------------------------------------
# start weights and seeds


def test_0_steps_write_the_network_back() -> None:
    train("--loss-log", "l.txt", steps=0)
    assert weights("out.nn.dat") == weights("si.nn.dat")
    values = [line.split()[0] for line in Path("out.nn.dat").read_text().splitlines()[8:]]
    expected = [line.split()[0] for line in Path("si.nn.dat").read_text().splitlines()[8:]]
    assert [float(value) for value in values] == [float(value) for value in expected]
    assert len(log_rows("l.txt")) == 1


def test_0_steps_in_single_precision_too() -> None:
    """Nothing was trained, so nothing may be rounded."""
    train("--dtype", "float32", steps=0)
    assert weights("out.nn.dat") == weights("si.nn.dat")


def test_two_runs_give_the_same_bits() -> None:
    words = ("--energy-volume-log", "ev.txt", "--l2", "1e-4")
    train(*words, steps=5)
    first = snapshot()
    train(*words, "--overwrite", steps=5)
    assert_same_files(snapshot(), first)


def random_weights(*words: object) -> bytes:
    """The drawn numbers themselves; with conditioned inputs they are in the file's coordinates."""
    train("--randomize", "--conditioning", "none", *words, "--overwrite", steps=0)
    return weights("out.nn.dat")


def test_random_weights_come_from_the_seed() -> None:
    drawn = random_weights("--seed", "5")
    assert random_weights("--seed", "5") == drawn
    assert random_weights("--seed", "6") != drawn
    assert random_weights("--seed", "6", "--weight-seed", "5") == drawn
    assert random_weights() == random_weights("--seed", "2")
    values = np.frombuffer(drawn)
    assert np.abs(values).max() <= 1.0  # max_random of the header
    assert np.abs(values).max() > 0.9
    assert abs(values.mean()) < 0.1


def test_seed_0_is_a_random_one_that_is_said() -> None:
    random_weights("--seed", "0")
    said = train("--randomize", "--conditioning", "none", "--seed", "0", "--overwrite", steps=0)
    first = weights("out.nn.dat")
    (seed,) = re.findall(r"seed (\d+)", said)
    assert int(seed) > 0
    assert random_weights("--seed", "0") != first
    assert random_weights("--seed", seed) == first


def test_the_seed_decides_the_split() -> None:
    logs = []
    for seed in ("1", "1", "3"):
        train("--seed", seed, "--train-fraction", "0.6", "--overwrite", steps=0)
        logs.append(log_rows("out.validation.txt"))
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]


def test_a_header_that_asks_for_random_weights() -> None:
    fresh_potential("fresh.nn.dat")
    before = Path("fresh.nn.dat").read_bytes()
    found = []
    for seed in ("4", "4", "5"):
        done(*("train", "si.h5", "--potential", "fresh.nn.dat", "--out", "out.nn.dat"), "--steps", "0", "--seed", seed,
             "--conditioning", "none", "--overwrite")  # fmt: skip
        found.append(weights("out.nn.dat"))
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert np.abs(np.frombuffer(found[0])).max() <= 0.3
    assert Path("fresh.nn.dat").read_bytes() == before
    assert Path("out.nn.dat").read_text().splitlines()[3].split()[0] == "0"


@pytest.mark.parametrize(
    "words",
    [
        ("--l2", "0.01"),
        ("--learning-rate", "0.5"),
        ("--line-search", "none"),
        ("--max-iterations", "3"),
        ("--history-size", "1"),
        ("--train-fraction", "0.5"),
        ("--seed", "9"),
        ("--dtype", "float32"),
    ],
)
def test_every_setting_of_the_fit_has_an_effect(words: tuple[str, ...]) -> None:
    train()
    plain = weights("out.nn.dat")
    train(*words, "--overwrite")
    assert weights("out.nn.dat") != plain


def test_single_precision_is_close() -> None:
    train(steps=1)
    double = log_rows("out.loss.txt")
    train("--dtype", "float32", "--overwrite", steps=1)
    single = log_rows("out.loss.txt")
    assert single[0][1] == pytest.approx(double[0][1], rel=1e-4)
    assert single != double


# ---------------------------------------------------------------------------------------------------------------------
# restarts


def test_a_loss_above_the_restart_level() -> None:
    """Three restarts, then the end: outputs hold the last network, logs only its rows."""
    said = train("--error-restart-level", "1e-9", "--conditioning", "none", steps=3)
    assert said.count("restart") >= 4
    for number in (1, 2, 3):
        assert re.search(rf"restart {number} of 3", said)
    assert [step for step, _ in log_rows("out.loss.txt")] == [0]
    values = np.frombuffer(weights("out.nn.dat"))
    assert 0.4 < np.abs(values).max() <= 0.5
    done("train", "si.h5", "--potential", "out.nn.dat", "--out", "again.nn.dat", "--steps", "0")
    assert log_rows("again.loss.txt")[0][1] == pytest.approx(log_rows("out.loss.txt")[0][1], rel=1e-9)


def test_a_loss_below_the_restart_level() -> None:
    said = train("--error-restart-level", "1e9")
    assert "restart" not in said
    assert len(log_rows("out.loss.txt")) == 3


DIVERGING = ["1e300", "1e155"]  # the second gives inf - inf inside a step


@pytest.mark.parametrize("rate", DIVERGING)
def test_a_loss_that_is_no_number_is_a_failure(rate: str) -> None:
    """Not a perfect fit. The network is the last whose loss was one."""
    words = ("--line-search", "none", "--learning-rate", rate, "--backup-interval", "1")
    said = train(*words, steps=5, status=1)
    assert re.search(r"error: .*loss.*(inf|nan)", said)
    rows = log_rows("out.loss.txt")
    assert all(loss > 0 for _, loss in rows)
    assert weights("out.nn.dat") == weights(f"out.backup/nn_bk_{rows[-1][0]:05d}.nn.dat")


@pytest.mark.parametrize("rate", DIVERGING)
def test_a_loss_that_is_no_number_is_above_every_restart_level(rate: str) -> None:
    """Also when the last restart ends so: the network that is written can be read."""
    words = ("--line-search", "none", "--learning-rate", rate, "--error-restart-level", "1e6")
    said = train(*words, steps=5)
    assert "restart 3 of 3" in said
    assert np.isfinite(np.frombuffer(weights("out.nn.dat"))).all()


def test_a_line_search_turns_back_from_what_is_no_number() -> None:
    """Its first trials are far out; it never goes uphill, and where it finds nothing it stays."""
    train("--learning-rate", "1e300", steps=3)
    far = [loss for _, loss in log_rows("out.loss.txt")]
    assert far == [far[0]] * 4
    train("--learning-rate", "1e8", "--overwrite", steps=3)
    near = [loss for _, loss in log_rows("out.loss.txt")]
    assert near[0] == far[0]
    assert near == sorted(near, reverse=True)
    assert near[-1] < near[0]


# ---------------------------------------------------------------------------------------------------------------------
# what is refused


OTHER_INPUTS = [
    ({1: " 1 0.25 1"}, "shift", "0.5", "0.25"),
    ({1: " 0 0.5 1"}, "gi_mode", "0", "1"),
    ({3: " C 12.011"}, "elements", "C", "Si"),
    ({4: " 0 1.0 4.6 1.0 1.0"}, "rc|cutoff", "4.6", "4.5"),
    ({4: " 0 1.0 4.5 1.1 1.0"}, "d|cutoff_width", "1.1", "1.0"),
    ({4: " 0 1.0 4.5 1.0 0.9"}, "sigma|gaussian_width", "0.9", "1.0"),
    ({5: " 5 0 1 2 4 5"}, "[Ll]egendre.orders", "5", "6"),
    ({6: " 8 1.6 2.0 2.4 2.8 3.2 3.6 4.0 4.25"}, "r0|gaussian_centers", "4.25", "4.3"),
]


@pytest.mark.parametrize(("changes", "field", "one", "other"), OTHER_INPUTS, ids=[case[1] for case in OTHER_INPUTS])
def test_a_set_of_another_potential(changes: dict[int, str], field: str, one: str, other: str) -> None:
    """The field is named, with both values."""
    with_header("other.nn.dat", changes)
    words = ("train", "si.h5", "--potential", "other.nn.dat", "--out", "out.nn.dat")
    result = refused(*words, match=rf"\b({field})\b")
    tail = re.split(rf"\b(?:{field})\b", result.err, maxsplit=1)[1]
    for value in (one, other):
        assert re.search(rf"(?<![\d.]){re.escape(value)}(?![\d])", tail), result.err


def test_what_may_differ() -> None:
    """Layers, activation, mass, max_random and the bond-order line: one set serves many networks."""
    fresh_potential("other.nn.dat", "4 40 3 2 1", line_1=" 1 0.5 0", line_3=" Si 28.0", line_7=" 1 1 2 3 4 5 6 7 8")
    done("train", "si.h5", "--potential", "other.nn.dat", "--out", "out.nn.dat", "--steps", "1")
    assert pf.load_potential("out.nn.dat").networks.layer_sizes == (40, 3, 2, 1)


def test_shift_means_nothing_in_mode_5() -> None:
    shutil.copy(OWN / "mode5_silicon.nn.dat", "five.nn.dat")
    done("prepare", "si.poscar.dat", "--potential", "five.nn.dat", "--out", "five.h5")
    with_header("other.nn.dat", {1: " 5 0.7 1"}, "five.nn.dat")
    done("train", "five.h5", "--potential", "other.nn.dat", "--out", "out.nn.dat", "--steps", "0")


def test_an_existing_network_is_not_replaced() -> None:
    Path("out.nn.dat").write_text("something precious")
    refused(*TRAIN, match=r"out\.nn\.dat.*exists.*--overwrite")
    train("--overwrite", steps=1)
    pf.load_potential("out.nn.dat")


def test_backups_that_exist_are_not_replaced() -> None:
    Path("out.backup").mkdir()
    train(steps=1)  # an empty folder is in nobody's way
    Path("out.nn.dat").unlink()
    Path("out.run.h5").unlink()  # which would say it all
    refused(*TRAIN, match=r"out\.backup.*not empty.*--overwrite")
    train("--overwrite", steps=1)


def test_everything_in_the_way_is_said_at_once() -> None:
    train(steps=1)
    Path("out.run.h5").unlink()
    result = refused(*TRAIN, "--validation-log", "missing/v.txt", match=r"out\.nn\.dat.*exists")
    assert "out.backup" in result.err
    assert "missing" in result.err


def test_unique() -> None:
    train(steps=1)
    first = snapshot()
    train("--unique", steps=1)
    train("--unique", steps=1)
    after = snapshot()
    assert {name: after[name] for name in first} == first
    made = {name for name in after if name not in first and after[name] is not None}
    assert {name for name in made if "nn_bk" not in name} == {
        name.replace("out.", f"out.{number}.") for number in ("00000", "00001") for name in OUTPUTS
    }
    folders = {name.rpartition("/")[0] for name in made if "nn_bk" in name}
    assert folders == {"out.00000.backup", "out.00001.backup"}


def test_small_groups_are_named_and_training_goes_on() -> None:
    write_poscar("groups.dat", poscar_blocks(), ["large"] * 15 + ["pair", "single"])
    done("prepare", "groups.dat", "--potential", "si.nn.dat", "--out", "groups.h5")
    result = done("train", "groups.h5", "--potential", "si.nn.dat", "--out", "out.nn.dat", "--steps", "1")
    assert re.search(r"warning: .*without a validation structure: pair, single$", result.err, re.MULTILINE)
    assert len(log_rows("out.validation.txt")) == 2


def test_nothing_to_train_on() -> None:
    write_poscar("none.dat", poscar_blocks(), ["NO_DFT"])
    done("prepare", "none.dat", "--potential", "si.nn.dat", "--out", "none.h5")
    words = ("train", "none.h5", "--potential", "si.nn.dat", "--out", "out.nn.dat")
    refused(*words, match="energy")


@pytest.mark.parametrize(
    ("name", "other"), [("s.h5", "a training set"), ("a.xyz", "structures"), ("b.extxyz", "structures")]
)
def test_a_name_of_another_kind_of_file(name: str, other: str) -> None:
    """Even with --overwrite: it may be the data."""
    Path(name).write_text("precious")
    words = ("train", "set.h5", "--potential", "si.nn.dat", "--out", name, "--steps", "1", "--overwrite")
    refused(*words, match=rf"{name}: cannot hold a potential.*ends in \.nn\.dat.*ending of {other}")
    assert Path(name).read_text() == "precious"


def test_a_set_that_is_none() -> None:
    words = ("--potential", "si.nn.dat", "--out", "out.nn.dat")
    refused("train", "si.poscar.dat", *words, match=r"si\.poscar\.dat.*training set")
    refused("train", "none.h5", *words, match=r"none\.h5")


LOG_OPTIONS = ("--loss-log", "--validation-log", "--group-log", "--energy-volume-log")


@pytest.mark.parametrize("option", LOG_OPTIONS)
def test_a_log_in_place_of_another_file(option: str) -> None:
    """Whatever it is, it is replaced only if it may be; its other names keep it in any case."""
    shutil.copy("si.h5", "precious.h5")
    os.link("precious.h5", "kept.h5")
    refused(*TRAIN, option, "precious.h5", match=r"precious\.h5: exists already \(give --overwrite")
    train(option, "precious.h5", "--overwrite")
    assert Path("precious.h5").read_bytes() != Path("kept.h5").read_bytes() == Path("si.h5").read_bytes()


@pytest.mark.parametrize("option", LOG_OPTIONS)
def test_a_log_that_another_job_writes(option: str) -> None:
    """Said before anything is written: no run file is left that would be in the way."""
    with create_anew("log.txt"):
        refused(*TRAIN, option, "log.txt", "--overwrite", match=r"error: log\.txt: another job is writing it")


@pytest.mark.parametrize("option", LOG_OPTIONS)
@pytest.mark.parametrize("name", ["si.nn.dat", "si.h5"])
def test_a_log_that_is_an_input_by_another_name(option: str, name: str) -> None:
    os.link(name, "log.txt")
    refused(*TRAIN, option, "log.txt", "--overwrite", match=r"log: log\.txt is the (potential|training set) as well")


def test_a_resumed_run_begins_new_logs_only_where_nothing_is() -> None:
    """The logs, networks and ranking of the run itself are gone on with."""
    train("--members", 1, "--randomize")
    again = (*TRAIN, "--members", 1, "--randomize", "--steps", 3, "--resume")
    for option in ("--loss-log", "--energy-volume-log"):
        shutil.copy("si.h5", "precious.m000.h5")
        refused(*again, option, "precious.h5", match=r"precious\.m000\.h5: exists already \(give --overwrite")
    shutil.copy("si.h5", "precious.nn.dat")
    refused(*again, "--ranking", "si.h5", match=r"si\.h5")
    refused(*again, "--ranking", "precious.nn.dat", match=r"precious\.nn\.dat: expected .* an earlier ranking here")
    words = ["precious.nn.dat" if word == "out.nn.dat" else word for word in again]
    refused(*words, "--run-file", "out.run.h5", match=r"precious\.nn\.dat: expected a network of the run here")
    done(*again)
    assert len(log_rows("out.m000.loss.txt")) == 4


def test_another_set_is_not_resumed() -> None:
    """The structures in other cells, as text and as HDF5; the same set in another file goes on."""
    blocks = poscar_blocks("si.poscar.dat")
    for block in blocks:
        block[2:5] = [" ".join(str(1.01 * float(x)) for x in line.split()) for line in block[2:5]]
    write_poscar("other.dat", blocks)
    shutil.copy("si.poscar.dat", "same.dat")
    for source in ("other", "same"):
        done(
            "prepare",
            f"{source}.dat",
            "--potential",
            "si.nn.dat",
            "--out",
            f"{source}.h5",
            "--e-shift",
            SHIFT,
            "--quiet",
        )
        done("convert", f"{source}.h5", f"{source}.txt")
    train()
    for name, what in (("other.h5", "cell"), ("same.txt", "positions")):
        again = ("train", name, *TRAIN[2:], "--steps", 3, "--resume")
        refused(*again, match=rf"resume: {name} is not the set that the run was trained on: its .*{what}.* differ")
    done("train", "same.h5", *TRAIN[2:], "--steps", 3, "--resume")
    done("train", "same.txt", *TRAIN[2:4], "--out", "text.nn.dat", "--steps", 2)
    again = ("train", "other.txt", *TRAIN[2:4], "--out", "text.nn.dat", "--steps", 3, "--resume")
    refused(*again, match=r"other\.txt is not the set that the run was trained on: its .*features.* differ")


def test_more_members_than_files_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is read."""
    monkeypatch.setattr("resource.getrlimit", lambda which: (256, 1024))
    message = r"open files: expected a limit .* of at least \d+ for 1203 outputs at once, got 1024"
    refused("train", "missing.h5", *TRAIN[2:], "--members", 400, "--randomize", "--backup-interval", 0, match=message)


def test_a_name_without_room_for_a_member() -> None:
    name = "x" * 233
    refused(
        *TRAIN[:4], "--out", name, "--members", 2, "--randomize", "--run-file", "", match=r"at most 237 bytes, got 238"
    )


def test_the_start_potential_never_changes() -> None:
    before = Path("si.nn.dat").read_bytes()
    for words in (("--randomize",), ("--error-restart-level", "1e-9"), ()):
        train(*words, "--overwrite")
        assert Path("si.nn.dat").read_bytes() == before


def test_progress_on_a_terminal_is_not_in_the_logs() -> None:
    """The log of a batch job: whole lines, the loss in eV/atom, the time it took."""
    said = train(steps=3)
    assert re.search(r"34 structures", said)
    losses = log_rows("out.loss.txt")
    assert f"{losses[-1][1]:.6e} eV/atom" in said
    assert f"start {losses[0][1]:.6e}" in said


def test_torch_keeps_its_settings() -> None:
    grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
    train()
    assert (torch.is_grad_enabled(), torch.get_default_dtype()) == (grad, dtype)


# ---------------------------------------------------------------------------------------------------------------------
# forces and stress


@pytest.fixture
def dft(example_data: Path) -> None:
    """19 structures with forces and stress, less some of both, and a lone atom, as silicon.h5."""
    frames = list(read_extxyz(example_data / "si_dft.extxyz"))[::10]
    frames[1] = replace(frames[1], forces=None)
    frames[2] = replace(frames[2], forces=None)
    frames[3] = replace(frames[3], stress=None)
    write_extxyz("silicon.extxyz", frames)
    shutil.copy(example_data / "si.start.nn.dat", "start.nn.dat")
    words = ("--potential", "start.nn.dat", "--out", "silicon.h5", "--e-shift", "107", "--quiet")
    done("prepare", "silicon.extxyz", *words)


TRAIN_DFT = ("train", "silicon.h5", "--potential", "start.nn.dat", "--out", "out.nn.dat")


def label_rows(path: str) -> list[list[float]]:
    """Rows with the errors of energy, forces and stress."""
    text = Path(path).read_text()
    number = r"(\d\.\d{10}E[+-]\d\d|nan|NAN)"
    assert re.fullmatch(rf"(\d{{6}}( {number}){{4}}\n)*", text), text
    return [[float(cell) for cell in line.split()] for line in text.splitlines()]


def parts_of_the_split() -> list[pf.TrainingSet]:
    return list(pf.load_training_set("silicon.h5").split(0.6, 2))


def errors_of_the_network(part: pf.TrainingSet, path: str = "out.nn.dat") -> tuple[float, float, float]:
    """RMSE of energy (eV/atom), forces and stress, by the Python interface."""
    found = pf.predict(pf.load_potential(path), part.structures())
    energy = (found.energy - part.energy_used) / part.sizes
    forces = (found.forces - part.forces)[~part.forces.isnan()]
    stress = (found.stress - part.stress)[part.has_stress]
    return tuple(float(error.square().mean().sqrt()) for error in (energy, forces, stress))  # type: ignore[return-value]


@pytest.mark.usefixtures("dft")
def test_forces_and_stress() -> None:
    """Logs, the summary and the labels that take part, against the network that was written."""
    before = names()
    words = ("--force-weight", "0.1", "--stress-weight", "0.2", "--train-fraction", "0.6", "--keep", "last")
    said = done(*TRAIN_DFT, *words, "--steps", "4", "--backup-dir", "").said
    assert new_names(before) == OUTPUTS
    parts = parts_of_the_split()
    counts = [
        f"{len(part)} energies, {int(part.has_forces.sum())} structures with forces, {int(part.has_stress.sum())} with"
        " stress"
        for part in parts
    ]
    assert f"labels: {counts[0]} train, {counts[1]} validate\n" in said
    assert len(parts[0]) + len(parts[1]) == 19
    assert sum(int(part.has_forces.sum()) for part in parts) == 17
    assert said.index("labels: ") < said.index("weights: energy 1, force 0.1 Å^2, stress 0.2\n") < said.index("4 steps")
    for name, log, part in zip(("training", "validation"), ("out.loss.txt", "out.validation.txt"), parts, strict=True):
        rows = label_rows(log)
        assert [row[0] for row in rows] == [0, 1, 2, 3, 4]
        energy, forces, stress = errors_of_the_network(part)
        assert rows[-1][2:] == pytest.approx([energy, forces, stress], rel=1e-8)
        volume = (part.volume / part.sizes)[part.has_stress, None]
        found = pf.predict(pf.load_potential("out.nn.dat"), part.structures()).stress
        virial = float(((found - part.stress)[part.has_stress] * volume).square().mean())
        assert rows[-1][1] == pytest.approx(math.sqrt(energy**2 + 0.1 * forces**2 + 0.2 * virial), rel=1e-8)
        assert f"{name} RMSE: energy {1000 * energy:.3f} meV/atom, forces {forces:.4f} eV/Å, " in said
        assert f" eV/Å, stress {160.21766208 * stress:.3f} GPa\n" in said
    assert label_rows("out.loss.txt")[-1][3] < label_rows("out.loss.txt")[0][3]


@pytest.mark.usefixtures("dft")
def test_forces_alone() -> None:
    """Labels that take no part stay out of the log and the summary."""
    said = done(
        *TRAIN_DFT, "--force-weight", "0.1", "--stress-weight", "0", "--train-fraction", "0.6", "--steps", "1"
    ).said
    energy, forces, _ = errors_of_the_network(parts_of_the_split()[0])
    rows = label_rows("out.loss.txt")
    assert rows[-1][2:4] == pytest.approx([energy, forces], rel=1e-8)
    assert all(math.isnan(row[4]) for row in rows)
    assert f"forces {forces:.4f} eV/Å\n" in said
    assert "GPa" not in said


@pytest.mark.usefixtures("dft")
def test_without_weights_forces_are_counted_and_do_not_train() -> None:
    """The classic log with two columns; a weight of 0 is none."""
    said = done(*TRAIN_DFT, "--steps", "1", "--force-weight", "0", "--stress-weight", "0").said
    assert re.search(r"labels: \d+ energies, \d+ structures with forces, \d+ with stress train, \d+ energies", said)
    assert "weights:" not in said
    assert "energies alone train; forces are known" in said
    assert "RMSE" not in said
    assert len(log_rows("out.loss.txt")) == len(log_rows("out.validation.txt")) == 2
    plain = weights("out.nn.dat")
    for words in (("--force-weight", "0.1", "--stress-weight", "0"), ("--force-weight", "0", "--stress-weight", "0.1")):
        done(*TRAIN_DFT, "--steps", "1", "--overwrite", *words)
        assert weights("out.nn.dat") != plain


@pytest.mark.usefixtures("dft")
def test_two_runs_with_forces_give_the_same_bits() -> None:
    words = ("--force-weight", "0.1", "--stress-weight", "0.2", "--steps", "3")
    done(*TRAIN_DFT, *words)
    first = snapshot()
    done(*TRAIN_DFT, *words, "--overwrite")
    assert_same_files(snapshot(), first)


@pytest.mark.usefixtures("dft")
def test_info_of_a_log_with_more_columns() -> None:
    done(*TRAIN_DFT, "--steps", "1", "--force-weight", "0.1")
    for name in ("out.loss.txt", "out.validation.txt"):
        result = done("info", name)
        assert "log" in result.out.splitlines()[0]
        assert "0 to 1" in result.out


@pytest.mark.parametrize(("option", "name"), [("--force-weight", "force_weight"), ("--stress-weight", "stress_weight")])
def test_a_weight_for_labels_that_the_set_does_not_have(option: str, name: str) -> None:
    """The classic text holds energies alone: nothing is written, and the message says which weight."""
    refused(*TRAIN, option, "0.1", match=rf"error: .*{name}.*no training structure has")
    done("convert", "si.h5", "si.dat")
    words = ("train", "si.dat", "--potential", "si.nn.dat", "--out", "out.nn.dat")
    refused(*words, option, "0.1", match=rf"{name}.*no training structure has")


@pytest.mark.parametrize(("option", "name"), [("--force-weight", "force_weight"), ("--stress-weight", "stress_weight")])
@pytest.mark.parametrize("value", ["-0.1", "nan", "inf", "much"])
def test_weights_that_are_none(option: str, name: str, value: str) -> None:
    refused(*TRAIN, f"{option}={value}", match=rf"{name}|{option}")
