"""`uncertainty build` and `train --uncertainty`: what is written, which split and weights count, what is refused."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from bond_order_samples import make_bond_order
from commands.helpers import OWN, call, done, fresh_potential, names, new_names, refused, set_up, with_header

import pyfit_gpu as pf
from pyfit_gpu.commands.fit_beside import FitBeside
from pyfit_gpu.datasets.feature_rows import FeatureRows
from pyfit_gpu.formats.opening import load_training_set, read_frames
from pyfit_gpu.formats.uncertainty_file import load_uncertainty
from pyfit_gpu.models.error_bars import ErrorBars
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.training.laplace import build_error_bars

SHIFT = ("--e-shift", "106")
FIT = ("--potential", "si.nn.dat", "--steps", 2)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Structures with energies, as a set."""
    set_up(tmp_path, monkeypatch)
    done("prepare", "si.poscar.dat", "--potential", "si.nn.dat", "--out", "si.h5", *SHIFT, "--quiet")


def make_labelled() -> None:
    """The same structures with energies, forces and stress, of another potential."""
    done("train", "si.h5", *FIT, "--out", "labels.nn.dat", "--quiet")
    done("evaluate", "si.poscar.dat", "--potential", "labels.nn.dat", "--out", "all.extxyz", "--quiet")
    done("prepare", "all.extxyz", "--potential", "si.nn.dat", "--out", "all.h5", *SHIFT, "--quiet")


def bars_of(path: str) -> ErrorBars:
    found = load_uncertainty(path).error_bars
    assert found is not None
    return found


def assert_same(found: ErrorBars, expected: ErrorBars) -> None:
    torch.testing.assert_close(found.root, expected.root, rtol=1e-6, atol=0)
    for label, one in expected.calibrations.items():
        assert found.calibrations[label].n_values == one.n_values
        assert found.calibrations[label].factor == pytest.approx(one.factor, rel=1e-6)


