"""The command line: verbs, options, help, devices, messages and exit statuses."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands.helpers import (
    ENVIRONMENT,
    assert_same_files,
    call,
    done,
    log_rows,
    refused,
    set_up,
    snapshot,
    subprocess_call,
    weights,
)

import pyfit_gpu
from pyfit_gpu.commands import prepare as module
from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.errors import InputError

VERBS = ("prepare", "train", "evaluate", "info", "convert", "run")

PREPARE = ("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "si.h5")
TRAIN = ("train", "si.h5", "--potential", "si.nn.dat", "--out", "out.nn.dat", "--steps", "1")
EVALUATE = ("evaluate", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "out.csv")
CONVERT = ("convert", "si.poscar.dat", "out.extxyz")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)


@pytest.fixture
def training_set() -> None:
    done(*PREPARE, "--quiet")


# ---------------------------------------------------------------------------------------------------------------------
# help


def test_help_answers_at_once() -> None:
    """A twentieth of a second: a process of its own imports few modules that Python itself does not."""

    def imported(*words: str) -> set[str]:
        command = [sys.executable, "-X", "importtime", *words]
        ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True)
        return {line.split("|")[-1].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")}

    more = imported("-m", "pyfit_gpu", "--help") - imported("-c", "pass")
    assert "argparse" in more
    assert len(more) < 100


IMPORTS = """
import contextlib, io, sys
from pyfit_gpu.commands.cli import main
for words in (["--help"], ["-h"], ["--version"], [], *([verb, "--help"] for verb in sys.argv[1:]), ["-h", "seed"]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main(words)
    assert out.getvalue(), words
print(*(name for name in ("torch", "ase", "numpy", "h5py", "matplotlib") if name in sys.modules))
"""


def test_help_imports_nothing_heavy() -> None:
    command = [sys.executable, "-c", IMPORTS, *VERBS]
    ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == []


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_help_names_every_verb(words: list[str]) -> None:
    result = call(*words)
    assert result.status == 0
    assert result.err == ""
    for verb in VERBS:
        assert re.search(rf"^ +{verb} ", result.out, re.MULTILINE), verb


def test_version() -> None:
    result = call("--version")
    assert (result.status, result.err) == (0, "")
    assert result.out.split() == ["pyfit-gpu", pyfit_gpu.__version__]


def test_no_words_is_wrong_usage() -> None:
    result = call()
    assert result.status == 2
    assert "usage" in result.said
    assert "prepare" in result.said


COMMON = ["--device", "--gpu-affinity", "--force-cpu", "--n-threads", "--dtype", "--overwrite", "--unique", "--quiet"]


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("new", ["--elements", "--cutoff", "--out", "--hidden", "--overwrite", "--unique", "--quiet"]),
        ("prepare", ["--potential", "--out", "--e-shift", "--append", "--shard", *COMMON]),
        ("train", ["--potential", "--out", "--steps", "--train-fraction", "--seed", "--randomize", *COMMON]),
        ("evaluate", ["--potential", "--out", "--e-shift", *COMMON]),
        ("info", []),
        ("convert", ["--overwrite", "--unique"]),
    ],
)
@pytest.mark.parametrize("help_option", ["--help", "-h"])
def test_help_of_a_verb(verb: str, options: list[str], help_option: str) -> None:
    result = call(verb, help_option)
    assert (result.status, result.err) == (0, "")
    assert f"pyfit-gpu {verb}" in result.out
    listed = set(re.findall(r"(?<![\w-])--[a-z0-9-]+", result.out))
    assert set(options) - listed == set()


@pytest.mark.parametrize("words", [["-h", "validation"], ["run", "-h", "validation"], ["run", "--help", "VALIDATION"]])
def test_classic_help_narrowed_by_a_word(words: list[str]) -> None:
    result = call(*words)
    assert (result.status, result.err) == (0, "")
    for option in ("--validation-ratio", "--validation-interval", "--validation-log-path", "--validation-split-seed"):
        assert option in result.out
    for option in ("--learning-rate", "--gpu-affinity", "--e-shift", "--loss-log-path"):
        assert option not in result.out


def test_classic_help_for_a_letter_name() -> None:
    """The classic program's own names are found too, not only the keys."""
    result = call("-h", "network-output-file")
    assert "-y" in result.out
    assert "--neural-network-out" in result.out
    assert "--dft-file" not in result.out


def test_classic_help_for_an_unknown_word() -> None:
    result = call("-h", "xylophone")
    assert "xylophone" in result.said
    assert "--learning-rate " not in result.out


@pytest.mark.parametrize("words", [["run", "-h"], ["run", "--help"]])
def test_classic_help_whole(words: list[str]) -> None:
    result = call(*words)
    assert (result.status, result.err) == (0, "")
    for option in ("--config-file", "--learning-rate", "--nvidia-smi-log", "-j", "-g", "-t", "--network-input-file"):
        assert re.search(rf"(?<![\w-]){option}\b", result.out), option


# ---------------------------------------------------------------------------------------------------------------------
# wrong usage


@pytest.mark.parametrize(
    ("word", "nearest"), [("prepair", "prepare"), ("trian", "train"), ("evalute", "evaluate"), ("infos", "info")]
)
def test_unknown_verb(word: str, nearest: str) -> None:
    refused(word, "si.poscar.dat", match=rf"{word}.*\b{nearest}\b")


TRAIN_NEEDS = ("train", "si.h5", "--potential", "si.nn.dat", "--out", "out.nn.dat")


@pytest.mark.parametrize(
    ("words", "unknown", "nearest"),
    [
        (PREPARE, "--e-shfit 1", "--e-shift"),
        (PREPARE, "--e-shfit=1", "--e-shift"),
        (PREPARE, "--overwite", "--overwrite"),
        (TRAIN_NEEDS, "--step 3", "--steps"),
        (TRAIN_NEEDS, "--train-frac=1", "--train-fraction"),
        (EVALUATE, "--quite", "--quiet"),
        (CONVERT, "--uniqe", "--unique"),
        (("info", "si.nn.dat"), "--hlep", "--help"),
        (("run",), "--training-iteration 3", "--training-iterations"),
        ((), "--netowrk-input-file=si.nn.dat", "--network-input-file"),
    ],
)
def test_unknown_option_and_the_nearest_known_one(words: tuple[str, ...], unknown: str, nearest: str) -> None:
    name = re.split("[ =]", unknown)[0]
    refused(*words, *unknown.split(), match=rf"{name}(?![\w-]).*{nearest}(?![\w-])")


@pytest.mark.parametrize(
    ("words", "unknown", "nearest"),
    [
        (("prepare", "si.poscar.dat", "--out", "si.h5"), "--potental", "--potential"),
        (("evaluate", "si.poscar.dat", "--potential", "si.nn.dat"), "--output", "--out"),
    ],
)
def test_misspelt_required_option(words: tuple[str, ...], unknown: str, nearest: str) -> None:
    """That --potential is missing helps little where --potental stands there."""
    refused(*words, unknown, "some.dat", match=rf"{unknown}(?![\w-]).*{nearest}(?![\w-])")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (PREPARE[:2] + PREPARE[4:], "--potential"),
        (PREPARE[:4], "--out"),
        (("train", *TRAIN[2:]), "SET"),
        (("info",), "FILE"),
        (("convert", "si.poscar.dat"), "OUT"),
        (("info", "si.nn.dat", "si.poscar.dat"), r"si\.poscar\.dat"),
        ((*PREPARE, "--n-threads", "two"), "--n-threads.*two"),
        ((*PREPARE, "--n-threads", "-1"), "--n-threads.*-1"),
        ((*PREPARE, "--gpu-affinity", "-1"), "--gpu-affinity.*-1"),
        ((*PREPARE, "--dtype", "float16"), "--dtype.*float16.*float64"),
        ((*PREPARE, "--device", "tpu"), "(?s)device.*(cpu.*tpu|tpu.*cpu)"),
        ((*PREPARE, "--e-shift", "one"), "--e-shift.*one"),
        ((*PREPARE, "--e-shift", "nan"), "e.shift.*nan"),
        ((*PREPARE, "--e-shift", "inf"), "e.shift.*inf"),
        ((*PREPARE, "--shard", "2"), "--shard.*2"),
        ((*PREPARE, "--shard", "2/2"), "--shard.*2/2"),
        ((*PREPARE, "--shard", "0/0"), "--shard.*0/0"),
        ((*PREPARE, "--shard=-1/2"), "--shard.*-1/2"),
        ((*PREPARE, "--shard", "a/b"), "--shard.*a/b"),
        ((*EVALUATE, "--e-shift", "nan"), "e.shift.*nan"),
    ],
)
def test_wrong_words(words: tuple[str, ...], match: str) -> None:
    refused(*words, match=match)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--steps", "1.5"), "--steps.*1.5"),
        (("--steps", "-1"), "--steps.*-1"),
        (("--train-fraction", "1.1"), "train.fraction.*1.1"),
        (("--train-fraction", "-0.1"), "train.fraction.*-0.1"),
        (("--train-fraction", "nan"), "train.fraction.*nan"),
        (("--seed", "-2"), "--seed.*-2"),
        (("--seed", str(2**32)), "seed.*4294967296"),
        (("--learning-rate", "0"), "learning.rate.*0"),
        (("--learning-rate", "-1"), "learning.rate.*-1"),
        (("--learning-rate", "inf"), "learning.rate.*inf"),
        (("--max-iterations", "0"), "max.iterations.*0"),
        (("--l2", "-1"), "l2.*-1"),
        (("--l2", "nan"), "--l2: expected a finite number or auto, got 'nan'"),
        (("--l2", "Auto"), "--l2: expected a finite number or auto, got 'Auto'"),
        (("--l2", "auto", "--l2-form", "norm"), "l2_form: expected squared with l2 auto, got norm"),
        (("--optimizer", "gauss-newton", "--l2", "1e-4"), "l2_form: expected squared with gauss-newton, got norm"),
        (("--optimizer", "auto", "--l2", "1e-4"), "l2_form: expected squared with auto, got norm"),
        (("--optimizer", "gauss-newton", "--damping", "0"), "damping: expected a number above 0, got 0"),
        (("--optimizer", "auto", "--damping-trials", "0"), "damping_trials: expected a whole number above 0"),
        (("--damping", "0.1"), "--damping: expected with --optimizer gauss-newton or auto alone"),
        (
            ("--optimizer", "gauss-newton", "--learning-rate", "1"),
            "--learning-rate: expected with --optimizer lbfgs or auto",
        ),
        (("--optimizer", "gauss-newton", "--memory", "200M"), r"memory: expected at least [\d.]+ MiB for this set"),
        (("--error-restart-level", "nan"), "error.restart.level.*nan"),
    ],
)
def test_wrong_settings_of_training(training_set: None, words: tuple[str, ...], match: str) -> None:
    refused(*TRAIN, *words, match=match)


