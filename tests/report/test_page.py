"""The page as HTML: complete, alone, small, and whatever names hold stays text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_samples import make_evaluated, make_plot, make_report

from pyfit_gpu.errors import InputError
from pyfit_gpu.report.contents import Plot, Report, Section, Series, Table
from pyfit_gpu.report.error_sections import data_section, error_section, worst_section
from pyfit_gpu.report.page import MOST_POINTS, MOST_ROWS, page_text, write_page

VOID = {"meta", "link", "br", "input"}
NASTY = ['<script>alert("x")</script>', "a & b", 'it\'s "quoted"', "</script><img src=x>", "<!--", "Ångström", "a\nb"]


class Reader(HTMLParser):
    """Text of the cells and of the titles, attributes that point elsewhere, and whether all elements are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.targets: list[str] = []
        self.ids: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = dict(attributes)
        self.targets += [named[name] or "" for name in ("src", "href", "action", "data") if name in named]
        self.ids += [named["id"] or ""] if "id" in named else []
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open[-1]][-1] += data


def plots_of(text: str) -> list[dict[str, object]]:
    found = re.search(r'<script type="application/json" id="plots">(.*?)</script>', text, re.DOTALL)
    return json.loads(found[1])


def test_nothing_is_loaded_from_elsewhere() -> None:
    found = make_evaluated()
    sections = (error_section(found), worst_section(found), data_section(found))
    page = page_text(Report("A report", sections=tuple(one for one in sections if one is not None)))
    reader = Reader(page)
    assert set(reader.targets) == {"data:,", *(f"#{name}" for name in ("errors", "worst-structures", "data"))}
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", page)
    outside = set(re.findall(r"https?://[^\s\"']+", page))
    assert outside <= {"http://www.w3.org/2000/svg"}  # a name, which nothing loads
    assert len(page.encode()) < 200_000


def test_everything_is_there() -> None:
    reader = Reader(page_text(make_report()))
    assert reader.texts["title"] == reader.texts["h1"] == ["A report"]
    assert reader.texts["h2"] == ["First part"]
    assert "first-part" in reader.ids
    assert reader.texts["caption"] == ["A table"]
    assert reader.texts["td"] == ["b", "2.000", "a", "10.00", "c", "–", "all", "6.000"]
    assert reader.texts["dd"] == ["1 eV"]
    assert reader.tags.count("figure") == 1


@pytest.mark.parametrize("name", NASTY)
def test_names_stay_text(name: str) -> None:
    series = Series(name, (1.0,), (2.0,), (name,))
    plot = Plot("p", name, name, name, (series, Series("other", (1.0,), (1.0,), ("one",))), note=name)
    table = Table(name, (name,), ((name,),), note=name)
    text = page_text(Report(name, name, sections=(Section(name, (name,), (table,), (plot,)),)))
    reader = Reader(text)
    for tag in ("title", "h1", "h2", "td", "caption", "figcaption"):
        assert reader.texts[tag] == [name], tag
    assert reader.tags.count("script") == 2
    assert "img" not in reader.tags
    (found,) = plots_of(text)
    assert found["title"] == found["series"][0]["label"] == found["series"][0]["names"][0] == name


def test_many_points_stay_small() -> None:
    count = 50_000
    names = tuple(f"a/rather/long/path/to/a/file.extxyz, structure {k}, atom 17, x" for k in range(count))
    values = tuple(k * 1.000123456789 for k in range(count))
    plots = [Plot(f"p{k}", "P", "x", "y", (Series("s", values, values, names),)) for k in range(40)]
    rows = tuple((f"a group with a name of thirty letters {k}", *(k + 0.123 for _ in range(6))) for k in range(600))
    tables = tuple(Table(f"t{k}", ("group", *"abcdef"), rows) for k in range(4))
    report = make_report(*plots)
    text = page_text(replace(report, sections=(*report.sections, Section("Tables", tables=tables))))
    assert len(text.encode()) < 3_000_000
    found = plots_of(text)
    counts = {len(plot["series"][0]["x"]) for plot in found}
    assert counts <= set(range(100, MOST_POINTS + 1))
    assert f"{counts.pop()} of {count} points" in text.split("</figure>")[0]  # a reader is told


def test_long_tables_are_cut_and_say_so() -> None:
    rows = tuple((f"row {k}", k) for k in range(MOST_ROWS + 5))
    reader = Reader(page_text(make_report(rows=rows)))
    assert reader.tags.count("tr") == MOST_ROWS + 2
    assert any(f"The first {MOST_ROWS} of {MOST_ROWS + 5} rows" in text for text in reader.texts["p"])


def test_numbers_that_are_none() -> None:
    series = Series("s", (1.0, float("nan"), float("inf")), (1.0, 2.0, 3.0), ("a", "b", "c"))
    (found,) = plots_of(page_text(make_report(Plot("p", "P", "x", "y", (series,)))))
    assert found["series"][0]["x"] == [1.0, None, None]


def test_equal_titles_have_anchors_of_their_own() -> None:
    reader = Reader(page_text(Report("r", sections=(Section("Same"), Section("Same"), Section("ä")))))
    assert len(set(reader.ids)) == len(reader.ids)
    assert {target.removeprefix("#") for target in reader.targets if target.startswith("#")} < set(reader.ids)


def test_pages_that_are_read_again() -> None:
    assert '<meta http-equiv="refresh" content="5">' in page_text(make_report(), reload_seconds=4.2)
    assert "refresh" not in page_text(make_report())


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/page.html: cannot write"):
        write_page(make_report(make_plot()), tmp_path / "nowhere" / "page.html")
    assert list(tmp_path.iterdir()) == []
