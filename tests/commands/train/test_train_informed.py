"""`train` with physically informed networks: files of both forms, the baseline first, resuming, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands.helpers import INFORMED, call, done, log_rows, refused, set_up_informed, weights

import pyfit_gpu as pf


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set, drafts of an informed network in both forms and of a straight one."""
    set_up_informed(tmp_path, monkeypatch)
    done("new", *INFORMED, "--gi-mode", "2", "--out", "straight.nn.dat")


def train(*words: object, out: str = "out.pinn", start: str = "start.pinn") -> str:
    return done("train", "si.h5", "--potential", start, "--out", out, "--backup-dir", "", *words).said


def test_both_forms_are_trained_and_evaluated() -> None:
    for ending in ("pinn", "nn.dat"):
        out = f"out.{ending}"
        said = train("--steps", 2, "--seed", 3, "--overwrite", out=out, start=f"start.{ending}")
        assert "-4-8 (" in said
        rows = log_rows("out.loss.txt")
        assert rows[-1][1] < rows[0][1]
        potential = pf.load_potential(out)
        assert potential.form == ("plain" if ending == "pinn" else "squared")
        assert potential.use_baseline
        done("evaluate", "si.poscar.dat", "--potential", out, "--out", f"{ending}.csv")


def test_the_time_limit_holds_for_the_baseline_too() -> None:
    """A limit that has passed ends both its stages after a step; the network is trained for none."""
    common = ("--baseline", "fit", "--baseline-starts", 2, "--force-weight", 0, "--stress-weight", 0, "--steps", 1)

    def loss(*more: object) -> float:
        result = call("train", "si.h5", "--potential", "start.pinn", "--out", "out.pinn", "--overwrite", *common, *more)
        assert result.status == (75 if more else 0)
        said = result.said
        assert "baseline: 2 starts compete, up to 30 steps on " in said
        return float(said.split("baseline: loss ")[1].split()[0])

    assert loss("--max-time", "0.01s") > 1.05 * loss()


@pytest.mark.parametrize("members", [(), ("--members", 2)], ids=["one", "members"])
def test_baseline_first_and_resumed_bit_for_bit(members: tuple[object, ...]) -> None:
    """The run file has the fitted baseline: it is not fitted again."""
    common = ("--baseline", "fit", "--baseline-starts", 2, "--force-weight", 0, "--stress-weight", 0, *members)
    said = train("--steps", 4, *common, out="whole.pinn")
    assert "baseline: losses of 2 starts" in said
    assert "baseline of Si (A alpha B beta h sigma a lambda): " in said
    train("--steps", 2, *common)
    again = train("--steps", 4, "--resume", *common)
    assert "baseline: losses" not in again
    assert weights("out.pinn") == weights("whole.pinn")
    logs = {path.name: path.read_text() for path in Path().glob("whole*loss*.txt")}
    assert len(logs) == max(1, len(members))
    assert logs == {path.name.replace("out", "whole"): path.read_text() for path in Path().glob("out*loss*.txt")}
    found = pf.load_potential("out.pinn").bond_order_parameters
    assert found == pf.load_potential("whole.pinn").bond_order_parameters
    assert found != pf.load_potential("start.pinn", seed=1).bond_order_parameters
    refused("train", "si.h5", "--potential", "start.pinn", "--out", "out.pinn", "--resume", "--steps", 5, *members,
            "--force-weight", 0, "--stress-weight", 0, match="resume: baseline: expected fit")  # fmt: skip


def test_a_bare_potential_is_trained() -> None:
    done(
        "new",
        "--elements",
        "Si",
        "--cutoff",
        "3.6",
        "--n-centers",
        "4",
        "--hidden",
        "0",
        "--pinn",
        "--out",
        "bare.pinn",
        "--quiet",
    )
    train("--steps", 3, "--optimizer", "gauss-newton", "--l2", "1e-9", "--l2-form", "squared", start="bare.pinn")
    found = pf.load_potential("out.pinn")
    assert found.is_bare
    assert found.bond_order_parameters != pf.load_potential("bare.pinn").bond_order_parameters
    rows = log_rows("out.loss.txt")
    assert rows[-1][1] < 0.9 * rows[0][1]