def test_a_message_is_for_people() -> None:
    """Names of the program's own functions mean nothing to whoever reads it."""
    result = refused(*PREPARE, "--n-threads", "two", match="--n-threads")
    assert not re.search(r"(^|[\s'])_\w", result.err)
    assert "whole number" in result.err


@pytest.mark.parametrize("words", [["--training-iterations", "3"], ["-j", "none.json"], ["--config-file=none.json"]])
def test_a_first_word_that_is_an_option_means_run(words: list[str]) -> None:
    bare, named = call(*words), call("run", *words)
    assert bare.status == 2
    assert bare == named
    assert "none.json" in bare.err or "run_training" in bare.err


# ---------------------------------------------------------------------------------------------------------------------
# exit statuses and where words go


def test_success_is_0(training_set: None) -> None:
    assert call(*TRAIN).status == 0


def test_failure_is_1_and_keeps_the_last_good_weights(training_set: None) -> None:
    result = call(*TRAIN, "--steps", "9", "--line-search", "none", "--learning-rate", "1e200", "--backup-interval", "1")
    assert result.status == 1
    assert re.search(r"error: .*step \d+ .*loss.*learning_rate", result.err)
    assert "Traceback" not in result.said
    rows = log_rows("out.loss.txt")
    assert 0 < len(rows) < 10
    assert weights("out.nn.dat") == weights(f"out.backup/nn_bk_{rows[-1][0]:05d}.nn.dat")


