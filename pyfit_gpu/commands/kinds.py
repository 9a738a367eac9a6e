"""Kinds of files that only the command line knows: logs and tables that the verbs write, the classic configuration."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyfit_gpu.commands.report import COLUMNS
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.kinds import FileKind

_LOG_ROW = re.compile(r"\s*\d+( +[-+\dnia][-+.\deEnaif]*)+\s*")


@dataclass(frozen=True, eq=False, kw_only=True)
class CommandKind(FileKind):
    """A file that no command reads; `info` says what is in it."""

    describe: Callable[[Path], list[str]]  # a few lines; reads the file whole


def _configuration(path: Path) -> list[str]:
    from pyfit_gpu.commands.classic.config import load_classic_config  # pydantic, which takes its time

    config = load_classic_config(path)
    tasks = [name for name in ("generate_training_set", "run_training") if getattr(config, name)]
    changed = {name: value for name, value in config if value != type(config).model_fields[name].default}
    return [
        f"tasks         {', '.join(tasks) or 'none'}",
        *(f"{name} = {value!r}" for name, value in changed.items() if name not in tasks),
    ]


def _energy_volume(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    steps = [line.split()[0] for line in lines[1:]]
    saved = f"{len(steps)} saved, {steps[0]} to {steps[-1]}" if steps else "none saved"
    return [f"structures    {len(lines[0].split()) - 1}", f"steps         {saved}"]


def _error_log(path: Path) -> list[str]:
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    try:
        errors = [(float(row[1]), int(row[0])) for row in rows]
    except (ValueError, IndexError):
        raise InputError(f"{path}: expected rows of a step and an error, found something else") from None
    best, step = min(errors)
    lines = [
        f"rows          {len(errors)}, steps {errors[0][1]} to {errors[-1][1]}",
        f"error         {errors[0][0]:.6g} to {errors[-1][0]:.6g} eV/atom, least {best:.6g} at step {step}",
    ]
    labels = (("energy", "eV/atom"), ("forces", "eV/Å"), ("stress", "eV/Å^3"))
    for (label, unit), value in zip(labels, rows[-1][2:], strict=False):
        if value != "nan":
            lines.append(f"{label:<13} RMSE {float(value):.6g} {unit} in the last row")
    return lines


def _energy_table(path: Path) -> list[str]:
    return [f"structures    {len(path.read_text(encoding='utf-8').splitlines()) - 1}"]


def _group_log(path: Path) -> list[str]:
    """The last row of each part, eV/atom."""
    names, rows = _table(path)
    lines = [f"groups        {len(names) - 2}"]
    for step, part, *errors in {row[1]: row for row in rows}.values():
        found = ", ".join(f"{name} {_number(cell, path):.4g}" for name, cell in zip(names[2:], errors, strict=True))
        lines.append(f"{part:<13} step {_number(step, path):.0f}: {found} eV/atom")
    return lines


def _ranking(path: Path) -> list[str]:
    """The best three."""
    names, rows = _table(path)
    lines = [f"members       {len(rows)}"]
    for row in (dict(zip(names, cells, strict=True)) for cells in rows[:3]):
        score = _number(row["score"], path)
        lines.append(f"rank {row['rank']:<8} member {row['member']}, score {score:.4e} eV/atom, {row['network']}")
    return lines


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Column names and rows.

    Raises:
        InputError: a row that has not a cell for every column.
    """
    with open(path, encoding="utf-8", newline="") as file:
        names, *rows = csv.reader(file)
    for number, row in enumerate(rows, 2):
        if len(row) != len(names):
            raise InputError(f"{path}: row {number}: expected {len(names)} cells, found {len(row)}")
    return names, rows


def _number(cell: str, path: Path) -> float:
    try:
        return float(cell)
    except ValueError:
        raise InputError(f"{path}: expected a number, found {cell!r}") from None


def _is_error_log(head: Head) -> bool:
    """Step and loss; then nothing, or the errors of three labels."""
    first = head.lines[0] if head.lines else ""
    return _LOG_ROW.fullmatch(first) is not None and len(first.split()) in (2, 5)


CLASSIC_CONFIG = CommandKind(
    title="classic configuration",
    sniff=lambda head: head.begins_with("{", "//", "/*"),
    describe=_configuration,
)
ENERGY_VOLUME_LOG = CommandKind(
    title="energy-volume log",
    sniff=lambda head: head.begins_with("training_index"),
    describe=_energy_volume,
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
    describe=_group_log,
)
RANKING = CommandKind(
    title="ranking of members",
    sniff=lambda head: head.begins_with("rank,member,"),
    describe=_ranking,
)
ERROR_LOG = CommandKind(title="loss or validation log", sniff=_is_error_log, describe=_error_log)

COMMAND_KINDS = (CLASSIC_CONFIG, ENERGY_VOLUME_LOG, ENERGY_TABLE, GROUP_LOG, RANKING, ERROR_LOG)