@pytest.mark.parametrize("start", ["start.pinn", "start.nn.dat", "bare.pinn"])
def test_uncertainty_is_that_of_the_build_beside(start: str) -> None:
    """For the structures, split and weights of the run."""
    if start.startswith("bare"):
        words = ("--elements", "Si", "--cutoff", "3.6", "--n-centers", "4", "--hidden", "0", "--pinn", "--quiet")
        done("new", *words, "--out", start)
    ending = start.split(".", 1)[1]
    words = ("--steps", 1, "--uncertainty", "--negative-penalty", 0.5, "--seed", 4)
    said = train(*words, out=f"out.{ending}", start=start)
    assert "error bars of energy: calibrated on" in said
    written = Path("out.uncertainty.txt").read_bytes()
    assert b"error-bars" in written
    done("uncertainty", "build", "si.h5", "--potential", f"out.{ending}", "--overwrite")
    assert Path("out.uncertainty.txt").read_bytes() == written
    done("evaluate", "si.poscar.dat", "--potential", f"out.{ending}", "--out", "out.csv", "--forces-uncertainty")
    header, *rows = Path("out.csv").read_text().splitlines()
    assert "energy_per_atom_uncertainty" in header.split(",")
    assert len(rows) == 10


def test_plan_counts_bonds() -> None:
    said = done("plan", "si.h5", "--potential", "start.pinn").said
    assert "bonds kept" in said
    assert "bonds are kept, " in said
    assert "derivatives and bonds" not in said


def test_what_is_refused() -> None:
    start = ("train", "si.h5", "--potential", "start.pinn")
    refused(
        *start, "--out", "out.nn.dat", match=r"out.nn.dat: cannot hold .*plain form.*expected a name that ends in .pinn"
    )
    refused(
        *start,
        "straight.nn.dat",
        "--out",
        "out.pinn",
        match="expected a physically informed network .* found a straight",
    )
    refused(
        *start,
        "start.nn.dat",
        "--out",
        "out.pinn",
        match="expected a physically informed network .plain form.*found .*squared",
    )
    refused(*start, "--out", "out.pinn", "--optimizer", "gauss-newton", "--size-penalty", 0.1,
            match="size_penalty: expected 0 with gauss-newton, got 0.1")  # fmt: skip
    straight = ("train", "si.h5", "--potential", "straight.nn.dat", "--out", "out.nn.dat")
    refused(
        *straight, "--baseline", "fit", match="--baseline fit: expected a physically informed network, got a straight"
    )
    refused(*straight, "--spread-penalty", 0.1, match="spread_penalty: expected 0 for a straight network")
    refused(
        *start, "--out", "out.pinn", "--negative-penalty", -1, match="negative_penalty: expected a number >= 0, got -1"
    )


@pytest.mark.parametrize("method", ["0", "fit", "110"])
def test_energies_on_another_scale_are_warned_about(method: str) -> None:
    """Isolated atoms have no energy in a bond-order potential; of the set of the other tests nothing is said."""
    words = ("--force-weight", 0, "--stress-weight", 0, "--steps", 0)
    assert "those of atomisation" not in train(*words)
    done("prepare", "si.poscar.dat", "--potential", "start.pinn", "--out", "other.h5", "--e-shift", method, "--quiet")
    said = done("train", "other.h5", "--potential", "start.pinn", "--out", "other.pinn", *words).said
    assert "where the elements as solids have about -4.63: expected a set with another e_shift" in said
    straight = done("train", "other.h5", "--potential", "straight.nn.dat", "--out", "straight2.nn.dat", *words).said
    assert "those of atomisation" not in straight
