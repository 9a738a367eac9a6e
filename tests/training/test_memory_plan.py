"""Planned memory against what tensors really take, against real processes, and what is done to keep within a limit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bond_order_samples import make_bond_order
from held_memory import PeakMemory, held_bytes
from sample_sets import make_potential, make_set, make_settings

import pyfit_gpu
from pyfit_gpu.commands.parsing import parse_memory
from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.devices import format_bytes
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.training_set.reader import save_training_set
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.optimizers.curvature_pairs import CurvaturePairs
from pyfit_gpu.optimizers.gauss_newton_settings import GaussNewtonSettings
from pyfit_gpu.optimizers.lbfgs import LBFGS
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.closure import Closure
from pyfit_gpu.training.history import LabelErrors
from pyfit_gpu.training.loss import weighted_terms
from pyfit_gpu.training.memory_plan import MemoryPlan, objective_options, plan_memory
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.regularisation import Regularisation
from pyfit_gpu.training.set_sizes import SetSizes
from pyfit_gpu.training.settings import FitSettings

MIB = 2**20
LABELS = FitSettings(force_weight=0.3, stress_weight=0.7)
# Chunks hold atoms with as many neighbours, and are planned as full: with structures of all kinds they seldom are.
MIXED = 3
ELEMENTS = [("Si",), ("Si", "C")]
MORE_TERMS = {"gi_mode": 6, "cross_terms": 2, "triples": ((1, 1, 2), (2, 2, 2), (2, 2, 4), (2, 4, 4))}


class TestParseMemory:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("4G", 4 * 2**30),
            ("512M", 512 * MIB),
            ("1.5GiB", 3 * 2**29),
            ("1.5 gb", 3 * 2**29),
            (".5k", 512),
            ("2T", 2**41),
            ("123456", 123456),
            ("7B", 7),
        ],
    )
    def test_sizes(self, text: str, expected: int) -> None:
        assert parse_memory(text) == expected

    @pytest.mark.parametrize("text", ["", "G", "4X", "-4G", "0", "0G", "4 G G", "1e9", "nan", "4,5G", "0x10"])
    def test_refused(self, text: str) -> None:
        with pytest.raises(InputError, match=r"memory: expected a size above 0 such as 4G, 512M or 1\.5GiB, got"):
            parse_memory(text)

    @pytest.mark.parametrize(("count", "text"), [(5, "5 B"), (2048, "2.0 KiB"), (3 * 2**29, "1.5 GiB")])
    def test_format(self, count: int, text: str) -> None:
        assert format_bytes(count) == text


def bytes_of(plan: MemoryPlan, name: str) -> int:
    return sum(item.host for item in plan.items if item.name == name)


def roomy(training_set: TrainingSet, potential: Potential, settings: FitSettings, **keywords: object) -> MemoryPlan:
    return plan_memory(training_set, potential, settings, memory=2**40, n_threads=1, **keywords)


@pytest.fixture(params=ELEMENTS, ids="-".join)
def elements(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return request.param


@pytest.fixture(params=[{}, MORE_TERMS], ids=["pairs", "more terms"])
def terms(request: pytest.FixtureRequest) -> dict[str, object]:
    return request.param


@pytest.fixture
def crystal(
    mixed_frames: Callable[..., list[Frame]], elements: tuple[str, ...], terms: dict[str, object]
) -> tuple[TrainingSet, Potential]:
    """About 1,000 atoms with forces and, where there is a cell, stress; some structures have neither."""
    frames = [frame for seed in range(40) for frame in mixed_frames(elements, seed)]
    frames = [replace(frame, forces=None, stress=None) if k % 9 == 0 else frame for k, frame in enumerate(frames)]
    potential = make_potential(elements, hidden=(16, 12), legendre_orders=(0, 1, 2, 4), **terms)
    return build_training_set(Structures.from_frames(frames), potential), potential


@pytest.fixture
def larger(crystal: tuple[TrainingSet, Potential]) -> tuple[TrainingSet, Potential]:
    """The same structures twelve times."""
    return crystal[0].select(list(range(len(crystal[0]))) * 12), crystal[1]


class TestHeld:
    """Memory that is held all the time, against the tensors themselves."""

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_features_and_labels(self, elements: tuple[str, ...], dtype: torch.dtype) -> None:
        training_set = make_set(np.random.default_rng(0).integers(1, 40, 600).tolist(), elements)
        plan = roomy(training_set, make_potential(elements), FitSettings(), dtype=dtype)
        objective = Objective(training_set.to("cpu", dtype))
        features = sum(block.features.nbytes for lane in objective.lanes for block, _ in lane)
        assert bytes_of(plan, "features") == features
        own = held_bytes({name: value for name, value in vars(training_set).items() if name != "features"})
        others = held_bytes(objective.lanes, objective.label_weights, objective.target, objective.groups) - features
        # Beside the tensors: numbers of rows of a file (8), those for a moment (24), and group names.
        expected = 2 * (own + 8 * training_set.n_atoms) + others + 24 * training_set.n_atoms
        assert expected <= bytes_of(plan, "labels") <= 1.03 * expected

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_neighbours_and_derivatives(self, crystal: tuple[TrainingSet, Potential], dtype: torch.dtype) -> None:
        training_set, potential = crystal
        plan = roomy(training_set, potential, LABELS, dtype=dtype)
        assert plan.exact_pairs
        part = training_set.to("cpu", dtype)
        kept = Objective(part, LABELS.loss_weights)
        assert plan.jacobian_bytes == plan.kept_bytes == kept.kept_bytes > 0
        anew = Objective(part, LABELS.loss_weights, memory=0)
        found = held_bytes(anew.lanes) - held_bytes(Objective(part).lanes)
        assert bytes_of(plan, "neighbours") == pytest.approx(found, rel=0.04)
        assert held_bytes(kept.lanes) - held_bytes(anew.lanes) == plan.kept_bytes

    def test_a_sample_of_the_neighbours(
        self, crystal: tuple[TrainingSet, Potential], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exact = SetSizes.of(crystal[0], weighted_terms()[:1])
        monkeypatch.setattr("pyfit_gpu.training.set_sizes.SAMPLE_ATOMS", crystal[0].n_atoms // 3)
        sampled = SetSizes.of(crystal[0], weighted_terms()[:1])
        assert (exact.exact_pairs, sampled.exact_pairs) == (True, False)
        assert sampled.label_atoms == exact.label_atoms < crystal[0].n_atoms
        assert sampled.pairs == pytest.approx(exact.pairs, rel=0.15)
        assert sampled.places_for_pairs == pytest.approx(exact.places_for_pairs, rel=0.15)

    @pytest.mark.parametrize(("members", "history_size"), [(1, 100), (5, 7)])
    def test_lbfgs(self, members: int, history_size: int) -> None:
        """The optimiser's vectors; six more per member stand for those of a fit."""
        potential = make_potential(hidden=(16, 16))
        settings = make_settings(history_size=history_size)
        plan = roomy(make_set(), potential, settings, members=members)
        weights = potential.networks.flat().repeat(members, 1)
        optimizer = settings.optimizer.build(weights)
        optimizer.evaluate(lambda p, _: (p.square().sum(dim=1), 2 * p, p[:, :4]), range(members))
        assert isinstance(optimizer, LBFGS)
        assert isinstance(optimizer._vectors.pairs, CurvaturePairs)
        expected = held_bytes(optimizer) + 6 * weights.nbytes
        assert bytes_of(plan, "history and vectors of the optimiser") == pytest.approx(expected, rel=0.01)


