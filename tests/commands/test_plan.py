"""`plan`: the table, what is decided, what is refused, and that nothing is written or loaded."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands.helpers import done, refused, snapshot
from sample_sets import NAN, make_potential, make_set

from pyfit_gpu.formats.nn_dat import save_potential
from pyfit_gpu.formats.text_set import write_text_set
from pyfit_gpu.formats.training_set.reader import save_training_set

COMMAND = ("plan", "set.h5", "--potential", "start.nn.dat", "--device", "cpu", "--n-threads", "1")
PLAN = (*COMMAND, "--force-weight", "0", "--stress-weight", "0")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of 20,000 atoms, 40 MB, all of them far from each other; it has no stress."""
    settings = {"legendre_orders": tuple(range(16)), "gaussian_centers": tuple(1.5 + 0.15 * k for k in range(16))}
    training_set = make_set([20] * 1000, **settings)
    apart = 50.0 * torch.arange(20, dtype=torch.float64).repeat(1000)
    training_set = replace(
        training_set,
        positions=torch.stack((apart, torch.zeros_like(apart), torch.zeros_like(apart)), dim=1),
        pbc=torch.zeros_like(training_set.pbc),
        stress=torch.full_like(training_set.stress, NAN),
    )
    folder = tmp_path_factory.mktemp("plan")
    save_training_set(training_set, folder / "set.h5")
    save_potential(make_potential(**settings), folder / "start.nn.dat")
    return folder


@pytest.fixture(autouse=True)
def folder(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(prepared)


def total(out: str) -> float:
    return float(re.search(r"^total +([\d.]+) MiB$", out, re.MULTILINE)[1])


def test_the_table_adds_up_and_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyfit_gpu.datasets.feature_rows.FeatureRows.tensor", lambda rows: pytest.fail("read"))
    before = snapshot()
    out = done(*PLAN, "--memory", "1G").out
    assert snapshot() == before
    factors = {"B": 2.0**-20, "KiB": 2.0**-10, "MiB": 1.0}
    rows = re.findall(r"^(\w.*?)  +([\d.]+) (B|KiB|MiB|GiB)$", out, re.MULTILINE)
    names = [name for name, _, _ in rows]
    assert names[-2:] == ["total", "limit"]
    assert {"the program", "labels", "features", "history and vectors of the optimiser"} < set(names)
    assert sum(float(number) * factors[unit] for _, number, unit in rows[:-2]) == pytest.approx(total(out), abs=0.5)
    assert {name: number for name, number, _ in rows}["features"] == f"{20_000 * 257 * 8 / 2**20:.1f}"
    assert out.splitlines()[-1] == "features stay in memory, in blocks of up to 24576 atoms"


def test_a_limit_makes_it_stream() -> None:
    roomy = total(done(*PLAN, "--memory", "1G").out)
    out = done(*PLAN, "--memory", f"{roomy - 20}M").out
    assert total(out) < roomy - 20
    (line,) = (line for line in out.splitlines() if line.startswith("features are"))
    assert re.fullmatch(r"features are streamed: .* at every evaluation, in blocks of up to \d+ atoms", line)


@pytest.mark.parametrize(
    "words",
    [
        ("--members", "9"),
        ("--history-size", "900"),
        ("--l2", "auto"),
        ("--optimizer", "gauss-newton", "--l2", "1e-6"),
        ("--force-weight", "0.1"),
    ],
    ids=" ".join,
)
def test_what_costs_more(words: tuple[str, ...]) -> None:
    assert total(done(*PLAN, *words).out) > total(done(*PLAN).out)


def test_a_number_for_the_penalty_keeps_no_matrices() -> None:
    words = (*PLAN, "--optimizer", "gauss-newton", "--members", "9", "--memory", "100G")
    assert total(done(*words, "--l2", "1e-6").out) < total(done(*words, "--l2", "auto").out)
    assert total(done(*words).out) == total(done(*words, "--l2", "auto").out)


def test_a_label_that_no_structure_has() -> None:
    refused(*PLAN, "--stress-weight", "0.1", match="stress_weight: expected 0, got 0.1: no structure of set.h5 has")


def test_single_precision_costs_less() -> None:
    assert total(done(*PLAN, "--dtype", "float32").out) < total(done(*PLAN).out)


def test_derivatives_are_told() -> None:
    out = done(*PLAN, "--force-weight", "1").out
    assert re.search(r"^derivatives for forces are kept, [\d.]+ MiB$", out, re.MULTILINE)
    out = done(*PLAN, "--force-weight", "1", "--memory", f"{total(out) - 30}M").out
    assert re.search(r"^derivatives for forces: \d+% of [\d.]+ MiB are kept", out, re.MULTILINE)


def test_quiet() -> None:
    assert done(*PLAN, "--quiet").said == ""


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--memory", "100M"), r"memory: expected at least [\d.]+ MiB for this set and network, got 100.0 MiB"),
        (("--memory", "much"), "memory: expected a size above 0 such as 4G, 512M or 1.5GiB, got 'much'"),
        (("--members", "0"), "members: expected a whole number above 0, got 0"),
        (("--force-weight", "-1"), "force_weight: expected a number >= 0"),
        (("--steps", "5"), "unknown option --steps"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_refused(words: tuple[str, ...], match: str) -> None:
    refused(*PLAN, *words, match=match)


def test_another_potential_is_refused() -> None:
    save_potential(make_potential(), "other.nn.dat")
    words = ("plan", "set.h5", "--potential", "other.nn.dat")
    refused(*words, match=r"set.h5 was not made for other.nn.dat: legendre_orders")


def test_a_text_set() -> None:
    write_text_set(make_set(), "set.dat")
    save_potential(make_potential(), "small.nn.dat")
    out = done("plan", "set.dat", "--potential", "small.nn.dat", "--device", "cpu").out
    assert "features of a text set" in out
    words = ("plan", "set.dat", "--potential", "small.nn.dat", "--device", "cpu", "--memory", "9M")
    refused(*words, match="a text set is held in memory; converted to HDF5 it need not be")
