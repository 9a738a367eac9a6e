"""Sections about errors: by group, with parity plots; the worst structures; what the set holds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyfit_gpu.report.contents import Cell, Plot, Section, Series, Table, Value, number
from pyfit_gpu.report.evaluated import Errors, Evaluated, Label, errors_by
from pyfit_gpu.structures.cells import FloatArray

MOST_POINTS = 20_000  # of a plot, in the JSON
OTHERS = "others"  # structures that are not known to have trained, validated or tested
_N_WORST = 12  # structures that are listed, for each label
_OUTLIER = 8.0  # times the median of |error| of its label; of a normal distribution 1 in 10^7 lies so far out


def error_values(found: Evaluated) -> list[Value]:
    """Errors by label: of all structures, of each part of the split, and of each group."""
    values = []
    for label in found.known_labels:
        kinds: list[tuple[str, Errors]] = [("", Errors.of(label.errors))]
        if any(found.parts):
            kinds += [(part or OTHERS, own) for part, own in errors_by(found.parts, label.errors).items()]
        kinds += [(f"group {group}", errors) for group, errors in errors_by(found.groups, label.errors).items()]
        for of, errors in kinds:
            for name, value in (("rmse", errors.rmse), ("mae", errors.mae), ("largest", errors.largest)):
                values.append(Value(f"{label.name}-{name}", value, label.error_unit, of))
    return values


def error_section(found: Evaluated) -> Section:
    """Make the section of errors by part and group, with a parity plot of every label."""
    labels = found.known_labels
    if not labels:
        return Section("Errors", ("The structures have no energies, forces or stress to compare with.",))
    tables = [_parts_table(found)] if any(found.parts) else []
    tables += [_group_table(found, label) for label in labels]
    plots = [parity_plot(found, label) for label in labels]
    if labels[0].name == "energy":
        plots.insert(1, _residual_plot(found, labels[0]))
    missing = [
        f"{sum(not len(known) for known in label.known)} of {len(found)} structures have no reference {label.name}."
        for label in found.labels
        if not all(len(known) for known in label.known)
    ]
    return Section("Errors", tuple(missing), tuple(tables), tuple(plots))


_PARTS = ("training", "validation", "test", "")


def _parts_table(found: Evaluated) -> Table:
    """Errors of what trained beside those of what did not."""
    rows: list[tuple[Cell, ...]] = []
    for part in sorted(set(found.parts), key=lambda part: _PARTS.index(part) if part in _PARTS else len(_PARTS)):
        for label in found.known_labels:
            errors = errors_by(found.parts, label.errors).get(part)
            if errors is not None:
                rows.append((part or OTHERS, label.name, *_cells(errors), label.error_unit))
    return Table(
        "Structures that trained, and others",
        ("part", "label", "structures", "RMSE", "MAE", "largest", "unit"),
        tuple(rows),
        note="How well a potential predicts what it has not seen shows in the errors of validation and test. "
        "Others are structures of files beside the set, and those without an energy.",
    )


def _group_table(found: Evaluated, label: Label) -> Table:
    rows = [(group, *_cells(errors)) for group, errors in errors_by(found.groups, label.errors).items()]
    foot = (("all", *_cells(Errors.of(label.errors))),)
    columns = ("group", "structures", "RMSE", "MAE", "largest")
    per = "" if label.name == "energy" else ", per component"
    return Table(f"Errors of {_plural(label.name)} ({label.error_unit}{per})", columns, tuple(rows), foot)


def _cells(errors: Errors) -> tuple[Cell, ...]:
    return errors.n_structures, errors.rmse, errors.mae, errors.largest


def _plural(name: str) -> str:
    return {"energy": "energies"}.get(name, name)


def parity_plot(found: Evaluated, label: Label) -> Plot:
    """Plot predicted against known values; each point names its structure."""
    known = [len(values) > 0 for values in label.known]
    plot = Plot(
        f"parity_{label.name}",
        f"{_plural(label.name).capitalize()}: RMSE {number(Errors.of(label.errors).rmse)} {label.error_unit}",
        f"reference {label.name} ({label.unit})",
        f"predicted {label.name} ({label.unit})",
        grouped_series(found, label.known, label.found, keep=known, of_atoms=label.name == "forces"),
        diagonal=True,
    )
    return plot.thinned(MOST_POINTS)


def _residual_plot(found: Evaluated, label: Label) -> Plot:
    """Plot errors against the known values, where parity hides small ones."""
    known = [len(values) > 0 for values in label.known]
    series = grouped_series(found, label.known, label.errors, keep=known)
    plot = Plot(
        f"error_{label.name}",
        f"Errors of {_plural(label.name)}",
        f"reference {label.name} ({label.unit})",
        f"predicted - reference ({label.error_unit})".replace(" - ", " − "),
        series,
    )
    return plot.thinned(MOST_POINTS)


def grouped_series(
    found: Evaluated,
    x: Sequence[FloatArray],
    y: Sequence[FloatArray],
    *,
    keep: Sequence[bool],
    of_atoms: bool = False,
) -> tuple[Series, ...]:
    """Series of each look, from flat components of every structure, which may be three of each atom."""
    legend = found.legend
    series = []
    for look, groups in legend.gathered().items():
        rows = [row for row, group in enumerate(found.groups) if legend.looks[group] == look and keep[row]]
        if rows:
            xs, ys = (np.concatenate([values[row] for row in rows]).tolist() for values in (x, y))
            names = [name for row in rows for name in component_names(found.names[row], len(x[row]), of_atoms=of_atoms)]
            series.append(Series(legend.label(groups[0]), tuple(xs), tuple(ys), tuple(names), look=look))
    return tuple(series)


_STRESS = ("xx", "yy", "zz", "yz", "xz", "xy")


def component_names(name: str, count: int, *, of_atoms: bool) -> list[str]:
    """Names of a structure's components: one energy, three forces of each atom, or six of the stress."""
    if of_atoms:
        return [f"{name}, atom {k // 3 + 1}, {'xyz'[k % 3]}" for k in range(count)]
    return [name] if count == 1 else [f"{name}, {axes}" for axes in _STRESS]


