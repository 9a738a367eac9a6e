"""The stages of a fit, each a command of another verb."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyfit_gpu.commands.fit.layout import SPLIT, Layout
from pyfit_gpu.commands.fit.request import Request

STEPS = 100_000  # more than any time is enough for
PATIENCE = 60  # steps without a better validation; one of LBFGS has ten iterations
TRAINING = "training"


@dataclass(frozen=True)
class Stage:
    """One command, and what it leaves."""

    name: str
    words: tuple[str, ...]
    outputs: tuple[str, ...] = ()  # files and folders; what an earlier, killed one left of them is removed
    is_check: bool = False  # its exit status says something of the data, not whether it has worked
    is_optional: bool = False  # it needs programs that need not be there


def stages(request: Request, layout: Layout, chosen: Mapping[str, Any], seconds: float) -> list[Stage]:
    """The stages in their order.

    Args:
        chosen: see `choose`.
        seconds: that are left for training.
    """
    start, training_set = layout.path("start.nn.dat"), layout.path("set.h5")
    computing = request.computing_words
    quiet = ("--quiet",) if request.quiet else ()
    split = ("--split", SPLIT)
    errors, diagnosis = layout.path("errors.csv"), layout.path("doctor.json")
    found = [
        Stage("potential", ("new", "--structures", *_data(request), *_new(request, chosen), "--out", start), (start,)),
        Stage(
            "doctor",
            ("doctor", *_data(request), "--potential", start, "--json", diagnosis, *computing),
            (diagnosis,),
            is_check=True,
        ),
        Stage(
            "set",
            ("prepare", *_data(request), "--potential", start, "--e-shift", "fit", "--out", training_set, *computing),
            (training_set,),
        ),
        Stage(
            TRAINING,
            (
                "train",
                training_set,
                "--potential",
                start,
                "--out",
                layout.best,
                "--members",
                str(request.members),
                *split,
                "--seed",
                str(request.seed),
                *_option("--test-groups", request.test_groups),
                *chosen["training"],
                "--steps",
                str(STEPS),
                "--patience",
                str(PATIENCE),
                "--max-time",
                f"{max(seconds, 1):.0f}s",
                "--backup-interval",
                "0",
                "--resume",
                *computing,
            ),
        ),
        Stage(
            "uncertainty",
            ("uncertainty", "build", training_set, "--potential", layout.best, *layout.members, *split, *computing),
            tuple(layout.uncertainties),
        ),
        Stage(
            "errors",
            (
                "evaluate",
                training_set,
                "--held-out",
                SPLIT,
                "--potential",
                *layout.members,
                "--out",
                errors,
                "--forces",
                *computing,
            ),
            (errors,),
        ),
        Stage(
            "report",
            (
                "report",
                "--potential",
                *layout.members,
                "--set",
                training_set,
                "--out",
                layout.path("report"),
                *computing,
            ),
            (layout.path("report"),),
        ),
        Stage(
            "lammps",
            ("lammps", "export", *layout.members, "--out", layout.path("lammps"), "--structures", training_set),
            (layout.path("lammps"),),
            is_optional=True,
        ),
    ]
    return [Stage(one.name, (*one.words, *quiet), one.outputs, one.is_check, one.is_optional) for one in found]


def _data(request: Request) -> tuple[str, ...]:
    return (*request.data, *request.reading_words)


def _new(request: Request, chosen: Mapping[str, Any]) -> tuple[str, ...]:
    cutoff = () if request.cutoff is None else ("--cutoff", f"{request.cutoff:g}")
    return (*_option("--elements", request.elements), *cutoff, *_option("--hidden", map(str, chosen["hidden"])))


def _option(name: str, values: Any) -> tuple[str, ...]:
    values = tuple(values)
    return (name, *values) if values else ()