class TestForAMoment:
    """Temporary memory of an evaluation: never more than planned, and not much less."""

    def peak(self, objective: Objective, potential: Potential) -> int:
        points = potential.networks.flat()
        objective.evaluate(points, potential.networks)
        with PeakMemory() as memory:
            objective.evaluate(points, potential.networks)
        assert memory.now < memory.peak
        return memory.peak

    def planned(self, plan: MemoryPlan) -> int:
        names = ("values and derivatives of blocks", "sums", "blocks that are read from the file")
        return sum(bytes_of(plan, name) for name in names)

    @pytest.mark.parametrize("kept", [True, False], ids=["kept", "anew"])
    def test_resident(self, larger: tuple[TrainingSet, Potential], kept: bool) -> None:
        training_set, potential = larger
        plan = roomy(training_set, potential, LABELS)
        if not kept:
            limit = plan.host - plan.kept_bytes // 2
            plan = plan_memory(training_set, potential, LABELS, memory=limit, n_threads=1)
        objective = Objective(training_set, LABELS.loss_weights, memory=plan.kept_bytes if kept else 0)
        assert (objective.kept_bytes > 0) == kept
        found, planned = self.peak(objective, potential), self.planned(plan)
        assert found <= planned <= (1.6 if kept else MIXED) * found

    def test_streamed(self, larger: tuple[TrainingSet, Potential], tmp_path: Path) -> None:
        save_training_set(larger[0], tmp_path / "set.h5")
        training_set = load_training_set(tmp_path / "set.h5", lazy=True)
        sizes = SetSizes.of(training_set, weighted_terms())
        limit = 2**40
        while not (plan := plan_memory(sizes, larger[1], LABELS, memory=limit, n_threads=1)).stream:
            limit = plan.host - MIB
        objective = Objective(training_set, LABELS.loss_weights, **objective_options(plan))
        found, planned = self.peak(objective, larger[1]), self.planned(plan)
        assert found <= planned <= MIXED * found

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_energies(self, elements: tuple[str, ...], dtype: torch.dtype) -> None:
        training_set = make_set([40] * 200, elements)
        potential = make_potential(elements, hidden=(16, 12))
        objective = Objective(training_set.to("cpu", dtype))
        found = self.peak(objective, potential)
        planned = self.planned(roomy(training_set, potential, FitSettings(), dtype=dtype))
        assert found <= planned <= 1.6 * found

    @pytest.mark.parametrize("settings", [FitSettings(), LABELS], ids=["energies", "forces"])
    @pytest.mark.parametrize("elements", [("Si",), ("Si", "C")], ids="-".join)
    def test_physically_informed_networks(
        self, mixed_frames: Callable[..., list[Frame]], elements: tuple[str, ...], settings: FitSettings
    ) -> None:
        """Bonds are computed in pieces, all at once in a small set."""
        frames = [replace(one, energy=-1.0) for seed in range(12) for one in mixed_frames(elements, seed)]
        potential = make_bond_order(elements, max_random=0.1)
        shifts = dict.fromkeys(elements, 0.0)
        training_set = build_training_set(Structures.from_frames(frames), potential, e_shift=shifts)
        plan = roomy(training_set, potential, settings)
        objective = Objective(training_set, settings.loss_weights, memory=plan.kept_bytes, potential=potential)
        found, planned = self.peak(objective, potential), self.planned(plan)
        assert found <= planned <= 3 * found


