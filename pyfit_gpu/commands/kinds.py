"""Kinds of files that only the command line knows: logs and tables that the verbs write, the classic configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyfit_gpu.commands.fit.record import FORMAT as FIT_FORMAT
from pyfit_gpu.commands.fit.record import Record
from pyfit_gpu.commands.report import COLUMNS
from pyfit_gpu.commands.train.logs import (
    LossLog,
    describe_energy_volume_log,
    describe_error_log,
    describe_group_log,
)
from pyfit_gpu.commands.train.row_file import read_table, read_text
from pyfit_gpu.commands.train.summary import describe_ranking
from pyfit_gpu.doctor.findings import FORMAT as DIAGNOSIS_FORMAT
from pyfit_gpu.errors import InputError, how_many
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
        *(f"grade         {symbol}: {n} training atoms in {how_many(count, 'cluster')}" for symbol, n, count in rows),
        *([] if found.error_bars is None else _error_bars(found.error_bars)),
    ]


def _error_bars(bars: ErrorBars) -> list[str]:
    return [f"error bars    of {len(bars.root)} parameters, {bars.form}"] + [
        f"              {label}: "
        + (f"calibrated on {own.n_values} validation values" if own.is_calibrated else "not calibrated")
        for label, own in bars.calibrations.items()
    ]


def _is_json(name: str) -> Callable[[Head], bool]:
    """Make a function that recognises our own JSON of a format, in one line or in many."""
    return lambda head: "".join(head.lines[:2]).startswith(f'{{"format": "{name}"')


def _from_json(what: str, describe: Callable[[Any], list[str]]) -> Callable[[Path], list[str]]:
    """Make a function that describes a file of JSON from its content."""

    def read(path: Path) -> list[str]:
        try:
            return describe(json.loads(read_text(path)))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{path}: expected the JSON of {what}, found something else: {error}") from error

    return read


def _report(content: Any) -> list[str]:
    """Lines about the numbers of a report."""
    values = {f"{one['name']}{one['of'] and ' of '}{one['of']}": one for one in content["values"]}
    sections = [section["title"] for section in content["sections"]]
    lines = [f"about         {content['title']}, {content['subtitle']}", f"sections      {', '.join(sections)}"]
    for name in ("energy-rmse", "forces-rmse", "stress-rmse", "energy-rmse of validation", "energy-rmse of test"):
        if name in values and values[name]["value"] is not None:
            lines.append(f"{name}  {values[name]['value']:.4g} {values[name]['unit']}")
    limits = content["violations"]
    return lines if limits is None else [*lines, f"limits        {len(limits)} broken"]


def _diagnosis(content: Any) -> list[str]:
    """Lines about what `doctor` found."""
    about = content["summary"]
    return [
        f"data          {how_many(about['structures'])}, {how_many(about['atoms'], 'atom')} of "
        f"{' '.join(about['elements'])}, {how_many(len(about['files']), 'file')}",
        f"found         {', '.join(how_many(n, severity) for severity, n in about['findings'].items())}",
        *(
            f"{one['number']:<13d} {one['severity']}: {one['kind']}, {how_many(len(one['frames']))}"
            for one in content["findings"]
        ),
    ]


def _fit(path: Path) -> list[str]:
    record = Record.load(str(path))
    try:
        return record.describe()
    except (LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected the record of a fit, found a damaged one: {error}") from error


REPORT = CommandKind(
    title="numbers of a report",
    sniff=_is_json("pyfit-gpu report"),
    describe=_from_json("a report", _report),
)
DIAGNOSIS = CommandKind(
    title="what doctor found",
    sniff=_is_json(DIAGNOSIS_FORMAT),
    describe=_from_json("doctor", _diagnosis),
)
FIT = CommandKind(
    title="record of a fit",
    sniff=_is_json(FIT_FORMAT),
    describe=_fit,
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

COMMAND_KINDS = (UNCERTAINTY, REPORT, DIAGNOSIS, FIT, CLASSIC_CONFIG, ENERGY_VOLUME_LOG, ENERGY_TABLE, GROUP_LOG,
                 RANKING, ERROR_LOG)  # fmt: skip
