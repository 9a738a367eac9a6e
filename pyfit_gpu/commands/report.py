"""Reports of errors: tables for the terminal, tables as files, and plots."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyfit_gpu.commands.messages import shown
from pyfit_gpu.commands.train.row_file import table_row
from pyfit_gpu.files import atomic_text
from pyfit_gpu.report.looks import MARKERS, Legend, colour_of, marker_of
from pyfit_gpu.report.pictures import new_figure, save_figure
from pyfit_gpu.structures.cells import FloatArray

COLUMNS = ("index", "group", "n_atoms", "volume_per_atom", "energy_per_atom", "reference_energy_per_atom")

# Titles of what `spread_report` reports, and the noun for one.
MEMBERS = ("spread of the members", "spread")
ERROR_BARS = ("error bars", "error bar")

_LONGEST_LABEL = 40  # characters of a group's name in a legend
_ROUNDING = 1e-6  # of a grade: that of an atom at the edge of the training set is 1 up to rounding


@dataclass(frozen=True, eq=False)
class EnergyTable:
    """Predicted and reference energies of structures, on the network's scale."""

    groups: tuple[str, ...]  # (B,)
    n_atoms: NDArray[np.int64]  # (B,)
    volume_per_atom: FloatArray  # (B,) Å^3
    energy_per_atom: FloatArray  # (B,) eV/atom, predicted
    reference_energy_per_atom: FloatArray  # (B,) eV/atom, NaN where unknown
    energy_per_atom_std: FloatArray | None = None  # (B,) eV/atom, over members; None: there is only one
    energy_per_atom_uncertainty: FloatArray | None = None  # (B,) eV/atom, error bars; None: there are none
    highest_grade: FloatArray | None = None  # (B,) highest extrapolation grade of the atoms; None: not known
    highest_grade_atom: NDArray[np.int64] | None = None  # (B,) which atom of the structure has it, counted from 1

    @property
    def more_columns(self) -> dict[str, list[str]]:
        """Cells of the columns that not every table has, by name."""
        columns = {
            "energy_per_atom_std": self.energy_per_atom_std,
            "energy_per_atom_uncertainty": self.energy_per_atom_uncertainty,
            "highest_grade": self.highest_grade,
            "highest_grade_atom": self.highest_grade_atom,
        }
        return {name: list(map(repr, values.tolist())) for name, values in columns.items() if values is not None}

    @property
    def error(self) -> FloatArray:
        """(B,) eV/atom, NaN where there is no reference."""
        return self.energy_per_atom - self.reference_energy_per_atom


def save_csv(table: EnergyTable, path: str | os.PathLike[str]) -> None:
    """Write a row per structure; the reference is empty where unknown. Numbers are read back bit for bit.

    With several members there is one more column, energy_per_atom_std; with error bars there is
    energy_per_atom_uncertainty; with extrapolation grades there are two.
    """
    more = table.more_columns
    rows = zip(
        table.groups,
        table.n_atoms.tolist(),
        table.volume_per_atom.tolist(),
        table.energy_per_atom.tolist(),
        table.reference_energy_per_atom.tolist(),
        strict=True,
    )
    with atomic_text(path) as file:
        file.write(table_row([*COLUMNS, *more]))
        for index, (group, n_atoms, volume, energy, reference) in enumerate(rows):
            known = "" if np.isnan(reference) else repr(reference)
            cells = [values[index] for values in more.values()]
            file.write(table_row([index, group, n_atoms, repr(volume), repr(energy), known, *cells]))


def error_report(table: EnergyTable, sources: Sequence[str], n_worst: int = 5) -> str:
    """Report RMSE, MAE and largest error in all and by group, and the worst structures, in meV/atom."""
    known = ~np.isnan(table.error)
    n_unknown = int((~known).sum())
    lines = []
    errors = [1000 * table.error[row : row + 1] if is_known else _NONE for row, is_known in enumerate(known)]
    if known.any():
        lines += _error_table(table.groups, errors, "meV/atom", 3)
        lines += ["", "worst structures (predicted - reference, meV/atom):"]
        width = _name_width(table.groups, known)
        order = np.argsort(-np.abs(np.where(known, table.error, 0.0)), kind="stable")
        for row in order[: min(n_worst, int(known.sum()))]:
            lines.append(f"{1000 * table.error[row]:>10.3f}  {table.groups[row]:<{width}}  {sources[row]}")
    if n_unknown:
        lines.append(f"{n_unknown} of {len(known)} structures have no reference energy")
    if table.energy_per_atom_std is not None:
        lines += ["", spread_report("structures", "meV/atom", list(1000 * table.energy_per_atom_std[:, None]), errors)]
    if table.energy_per_atom_uncertainty is not None:
        own = list(1000 * table.energy_per_atom_uncertainty[:, None])
        lines += ["", spread_report("structures", "meV/atom", own, errors, what=ERROR_BARS)]
    return "\n".join(lines)


