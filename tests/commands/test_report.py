"""Tables of errors against NumPy, the table as a file, and plots with something in them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure
from sample_sets import NAN
from scipy.stats import spearmanr

from pyfit_gpu.commands import report
from pyfit_gpu.commands.info import info
from pyfit_gpu.commands.messages import shown
from pyfit_gpu.commands.report import (
    EnergyTable,
    component_report,
    error_report,
    plot_energy_volume,
    plot_parity,
    save_csv,
    spread_report,
)
from pyfit_gpu.commands.train.row_file import read_table
from pyfit_gpu.errors import InputError
from pyfit_gpu.report.pictures import save_figure

Plot = Callable[[EnergyTable, Path], None]


def make_table(groups: Sequence[str], seed: int = 0, *, unknown: Sequence[int] = ()) -> EnergyTable:
    rng = np.random.default_rng(seed)
    reference = rng.normal(-4.5, 0.3, len(groups))
    predicted = reference + rng.normal(0.0, 0.01, len(groups))
    reference[list(unknown)] = NAN
    return EnergyTable(
        groups=tuple(groups),
        n_atoms=rng.integers(1, 65, len(groups)),
        volume_per_atom=rng.uniform(15, 30, len(groups)),
        energy_per_atom=predicted,
        reference_energy_per_atom=reference,
    )


NAMES = [r"$\foo$", "a$b$ and c$_$d", "$", "_hidden", "a,b", 'say "a"', "=1+1", "#x", "a\rb", "a\nb", "x" * 5000,
         "\x1b[31m", "  ", "Å"]  # fmt: skip
save = save_figure


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()]


GROUPS = ["b", "a", "b", "long_name_of_a_group", "a", "c", "b", "a", "NO_DFT_x", "b"]


@pytest.fixture
def table() -> EnergyTable:
    return make_table(GROUPS, unknown=[4, 8])


@pytest.fixture
def sources() -> list[str]:
    return [f"si.dat, structure {k + 1} (line {20 * k + 1})" for k in range(len(GROUPS))]


class TestErrors:
    def test_each_group_and_all(self, table: EnergyTable, sources: list[str]) -> None:
        """In meV/atom; structures without a reference count nowhere."""
        lines = error_report(table, sources).splitlines()
        rows = {line.split()[0]: line.split()[1:] for line in lines[1:6]}
        assert list(rows) == ["a", "b", "c", "long_name_of_a_group", "all"]
        assert re.fullmatch(r"group +structures +RMSE +MAE +largest +meV/atom", lines[0])
        error = 1000 * (table.energy_per_atom - table.reference_energy_per_atom)
        members = {
            "a": [1, 7],
            "b": [0, 2, 6, 9],
            "c": [5],
            "long_name_of_a_group": [3],
            "all": [0, 1, 2, 3, 5, 6, 7, 9],
        }
        for name, (count, rmse, mae, largest) in rows.items():
            chosen = error[members[name]]
            assert int(count) == len(chosen)
            assert float(rmse) == pytest.approx(np.sqrt((chosen**2).mean()), abs=6e-4)
            assert float(mae) == pytest.approx(np.abs(chosen).mean(), abs=6e-4)
            assert float(largest) == pytest.approx(np.abs(chosen).max(), abs=6e-4)

    def test_columns_line_up(self, table: EnergyTable, sources: list[str]) -> None:
        lines = error_report(table, sources).splitlines()
        numbers = re.compile(r" +(\d+) +(\S+) +(\S+) +(\S+)$")
        ends = {tuple(numbers.search(line).end(k) for k in (1, 2, 3, 4)) for line in lines[1:6]}
        assert len(ends) == 1
        assert lines[0][: ends.pop()[3]].endswith("largest")

    def test_worst_structures(self, table: EnergyTable, sources: list[str]) -> None:
        """The five largest errors of either sign, largest first, with sign, group and place in the file."""
        text = error_report(table, sources)
        error = 1000 * (table.energy_per_atom - table.reference_energy_per_atom)
        known = [k for k in range(10) if k not in (4, 8)]
        expected = sorted(known, key=lambda k: -abs(error[k]))[:5]
        assert len({bool(error[k] > 0) for k in expected}) == 2
        lines = text.splitlines()
        start = next(k for k, line in enumerate(lines) if line.startswith("worst structures")) + 1
        for line, k in zip(lines[start : start + 5], expected, strict=True):
            value, group, source = line.split(maxsplit=2)
            assert float(value) == pytest.approx(error[k], abs=6e-4)
            assert (group, source) == (GROUPS[k], sources[k])
        assert lines[start + 5] == "2 of 10 structures have no reference energy"

    def test_fewer_than_five(self, sources: list[str]) -> None:
        text = error_report(make_table(["a", "b", "c"], unknown=[1]), sources[:3])
        assert text.count("si.dat, structure") == 2

    def test_number_of_worst(self, table: EnergyTable, sources: list[str]) -> None:
        assert error_report(table, sources, n_worst=2).count("si.dat, structure") == 2

    def test_nothing_known(self, sources: list[str]) -> None:
        text = error_report(make_table(GROUPS, unknown=range(10)), sources)
        assert text == "10 of 10 structures have no reference energy"

    def test_everything_known(self, sources: list[str]) -> None:
        assert "no reference" not in error_report(make_table(GROUPS), sources)


class TestSpread:
    """How far members disagree, beside how wrong their mean is."""

    @staticmethod
    def report(spread: Sequence[float], error: Sequence[float]) -> str:
        """One number per structure; NaN: not known."""
        errors = [np.array([] if np.isnan(one) else [one]) for one in error]
        return spread_report("structures", "meV/atom", [np.array([one]) for one in spread], errors)

    def test_against_scipy(self) -> None:
        """Mean and largest of all, share and Spearman's correlation of what has a reference; with equal values."""
        rng = np.random.default_rng(3)
        spread = np.round(rng.gamma(2.0, 1.0, 60), 1)
        error = np.round(spread * rng.normal(0.0, 1.5, 60), 1)
        error[::7] = NAN
        known = ~np.isnan(error)
        assert len(set(spread)) < 50
        correlation = spearmanr(spread[known], np.abs(error[known])).statistic
        within = np.mean(np.abs(error[known]) <= 2 * spread[known])
        assert 0.5 < within < 1
        assert self.report(spread, error) == (
            f"spread of the members: mean {spread.mean():.3f}, largest {spread.max():.3f} meV/atom\n"
            f"error within 2 spreads for {within:.0%} of {known.sum()} structures; "
            f"rank correlation of spread and |error| {correlation:.2f} (1: the same order, 0: unrelated)"
        )

    def test_same_and_opposite_order(self) -> None:
        assert "|error| 1.00 (" in self.report([1.0, 2.0, 3.0, 4.0], [-0.1, 0.2, -30.0, 40.0])
        assert "|error| -1.00 (" in self.report([4.0, 3.0, 2.0, 1.0], [-0.1, 0.2, -30.0, 40.0])
        assert "for 50% of 4 structures" in self.report([1.0, 1.0, 1.0, 1.0], [-2.0, 2.1, -2.1, 0.0])

    @pytest.mark.parametrize(("spread", "error"), [([1.0, 2.0], [1.0, 2.0]), ([1.0] * 4, [1.0, 2.0, 3.0, 4.0])])
    def test_nothing_to_order(self, spread: list[float], error: list[float]) -> None:
        assert "rank" not in self.report(spread, error)
        assert "error within 2 spreads" in self.report(spread, error)

    def test_no_reference(self) -> None:
        assert self.report([1.0, 2.0], [NAN, NAN]) == "spread of the members: mean 1.500, largest 2.000 meV/atom"

    def test_no_spread(self) -> None:
        """Nothing has a spread, as for the stress of molecules."""
        none = np.full(6, NAN)
        text = spread_report("components", "GPa", [none, none], [np.empty(0)] * 2, 4)
        assert text == "spread of the members: no components have one"
        text = spread_report("components", "GPa", [none, np.ones(6)], [np.empty(0)] * 2, 4)
        assert text == "spread of the members: mean 1.0000, largest 1.0000 GPa"

    def test_below_the_table_of_energies(self, table: EnergyTable, sources: list[str]) -> None:
        std = np.linspace(0.001, 0.002, len(GROUPS))
        text = error_report(replace(table, energy_per_atom_std=std), sources)
        plain = error_report(table, sources)
        assert text.startswith(plain + "\n\nspread of the members: mean 1.500, largest 2.000 meV/atom\nerror within ")
        assert "of 8 structures; rank" in text

    def test_column_of_the_csv(self, table: EnergyTable, tmp_path: Path) -> None:
        std = np.random.default_rng(1).uniform(0, 0.1, len(GROUPS))
        save_csv(table, tmp_path / "one.csv")
        save_csv(replace(table, energy_per_atom_std=std), tmp_path / "several.csv")
        one, several = ((tmp_path / f"{name}.csv").read_text().splitlines() for name in ("one", "several"))
        assert several[0] == one[0] + ",energy_per_atom_std"
        assert [line.rsplit(",", 1)[0] for line in several[1:]] == one[1:]
        assert [float(line.rsplit(",", 1)[1]) for line in several[1:]] == std.tolist()


