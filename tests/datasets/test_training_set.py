"""Training sets: what is in them, in which order, and on which scale of energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pair_sum
import pytest
import torch
from sample_sets import NAN, arrays_of, assert_same_set, make_descriptor, make_potential, make_set, with_settings

from pyfit_gpu.datasets.build import assemble, build_training_set
from pyfit_gpu.datasets.training_set import (
    ATOM_FIELDS,
    STRUCTURE_FIELDS,
    TrainingSet,
    concatenate,
    interleave,
    require_same_inputs,
)
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.dft_text import read_dft_text
from pyfit_gpu.formats.nn_dat import load_potential
from pyfit_gpu.formats.nn_dat_header import header_lines
from pyfit_gpu.models.batches import featurize
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame

MakeFrame = Callable[..., Frame]

# setting: a value that differs from the one of make_descriptor
OTHER = {
    "elements": ("Ge",),
    "gi_mode": 1,
    "cutoff": 4.4,
    "cutoff_width": 1.2,
    "gaussian_width": 0.7,
    "legendre_orders": (0, 3),
    "gaussian_centers": (1.7, 2.5, 3.4),
}


def per_structure(training_set: TrainingSet) -> list[dict[str, bytes | str]]:
    """Everything about each structure, its atoms cut out by hand."""
    found = []
    start = 0
    for row, size in enumerate(training_set.sizes.tolist()):
        values: dict[str, bytes | str] = {"group": training_set.groups[row]}
        for name in ATOM_FIELDS:
            values[name] = getattr(training_set, name).numpy()[start : start + size].tobytes()
        for name in STRUCTURE_FIELDS:
            values[name] = getattr(training_set, name).numpy()[row].tobytes()
        found.append(values)
        start += size
    assert start == training_set.n_atoms
    return found


class TestBuild:
    @pytest.fixture
    def frames(self, random_frame: MakeFrame, make_frame: MakeFrame) -> list[Frame]:
        """Sizes in no order, so that batches of similar size are not the order of the file."""
        rng = np.random.default_rng(1)
        frames = []
        for k, size in enumerate((5, 1, 7, 2, 1, 4)):
            labels = {
                "energy": None if k == 3 else -1.5 * size + 0.01 * k,
                "forces": rng.normal(size=(size, 3)) if k % 2 else None,
                "stress": rng.normal(size=6) if k == 2 else None,
                "weight": 1.0 + k,
            }
            frame = random_frame(k, size, elements=("Si", "C"), length=4.5 + 0.4 * k, **labels)
            frames.append(replace(frame, group=f"g{k % 4}", source=f"made.dat, structure {k + 1}"))
        lone = make_frame([[0.1, 0.2, 0.3]], energy=0.0)  # no cell: volume 0, an energy of zero is known
        return [*frames, replace(lone, group="lone")]

    def test_in_file_order(self, frames: list[Frame]) -> None:
        potential = make_potential(("C", "Si"))
        structures = Structures.from_frames(frames)
        whole = build_training_set(structures, potential, e_shift=2.5)
        assert whole.sizes.tolist() == [5, 1, 7, 2, 1, 4, 1]
        assert (len(whole), whole.n_atoms) == (7, 21)
        assert whole.groups == ("g0", "g1", "g2", "g3", "g0", "g1", "lone")
        assert whole.descriptor == potential.descriptor
        assert whole.energy_shift == (2.5, 2.5)
        np.testing.assert_array_equal(whole.positions, np.concatenate([frame.positions for frame in frames]))
        np.testing.assert_array_equal(whole.cell, [frame.cell for frame in frames])
        np.testing.assert_array_equal(whole.pbc, [frame.pbc for frame in frames])
        np.testing.assert_array_equal(whole.weight, [1, 2, 3, 4, 5, 6, 1])
        numbers = np.concatenate([frame.atomic_numbers for frame in frames])
        np.testing.assert_array_equal(whole.species, np.where(numbers == 6, 0, 1))
        volumes = [abs(np.linalg.det(frame.cell)) for frame in frames]
        np.testing.assert_allclose(whole.volume, volumes, rtol=1e-14, atol=0)
        np.testing.assert_allclose(whole.volume_per_atom, np.array(volumes) / whole.sizes.numpy(), rtol=1e-14, atol=0)

    def test_unknown_is_nan_and_zero_is_zero(self, frames: list[Frame]) -> None:
        whole = build_training_set(Structures.from_frames(frames), make_potential(("C", "Si")))
        energies = [NAN if frame.energy is None else frame.energy for frame in frames]
        np.testing.assert_array_equal(whole.energy, energies)
        assert whole.has_energy.tolist() == [True, True, True, False, True, True, True]
        forces = [np.full((f.n_atoms, 3), NAN) if f.forces is None else f.forces for f in frames]
        np.testing.assert_array_equal(whole.forces, np.concatenate(forces))
        stress = [np.full(6, NAN) if f.stress is None else f.stress for f in frames]
        np.testing.assert_array_equal(whole.stress, stress)

    def test_features_are_those_of_each_structure_alone(self, frames: list[Frame]) -> None:
        potential = make_potential(("C", "Si"))
        whole = build_training_set(Structures.from_frames(frames), potential)
        alone = [featurize(Structures.from_frames([frame]), potential) for frame in frames]
        torch.testing.assert_close(whole.features, torch.cat(alone), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("name", ["nn_mode1", "nn_wide"])
    def test_the_same_bits_alone_and_together(self, own_data: Path, name: str) -> None:
        """Shards, appending and batches must not show in the numbers: a set is the same however it was computed."""
        frames = list(read_dft_text(own_data / "structures.poscar.dat"))
        strained = [
            replace(frame, positions=frame.positions * factor, cell=frame.cell * factor)
            for factor in np.linspace(1.0, 1.08, 9)
            for frame in frames
        ]
        potential = load_potential(own_data / f"{name}.nn.dat")
        structures = Structures.from_frames(strained)
        together = featurize(structures, potential).split(structures.sizes)
        different = [
            row
            for row, features in enumerate(together)
            if not torch.equal(featurize(structures.select([row]), potential), features)
        ]
        assert different == []

    def test_against_the_pair_sum(self, own_data: Path) -> None:
        """Structures and labels of a file, read and computed by the tests' own code."""
        path = own_data / "nn_mode1.nn.dat"
        structures = Structures.from_frames(list(read_dft_text(own_data / "structures.poscar.dat")))
        whole = build_training_set(structures, load_potential(path), e_shift=107.0)
        nn = pair_sum.read_nn_dat(path)
        expected = pair_sum.read_poscar_dat(own_data / "structures.poscar.dat")
        assert whole.groups == tuple(one.label.split()[0] for one in expected)
        start = 0
        for row, one in enumerate(expected):
            n = len(one.positions)
            if n == 1:  # the others are compared elsewhere, and loops over pairs take their time
                np.testing.assert_allclose(whole.features[start], pair_sum.features(one, nn)[0], rtol=1e-11, atol=1e-11)
            assert float(whole.energy[row]) == one.energy
            assert float(whole.energy_used[row]) == pytest.approx(one.energy + 107.0 * n, abs=1e-10)
            start += n
        assert start == whole.n_atoms

    def test_dtype_is_that_of_the_structures(self, frames: list[Frame]) -> None:
        structures = Structures.from_frames(frames, dtype=torch.float32)
        whole = build_training_set(structures, make_potential(("C", "Si")))
        assert whole.features.dtype == whole.positions.dtype == torch.float32
        assert (whole.species.dtype, whole.sizes.dtype, whole.pbc.dtype) == (torch.int64, torch.int64, torch.bool)

    def test_energies_keep_their_digits(self, make_frame: MakeFrame) -> None:
        """E_file and the shift are large and nearly cancel: float32 is for what is computed, not for labels."""
        corners = 2.5 * np.array([(i, j, k) for i in range(4) for j in range(4) for k in range(4)])
        frame = make_frame(corners, 10.0 * np.eye(3), energy=-107.3001 * 64)
        structures = Structures.from_frames([frame], dtype=torch.float32)
        whole = build_training_set(structures, make_potential(), e_shift=107.0)
        assert float(whole.energy_used[0] / 64) == pytest.approx(-0.3001, rel=1e-6)

    def test_the_header_goes_along(self, frames: list[Frame], tmp_path: Path) -> None:
        """Enough to write a potential that reads the set's inputs: weights are all that is missing."""
        potential = make_potential(("C", "Si"))
        whole = build_training_set(Structures.from_frames(frames), potential)
        zeros = [f"{0.0} 0.0"] * potential.networks.n_parameters
        (tmp_path / "zero.nn.dat").write_text("\n".join([*header_lines(whole.potential), *zeros]) + "\n")
        again = load_potential(tmp_path / "zero.nn.dat")
        assert again.descriptor == whole.descriptor
        assert again.networks.layer_sizes == potential.networks.layer_sizes

    def test_foreign_element(self, frames: list[Frame]) -> None:
        with pytest.raises(InputError, match=r"made.dat, structure \d.*expected an element of the potential \(Si\)"):
            build_training_set(Structures.from_frames(frames), make_potential(("Si",)))

    def test_progress_counts_atoms(self, frames: list[Frame]) -> None:
        seen: list[int] = []
        structures = Structures.from_frames(frames)
        assemble(
            structures.sizes,
            structures.select,
            make_potential(("C", "Si")),
            device=torch.device("cpu"),
            progress=seen.append,
        )
        assert seen == sorted(seen)
        assert seen[-1] == 21