def component_report(label: str, unit: str, groups: Sequence[str], errors: Sequence[FloatArray]) -> str:
    """Report errors of a label with components, forces or stress, as a table.

    Args:
        groups: (B,), group of each structure.
        errors: errors of each structure's components, in `unit`; empty where there is no reference.
    """
    n_unknown = sum(len(error) == 0 for error in errors)
    lines = ["", f"{label}:"]
    if n_unknown < len(errors):
        lines += _error_table(groups, errors, f"{unit}, per component", 4)
    if n_unknown:
        lines.append(f"{n_unknown} of {len(errors)} structures have no reference {label}")
    return "\n".join(lines)


def spread_report(
    things: str,
    unit: str,
    spreads: Sequence[FloatArray],
    errors: Sequence[FloatArray],
    digits: int = 3,
    what: tuple[str, str] = MEMBERS,
) -> str:
    """Report how far members disagree, or how large error bars are, and whether they are so where errors are.

    Args:
        things: name of the things that have a spread: structures, components.
        spreads: spreads of each structure, in `unit`, NaN where there is none.
        errors: errors of each structure in the same order, in `unit`; empty where there is no reference.
        what: the spreads' title, and the noun for one.
    """
    title, noun = what
    every = np.concatenate(list(spreads))
    every = every[~np.isnan(every)]
    if not len(every):
        return f"{title}: no {things} have one"
    text = f"{title}: mean {every.mean():.{digits}f}, largest {every.max():.{digits}f} {unit}"
    known = [(spread, np.abs(error)) for spread, error in zip(spreads, errors, strict=True) if len(error)]
    if not known:
        return text
    spread, error = (np.concatenate(parts) for parts in zip(*known, strict=True))
    shares = [f"{np.mean(error <= count * spread):.0%}" for count in (1, 2)]
    within = f"1 {noun} for {shares[0]}, within 2 for {shares[1]}" if what != MEMBERS else f"2 {noun}s for {shares[1]}"
    text += f"\nerror within {within} of {len(error)} {things}"
    correlation = _rank_correlation(spread, error)
    if correlation is not None:
        text += f"; rank correlation of {noun} and |error| {correlation:.2f} (1: the same order, 0: unrelated)"
    return text


def grade_report(grades: FloatArray, groups: Sequence[str], places: Mapping[int, str]) -> str:
    """Report how many structures lie outside of the training set, and the farthest ones.

    Args:
        grades: (B,), highest grade of each structure's atoms.
        places: the structures to be listed, by row in the order of the list: which atom of them it is, and why.
    """
    outside = int((grades > 1 + _ROUNDING).sum())
    lines = ["", f"extrapolation grade (1: edge of the training set): {outside} of {len(grades)} structures are above"]
    width = max(len("group"), *(len(groups[row]) for row in places))
    lines += ["highest grades:"]
    lines += [f"{grades[row]:>10.3f}  {groups[row]:<{width}}  {place}" for row, place in places.items()]
    return "\n".join(lines)


def _rank_correlation(first: FloatArray, second: FloatArray) -> float | None:
    """Spearman's rank correlation, equal values sharing their mean rank; None for less than 3 pairs or a constant."""

    def ranks(values: FloatArray) -> FloatArray:
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        return (np.cumsum(counts) - (counts - 1) / 2)[place]

    first_ranks, second_ranks = ranks(first), ranks(second)
    if len(first) < 3 or np.ptp(first_ranks) == 0 or np.ptp(second_ranks) == 0:
        return None
    return float(np.corrcoef(first_ranks, second_ranks)[0, 1])


_NONE = np.empty(0)


def _name_width(groups: Sequence[str], known: Sequence[bool] | NDArray[np.bool_]) -> int:
    return max(len("group"), *(len(name) for name, is_known in zip(groups, known, strict=True) if is_known))


def _error_table(groups: Sequence[str], errors: Sequence[FloatArray], unit: str, digits: int) -> list[str]:
    """Lines of a table: one for each group that has errors, and one for all."""
    known = [len(error) > 0 for error in errors]
    width = _name_width(groups, known)
    lines = [f"{'group':<{width}} {'structures':>10} {'RMSE':>10} {'MAE':>10} {'largest':>10}   {unit}"]
    by_group: dict[str, list[FloatArray]] = {}
    for name, error, is_known in zip(groups, errors, known, strict=True):
        if is_known:
            by_group.setdefault(name, []).append(error)
    every = [error for error in errors if len(error)]
    for name, members in [*sorted(by_group.items()), ("all", every)]:
        error = np.concatenate(members)
        rmse, mae, largest = np.sqrt(np.mean(error**2)), np.mean(np.abs(error)), np.max(np.abs(error))
        columns = " ".join(f"{value:>10.{digits}f}" for value in (rmse, mae, largest))
        lines.append(f"{name:<{width}} {len(members):>10} {columns}")
    return lines


