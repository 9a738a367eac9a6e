"""Learning curves from run files' histories and from logs."""

from __future__ import annotations

from sample_sets import make_potential

from pyfit_gpu.report.build import Findings, build_report
from pyfit_gpu.report.learning import Curves, learning_section
from pyfit_gpu.training.history import LabelErrors, MemberHistory

HISTORY = MemberHistory(
    loss=[1.0, 0.5, 0.25],
    validation={0: 2.0, 1: 0.75, 2: 0.9},
    errors=[LabelErrors({"energy": 1.0})] * 3,
    status="steps",
    kept_step=1,
)


def test_history_of_a_run_file() -> None:
    found = Curves.of_history("member 4", HISTORY.to_json())
    assert found == Curves("member 4", {0: 1.0, 1: 0.5, 2: 0.25}, {0: 2.0, 1: 0.75, 2: 0.9}, "steps", 1)


def test_logs() -> None:
    loss = "000000 1.0E+00 1.0 2.0 nan\n000001 5.0E-01 1.0 2.0 nan\n000002"  # the last row is being written
    assert Curves.of_logs("", loss, "000001 7.5E-01\n") == Curves("", {0: 1.0, 1: 0.5}, {1: 0.75})
    assert Curves.of_logs("", "", "").loss == {}


def test_section() -> None:
    section = learning_section([Curves.of_history("member 4", HISTORY.to_json())])
    assert section is not None
    (plot,) = section.plots
    assert plot.log_y
    assert [(one.label, one.x, one.y) for one in plot.series] == [
        ("member 4, training", (0.0, 1.0, 2.0), (1.0, 0.5, 0.25)),
        ("member 4, validation", (0.0, 1.0, 2.0), (2.0, 0.75, 0.9)),
    ]
    assert section.tables[0].rows == (("member 4", 2, 0.25, 0.9, 0.75, 1, 1, "steps"),)


def test_a_training_that_was_stopped_says_so() -> None:
    stopped = Curves("member 0", {0: 1.0, 4: 0.5}, {}, "running", 4)
    section = learning_section([stopped])
    assert section is not None
    assert "more time" in section.text[0]
    assert section.tables[0].rows[0][-1] == "its time, or a stop"
    ended = learning_section([Curves("member 0", {0: 1.0}, {}, "patience", 0)])
    assert ended is not None
    assert ended.text == ()
    for curves, expected in (
        (stopped, ("4 steps", "plain")),
        (Curves("", {0: 1.0}, {}, "running"), ("0 steps", "bad")),
    ):
        (fact,) = build_report(Findings(make_potential(), "fit.nn.dat", curves=[curves])).facts
        assert (fact.text, fact.tone) == expected


def test_numbers_that_a_logarithmic_axis_cannot_show() -> None:
    section = learning_section([Curves("", {0: float("inf"), 1: 0.0, 2: float("nan"), 3: 0.5}, {})])
    assert section is not None
    assert [one.x for one in section.plots[0].series] == [(3.0,)]


def test_long_curves_keep_both_ends_and_few_points() -> None:
    members = [Curves(f"member {k}", dict.fromkeys(range(20_001), 1.0), {}) for k in range(50)]
    section = learning_section(members)
    assert section is not None
    assert section.plots[0].n_points < 50_000
    for one in section.plots[0].series:
        assert (one.x[0], one.x[-1]) == (0, 20_000)
    assert [one.label for one in section.plots[0].series if one.label] == ["training"]


def test_nothing() -> None:
    assert learning_section([]) is None
    assert learning_section([Curves("", {}, {})]) is None
