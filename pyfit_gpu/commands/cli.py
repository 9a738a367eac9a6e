"""The command line. It only translates: options to keywords, exceptions to messages and exit statuses.

Heavy modules are imported when a verb runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from pyfit_gpu.commands.interrupts import (
    STATUS_SIGINT,
    STATUS_SIGTERM,
    Terminated,
    signals_are_exceptions,
    signals_end_the_process,
)
from pyfit_gpu.commands.options import STATUS_USAGE, Parser, build_parser
from pyfit_gpu.commands.outcome import guarded, printed
from pyfit_gpu.commands.reading import read_options
from pyfit_gpu.commands.streams import tolerant_streams
from pyfit_gpu.locks import release_held


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    with tolerant_streams(), signals_end_the_process():
        return _run(words)


def _run(words: list[str]) -> int:
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return STATUS_SIGINT
    except Terminated:
        print("terminated", file=sys.stderr)
        return STATUS_SIGTERM
    except SystemExit as end:  # argparse's: a fault, or help that was printed
        if end.code:
            raise
        return printed()
    finally:
        release_held()


def _dispatch(words: list[str]) -> int:
    # A first word that is an option means the classic job, except for --help, --version and a lone -h.
    is_option = bool(words) and words[0].startswith("-")
    without_verb = is_option and words[0] not in ("--help", "--version") and words != ["-h"]
    if without_verb or words[:1] == ["run"]:
        return guarded(lambda: _run_classic(words if without_verb else words[1:]))
    parser, verbs = build_parser(words[0] if words else "")
    if not words:
        parser.print_help()
        return STATUS_USAGE
    if words[0] not in verbs:
        # argparse handles --help and --version, and refuses anything else
        parser.parse_args(words)
    options = verbs[words[0]].parse_strictly(words[1:])
    return guarded(lambda: _VERBS[words[0]](options))


def _start_messages(quiet: bool) -> None:
    """Begin the work proper: everything heavy is imported, so signals may be exceptions from here on."""
    signals_are_exceptions()
    from pyfit_gpu.commands.messages import OptionsFormatter
    from pyfit_gpu.log import log

    log.handlers.clear()
    log.propagate = False
    log.setLevel(logging.INFO)
    plain = logging.StreamHandler(sys.stdout)
    plain.setFormatter(OptionsFormatter("%(message)s"))
    plain.addFilter(lambda record: record.levelno < logging.WARNING and not quiet)
    warnings = logging.StreamHandler(sys.stderr)
    warnings.setLevel(logging.WARNING)
    warnings.setFormatter(OptionsFormatter("warning: %(message)s"))
    log.addHandler(plain)
    log.addHandler(warnings)


def _setup(options: argparse.Namespace) -> Any:
    from pyfit_gpu.commands.jobs import Setup
    from pyfit_gpu.devices import select_device, select_dtype, set_threads, share_device, world_size

    _start_messages(options.quiet)
    set_threads(options.n_threads)
    if options.force_cpu:
        request = "cpu"
    elif options.gpu_affinity is not None:
        request = f"cuda:{options.gpu_affinity}"
    else:
        request = options.device
    if request == "auto" and world_size() > 1:
        request = share_device()
    return Setup(
        device=select_device(request),
        dtype=select_dtype(options.dtype),
        overwrite=options.overwrite,
        unique=options.unique,
        quiet=options.quiet,
    )


_NEW = ("gi_mode", "shift", "cutoff_width", "gaussian_width", "legendre_orders", "n_centers", "gaussian_centers",
        "hidden", "activation", "max_random")  # fmt: skip


def _new(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.new import new

    settings = {name: getattr(options, name) for name in _NEW}
    new(options.elements, cutoff=options.cutoff, out=options.out, setup=_setup(options), **settings)
    return 0


def _e_shift(text: str | None) -> Any:
    from pyfit_gpu.commands.parsing import parse_shift

    return None if text is None else parse_shift(text)


def _prepare(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.prepare import prepare

    prepare(
        options.dft_files,
        potential=options.potential,
        out=options.out,
        setup=_setup(options),
        e_shift=_e_shift(options.e_shift),
        append=options.append,
        shard=options.shard,
        unique_structures=options.unique_structures,
        reading=read_options(options),
    )
    return 0


_FIT = ("steps", "learning_rate_ramp", "l2", "force_weight", "stress_weight", "error_restart_level",
        "validation_interval", "patience", "min_improvement", "target_rmse", "max_time", "keep")  # fmt: skip


def _optimizer(options: argparse.Namespace) -> Any:
    """Settings of the optimiser; those without an option of the verb keep their defaults."""
    from dataclasses import fields

    from pyfit_gpu.optimizers.known import OPTIMIZERS

    kind = OPTIMIZERS["lbfgs"]
    given = {one.name: getattr(options, one.name) for one in fields(kind) if hasattr(options, one.name)}
    return kind(**given)


def _train(options: argparse.Namespace) -> int:
    started = time.monotonic()  # imports count for a time limit
    from pyfit_gpu.commands.parsing import parse_by_group, parse_memory, parse_windows
    from pyfit_gpu.commands.train import options as fit_options
    from pyfit_gpu.commands.train.command import train
    from pyfit_gpu.training.settings import FitSettings

    return train(
        options.training_set,
        start=fit_options.StartOptions(
            tuple(options.potential), options.members, options.first_member, options.weight_seed, options.randomize
        ),
        outputs=_training_outputs(options),
        settings=FitSettings(optimizer=_optimizer(options), **{name: getattr(options, name) for name in _FIT}),
        setup=_setup(options),
        split=fit_options.SplitOptions(
            options.split,
            options.train_fraction,
            options.seed,
            None if options.test_groups is None else tuple(options.test_groups),
            tuple(options.validation),
            tuple(options.test),
            read_options(options),
        ),
        weights=fit_options.WeightOptions(
            parse_by_group(options.group_weight, "--group-weight"),
            parse_windows(options.window_weight, "--window-weight"),
            parse_by_group(options.group_target, "--group-target"),
        ),
        run=fit_options.RunOptions(
            options.resume,
            tuple(options.allow_change),
            options.checkpoint_interval,
            _beside(options, options.stop_file, ".stop"),
            options.distribute,
            started,
            None if options.memory is None else parse_memory(options.memory),
        ),
    )


def _training_outputs(options: argparse.Namespace) -> Any:
    from pyfit_gpu.commands.train.outputs import TrainingOutputs

    return TrainingOutputs(
        network=options.out,
        loss_log=_beside(options, options.loss_log, ".loss.txt"),
        validation_log=_beside(options, options.validation_log, ".validation.txt"),
        group_log=_beside(options, options.group_log, ".groups.csv"),
        energy_volume_log=options.energy_volume_log,
        energy_volume_interval=options.energy_volume_interval,
        backup_dir=_beside(options, options.backup_dir, ".backup"),
        backup_interval=options.backup_interval,
        run_file=_beside(options, options.run_file, ".run.h5"),
        ranking=_beside(options, options.ranking, ".ranking.csv"),
    )


def _beside(options: argparse.Namespace, name: str | None, ending: str) -> str:
    """Name that was given, or the output's stem with this ending."""
    from pyfit_gpu.commands.train.outputs import beside

    return beside(options.out, ending) if name is None else name