class TestEnergyUsed:
    def test_shift_of_each_element(self) -> None:
        whole = make_set([3, 1, 4], ("Si", "C", "Ge"), energy_shift=(100.0, 10.0, 1.0), seed=5)
        expected, start = [], 0
        for energy, size in zip(whole.energy.tolist(), [3, 1, 4], strict=True):
            shifts = [(100.0, 10.0, 1.0)[kind] for kind in whole.species[start : start + size].tolist()]
            expected.append(energy + sum(shifts))
            start += size
        assert len(set(whole.species.tolist())) == 3
        np.testing.assert_allclose(whole.energy_used, expected, rtol=1e-15)

    def test_one_number_for_all(self) -> None:
        whole = make_set([3, 1, 4], ("Si", "C"), energy_shift=(0.795023, 0.795023))
        expected = whole.energy.numpy() + 0.795023 * np.array([3, 1, 4])
        np.testing.assert_allclose(whole.energy_used, expected, rtol=1e-15)

    def test_unknown_energies_stay_unknown(self) -> None:
        whole = make_set([3, 1, 4], energy=[-1.0, NAN, 0.0], energy_shift=(2.0,))
        np.testing.assert_array_equal(whole.energy_used, [5.0, NAN, 8.0])
        assert whole.has_energy.tolist() == [True, False, True]

    def test_unknown_shift_is_in_the_energies_already(self) -> None:
        whole = replace(make_set([3, 1]), energy_shift=None)
        assert torch.equal(whole.energy_used, whole.energy)

    def test_counts(self) -> None:
        whole = make_set([3, 1, 4, 2], ("Si", "C"), seed=8)
        start = 0
        for row, size in enumerate([3, 1, 4, 2]):
            kinds = whole.species[start : start + size].tolist()
            for kind in (0, 1):
                assert int(whole.count_species(kind)[row]) == kinds.count(kind)
            start += size


