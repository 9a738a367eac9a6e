"""The verbs of the command line: each translates its options to keywords of Python, and imports what it needs then."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from pyfit_gpu.commands.interrupts import signals_are_exceptions
from pyfit_gpu.commands.outcome import printed
from pyfit_gpu.commands.reading import read_options, reading_words
from pyfit_gpu.commands.train_settings import FIT, given_settings, optimizer_of, outputs_of, path_of, split_of


def start_messages(quiet: bool) -> None:
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

    start_messages(options.quiet)
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


def computing_words(options: argparse.Namespace) -> list[str]:
    """Write the options that say where to compute and were given, as words of a command."""
    device = "cpu" if options.force_cpu else options.device
    if options.gpu_affinity is not None:
        device = f"cuda:{options.gpu_affinity}"
    given = {"--device": (device, "auto"), "--n-threads": (options.n_threads, 0), "--dtype": (options.dtype, "float64")}
    return [word for name, (value, default) in given.items() if value != default for word in (name, str(value))]


_NEW = ("cutoff", "gi_mode", "shift", "cutoff_width", "gaussian_width", "legendre_orders", "cross_terms", "n_centers",
        "gaussian_centers", "first_center", "hidden", "activation", "max_random")  # fmt: skip


def _new(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.new import new
    from pyfit_gpu.commands.parsing import parse_triples

    settings = {name: getattr(options, name) for name in _NEW}
    settings["triples"] = None if options.triples is None else parse_triples(options.triples, "--triples")
    new(
        options.elements,
        out=options.out,
        setup=_setup(options),
        structures=options.structures,
        reading=read_options(options),
        pinn=options.pinn,
        **settings,
    )
    return 0


def _e_shift(text: str | None) -> Any:
    from pyfit_gpu.commands.parsing import parse_shift

    return None if text is None else parse_shift(text)


def _fit(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.fit.command import fit
    from pyfit_gpu.commands.fit.request import Request

    setup = _setup(options)
    request = Request(
        tuple(options.dft_files),
        options.out,
        options.time,
        options.members,
        tuple(options.elements or ()),
        options.cutoff,
        tuple(options.test_groups or ()),
        options.seed,
        options.pinn,
        read_options(options),
        tuple(reading_words(options)),
        tuple(computing_words(options)),
        options.quiet,
    )
    return fit(request, setup=setup, run=run_words)


def run_words(words: Sequence[str]) -> int:
    """Run the verb that the first word names, with the others as its options; returns the exit status."""
    from pyfit_gpu.commands.options import build_parser

    _, parsers = build_parser(words[0])
    return VERBS[words[0]](parsers[words[0]].parse_strictly(words[1:]))


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


def _train(options: argparse.Namespace) -> int:
    started = time.monotonic()  # imports count for a time limit
    from pyfit_gpu.commands.parsing import parse_by_group, parse_memory, parse_windows
    from pyfit_gpu.commands.train import options as fit_options
    from pyfit_gpu.commands.train.command import train
    from pyfit_gpu.commands.train.left_open import MAY_BE_OPEN
    from pyfit_gpu.training.settings import FitSettings

    given = given_settings(options, FIT)
    if given.get("l2") == "auto":
        given.setdefault("l2_form", "squared")  # the only form that it can choose
    return train(
        options.training_set,
        start=fit_options.StartOptions(
            tuple(options.potential),
            options.members,
            options.first_member,
            options.weight_seed,
            options.randomize,
            options.baseline,
            options.baseline_starts,
        ),
        outputs=outputs_of(options),
        settings=FitSettings(optimizer=optimizer_of(options, options.optimizer), **given),
        setup=_setup(options),
        split=split_of(options),
        weights=fit_options.WeightOptions(
            parse_by_group(options.group_weight, "--group-weight"),
            parse_windows(options.window_weight, "--window-weight"),
            parse_by_group(options.group_target, "--group-target"),
        ),
        run=fit_options.RunOptions(
            options.resume,
            tuple(options.allow_change),
            options.checkpoint_interval,
            path_of(options, options.stop_file, ".stop"),
            options.distribute,
            started,
            None if options.memory is None else parse_memory(options.memory),
            frozenset(MAY_BE_OPEN) - given.keys(),
        ),
    )


def _plan(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.plan import plan
    from pyfit_gpu.training.settings import FitSettings

    given = given_settings(options, ("force_weight", "stress_weight", "l2"))
    if "l2" in given:
        given["l2_form"] = "squared"  # on which the memory does not depend, and which every optimiser takes
    plan(
        options.training_set,
        potential=options.potential,
        setup=_setup(options),
        members=options.members,
        memory=options.memory,
        settings=FitSettings(optimizer=optimizer_of(options, options.optimizer), **given),
        left_open={"conditioning", "force_weight", "l2", "l2_form", "stress_weight"} - given.keys(),
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
        uncertainty=options.uncertainty,
        forces_uncertainty=options.forces_uncertainty,
        held_out=options.held_out,
    )
    return 0


def _report(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.report_page import parse_parts, report

    return report(
        options.dft_files,
        potential=options.potential,
        training_set=options.training_set,
        out=options.out,
        gate=options.gate,
        references=options.references,
        parts=parse_parts(options.parts),
        e_shift=_e_shift(options.e_shift),
        uncertainty=options.uncertainty,
        setup=_setup(options),
        reading=read_options(options),
    )


def _select(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.select import select

    select(
        options.pool,
        potential=options.potential,
        n=options.n,
        out=options.out,
        setup=_setup(options),
        method=options.method,
        uncertainty=options.uncertainty,
        known=options.known,
        seed=options.seed,
        reading=read_options(options),
    )
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.doctor import STATUS_ERRORS, doctor

    found = doctor(
        options.data,
        setup=_setup(options),
        potential=options.potential,
        cutoff=options.cutoff,
        json_file=options.json,
        write_clean=options.write_clean,
        leave_out=options.leave_out,
        reading=read_options(options),
    )
    return STATUS_ERRORS if found.has_errors else printed()


def _info(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.info import info
    from pyfit_gpu.commands.messages import shown

    start_messages(quiet=False)
    print(shown(info(options.file, reading=read_options(options))))
    return printed()


def _convert(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.convert import convert

    convert(options.source, options.target, setup=_setup(options), reading=read_options(options))
    return 0


def _uncertainty(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.uncertainty import build

    given = {"forces": options.force_weight, "stress": options.stress_weight}
    build(
        options.training_set,
        potential=options.potential,
        out=options.out,
        setup=_setup(options),
        split=split_of(options),
        weights={name: weight for name, weight in given.items() if weight is not None},
        penalty=options.penalty,
        form=options.error_bars,
    )
    return 0


def _lammps(options: argparse.Namespace) -> int:
    return _LAMMPS_TASKS[options.task](options)


def _lammps_build(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.lammps import build

    start_messages(options.quiet)
    build(options.lammps, compiler=options.compiler, flags=options.flags, out=options.out, quiet=options.quiet)
    return printed()


def _lammps_check(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.lammps import check

    start_messages(quiet=False)
    check(options.potential, lammps=options.lammps, plugin=options.plugin)
    return printed()


def _lammps_export(options: argparse.Namespace) -> int:
    from pyfit_gpu.commands.lammps import export

    start_messages(options.quiet)
    export(
        options.potential,
        out=options.out,
        structures=options.structures,
        lammps=options.lammps,
        plugin=options.plugin,
        reading=read_options(options),
        overwrite=options.overwrite,
        quiet=options.quiet,
    )
    return 0


_LAMMPS_TASKS: dict[str, Callable[[argparse.Namespace], int]] = {
    "build": _lammps_build,
    "check": _lammps_check,
    "export": _lammps_export,
}

VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "fit": _fit,
    "new": _new,
    "prepare": _prepare,
    "train": _train,
    "plan": _plan,
    "evaluate": _evaluate,
    "report": _report,
    "select": _select,
    "doctor": _doctor,
    "info": _info,
    "convert": _convert,
    "uncertainty": _uncertainty,
    "lammps": _lammps,
}
