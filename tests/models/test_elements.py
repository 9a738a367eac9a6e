"""Several elements from one end to the other: features, networks, energies and training sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pair_sum
import pytest
import torch
from ase.data import chemical_symbols
from commands.helpers import done
from element_order import block_order, reorder_atoms, reorder_elements
from sample_sets import arrays_of, assert_same_set, make_descriptor, make_potential
from torch import Tensor

from pyfit_gpu import evaluate, featurize
from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import load_potential, save_potential
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.text_set import read_text_set, write_text_set
from pyfit_gpu.formats.training_set.reader import save_training_set
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.neighbors import find_neighbors
from pyfit_gpu.training.fit import fit

MakeFrame = Callable[..., Frame]

THREE = ("Si", "C", "O")
# Rounding of float64: of sums of tens of terms relative to the largest, of energies in eV/atom.
FEATURE_TOLERANCE, ENERGY_TOLERANCE = 1e-13, 1e-12


def raw_features(frames: Sequence[Frame], elements: Sequence[str], **settings: object) -> Tensor:
    """G itself, before asinh."""
    structures, descriptor = Structures.from_frames(frames), make_descriptor(elements, **settings)
    potential = replace(make_potential(elements), descriptor=descriptor)
    return descriptor.raw(find_neighbors(structures, descriptor.neighbor_cutoff), potential.species_index(structures))


def as_element(frame: Frame, number: int = 14) -> Frame:
    return replace(frame, atomic_numbers=np.full(frame.n_atoms, number))


# What a potential says of structures, atom by atom or structure by structure: (rows, ...), in file order.


def energies_per_atom(potential: Potential, frames: Sequence[Frame]) -> Tensor:
    """(B,) eV/atom."""
    return evaluate(potential, Structures.from_frames(frames)) / torch.tensor([frame.n_atoms for frame in frames])


PER_STRUCTURE = {"energies": (energies_per_atom, ENERGY_TOLERANCE)}
PER_ATOM = {"features": (lambda potential, frames: featurize(Structures.from_frames(frames), potential), 1e-12)}


class TestFeatures:
    @pytest.mark.parametrize("gi_mode", [0, 1, 3, 4, 5, 6])
    def test_one_element_is_the_classic_set(self, random_frame: MakeFrame, gi_mode: int) -> None:
        """Against the double sum over pairs as it is written."""
        frames = [random_frame(1, 5), random_frame(2, 3, scatter=1), random_frame(3, 1, length=3.0, skew=0.2)]
        potential = make_potential(("Si",), gi_mode=gi_mode, legendre_orders=(0, 1, 2, 4, 6))
        d = potential.descriptor
        nn = {"symbols": ["Si"], "gi_mode": gi_mode, "shift": d.shift, "rc": d.cutoff, "d": d.cutoff_width}
        nn |= {"sigma": d.gaussian_width, "legendre_orders": d.legendre_orders, "r0": d.gaussian_centers}
        found = featurize(Structures.from_frames(frames), potential).numpy()
        expected = [
            pair_sum.features(pair_sum.Structure(f.positions, f.cell, f.pbc, ["Si"] * f.n_atoms), nn) for f in frames
        ]
        deviation = np.abs(found - np.concatenate(expected)) / np.maximum(1.0, np.abs(np.concatenate(expected)))
        assert deviation.max() < FEATURE_TOLERANCE

    @pytest.mark.parametrize("elements", [("Si", "C"), THREE], ids=str)
    def test_blocks_add_up_to_one_element(self, random_frame: MakeFrame, elements: tuple[str, ...]) -> None:
        frames = [random_frame(seed, 7, elements=elements) for seed in range(3)]
        n_blocks = len(elements) * (len(elements) + 1) // 2
        found = raw_features(frames, elements).unflatten(1, (n_blocks, -1)).sum(dim=1)
        expected = raw_features([as_element(frame) for frame in frames], ("Si",))
        assert float((found - expected).abs().max() / expected.abs().max()) < FEATURE_TOLERANCE

    def test_blocks_see_their_elements_alone(self, random_frame: MakeFrame) -> None:
        """Block (a, b) is what of the one-element G of a and b together is not in that of a or of b alone."""
        frame = random_frame(4, 6, elements=("Si", "C"))
        blocks = raw_features([frame], ("Si", "C")).unflatten(1, (3, -1))
        structures, descriptor = Structures.from_frames([as_element(frame)]), make_descriptor(("Si",))
        neighbors = find_neighbors(structures, descriptor.neighbor_cutoff)
        numbers = torch.from_numpy(frame.atomic_numbers)
        for block, number in ((0, 14), (2, 6)):
            kept = numbers[neighbors.index] == number
            counts = torch.bincount(neighbors.centers[kept], minlength=frame.n_atoms)
            only = replace(neighbors, counts=counts, index=neighbors.index[kept], vectors=neighbors.vectors[kept])
            expected = descriptor.raw(only, torch.zeros(frame.n_atoms, dtype=torch.int64))
            torch.testing.assert_close(blocks[:, block], expected, rtol=0, atol=1e-13)


class TestOrder:
    @pytest.mark.parametrize("name", [*PER_STRUCTURE, *PER_ATOM])
    def test_of_atoms(self, random_frame: MakeFrame, name: str) -> None:
        """Values of an atom go with it, values of a structure stay."""
        compute, tolerance = (PER_STRUCTURE | PER_ATOM)[name]
        potential, rng = make_potential(THREE), np.random.default_rng(3)
        for seed, size in enumerate((2, 5, 9)):
            frame = random_frame(seed, size, elements=THREE)
            order = rng.permutation(size)
            expected = compute(potential, [frame])
            expected = expected[order] if name in PER_ATOM else expected
            found = compute(potential, [reorder_atoms(frame, order)])
            assert float((found - expected).abs().max()) < tolerance

    @pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
    @pytest.mark.parametrize("name", list(PER_STRUCTURE))
    def test_of_elements(self, random_frame: MakeFrame, name: str, order: tuple[int, ...]) -> None:
        """With the blocks of the inputs and the networks in the same order."""
        compute, tolerance = PER_STRUCTURE[name]
        potential = make_potential(THREE)
        frames = [random_frame(seed, size, elements=THREE) for seed, size in enumerate((1, 4, 7))]
        expected = compute(potential, frames)
        found = compute(reorder_elements(potential, order), frames)
        assert float((found - expected).abs().max()) < tolerance
        # Names alone make another potential: the elements do make a difference.
        if order != (0, 1, 2):
            names = tuple(THREE[k] for k in order)
            renamed = replace(potential, descriptor=replace(potential.descriptor, elements=names))
            assert float((compute(renamed, frames) - expected).abs().max()) > 1e-3

    @pytest.mark.parametrize("order", [(1, 0), (2, 0, 1)], ids=str)
    def test_of_blocks(self, random_frame: MakeFrame, order: tuple[int, ...]) -> None:
        elements = THREE[: len(order)]
        frame = random_frame(5, 6, elements=elements)
        blocks = raw_features([frame], elements).unflatten(1, (len(block_order(order)), -1))
        found = raw_features([frame], [elements[k] for k in order])
        torch.testing.assert_close(found, blocks[:, block_order(order)].flatten(1), rtol=0, atol=1e-13)

    def test_in_files(self, random_frame: MakeFrame, tmp_path: Path) -> None:
        """The header's order decides: a file of the reordered potential gives the same energies."""
        potential = replace(make_potential(THREE), energy_shift=torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
        save_potential(reorder_elements(potential, (2, 0, 1)), tmp_path / "other.nn.dat")
        other = load_potential(tmp_path / "other.nn.dat")
        assert other.descriptor.elements == ("O", "Si", "C")
        assert other.energy_shift.tolist() == [3.0, 1.0, 2.0]
        frames = [random_frame(seed, 6, elements=THREE) for seed in range(2)]
        difference = energies_per_atom(other, frames) - energies_per_atom(potential, frames)
        assert float(difference.abs().max()) < ENERGY_TOLERANCE


class TestMissingElements:
    def one_element_part(self, potential: Potential, species: int) -> Potential:
        """The network of one element, of its block (a, a) alone: the others are zero where no other element is."""
        descriptor, networks = potential.descriptor, potential.networks
        pairs = [(a, b) for a in range(descriptor.n_elements) for b in range(a, descriptor.n_elements)]
        weights = [weight[:, [species]] for weight in networks.weights]
        blocks = weights[0].unflatten(2, (len(pairs), -1))
        weights[0] = blocks[:, :, pairs.index((species, species))]
        biases = tuple(bias[:, [species]] for bias in networks.biases)
        return replace(
            potential,
            descriptor=replace(descriptor, elements=(descriptor.elements[species],)),
            networks=ElementNetworks(tuple(weights), biases, networks.activation),
        )

    @pytest.mark.parametrize(("species", "number"), [(0, 14), (1, 6)])
    def test_a_pure_structure(self, random_frame: MakeFrame, species: int, number: int) -> None:
        """Energies are those of a potential of that element, alone and beside structures of several elements."""
        potential = make_potential(("Si", "C"))
        mixed = random_frame(1, 6, elements=("Si", "C"))
        pure = as_element(random_frame(2, 5), number)
        (expected,) = energies_per_atom(self.one_element_part(potential, species), [pure])
        alone = energies_per_atom(potential, [pure])[0]
        beside = energies_per_atom(potential, [mixed, pure, mixed])[1]
        assert abs(float(alone - expected)) < ENERGY_TOLERANCE
        assert abs(float(beside - expected)) < ENERGY_TOLERANCE

    def test_training_without_atoms_of_an_element(self, random_frame: MakeFrame) -> None:
        """Its network stays as it was, and nothing becomes NaN."""
        frames = [random_frame(seed, 4, energy=-4.0 - 0.1 * seed) for seed in range(4)]
        potential = make_potential(("Si", "C"))
        before = [tensor.clone() for tensor in (*potential.networks.weights, *potential.networks.biases)]
        train = build_training_set(Structures.from_frames(frames), potential)
        history = fit(potential, train, steps=3)
        assert history.loss[3] < history.loss[0]
        after = (*potential.networks.weights, *potential.networks.biases)
        for old, new in zip(before, after, strict=True):
            assert torch.equal(old[:, 1], new[:, 1])
        assert not torch.equal(before[0][:, 0], after[0][:, 0])

    def test_an_element_that_the_potential_lacks(self, random_frame: MakeFrame) -> None:
        good = random_frame(1, 4, elements=("Si", "C"))
        bad = random_frame(2, 3, elements=("C", "Ge", "Si"), source="b.extxyz, structure 7")
        atom = int(np.flatnonzero(bad.atomic_numbers == 32)[0]) + 1
        structures, potential = Structures.from_frames([good, bad]), make_potential(("Si", "C"))
        message = rf"b\.extxyz, structure 7, atom {atom}: expected an element of the potential \(Si, C\), found Ge"
        for work in (featurize, build_training_set):
            with pytest.raises(InputError, match=message):
                work(structures, potential)
        with pytest.raises(InputError, match=message):
            evaluate(potential, structures)


class TestTrainingSets:
    SHIFTS = (107.0625, 154.25)

    @pytest.fixture
    def frames(self, random_frame: MakeFrame) -> list[Frame]:
        """Pure and mixed structures."""
        frames = [random_frame(k, n, elements=("Si", "C"), energy=-130.0 * n + k) for k, n in enumerate((5, 1, 4, 2))]
        return [*frames, as_element(random_frame(9, 3, energy=-321.0)), random_frame(10, 2, elements=("C",))]

    @pytest.fixture
    def whole(self, frames: list[Frame]) -> TrainingSet:
        return build_training_set(Structures.from_frames(frames), make_potential(("Si", "C")), e_shift=self.SHIFTS)

    def symbols(self, training_set: TrainingSet) -> list[str]:
        return [training_set.descriptor.elements[kind] for kind in training_set.species.tolist()]

    def file_symbols(self, frames: Sequence[Frame]) -> list[str]:
        return [chemical_symbols[number] for frame in frames for number in frame.atomic_numbers]

    def used(self, frames: Sequence[Frame]) -> np.ndarray:
        """E_used by a loop over atoms."""
        shift = {14: self.SHIFTS[0], 6: self.SHIFTS[1]}
        energies = [np.nan if frame.energy is None else frame.energy for frame in frames]
        return np.array(
            [e + sum(shift[number] for number in f.atomic_numbers) for e, f in zip(energies, frames, strict=True)]
        )

    def test_hdf5(self, frames: list[Frame], whole: TrainingSet, tmp_path: Path) -> None:
        assert len(set(self.file_symbols(frames))) == 2
        save_training_set(whole, tmp_path / "set.h5")
        found = load_training_set(tmp_path / "set.h5")
        assert_same_set(found, whole)
        assert self.symbols(found) == self.file_symbols(frames)
        assert found.energy_shift == self.SHIFTS
        np.testing.assert_allclose(found.energy_used, self.used(frames), rtol=1e-14)

    def test_text(self, frames: list[Frame], whole: TrainingSet, tmp_path: Path) -> None:
        write_text_set(whole, tmp_path / "set.dat")
        atom_lines = [
            line.split() for line in (tmp_path / "set.dat").read_text().splitlines() if line.startswith("ATOM-")
        ]
        assert [cells[7] for cells in atom_lines] == self.file_symbols(frames)
        found = read_text_set(tmp_path / "set.dat")
        assert torch.equal(found.species, whole.species)
        assert found.energy_shift == self.SHIFTS
        np.testing.assert_allclose(found.energy_used, self.used(frames), rtol=5.0001e-7)
        np.testing.assert_allclose(found.features, whole.features, rtol=5.0001e-7, atol=1e-300)

    def test_convert_there_and_back(self, whole: TrainingSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """h5 to text to h5 to text: every atom keeps its element, every element its shift, the text its bytes."""
        monkeypatch.chdir(tmp_path)
        save_training_set(whole, "one.h5")
        done("convert", "one.h5", "one.dat")
        done("convert", "one.dat", "two.h5")
        done("convert", "two.h5", "two.dat")
        found = load_training_set("two.h5")
        assert torch.equal(found.species, whole.species)
        assert found.energy_shift == self.SHIFTS
        assert found.descriptor == whole.descriptor
        assert Path("two.dat").read_bytes() == Path("one.dat").read_bytes()
        done("convert", "one.h5", "copy.h5")
        assert arrays_of(load_training_set("copy.h5")) == arrays_of(whole)