class TestComponents:
    """Forces and stress: as many errors per structure as it has components."""

    NAMES = ("b", "a", "b", "long_name_of_a_group", "a", "NO_DFT_x")

    @pytest.fixture
    def errors(self) -> list[np.ndarray]:
        rng = np.random.default_rng(2)
        return [rng.normal(0.0, 0.3, 3 * n) for n in (4, 1, 2, 5, 0, 0)]

    def test_each_group_and_all(self, errors: list[np.ndarray]) -> None:
        """Every component counts alike, whatever structure it is of; what is not known counts nowhere."""
        text = component_report("forces", "eV/Å", self.NAMES, errors)
        lines = text.splitlines()
        assert lines[:2] == ["", "forces:"]
        assert re.fullmatch(r"group +structures +RMSE +MAE +largest +eV/Å, per component", lines[2])
        rows = {line.split()[0]: line.split()[1:] for line in lines[3:7]}
        members = {"a": [1], "b": [0, 2], "long_name_of_a_group": [3], "all": [0, 1, 2, 3]}
        assert list(rows) == list(members)
        for name, (count, rmse, mae, largest) in rows.items():
            chosen = np.concatenate([errors[k] for k in members[name]])
            assert int(count) == len(members[name])
            assert float(rmse) == pytest.approx(np.sqrt((chosen**2).mean()), abs=6e-5)
            assert float(mae) == pytest.approx(np.abs(chosen).mean(), abs=6e-5)
            assert float(largest) == pytest.approx(np.abs(chosen).max(), abs=6e-5)
        assert lines[7:] == ["2 of 6 structures have no reference forces"]

    def test_columns_line_up(self, errors: list[np.ndarray]) -> None:
        lines = component_report("stress", "GPa", self.NAMES, errors).splitlines()
        numbers = re.compile(r" +(\d+) +(\S+) +(\S+) +(\S+)$")
        ends = {tuple(numbers.search(line).end(k) for k in (1, 2, 3, 4)) for line in lines[3:7]}
        assert len(ends) == 1
        assert lines[2][: ends.pop()[3]].endswith("largest")

    def test_nothing_known(self) -> None:
        text = component_report("stress", "GPa", self.NAMES, [np.empty(0)] * 6)
        assert text == "\nstress:\n6 of 6 structures have no reference stress"

    def test_everything_known(self, errors: list[np.ndarray]) -> None:
        text = component_report("forces", "eV/Å", self.NAMES[:4], errors[:4])
        assert "no reference" not in text
        assert len(text.splitlines()) == 7