def _plan(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.plan import plan
    from pyfit_gpu.training.settings import FitSettings

    settings = FitSettings(
        optimizer=_optimizer(options), force_weight=options.force_weight, stress_weight=options.stress_weight
    )
    plan(
        options.training_set,
        potential=options.potential,
        setup=_setup(options),
        members=options.members,
        memory=options.memory,
        settings=settings,
    )
    return printed()


def _evaluate(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.evaluate import evaluate

    evaluate(
        options.dft_files,
        potential=options.potential,
        out=options.out,
        setup=_setup(options),
        e_shift=_e_shift(options.e_shift),
        forces=options.forces,
        plots=options.plots,
        reading=read_options(options),
    )
    return 0


def _info(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.info import info
    from pyfit_gpu.commands.messages import shown

    _start_messages(quiet=False)
    print(shown(info(options.file, reading=read_options(options))))
    return printed()


def _convert(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.convert import convert

    convert(options.source, options.target, setup=_setup(options), reading=read_options(options))
    return 0


_VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "new": _new,
    "prepare": _prepare,
    "train": _train,
    "plan": _plan,
    "evaluate": _evaluate,
    "info": _info,
    "convert": _convert,
}


def _run_classic(words: list[str]) -> int:
    from pyfit_gpu.commands.classic.options import classic_help, parse_classic

    help_word = _help_request(words)
    if help_word is not None:
        print(classic_help(help_word))
        return printed()
    config, options = parse_classic(words, Parser)
    from pyfit_gpu.commands.classic.job import run_classic
    from pyfit_gpu.devices import select_dtype, set_threads

    _start_messages(options.quiet)
    set_threads(config.thread_count)
    return run_classic(config, gpu_given=options.gpu_given, dtype=select_dtype(options.dtype), quiet=options.quiet)


def _help_request(words: list[str]) -> str | None:
    """Word after `-h` or `--help`, empty if there is none; None: no help asked for."""
    for place, word in enumerate(words):
        if word in ("-h", "--help"):
            return words[place + 1] if len(words) > place + 1 else ""
    return None
