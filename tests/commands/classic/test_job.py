"""The classic job: its configuration, its options, its checks before any work, and its files."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands.helpers import (
    N_ATOMS,
    N_STRUCTURES,
    OWN,
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
from pyfit_gpu.commands.classic.config import ClassicConfig

# keys and defaults of the classic program
DEFAULTS = {
    "generate_training_set": False,
    "training_set_output_file": "",
    "dft_input_file": "",
    "run_training": False,
    "training_set_in": "",
    "neural_network_in": "",
    "neural_network_out": "",
    "training_iterations": 100,
    "randomize": False,
    "force_cpu": False,
    "gpu_affinity": 0,
    "thread_count": 0,
    "log_path": "pyfit_log.txt",
    "e_shift": 0.795023,
    "network_backup_dir": "nn_backup/",
    "network_backup_interval": 25,
    "loss_log_path": "loss.txt",
    "validation_log_path": "validation.txt",
    "validation_interval": 5,
    "energy_volume_file": "energy_volume.txt",
    "energy_volume_interval": 0,
    "validation_ratio": 0.95,
    "learning_rate": 0.05,
    "max_lbfgs_iterations": 10,
    "no_warn": False,
    "overwrite": False,
    "unique": False,
    "validation_split_seed": 2,
    "error_restart_level": 0.0,
    "l2_regularization_prefactor": 0.0,
    "nvidia_smi_log": "",
}

# other values, of the right types
OTHERS = {
    key: (
        not default
        if isinstance(default, bool)
        else default + 3
        if isinstance(default, int)
        else 0.5
        if isinstance(default, float)
        else f"{key}.x"
    )
    for key, default in DEFAULTS.items()
}

NAMED = {
    "-g --generate-training-set": "generate_training_set",
    "-a --training-set-out": "training_set_output_file",
    "-f --dft-file": "dft_input_file",
    "-s --training-set-in": "training_set_in",
    "-t --run-training": "run_training",
    "-e --network-input-file": "neural_network_in",
    "-y --network-output-file": "neural_network_out",
    "-i --training-iterations": "training_iterations",
    "-r --randomize-nn": "randomize",
    "-c --force-cpu": "force_cpu",
    "-u --gpu-affinity": "gpu_affinity",
    "-n --n-threads": "thread_count",
    "-w --no-warn": "no_warn",
    "-o --overwrite": "overwrite",
    "-m --unique": "unique",
    "-v --validation-split-seed": "validation_split_seed",
    "-l --l2-regularization-coefficient": "l2_regularization_prefactor",
}
NAMES = {name: key for words, key in NAMED.items() for name in words.split()}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, object]]:
    """The configuration that a command line and a file (none, if None) come to, with nothing done."""
    seen: list[ClassicConfig] = []

    def record(config: ClassicConfig, **keywords: object) -> int:
        seen.append(config)
        return 0

    monkeypatch.setattr("pyfit_gpu.commands.classic.job.run_classic", record)

    def parse(*words: str, file: object = None) -> dict[str, object]:
        if file is not None:
            Path("job.json").write_text(file if isinstance(file, str) else json.dumps(file))
            words = ("--config-file", "job.json", *words)
        done("run", *words)
        return seen.pop().model_dump()

    return parse


# ---------------------------------------------------------------------------------------------------------------------
# keys and options


def test_defaults(parsed: Callable[..., dict[str, object]]) -> None:
    assert parsed() == DEFAULTS
    assert parsed(file={}) == DEFAULTS
    assert parsed(file=DEFAULTS) == DEFAULTS


@pytest.mark.parametrize("key", DEFAULTS)
def test_every_key_in_the_file(parsed: Callable[..., dict[str, object]], key: str) -> None:
    assert OTHERS[key] != DEFAULTS[key]
    assert parsed(file={key: OTHERS[key]}) == DEFAULTS | {key: OTHERS[key]}


def option_words(name: str, value: object, *, joined: bool) -> list[str]:
    if value is True:
        return [name]
    return [f"{name}={value}"] if joined else [name, str(value)]


@pytest.mark.parametrize("joined", [True, False], ids=["--key=value", "--key value"])
@pytest.mark.parametrize("key", DEFAULTS)
def test_every_key_as_an_option(parsed: Callable[..., dict[str, object]], key: str, joined: bool) -> None:
    words = option_words(f"--{key.replace('_', '-')}", OTHERS[key], joined=joined)
    assert parsed(*words) == DEFAULTS | {key: OTHERS[key]}


@pytest.mark.parametrize("name", NAMES)
def test_every_named_option(parsed: Callable[..., dict[str, object]], name: str) -> None:
    key = NAMES[name]
    expected = DEFAULTS | {key: OTHERS[key]}
    assert parsed(*option_words(name, OTHERS[key], joined=False)) == expected
    if name.startswith("--"):
        assert parsed(*option_words(name, OTHERS[key], joined=True)) == expected


def test_the_configuration_file_by_both_names(parsed: Callable[..., dict[str, object]]) -> None:
    Path("job.json").write_text('{"e_shift": 2.5}')
    for words in (("-j", "job.json"), ("--config-file", "job.json"), ("--config-file=job.json",)):
        assert parsed(*words)["e_shift"] == 2.5


def test_the_command_line_overrides_the_file(parsed: Callable[..., dict[str, object]]) -> None:
    assert parsed(*[word for key in DEFAULTS for word in option_words(f"--{key.replace('_', '-')}", OTHERS[key],
                    joined=True)], file=DEFAULTS) == OTHERS  # fmt: skip


def test_negative_numbers(parsed: Callable[..., dict[str, object]]) -> None:
    assert parsed("--e-shift", "-1.5")["e_shift"] == -1.5
    assert parsed("--e-shift=-1.5")["e_shift"] == -1.5
    assert parsed(file={"e_shift": -1.5})["e_shift"] == -1.5


def test_comments(parsed: Callable[..., dict[str, object]]) -> None:
    """Between keys and after them; two slashes in a value are no comment."""
    text = """// a job
    {
      // the shift
      "e_shift": 1.25, // eV
      "log_path": "http://somewhere/log.txt" // not here
      //, "no_warn": true
    }
    // the end"""
    expected = {"e_shift": 1.25, "log_path": "http://somewhere/log.txt"}
    assert parsed(file=text) == DEFAULTS | expected


