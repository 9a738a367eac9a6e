"""Errors as tables, tables as files, and plots."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyfit_gpu.files import atomic_path, atomic_text

FloatArray = NDArray[np.float64]

COLUMNS = ("index", "group", "n_atoms", "volume_per_atom", "energy_per_atom", "reference_energy_per_atom")


@dataclass(frozen=True, eq=False)
class EnergyTable:
    """Predicted and reference energies of structures, on the network's scale."""

    groups: tuple[str, ...]  # (B,)
    n_atoms: NDArray[np.int64]  # (B,)
    volume_per_atom: FloatArray  # (B,) Å^3
    energy_per_atom: FloatArray  # (B,) eV/atom, predicted
    reference_energy_per_atom: FloatArray  # (B,) eV/atom, NaN where unknown

    @property
    def error(self) -> FloatArray:
        """(B,) eV/atom, NaN where there is no reference."""
        return self.energy_per_atom - self.reference_energy_per_atom


def save_csv(table: EnergyTable, path: str | os.PathLike[str]) -> None:
    """A row per structure; the reference is empty where unknown. Numbers come back bit for bit."""
    rows = zip(
        table.groups,
        table.n_atoms.tolist(),
        table.volume_per_atom.tolist(),
        table.energy_per_atom.tolist(),
        table.reference_energy_per_atom.tolist(),
        strict=True,
    )
    with atomic_text(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for index, (group, n_atoms, volume, energy, reference) in enumerate(rows):
            known = "" if np.isnan(reference) else repr(reference)
            writer.writerow([index, group, n_atoms, repr(volume), repr(energy), known])


def error_report(table: EnergyTable, sources: Sequence[str], n_worst: int = 5) -> str:
    """RMSE, MAE and largest error in all and per group, and the worst structures, in meV/atom."""
    known = ~np.isnan(table.error)
    n_unknown = int((~known).sum())
    lines = []
    if known.any():
        names = sorted({group for group, is_known in zip(table.groups, known, strict=True) if is_known})
        group_of = np.array(table.groups)
        width = max(len("group"), *(len(name) for name in names))
        lines.append(f"{'group':<{width}} {'structures':>10} {'RMSE':>10} {'MAE':>10} {'largest':>10}   meV/atom")
        chosen = [(name, known & (group_of == name)) for name in names]
        for name, rows in [*chosen, ("all", known)]:
            error = 1000 * table.error[rows]
            rmse = float(np.sqrt(np.mean(error**2)))
            mae, largest = float(np.mean(np.abs(error))), float(np.max(np.abs(error)))
            lines.append(f"{name:<{width}} {len(error):>10} {rmse:>10.3f} {mae:>10.3f} {largest:>10.3f}")
        lines += ["", "worst structures (predicted - reference, meV/atom):"]
        order = np.argsort(-np.abs(np.where(known, table.error, 0.0)), kind="stable")
        for row in order[: min(n_worst, int(known.sum()))]:
            lines.append(f"{1000 * table.error[row]:>10.3f}  {table.groups[row]:<{width}}  {sources[row]}")
    if n_unknown:
        lines.append(f"{n_unknown} of {len(known)} structures have no reference energy")
    return "\n".join(lines)


def plot_parity(table: EnergyTable, path: str | os.PathLike[str]) -> None:
    """Predicted against reference energy per atom, and the error below, as PNG."""
    known = ~np.isnan(table.error)
    figure = _figure(5.0, 6.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    reference = table.reference_energy_per_atom[known]
    predicted = table.energy_per_atom[known]
    if len(reference):
        ends = [min(reference.min(), predicted.min()), max(reference.max(), predicted.max())]
        upper.plot(ends, ends, color="0.6", linewidth=1, zorder=0)
        rmse = 1000 * float(np.sqrt(np.mean((predicted - reference) ** 2)))
        upper.set_title(f"{len(reference)} structures, RMSE {rmse:.2f} meV/atom", fontsize=10)
    for name, rows in _by_group(table, known):
        upper.scatter(table.reference_energy_per_atom[rows], table.energy_per_atom[rows], s=12, label=name)
        lower.scatter(table.reference_energy_per_atom[rows], 1000 * table.error[rows], s=8)
    lower.axhline(0.0, color="0.6", linewidth=1, zorder=0)
    upper.set_ylabel("network energy (eV/atom)")
    lower.set_ylabel("error (meV/atom)")
    lower.set_xlabel("reference energy (eV/atom)")
    _legend(upper, table)
    _save(figure, path)


def plot_energy_volume(table: EnergyTable, path: str | os.PathLike[str]) -> None:
    """Energy against volume per atom, reference as points and network as lines, per group, as PNG."""
    figure = _figure(6.4, 4.8)
    axes = figure.subplots()
    everything = np.ones(len(table.groups), dtype=bool)
    for name, rows in _by_group(table, everything):
        order = rows[np.argsort(table.volume_per_atom[rows], kind="stable")]
        (line,) = axes.plot(table.volume_per_atom[order], table.energy_per_atom[order], linewidth=1)
        axes.scatter(
            table.volume_per_atom[order],
            table.reference_energy_per_atom[order],
            s=12,
            color=line.get_color(),
            label=name,
        )
    axes.set_xlabel("volume (Å³/atom)")
    axes.set_ylabel("energy (eV/atom)")
    axes.set_title("reference: points, network: lines", fontsize=10)
    _legend(axes, table)
    _save(figure, path)


def _by_group(table: EnergyTable, chosen: NDArray[np.bool_]) -> list[tuple[str, NDArray[np.int64]]]:
    group_of = np.array(table.groups)
    return [(name, np.flatnonzero(chosen & (group_of == name))) for name in sorted(set(group_of[chosen].tolist()))]


def _figure(width: float, height: float):  # type: ignore[no-untyped-def]
    # Without pyplot there is no display and no state: a figure of our own, drawn by the PNG backend.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _legend(axes, table: EnergyTable) -> None:  # type: ignore[no-untyped-def]
    if 1 < len(set(table.groups)) <= 16:
        axes.legend(fontsize=7, ncols=2)


def _save(figure, path: str | os.PathLike[str]) -> None:  # type: ignore[no-untyped-def]
    with atomic_path(path) as temporary:
        figure.savefig(Path(temporary), format="png", dpi=150)
