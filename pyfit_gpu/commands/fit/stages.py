"""The stages of a fit, each a command of another verb."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyfit_gpu.commands.fit.layout import SPLIT, Layout, Trained
from pyfit_gpu.commands.fit.request import Request
from pyfit_gpu.training.loss import weighted_terms

STEPS = 100_000  # more than any time is enough for
BASELINE_STARTS = 3  # which mostly end alike, and together take the time of many steps
PATIENCE = 60  # steps without a better validation; one of LBFGS has ten iterations
ENERGIES, TRAINING = "energies", "training"  # stages that train
_ENERGIES_SHARE = 1 / 2  # of the time at most, for training on energies alone, the baseline's fit included


@dataclass(frozen=True)
class Stage:
    """One command, and what it leaves."""

    name: str
    words: tuple[str, ...]
    outputs: tuple[str, ...] = ()  # files and folders; what an earlier one left of them is removed, but by training
    trained: Trained | None = None  # what it trains
    is_check: bool = False  # its exit status says something of the data, not whether it has worked
    is_optional: bool = False  # what it needs may be missing: other programs, structures that do not train


def stages(
    request: Request, layout: Layout, chosen: Mapping[str, Any], spent: Mapping[str, float] | None = None
) -> list[Stage]:
    """The stages in their order.

    Args:
        chosen: settings found from the data, see `choose`.
        spent: s of `request.seconds`, by stage; where it says nothing of training on energies, that takes its share.
    """
    start, own_set, split = layout.path("start.nn.dat"), layout.path("set.h5"), ("--split", SPLIT)
    errors, diagnosis = layout.path("errors.csv"), layout.path("doctor.json")
    report, lammps = layout.path("report"), layout.path("lammps")
    data, fitted = (*request.data, *request.reading_words), layout.trained
    members = ("--potential", *fitted.members)
    shift = "atomisation" if request.pinn else "fit"

    new = ("new", "--structures", *data, *_new(request, chosen), "--out", start)
    doctor = ("doctor", *data, "--potential", start, "--json", diagnosis)
    prepare = ("prepare", *data, "--potential", start, "--e-shift", shift, "--out", own_set)
    build = ("uncertainty", "build", own_set, "--potential", fitted.best, *fitted.members, *split)
    evaluate = ("evaluate", own_set, "--held-out", SPLIT, *members, "--out", errors, "--forces")
    page = ("report", *members, "--set", own_set, "--out", report)
    export = ("lammps", "export", *fitted.members, "--out", lammps, "--structures", own_set)

    everywhere, quiet = _everywhere(request), _quiet(request)
    return [
        Stage("potential", (*new, *quiet), (start,)),
        Stage("doctor", (*doctor, *everywhere), (diagnosis,), is_check=True),
        Stage("set", (*prepare, *everywhere), (own_set,)),
        *_trainings(request, layout, chosen, spent or {}),
        Stage("uncertainty", (*build, *everywhere), tuple(layout.uncertainties)),
        Stage("errors", (*evaluate, *everywhere), (errors,), is_optional=True),
        Stage("report", (*page, *everywhere), (report,)),
        Stage("lammps", (*export, *quiet), (lammps,), is_optional=True),
    ]


def _trainings(request: Request, layout: Layout, chosen: Mapping[str, Any], spent: Mapping[str, float]) -> list[Stage]:
    """Training; before it, where forces cost many times as much as energies, training on energies alone."""
    start: tuple[str, ...] = (layout.path("start.nn.dat"),)
    start += ("--baseline", "fit", "--baseline-starts", str(BASELINE_STARTS)) if request.pinn else ()
    seconds = request.seconds - spent.get(TRAINING, 0.0)
    found = []
    if chosen["energies_first"]:
        share, own = _ENERGIES_SHARE * request.seconds, layout.energies
        no_other = (word for term in weighted_terms() for word in (f"--{term.weight_name.replace('_', '-')}", "0"))
        alone = (*start, *no_other)
        found.append(_training(ENERGIES, alone, own, request, layout, chosen, share - spent.get(ENERGIES, 0.0)))
        start, seconds = tuple(own.members), seconds - spent.get(ENERGIES, share)
    return [*found, _training(TRAINING, start, layout.trained, request, layout, chosen, seconds)]


def _training(
    name: str,
    start: tuple[str, ...],
    trained: Trained,
    request: Request,
    layout: Layout,
    chosen: Mapping[str, Any],
    seconds: float,
) -> Stage:
    """One training, of potentials to start from and more words about them."""
    words = ("train", layout.path("set.h5"), "--potential", *start, "--out", trained.best, "--split", SPLIT)
    words += ("--members", str(request.members), "--seed", str(request.seed))
    words += (*_option("--test-groups", request.test_groups), *chosen["training"])
    words += ("--steps", str(STEPS), "--patience", str(PATIENCE), "--max-time", f"{max(seconds, 1):.0f}s")
    words += ("--backup-interval", "0", "--resume", *_everywhere(request))
    return Stage(name, words, (trained.best, *trained.members), trained=trained)


def _everywhere(request: Request) -> tuple[str, ...]:
    """Words of every command that computes."""
    return (*request.computing_words, *_quiet(request))


def _quiet(request: Request) -> tuple[str, ...]:
    return ("--quiet",) if request.quiet else ()


def _new(request: Request, chosen: Mapping[str, Any]) -> tuple[str, ...]:
    cutoff = () if request.cutoff is None else ("--cutoff", str(request.cutoff))
    kind = ("--pinn",) if request.pinn else ()
    return (*kind, *_option("--elements", request.elements), *cutoff, *_option("--hidden", map(str, chosen["hidden"])))


def _option(name: str, values: Any) -> tuple[str, ...]:
    values = tuple(values)
    return (name, *values) if values else ()