class TestLabels:
    def test_forces_are_known_on_all_atoms_or_not(self) -> None:
        """With one component of one atom unknown a structure counts as one without forces; zero is known."""
        whole = make_set([2, 1, 3, 2])
        forces = whole.forces.clone()
        forces[1, 2] = NAN  # structure 0
        forces[2] = NAN  # structure 1, all of it
        forces[6:] = 0.0  # structure 3
        marked = replace(whole, forces=forces)
        assert marked.has_forces.tolist() == [False, False, True, True]
        assert whole.has_forces.tolist() == [True] * 4
        assert replace(whole, forces=torch.full_like(forces, NAN)).has_forces.tolist() == [False] * 4
        assert marked.select([3, 0, 2]).has_forces.tolist() == [True, False, True]

    def test_stress_needs_a_cell_and_all_components(self) -> None:
        whole = make_set([2, 1, 3, 2, 1])
        stress, volume = whole.stress.clone(), whole.volume.clone()
        stress[0, 5] = NAN
        stress[1] = NAN
        stress[2] = 0.0
        volume[3] = 0.0
        marked = replace(whole, stress=stress, volume=volume)
        assert marked.has_stress.tolist() == [False, False, True, False, True]
        assert marked.select([2, 1]).has_stress.tolist() == [True, False]

    def test_of_no_structure(self) -> None:
        nothing = make_set().select([])
        assert nothing.has_forces.tolist() == nothing.has_stress.tolist() == []

    def test_of_frames(self, mixed_frames: Callable[..., list[Frame]]) -> None:
        frames = mixed_frames()
        frames[0] = replace(frames[0], forces=None)
        frames[3] = replace(frames[3], stress=None)
        whole = build_training_set(Structures.from_frames(frames), make_potential())
        assert whole.has_forces.tolist() == [False, *[True] * 7]
        assert whole.has_stress.tolist() == [True, True, False, False, False, True, True, True]