def evidence_and_step(training_set: TrainingSet, potential: Potential, settings: FitSettings, memory: float) -> int:
    """Most bytes of an estimate of the penalty and of two steps after it, as a fit makes them."""
    objective = Objective(training_set, settings.loss_weights, memory=memory)
    networks = potential.networks.to("cpu", torch.float64)
    regularisation = Regularisation(networks, settings, objective.n_residuals)
    closure = Closure(objective, networks, regularisation.penalty)
    optimizer = settings.optimizer.build(networks.flat())
    with PeakMemory() as found:
        if regularisation.chooses:
            regularisation.begin(0, 0.1)
            parameters = optimizer.parameters[0]
            assert regularisation.update(0, closure, parameters, 0.1, LabelErrors({"energy": 0.1}), keep=True)
        optimizer.step(closure, [0])
        optimizer.step(closure, [0])
    return found.peak


@pytest.fixture
def equal_cells(make_frame: Callable[..., Frame]) -> list[Frame]:
    """Cells of 8 atoms in which all have as many neighbours, so that tables are full."""
    rng = np.random.default_rng(0)
    quarters = np.array([[0, 0, 0], [1, 1, 1], [0, 2, 2], [1, 3, 3], [2, 0, 2], [3, 1, 3], [2, 2, 0], [3, 3, 1]])
    labels = {"energy": -2.0, "stress": np.zeros(6)}
    return [
        make_frame(
            5.43 / 4 * quarters + rng.normal(scale=0.02, size=(8, 3)),
            5.43 * np.eye(3),
            symbols=["Si", "C"] * 4,
            forces=rng.normal(size=(8, 3)),
            **labels,
        )
        for _ in range(80)
    ]


