"""The model of torch-sim against `predict`, by torch-sim's own check, and with systems that cannot go on."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from sample_sets import make_potential

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import load_potential
from pyfit_gpu.interfaces import systems as systems_module
from pyfit_gpu.models.potential import Potential, join_members
from pyfit_gpu.models.prediction import Prediction, predict, predict_batch
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.verlet import VerletList
from pyfit_gpu.training.clusters import build_extrapolation_grade

ts = pytest.importorskip("torch_sim", reason="torch-sim is not installed (pip install 'pyfit-gpu[torch-sim]')")
from pyfit_gpu.interfaces.torch_sim import PyfitModel  # noqa: E402

MakeFrame = Callable[..., Frame]
SILICON = Path(__file__).parents[1] / "data" / "si_small.nn.dat"
SHIFT = 107.0  # eV, its e_shift
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(scope="module")
def silicon() -> Potential:
    return load_potential(SILICON)


@pytest.fixture
def frames(random_frame: MakeFrame) -> list[Frame]:
    """Periodic systems of unequal sizes, not in the order of their sizes, with atoms far outside their cells."""
    return [random_frame(seed, size, scatter=2) for seed, size in enumerate((7, 2, 5, 7, 1), 1)]


def atoms_of(frame: Frame) -> Atoms:
    return Atoms(frame.atomic_numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)


def state_of(frames: Sequence[Frame], dtype: torch.dtype = torch.float64) -> Any:
    return ts.io.atoms_to_state([atoms_of(frame) for frame in frames], "cpu", dtype)


def in_matrix(six: torch.Tensor) -> torch.Tensor:
    xx, yy, zz, yz, xz, xy = six.unbind(-1)
    return torch.stack((xx, xy, xz, xy, yy, yz, xz, yz, zz), dim=-1).unflatten(-1, (3, 3))


def assert_is(found: dict[str, torch.Tensor], expected: Prediction, sizes: Sequence[int], shift: float) -> None:
    counts = torch.tensor(sizes)
    torch.testing.assert_close(found["energy"], expected.energy - counts * shift, **CLOSE)
    torch.testing.assert_close(found["energies"], expected.atomic_energies - shift, **CLOSE)
    torch.testing.assert_close(found["forces"], expected.forces, **CLOSE)
    torch.testing.assert_close(found["stress"], in_matrix(expected.stress), **CLOSE)


class TestValues:
    @pytest.mark.parametrize(
        ("skin", "late", "steps"),
        [
            (0.0, False, (0.0, 0.02, 0.3)),
            (0.5, False, (0.0, 0.02, 0.02, 0.3, 0.02, 0.02)),
            (0.5, True, (0.0, 0.02, 0.02, 0.02, 0.02, 0.02)),
        ],
    )
    def test_equal_predict(
        self, silicon: Potential, frames: list[Frame], skin: float, late: bool, steps: Sequence[float]
    ) -> None:
        """Along small and large moves: with neighbours that are new, remembered and outdated."""
        model, state = PyfitModel(silicon, skin=skin, late=late), state_of(frames)
        generator = torch.Generator().manual_seed(1)
        for step in steps:
            state.positions = state.positions + step * torch.randn(
                state.positions.shape, generator=generator, dtype=torch.float64
            )
            parts = state.positions.split([frame.n_atoms for frame in frames])
            moved = [replace(frame, positions=part.numpy()) for frame, part in zip(frames, parts, strict=True)]
            expected = predict(silicon, Structures.from_frames(moved))
            assert_is(model(state), expected, [frame.n_atoms for frame in frames], SHIFT)

    def test_cells_that_change_in_place(self, silicon: Potential, frames: list[Frame]) -> None:
        """Barostats change them so; the state's cells are columns, in memory perhaps the very rows that we need."""
        model, state = PyfitModel(silicon), state_of(frames)
        model(state)
        model(state)
        state.cell.mul_(1.01)
        state.positions.mul_(1.01)
        wider = [replace(frame, positions=1.01 * frame.positions, cell=1.01 * frame.cell) for frame in frames]
        expected = predict(silicon, Structures.from_frames(wider))
        assert_is(model(state), expected, [frame.n_atoms for frame in frames], SHIFT)

    def test_memory_order_of_cells(self, silicon: Potential, frames: list[Frame]) -> None:
        state, other = state_of(frames), state_of(frames)
        state.cell, other.cell = state.cell.contiguous(), state.cell.mT.contiguous().mT
        found = PyfitModel(silicon)(state), PyfitModel(silicon)(other)
        for name, value in found[0].items():
            assert torch.equal(value, found[1][name]), name

    @pytest.mark.parametrize("pbc", [True, False, torch.tensor([True, True, False])], ids=str)
    def test_periodicity(self, silicon: Potential, frames: list[Frame], pbc: Any) -> None:
        """One word for all axes in older versions, one number for each in newer ones."""
        state = state_of(frames)
        given = SimpleNamespace(
            positions=state.positions,
            cell=state.cell,
            pbc=pbc,
            atomic_numbers=state.atomic_numbers,
            system_idx=state.system_idx,
        )
        periodic = np.broadcast_to(np.asarray(pbc), 3)
        expected = predict(silicon, Structures.from_frames([replace(frame, pbc=periodic) for frame in frames]))
        assert_is(PyfitModel(silicon)(given), expected, [frame.n_atoms for frame in frames], SHIFT)

    def test_a_molecule_has_no_stress(self, silicon: Potential, make_frame: MakeFrame) -> None:
        state = state_of([make_frame([[0.0, 0.0, 0.0], [2.3, 0.0, 0.1]])])
        found = PyfitModel(silicon)(state)
        assert found["stress"].isnan().all()
        assert found["forces"].isfinite().all()

    def test_elements_and_shifts(self, random_frame: MakeFrame) -> None:
        potential = make_potential(("C", "Si"))
        frames = [random_frame(seed, 6, elements=("Si", "C", "C"), length=6.5) for seed in (1, 2)]
        found = PyfitModel(potential, e_shift={"Si": 1.5, "C": -20.0})(state_of(frames))
        expected = predict(potential, Structures.from_frames(frames))
        numbers = torch.tensor(np.concatenate([frame.atomic_numbers for frame in frames]))
        shifts = torch.where(numbers == 6, -20.0, 1.5).double()
        torch.testing.assert_close(found["energies"], expected.atomic_energies - shifts, **CLOSE)
        torch.testing.assert_close(found["energy"], found["energies"].view(2, 6).sum(dim=1), **CLOSE)

    @pytest.mark.parametrize("late", [False, True])
    def test_a_physically_informed_potential(self, own_data: Path, frames: list[Frame], late: bool) -> None:
        """Its energies depend on atoms farther away than its features do."""
        potential = load_potential(own_data / "pinn_mode1.nn.dat")
        assert potential.neighbor_cutoff > potential.descriptor.neighbor_cutoff
        model, state = PyfitModel(potential, e_shift=0.0, late=late), state_of(frames)
        expected = predict(potential, Structures.from_frames(frames))
        for _ in range(3):
            assert_is(model(state), expected, [frame.n_atoms for frame in frames], 0.0)

    def test_precision_of_results_is_the_states(self, silicon: Potential, frames: list[Frame]) -> None:
        expected = PyfitModel(silicon)(state_of(frames))
        for dtype in (torch.float32, torch.float64):
            found = PyfitModel(silicon, dtype="float32")(state_of(frames, dtype))
            assert {value.dtype for value in found.values()} == {dtype}
            # Positions of some 20 Å have seven digits in float32.
            torch.testing.assert_close(found["forces"].double(), expected["forces"], rtol=1e-3, atol=1e-4)

    def test_results_are_detached_and_the_state_is_as_before(self, silicon: Potential, frames: list[Frame]) -> None:
        state = state_of(frames)
        before = {name: getattr(state, name).clone() for name in ("positions", "cell", "system_idx", "atomic_numbers")}
        state.positions.requires_grad_()
        found = PyfitModel(silicon)(state)
        assert not any(value.requires_grad for value in found.values())
        for name, value in before.items():
            assert torch.equal(getattr(state, name), value), name

    def test_inference_mode(self, silicon: Potential, frames: list[Frame]) -> None:
        expected = PyfitModel(silicon)(state_of(frames))
        with torch.inference_mode():
            model, state = PyfitModel(silicon), state_of(frames)
            for _ in range(3):
                found = model(state)
            state.cell.mul_(1.01)
            wider = model(state)
        torch.testing.assert_close(found["forces"], expected["forces"], **CLOSE)
        assert not torch.equal(wider["stress"], found["stress"])