@pytest.mark.parametrize("key", [key for key, default in DEFAULTS.items() if isinstance(default, float)])
def test_a_whole_number_where_any_number_is_meant(parsed: Callable[..., dict[str, object]], key: str) -> None:
    assert parsed(file={key: 1})[key] == 1.0
    assert parsed(f"--{key.replace('_', '-')}=1")[key] == 1.0


# ---------------------------------------------------------------------------------------------------------------------
# wrong configurations


def refused_file(content: object, match: str, *words: str) -> str:
    Path("job.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return refused("run", "--config-file", "job.json", *words, match=match).err


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("training_iteration", "training_iterations"),
        ("trainng_iterations", "training_iterations"),
        ("nework_backup_dir", "network_backup_dir"),
        ("training-iterations", "training_iterations"),
        ("Overwrite", "overwrite"),
        ("l2_regularisation_prefactor", "l2_regularization_prefactor"),
    ],
)
def test_unknown_key_and_the_nearest_known_one(key: str, nearest: str) -> None:
    refused_file({key: 1}, rf"job\.json.*{key}.*\b{nearest}\b")


def test_unknown_key_like_none() -> None:
    refused_file({"zzzzzz": 1}, r"job\.json.*zzzzzz")


WRONG_TYPES = [
    ("generate_training_set", "true"),
    ("run_training", 1),
    ("run_training", 0),
    ("overwrite", None),
    ("training_iterations", "5"),
    ("training_iterations", 1.5),
    ("training_iterations", True),
    ("gpu_affinity", [0]),
    ("e_shift", "0.5"),
    ("e_shift", True),
    ("learning_rate", None),
    ("validation_ratio", {}),
    ("log_path", 5),
    ("log_path", None),
    ("neural_network_in", ["si.nn.dat"]),
]


@pytest.mark.parametrize(("key", "value"), WRONG_TYPES)
def test_types_are_strict(key: str, value: object) -> None:
    refused_file({key: value}, rf"job\.json.*\b{key}\b")


WRONG_VALUES = [
    ("training_iterations", -1),
    ("gpu_affinity", -1),
    ("thread_count", -1),
    ("network_backup_interval", -5),
    ("validation_interval", -5),
    ("energy_volume_interval", -5),
    ("validation_ratio", 1.01),
    ("validation_ratio", -0.01),
    ("learning_rate", 0),
    ("learning_rate", -0.1),
    ("max_lbfgs_iterations", 0),
    ("validation_split_seed", -1),
    ("validation_split_seed", 2**32),
    ("error_restart_level", -1.0),
    ("l2_regularization_prefactor", -1.0),
    ("e_shift", float("nan")),
    ("e_shift", float("inf")),
    ("learning_rate", float("inf")),
    ("validation_ratio", float("nan")),
    ("error_restart_level", float("nan")),
]


@pytest.mark.parametrize(("key", "value"), WRONG_VALUES)
def test_values_out_of_range(key: str, value: object) -> None:
    refused_file({key: value}, rf"job\.json.*\b{key}\b")
    refused("run", f"--{key.replace('_', '-')}={value}", match=key)


def test_a_number_larger_than_any_float() -> None:
    refused_file('{"e_shift": 1' + "0" * 400 + "}", "e_shift")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--training-iterations", "five"), "(?s)training.iterations.*five"),
        (("--training-iterations", "1.5"), r"(?s)training.iterations.*1\.5"),
        (("--e-shift", "a"), "(?s)e.shift.*a"),
        (("--run-training=maybe",), "(?s)run.training.*maybe"),
        (("-i",), "training-iterations"),
        (("--config-file",), "config-file"),
        (("word",), "word"),
    ],
)
def test_wrong_words(words: tuple[str, ...], match: str) -> None:
    refused("run", *words, match=match)


def test_all_faults_of_a_file_at_once() -> None:
    wrong = {
        "trainng_iterations": 5,
        "lerning_rate": 0.1,
        "run_training": "yes",
        "validation_ratio": 2,
        "log_path": 7,
        "e_shift": 0.5,
    }
    said = refused_file(wrong, "training_iterations")
    for text in ("trainng_iterations", "lerning_rate", "learning_rate", "run_training", "validation_ratio", "log_path"):
        assert text in said
    assert "e_shift" not in said