class TestStructures:
    @pytest.mark.parametrize("elements", [("Si",), ("C", "Si")], ids="-".join)
    def test_round_trip(self, mixed_frames: Callable[..., list[Frame]], elements: tuple[str, ...]) -> None:
        """Everything but the names of the files comes back, bit for bit; the same features are computed from it."""
        frames = mixed_frames(elements)
        frames[0] = replace(frames[0], forces=None, energy=None, weight=0.5)
        frames[3] = replace(frames[3], stress=None, group="other")
        structures = Structures.from_frames(frames)
        potential = make_potential(elements)
        whole = build_training_set(structures, potential)
        back = whole.structures()
        for name, value in vars(structures).items():
            found = getattr(back, name)
            if name == "sources":
                assert found == ()
            elif isinstance(value, torch.Tensor):
                assert found.dtype == value.dtype, name
                np.testing.assert_array_equal(found, value, err_msg=name)
            else:
                assert found == value, name
        assert_same_set(build_training_set(back, potential), whole)
        assert back.describe_atom(back.sizes[0]) == f"structure 2 (group {back.groups[1]}), atom 1"
        assert back.select([1, 0]).describe_atom(0) == f"structure 1 (group {back.groups[1]}), atom 1"

    def test_of_some_rows(self, mixed_frames: Callable[..., list[Frame]]) -> None:
        """Padded to the largest of them."""
        structures = Structures.from_frames(mixed_frames())
        whole = build_training_set(structures, make_potential())
        back = whole.select([7, 0, 4]).structures()
        expected = structures.select([7, 0, 4])
        assert back.sizes == expected.sizes == (2, 5, 1)
        assert torch.equal(back.positions, expected.positions)
        assert torch.equal(back.atomic_numbers, expected.atomic_numbers)
        assert torch.equal(back.cell, expected.cell)


class TestSelect:
    def test_any_rows_in_any_order(self) -> None:
        whole = make_set([2, 1, 3, 4, 2, 1], ("Si", "C"), energy=[-1.0, NAN, -2.0, -3.0, 0.0, -1.0])
        structures = per_structure(whole)
        for rows in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3], [1, 4], [2, 2, 0, 2]):
            assert per_structure(whole.select(rows)) == [structures[row] for row in rows], rows
            assert per_structure(whole.select(torch.tensor(rows))) == [structures[row] for row in rows], rows

    def test_nothing_else_changes(self) -> None:
        whole = make_set(energy_shift=(1.5,))
        assert_same_set(whole.select(range(len(whole))), whole)
        part = whole.select([1])
        assert (part.descriptor, part.energy_shift) == (whole.descriptor, whole.energy_shift)
        assert part.potential is whole.potential

    def test_no_rows(self) -> None:
        nothing = make_set(energy_shift=(1.5,)).select([])
        assert (len(nothing), nothing.n_atoms, nothing.groups) == (0, 0, ())
        assert nothing.features.shape == (0, 6)
        assert nothing.energy_used.shape == (0,)

    def test_rows_that_are_not_there(self) -> None:
        with pytest.raises(IndexError):
            make_set([1, 2]).select([2])