def test_wrong_usage_is_2_without_a_traceback_in_a_process_of_its_own() -> None:
    result = subprocess_call("info", "none.dat")
    assert result.status == 2
    assert "none.dat" in result.err
    assert "Traceback" not in result.said
    assert result.out == ""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_by_a_signal(monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int) -> None:
    def signalled(*args: object, **keywords: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(1)

    monkeypatch.setattr(module, "prepare", signalled)
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = call(*PREPARE)
    finally:
        signal.signal(signal.SIGINT, earlier)
    assert result.status == status
    assert "Traceback" not in result.said


def test_a_defect_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*args: object, **keywords: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(module, "prepare", defect)
    with pytest.raises(ValueError, match="a defect"):
        call(*PREPARE)


@pytest.mark.parametrize(
    ("error", "amount"),
    [
        (MemoryError(), ""),
        (MemoryError("Unable to allocate 7.28 TiB for an array with shape (10,)"), "7.28 TiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 96 bytes."), "96 bytes"),
        (RuntimeError("std::bad_alloc"), ""),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"), "2.00 GiB"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), ""),
    ],
    ids=range(6),
)
@pytest.mark.parametrize("taken_for_damage", [False, True])
def test_out_of_memory_is_a_message(
    error: Exception, amount: str, taken_for_damage: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words of every allocator, also where a reader took them for a damaged file."""

    def fill(*args: object, **keywords: object) -> None:
        if taken_for_damage:
            raise InputError("set.h5: cannot read, it may be damaged") from error
        raise error

    monkeypatch.setattr(module, "prepare", fill)
    result = call(*PREPARE)
    assert result.status == 1
    more = f" (tried to allocate {amount})" if amount else ""
    assert result.err == f"pyfit-gpu: error: out of memory{more}\n"


@pytest.mark.parametrize("error", [RuntimeError("a defect"), OSError("a defect")])
def test_other_errors_of_these_types_keep_their_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*args: object, **keywords: object) -> None:
        raise error

    monkeypatch.setattr(module, "prepare", defect)
    with pytest.raises(type(error), match="a defect"):
        call(*PREPARE)


def test_warnings_go_to_stderr(training_set: None) -> None:
    """With 0.99 of 17 structures nothing is left to validate, which `train` says and goes on."""
    result = done(*TRAIN, "--train-fraction", "0.99", "--quiet")
    assert re.fullmatch(r"warning: .*even, odd\n", result.err)
    assert result.out == ""


def test_energies_far_from_zero_are_worth_a_warning() -> None:
    """Total energies without a shift, or with one of the wrong sign, are seldom meant."""
    far = done(*PREPARE, "--overwrite", "--e-shift", "-5").err
    assert re.search(
        r"^warning: with e_shift, energies are -1\d\d.* --e-shift fit brings them near 0$", far, re.MULTILINE
    )
    assert done(*PREPARE, "--overwrite", "--e-shift", "106", "--quiet").err == ""


@pytest.mark.parametrize("words", [(*PREPARE, "--e-shift", "106"), CONVERT, TRAIN])
def test_quiet(words: tuple[str, ...], training_set: None) -> None:
    result = done(*words, "--quiet", "--overwrite")
    assert (result.out, result.err) == ("", "")
    assert done(*words, "--overwrite").out != ""


def test_off_a_terminal_progress_is_plain_lines(training_set: None) -> None:
    result = done(*TRAIN)
    assert "\r" not in result.said
    assert "\x1b" not in result.said
    assert re.search(r"^training: 1/1 steps.*loss", result.err, re.MULTILINE)


# ---------------------------------------------------------------------------------------------------------------------
# devices


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=0: f"Fake {torch.device('cuda', index).index}")


VERBS_THAT_COMPUTE = [PREPARE, TRAIN, EVALUATE]


@pytest.mark.parametrize("words", VERBS_THAT_COMPUTE, ids=lambda words: words[0])
@pytest.mark.parametrize("device", [("--device", "cuda:7"), ("--device", "cuda"), ("--gpu-affinity", "0")])
def test_a_gpu_without_any_gpu(
    training_set: None, no_gpu: None, words: tuple[str, ...], device: tuple[str, ...]
) -> None:
    if words is PREPARE:
        Path("si.h5").unlink()
    refused(*words, *device, match=r"cuda:\d.*no GPU")


@pytest.mark.parametrize("words", VERBS_THAT_COMPUTE, ids=lambda words: words[0])
@pytest.mark.parametrize("device", [("--device", "cuda:7"), ("--gpu-affinity", "7")])
def test_a_gpu_that_does_not_exist(
    training_set: None, two_gpus: None, words: tuple[str, ...], device: tuple[str, ...]
) -> None:
    if words is PREPARE:
        Path("si.h5").unlink()
    refused(*words, *device, match=r"cuda:7.*cuda:0 \(Fake 0\).*cuda:1 \(Fake 1\)")


def setup_of(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> tuple[Setup, int]:
    """Setup that a verb is called with, and the number of threads at that moment."""
    seen: list[tuple[Setup, int]] = []

    def record(*args: object, setup: Setup, **keywords: object) -> None:
        seen.append((setup, torch.get_num_threads()))

    monkeypatch.setattr(module, "prepare", record)
    done(*PREPARE, *words)
    return seen[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "cuda:0"),
        (("--device", "auto"), "cuda:0"),
        (("--device", "cuda"), "cuda:0"),
        (("--device", "cuda:1"), "cuda:1"),
        (("--gpu-affinity", "1"), "cuda:1"),
        (("--device", "cpu"), "cpu"),
        (("--force-cpu",), "cpu"),
    ],
)
def test_choice_of_the_device(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], expected: str
) -> None:
    assert setup_of(words, monkeypatch)[0].device == torch.device(expected)


def test_auto_without_a_gpu_is_the_cpu(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    setup, _ = setup_of((), monkeypatch)
    assert setup.device == torch.device("cpu")
    assert setup.dtype == torch.float64


def test_precision_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    setup, n_threads = setup_of(("--dtype", "float32", "--n-threads", "2"), monkeypatch)
    assert setup.dtype == torch.float32
    assert n_threads == 2


# `run` chooses as the classic program does

RUN = ("run", "-t", "-s", "si.h5", "-e", "si.nn.dat", "-y", "out.nn.dat", "-i", "0")


def test_run_falls_back_to_the_cpu(training_set: None, no_gpu: None) -> None:
    result = done(*RUN)
    assert "warning" not in result.err


@pytest.mark.parametrize("index", ["0", "3"])
def test_run_falls_back_to_the_cpu_with_a_warning_if_a_gpu_was_asked_for(
    training_set: None, no_gpu: None, index: str
) -> None:
    result = done(*RUN, "--gpu-affinity", index)
    assert re.search(rf"warning: .*gpu_affinity.*{index}.*CPU", result.err)
    assert Path("out.nn.dat").exists()


def test_run_warns_of_a_gpu_in_the_configuration(training_set: None, no_gpu: None) -> None:
    Path("job.json").write_text('{"gpu_affinity": 1}')
    assert "gpu_affinity" in done(*RUN, "--config-file", "job.json").err


def test_run_does_not_warn_where_the_cpu_is_asked_for(training_set: None, no_gpu: None) -> None:
    assert "gpu_affinity" not in done(*RUN, "--gpu-affinity", "0", "--force-cpu").err


def test_run_with_a_gpu_that_does_not_exist(training_set: None, two_gpus: None) -> None:
    refused(*RUN, "--gpu-affinity", "7", match=r"cuda:7.*cuda:0.*cuda:1")


def test_run_on_the_cpu_of_a_machine_with_gpus(training_set: None, two_gpus: None) -> None:
    done(*RUN, "--force-cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_gpu_gives_what_the_cpu_gives() -> None:
    for device in ("cpu", "cuda:0"):
        done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", f"{device}.h5", "--device", device)
        words = ("train", f"{device}.h5", "--potential", "si.nn.dat", "--out", f"{device}.nn.dat", "--steps", "1")
        done(*words, "--device", device)
    for (_, on_cpu), (_, on_gpu) in zip(log_rows("cpu.loss.txt"), log_rows("cuda:0.loss.txt"), strict=True):
        assert on_gpu == pytest.approx(on_cpu, rel=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# the process around it


def test_inputs_never_change(training_set: None) -> None:
    before = snapshot()
    for words in (TRAIN, EVALUATE, CONVERT, ("info", "si.h5"), RUN):
        done(*words, *(() if words[0] == "info" else ("--overwrite",)))
    assert_same_files({name: content for name, content in snapshot().items() if name in before}, before)


def test_names_with_blanks_and_letters_of_any_language() -> None:
    shutil.copy("si.nn.dat", "sí li.nn.dat")
    shutil.copy("si.poscar.dat", "Ünïcode dáta.dat")
    done("prepare", "Ünïcode dáta.dat", "--potential", "sí li.nn.dat", "--out", "set é.h5")
    assert "34" in done("info", "set é.h5").out


def test_a_reader_of_the_output_that_goes_away() -> None:
    command = f"'{sys.executable}' -m pyfit_gpu run -h | head -n 1"
    ended = subprocess.run(
        ["bash", "-c", command], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout.startswith("usage")
    assert ended.stderr == ""
