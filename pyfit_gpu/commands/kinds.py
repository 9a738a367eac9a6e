"""Kinds of files that only the command line knows: logs and tables that the verbs write, the classic configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyfit_gpu.commands.report import COLUMNS
from pyfit_gpu.commands.train.logs import (
    LossLog,
    describe_energy_volume_log,
    describe_error_log,
    describe_group_log,
)
from pyfit_gpu.commands.train.row_file import read_table, read_text
from pyfit_gpu.commands.train.summary import describe_ranking
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.kinds import FileKind
from pyfit_gpu.formats.uncertainty_file import load_uncertainty, looks_like_uncertainty
from pyfit_gpu.models.error_bars import ErrorBars
from pyfit_gpu.training.loss import TERMS


@dataclass(frozen=True, eq=False, kw_only=True)
class CommandKind(FileKind):
    """A kind of file that no verb but `info` reads."""

    describe: Callable[[Path], list[str]]  # gives a few lines about a file, which is read as a whole


def _configuration(path: Path) -> list[str]:
    from pyfit_gpu.commands.classic.config import load_classic_config  # pydantic, which takes its time

    config = load_classic_config(path)
    tasks = [name for name in ("generate_training_set", "run_training") if getattr(config, name)]
    changed = {name: value for name, value in config if value != type(config).model_fields[name].default}
    return [
        f"tasks         {', '.join(tasks) or 'none'}",
        *(f"{name} = {value!r}" for name, value in changed.items() if name not in tasks),
    ]


def _energy_table(path: Path) -> list[str]:
    return [f"structures    {len(read_table(path)[1])}"]


def _is_error_log(head: Head) -> bool:
    """Whether the first row has step and loss, then nothing or the errors of all labels."""
    first = head.lines[0] if head.lines else ""
    return LossLog.FIRST_LINE.match(first) is not None and len(first.split()) in (2, 2 + len(TERMS))


def _uncertainty(path: Path) -> list[str]:
    found = load_uncertainty(path)
    counts = [int((found.grade.element == number).sum()) for number in range(len(found.elements))]
    atoms = [int(found.grade.n_atoms[found.grade.element == number].sum()) for number in range(len(found.elements))]
    rows = zip(found.elements, atoms, counts, strict=True)
    return [
        f"potential     checksum {found.checksum:08x}, {found.grade.n_inputs} inputs",
        *(
            f"grade         {symbol}: {n} training atoms in {count} cluster{'' if count == 1 else 's'}"
            for symbol, n, count in rows
        ),
        *([] if found.error_bars is None else _error_bars(found.error_bars)),
    ]


def _error_bars(bars: ErrorBars) -> list[str]:
    return [f"error bars    of {len(bars.root)} parameters, {bars.form}"] + [
        f"              {label}: "
        + (f"calibrated on {own.n_values} validation values" if own.is_calibrated else "not calibrated")
        for label, own in bars.calibrations.items()
    ]


_REPORT = '{"format": "pyfit-gpu report"'


def _report(path: Path) -> list[str]:
    """Lines about the numbers of a report."""
    try:
        content = json.loads(read_text(path))
        values = {f"{one['name']}{one['of'] and ' of '}{one['of']}": one for one in content["values"]}
        sections = [section["title"] for section in content["sections"]]
        lines = [f"about         {content['title']}, {content['subtitle']}", f"sections      {', '.join(sections)}"]
        for name in ("energy-rmse", "forces-rmse", "stress-rmse", "energy-rmse of validation", "energy-rmse of test"):
            if name in values:
                lines.append(f"{name}  {values[name]['value']:.4g} {values[name]['unit']}")
        limits = content["violations"]
        return lines if limits is None else [*lines, f"limits        {len(limits)} broken"]
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path}: expected the JSON of a report, found something else: {error}") from error


REPORT = CommandKind(
    title="numbers of a report",
    sniff=lambda head: head.begins_with(_REPORT),
    describe=_report,
)
CLASSIC_CONFIG = CommandKind(
    title="classic configuration",
    sniff=lambda head: head.begins_with("{", "//", "/*"),
    describe=_configuration,
)
ENERGY_VOLUME_LOG = CommandKind(
    title="energy-volume log",
    sniff=lambda head: head.begins_with("training_index"),
    describe=describe_energy_volume_log,
)
ENERGY_TABLE = CommandKind(
    title="table of energies (evaluate)",
    sniff=lambda head: head.begins_with(",".join(COLUMNS[:2]) + ","),
    describe=_energy_table,
    endings=(".csv",),
)
GROUP_LOG = CommandKind(
    title="log of errors by group",
    sniff=lambda head: head.begins_with("step,part,"),
    describe=describe_group_log,
)
RANKING = CommandKind(
    title="ranking of members",
    sniff=lambda head: head.begins_with("rank,member,"),
    describe=describe_ranking,
)
ERROR_LOG = CommandKind(title="loss or validation log", sniff=_is_error_log, describe=describe_error_log)

UNCERTAINTY = CommandKind(
    title="uncertainty file of a potential",
    sniff=looks_like_uncertainty,
    describe=_uncertainty,
    endings=(".uncertainty.txt",),
)

COMMAND_KINDS = (UNCERTAINTY, REPORT, CLASSIC_CONFIG, ENERGY_VOLUME_LOG, ENERGY_TABLE, GROUP_LOG, RANKING, ERROR_LOG)