class TestOutputs:
    def test_can_be_switched_off(self, silicon: Potential, frames: list[Frame]) -> None:
        model, state = PyfitModel(silicon, compute_forces=False, compute_stress=False), state_of(frames)
        assert set(model(state)) == {"energy", "energies"}
        model.compute_stress = True
        assert set(model(state)) == {"energy", "energies", "stress"}
        model.compute_forces, model.compute_stress = True, False
        assert set(model(state)) == {"energy", "energies", "forces"}

    def test_spread(self, silicon: Potential, frames: list[Frame]) -> None:
        members = join_members([silicon.randomized(seed, max_random=0.3) for seed in range(3)])
        found = PyfitModel(members)(state_of(frames))
        expected = predict(members, Structures.from_frames(frames))
        torch.testing.assert_close(found["forces"], expected.forces, **CLOSE)
        torch.testing.assert_close(found["energy_std"], expected.spread.energy, **CLOSE)
        torch.testing.assert_close(found["forces_std"], expected.spread.forces, **CLOSE)
        torch.testing.assert_close(found["stress_std"], in_matrix(expected.spread.stress), **CLOSE)

    def test_grades(self, silicon: Potential, frames: list[Frame]) -> None:
        structures = Structures.from_frames(frames)
        grade = build_extrapolation_grade(build_training_set(structures.select([0, 1, 2]), silicon), silicon)
        uncertainty = Uncertainty.of(silicon, grade)
        found = PyfitModel(silicon, uncertainty=uncertainty)(state_of(frames))["extrapolation_grade"]
        expected = predict(silicon, structures, uncertainty=uncertainty).uncertainty.grade
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        assert len(found) == sum(structures.sizes)

    @pytest.mark.skipif(not hasattr(ts.SimState, "store_model_extras"), reason="torch-sim before 0.6")
    def test_further_outputs_stay_with_the_state(self, silicon: Potential, frames: list[Frame]) -> None:
        members = join_members([silicon.randomized(seed, max_random=0.3) for seed in range(2)])
        state, model = state_of(frames), PyfitModel(members)
        final = ts.integrate(state, model, integrator=ts.Integrator.nve, n_steps=2, temperature=10, timestep=1e-3)
        assert final.forces_std.shape == final.forces.shape
        assert final[2].energy_std.shape == (1,)


