"""A report as one HTML file, which needs nothing else: styles, script and the plots' numbers are in it."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from html import escape
from importlib.resources import files

from pyfit_gpu._version import __version__
from pyfit_gpu.files import atomic_text
from pyfit_gpu.report.contents import Cell, Fact, Plot, Report, Section, Series, Table, number, plain
from pyfit_gpu.report.looks import colour_of, marker_of

MOST_POINTS = 1500  # of a plot on the page
MOST_ROWS = 500  # of a table
_SHORT = 26  # characters of a cell that stay on one line
_FEWEST_POINTS = 50  # of a plot, however many plots there are
_MOST_BYTES = 2_100_000  # of the plots' numbers and names together; with a dozen full tables a page stays below 3 MB


def write_page(report: Report, path: str | os.PathLike[str], *, reload_seconds: float | None = None) -> None:
    """Write a report as an HTML page, which appears under its name only when it is complete.

    Args:
        reload_seconds: time after which a browser reads the page anew; None: it does not.
    """
    text = page_text(report, reload_seconds=reload_seconds)
    with atomic_text(path) as file:
        file.write(text)


def page_text(report: Report, *, reload_seconds: float | None = None) -> str:
    """HTML of a report."""
    anchors = _anchors(report.sections)
    plots, data = _thinned(report.plots)
    figures = iter([_figure(plot, place) for place, plot in enumerate(plots)])
    sections = [_section(section, anchor, figures) for section, anchor in zip(report.sections, anchors, strict=True)]
    links = "".join(
        f'<a href="#{anchor}">{escape(section.title)}</a>'
        for section, anchor in zip(report.sections, anchors, strict=True)
    )
    reload = "" if reload_seconds is None else f'<meta http-equiv="refresh" content="{math.ceil(reload_seconds)}">'
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{reload}<title>{escape(report.title)}</title>
<link rel="icon" href="data:,">
<style>
{_resource("page.css")}</style>
</head>
<body>
<header>
<h1>{escape(report.title)}</h1>
<p class="subtitle">{escape(report.subtitle)}</p>
{_facts(report.facts)}</header>
<nav>{links}</nav>
<main>
{"".join(sections)}</main>
<footer>pyfit-gpu {escape(__version__)}</footer>
<script type="application/json" id="plots">{data}</script>
<script>
{_resource("page.js")}</script>
</body>
</html>
"""


def _resource(name: str) -> str:
    return files("pyfit_gpu.report").joinpath(name).read_text(encoding="utf-8")


def _anchors(sections: Iterable[Section]) -> list[str]:
    found: list[str] = []
    for section in sections:
        stem = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
        found.append(stem if stem not in found else f"{stem}-{len(found)}")
    return found


def _facts(facts: Iterable[Fact]) -> str:
    def one(fact: Fact) -> str:
        more = f"<small>{escape(fact.more)}</small>" if fact.more else ""
        return f'<div class="{fact.tone}"><dt>{escape(fact.label)}</dt><dd>{escape(fact.text)}{more}</dd></div>\n'

    items = "".join(map(one, facts))
    return f'<dl class="facts">\n{items}</dl>\n' if items else ""


def _section(section: Section, anchor: str, figures: Iterator[str]) -> str:
    text = "".join(f"<p>{escape(paragraph)}</p>\n" for paragraph in section.text)
    plots = "".join(next(figures) for _ in section.plots)
    plots = f'<div class="plots">\n{plots}</div>\n' if plots else ""
    tables = "".join(map(_table, section.tables))
    tables = f'<div class="tables">\n{tables}</div>\n' if tables else ""
    return f'<section id="{anchor}">\n<h2>{escape(section.title)}</h2>\n{text}{plots}{tables}</section>\n'


def _figure(plot: Plot, place: int) -> str:
    note = f'<p class="note">{escape(plot.notes)}</p>' if plot.notes else ""
    return (
        f'<figure data-plot="{place}"><figcaption>{escape(plot.title)}</figcaption>'
        f'<div class="canvas"></div><div class="legend"></div>{note}</figure>\n'
    )


def _table(table: Table) -> str:
    numeric = [_is_numeric(table, k) for k in range(len(table.columns))]
    head = ""
    for name, is_numeric in zip(table.columns, numeric, strict=True):
        kind = "n" if is_numeric else "t"
        head += f'<th scope="col" class="{kind}"><button type="button">{escape(name)}</button></th>'
    body = "".join(_row(row, numeric) for row in table.rows[:MOST_ROWS])
    foot = f"<tfoot>{''.join(_row(row, numeric) for row in table.foot)}</tfoot>" if table.foot else ""
    notes = [table.note] if table.note else []
    if len(table.rows) > MOST_ROWS:
        notes.append(f"The first {MOST_ROWS} of {len(table.rows)} rows; all of them are in report.json.")
    note = f'<p class="note">{escape(" ".join(notes))}</p>\n' if notes else ""
    return (
        f'<div><div class="table" tabindex="0" role="region" aria-label="{escape(table.title)}">'
        f"<table><caption>{escape(table.title)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>{foot}</table></div>\n{note}</div>\n"
    )


def _is_numeric(table: Table, column: int) -> bool:
    cells = [row[column] for row in table.rows if row[column] is not None]
    return bool(cells) and not any(isinstance(cell, str) for cell in cells)


def _row(row: Iterable[Cell], numeric: Iterable[bool]) -> str:
    return f"<tr>{''.join(map(_cell, row, numeric))}</tr>\n"


def _cell(cell: Cell, is_numeric: bool) -> str:
    if isinstance(cell, str):
        short = ' class="s"' if len(cell) <= _SHORT else ""
        return f"<td{short}>{escape(cell)}</td>"
    if cell is None or not math.isfinite(cell):
        return '<td class="n">–</td>' if is_numeric else "<td></td>"
    shown = f"{cell:,}" if isinstance(cell, int) else number(cell)
    return f'<td class="n" data-v="{cell!r}">{shown}</td>'


def _thinned(plots: list[Plot]) -> tuple[list[Plot], str]:
    """Plots with as many points as the page has room for, and the same as JSON for the script."""
    most = MOST_POINTS
    while True:
        thinned = [plot.thinned(most) for plot in plots]
        text = json.dumps([_plot(plot) for plot in thinned], ensure_ascii=False, separators=(",", ":"))
        if len(text.encode()) <= _MOST_BYTES or most < _FEWEST_POINTS:
            # The script's element ends at the first </, whatever the text is.
            return thinned, text.replace("<", "\\u003c")
        most //= 2


def _plot(plot: Plot) -> object:
    entries = {name: value for name, value in vars(plot).items() if name not in ("name", "series")}
    return plain({**entries, "series": [_series(one) for one in plot.series]})


def _series(series: Series) -> object:
    return {
        "label": series.label,
        "x": [_rounded(value) for value in series.x],
        "y": [_rounded(value) for value in series.y],
        "names": series.names,
        "line": series.line,
        "colour": colour_of(series.look),
        "marker": marker_of(series.look),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.6g}") if math.isfinite(value) else math.nan