class TestMatrices:
    """Memory of J^T J, of the evidence and of Gauss-Newton's steps."""

    NAMES = (
        "J^T J",
        "rows of J and what they are made of",
        "sums",
        "values and derivatives of blocks",
        "history and vectors of the optimiser",
    )
    BOTH = replace(LABELS, optimizer=GaussNewtonSettings(), l2="auto", l2_form="squared")

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize("kept", [True, False], ids=["kept", "anew"])
    @pytest.mark.parametrize(
        ("hidden", "changes"),
        [
            ((4,), {}),
            ((16, 12), {}),
            ((16, 12), {"l2": 0.0}),
            ((16, 12), {"force_weight": 0.0, "stress_weight": 0.0}),
        ],
        ids=str,
    )
    def test_a_step(
        self,
        equal_cells: list[Frame],
        hidden: tuple[int, ...],
        changes: dict[str, object],
        kept: bool,
        dtype: torch.dtype,
    ) -> None:
        potential = make_potential(("Si", "C"), hidden=hidden)
        training_set = build_training_set(Structures.from_frames(equal_cells), potential).to("cpu", dtype)
        settings = replace(self.BOTH, **changes)
        plan = roomy(training_set, potential, settings, dtype=dtype)
        if not kept and plan.kept_bytes:
            limit = plan.host - plan.kept_bytes // 2
            plan = plan_memory(training_set, potential, settings, dtype=dtype, memory=limit, n_threads=1)
        found = evidence_and_step(training_set, potential, settings, plan.kept_bytes if kept else 0)
        planned = sum(bytes_of(plan, name) for name in self.NAMES)
        # Rows and the solution, both counted, are not there at once.
        assert found <= planned <= 3.4 * found

    @pytest.mark.parametrize("elements", [("Si",), ("Si", "C")], ids="-".join)
    @pytest.mark.parametrize("hidden", [None, (4,), (16, 12)], ids=["bare", "4", "16-12"])
    def test_a_step_of_physically_informed_networks(
        self, equal_cells: list[Frame], elements: tuple[str, ...], hidden: tuple[int, ...] | None
    ) -> None:
        """Turns of slopes go the way of the moves."""
        potential = make_bond_order(elements, "plain", bare=hidden is None, max_random=0.1)
        if hidden is not None:
            sizes = (potential.descriptor.n_features, *hidden, potential.networks.layer_sizes[-1])
            networks = ElementNetworks.random(sizes, 0.1, 3, n_elements=len(elements), activation=0)
            potential = replace(potential, networks=networks)
        symbols = np.array([14, 6]) if len(elements) > 1 else np.array([14])
        frames = [replace(frame, atomic_numbers=np.resize(symbols, frame.n_atoms)) for frame in equal_cells]
        training_set = build_training_set(Structures.from_frames(frames), potential)
        plan = roomy(training_set, potential, self.BOTH)
        objective = Objective(training_set, self.BOTH.loss_weights, potential=potential)
        assert plan.kept_bytes == pytest.approx(objective.kept_bytes, rel=0.05)
        point = potential.networks.flat()
        list(objective.normal_matrices(point, potential.networks))  # places of derivatives stay
        with PeakMemory() as found:
            list(objective.normal_matrices(point, potential.networks))
        planned = sum(bytes_of(plan, name) for name in self.NAMES)
        # A solution for which there are more matrices than for one sum of rows is planned for as well.
        assert found.peak <= planned - bytes_of(plan, "J^T J") + 24 * point.shape[1] ** 2 <= 3.6 * found.peak

    def test_a_network_that_is_too_large(self, equal_cells: list[Frame]) -> None:
        """LBFGS would do; the number that is named does."""
        potential = make_potential(("Si", "C"), hidden=(40, 40))
        training_set = build_training_set(Structures.from_frames(equal_cells), potential)
        limit = roomy(training_set, potential, LABELS).host
        with pytest.raises(InputError, match=r"memory: expected at least [\d.]+ [GM]iB") as error:
            plan_memory(training_set, potential, self.BOTH, memory=limit, n_threads=1)
        found = re.search(r"at least ([\d.]+) ([GM])iB", str(error.value))
        assert found is not None
        named = int((float(found[1]) + 0.06) * (MIB if found[2] == "M" else 2**30))
        plan = plan_memory(training_set, potential, self.BOTH, memory=named, n_threads=1)
        assert plan.host > limit + 4 * 8 * potential.networks.n_parameters**2