def test_faults_of_file_and_command_line_at_once() -> None:
    """And each is laid at the right door."""
    said = refused_file({"validation_ratio": 2}, "validation_ratio", "--training-iterations=-1")
    by_key = {key: line for line in said.splitlines() for key in ("validation_ratio", "training_iterations")
              if key in line}  # fmt: skip
    assert "job.json" in by_key["validation_ratio"]
    assert "job.json" not in by_key["training_iterations"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", r"job\.json"),
        ("{", r"job\.json"),
        ("[]", r"job\.json.*object"),
        ("5", r"job\.json.*object"),
        ('{"e_shift" 5}', r"job\.json"),
        ("si.poscar.dat", r"job\.json"),
    ],
)
def test_what_is_no_configuration(content: str, match: str) -> None:
    refused_file(content, match)


def test_a_binary_configuration() -> None:
    Path("job.json").write_bytes(b"\xff\xfe\0\1")
    refused("run", "-j", "job.json", match=r"job\.json")


def test_a_configuration_that_is_not_there() -> None:
    refused("run", "-j", "none.json", match=r"none\.json")
    Path("folder").mkdir()
    refused("run", "-j", "folder", match="folder")


# ---------------------------------------------------------------------------------------------------------------------
# jobs

GENERATE = {
    "generate_training_set": True,
    "dft_input_file": "si.poscar.dat",
    "neural_network_in": "si.nn.dat",
    "training_set_output_file": "set.h5",
    "e_shift": 106.0,
}
TRAIN = {
    "run_training": True,
    "training_set_in": "set.h5",
    "neural_network_in": "si.nn.dat",
    "neural_network_out": "out.nn.dat",
    "training_iterations": 2,
    "validation_ratio": 0.6,
}
BOTH = GENERATE | TRAIN


def write(config: dict[str, object], **changes: object) -> None:
    Path("job.json").write_text(json.dumps(config | changes))


def job(config: dict[str, object], **changes: object) -> str:
    """Run a job that must succeed; what it said."""
    write(config, **changes)
    return done("run", "--config-file", "job.json").said


def refused_job(config: dict[str, object], match: str, **changes: object) -> str:
    write(config, **changes)
    return refused("run", "--config-file", "job.json", match=match).err


@pytest.fixture
def training_set() -> None:
    done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "set.h5", "--e-shift", "106", "--quiet")


LOGS = {"pyfit_log.txt", "loss.txt", "validation.txt"}


def test_files_of_a_whole_job() -> None:
    """Default names, as the classic program has them."""
    write({})
    before = names()
    job(BOTH, training_iterations=30)
    backups = {"nn_backup/nn_bk_00000.nn.dat", "nn_backup/nn_bk_00025.nn.dat"}
    assert new_names(before) == {"set.h5", "out.nn.dat", *LOGS, *backups}
    assert [step for step, _ in log_rows("loss.txt")] == list(range(31))
    assert [step for step, _ in log_rows("validation.txt")] == [0, 5, 10, 15, 20, 25, 30]


def test_files_of_generating() -> None:
    write({})
    before = names()
    job(GENERATE)
    assert new_names(before) == {"set.h5", "pyfit_log.txt"}


def test_files_of_training(training_set: None) -> None:
    write({})
    before = names()
    job(TRAIN)
    assert new_names(before) == {"out.nn.dat", *LOGS, "nn_backup/nn_bk_00000.nn.dat"}


def test_the_whole_job_from_the_command_line() -> None:
    """No file, the letters only, and no `run`."""
    before = names()
    words = "-g -f si.poscar.dat -e si.nn.dat -a set.h5 -t -s set.h5 -y out.nn.dat -i 1 -w -c -n 1"
    done(*words.split())
    assert new_names(before) == {"set.h5", "out.nn.dat", *LOGS, "nn_backup/nn_bk_00000.nn.dat"}


def test_the_same_job_by_file_and_by_options() -> None:
    job(BOTH)
    kept = {name: Path(name).read_bytes() for name in ("set.h5", "out.nn.dat", "loss.txt", "validation.txt")}
    shutil.rmtree("nn_backup")
    for name in kept:
        Path(name).unlink()
    done("run", *(word for key, value in BOTH.items() for word in option_words(f"--{key.replace('_', '-')}", value,
                                                                               joined=True)))  # fmt: skip
    assert {name: Path(name).read_bytes() for name in kept} == kept


def test_generating_equals_prepare() -> None:
    job(GENERATE, training_set_output_file="a.hdf5")
    done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "b.h5", "--e-shift", "106")
    assert Path("a.hdf5").read_bytes() == Path("b.h5").read_bytes()


def test_default_energy_shift() -> None:
    del (config := dict(GENERATE))["e_shift"]
    job(config)
    assert pf.load_training_set("set.h5").energy_shift == (0.795023,)


