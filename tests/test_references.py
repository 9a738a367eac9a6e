"""Features, bond-order parameters, energies, forces and stress against older programs' output and a NumPy pair sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ase.io
import bond_order_sum
import numpy as np
import pair_sum
import pytest
import torch
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import GPa

from pyfit_gpu.formats.dft_text import read_dft_text
from pyfit_gpu.formats.nn_dat import load_potential
from pyfit_gpu.models.batches import featurize
from pyfit_gpu.models.energy import local_parameters
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import Prediction, evaluate, predict
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame

TOLERANCE = 1e-11  # of features relative to max(1, |G|), of energies in eV/atom: all printed with 17 digits

OWN_STRAIGHT = ["nn_mode0", "nn_mode1", "nn_wide"]
OWN_INFORMED = ["pinn_mode1", "pinn_mode3", "pinn_mode4"]
OWN_EXTXYZ = ["mode5_silicon", "two_elements"]
PROGRAM_STRAIGHT = ["nn_C00", "nn_C05", "nn_m0a", "nn_trained"]
PROGRAM_INFORMED = ["pinn_m1f", "pinn_m3"]


def read_extxyz(path: Path) -> Structures:
    """Straight from ASE: the package's own reader has no part in these tests."""
    return Structures.from_frames(
        [
            Frame(
                positions=atoms.positions,
                cell=atoms.cell.array,
                pbc=atoms.pbc,
                atomic_numbers=atoms.numbers.astype(np.int64),
                group=str(atoms.info["group"]),
                source=f"{path}, structure {number}",
            )
            for number, atoms in enumerate(ase.io.read(path, ":"), start=1)
        ]
    )


def read_text(path: Path) -> Structures:
    return Structures.from_frames(list(read_dft_text(path)))


def error(found: torch.Tensor, expected: np.ndarray) -> float:
    """The largest deviation relative to max(1, |expected|)."""
    assert found.shape == expected.shape
    return float(np.max(np.abs(found.numpy() - expected) / np.maximum(1.0, np.abs(expected))))


def energy_per_atom(potential: Potential, structures: Structures) -> torch.Tensor:
    return evaluate(potential, structures) / torch.tensor(structures.sizes)


Case = tuple[Structures, Potential, dict[str, np.ndarray]]


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Callable[[str, str], Case]:
    """Structures, potential and reference values of a named case in one of the data folders."""

    def load(folder_fixture: str, name: str) -> Case:
        folder = request.getfixturevalue(folder_fixture)
        if folder_fixture == "reference_data":
            folder = folder / "program"
        if name in OWN_EXTXYZ:
            structures = read_extxyz(folder / f"{name}.extxyz")
        else:
            structures = read_text(folder / "structures.poscar.dat")
        with np.load(folder / f"{name}.npz") as arrays:
            values = dict(arrays)
        return structures, load_potential(folder / f"{name}.nn.dat"), values

    return load


OWN = [("own_data", name) for name in OWN_STRAIGHT + OWN_EXTXYZ]
PROGRAM = [("reference_data", name) for name in PROGRAM_STRAIGHT]


@pytest.mark.parametrize(("folder", "name"), OWN + PROGRAM)
def test_straight_network(case: Callable[[str, str], Case], folder: str, name: str) -> None:
    structures, potential, values = case(folder, name)
    assert error(featurize(structures, potential), values["lsp"]) < TOLERANCE
    energies = energy_per_atom(potential, structures)
    assert energies.shape == values["energy_per_atom"].shape
    assert np.max(np.abs(energies.numpy() - values["energy_per_atom"])) < TOLERANCE


@pytest.mark.parametrize("name", OWN_EXTXYZ)
def test_forces_and_stress(case: Callable[[str, str], Case], name: str) -> None:
    """Against fourth-order central differences of the pair sum's energies, good to about 1e-10."""
    structures, potential, values = case("own_data", name)
    rows = values["force_structures"].tolist()
    found = predict(potential, structures.select(rows))
    assert found.forces is not None
    assert found.stress is not None
    assert found.forces.shape == values["forces"].shape
    assert found.stress.shape == values["stress"].shape
    assert np.max(np.abs(found.forces.numpy() - values["forces"])) < 1e-8
    assert np.max(np.abs(found.stress.numpy() - values["stress"])) < 1e-8
    energies = found.energy / torch.tensor([structures.sizes[row] for row in rows])
    assert np.max(np.abs(energies.numpy() - values["energy_per_atom"][rows])) < TOLERANCE


INFORMED = [("own_data", name) for name in OWN_INFORMED] + [("reference_data", name) for name in PROGRAM_INFORMED]


