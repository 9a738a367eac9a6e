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
    outputs: tuple[str, ...] = ()  # files and folders; what an earlier one left of them is removed, but by training
    is_check: bool = False  # its exit status says something of the data, not whether it has worked
    is_optional: bool = False  # what it needs may be missing: other programs, structures that do not train


def stages(request: Request, layout: Layout, chosen: Mapping[str, Any], seconds: float) -> list[Stage]:
    """The stages in their order.

    Args:
        chosen: settings found from the data: `hidden` layers, and options of `training`.
        seconds: that are left for training.
    """
    start, own_set, split = layout.path("start.nn.dat"), layout.path("set.h5"), ("--split", SPLIT)
    errors, diagnosis = layout.path("errors.csv"), layout.path("doctor.json")
    report, lammps = layout.path("report"), layout.path("lammps")
    data, members = (*request.data, *request.reading_words), ("--potential", *layout.members)

    new = ("new", "--structures", *data, *_new(request, chosen), "--out", start)
    doctor = ("doctor", *data, "--potential", start, "--json", diagnosis)
    prepare = ("prepare", *data, "--potential", start, "--e-shift", "fit", "--out", own_set)
    train: tuple[str, ...] = ("train", own_set, "--potential", start, "--out", layout.best, *split)
    train += ("--members", str(request.members), "--seed", str(request.seed))
    train += (*_option("--test-groups", request.test_groups), *chosen["training"])
    train += ("--steps", str(STEPS), "--patience", str(PATIENCE), "--max-time", f"{max(seconds, 1):.0f}s")
    train += ("--backup-interval", "0", "--resume")
    build = ("uncertainty", "build", own_set, "--potential", layout.best, *layout.members, *split)
    evaluate = ("evaluate", own_set, "--held-out", SPLIT, *members, "--out", errors, "--forces")
    page = ("report", *members, "--set", own_set, "--out", report)
    export = ("lammps", "export", *layout.members, "--out", lammps, "--structures", own_set)

    computing, quiet = request.computing_words, ("--quiet",) if request.quiet else ()
    everywhere = (*computing, *quiet)
    return [
        Stage("potential", (*new, *quiet), (start,)),
        Stage("doctor", (*doctor, *everywhere), (diagnosis,), is_check=True),
        Stage("set", (*prepare, *everywhere), (own_set,)),
        Stage(TRAINING, (*train, *everywhere), (layout.best, *layout.members)),
        Stage("uncertainty", (*build, *everywhere), tuple(layout.uncertainties)),
        Stage("errors", (*evaluate, *everywhere), (errors,), is_optional=True),
        Stage("report", (*page, *everywhere), (report,)),
        Stage("lammps", (*export, *quiet), (lammps,), is_optional=True),
    ]


def _new(request: Request, chosen: Mapping[str, Any]) -> tuple[str, ...]:
    cutoff = () if request.cutoff is None else ("--cutoff", str(request.cutoff))
    return (*_option("--elements", request.elements), *cutoff, *_option("--hidden", map(str, chosen["hidden"])))


def _option(name: str, values: Any) -> tuple[str, ...]:
    values = tuple(values)
    return (name, *values) if values else ()