def plot_parity(table: EnergyTable, path: str | os.PathLike[str]) -> None:
    """Plot predicted against reference energy per atom, with the errors below, as PNG."""
    known = ~np.isnan(table.error)
    figure = new_figure(5.0, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    reference = table.reference_energy_per_atom[known]
    predicted = table.energy_per_atom[known]
    if len(reference):
        ends = [min(reference.min(), predicted.min()), max(reference.max(), predicted.max())]
        upper.plot(ends, ends, color="0.6", linewidth=1, zorder=0)
        rmse = 1000 * float(np.sqrt(np.mean((predicted - reference) ** 2)))
        upper.set_title(f"{len(reference)} structures, RMSE {rmse:.2f} meV/atom", fontsize=10)
    legend = _legend_of(table, known)
    for look, rows in _by_look(table, known, legend):
        style = {"color": colour_of(look), "marker": MARKERS[marker_of(look)], "linewidths": 0}
        upper.scatter(table.reference_energy_per_atom[rows], table.energy_per_atom[rows], s=14, **style,
                      label=_label(legend.label(table.groups[rows[0]])))  # fmt: skip
        lower.scatter(table.reference_energy_per_atom[rows], 1000 * table.error[rows], s=10, **style)
    lower.axhline(0.0, color="0.6", linewidth=1, zorder=0)
    upper.set_ylabel("network energy (eV/atom)")
    lower.set_ylabel("error (meV/atom)")
    lower.set_xlabel("reference energy (eV/atom)")
    _draw_legend(upper)
    save_figure(figure, path)


def plot_energy_volume(table: EnergyTable, path: str | os.PathLike[str]) -> None:
    """Plot energy against volume per atom by group, reference as points and network as lines, as PNG.

    Lines are drawn for groups in which the volume tells the structures apart (crystals under strain). The axes are
    scaled to these, and structures outside are counted in the title. Other groups are shown as pale points.
    """
    figure = new_figure(6.4, 4.8)
    axes = figure.subplots()
    groups = _by_group(table, np.ones(len(table.groups), dtype=bool))
    curves = {name for name, rows in groups if _is_curve(table.volume_per_atom[rows])}
    legend = _legend_of(table, np.isin(np.array(table.groups), sorted(curves)))
    labelled: set[str] = set()
    for name, rows in groups:
        order = rows[np.argsort(table.volume_per_atom[rows], kind="stable")]
        volume, reference = table.volume_per_atom[order], table.reference_energy_per_atom[order]
        if name in curves:
            look, label = legend.looks[name], legend.label(name)
            axes.plot(volume, table.energy_per_atom[order], linewidth=1, color=colour_of(look))
            axes.scatter(volume, reference, s=14, color=colour_of(look), marker=MARKERS[marker_of(look)], linewidths=0,
                         label=None if label in labelled else _label(label))  # fmt: skip
            labelled.add(label)
        else:
            axes.scatter(volume, reference, s=4, color="0.8", zorder=0)
    shown = [row for name, rows in groups if name in curves or not curves for row in rows]
    n_outside = 0
    for values, limit in ((table.volume_per_atom, axes.set_xlim), (table.energy_per_atom, axes.set_ylim)):
        low, high = values[shown].min(), values[shown].max()
        margin = 0.05 * (high - low) or 1.0
        limit(low - margin, high + margin)
        n_outside = max(n_outside, int(((values < low - margin) | (values > high + margin)).sum()))
    outside = f"; {n_outside} structures lie outside" if n_outside else ""
    axes.set_title(f"reference: points, network: lines{outside}", fontsize=10)
    axes.set_xlabel("volume (Å³/atom)")
    axes.set_ylabel("energy (eV/atom)")
    _draw_legend(axes)
    save_figure(figure, path)


def _is_curve(volumes: FloatArray) -> bool:
    """Whether there are at least three structures whose volumes all differ by more than half a percent."""
    ordered = np.sort(volumes)
    return len(ordered) >= 3 and bool(np.all(np.diff(ordered) > 0.005 * ordered[:-1]))


def _by_group(table: EnergyTable, chosen: NDArray[np.bool_]) -> list[tuple[str, NDArray[np.int64]]]:
    group_of = np.array(table.groups)
    return [(name, np.flatnonzero(chosen & (group_of == name))) for name in sorted(set(group_of[chosen].tolist()))]


def _legend_of(table: EnergyTable, chosen: NDArray[np.bool_]) -> Legend:
    return Legend.of(name for name, is_chosen in zip(table.groups, chosen, strict=True) if is_chosen)


def _by_look(table: EnergyTable, chosen: NDArray[np.bool_], legend: Legend) -> list[tuple[int, NDArray[np.int64]]]:
    """Rows of the groups that share a look."""
    group_of = np.array(table.groups)
    return [(look, np.flatnonzero(chosen & np.isin(group_of, names))) for look, names in legend.gathered().items()]


def _label(group: str) -> str:
    """Label of a group; the blank lets it begin with `_`, which would leave it out of the legend."""
    return f" {shown(group)[:_LONGEST_LABEL]}"


def _draw_legend(axes) -> None:  # type: ignore[no-untyped-def]
    if axes.get_legend_handles_labels()[1]:
        for text in axes.legend(fontsize=7, ncols=2).get_texts():
            text.set(text=text.get_text().strip(), parse_math=False)  # a $ is a letter of the name
