"""The page in a real browser: no error, tables sort, points answer, nothing overlaps the page's edge."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from report_samples import make_evaluated, make_plot, make_report
from requirements import missing

from pyfit_gpu.report.contents import Plot, Report, Series
from pyfit_gpu.report.error_sections import data_section, error_section
from pyfit_gpu.report.page import page_text
from pyfit_gpu.report.spread_sections import calibration_section

REQUIRED = "PYFIT_REQUIRE_CHROMIUM"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage",
           "--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom")  # fmt: skip

# Runs in the page after its own script, and leaves an outcome that the test reads.
HOOK = """
<script>
addEventListener("load", () => {
  const outcome = {};
  const say = (text) => { outcome.fault = String(text); };
  addEventListener("error", (event) => say(event.message));
  try { (%s)(outcome); } catch (error) { say(error); }
  const place = document.createElement("pre");
  place.id = "outcome";
  place.textContent = JSON.stringify(outcome);
  document.body.append(place);
});
const at = (svg, selector) => { // where the middle of a drawn path is, in pixels of the window
  const box = svg.querySelector(selector).getBoundingClientRect();
  return { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true };
};
const first = () => document.querySelector("figure svg[role]");
const tip = () => { const one = document.querySelector(".tip"); return one.hidden ? null : one.textContent; };
</script>
"""


@pytest.fixture(scope="session")
def browser() -> str:
    for name in PROGRAMS:
        found = shutil.which(name)
        if found:
            return found
    return missing("no Chromium is installed (Debian: apt-get install chromium)", REQUIRED)


class Visit:
    """One look at a page, with something done in it."""

    def __init__(self, browser: str, folder: Path, page: str, script: str, width: int) -> None:
        (folder / "page.html").write_text(page.replace("</body>", HOOK % script + "</body>"), encoding="utf-8")
        command = [browser, *OPTIONS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900"]
        address = (folder / "page.html").as_uri()
        ended = subprocess.run([*command, address], capture_output=True, text=True, timeout=120, check=False)
        self.console = re.findall(r":CONSOLE[:(].*", ended.stderr)
        found = re.search(r'<pre id="outcome">(.*?)</pre>', ended.stdout, re.DOTALL)
        assert found, ended.stdout[-2000:] + ended.stderr[-2000:]
        self.outcome: dict[str, Any] = json.loads(unescape(found[1]))
        assert "fault" not in self.outcome, self.outcome
        assert self.console == []


@pytest.fixture
def visit(browser: str, tmp_path: Path):
    return lambda page, script, width=1200: Visit(browser, tmp_path, page, script, width).outcome


@functools.cache
def whole_page() -> str:
    found = make_evaluated()
    sections = (error_section(found), calibration_section(found), data_section(found))
    line = Series("a curve", tuple(map(float, range(200))), tuple(0.9**k for k in range(200)), line=True)
    plots = (make_plot(), Plot("line", "Line", "step", "loss", (line,), log_y=True))
    report = make_report(*plots)
    return page_text(Report("All", sections=(*report.sections, *(one for one in sections if one is not None))))


def test_a_fault_in_the_page_would_be_seen(browser: str, tmp_path: Path) -> None:
    page = page_text(make_report()).replace("document.querySelectorAll", "document.noSuchThing")
    with pytest.raises(AssertionError, match="noSuchThing"):
        Visit(browser, tmp_path, page, "() => {}", 800)


@pytest.mark.parametrize("width", [1200, 500])
def test_all_is_drawn_and_fits(visit, width: int) -> None:
    script = """(outcome) => {
      const svgs = [...document.querySelectorAll("figure svg[role]")];
      outcome.drawn = svgs.length;
      outcome.paths = svgs.map((svg) => svg.querySelectorAll("path[fill-opacity], path[stroke-linejoin]").length);
      outcome.nan = svgs.filter((svg) => svg.outerHTML.includes("NaN")).length;
      outcome.scroll = document.documentElement.scrollWidth;
      outcome.width = document.documentElement.clientWidth;
      const boxes = (svg, anchor) => [...svg.querySelectorAll(`text[text-anchor="${anchor}"]:not(.title)`)]
        .map((text) => text.getBoundingClientRect());
      outcome.overlaps = svgs.map((svg) => {
        const own = [...boxes(svg, "middle"), ...boxes(svg, "end")];
        let count = 0;
        own.forEach((a, i) => own.slice(i + 1).forEach((b) => {
          if (a.right > b.left && b.right > a.left && a.bottom > b.top && b.bottom > a.top) count++;
        }));
        return count;
      });
      outcome.outside = svgs.flatMap((svg) => [...svg.querySelectorAll("text")].filter((text) => {
        const a = text.getBoundingClientRect(), b = svg.getBoundingClientRect();
        return a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 1 || a.top < b.top - 1;
      }).map((text) => text.textContent));
    }"""
    found = visit(whole_page(), script, width)
    assert found["drawn"] == len(found["paths"]) == whole_page().count("<figure")
    assert min(found["paths"]) > 0
    assert found["nan"] == 0
    assert found["scroll"] <= found["width"]  # the page itself does not scroll sideways
    assert set(found["overlaps"]) == {0}
    assert found["outside"] == []


def test_tables_sort(visit) -> None:
    script = """(outcome) => {
      const names = () => [...document.querySelectorAll("tbody tr")].map((row) => row.cells[0].textContent);
      const [name, value] = document.querySelectorAll("th button");
      outcome.before = names();
      value.click(); outcome.largest = names(); outcome.said = value.parentNode.getAttribute("aria-sort");
      value.click(); outcome.smallest = names();
      name.click(); outcome.named = names(); outcome.unsaid = value.parentNode.hasAttribute("aria-sort");
      name.click(); outcome.back = names();
      outcome.foot = document.querySelector("tfoot").textContent;
    }"""
    rows = (("item 2", 9.0), ("item 10", 10.0), ("item 1", None), ("item 3", -1e-7), ("item 4", 1e3))
    found = visit(page_text(make_report(rows=rows)), script)
    assert found["before"] == [name for name, _ in rows]
    assert found["largest"] == ["item 4", "item 10", "item 2", "item 3", "item 1"]
    assert found["said"] == "descending"
    assert found["smallest"] == ["item 3", "item 2", "item 10", "item 4", "item 1"]  # what is not known stays last
    assert found["named"] == [f"item {k}" for k in (1, 2, 3, 4, 10)]
    assert found["back"] == found["named"][::-1]
    assert not found["unsaid"]
    assert found["foot"].startswith("all")


def test_points_answer_to_the_pointer(visit) -> None:
    """The only point of the second group: its path is where it was drawn."""
    script = """(outcome) => {
      const svg = first(), place = at(svg, "path[fill-opacity]:nth-last-of-type(1)");
      outcome.before = tip();
      svg.dispatchEvent(new PointerEvent("pointermove", { ...place, pointerType: "mouse" }));
      outcome.over = tip();
      outcome.ring = svg.querySelector(".ring").getAttribute("visibility");
      svg.dispatchEvent(new PointerEvent("pointerleave", { pointerType: "mouse" }));
      outcome.after = tip();
      svg.dispatchEvent(new PointerEvent("pointerdown", { ...place, pointerType: "touch" }));
      outcome.touched = tip();
      svg.dispatchEvent(new PointerEvent("pointerleave", { pointerType: "touch" }));
      outcome.stays = tip();
    }"""
    found = visit(page_text(make_report(make_plot())), script)
    assert found["before"] is None
    assert found["over"] == "fourthgroup bx (Å): 1.5y (eV): 0.5"
    assert found["ring"] == "visible"
    assert found["after"] is None
    assert found["touched"] == found["stays"] == found["over"]


def test_points_answer_to_the_keyboard(visit) -> None:
    script = """(outcome) => {
      const svg = first();
      const press = (key) => {
        svg.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
        return tip();
      };
      svg.focus();
      outcome.focused = document.activeElement === svg;
      outcome.seen = ["ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "Escape", "a"]
        .map(press);
    }"""
    found = visit(page_text(make_report(make_plot(diagonal=True))), script)
    assert found["focused"]
    names = [None if text is None else text.split("group")[0] for text in found["seen"]]
    assert names == ["first", "fourth", "second", "third", "first", "third", None, None]  # in the order of x
    assert "difference: 0.5" in found["seen"][0]


def test_groups_can_be_hidden(visit) -> None:
    script = """(outcome) => {
      const button = document.querySelectorAll(".legend button")[1];
      const count = () => first().querySelectorAll("path[fill-opacity]").length;
      outcome.counts = [count()];
      button.click(); outcome.counts.push(count()); outcome.pressed = button.getAttribute("aria-pressed");
      button.click(); outcome.counts.push(count());
    }"""
    found = visit(page_text(make_report(make_plot())), script)
    assert found == {"counts": [2, 1, 2], "pressed": "false"}


def test_names_with_markup_are_shown_as_text(visit) -> None:
    name = '<img src=x onerror="outcome.fault=1">&amp;'
    series = (Series(name, (1.0,), (2.0,), (name,)), Series("b", (2.0,), (1.0,), ("b",)))
    script = """(outcome) => {
      const svg = first();
      svg.dispatchEvent(new PointerEvent("pointermove", { ...at(svg, "path[fill-opacity]"), pointerType: "mouse" }));
      outcome.name = document.querySelector(".tip b").textContent;
      outcome.legend = document.querySelector(".legend span").textContent;
      outcome.images = document.images.length;
    }"""
    found = visit(page_text(make_report(Plot("p", name, name, name, series))), script)
    assert found == {"name": name, "legend": name, "images": 0}


@pytest.mark.parametrize(
    ("x", "y", "settings"),
    [
        ((), (), {}),
        ((1.0,), (1.0,), {}),
        ((0.0, 0.0), (0.0, 0.0), {"diagonal": True}),
        ((1e-12, 1e12), (1e-300, 1e300), {"log_x": True, "log_y": True}),
        ((0.0, -1.0, 5.0), (1.0, 2.0, 3.0), {"log_x": True}),
        ((1.0, 1.0000001), (-1e9, 1e9), {}),
        ((0.2, 0.9), (1.0, 2.0), {"log_x": True, "log_y": True}),
    ],
)
def test_odd_numbers(visit, x: tuple[float, ...], y: tuple[float, ...], settings: dict[str, bool]) -> None:
    script = """(outcome) => {
      const svg = first();
      outcome.odd = /NaN|Infinity|undefined/.test(svg.outerHTML);
      outcome.ticks = svg.querySelectorAll("text:not(.title)").length;
    }"""
    names = tuple(map(str, x))
    found = visit(page_text(make_report(Plot("p", "P", "x", "y", (Series("s", x, y, names),), **settings))), script)
    assert not found["odd"]
    assert 4 <= found["ticks"] < 30


def test_marks_along_the_axis(visit) -> None:
    line = Series("", (0.0, 0.5, 1.0), (1.0, 2.0, 1.0), line=True)
    plot = Plot("p", "P", "q", "THz", (line,), ticks=((0.0, "Γ"), (0.4, "X"), (1.0, "L")))
    script = """(outcome) => {
      outcome.marks = [...first().querySelectorAll('text[text-anchor="middle"]:not(.title)')].map((t) => t.textContent);
    }"""
    assert visit(page_text(make_report(plot)), script)["marks"] == ["Γ", "X", "L"]