@pytest.mark.parametrize(("folder", "name"), INFORMED)
def test_physically_informed_network(case: Callable[[str, str], Case], folder: str, name: str) -> None:
    structures, potential, values = case(folder, name)
    features = featurize(structures, potential)
    assert error(features, values["lsp"]) < TOLERANCE
    (parameters,) = local_parameters(potential, features, potential.species_index(structures))
    assert error(parameters, values["bond_order_parameters"]) < TOLERANCE
    energies = energy_per_atom(potential, structures)
    assert np.max(np.abs(energies.numpy() - values["energy_per_atom"])) < TOLERANCE


@pytest.mark.parametrize(("folder", "name"), INFORMED)
def test_forces_and_stress_of_physically_informed_networks(
    case: Callable[[str, str], Case], folder: str, name: str
) -> None:
    """Against fourth-order differences of energies, along one random change of all positions and cells each."""
    structures, potential, _ = case(folder, name)
    rng = torch.Generator().manual_seed(0)
    moves = torch.randn(structures.positions.shape, generator=rng, dtype=torch.float64)
    moves = torch.where(structures.atom_mask[..., None], moves, 0.0)
    strains = torch.randn(len(structures), 3, 3, generator=rng, dtype=torch.float64)
    strains = (strains + strains.transpose(1, 2)) / 2

    def moved(step: float) -> torch.Tensor:
        return evaluate(potential, replace(structures, positions=structures.positions + step * moves))

    def strained(step: float) -> torch.Tensor:
        stretch = torch.eye(3, dtype=torch.float64) + step * strains
        cells = {"positions": structures.positions @ stretch, "cell": structures.cell @ stretch}
        return evaluate(potential, replace(structures, **cells))

    found = predict(potential, structures)
    assert found.forces is not None
    assert found.stress is not None
    sizes = torch.tensor(structures.sizes)
    work = (found.forces * structures.flatten(moves)).sum(dim=1)
    along = torch.segment_reduce(work, "sum", lengths=sizes)
    # Energies add up differences of all atoms: what rounding leaves grows with their number.
    assert float(((slope(moved) + along).abs() / sizes).max()) < 1e-8
    stress = torch.from_numpy(voigt_6_to_full_3x3_stress(found.stress.numpy()))
    virial = (stress * strains).sum(dim=(1, 2)) * structures.volume
    assert float(((slope(strained) - virial).abs() / structures.volume).max()) < 1e-8


def slope(energy: Callable[[float], torch.Tensor], step: float = 3e-4) -> torch.Tensor:
    """Fourth-order central difference at 0."""
    one, two = (energy(n * step) - energy(-n * step) for n in (1, 2))
    return (8 * one - two) / (12 * step)