class TestDecisions:
    def stored(self, training_set: TrainingSet, path: Path) -> TrainingSet:
        save_training_set(training_set, path)
        return load_training_set(path, lazy=True)

    def plans(self, sizes: SetSizes, potential: Potential, settings: FitSettings, **keywords: object) -> list:
        """With less and less memory, until there is too little."""
        found: list[MemoryPlan] = []
        with pytest.raises(InputError, match=r"memory: expected at least [\d.]+ MiB for this set and network, got"):
            self.shrink(
                lambda limit: plan_memory(sizes, potential, settings, memory=limit, n_threads=1, **keywords), found
            )
        return found

    def shrink(self, plan: Callable[[int], MemoryPlan], found: list[MemoryPlan]) -> None:
        limit = 2**40
        while True:
            found.append(plan(limit))
            assert found[-1].limited <= limit
            limit = found[-1].limited - MIB // 4

    def test_from_roomy_to_impossible(self, larger: tuple[TrainingSet, Potential], tmp_path: Path) -> None:
        """Fewer derivatives, then streaming, then smaller blocks."""
        training_set = self.stored(larger[0], tmp_path / "set.h5")
        seen = []
        for plan in self.plans(SetSizes.of(training_set, weighted_terms()), larger[1], LABELS):
            whole = plan.kept_bytes == plan.jacobian_bytes
            resident = "kept" if whole else "partly" if plan.kept_bytes else "anew"
            seen.append(("streamed" if plan.block_atoms is None else "small blocks") if plan.stream else resident)
        order = list(dict.fromkeys(seen))
        assert order == [name for name in ("kept", "partly", "anew", "streamed", "small blocks") if name in order]
        assert {"kept", "partly", "streamed", "small blocks"} <= set(order)

    def test_features_are_not_read(
        self, crystal: tuple[TrainingSet, Potential], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        training_set = self.stored(crystal[0], tmp_path / "set.h5")
        monkeypatch.setattr("pyfit_gpu.datasets.feature_rows.FeatureRows.tensor", lambda rows: pytest.fail("read"))
        assert roomy(training_set, crystal[1], LABELS).host > 0

    def test_a_set_in_memory_costs_more(self, crystal: tuple[TrainingSet, Potential], tmp_path: Path) -> None:
        lazy = self.stored(crystal[0], tmp_path / "set.h5")
        both = [roomy(part, crystal[1], FitSettings()).host for part in (lazy, crystal[0])]
        assert both[1] - both[0] == 2 * crystal[0].features.nbytes
        with pytest.raises(InputError, match=r"a text set is held in memory; converted to HDF5"):
            plan_memory(crystal[0], crystal[1], FitSettings(), memory=MIB)

    def test_on_a_gpu(self, larger: tuple[TrainingSet, Potential], tmp_path: Path) -> None:
        """Planned without one: what is large lies on the device, and blocks become smaller before streaming."""
        training_set = self.stored(larger[0], tmp_path / "set.h5")
        sizes = SetSizes.of(training_set, on_gpu=True)
        plans = self.plans(sizes, larger[1], make_settings(history_size=5), members=32, device="cuda")
        order = list(dict.fromkeys((plan.stream, plan.block_atoms is None) for plan in plans))
        assert order == [(False, True), (False, False), (True, False)]
        assert all(2 * plan.block_atoms > 512 for plan in plans if plan.block_atoms)
        plan = plans[-1]
        assert objective_options(plan) == {"stream": True, "block_atoms": plan.block_atoms, "memory": 0}

    def test_recordings_on_a_gpu(self, crystal: tuple[TrainingSet, Potential], monkeypatch: pytest.MonkeyPatch) -> None:
        """Energies, forces and J^T J are recorded for as many members as one recording has."""

        def recorded(settings: FitSettings, members: int) -> int:
            plan = plan_memory(*crystal, settings, members=members, device="cuda", memory=2**40)
            return next((item.device for item in plan.items if item.name == "recorded operations"), 0)

        forces = FitSettings(force_weight=0.1)
        gauss_newton = FitSettings(force_weight=0.1, optimizer=GaussNewtonSettings(), l2_form="squared")
        assert 0 < recorded(FitSettings(), 4) < recorded(forces, 4) < recorded(gauss_newton, 4)
        n_atoms = crystal[0].n_atoms
        monkeypatch.setattr("pyfit_gpu.training.memory_plan.RECORDED_ATOMS", (9 * n_atoms, 4 * n_atoms))
        assert recorded(forces, 2) < recorded(forces, 4) == recorded(forces, 32)
        monkeypatch.setattr("pyfit_gpu.training.memory_plan.RECORDED_ATOMS", (n_atoms - 1, n_atoms - 1))
        assert recorded(FitSettings(), 4) == recorded(forces, 4) == 0

    def test_options_are_those_of_an_objective(self, larger: tuple[TrainingSet, Potential], tmp_path: Path) -> None:
        training_set = self.stored(larger[0], tmp_path / "set.h5")
        plan = roomy(training_set, larger[1], LABELS)
        limit = plan.host - plan.kept_bytes // 4
        plan = plan_memory(training_set, larger[1], LABELS, memory=limit, n_threads=1)
        objective = Objective(training_set, LABELS.loss_weights, **objective_options(plan))
        assert 0 < objective.kept_bytes <= plan.kept_bytes < plan.jacobian_bytes

    def test_members_cost(self, crystal: tuple[TrainingSet, Potential]) -> None:
        one = roomy(*crystal, FitSettings())
        assert roomy(*crystal, FitSettings(), members=8).host > one.host


TRAIN = """
import json, re, sys
import pyfit_gpu as pf, torch
from pyfit_gpu.training import fit as training
from pyfit_gpu.training.settings import FitSettings
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.training.closure import Closure
from pyfit_gpu.training.history import LabelErrors
from pyfit_gpu.training.loss import weighted_terms
from pyfit_gpu.training.memory_plan import objective_options, plan_memory
from pyfit_gpu.training.objective import Objective
torch.set_num_threads(1)
path, network, limit, force_weight = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
program = peak()
potential = pf.load_potential(network)
optimizer = pf.LBFGSSettings(history_size=20, max_iterations=4)
settings = FitSettings(steps=2, optimizer=optimizer, force_weight=force_weight)
whole = load_training_set(path, lazy=True)
plan = plan_memory(whole, potential, settings, memory=limit, n_threads=1)
history = pf.fit(potential, *whole.split(), settings=settings, plan=plan)
print(json.dumps({"program": program, "peak": peak(), "loss": history.loss, "stream": plan.stream, "plan": plan.host,
                  "planned_program": plan.items[0].host, "kept": plan.kept_bytes}))
"""


class TestProcesses:
    """A set of 110 MB is trained on in processes of their own."""

    @pytest.fixture(scope="class")
    @staticmethod
    def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp("processes")
        settings = {"legendre_orders": (0, 1, 2, 3, 4, 5, 6, 8), "gaussian_centers": tuple(np.linspace(1.5, 4.0, 16))}
        sizes = np.random.default_rng(0).integers(1, 60, 3600).tolist()
        save_training_set(make_set(sizes, hidden=(16, 16), **settings), folder / "set.h5")
        pyfit_gpu.save_potential(make_potential(hidden=(16, 16), **settings), folder / "start.nn.dat")
        return folder / "set.h5", folder / "start.nn.dat"

    def train(self, files: tuple[Path, Path], limit: int) -> dict[str, float]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(pyfit_gpu.__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "error",
        }
        words = [sys.executable, "-c", TRAIN, *map(str, files), str(limit), "0"]
        result = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    @pytest.mark.slow
    def test_within_the_limit(self, files: tuple[Path, Path]) -> None:
        """Resident, and streamed with less than what the features take: the same losses, bit for bit."""
        features = files[0].stat().st_size
        assert features > 100 * MIB
        resident = self.train(files, 2**40)
        streamed = self.train(files, int(resident["plan"] - features / 4))
        assert (resident["stream"], streamed["stream"]) == (False, True)
        assert resident["loss"] == streamed["loss"]
        assert resident["peak"] - streamed["peak"] > 0.8 * (resident["plan"] - streamed["plan"]) > 0.35 * features
        for found in (resident, streamed):
            taken, planned = found["peak"] - found["program"], found["plan"] - found["planned_program"]
            assert 0.5 * planned <= taken <= planned + 16 * MIB  # what libraries load at their first use