def worst_section(found: Evaluated) -> Section | None:
    """Make the section of the structures with the largest errors, and say how many are outliers."""
    rows: list[tuple[Cell, ...]] = []
    text = []
    for label in found.known_labels:
        largest = np.array([np.abs(errors).max() if len(errors) else np.nan for errors in label.errors])
        median = float(np.median(np.abs(np.concatenate([errors for errors in label.errors if len(errors)]))))
        order = [row for row in np.argsort(-np.nan_to_num(largest, nan=-1.0), kind="stable") if largest[row] >= 0]
        for row in order[:_N_WORST]:
            times = largest[row] / median if median > 0 else np.nan
            rows.append((found.names[row], found.groups[row], label.name, float(largest[row]), label.error_unit,
                         float(times), found.parts[row] or None))  # fmt: skip
        n_outliers = int((largest > _OUTLIER * median).sum())
        text.append(f"{label.name.capitalize()}: {n_outliers} of {len(order)} structures have an error above "
                    f"{_OUTLIER:g} times the median of {number(median, 3)} {label.error_unit}.")  # fmt: skip
    if not rows:
        return None
    columns: tuple[str, ...] = ("structure", "group", "label", "largest error", "unit", "times the median", "part")
    if not any(found.parts):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Section("Worst structures", tuple(text), (Table("Largest errors", columns, tuple(rows)),))


def data_section(found: Evaluated) -> Section:
    """Make the section of what the structures are: numbers, labels and ranges by group."""
    energy, forces = found.label("energy"), found.label("forces")
    rows: list[tuple[Cell, ...]] = []
    groups = np.array(found.groups, dtype=object)
    for group in sorted(set(found.groups)):
        own = np.flatnonzero(groups == group).tolist()
        energies = [float(energy.known[row][0]) for row in own if len(energy.known[row])]
        volumes = [float(found.volume_per_atom[row]) for row in own if found.volume_per_atom[row] > 0]
        largest = [float(np.abs(forces.known[row]).max()) for row in own if len(forces.known[row])]
        labels = [sum(len(label.known[row]) > 0 for row in own) for label in found.labels]
        ends = [value for values in (energies, volumes) for value in _ends(values)]
        rows.append((group, len(own), int(found.n_atoms[own].sum()), *labels, *ends, max(largest, default=None)))
    columns = ("group", "structures", "atoms", *(f"with {label.name}" for label in found.labels),
               "lowest energy (eV/atom)", "highest (eV/atom)", "smallest volume (Å³/atom)", "largest (Å³/atom)",
               "largest force (eV/Å)")  # fmt: skip
    total = f"{len(found)} structures, {int(found.n_atoms.sum())} atoms in {len(rows)} groups."
    return Section("Data", (total,), (Table("Structures by group", columns, tuple(rows)),), _energy_volume(found))


def _ends(values: Sequence[float]) -> tuple[float | None, float | None]:
    return min(values, default=None), max(values, default=None)


def _energy_volume(found: Evaluated) -> tuple[Plot, ...]:
    energy = found.label("energy")
    keep = [len(known) > 0 and volume > 0 for known, volume in zip(energy.known, found.volume_per_atom, strict=True)]
    if not any(keep):
        return ()
    volumes = [np.array([volume]) for volume in found.volume_per_atom.tolist()]
    series = grouped_series(found, volumes, energy.known, keep=keep)
    plot = Plot("energy_volume", "Energy against volume", "volume (Å³/atom)", "reference energy (eV/atom)", series)
    return (plot.thinned(MOST_POINTS),)
