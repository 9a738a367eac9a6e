"""Plots as PNG: something is in them, whatever names hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pytest
from report_samples import make_plot

from pyfit_gpu.report.contents import Plot, Series
from pyfit_gpu.report.pictures import save_picture


def drawn(plot: Plot, path: Path) -> float:
    save_picture(plot, path)
    return float(matplotlib.image.imread(path)[..., :3].std())


@pytest.mark.parametrize("settings", [{}, {"diagonal": True}, {"log_x": True, "log_y": True},
                                      {"ticks": ((0.0, "Γ"), (4.0, "X"))}])  # fmt: skip
def test_settings(settings: dict[str, object], tmp_path: Path) -> None:
    assert drawn(make_plot(**settings), tmp_path / "plot.png") > 0.02


@pytest.mark.parametrize("name", [r"$\foo$", "_hidden", "<b>", "a\nb", "名字"])
def test_names(name: str, tmp_path: Path) -> None:
    plot = make_plot()
    series = tuple(replace(one, label=name) for one in plot.series)
    assert drawn(replace(plot, title=name, x_label=name, y_label=name, series=series), tmp_path / "plot.png") > 0


def test_lines_and_nothing(tmp_path: Path) -> None:
    line = Series("", (0.0, 1.0), (0.0, 1.0), line=True)
    assert drawn(Plot("p", "P", "x", "y", (line,)), tmp_path / "line.png") > 0
    assert drawn(Plot("p", "P", "x", "y", (), diagonal=True), tmp_path / "empty.png") > 0
