"""Numbers of a report against NumPy and SciPy, which know nothing of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from report_samples import GROUPS, SIZES, make_evaluated
from scipy.stats import norm

from pyfit_gpu.report.contents import Section, Table, Value
from pyfit_gpu.report.error_sections import data_section, error_section, error_values, parity_plot, worst_section
from pyfit_gpu.report.evaluated import Evaluated, Label
from pyfit_gpu.report.spread_sections import calibration_section, calibration_values, grade_section, grade_values

LABELS = ("energy", "forces", "stress")
STRESS = ("xx", "yy", "zz", "yz", "xz", "xy")


def errors_of(found: Evaluated, name: str, rows: list[int]) -> np.ndarray:
    label = found.label(name)
    return label.factor * np.concatenate([label.found[row] - label.known[row] for row in rows if len(label.known[row])])


def value_of(values: list[Value], full_name: str) -> Value:
    (one,) = [value for value in values if value.full_name == full_name]
    return one


def table_of(section: Section | None, title: str) -> Table:
    assert section is not None
    (one,) = [table for table in section.tables if table.title.startswith(title)]
    return one


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("unknown", [(), (2, 4)])
def test_errors(name: str, unknown: tuple[int, ...]) -> None:
    found = make_evaluated(unknown=unknown)
    values = error_values(found)
    kinds = {f" of group {group}": [k for k in range(6) if GROUPS[k] == group] for group in "abc"}
    for of, rows in {"": list(range(6)), **kinds}.items():
        error = errors_of(found, name, rows)
        assert value_of(values, f"{name}-rmse{of}").value == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-12)
        assert value_of(values, f"{name}-mae{of}").value == pytest.approx(np.mean(np.abs(error)), rel=1e-12)
        assert value_of(values, f"{name}-largest{of}").value == np.abs(error).max()
    assert value_of(values, "energy-rmse").unit == "meV"


def test_errors_of_the_parts() -> None:
    parts = ("training", "training", "validation", "test", "training", "")
    found = make_evaluated(parts=parts)
    values = error_values(found)
    for part in ("training", "validation", "test", "others"):
        error = errors_of(found, "forces", [k for k in range(6) if (parts[k] or "others") == part])
        assert value_of(values, f"forces-rmse of {part}").value == pytest.approx(np.sqrt(np.mean(error**2)))
    rows = table_of(error_section(found), "Structures that trained").rows
    expected = [part for part in ("training", "validation", "test", "others") for _ in LABELS]
    assert [row[0] for row in rows] == expected
    assert {row[2] for row in rows if row[0] == "training"} == {3}


def test_group_tables_have_all_groups_and_the_whole() -> None:
    table = table_of(error_section(make_evaluated()), "Errors of energies")
    assert [row[:2] for row in table.rows] == [("a", 3), ("b", 2), ("c", 1)]
    assert table.foot[0][:2] == ("all", 6)
    assert "meV" in table.title


def test_unknown_labels_are_counted_and_left_out() -> None:
    section = error_section(make_evaluated(unknown=(0, 3)))
    assert "2 of 6 structures have no reference energy." in section.text
    assert [row[0] for row in table_of(section, "Errors of energies").rows] == ["a", "b"]
    assert sum(len(series.x) for series in section.plots[0].series) == 4


def test_nothing_known() -> None:
    found = make_evaluated(unknown=range(6))
    section = error_section(found)
    assert section.plots == section.tables == ()
    assert "no energies" in section.text[0]
    assert error_values(found) == calibration_values(found) == []
    assert calibration_section(found) is None
    assert worst_section(found) is None
    assert data_section(found).tables[0].rows[0][3:6] == (0, 0, 0)


@pytest.mark.parametrize("name", LABELS)
def test_points_of_a_parity_plot_name_their_structure(name: str) -> None:
    found = make_evaluated()
    label = found.label(name)
    plot = parity_plot(found, label)
    assert plot.diagonal
    assert [series.label for series in plot.series] == ["a", "b", "c"]
    for series in plot.series:
        for x, y, own in zip(series.x, series.y, series.names, strict=True):
            row = int(own.split("structure ")[1].split(",")[0])
            assert found.groups[row] == series.label
            component = 0
            if name == "stress":
                component = STRESS.index(own[-2:])
            elif name == "forces":
                component = 3 * (int(own.split("atom ")[1].split(",")[0]) - 1) + "xyz".index(own[-1])
            assert (x, y) == (label.known[row][component], label.found[row][component])


def test_worst_structures() -> None:
    found = make_evaluated()
    energy = found.label("energy")
    # One structure far out: it comes first, and is counted as an outlier.
    energy = replace(energy, found=(*energy.found[:3], energy.known[3] + 50.0, *energy.found[4:]))
    found = replace(found, labels=(energy, *found.labels[1:]))
    section = worst_section(found)
    assert section is not None
    errors = np.abs(errors_of(found, "energy", list(range(6))))
    first = section.tables[0].rows[0]
    assert first[:3] == ("f.xyz, structure 3", "c", "energy")
    assert first[3] == pytest.approx(50_000.0)
    assert first[5] == pytest.approx(errors.max() / np.median(errors))
    assert section.text[0].startswith("Energy: 1 of 6 structures")


@pytest.mark.parametrize("name", LABELS)
def test_shares_within_the_spread(name: str) -> None:
    found = make_evaluated(unknown=(1,))
    label, rows = found.label(name), [0, 2, 3, 4, 5]
    error = np.abs(errors_of(found, name, rows))
    sigma = label.factor * np.concatenate([label.spread[row] for row in rows])
    values = calibration_values(found)
    for count in (1, 2):
        assert value_of(values, f"{name}-spread-within-{count}").value == np.mean(error <= count * sigma)
    assert value_of(values, f"{name}-spread-mean").value == pytest.approx(sigma.mean())
    table = table_of(calibration_section(found), "Spread")
    row = next(row for row in table.rows if row[0] == name)
    assert row[2] == len(sigma)
    assert row[-2:] == (100 * np.mean(error <= sigma), 100 * np.mean(error <= 2 * sigma))


def test_calibration_curve_of_normal_errors_is_the_diagonal() -> None:
    rng = np.random.default_rng(1)
    count = 24000
    sigma = rng.uniform(0.1, 1.0, (count, 1))
    drawn = rng.normal(0, sigma)
    energy = Label("energy", "eV", "eV", 1.0, tuple(drawn), tuple(np.zeros((count, 1))), tuple(sigma))
    names = tuple(f"structure {k}" for k in range(count))
    many = Evaluated(names, ("a",) * count, ("",) * count, np.ones(count), np.ones(count), (energy,))
    section = calibration_section(many)
    assert section is not None
    curve = section.plots[-1].series[0]
    assert np.abs(np.array(curve.x) - np.array(curve.y)).max() < 0.01
    expected = [np.mean(np.abs(drawn) <= norm.ppf((1 + level) / 2) * sigma) for level in curve.x[1:-1]]
    assert curve.y[1:-1] == pytest.approx(expected, abs=1e-4)


def test_rounding_errors_are_left_out_of_logarithmic_plots() -> None:
    found = make_evaluated()
    forces = found.label("forces")
    tiny = (forces.known[0] + 1e-15, *forces.found[1:])
    found = replace(found, labels=(found.labels[0], replace(forces, found=tiny), found.labels[2]))
    section = calibration_section(found)
    assert section is not None
    plot = next(plot for plot in section.plots if plot.name == "committee_spread_forces")
    assert sum(len(series.x) for series in plot.series) == 3 * sum(SIZES[1:])
    assert not any("structure 0" in name for series in plot.series for name in series.names)


def test_grades() -> None:
    found = make_evaluated()
    assert found.grades is not None
    highest = np.array([own.max() for own in found.grades])
    section = grade_section(found)
    assert section is not None
    rows = section.tables[0].rows
    assert [row[2] for row in rows] == sorted(highest, reverse=True)
    assert rows[0][0] == f"f.xyz, structure {highest.argmax()}"
    assert f"{(highest > 1).sum()} of 6 structures" in section.text[0]
    assert value_of(grade_values(found), "highest-grade").value == highest.max()
    assert value_of(grade_values(found), "share-outside").value == np.mean(highest > 1)
    assert grade_section(make_evaluated(grades=False)) is None


def test_data() -> None:
    found = make_evaluated(unknown=(4,))
    energy, forces = found.label("energy"), found.label("forces")
    row = next(row for row in data_section(found).tables[0].rows if row[0] == "a")
    own = [1, 5]  # of the group, with labels
    assert row[1:6] == (3, SIZES[1] + SIZES[4] + SIZES[5], 2, 2, 2)
    assert row[6:8] == (min(energy.known[k][0] for k in own), max(energy.known[k][0] for k in own))
    volumes = found.volume_per_atom[[1, 4, 5]]
    assert row[8:10] == (volumes.min(), volumes.max())
    assert row[10] == max(np.abs(forces.known[k]).max() for k in own)


def test_joined_evaluations() -> None:
    first, second = make_evaluated(), make_evaluated(unknown=(0,))
    both = first.joined(second)
    assert len(both) == 12
    assert both.groups == GROUPS * 2
    assert len(both.label("forces").errors) == 12
    assert len(both.label("energy").known[6]) == 0
    assert both.grades is not None
    assert len(both.grades) == 12
    assert first.joined(make_evaluated(grades=False, bars=False)).grades is None
    assert first.joined(make_evaluated(bars=False)).label("energy").spread is None
