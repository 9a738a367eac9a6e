"""A page that shows a fit while it runs: loss curves, and the errors of members and groups so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pyfit_gpu.commands.messages import in_options, shown
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.run_file import Run
from pyfit_gpu.log import log
from pyfit_gpu.report.contents import Cell, Fact, Report, Section, Table, number
from pyfit_gpu.report.learning import Curves, learning_section
from pyfit_gpu.report.page import write_page
from pyfit_gpu.training.history import LabelErrors, StepRecord
from pyfit_gpu.training.loss import TERMS

_INTERVAL = 2.0  # s between two pages, at least
_SHARE = 0.02  # of the time that the pages may take
_RELOAD = 5.0  # s after which a browser reads the page again


@dataclass
class _Member:
    """Rows of one member so far."""

    name: str
    loss: dict[int, float] = field(default_factory=dict)
    validation: dict[int, float] = field(default_factory=dict)
    last: StepRecord | None = None
    validated: StepRecord | None = None  # the last row that validates

    @property
    def least_validation(self) -> float | None:
        """The least validation loss that is a number; None: there is none."""
        return min(filter(math.isfinite, self.validation.values()), default=None)

    @property
    def score(self) -> float:
        """Least validation loss, or else the last loss; infinity where that is no number."""
        found = self.least_validation
        if found is None:
            found = list(self.loss.values())[-1] if self.loss else math.inf
        return found if math.isfinite(found) else math.inf


class LivePage:
    """Writes a page every few steps, so rarely that it costs next to no time, and once more at the end."""

    def __init__(
        self,
        path: str,
        title: str,
        numbers: Sequence[int],
        steps: int,
        *,
        earlier: Run | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin a page.

        Args:
            path: file to write; empty: there is no page.
            numbers: of the members.
            steps: of the fit.
            earlier: the run that goes on, whose rows are shown too.
        """
        self.path = path
        self._title = title
        self._steps = steps
        self._clock = clock
        self._started = clock()
        self._next = -math.inf
        names = [f"member {number}" for number in numbers] if len(numbers) > 1 else [""]
        self._members = [_Member(name) for name in names]
        if earlier is not None:
            for one, state in zip(self._members, earlier.state.members, strict=True):
                one.loss = dict(enumerate(state["history"]["loss"]))
                one.validation = {int(step): value for step, value in state["history"]["validation"]}

    def observers(self, member: int) -> list[_LiveRows]:
        return [_LiveRows(self, member)] if self.path else []

    def restart(self, member: int) -> None:
        one = self._members[member]
        self._members[member] = _Member(one.name)

    def add(self, member: int, row: StepRecord) -> None:
        """Take a row, and write the page if it is time to."""
        one = self._members[member]
        if one.last is None:  # rows of the run that goes on, beyond where it goes on, are computed anew
            for curve in (one.loss, one.validation):
                for step in [step for step in curve if step >= row.step]:
                    del curve[step]
        one.loss[row.step], one.last = row.loss, row
        if row.validation is not None:
            one.validation[row.step], one.validated = row.validation, row
        started = self._clock()
        if started >= self._next:
            self._write(reload_seconds=_RELOAD)
            ended = self._clock()
            self._next = ended + max(_INTERVAL, (ended - started) / _SHARE)

    def close(self) -> None:
        """Write the last page, which is not read again."""
        if any(one.loss for one in self._members):
            self._write(reload_seconds=None)

    def _write(self, reload_seconds: float | None) -> None:
        if not self.path:
            return
        try:
            write_page(self._report(running=reload_seconds is not None), self.path, reload_seconds=reload_seconds)
        except InputError as error:  # a fit of hours does not end because nobody can look at it
            log.warning("the live page is not written any more: %s", in_options(error))
            self.path = ""

    def _report(self, *, running: bool) -> Report:
        known = [one for one in self._members if one.loss]
        done = min((max(one.loss) for one in known), default=0)
        best = min(known, key=lambda one: one.score)
        facts = [
            Fact("state", "training" if running else "ended", "plain" if running else "good"),
            Fact("steps", f"{done} of {self._steps}"),
            Fact("time", f"{(self._clock() - self._started) / 60:.1f} min"),
            Fact("loss", f"{number(best.loss[max(best.loss)])} eV/atom", more=best.name),
        ]
        if best.least_validation is not None:
            facts.append(Fact("least validation", f"{number(best.least_validation)} eV/atom", more=best.name))
        curves = [Curves(one.name, one.loss, one.validation) for one in known]
        sections = [learning_section(curves), _error_section(known), _group_section(best)]
        return Report(
            title=f"Training of {self._title}",
            subtitle="rewritten while the fit runs" if running else "the fit has ended",
            facts=tuple(facts),
            sections=tuple(section for section in sections if section is not None),
        )


class _LiveRows:
    """Observer of one member."""

    def __init__(self, page: LivePage, member: int) -> None:
        self._page = page
        self._member = member

    def on_start(self) -> None:
        self._page.restart(self._member)

    def on_step(self, row: StepRecord) -> None:
        self._page.add(self._member, row)


def _error_section(members: Sequence[_Member]) -> Section | None:
    """Make the section of every label's errors, by member and part."""
    rows: list[tuple[Cell, ...]] = []
    for one in members:
        found: list[tuple[str, StepRecord | None, LabelErrors | None]] = [
            ("training", one.last, one.last.errors if one.last else None),
            ("validation", one.validated, one.validated.validation_errors if one.validated else None),
        ]
        for part, row, errors in found:
            if row is not None and errors:
                rows.append((one.name or None, part, row.step, *(errors.get(term.name) for term in TERMS)))
    if not rows:
        return None
    columns = ("member", "part", "step", *(f"{term.name} ({term.unit})" for term in TERMS))
    return Section("Errors of the labels", (), (Table("RMSE", columns, tuple(rows)),))


def _group_section(best: _Member) -> Section | None:
    """Make the section of the best member's energy errors by group."""
    train = best.last.group_errors if best.last else {}
    validation = best.validated.validation_group_errors if best.validated else {}
    groups = sorted({*train, *validation})
    if not groups:
        return None
    rows = tuple((shown(group), train.get(group), validation.get(group)) for group in groups)
    columns = ("group", "training (eV/atom)", "validation (eV/atom)")
    title = f"Energy RMSE{f' of {best.name}' if best.name else ''}"
    return Section("Groups", (), (Table(title, columns, rows),))
