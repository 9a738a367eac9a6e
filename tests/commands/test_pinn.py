"""Physically informed potentials on the command line: `new --pinn`, `info`, `convert`, and what is refused."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pair_sum
import pytest
from commands.helpers import OWN, done, poscar_blocks, refused, set_up, weights, write_poscar

import pyfit_gpu as pf


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)


def new(out: str, *words: object) -> str:
    return done("new", "--pinn", "--out", out, *words).said


class TestNew:
    def test_what_is_written(self) -> None:
        said = new("new.nn.dat", "--structures", "si.poscar.dat", "--elements", "Si")
        nn = pair_sum.read_nn_dat_header("new.nn.dat")
        assert (nn["gi_mode"], nn["randomize"], nn["max_random"]) == (2, True, 0.1)
        assert nn["layer_sizes"] == [40, 16, 16, 8]
        assert nn["baseline"]
        a, alpha, b, beta, h, sigma, a_angle, screening = nn["baseline_parameters"]
        assert 9 < a < 12 and 3 < alpha < 6 and 2 < b < 5 and 0.8 < beta < 1.6  # noqa: PT018
        assert (h, a_angle**2, screening**2) == (0, pytest.approx(0.85), pytest.approx(3 / 11 * alpha))
        assert sigma > 0.5
        assert "baseline of Si: " in said
        assert "energies of atomisation: prepare --e-shift atomisation" in said

    def test_the_shift_that_is_named(self) -> None:
        said = new("new.nn.dat", "--structures", "si.poscar.dat", "--elements", "Si")
        assert "prepare --e-shift atomisation" in said
        done("prepare", "si.poscar.dat", "--potential", "new.nn.dat", "--e-shift", "atomisation", "--out", "a.h5")
        found = pf.load_training_set("a.h5")
        per_atom = (found.energy_used / found.sizes).numpy()
        assert np.nanmin(per_atom) == pytest.approx(-4.63, abs=1e-3)

    def test_the_shift_that_a_warning_names(self) -> None:
        """Not `fit`, which would leave solids without binding."""
        new("new.nn.dat", "--structures", "si.poscar.dat", "--elements", "Si")
        words = ("prepare", "si.poscar.dat", "--potential", "new.nn.dat", "--overwrite", "--out", "a.h5", "--e-shift")
        assert "--e-shift atomisation brings them to the scale of bond-order potentials" in done(*words, "-5").err
        assert "on average" not in done(*words, "atomisation").err

    def test_plain_form(self) -> None:
        new(
            "new.pinn",
            "--elements",
            "Al",
            "--cutoff",
            "6",
            "--gi-mode",
            "5",
            "--max-random",
            "0.2",
            "--activation",
            "2",
        )
        potential = pf.load_potential("new.pinn")
        assert (potential.form, potential.descriptor.gi_mode, potential.max_random) == ("plain", 5, 0.2)
        assert potential.networks.activation == 2
        assert potential.bond_order_parameters[6] == 0.85
        said = done("info", "new.pinn").out
        assert "potential (.pinn)" in said
        assert "physically informed (plain form, 8 bond-order parameters), 40-16-16-8" in said
        assert "random weights are drawn" in said

    def test_two_elements(self) -> None:
        said = new("new.nn.dat", "--elements", "Si", "C", "--cutoff", "5")
        assert pf.load_potential("new.nn.dat").networks.layer_sizes == (120, 16, 16, 21)
        assert "baseline of C: " in said
        assert "energies of atomisation" in said
        refused("new", "--pinn", "--elements", "Si", "C", "--cutoff", "5", "--out", "two.pinn",
                match=r"two\.pinn: cannot hold what a training makes.*\.nn\.dat")  # fmt: skip

    @pytest.mark.parametrize("out", ["bare.nn.dat", "bare.pinn"])
    def test_without_a_network(self, out: str) -> None:
        new(out, "--elements", "Si", "C", "--cutoff", "5", "--hidden", "0")
        potential = pf.load_potential(out, seed=1)
        assert potential.is_bare
        assert potential.networks.layer_sizes == (0, 21)
        assert "none, bare bond-order potential" in done("info", out).out
        refused(
            "new", "--elements", "Si", "--cutoff", "5", "--hidden", "0", "--out", "x.nn.dat", match="hidden: .*above 0"
        )

    def test_a_straight_network_may_be_in_either_file(self) -> None:
        for out in ("a.nn.dat", "a.pinn"):
            done("new", "--elements", "Si", "--cutoff", "5", "--gi-mode", "2", "--out", out)
        found = [pf.load_potential(name, seed=1) for name in ("a.nn.dat", "a.pinn")]
        assert found[0].descriptor == found[1].descriptor
        assert not found[1].is_physically_informed
        refused("new", "--elements", "Si", "--cutoff", "5", "--out", "a.h5", match=r"a\.h5.*\.nn\.dat or \.pinn")


class TestFiles:
    @pytest.fixture
    def plain(self) -> str:
        new("start.pinn", "--elements", "Si", "--cutoff", "5", "--hidden", "3")
        done("convert", "start.pinn", "si.pinn")
        return "si.pinn"

    def test_conversions_that_keep_the_form(self, plain: str) -> None:
        done("convert", plain, "copy.pinn")
        assert Path("copy.pinn").read_bytes() == Path(plain).read_bytes()
        Path("PINN.dat").write_text("".join(Path(plain).read_text().splitlines(keepends=True)[3:]))
        done("convert", "PINN.dat", "from_dat.pinn")
        assert Path("from_dat.pinn").read_bytes() == Path(plain).read_bytes()
        assert "potential (.pinn)" in done("info", "PINN.dat").out

    def test_conversions_to_the_other_form(self, plain: str) -> None:
        refused("convert", plain, "x.nn.dat", match=r"x\.nn\.dat: cannot hold .*plain form.*\.pinn")
        refused("convert", OWN / "pinn_mode1.nn.dat", "x.pinn", match=r"x\.pinn: cannot hold .*squared form.*\.nn\.dat")
        refused("convert", plain, "x.h5", match=r"x\.h5: cannot hold")

    def test_straight_networks_go_both_ways(self) -> None:
        done("convert", "si.nn.dat", "si.pinn")
        done("convert", "si.pinn", "back.nn.dat")
        assert weights("back.nn.dat") == weights("si.nn.dat")

    def test_a_plain_start_where_squared_is_written(self, plain: str) -> None:
        done("prepare", "si.poscar.dat", "--potential", plain, "--out", "si.h5")
        words = ("train", "si.h5", "--potential", plain)
        refused(*words, "--out", "x.nn.dat", match=r"x\.nn\.dat: cannot hold .*plain form.*\.pinn")
        shutil.copy(OWN / "pinn_mode1.nn.dat", "own.nn.dat")
        refused(
            "train", "si.h5", "--potential", "own.nn.dat", "--out", "x.pinn", match=r"x\.pinn: cannot hold .*squared"
        )
        refused(*words, "--out", "x.h5", match=r"x\.h5: cannot hold .*\.nn\.dat or \.dat or \.pinn")

    def test_straight_and_informed_members(self, plain: str) -> None:
        words = ("evaluate", "si.poscar.dat", "--out", "x.csv", "--potential")
        refused(*words, "si.nn.dat", plain, match=r"si\.pinn cannot be a member.*straight.*plain form")
        refused(*words, plain, OWN / "pinn_mode1.nn.dat", match=r"pinn_mode1.*cannot be a member.*plain.*squared")


class TestScale:
    """Energies of a bond-order potential are those of atomisation, whether or not its file says an e_shift."""

    def evaluate(self, *words: object) -> str:
        shutil.copy(OWN / "pinn_mode1.nn.dat", "pinn.nn.dat")
        words = ("evaluate", "si.poscar.dat", "--potential", "pinn.nn.dat", "--out", "x.csv", "--overwrite", *words)
        return done(*words).err

    def test_references_on_another_scale_are_named_once(self) -> None:
        said = self.evaluate()
        assert said.count("e_shift") == 1
        (offset,) = re.findall(r"\(([\d.-]+) makes that average 0\)", said)
        rows = list(csv.DictReader(Path("x.csv").read_text().splitlines()))
        known = [row for row in rows if row["reference_energy_per_atom"]]
        errors = [float(row["energy_per_atom"]) - float(row["reference_energy_per_atom"]) for row in known]
        assert float(offset) == pytest.approx(np.mean(errors), rel=1e-5)
        assert "e_shift" not in self.evaluate("--e-shift", offset)

    def test_without_references_nothing_is_said(self) -> None:
        blocks = [["NO_DFT", *block[1:-1], "0.0"] for block in poscar_blocks("si.poscar.dat")]
        write_poscar("si.poscar.dat", blocks)
        assert "e_shift" not in self.evaluate()

    def test_info(self) -> None:
        said = done("info", OWN / "pinn_mode1.nn.dat").out
        assert "e_shift       unknown, energies are those of atomisation\n" in said