@pytest.mark.parametrize("name", ["set.dat", "set.txt", "set", "set.h5.txt"])
def test_text_unless_the_name_says_hdf5(name: str) -> None:
    """Two lines per atom after twelve of header; E_used with the shift."""
    job(GENERATE, training_set_output_file=name)
    lines = Path(name).read_text().splitlines()
    assert len(lines) == 12 + 2 * N_ATOMS
    assert lines[8] == " # 1 - Potential Type"
    assert lines[9].startswith(f" # {N_STRUCTURES} ")
    first = poscar_blocks("si.poscar.dat")[0]
    used = float(first[-1]) + int(first[5]) * 106.0
    assert lines[12].split()[:6] == ["ATOM-0", "even", "1", "0", first[5], f"{used:.6E}"]


def test_training_takes_text_and_hdf5(training_set: None) -> None:
    done("convert", "set.h5", "set.dat")
    for name in ("set.h5", "set.dat"):
        job(TRAIN, training_set_in=name, neural_network_out=f"{name}.nn.dat", loss_log_path=f"{name}.loss.txt",
            network_backup_interval=0)  # fmt: skip
    (binary, text) = (log_rows(f"{name}.loss.txt") for name in ("set.h5", "set.dat"))
    assert text[0][1] == pytest.approx(binary[0][1], rel=1e-4)
    assert text != binary


@pytest.mark.parametrize("training_set_in", ["", "set.dat"])
def test_both_tasks_with_the_set_that_is_generated(training_set_in: str) -> None:
    job(BOTH, training_set_output_file="set.dat", training_set_in=training_set_in)
    assert len(log_rows("loss.txt")) == 3


def test_the_network_carries_the_shift() -> None:
    job(BOTH)
    assert pf.load_potential("out.nn.dat").energy_shift.tolist() == [106.0]
    assert "e_shift 106.0" in Path("out.nn.dat").read_text().splitlines()[2]


def test_first_row_is_the_error_of_the_start_network() -> None:
    """By the energies of the reference program; later rows come down."""
    job(BOTH, validation_ratio=1.0, training_iterations=3)
    blocks = poscar_blocks("si.poscar.dat")
    used = np.array([float(block[-1]) / int(block[5]) for block in blocks]) + 106.0
    expected = np.sqrt(np.mean((np.load(OWN / "nn_mode1.npz")["energy_per_atom"] - used) ** 2))
    rows = log_rows("loss.txt")
    assert rows[0][1] == pytest.approx(expected, rel=1e-9)
    assert rows[3][1] < rows[0][1]


def test_the_classic_fit_has_no_line_search(training_set: None) -> None:
    """The defaults: step length 0.05, 10 iterations in a step, inputs as they are, energies alone, no penalty."""
    job(TRAIN, training_iterations=3)
    words = ("--line-search", "none", "--learning-rate", "0.05", "--max-iterations", "10", "--train-fraction", "0.6",
             "--conditioning", "none", "--force-weight", "0", "--stress-weight", "0", "--l2", "0")  # fmt: skip
    done("train", "set.h5", "--potential", "si.nn.dat", "--out", "verb.nn.dat", "--steps", "3", *words)
    assert Path("loss.txt").read_bytes() == Path("verb.loss.txt").read_bytes()
    assert Path("out.nn.dat").read_bytes() == Path("verb.nn.dat").read_bytes()


def test_0_iterations_write_the_network_back(training_set: None) -> None:
    job(TRAIN, training_iterations=0, energy_volume_interval=1)
    assert weights("out.nn.dat") == weights("si.nn.dat")
    assert len(log_rows("loss.txt")) == 1
    assert len(log_rows("validation.txt")) == 1
    assert len(Path("energy_volume.txt").read_text().splitlines()) == 2


def test_intervals(training_set: None) -> None:
    job(TRAIN, training_iterations=6, network_backup_interval=4, validation_interval=3, energy_volume_interval=2)
    backups = {name for name in names() if name.startswith("nn_backup/")}
    assert backups == {"nn_backup/nn_bk_00000.nn.dat", "nn_backup/nn_bk_00004.nn.dat"}
    assert [step for step, _ in log_rows("validation.txt")] == [0, 3, 6]
    steps = [line.split()[0] for line in Path("energy_volume.txt").read_text().splitlines()]
    assert steps == ["training_index", "000000", "000002", "000004", "000006"]


def test_interval_0_means_never(training_set: None) -> None:
    write({})
    before = names()
    job(TRAIN, network_backup_interval=0, validation_interval=0, energy_volume_interval=0)
    assert new_names(before) == {"out.nn.dat", "pyfit_log.txt", "loss.txt"}


def test_an_empty_name_switches_a_log_off(training_set: None) -> None:
    write({})
    before = names()
    off = dict.fromkeys(("log_path", "loss_log_path", "validation_log_path", "energy_volume_file"), "")
    job(TRAIN, energy_volume_interval=1, network_backup_dir="", **off)
    assert new_names(before) == {"out.nn.dat"}


def test_other_names(training_set: None) -> None:
    Path("logs").mkdir()
    write({})
    before = names()
    named = {
        "log_path": "logs/a.txt",
        "loss_log_path": "logs/b.txt",
        "validation_log_path": "logs/c.txt",
        "energy_volume_file": "logs/d.txt",
        "network_backup_dir": "logs/e",
    }
    job(TRAIN, energy_volume_interval=2, **named)
    assert new_names(before) - {"logs"} == {"out.nn.dat", "logs/a.txt", "logs/b.txt", "logs/c.txt", "logs/d.txt",
                                            "logs/e/nn_bk_00000.nn.dat"}  # fmt: skip