class TestConcatenate:
    def test_one_after_the_other(self) -> None:
        parts = [make_set(sizes, ("Si", "C"), seed=k) for k, sizes in enumerate(([1, 3], [2], [4, 1, 1]))]
        whole = concatenate(parts)
        assert per_structure(whole) == [structure for part in parts for structure in per_structure(part)]
        assert (whole.descriptor, whole.energy_shift) == (parts[0].descriptor, parts[0].energy_shift)

    @pytest.mark.parametrize("name", OTHER)
    def test_other_settings_are_named(self, name: str) -> None:
        first = make_set([2], gi_mode=0)
        other = with_settings(first, **{name: OTHER[name]})
        with pytest.raises(InputError, match=rf"\b{name}: expected"):
            concatenate([first, first, other])

    def test_another_energy_shift(self) -> None:
        first = make_set([2], energy_shift=(107.0,))
        for shift in ((106.0,), (0.0,), None):
            with pytest.raises(InputError, match=r"e_shift: expected .*107"):
                concatenate([first, replace(first, energy_shift=shift)])


class TestInterleave:
    @pytest.mark.parametrize("count", [1, 2, 3, 5, 7])
    def test_back_in_file_order(self, count: int) -> None:
        whole = make_set([1, 2, 3, 1, 2, 3, 4], ("Si", "C"), energy=[-1.0, NAN, -3.0, -4.0, -5.0, -6.0, -7.0])
        shards = [whole.select(range(index, 7, count)) for index in range(count)]
        assert_same_set(interleave(shards), whole)


class TestMoving:
    def test_dtype(self) -> None:
        """That of what is computed with; labels keep every bit: energies need more digits than float32 has."""
        whole = make_set(energy=[-1.0, NAN, 0.1, 0.2, 0.3])
        single = whole.to("cpu", torch.float32)
        assert single.features.dtype == torch.float32
        np.testing.assert_array_equal(single.features.numpy(), whole.features.numpy().astype(np.float32))
        before, after = arrays_of(whole), arrays_of(single)
        assert {name for name in before if before[name] != after[name]} == {"features"}

    def test_no_dtype_keeps_it(self) -> None:
        assert_same_set(make_set().to("cpu"), make_set())

    def test_device(self) -> None:
        """Every tensor moves; what is computed from them stays there."""
        moved = make_set(energy_shift=(1.5,)).to("meta")
        for name in (*ATOM_FIELDS, *STRUCTURE_FIELDS):
            assert getattr(moved, name).device.type == "meta", name
        assert moved.has_energy.device.type == "meta"
        assert moved.volume_per_atom.device.type == "meta"

    def test_the_original_stays(self) -> None:
        whole = make_set()
        before = arrays_of(whole)
        single = whole.to("cpu", torch.float32)
        single.features.zero_()
        whole.select([0, 1]).energy.zero_()
        assert arrays_of(whole) == before


class TestSameInputs:
    @pytest.mark.parametrize("name", OTHER)
    def test_both_values_are_named(self, name: str) -> None:
        base = make_descriptor(gi_mode=0)
        other = replace(base, **{name: OTHER[name]})
        expected, found = (
            list(value) if isinstance(value, tuple) else value for value in (getattr(base, name), OTHER[name])
        )
        with pytest.raises(InputError) as raised:
            require_same_inputs(base, other, "here")
        assert str(raised.value) == f"here: {name}: expected {expected}, found {found}"

    @pytest.mark.parametrize("gi_mode", [0, 1, 3, 4])
    def test_shift_counts(self, gi_mode: int) -> None:
        base = make_descriptor(gi_mode=gi_mode)
        with pytest.raises(InputError, match=r"shift: expected 0.5, found 0.25"):
            require_same_inputs(base, replace(base, shift=0.25), "here")

    def test_shift_means_nothing_in_mode_5(self) -> None:
        base = make_descriptor(gi_mode=5)
        require_same_inputs(base, replace(base, shift=0.25), "here")

    def test_order_of_the_elements_counts(self) -> None:
        with pytest.raises(InputError, match=r"elements: expected \['Si', 'C'\], found \['C', 'Si'\]"):
            require_same_inputs(make_descriptor(("Si", "C")), make_descriptor(("C", "Si")), "here")