class TestBuild:
    def test_beside_an_old_potential(self) -> None:
        before = names()
        said = done("uncertainty", "build", "si.h5", "--potential", "si.nn.dat").said
        assert new_names(before) == {"si.uncertainty.txt"}
        assert "error bars of energy: calibrated on" in said
        assert "warning: error bars of forces: not calibrated" in said
        assert re.search(r"warning: extrapolation grade: 1 cluster for Si: \d+ atoms train, coarse\n", said)
        assert re.search(r"extrapolation grade: Si: \d+ training atoms, 1 cluster\n", said)
        info = done("info", "si.uncertainty.txt").out
        assert re.search(r"error bars +of \d+ parameters, last-layer\n +energy: calibrated on \d+ validation val", info)
        assert "forces: not calibrated\n" in info
        whole, potential = pf.load_training_set("si.h5"), pf.load_potential("si.nn.dat")
        plan = whole.plan_split()
        expected = build_error_bars(potential, whole.select(plan.train), whole.select(plan.validation))
        assert_same(bars_of("si.uncertainty.txt"), expected)

    def test_a_physically_informed_potential(self) -> None:
        shutil.copy(OWN / "pinn_mode1.nn.dat", "pinn.nn.dat")
        done("prepare", "si.poscar.dat", "--potential", "pinn.nn.dat", "--out", "pinn.h5", *SHIFT, "--quiet")
        said = done("uncertainty", "build", "pinn.h5", "--potential", "pinn.nn.dat").said
        potential = pf.load_potential("pinn.nn.dat")
        n_parameters = (potential.networks.layer_sizes[-2] + 1) * 8
        assert f"of the last layer's {n_parameters} parameters decided by the data" in said
        assert "error bars of energy: calibrated on" in said
        whole = pf.load_training_set("pinn.h5")
        plan = whole.plan_split()
        expected = build_error_bars(potential, whole.select(plan.train), whole.select(plan.validation))
        assert_same(bars_of("pinn.uncertainty.txt"), expected)
        done("evaluate", "si.poscar.dat", "--potential", "pinn.nn.dat", "--out", "out.csv", "--forces-uncertainty")
        with open("out.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert 0 < max(float(row["highest_grade"]) for row in rows) < 100
        structures = Structures.from_frames(list(read_frames("si.poscar.dat")))
        found = predict(
            potential, structures, derivatives=False, uncertainty=load_uncertainty("pinn.uncertainty.txt")
        ).uncertainty
        for row, energy, size in zip(rows, found.energy.tolist(), structures.sizes, strict=True):
            assert float(row["energy_per_atom_uncertainty"]) == pytest.approx(energy / size, rel=1e-6)

    def test_a_physically_informed_potential_has_grades_alone_without_positions(self) -> None:
        shutil.copy(OWN / "pinn_mode1.nn.dat", "pinn.nn.dat")
        done("prepare", "si.poscar.dat", "--potential", "pinn.nn.dat", "--out", "pinn.h5", *SHIFT, "--quiet")
        done("convert", "pinn.h5", "pinn.dat")
        said = done("uncertainty", "build", "pinn.dat", "--potential", "pinn.nn.dat").said
        assert "warning: error bars: a physically informed network (squared form) needs positions, the set has" in said
        assert load_uncertainty("pinn.uncertainty.txt").error_bars is None

    def test_all_parameters_of_a_physically_informed_potential(self) -> None:
        """From the set to the columns of `evaluate`, through the file."""
        made = make_bond_order(form="plain", gaussian_centers=(2.2, 2.8), legendre_orders=(0,))
        pf.save_potential(made, "pinn.pinn")
        potential = pf.load_potential("pinn.pinn")
        done("prepare", "si.poscar.dat", "--potential", "pinn.pinn", "--out", "pinn.h5", *SHIFT, "--quiet")
        words = ("--potential", "pinn.pinn", "--error-bars", "all-parameters")
        said = done("uncertainty", "build", "pinn.h5", *words).said
        n_parameters = potential.networks.n_parameters
        assert f"of all {n_parameters} parameters decided by the data" in said
        assert f"of {n_parameters} parameters, all-parameters" in done("info", "pinn.uncertainty.txt").out
        whole = pf.load_training_set("pinn.h5")
        plan = whole.plan_split()
        expected = build_error_bars(
            potential, whole.select(plan.train), whole.select(plan.validation), form="all-parameters"
        )
        known = load_uncertainty("pinn.uncertainty.txt")
        assert torch.equal(known.error_bars.root, expected.root)
        done("evaluate", "si.poscar.dat", "--potential", "pinn.pinn", "--out", "out.csv", "--forces-uncertainty")
        structures = Structures.from_frames(list(read_frames("si.poscar.dat")))
        found = predict(potential, structures, derivatives=False, uncertainty=known).uncertainty
        with open("out.csv", newline="") as file:
            columns = [float(row["energy_per_atom_uncertainty"]) for row in csv.DictReader(file)]
        assert columns == pytest.approx([float(e) / n for e, n in zip(found.energy, structures.sizes, strict=True)])

    def test_with_forces(self) -> None:
        make_labelled()
        words = ("--force-weight", 0.1, "--stress-weight", 0.02, "--train-fraction", 0.7, "--seed", 5)
        said = done("uncertainty", "build", "all.h5", "--potential", "si.nn.dat", *words).said
        assert "force_weight 0.1, stress_weight 0.02" in said
        assert "error bars of forces: calibrated on" in said
        whole, potential = pf.load_training_set("all.h5"), pf.load_potential("si.nn.dat")
        plan = whole.plan_split(0.7, 5)
        expected = build_error_bars(
            potential, whole.select(plan.train), whole.select(plan.validation), weights={"forces": 0.1, "stress": 0.02}
        )
        assert_same(bars_of("si.uncertainty.txt"), expected)

    def test_a_set_that_is_read_piece_by_piece(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # The same numbers as with all features in memory.
        done("uncertainty", "build", "si.h5", "--potential", "si.nn.dat")
        whole, potential = pf.load_training_set("si.h5"), pf.load_potential("si.nn.dat")
        plan = whole.plan_split()
        read: list[int] = []
        original = FeatureRows.tensor
        monkeypatch.setattr(FeatureRows, "tensor", lambda self: read.append(len(self)) or original(self))
        lazy = load_training_set("si.h5", lazy=True)
        found = build_error_bars(potential, lazy.select(plan.train), lazy.select(plan.validation))
        assert read
        assert_same(found, bars_of("si.uncertainty.txt"))

    def test_several_potentials(self) -> None:
        done("train", "si.h5", *FIT, "--out", "b.nn.dat", "--quiet")
        shutil.copy("b.nn.dat", "a.nn.dat")
        before = names()
        done("uncertainty", "build", "si.h5", "--potential", "si.nn.dat", "a.nn.dat", "b.nn.dat")
        assert new_names(before) == {"si.uncertainty.txt", "a.uncertainty.txt", "b.uncertainty.txt"}
        for name in ("si", "a", "b"):
            load_uncertainty(f"{name}.uncertainty.txt").check(pf.load_potential(f"{name}.nn.dat"))

    def test_out(self) -> None:
        done("uncertainty", "build", "si.h5", "--potential", "si.nn.dat", "--out", "x.txt", "--penalty", "1e-3")
        assert bars_of("x.txt").penalties == (1e-3,)

    def test_all_parameters(self) -> None:
        make_labelled()
        words = ("--force-weight", 0.1, "--stress-weight", 0, "--error-bars", "all-parameters")
        said = done("uncertainty", "build", "all.h5", "--potential", "si.nn.dat", *words).said
        count = pf.load_potential("si.nn.dat").networks.n_parameters
        assert f"si.nn.dat: error bars of all {count} parameters:" in said
        assert f"of all {count} parameters decided by the data" in said
        assert "error bars of forces: calibrated on" in said
        whole, potential = pf.load_training_set("all.h5"), pf.load_potential("si.nn.dat")
        plan = whole.plan_split()
        expected = build_error_bars(
            potential,
            whole.select(plan.train),
            whole.select(plan.validation),
            weights={"forces": 0.1},
            form="all-parameters",
        )
        found = bars_of("si.uncertainty.txt")
        assert found.form == "all-parameters"
        torch.testing.assert_close(found.root @ found.root.T, expected.root @ expected.root.T, rtol=1e-6, atol=1e-9)
        assert f"error bars    of {count} parameters, all-parameters" in done("info", "si.uncertainty.txt").out
        words = ("all.extxyz", "--potential", "si.nn.dat", "--forces-uncertainty", "--out", "o.extxyz")
        assert done("evaluate", *words).said.count("error within 1 error bar for") == 2
        atoms = ase.io.read("o.extxyz", ":2")
        structures = Structures.from_frames(list(read_frames("all.extxyz")))
        known = load_uncertainty("si.uncertainty.txt")
        predicted = predict(potential, structures, uncertainty=known, force_errors=True).uncertainty
        assert predicted is not None
        assert atoms[1].info["energy_uncertainty"] == pytest.approx(float(predicted.energy[1]))
        own = predicted.forces[: len(atoms[0])]
        np.testing.assert_allclose(atoms[0].arrays["forces_uncertainty"], own.numpy(), rtol=1e-6, atol=1e-12)
        calculator = pf.PyfitCalculator("si.nn.dat", device="cpu")
        one = atoms[0].copy()
        one.numbers[:] = 14
        one.calc = calculator
        calculator.get_property("forces_uncertainty", one)
        np.testing.assert_allclose(calculator.results["forces_uncertainty"], own.numpy(), rtol=1e-6, atol=1e-12)
        assert calculator.results["energy_uncertainty"] == pytest.approx(atoms[0].info["energy_uncertainty"])


class TestRun:
    def test_split_and_weights_are_those_of_the_run_beside(self) -> None:
        make_labelled()
        weights = ("--force-weight", 0.3, "--stress-weight", 0, "--group-weight", "odd=2")
        done("train", "all.h5", *FIT, "--out", "fit.nn.dat", "--seed", 9, *weights, "--uncertainty")
        written = Path("fit.uncertainty.txt").read_bytes()
        said = done("uncertainty", "build", "all.h5", "--potential", "fit.nn.dat", "--overwrite").said
        assert "of the run beside it, fit.run.h5" in said
        assert "force_weight 0.3, stress_weight 0" in said
        assert "another split" not in said
        assert Path("fit.uncertainty.txt").read_bytes() == written

    @pytest.mark.parametrize("words", [("--train-fraction", 0.6), ("--test-groups", "odd"), ("--split", "mine")])
    def test_the_split_is_the_runs(self, words: tuple[object, ...]) -> None:
        done("train", "si.h5", *FIT, "--out", "fit.nn.dat", *words, "--quiet")
        build = ("uncertainty", "build", "si.h5", "--potential", "fit.nn.dat")
        assert "another split" not in done(*build).said
        said = done(*build, "--train-fraction", 0.8, "--test-groups", "even", "--overwrite").said
        assert "warning: fit.nn.dat: another split than the run's (fit.run.h5)" in said

    def test_members(self) -> None:
        fresh_potential("new.nn.dat", layers="3 40 4 1")
        words = ("--potential", "new.nn.dat", "--steps", 1, "--members", 2, "--out", "fit.nn.dat", "--uncertainty")
        done("train", "si.h5", *words)
        for name in ("fit", "fit.m000", "fit.m001"):
            load_uncertainty(f"{name}.uncertainty.txt").check(pf.load_potential(f"{name}.nn.dat"))
        # The run file, which holds all of them, has the grades that stand beside it.
        grades = pf.PyfitCalculator("fit.run.h5").uncertainty
        assert grades is not None
        assert grades.error_bars is None
        for words in (("evaluate", "si.poscar.dat"), ("select", "si.poscar.dat", "-n", 2, "--method", "grade")):
            done(*words, "--potential", "fit.run.h5", "--out", f"{words[0]}.extxyz")
        assert "extrapolation_grade" in ase.io.read("evaluate.extxyz").arrays
        written = Path("fit.m001.uncertainty.txt").read_bytes()
        said = done("uncertainty", "build", "si.h5", "--potential", "fit.m001.nn.dat", "--overwrite").said
        assert "of the run beside it, fit.run.h5" in said
        assert Path("fit.m001.uncertainty.txt").read_bytes() == written

    def test_a_run_of_another_network_does_not_count(self) -> None:
        fresh_potential("new.nn.dat", layers="3 40 4 1")
        done("train", "si.h5", "--potential", "new.nn.dat", "--steps", 1, "--out", "fit.nn.dat", "--quiet")
        found = FitBeside.of("fit.nn.dat", pf.load_potential("si.nn.dat"))
        assert found.run is None


class TestTrain:
    def test_single_precision(self) -> None:
        done("train", "si.h5", *FIT, "--out", "fit.nn.dat", "--uncertainty", "--dtype", "float32")
        load_uncertainty("fit.uncertainty.txt").check(pf.load_potential("fit.nn.dat"))

    def test_the_file_is_not_replaced_unasked(self) -> None:
        Path("fit.uncertainty.txt").write_text("mine\n")
        before = names()
        words = ("si.h5", *FIT, "--out", "fit.nn.dat", "--uncertainty")
        refused("train", *words, match="fit.uncertainty.txt")
        assert new_names(before) == set()

    def test_without_validation_it_is_not_calibrated(self) -> None:
        done("train", "si.h5", *FIT, "--out", "fit.nn.dat", "--uncertainty", "--train-fraction", 1)
        bars = bars_of("fit.uncertainty.txt")
        assert {one.n_values for one in bars.calibrations.values()} == {0}
        assert {one.factor for one in bars.calibrations.values()} == {bars.noise}


class TestEvaluate:
    def test_columns(self) -> None:
        make_labelled()
        done("uncertainty", "build", "all.h5", "--potential", "si.nn.dat")
        words = ("evaluate", "all.extxyz", "--potential", "si.nn.dat", "--forces-uncertainty")
        said = done(*words, "--out", "out.csv").said
        done(*words, "--out", "out.extxyz")
        assert said.count("error within 1 error bar for") == 2  # energies and forces
        structures = Structures.from_frames(list(read_frames("all.extxyz")))
        known = load_uncertainty("si.uncertainty.txt")
        expected = predict(pf.load_potential("si.nn.dat"), structures, uncertainty=known, force_errors=True).uncertainty
        assert expected is not None
        with open("out.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = [float(row["energy_per_atom_uncertainty"]) * int(row["n_atoms"]) for row in rows]
        np.testing.assert_allclose(found, expected.energy.numpy(), rtol=1e-12)
        atoms = ase.io.read("out.extxyz", ":")
        np.testing.assert_allclose([one.info["energy_uncertainty"] for one in atoms], expected.energy.numpy())
        forces = np.concatenate([one.arrays["forces_uncertainty"] for one in atoms])
        np.testing.assert_allclose(forces, expected.forces.numpy(), rtol=1e-12, atol=1e-14)

    def test_none(self) -> None:
        words = ("si.poscar.dat", "--potential", "si.nn.dat", "--out", "o.csv", "--forces-uncertainty")
        refused("evaluate", *words, match="with error bars, got none .pyfit-gpu uncertainty build")
        assert not Path("o.csv").exists()


class TestRefused:
    def refuse(self, *words: object, match: str) -> None:
        before = names()
        refused("uncertainty", "build", *words, match=match)
        assert new_names(before) == set()

    def test_a_set_of_another_descriptor(self) -> None:
        line = Path("si.nn.dat").read_text().splitlines()[3].split()
        with_header("other.nn.dat", {4: " ".join([*line[:2], str(float(line[2]) + 0.1), *line[3:]])})
        self.refuse("si.h5", "--potential", "other.nn.dat", match="si.h5 was not made for other.nn.dat")

    def test_a_weight_without_the_label(self) -> None:
        self.refuse("si.h5", "--potential", "si.nn.dat", "--force-weight", 1,
                    match="force_weight: expected 0, got 1.0: no training structure has forces")  # fmt: skip

    def test_random_weights(self) -> None:
        fresh_potential("new.nn.dat")
        self.refuse("si.h5", "--potential", "new.nn.dat", match="found one that asks for random weights")

    def test_a_run_file(self) -> None:
        done("train", "si.h5", *FIT, "--out", "fit.nn.dat", "--quiet")
        self.refuse("si.h5", "--potential", "fit.run.h5", match="found a run file")

    def test_one_name_for_several(self) -> None:
        self.refuse("si.h5", "--potential", "si.nn.dat", "si.nn.dat", "--out", "x.txt", match="expected one potential")

    def test_what_is_there(self) -> None:
        Path("si.uncertainty.txt").write_text("mine\n")
        self.refuse("si.h5", "--potential", "si.nn.dat", match="give --overwrite to replace it")
        assert Path("si.uncertainty.txt").read_text() == "mine\n"

    def test_the_potential_as_output(self) -> None:
        self.refuse("si.h5", "--potential", "si.nn.dat", "--out", "si.nn.dat", "--overwrite", match="si.nn.dat")

    def test_more_parameters_than_the_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Before the set is read: of two potentials none has a file then.
        shutil.copy("si.nn.dat", "a.nn.dat")
        monkeypatch.setattr("pyfit_gpu.devices.known_memory", lambda device: 1000)
        monkeypatch.setattr("pyfit_gpu.commands.uncertainty.load_training_set", None)
        words = ("--potential", "a.nn.dat", "si.nn.dat", "--error-bars", "all-parameters")
        self.refuse("si.h5", *words, match="MiB for error bars of all")

    def test_a_form(self) -> None:
        assert call("uncertainty", "build", "si.h5", "--potential", "si.nn.dat", "--error-bars", "x").status == 2

    def test_penalty(self) -> None:
        self.refuse("si.h5", "--potential", "si.nn.dat", "--penalty", 0, match="penalty: expected a number > 0")

    def test_no_task(self) -> None:
        assert call("uncertainty").status == 2