def test_the_log_of_messages(training_set: None) -> None:
    """The log holds everything that the terminal shows, line by line with the time; --quiet does not change it."""
    said = job(TRAIN)
    text = Path("pyfit_log.txt").read_text()
    for line in said.splitlines():
        if not line.startswith("training:"):
            assert line.removeprefix("warning: ") in text, line
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line) for line in text.splitlines())
    result = done("run", "-j", "job.json", "--overwrite", "--quiet")
    assert result.said == ""
    assert len(Path("pyfit_log.txt").read_text().splitlines()) == len(text.splitlines())


def test_nvidia_smi_log(training_set: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 50 iterations from the first, by a program that only says that it is called."""
    Path("bin").mkdir()
    Path("bin/nvidia-smi").write_text("#!/bin/sh\necho '0, 17 %, 345 MiB, 80000 MiB'\n")
    Path("bin/nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path('bin').resolve()}{os.pathsep}{os.environ['PATH']}")
    fresh_potential("small.nn.dat", "3 40 2 1")
    job(TRAIN, neural_network_in="small.nn.dat", nvidia_smi_log="gpu.txt", training_iterations=60,
        max_lbfgs_iterations=2)  # fmt: skip
    readings = [line for line in Path("gpu.txt").read_text().splitlines() if "345 MiB" in line]
    assert [int(line.split(",")[0]) for line in readings] == [0, 50]


def test_nvidia_smi_log_on_a_machine_without_it(training_set: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    job(TRAIN, nvidia_smi_log="gpu.txt")
    assert Path("out.nn.dat").exists()


# ---------------------------------------------------------------------------------------------------------------------
# the split and the fit


def classic_order(ratio: float, seed: int) -> list[float]:
    """Volumes of the training structures as the specification says, in its order; written for this test."""
    blocks = [block for block in poscar_blocks("si.poscar.dat") if not block[0].startswith("NO_DFT")]
    groups = [block[0].split()[0] for block in blocks]
    cells = [np.array([line.split() for line in block[2:5]], dtype=float) for block in blocks]
    volumes = [abs(np.linalg.det(cell)) / int(block[5]) for cell, block in zip(cells, blocks, strict=True)]
    random = np.random.RandomState(seed)
    order = []
    for name in sorted(set(groups)):
        rows = sorted((row for row in range(len(groups)) if groups[row] == name), key=lambda row: volumes[row])
        n = len(rows)
        if ratio == 1.0 or n <= 2:
            order += rows
            continue
        k = max(0, min(round((ratio - 2 / n) * n), n - 2))
        drawn = random.choice(n - 2, k, replace=False)
        order += [rows[0], rows[-1], *(rows[1:-1][place] for place in drawn)]
    return [volumes[row] for row in order]


def logged_volumes() -> list[float]:
    first = Path("energy_volume.txt").read_text().splitlines()[0].split()
    assert first[0] == "training_index"
    return [float(cell) for cell in first[1:]]


@pytest.mark.parametrize("ratio", [0.5, 0.6, 0.7, 0.75, 0.83, 0.9, 1.0])
@pytest.mark.parametrize("seed", [1, 2, 77])
def test_split(ratio: float, seed: int) -> None:
    """Groups of 12, 11 and 11, whose order in the file is not that of their names."""
    write_poscar("si.poscar.dat", poscar_blocks(), ["b", "c", "a"])
    job(BOTH, validation_ratio=ratio, validation_split_seed=seed, training_iterations=0, energy_volume_interval=1)
    assert logged_volumes() == pytest.approx(classic_order(ratio, seed), rel=1e-6)


def test_default_split(training_set: None) -> None:
    """Ratio 0.95 and seed 2; with 17 structures in a group one of them validates."""
    del (config := dict(TRAIN))["validation_ratio"]
    job(config, training_iterations=0, energy_volume_interval=1)
    assert logged_volumes() == pytest.approx(classic_order(0.95, 2), rel=1e-6)
    assert len(logged_volumes()) == N_STRUCTURES - 2


def test_ratio_1_validates_nothing(training_set: None) -> None:
    said = job(TRAIN, validation_ratio=1.0)
    assert re.search("(?i)(validation_ratio|no validation)", said)
    assert not Path("validation.txt").exists()
    assert "without a validation structure" not in said


def test_ratio_1_as_a_whole_number(training_set: None) -> None:
    job(TRAIN, validation_ratio=1)
    assert not Path("validation.txt").exists()


def test_seed_0_draws_a_seed_and_logs_it(training_set: None) -> None:
    job(TRAIN, validation_split_seed=0, training_iterations=0, energy_volume_interval=1)
    volumes = logged_volumes()
    line = next(line for line in Path("pyfit_log.txt").read_text().splitlines() if "seed" in line)
    seed = int(re.findall(r"\d+", line)[-1])
    assert seed > 0
    job(TRAIN, validation_split_seed=seed, training_iterations=0, energy_volume_interval=1, overwrite=True)
    assert logged_volumes() == volumes
    job(TRAIN, validation_split_seed=0, training_iterations=0, energy_volume_interval=1, overwrite=True)
    assert logged_volumes() != volumes


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.01},
        {"max_lbfgs_iterations": 3},
        {"l2_regularization_prefactor": 0.1},
        {"validation_split_seed": 5},
        {"validation_ratio": 0.7},
        {"randomize": True},
    ],
    ids=str,
)
def test_every_setting_of_the_fit_has_an_effect(training_set: None, change: dict[str, object]) -> None:
    job(TRAIN)
    plain = weights("out.nn.dat")
    job(TRAIN, overwrite=True)
    assert weights("out.nn.dat") == plain
    job(TRAIN, overwrite=True, **change)
    assert weights("out.nn.dat") != plain


def test_randomize(training_set: None) -> None:
    """Drawn from the header's interval; the input file stays as it is."""
    before = Path("si.nn.dat").read_bytes()
    job(TRAIN, randomize=True, training_iterations=0)
    drawn = np.frombuffer(weights("out.nn.dat"))
    assert weights("out.nn.dat") != weights("si.nn.dat")
    assert 0.9 < np.abs(drawn).max() <= 1.0
    assert Path("si.nn.dat").read_bytes() == before


def test_a_header_that_asks_for_random_weights(training_set: None) -> None:
    """The classic program rewrites such a file; here it stays as it is."""
    fresh_potential("fresh.nn.dat")
    before = Path("fresh.nn.dat").read_bytes()
    job(TRAIN, neural_network_in="fresh.nn.dat")
    assert Path("fresh.nn.dat").read_bytes() == before
    assert pf.load_potential("out.nn.dat").networks.layer_sizes == (40, 5, 1)


def test_error_restart_level(training_set: None) -> None:
    """Weights from +-0.5, three times; the fourth time training ends and all outputs are written."""
    said = job(TRAIN, error_restart_level=1e-9, energy_volume_interval=1)
    assert len(re.findall(r"restart \d of 3", said)) == 3
    assert [step for step, _ in log_rows("loss.txt")] == [0]
    assert [step for step, _ in log_rows("validation.txt")] == [0]
    assert len(Path("energy_volume.txt").read_text().splitlines()) == 2
    assert 0.4 < np.abs(np.frombuffer(weights("out.nn.dat"))).max() <= 0.5
    assert weights("nn_backup/nn_bk_00000.nn.dat") == weights("out.nn.dat")


def test_error_restart_level_0_means_never(training_set: None) -> None:
    assert "restart" not in job(TRAIN, error_restart_level=0.0)


def test_0_iterations_never_restart(training_set: None) -> None:
    """They evaluate: a loss above the level is written down, and the network stays as it is."""
    job(TRAIN, training_iterations=0, error_restart_level=1e-9)
    assert weights("out.nn.dat") == weights("si.nn.dat")
    assert [step for step, _ in log_rows("loss.txt")] == [0]


# ---------------------------------------------------------------------------------------------------------------------
# checks before any work: a job that cannot be done changes nothing at all


@pytest.mark.parametrize("missing", ["dft_input_file", "neural_network_in", "training_set_output_file"])
def test_required_to_generate(missing: str) -> None:
    refused_job(GENERATE, missing, **{missing: ""})


@pytest.mark.parametrize("missing", ["training_set_in", "neural_network_in", "neural_network_out"])
def test_required_to_train(training_set: None, missing: str) -> None:
    refused_job(TRAIN, missing, **{missing: ""})


def test_everything_that_is_required_at_once() -> None:
    said = refused("run", "--run-training", "--generate-training-set", match="neural_network_in").err
    for key in ("dft_input_file", "neural_network_in", "neural_network_out", "training_set_output_file"):
        assert key in said
    said = refused("run", "--run-training", match="neural_network_in").err
    for key in ("training_set_in", "neural_network_in", "neural_network_out"):
        assert key in said


def test_both_tasks_with_another_set() -> None:
    refused_job(BOTH, "training_set_in.*set.h5.*other.h5", training_set_in="other.h5")


@pytest.mark.parametrize("key", ["dft_input_file", "neural_network_in", "training_set_in"])
def test_inputs_that_are_not_there(training_set: None, key: str) -> None:
    config = TRAIN if key == "training_set_in" else GENERATE | {"training_set_output_file": "new.h5"}
    refused_job(config, rf"{key}.*none\.x", **{key: "none.x"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training_set_output_file", "missing/set.h5"),
        ("neural_network_out", "missing/out.nn.dat"),
        ("loss_log_path", "missing/loss.txt"),
        ("validation_log_path", "missing/validation.txt"),
        ("energy_volume_file", "missing/energy_volume.txt"),
        ("log_path", "missing/pyfit_log.txt"),
        ("nvidia_smi_log", "missing/gpu.txt"),
        ("network_backup_dir", "missing/backup"),
        ("network_backup_dir", "si.nn.dat"),
        ("loss_log_path", "folder"),
    ],
)
def test_outputs_that_cannot_be_written(key: str, value: str) -> None:
    Path("folder").mkdir()
    refused_job(BOTH | {"training_set_in": ""}, re.escape(value), energy_volume_interval=1, **{key: value})


def test_outputs_that_are_in_the_way_at_once() -> None:
    for name in ("set.h5", "out.nn.dat"):
        Path(name).write_text("something precious")
    Path("nn_backup").mkdir()
    Path("nn_backup/nn_bk_00075.nn.dat").write_text("something precious")
    said = refused_job(BOTH, r"set\.h5.*exists")
    assert re.search(r"out\.nn\.dat.*exists", said)
    assert re.search(r"nn_backup.*not empty", said)
    assert "overwrite" in said


def test_earlier_logs_are_in_nobodys_way(training_set: None) -> None:
    """Another name of theirs, a hard link, keeps what they held."""
    job(TRAIN, training_iterations=4)
    Path("out.nn.dat").unlink()
    shutil.rmtree("nn_backup")
    os.link("loss.txt", "kept.txt")
    Path("validation.txt").write_text("")
    job(TRAIN)
    assert len(log_rows("loss.txt")) == 3
    assert len(log_rows("kept.txt")) == 5
    assert Path("pyfit_log.txt").read_text().count("done after") == 1


@pytest.mark.parametrize("key", ["log_path", "loss_log_path", "validation_log_path", "energy_volume_file",
                                 "nvidia_smi_log"])  # fmt: skip
def test_a_log_in_place_of_another_file(key: str, training_set: None) -> None:
    """Refused unless it may be replaced."""
    shutil.copy("si.poscar.dat", "notes.txt")
    settings = {key: "notes.txt", "energy_volume_interval": 1}
    refused_job(
        TRAIN, r"notes\.txt: expected nothing or an earlier .* here, found another file \(.*--overwrite", **settings
    )
    job(TRAIN, overwrite=True, **settings)
    assert Path("notes.txt").read_bytes() != Path("si.poscar.dat").read_bytes()


def test_a_network_that_is_not_written_is_not_in_the_way() -> None:
    """Generating does not look at the outputs of training."""
    Path("out.nn.dat").write_text("something precious")
    job(GENERATE, neural_network_out="out.nn.dat")
    assert Path("out.nn.dat").read_text() == "something precious"


def test_backups_that_are_not_written_are_not_in_the_way(training_set: None) -> None:
    Path("nn_backup").mkdir()
    Path("nn_backup/nn_bk_00075.nn.dat").write_text("something precious")
    job(TRAIN, network_backup_interval=0)
    assert Path("nn_backup/nn_bk_00075.nn.dat").read_text() == "something precious"


def test_overwrite() -> None:
    job(BOTH)
    first = snapshot()
    job(BOTH, overwrite=True, training_iterations=3)
    second = snapshot()
    assert second.keys() == first.keys()
    assert second["out.nn.dat"] != first["out.nn.dat"]
    assert len(log_rows("loss.txt")) == 4


@pytest.mark.parametrize("words", [("--overwrite",), ("-o",)])
def test_overwrite_as_an_option(words: tuple[str, ...]) -> None:
    job(BOTH)
    refused("run", "-j", "job.json", match="exists")
    done("run", "-j", "job.json", *words)


ALL_OUTPUTS = {
    "set.h5",
    "out.nn.dat",
    "pyfit_log.txt",
    "loss.txt",
    "validation.txt",
    "energy_volume.txt",
    "gpu.txt",
    "nn_backup/nn_bk_00000.nn.dat",
}


def numbered(name: str, number: str) -> str:
    first, slash, rest = name.partition("/")
    stem, dot, ending = first.partition(".")
    return f"{stem}.{number}{dot}{ending}{slash}{rest}"


def test_unique_numbers_every_output() -> None:
    """Before the first dot of the base name; the first that is free; what is there stays."""
    config = BOTH | {"energy_volume_interval": 1, "nvidia_smi_log": "gpu.txt"}
    write(config)
    before = names()
    job(config)
    assert new_names(before) == ALL_OUTPUTS
    for number in ("00000", "00001"):
        there = {name: content for name, content in snapshot().items() if name != "job.json"}
        before = names()
        job(config, unique=True)
        assert new_names(before) == {numbered(name, number) for name in ALL_OUTPUTS}
        after = snapshot()
        assert {name: after[name] for name in there} == there
        assert not [name for name in after if name.endswith(".claim")]
    assert weights("out.00001.nn.dat") == weights("out.nn.dat")
    assert Path("set.00000.h5").read_bytes() == Path("set.h5").read_bytes()


def test_unique_in_an_empty_folder_numbers_too() -> None:
    write({})
    before = names()
    job(BOTH, unique=True)
    expected = ALL_OUTPUTS - {"energy_volume.txt", "gpu.txt"}
    assert new_names(before) == {numbered(name, "00000") for name in expected}


def test_unique_passes_over_what_is_taken() -> None:
    """Whatever the way of numbering, nothing that is there changes."""
    for name in ("set.00000.h5", "loss.00000.txt", "loss.00001.txt"):
        Path(name).write_text("something precious")
    before = snapshot()
    job(BOTH, unique=True)
    after = snapshot()
    assert {name: after[name] for name in before} == before
    assert len(log_rows("loss.00002.txt")) == 3


@pytest.mark.parametrize("unique", [False, True])
@pytest.mark.parametrize("task", ["generate", "train"])
def test_groups_that_are_too_small(task: str, unique: bool) -> None:
    """Without no_warn the job stops before any work and names them."""
    write_poscar("si.poscar.dat", poscar_blocks(), ["large"] * 15 + ["pair", "single"])
    done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "given.h5")
    config = BOTH if task == "generate" else TRAIN | {"training_set_in": "given.h5"}
    Path("pyfit_log.txt").write_text("2026-01-01 00:00:00,000 INFO the log of an earlier job")
    said = refused_job(config, r"groups.*: pair, single\b.*no_warn", validation_ratio=0.9, unique=unique)
    assert "large" not in said