class TestChangingSystems:
    def test_other_systems(self, silicon: Potential, frames: list[Frame]) -> None:
        """Batches of torch-sim change so, with one model."""
        model = PyfitModel(silicon)
        for chosen in ([0, 1], [1, 0], [3], [0, 1], [2, 3, 4], [0, 3], [3, 0]):
            own = [frames[k] for k in chosen]
            expected = predict(silicon, Structures.from_frames(own))
            assert_is(model(state_of(own)), expected, [frame.n_atoms for frame in own], SHIFT)

    def test_elements_that_change_in_place(self, random_frame: MakeFrame) -> None:
        """Swaps of a Monte Carlo change them so."""
        potential = make_potential(("C", "Si"))
        frame = random_frame(1, 6, elements=("Si", "C", "C"), length=6.5)
        model, state = PyfitModel(potential, e_shift=0.0), state_of([frame])
        model(state)
        state.atomic_numbers.copy_(state.atomic_numbers.flip(0))
        swapped = replace(frame, atomic_numbers=frame.atomic_numbers[::-1].copy())
        assert_is(model(state), predict(potential, Structures.from_frames([swapped])), [6], 0.0)

    def test_batches(self, silicon: Potential, frames: list[Frame], monkeypatch: pytest.MonkeyPatch) -> None:
        expected = PyfitModel(silicon)(state_of(frames))
        monkeypatch.setattr(systems_module, "batch_atoms", lambda *_: 8)
        model = PyfitModel(silicon)
        found = model(state_of(frames))
        assert len(model._systems._parts) > 2
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, **CLOSE)

    def test_neighbours_are_remembered(
        self, silicon: Potential, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The same numbers in another state, as a copy between two runs makes one, do not end the lists."""
        searches: list[int] = []
        search = VerletList._search
        monkeypatch.setattr(VerletList, "_search", lambda *given: searches.append(1) or search(*given))
        model, state = PyfitModel(silicon), state_of(frames)
        for _ in range(4):
            model(state)
            state = state.clone()
            state.positions = state.positions + 0.01
        assert len(searches) == 2  # the first without the skin


class TestLostSystems:
    def test_one_that_is_not_a_number(
        self, silicon: Potential, frames: list[Frame], caplog: pytest.LogCaptureFixture
    ) -> None:
        model, state = PyfitModel(silicon), state_of(frames)
        whole = model(state)
        sick = state.system_idx == 2
        position = state.positions[sick][0].clone()
        state.positions[sick.nonzero()[0, 0]] = torch.nan
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                found = model(state)
        assert [record.getMessage().split(":")[0] for record in caplog.records] == [
            "1 of 5 systems are lost and get NaN"
        ]
        for name in ("energies", "forces"):
            assert found[name][sick].isnan().all(), name
            torch.testing.assert_close(found[name][~sick], whole[name][~sick], **CLOSE)
        others = torch.arange(len(frames)) != 2
        for name in ("energy", "stress"):
            assert found[name][2].isnan().all(), name
            torch.testing.assert_close(found[name][others], whole[name][others], **CLOSE)
        state.positions[sick.nonzero()[0, 0]] = position
        for name, value in model(state).items():
            torch.testing.assert_close(value, whole[name], **CLOSE)

    def test_one_that_nobody_asks_for(self, silicon: Potential, frames: list[Frame], make_frame: MakeFrame) -> None:
        """Where the device is asked late, nothing looks for numbers that are not finite, also not of atoms far away."""
        frames[2] = make_frame(
            [[0.0, 0.0, 0.0], [2.3, 0.0, 0.1], [15.0, 15.0, 15.0], [17.3, 15.0, 15.1]], np.eye(3) * 30
        )
        model, state = PyfitModel(silicon, late=True), state_of(frames)
        whole = model(state)
        sick = state.system_idx == 2
        state.positions[sick.nonzero()[0, 0]] = torch.nan
        for _ in range(3):
            found = model(state)
        assert not model._systems.lost
        for name, value in found.items():
            own = sick if len(value) == len(sick) else torch.arange(len(frames)) == 2
            assert value[own].isnan().all(), name
            torch.testing.assert_close(value[~own], whole[name][~own], **CLOSE)

    def test_from_the_start_and_all(self, silicon: Potential, frames: list[Frame]) -> None:
        model, state = PyfitModel(silicon), state_of(frames[:2])
        state.positions[:] = torch.inf
        for _ in range(2):
            assert all(value.isnan().all() for value in model(state).values())

    @pytest.mark.parametrize("value", [torch.nan, 0.0], ids=["nan", "flat"])
    def test_a_cell(self, silicon: Potential, frames: list[Frame], value: float) -> None:
        model, state = PyfitModel(silicon), state_of(frames)
        whole = model(state)
        good = state.cell.clone()
        state.cell[1, 0] = value
        found = model(state)
        assert found["energy"][1].isnan()
        torch.testing.assert_close(found["energy"][[0, 2, 3, 4]], whole["energy"][[0, 2, 3, 4]], **CLOSE)
        state.cell = good
        torch.testing.assert_close(model(state)["energy"], whole["energy"], **CLOSE)

    def test_two_atoms_at_one_place(self, silicon: Potential, frames: list[Frame]) -> None:
        model, state = PyfitModel(silicon), state_of(frames)
        whole = model(state)
        state.positions[0] = state.positions[1]
        for _ in range(2):
            found = model(state)
        assert found["energy"].isnan().tolist() == [True, False, False, False, False]
        torch.testing.assert_close(found["energy"][1:], whole["energy"][1:], **CLOSE)

    def test_with_spread_and_grades(self, silicon: Potential, frames: list[Frame]) -> None:
        grade = build_extrapolation_grade(build_training_set(Structures.from_frames(frames[:2]), silicon), silicon)
        members = join_members([silicon, silicon.randomized(1)])
        model = PyfitModel(members, uncertainty=Uncertainty.of(members, grade))
        state = state_of(frames)
        state.positions[0] = torch.nan
        found = model(state)
        assert {"energy_std", "extrapolation_grade", "stress_std"} < set(found)
        for name, value in found.items():
            first = 1 if len(value) == len(frames) else frames[0].n_atoms
            assert value[:first].isnan().all(), name
            assert not value[first:].isnan().any(), name


class TestRefused:
    def test_elements(self, silicon: Potential) -> None:
        state = ts.io.atoms_to_state([bulk("Cu")], "cpu", torch.float64)
        model = PyfitModel(silicon)
        for _ in range(2):
            with pytest.raises(InputError, match=r"system 0, atom 1: expected an element of the potential \(Si\)"):
                model(state)
        state.atomic_numbers = torch.zeros_like(state.atomic_numbers)
        with pytest.raises(InputError, match=r"expected elements of the potential \(Si\), found 0"):
            model(state)

    def test_a_fault_of_the_whole(
        self, silicon: Potential, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(potential: Potential, batch: Any, **given: object) -> Prediction:
            if len(batch.structures) > 2:
                raise InputError("memory: expected at least 7 TiB")
            return predict_batch(potential, batch, **given)

        monkeypatch.setattr(systems_module, "predict_batch", fail)
        with pytest.raises(InputError, match="7 TiB"):
            PyfitModel(silicon)(state_of(frames))

    def test_another_device(self, silicon: Potential, frames: list[Frame]) -> None:
        state = SimpleNamespace(positions=state_of(frames).positions.to("meta"))
        with pytest.raises(ValueError, match="the state is on meta, the potential on cpu"):
            PyfitModel(silicon)(state)

    def test_a_sentence_where_torch_sim_is_missing(self) -> None:
        hidden = "import sys; sys.modules['torch_sim'] = None\nimport pyfit_gpu.interfaces.torch_sim"
        done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=False)
        assert "PyfitModel needs torch-sim: pip install 'pyfit-gpu[torch-sim]'" in done.stderr


class TestTorchSim:
    def test_its_own_validation(self) -> None:
        """Elements and crystals of the function in old and new versions: silicon, magnesium, iron, benzene."""
        from torch_sim.models.interface import validate_model_outputs

        potential = make_potential(("Si", "Mg", "Fe", "C", "H"), gaussian_centers=(1.7, 3.3))
        model = PyfitModel(potential, e_shift=0.0, compute_stress=False)
        validate_model_outputs(model, torch.device("cpu"), torch.float64)

    def test_its_own_comparison_with_the_calculator(self) -> None:
        testing = pytest.importorskip("torch_sim.testing", reason="torch-sim before 0.6")
        from ase.data import chemical_symbols

        from pyfit_gpu.interfaces.ase import PyfitCalculator

        for name, make in testing.SIMSTATE_BULK_GENERATORS.items():
            state = make(torch.device("cpu"), torch.float64)
            elements = tuple(chemical_symbols[number] for number in state.atomic_numbers.unique().tolist())
            potential = make_potential(elements)
            model, calculator = (kind(potential, e_shift=0.0) for kind in (PyfitModel, PyfitCalculator))
            try:
                testing.assert_model_calculator_consistency(model, calculator, state)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from error

    def test_energy_is_conserved(self, silicon: Potential) -> None:
        crystals = [bulk("Si", "diamond", a=5.479, cubic=True) for _ in range(3)]
        torch.manual_seed(1)
        state = ts.io.atoms_to_state(crystals, "cpu", torch.float64)
        kwargs: dict[str, Any] = {"temperature": 600.0, "timestep": 1e-3}
        integrator = ts.Integrator.nve if hasattr(ts, "Integrator") else ts.nve
        model = PyfitModel(silicon)
        totals = []
        for _ in range(4):
            state = ts.integrate(state, model, integrator=integrator, n_steps=25, **kwargs)
            kinetic = (state.momenta.square().sum(dim=1) / state.masses / 2).view(3, 8).sum(dim=1)
            totals.append(state.energy + kinetic)
        drift = (torch.stack(totals) - totals[0]).abs().max() / 8
        assert float(kinetic.min()) > 0.1
        assert float(drift) < 2e-4  # eV per atom; the kinetic energy is about 0.05