class TestCsv:
    def test_columns_and_bits(self, table: EnergyTable, tmp_path: Path) -> None:
        save_csv(table, tmp_path / "out.csv")
        text = (tmp_path / "out.csv").read_text(encoding="utf-8")
        assert text.splitlines()[0] == "index,group,n_atoms,volume_per_atom,energy_per_atom,reference_energy_per_atom"
        rows = list(csv.DictReader(io.StringIO(text)))
        assert [int(row["index"]) for row in rows] == list(range(10))
        assert [row["group"] for row in rows] == GROUPS
        assert [int(row["n_atoms"]) for row in rows] == table.n_atoms.tolist()
        assert [float(row["volume_per_atom"]) for row in rows] == table.volume_per_atom.tolist()
        assert [float(row["energy_per_atom"]) for row in rows] == table.energy_per_atom.tolist()
        for k, row in enumerate(rows):
            if k in (4, 8):
                assert row["reference_energy_per_atom"] == ""
            else:
                assert float(row["reference_energy_per_atom"]) == table.reference_energy_per_atom[k]

    def test_names_with_commas_and_quotes(self, tmp_path: Path) -> None:
        names = ["a,b", 'say "x"', "Å", "two words"]
        save_csv(make_table(names), tmp_path / "out.csv")
        with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
            assert [row["group"] for row in csv.DictReader(file)] == names

    def test_any_name(self, tmp_path: Path) -> None:
        """Also those that hold ends of lines, and those that spreadsheets take for formulas."""
        save_csv(make_table(NAMES), tmp_path / "energies.csv")
        columns, rows = read_table(tmp_path / "energies.csv")
        assert [row[columns.index("group")] for row in rows] == NAMES
        assert f"structures    {len(NAMES)}" in info(tmp_path / "energies.csv")

    def test_missing_folder(self, table: EnergyTable, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nowhere/out.csv: cannot write"):
            save_csv(table, tmp_path / "nowhere" / "out.csv")


@pytest.mark.parametrize("plot", [plot_parity, plot_energy_volume])
class TestPlots:
    def read(self, path: Path) -> np.ndarray:
        """(height, width, 3) of a complete PNG file."""
        raw = path.read_bytes()
        assert raw.startswith(b"\x89PNG\r\n\x1a\n")
        assert raw.endswith(b"IEND\xae\x42\x60\x82")
        return matplotlib.image.imread(path)[..., :3]

    def test_there_is_something_in_it(self, plot: Plot, table: EnergyTable, tmp_path: Path) -> None:
        plot(table, tmp_path / "plot.png")
        image = self.read(tmp_path / "plot.png")
        assert min(image.shape[:2]) > 400
        assert 0.005 < (image < 0.9).any(axis=2).mean() < 0.5
        coloured = np.ptp(image, axis=2) > 0.3
        assert coloured.sum() > 100
        assert coloured[: len(image) // 2].sum() > 50  # in the upper panel as well, where there are two

    def test_it_shows_the_numbers(self, plot: Plot, table: EnergyTable, tmp_path: Path) -> None:
        plot(table, tmp_path / "one.png")
        plot(table, tmp_path / "same.png")
        predicted = table.energy_per_atom.copy()
        predicted[0] += 0.5
        plot(replace(table, energy_per_atom=predicted), tmp_path / "other.png")
        one, same, other = (self.read(tmp_path / f"{name}.png") for name in ("one", "same", "other"))
        assert np.array_equal(one, same)
        assert one.shape != other.shape or not np.array_equal(one, other)

    @pytest.mark.parametrize("n_groups", [1, 5, 40])
    def test_any_number_of_groups(self, plot: Plot, n_groups: int, tmp_path: Path) -> None:
        plot(make_table([f"g{k % n_groups}" for k in range(80)]), tmp_path / "plot.png")
        self.read(tmp_path / "plot.png")

    @pytest.mark.parametrize("n_groups", [12, 20, 25])
    def test_every_group_has_a_look_of_its_own(
        self, plot: Plot, n_groups: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Colour and marker differ, also beyond ten groups; the smallest of many groups share one look."""
        figures: list[Figure] = []
        monkeypatch.setattr(report, "save_figure", lambda figure, path: figures.append(figure))
        plot(make_table([f"g{k:02}" for k in range(n_groups)] * 3), tmp_path / "plot.png")
        points = [one for one in figures[0].axes[0].collections if not str(one.get_label()).startswith("_")]
        looks = {(one.get_facecolor().tobytes(), one.get_paths()[0].vertices.tobytes()) for one in points}
        labels = legend_of(figures[0])
        assert len(looks) == len(labels) == min(n_groups, 20)
        assert any(re.fullmatch(r"others \([56] groups\)", label) for label in labels) == (n_groups == 25)

    @pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:20]))
    def test_any_name(self, plot: Plot, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the legend as it is, or shown: neither a formula nor left out."""
        labels: list[str] = []
        monkeypatch.setattr(
            report, "save_figure", lambda figure, path: labels.extend(legend_of(figure)) or save(figure, path)
        )
        plot(make_table([name, "b"] * 3), tmp_path / "plot.png")
        assert sorted(labels) == sorted([shown(name)[:40].strip(), "b"])
        assert self.read(tmp_path / "plot.png").std() > 0

    @pytest.mark.parametrize("groups", [["a"], ["a", "b"], ["a"] * 3])
    def test_nothing_known(self, plot: Plot, groups: list[str], tmp_path: Path) -> None:
        plot(make_table(groups, unknown=range(len(groups))), tmp_path / "plot.png")
        self.read(tmp_path / "plot.png")

    def test_one_structure(self, plot: Plot, tmp_path: Path) -> None:
        plot(make_table(["a"]), tmp_path / "plot.png")
        self.read(tmp_path / "plot.png")

    def test_an_old_plot_is_replaced(self, plot: Plot, table: EnergyTable, tmp_path: Path) -> None:
        (tmp_path / "plot.png").write_bytes(b"old")
        plot(table, tmp_path / "plot.png")
        self.read(tmp_path / "plot.png")
        assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]

    def test_missing_folder(self, plot: Plot, table: EnergyTable, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nowhere/plot.png: cannot write"):
            plot(table, tmp_path / "nowhere" / "plot.png")