def test_no_warn() -> None:
    write_poscar("si.poscar.dat", poscar_blocks(), ["large"] * 15 + ["pair", "single"])
    said = job(BOTH, no_warn=True)
    assert re.search(r"warning.*pair, single$", said, re.MULTILINE)
    assert "pair, single" in Path("pyfit_log.txt").read_text()
    assert len(log_rows("loss.txt")) == 3
    assert len(log_rows("validation.txt")) == 1


def test_only_generating_needs_no_validation() -> None:
    write_poscar("si.poscar.dat", poscar_blocks(), ["large"] * 15 + ["pair", "single"])
    assert "validation" not in job(GENERATE)


def test_no_dft_groups_count_in_no_split() -> None:
    """A group of one structure without an energy lacks nothing; its energy is 0.0 in the file."""
    blocks = poscar_blocks("si.poscar.dat")
    write_poscar("si.poscar.dat", [*blocks, ["NO_DFT_here", *blocks[0][1:-1], "0.0"]])
    said = job(BOTH, energy_volume_interval=1)
    assert "NO_DFT" not in said
    assert logged_volumes() == pytest.approx(classic_order(0.6, 2), rel=1e-6)
    assert len(pf.load_training_set("set.h5")) == N_STRUCTURES + 1


def test_isolated_is_a_group_like_any_other() -> None:
    blocks = poscar_blocks("si.poscar.dat")
    write_poscar("si.poscar.dat", [*blocks, ["ISOLATED", *blocks[0][1:]]])
    refused_job(BOTH, "ISOLATED")