class TestPublishedAluminium:
    """The potential of Purja Pun, Yamakov, Hickman, Glaessgen, Mishin (2020), in plain form."""

    # The reference numbers of these are of positions with more digits than the file has.
    ROUNDED = ("rattled_0", "rattled_1", "rattled_2", "slab")

    @pytest.fixture
    def aluminium(self, reference_data: Path) -> Case:
        folder = reference_data / "pinn_published"
        with np.load(folder / "aluminium.npz") as arrays:
            values = dict(arrays)
        return read_extxyz(folder / "aluminium.extxyz"), load_potential(folder / "Al_2020.pinn"), values

    def exact(self, structures: Structures) -> np.ndarray:
        return np.array([group not in self.ROUNDED for group in structures.groups])

    def test_inputs_parameters_and_energies(self, aluminium: Case) -> None:
        structures, potential, values = aluminium
        features = featurize(structures, potential)
        (parameters,) = local_parameters(potential, features, potential.species_index(structures))
        energies = energy_per_atom(potential, structures).numpy()
        exact = self.exact(structures)
        atoms = np.repeat(exact, structures.sizes)
        assert exact.sum() == 14
        assert error(features[torch.from_numpy(atoms)], values["lsp"][atoms]) < TOLERANCE
        assert error(parameters[torch.from_numpy(atoms)], values["bond_order_parameters"][atoms]) < TOLERANCE
        assert np.max(np.abs(energies - values["energy_per_atom"])[exact]) < 1e-10
        assert np.max(np.abs(energies - values["energy_per_atom"])) < 5e-9

    def test_forces(self, aluminium: Case) -> None:
        structures, potential, values = aluminium
        found = predict(potential, structures.select(values["force_structures"].tolist()))
        assert found.forces is not None
        assert np.max(np.abs(found.forces.numpy() - values["forces"])) < 1e-7

    def test_by_plain_loops(self, aluminium: Case) -> None:
        """Also where the numbers above are those of other digits."""
        structures, potential, _ = aluminium
        found = predict(potential, structures, derivatives=False).atomic_energies
        first = np.cumsum((0, *structures.sizes))
        for row in (0, 11, 14, 16):
            size = structures.sizes[row]
            one = structures.select([row])
            frame = pair_sum.Structure(one.positions[0].numpy(), one.cell[0].numpy(), one.pbc[0].numpy(), ["Al"] * size)
            inputs = featurize(one, potential)
            (parameters,) = local_parameters(potential, inputs, potential.species_index(one))
            d = potential.descriptor
            expected = bond_order_sum.atomic_energies(
                frame, ["Al"], parameters.numpy(), form="plain", rc=d.cutoff, d=d.cutoff_width
            )
            assert np.max(np.abs(found[first[row] : first[row] + size].numpy() - expected)) < 1e-12

    def test_crystal(self, aluminium: Case) -> None:
        """Lattice constant, energy and elastic constants to the digits that were published or computed elsewhere."""
        _, potential, _ = aluminium
        scales = torch.linspace(-2e-3, 2e-3, 5, dtype=torch.float64)
        cells = torch.tensor([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]], dtype=torch.float64)

        def predicted(cells: torch.Tensor) -> Prediction:
            frames = [
                Frame(np.zeros((1, 3)), cell, np.ones(3, dtype=bool), np.array([13]), "", "made")
                for cell in cells.numpy()
            ]
            return predict(potential, Structures.from_frames(frames))

        found = predicted(4.04 * (1 + scales)[:, None, None] * cells)
        assert found.stress is not None
        pressure = np.polynomial.Polynomial.fit(4.04 * (1 + scales.numpy()), found.stress[:, :3].mean(dim=1).numpy(), 3)
        (length,) = [root.real for root in pressure.roots() if abs(root - 4.04) < 0.01]
        assert f"{length:.4f}" == "4.0400"
        energy = float(predicted(length * cells[None]).energy)
        assert f"{energy:.5f}" == "-3.36041"
        constants = []
        for a, b in ((0, 0), (1, 2)):
            strain = torch.zeros(3, 3, dtype=torch.float64)
            strain[a, b] += 0.5
            strain[b, a] += 0.5
            steps = torch.tensor([1.0, -1.0, 2.0, -2.0], dtype=torch.float64) * 1e-3
            stress = predicted(
                length * cells @ (torch.eye(3, dtype=torch.float64) + steps[:, None, None] * strain)
            ).stress
            assert stress is not None
            slopes = (8 * (stress[0] - stress[1]) - (stress[2] - stress[3])) / 12e-3 / GPa
            constants += slopes[:2].tolist() if a == b else [float(slopes[3])]
        c11, c12, c44 = constants
        assert [f"{value:.1f}" for value in (c11, c12, c44)] == ["112.6", "65.4", "28.2"]
        assert f"{(c11 + 2 * c12) / 3:.1f}" == "81.1"


def test_cases_with_and_without_baseline(own_data: Path) -> None:
    flags = {name: load_potential(own_data / f"{name}.nn.dat").use_baseline for name in OWN_INFORMED}
    assert set(flags.values()) == {True, False}


def test_two_elements_take_both_networks(case: Callable[[str, str], Case]) -> None:
    """Exchanging the elements must change the energies: the references above see the element."""
    structures, potential, values = case("own_data", "two_elements")
    numbers = structures.atomic_numbers
    swapped = torch.where(numbers == 14, 6, torch.where(numbers == 6, 14, numbers))
    exchanged = Structures(**{**vars(structures), "atomic_numbers": swapped})
    difference = energy_per_atom(potential, exchanged).numpy() - values["energy_per_atom"]
    assert np.abs(difference).max() > 1e-2


@pytest.fixture(scope="module")
def ten_networks(reference_data: Path) -> tuple[Path, Structures]:
    folder = reference_data / "ten_networks"
    return folder, read_text(folder / "structures.poscar.dat")


@pytest.mark.parametrize("network", ["00", "02", "05"])
def test_ten_networks(ten_networks: tuple[Path, Structures], network: str) -> None:
    folder, structures = ten_networks
    printed = np.loadtxt(folder / f"{network}.energies.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(printed[:, 0], np.arange(len(structures)))
    energies = energy_per_atom(load_potential(folder / f"{network}.nn.dat"), structures).numpy()
    skewed = np.array([group == "Si_B6" for group in structures.groups])
    assert skewed.sum() == 4
    assert np.max(np.abs(energies - printed[:, 1])[~skewed]) < 2e-9  # printed with nine digits

    # The older program misses images in the skewed cells of Si_B6; the pair sum does not.
    nn = pair_sum.read_nn_dat(folder / f"{network}.nn.dat")
    frames = pair_sum.read_poscar_dat(folder / "structures.poscar.dat")
    exact = [pair_sum.energy_per_atom(frames[row], nn) for row in np.flatnonzero(skewed)]
    assert np.max(np.abs(energies[skewed] - exact)) < 1e-10
    if network == "00":
        assert np.max(np.abs(energies - printed[:, 1])[skewed]) > 1e-4
