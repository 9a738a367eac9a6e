"""Contents of reports: thinning, JSON, numbers as text."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from report_samples import make_plot, make_report

from pyfit_gpu.report.contents import Plot, Series, Value, number, plain


def cloud(count: int, *, diagonal: bool = False, line: bool = False) -> Plot:
    rng = np.random.default_rng(0)
    half = count // 2
    x, y = rng.normal(size=(2, count)).tolist()
    names = tuple(f"point {k}" for k in range(count))
    series = [
        Series("one", tuple(x[:half]), tuple(y[:half]), names[:half]),
        Series("two", tuple(x[half:]), tuple(y[half:]), names[half:], look=1),
    ]
    if line:
        series.insert(1, Series("line", (0.0, 1.0), (0.0, 1.0), line=True))
    return Plot("cloud", "Cloud", "x", "y", tuple(series), diagonal=diagonal)


def points_of(plot: Plot) -> dict[str, tuple[float, float]]:
    named = [one for one in plot.series if not one.line]
    return {name: (x, y) for one in named for x, y, name in zip(one.x, one.y, one.names, strict=True)}


@pytest.mark.parametrize("diagonal", [False, True])
def test_thinned_plots_keep_the_farthest_points_and_say_so(diagonal: bool) -> None:
    plot = cloud(1000, diagonal=diagonal, line=True)
    found = plot.thinned(100)
    assert found.notes == "100 of 1000 points: the farthest out and every n-th of the others."
    assert [one.label for one in found.series] == ["one", "line", "two"]
    assert found.series[1] == plot.series[1]
    points, kept = points_of(plot), points_of(found)
    assert len(kept) == 100
    assert found.thinned(50).notes.startswith("50 of 1000 points")
    assert kept.items() <= points.items()
    distance = {name: abs(y - x) if diagonal else abs(y) for name, (x, y) in points.items()}
    assert set(sorted(distance, key=lambda name: -distance[name])[:20]) <= kept.keys()


def test_few_points_stay_as_they_are() -> None:
    assert cloud(100).thinned(100) == cloud(100)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-2.1e-16, "0"),
     (12.3456, "12.35"), (-0.012345, "−0.01235"), (123456.0, "123456"), (-106.527123, "−106.527"),
     (1.5e-7, "1.500e−07"), (math.nan, "–"), (math.inf, "–")],
)  # fmt: skip
def test_numbers_for_readers(value: float, text: str) -> None:
    assert number(value) == text


def test_json_holds_everything_and_no_nan() -> None:
    content = json.loads(json.dumps(make_report(make_plot()).to_json(), allow_nan=False))
    assert (content["format"], content["version"]) == ("pyfit-gpu report", 1)
    section = content["sections"][0]
    assert section["tables"][0]["rows"] == [["b", 2.0], ["a", 10.0], ["c", None]]
    assert section["plots"][0]["series"][0]["names"] == ["first", "second", "third"]
    assert section["plots"][0]["series"][0]["y"] == [1.5, 2.5, 2.0]


def test_plain_values() -> None:
    assert plain({"a": np.float64(1.5), "b": (1, math.nan), "c": np.arange(2)}) == {
        "a": 1.5,
        "b": [1, None],
        "c": [0, 1],
    }


def test_full_names_of_values() -> None:
    assert Value("C11", 1.0, "GPa", "diamond").full_name == "C11 of diamond"
    assert Value("energy-rmse", 1.0, "meV/atom").full_name == "energy-rmse"