def test_a_set_of_another_potential(training_set: None) -> None:
    with_header("other.nn.dat", {4: " 0 1.0 4.6 1.0 1.0"})
    refused_job(TRAIN, r"\b(rc|cutoff)\b.*4\.[56].*4\.[56]", neural_network_in="other.nn.dat")


@pytest.mark.parametrize("task", ["generate", "train"])
def test_a_physically_informed_potential(task: str) -> None:
    """It trains on a set that has positions: one that the same run makes, or an HDF5 one."""
    shutil.copy(OWN / "pinn_mode1.nn.dat", "si.nn.dat")
    done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "given.h5")
    config = BOTH if task == "generate" else TRAIN | {"training_set_in": "given.h5"}
    assert "energies of bond-order potentials are those of atomisation, and the lowest of this set is " in job(config)
    assert [step for step, _ in log_rows("loss.txt")] == [0, 1, 2]
    start, trained = pf.load_potential("si.nn.dat"), pf.load_potential("out.nn.dat")
    assert trained.is_physically_informed
    assert trained.baseline.tolist() == start.baseline.tolist()
    assert not torch.equal(trained.networks.flat(), start.networks.flat())


def test_a_physically_informed_potential_and_a_text_set() -> None:
    shutil.copy(OWN / "pinn_mode1.nn.dat", "si.nn.dat")
    job(GENERATE, training_set_output_file="set.txt")
    refused_job(TRAIN, r"set\.txt: expected positions.*text sets have none.*\.h5", training_set_in="set.txt")


