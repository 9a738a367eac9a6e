"""Plots of a report as PNG files, by matplotlib, which is imported when the first one is drawn."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from pyfit_gpu.files import atomic_path
from pyfit_gpu.report.contents import Plot
from pyfit_gpu.report.looks import MARKERS, colour_of, marker_of

_LONGEST_LABEL = 40  # characters in a legend
_MOST_ENTRIES = 24  # of a legend


def new_figure(width: float, height: float) -> Any:
    """Make a figure of so many inches that needs neither a display nor pyplot's state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # Of names in writing that matplotlib's font lacks; the page shows them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(Path(temporary), format="png", dpi=150)


def save_picture(plot: Plot, path: str | os.PathLike[str]) -> None:
    """Draw a plot as PNG."""
    figure = new_figure(5.6, 5.0 if plot.diagonal else 4.2)
    axes = figure.subplots()
    for series in plot.series:
        colour = colour_of(series.look)
        label = f" {series.label[:_LONGEST_LABEL]}" if series.label else None  # the blank: a name may begin with _
        if series.line:
            axes.plot(series.x, series.y, linewidth=1.4, color=colour, label=label)
        else:
            axes.scatter(series.x, series.y, s=12, color=colour, marker=MARKERS[marker_of(series.look)], label=label,
                         linewidths=0)  # fmt: skip
    if plot.log_x:
        axes.set_xscale("log")
    if plot.log_y:
        axes.set_yscale("log")
    if plot.diagonal and plot.n_points:
        low, high = (end(*axes.get_xlim(), *axes.get_ylim()) for end in (min, max))
        axes.plot([low, high], [low, high], color="0.6", linewidth=1, zorder=0)
    if plot.ticks:
        axes.set_xticks([place for place, _ in plot.ticks], [text for _, text in plot.ticks])
        axes.set_xlim(plot.ticks[0][0], plot.ticks[-1][0])
    for write, text in ((axes.set_title, plot.title), (axes.set_xlabel, plot.x_label), (axes.set_ylabel, plot.y_label)):
        write(text, fontsize=10, parse_math=False)
    if 1 <= len(axes.get_legend_handles_labels()[1]) <= _MOST_ENTRIES:
        for text in axes.legend(fontsize=7, ncols=2).get_texts():
            text.set(text=text.get_text().strip(), parse_math=False)  # a $ is a letter of the name
    save_figure(figure, path)
