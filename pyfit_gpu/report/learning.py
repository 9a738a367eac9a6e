"""Learning curves: loss and errors of every member against the step, from a run file or from logs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyfit_gpu.report.contents import Plot, Section, Series, Table

_MOST_STEPS = 1500  # of a curve
_MOST_POINTS = 40_000  # of all curves together
_MOST_MEMBERS = 8  # that the legend names; more members share one look per part


_STOPPED = "The training was stopped before it had ended: with more time the errors may become smaller."


@dataclass(frozen=True)
class Curves:
    """Learning curves of one member."""

    name: str  # "member 3"; empty: there is only one
    loss: Mapping[int, float]  # step: eV/atom, on the training structures
    validation: Mapping[int, float]
    status: str = ""
    kept_step: int | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether the training would have gone on."""
        return self.status == "running"

    @classmethod
    def of_history(cls, name: str, history: Mapping[str, Any]) -> Curves:
        """Read the curves of a member in a run file (docs/formats/run_file.md)."""
        validation = {int(step): value for step, value in history["validation"]}
        return cls(name, dict(enumerate(history["loss"])), validation, history["status"], history["kept_step"])

    @classmethod
    def of_logs(cls, name: str, loss: str, validation: str = "") -> Curves:
        """Read the curves from the text of a loss log and a validation log (docs/formats/logs.md)."""
        return cls(name, _rows(loss), _rows(validation))


def _rows(text: str) -> dict[int, float]:
    """Step and first number of each row; a last row that is being written may lack them."""
    found = {}
    for line in text.splitlines():
        cells = line.split()
        if len(cells) > 1 and cells[0].isdecimal():
            found[int(cells[0])] = float(cells[1])
    return found


def learning_section(members: Sequence[Curves]) -> Section | None:
    """Make the section of learning curves, with a table of how each member ended."""
    members = [member for member in members if member.loss]
    if not members:
        return None
    series = []
    most = max(20, min(_MOST_STEPS, _MOST_POINTS // (2 * len(members))))
    for k, member in enumerate(members):
        for part, curve in (("training", member.loss), ("validation", member.validation)):
            label, look = _look(k, member, part, many=len(members) > _MOST_MEMBERS)
            series.append(_series(label, curve, look, most))
    plot = Plot("learning", "Learning curves", "step", "loss (eV/atom)", tuple(one for one in series if one.x),
                log_y=True)  # fmt: skip
    rows = tuple(_row(member) for member in members)
    stopped = [member for member in members if member.is_stopped]
    text = (_STOPPED,) if stopped else ()
    columns = ("member", "steps", "training loss (eV/atom)", "validation loss (eV/atom)", "least validation (eV/atom)",
               "at step", "kept step", "ended by")  # fmt: skip
    return Section("Training", text, (Table("Members", columns, rows),), (plot,))


def _look(k: int, member: Curves, part: str, *, many: bool) -> tuple[str, int]:
    validates = part == "validation"
    if many:
        return (part if k == 0 else "", int(validates))
    return (f"{member.name}, {part}" if member.name else part, 2 * k + int(validates))


def _series(label: str, curve: Mapping[int, float], look: int, most: int) -> Series:
    """Line without the numbers that a logarithmic axis cannot show, and not more than a reader can see."""
    points = [(float(step), value) for step, value in sorted(curve.items()) if math.isfinite(value) and value > 0]
    stride = max(1, math.ceil(len(points) / most))
    kept = [point for k, point in enumerate(points) if k % stride == 0 or k == len(points) - 1]
    return Series(label, tuple(x for x, _ in kept), tuple(y for _, y in kept), line=True, look=look)


def _row(member: Curves) -> tuple[str | float | int | None, ...]:
    last = max(member.loss)
    finite = {step: value for step, value in member.validation.items() if math.isfinite(value)}
    least = min(finite, key=lambda step: finite[step]) if finite else None
    return (
        member.name or "the only one",
        last,
        member.loss[last],
        member.validation[max(member.validation)] if member.validation else None,
        None if least is None else finite[least],
        least,
        member.kept_step,
        "its time, or a stop" if member.is_stopped else member.status or None,
    )