def test_generating_with_a_physically_informed_potential() -> None:
    shutil.copy(OWN / "pinn_mode1.nn.dat", "si.nn.dat")
    job(GENERATE)
    assert pf.load_training_set("set.h5").features.shape == (N_ATOMS, 20)


@pytest.mark.parametrize(("key", "task"), [("neural_network_in", TRAIN), ("training_set_in", TRAIN)])
@pytest.mark.parametrize("content", [b"", b"nothing of the kind\n", b"\0\1\2"])
def test_inputs_that_are_something_else(training_set: None, key: str, task: dict[str, object], content: bytes) -> None:
    """Found when they are read, which is before any work."""
    Path("wrong.x").write_bytes(content)
    refused_job(task, r"wrong\.x", **{key: "wrong.x"})


def test_nothing_to_do() -> None:
    result = call("run")
    assert result.status == 2
    assert "generate_training_set" in result.err
    assert "run_training" in result.err


def test_failure_of_the_fit_is_1(training_set: None) -> None:
    """The last good network and all logs are there."""
    write(TRAIN, training_iterations=9, learning_rate=1e200)
    result = call("run", "-j", "job.json")
    assert result.status == 1
    assert "learning_rate" in result.err
    assert "Traceback" not in result.said
    assert len(log_rows("loss.txt")) < 10
    pf.load_potential("out.nn.dat")
