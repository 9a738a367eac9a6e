"""`examine`: nothing is found in good data, and every planted fault is, with its structure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from doctor_samples import changed, good_frames, labelled, numbered
from sample_sets import make_potential

import pyfit_gpu as pf
from pyfit_gpu.doctor.records import Records
from pyfit_gpu.formats.opening import read_frames
from pyfit_gpu.structures.frames import Frame

EXAMPLES = Path(__file__).parents[2] / "examples"


def kinds(found: pf.Diagnosis) -> dict[str, pf.Finding]:
    return {finding.kind: finding for finding in found.findings}


def only(frames: list[Frame], kind: str, potential: pf.Potential | None = None) -> pf.Finding:
    """The one finding about some data, which is of a kind."""
    found = pf.examine(frames, potential)
    assert [finding.kind for finding in found.findings] == [kind], found.findings
    return found.findings[0]


def copper(**settings: object) -> pf.Potential:
    return make_potential(["Cu"], **{"gaussian_centers": (2.5, 3.0, 3.5), **settings})


def test_nothing_in_good_data() -> None:
    found = pf.examine(good_frames(), copper())
    assert found.findings == ()
    assert not found.has_errors
    assert found.summary["structures"] == 17
    assert found.summary["labels"] == {"energy": 17, "forces": 17, "stress": 17}
    assert found.summary["steps"]["forces"]["tell_the_sign"] > 5
    assert found.summary["steps"]["stress"]["all"] == 6
    assert found.summary["steps"]["stress"]["tell_the_sign"] >= 4
    assert found.summary["noise_floor"] == 0.0


def test_batches_and_sets_are_examined_like_frames() -> None:
    frames = changed(good_frames(), 3, energy=good_frames()[3].energy + 1)
    batch = pf.Structures.from_frames(frames)
    expected = pf.examine(frames, copper())
    assert pf.examine(batch, copper()) == expected
    of_set = pf.examine(pf.build_training_set(batch, copper()))
    assert [one.numbers for one in of_set.findings] == [one.numbers for one in expected.findings]
    assert of_set.findings[0].frames == ("the set, structure 4 (group volumes)",)
    assert {**of_set.summary, "files": None} == {**expected.summary, "files": None}


class TestCopies:
    def test_with_equal_labels(self) -> None:
        frames = good_frames()
        finding = only([*frames, replace(frames[2], source="again.xyz, structure 1")], "copies", copper())
        assert finding.severity == "warning"
        assert finding.frames == ("again.xyz, structure 1",)
        assert finding.numbers == (17,)

    def test_with_other_energies(self) -> None:
        frames = good_frames()
        frames = numbered([*frames, replace(frames[2], energy=frames[2].energy + 0.004)])
        found = pf.examine(frames)
        assert [one.kind for one in found.findings] == ["other labels", "copies"]
        assert found.findings[0].frames == ("cu.extxyz, structure 18",)
        assert found.has_errors
        # Two of eighteen are off their mean by 0.002 eV / 4.
        assert found.summary["noise_floor"] == pytest.approx(0.5 * np.sqrt(2 / 18))


class TestEqualInputs:
    @staticmethod
    def turned(frame: Frame, **labels: object) -> Frame:
        """The same crystal, turned and with its atoms in another order."""
        turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
        order = [2, 0, 3, 1]
        changes = {
            "positions": (frame.positions @ turn)[order],
            "cell": frame.cell @ turn,
            "forces": (frame.forces @ turn)[order],
            "stress": None,
            **labels,
        }
        return replace(frame, **changes)

    def test_the_noise_floor(self) -> None:
        frames = good_frames()
        frames = numbered([*frames, self.turned(frames[9], energy=frames[9].energy + 0.04)])
        found = kinds(pf.examine(frames, copper()))
        assert found["noise floor"].numbers == (17,)
        assert found["noise floor"].value == pytest.approx(5 * np.sqrt(2 / 18), rel=1e-4)
        assert "cu.extxyz, structure 18 and cu.extxyz, structure 10" in found["noise floor"].text
        assert "noise floor" not in kinds(pf.examine(frames))  # without inputs nothing is known of it

    def test_the_first_of_equal_ones_may_lack_its_energy(self) -> None:
        frames = changed(good_frames(), 9, energy=None, forces=None, stress=None)
        good = good_frames()[9]
        shifted = replace(good, positions=good.positions + 0.7, energy=good.energy + 0.04)
        found = kinds(pf.examine(numbered([*frames, self.turned(good), shifted]), copper()))
        assert found["noise floor"].numbers == (18,)

    def test_with_equal_energies(self) -> None:
        frames = good_frames()
        found = kinds(pf.examine(numbered([*frames, self.turned(frames[9])]), copper()))
        assert found["equal inputs"].numbers == (17,)
        assert found["equal inputs"].severity == "note"
        assert "noise floor" not in found

    def test_inputs_without_spread(self) -> None:
        finding = only(good_frames(), "inputs without spread", copper(gaussian_centers=(2.6, 9.0), cutoff=4.3))
        assert "r0=9.0" in finding.text
        assert "r0=2.6" not in finding.text

    def test_an_element_without_atoms(self) -> None:
        potential = make_potential(["Cu", "Ni"], gaussian_centers=(2.5, 3.0))
        found = [one.text for one in pf.examine(good_frames(), potential).findings]
        assert any("no atom of Ni" in text for text in found)


class TestForcesAgainstEnergies:
    def test_an_energy(self) -> None:
        frames = good_frames()
        finding = only(changed(frames, 12, energy=frames[12].energy + 1.0), "forces against energies")
        assert finding.severity == "error"
        assert finding.frames == ("cu.extxyz, structure 13",)

    def test_the_sign(self) -> None:
        frames = [replace(frame, forces=-frame.forces) for frame in good_frames()]
        finding = only(frames, "forces against energies")
        assert finding.value == pytest.approx(-1, abs=0.1)
        assert "the sign is turned" in finding.text
        assert set(finding.numbers) <= set(range(7, 17))

    @pytest.mark.parametrize(
        ("energy", "forces", "hint"),
        [
            (1.0, 1 / 51.4221, r"work is 5\d\.\d+: they are in hartree/bohr"),
            (1 / 13.6057, 1.0, "energies are in Ry"),
            (1 / 27.2114, 1 / 51.4221, "both are in atomic units"),
        ],
    )
    def test_the_unit(self, energy: float, forces: float, hint: str) -> None:
        # The dominant energy is made large, for else a thousandth of it would be below what calculations agree to.
        frames = [replace(f, energy=30 * energy * f.energy, forces=30 * forces * f.forces, stress=None)
                  for f in good_frames()]  # fmt: skip
        assert re.search(hint, kinds(pf.examine(frames))["forces against energies"].text)

    def test_a_bond_that_breaks_on_the_way_is_no_fault(self, make_frame: Callable[..., Frame]) -> None:
        decay, frames = 2.2, []
        for length in (2.1, 2.2, 3.15, 3.8):
            stretched = np.exp(-decay * (length - 2.2))  # Morse's potential
            pull = 4.0 * decay * (stretched - stretched**2)
            frames.append(
                make_frame(
                    [[0, 0, -length / 2], [0, 0, length / 2]],
                    energy=2.0 * (1 - stretched) ** 2,
                    forces=np.array([[0, 0, pull], [0, 0, -pull]]),
                )
            )
        found = pf.examine(numbered(frames))
        assert "forces against energies" not in kinds(found)
        assert found.summary["steps"]["forces"]["all"] > 0

    def test_atoms_that_cross_the_boundary_are_no_long_steps(self) -> None:
        frames = good_frames()
        shifted = frames[8].positions + frames[8].cell[0]
        found = pf.examine(changed(frames, 8, positions=shifted))
        assert found.findings == ()
        assert found.summary["steps"] == pf.examine(frames).summary["steps"]


class TestStressAgainstEnergies:
    def test_an_energy(self) -> None:
        frames = good_frames()
        finding = only(changed(frames, 3, energy=frames[3].energy + 1.0), "stress against energies")
        assert finding.frames == ("cu.extxyz, structure 4",)

    @pytest.mark.parametrize(
        ("factor", "hint"), [(-1.0, "it is a pressure"), (160.2177, "it is in GPa"), (-1602.177, "kbar, with the sign")]
    )
    def test_sign_and_unit(self, factor: float, hint: str) -> None:
        frames = [replace(frame, stress=factor * frame.stress) for frame in good_frames()]
        finding = kinds(pf.examine(frames))["stress against energies"]
        assert hint in finding.text
        assert set(finding.numbers) == set(range(7))

    def test_shear(self) -> None:
        """A sheared cell of an alloy, whose stress has all six components: all of them count."""
        frames = []
        for shear in (0.00, 0.01, 0.02):
            atoms = bulk("Cu", cubic=True)
            atoms.symbols[0] = "Ni"
            atoms.set_cell(
                atoms.cell @ (np.eye(3) + shear * np.array([[0, 1, 0], [0, 1, 0.5], [0, 0, 0]])), scale_atoms=True
            )
            frames.append(labelled(atoms, "sheared"))
        assert pf.examine(numbered(frames)).findings == ()
        frames = [replace(frame, stress=frame.stress * [1, 1, 1, 40, 40, 40]) for frame in numbered(frames)]
        assert "stress against energies" in kinds(pf.examine(frames))


class TestLabels:
    def test_a_net_force(self) -> None:
        frames = good_frames()
        found = kinds(pf.examine(changed(frames, 2, forces=frames[2].forces + np.array([0.1, 0, 0]))))
        assert found["net force"].frames == ("cu.extxyz, structure 3",)
        assert found["net force"].severity == "error"

    def test_energies_per_atom(self) -> None:
        frames = [*good_frames(), *good_frames(2)]
        frames = [replace(frame, energy=frame.energy - 14.0, forces=None, stress=None) for frame in numbered(frames)]
        wrong = [replace(frames[k], energy=frames[k].energy / 4) for k in range(7, 17)]
        found = kinds(pf.examine(numbered([*frames[:7], *wrong, *frames[17:]])))
        assert set(found["energy per atom"].numbers) == set(range(7, 17))

    @pytest.mark.parametrize(
        ("kind", "severity", "labels"),
        [
            ("large stress", "warning", {"stress": np.array([3.0, 3, 3, 0, 0, 0])}),
            ("high energy", "error", {"energy": 5000.0}),
            ("low energy", "error", {"energy": -3e6}),
        ],
    )
    def test_numbers_out_of_all_bounds(self, kind: str, severity: str, labels: dict[str, object]) -> None:
        found = kinds(pf.examine(changed(good_frames(), 5, **labels)))
        assert found[kind].numbers == (5,)
        assert found[kind].severity == severity

    def test_missing_energies(self) -> None:
        finding = only(changed(good_frames(), 5, energy=None), "labels missing")
        assert finding.severity == "warning"
        assert finding.text == "no energy in 1 of 17 structures (by group: volumes 1)"
        assert finding.frames == ("cu.extxyz, structure 6",)

    def test_missing_forces(self) -> None:
        finding = only(changed(good_frames(), 16, forces=None), "labels missing")
        assert finding.numbers == (16,)

    def test_forces_on_some_atoms(self) -> None:
        batch = pf.Structures.from_frames(good_frames())
        batch.forces[4, 2] = torch.nan
        found = pf.examine(batch)
        assert [one.kind for one in found.findings] == ["labels missing"]
        assert found.findings[0].numbers == (4,)
        assert "forces on some atoms only" in found.findings[0].text

    def test_no_stress_at_all(self) -> None:
        finding = only([replace(frame, stress=None) for frame in good_frames()], "labels missing")
        assert (finding.severity, finding.text, finding.numbers) == ("note", "no structure has stress", ())

    def test_small_groups(self) -> None:
        frames = good_frames()
        finding = only(changed(frames, 4, group="alone"), "small group")
        assert finding.severity == "note"
        assert finding.numbers == (4,)
        assert "alone (1)" in finding.text


class TestDistances:
    def test_too_close(self) -> None:
        frames = good_frames()
        atoms = bulk("Cu", cubic=True)
        atoms.positions[1] = atoms.positions[0] + [0.9, 0.0, 0.0]
        frames = numbered([*frames, replace(labelled(atoms, "volumes"))])
        found = kinds(pf.examine(frames))
        assert found["short distance"].numbers == (17,)
        assert found["short distance"].value == pytest.approx(0.9)
        assert "structure 18, atom 1" in found["short distance"].text
        assert found["short distance"].severity == "warning"

    def test_at_one_place(self) -> None:
        positions = good_frames()[3].positions.copy()
        positions[1] = positions[0]
        found = kinds(pf.examine(changed(good_frames(), 3, positions=positions)))
        assert found["short distance"].severity == "error"
        assert "two atoms at one place" in found["short distance"].text

    def test_an_atom_alone(self) -> None:
        frames = good_frames()
        far = molecule("N2", vacuum=4.0)
        far.symbols = "Cu2"
        far.positions[1, 2] += 9.0
        frames = numbered([*frames, replace(labelled(far, "volumes"), stress=None)])
        found = kinds(pf.examine(frames))
        assert found["atom alone"].numbers == (17,)
        assert found["atom alone"].severity == "warning"

    def test_isolated_atoms_are_meant(self) -> None:
        alone = Frame(
            np.zeros((1, 3)),
            np.zeros((3, 3)),
            np.zeros(3, dtype=bool),
            np.array([29]),
            "volumes",
            "",
            0.0,
            np.zeros((1, 3)),
        )
        found = kinds(pf.examine(numbered([*good_frames(), alone])))
        assert found["atom alone"].severity == "note"

    def test_a_neighbour_farther_out_than_the_first_search(self) -> None:
        frames = [replace(f, positions=1.5 * f.positions, cell=1.5 * f.cell, stress=None) for f in good_frames()[:7]]
        assert "atom alone" not in kinds(pf.examine(frames))
        assert "atom alone" in kinds(pf.examine(frames, cutoff=3.5))


class TestEnergiesOffTheShift:
    def test_a_file(self) -> None:
        other = numbered([replace(f, energy=f.energy + 4 * 50.0) for f in good_frames(3)[7:12]], "other.extxyz")
        finding = pf.examine([*good_frames(), *other]).findings[0]
        assert finding.kind == "energies off the shift"
        assert finding.severity == "error"
        assert set(finding.numbers) == set(range(17, 22))
        assert "file other.extxyz: 5 structures" in finding.text

    def test_groups_of_a_file_that_is_off_are_not_named_again(self) -> None:
        other = [replace(f, energy=f.energy + 200.0, group="own", stress=None) for f in good_frames(3)[:3]]
        found = pf.examine([*good_frames()[7:], *numbered(other, "other.extxyz")])
        assert [one.text[:18] for one in found.findings if one.severity == "error"] == ["file other.extxyz:"]

    def test_a_group(self) -> None:
        frames = [replace(f, energy=f.energy + (200.0 if f.group == "volumes" else 0.0)) for f in good_frames()]
        finding = only(frames, "energies off the shift")
        assert finding.numbers == tuple(range(7))
        assert finding.value == pytest.approx(50, abs=1)

    def test_a_small_offset_between_files_shows_along_steps(self) -> None:
        """Volumes of the same crystal in two files, of which one lies 0.1 eV/atom higher."""
        frames = good_frames()
        other = numbered([replace(f, energy=f.energy + 0.4) for f in frames[1:6:2]], "other.extxyz")
        frames = [*frames[:1], *frames[2:5:2], *frames[6:], *other]
        finding = only(frames, "energies off the shift")
        assert finding.value == pytest.approx(0.1, rel=0.2)
        assert "energies of other.extxyz lie" in finding.text

    def test_composition_explains(self) -> None:
        """Nickel and copper differ by any amount, without being off."""
        frames = []
        for k, symbol in enumerate(["Cu", "Ni"] * 4):
            atoms = bulk(symbol, a=3.5 + 0.02 * k, cubic=True)
            frame = labelled(atoms, symbol)
            frames.append(replace(frame, energy=frame.energy + (4 * 300.0 if symbol == "Ni" else 0.0)))
        assert "energies off the shift" not in kinds(pf.examine(numbered(frames)))


class TestOutliers:
    @staticmethod
    def committee() -> pf.Potential:
        members = [copper(seed=seed, max_random=0.01) for seed in (1, 2, 3)]
        return pf.join_members(members)

    def exact(self) -> list[Frame]:
        """Frames whose labels are those of the committee."""
        batch = pf.Structures.from_frames(good_frames())
        predicted = pf.predict(self.committee(), batch)
        ends = np.cumsum(batch.sizes)
        forces = np.split(predicted.forces.numpy(), ends[:-1])
        noise = np.random.default_rng(4).normal(size=len(batch))
        return [
            replace(frame, energy=float(e) + 1e-4 * float(x), forces=f + 1e-4, stress=None)
            for frame, e, f, x in zip(good_frames(), predicted.energy, forces, noise, strict=True)
        ]

    def test_an_energy(self) -> None:
        frames = self.exact()
        assert "outlier" not in kinds(pf.examine(frames, self.committee()))
        found = kinds(pf.examine(changed(frames, 3, energy=frames[3].energy + 1.0), self.committee()))
        assert found["outlier"].numbers == (3,)
        assert found["outlier"].value == pytest.approx(250, rel=0.01)
        assert found["outlier"].unit == "meV/atom"

    def test_the_shift_of_each_element_counts(self) -> None:
        """Cells of nickel and of copper, whose labels are those of the committee on the scale of DFT."""
        members = []
        for seed in (1, 2):
            member = make_potential(["Cu", "Ni"], seed=seed, max_random=0.01)
            member.energy_shift[:] = torch.tensor([100.0, 300.0])
            members.append(member)
        committee = pf.join_members(members)
        frames = [labelled(bulk(symbol, a=3.6 + 0.01 * k), "bulk") for k in range(4) for symbol in ("Cu", "Ni")]
        predicted = pf.predict(committee, pf.Structures.from_frames(frames)).energy.tolist()
        shifts = [100.0 if frame.atomic_numbers[0] == 29 else 300.0 for frame in frames]
        frames = [
            replace(frame, energy=e - shift, forces=None, stress=None)
            for frame, e, shift in zip(numbered(frames), predicted, shifts, strict=True)
        ]
        assert "outlier" not in kinds(pf.examine(frames, committee))
        found = kinds(pf.examine(changed(frames, 1, energy=frames[1].energy + 1.0), committee))
        assert found["outlier"].numbers == (1,)

    def test_forces(self) -> None:
        frames = self.exact()
        found = kinds(pf.examine(changed(frames, 11, forces=frames[11].forces * -20), self.committee()))
        assert found["outlier"].numbers == (11,)
        assert found["outlier"].unit == "eV/Å"

    def test_without_positions_nothing_is_predicted(self) -> None:
        batch = pf.Structures.from_frames(self.exact())
        whole = pf.build_training_set(batch, copper())
        unknown = torch.full_like(whole.positions, torch.nan)
        found = pf.examine(replace(whole, positions=unknown, forces=unknown), self.committee())
        assert found.summary["inputs"] == copper().descriptor.n_features  # the set has them
        assert found.summary["committee"] is None
        wrong = changed(self.exact(), 3, energy=self.exact()[3].energy + 1.0)
        parts = [Records.of_frames(wrong), Records.of_set(replace(whole, positions=unknown))]
        found = pf.examine(Records.joined(parts), self.committee())
        assert found.summary["inputs"] is None
        assert kinds(found)["outlier"].numbers == (3,)

    def test_a_single_member_tells_nothing(self) -> None:
        frames = self.exact()
        frames = changed(frames, 3, energy=frames[3].energy + 1.0)
        assert "outlier" not in kinds(pf.examine(frames, self.committee().member(0)))


class TestBadInput:
    def test_no_structure(self) -> None:
        with pytest.raises(pf.InputError, match="expected at least one structure, found none"):
            pf.examine([])

    def test_no_energies(self) -> None:
        with pytest.raises(pf.InputError, match="expected structures with energies, found none in 17"):
            pf.examine([replace(frame, energy=None) for frame in good_frames()])

    def test_an_unknown_element(self) -> None:
        with pytest.raises(
            pf.InputError, match=r"cu.extxyz, structure 1, atom 1: expected an element .*\(Si\), found Cu"
        ):
            pf.examine(good_frames(), make_potential())


def test_worst_first_and_rows_of_findings() -> None:
    frames = good_frames()
    frames = changed(frames, 3, energy=frames[3].energy + 1.0)
    frames = numbered([*changed(frames, 16, forces=None), frames[8]])
    found = pf.examine(frames)
    assert [one.severity for one in found.findings] == ["error", "warning", "warning"]
    assert found.rows_of([1, 2]) == {3, *found.findings[1].numbers}
    with pytest.raises(pf.InputError, match="expected the number of a finding, 1 to 3, got 4"):
        found.rows_of([4])


def test_copies_are_known_where_one_file_names_no_elements() -> None:
    frames = good_frames()
    unnamed = replace(frames[2], atomic_numbers=np.zeros(4, dtype=np.int64), source="old.dat, structure 1")
    assert "copies" not in kinds(pf.examine([*frames, unnamed]))
    assert kinds(pf.examine([*frames, unnamed], copper()))["copies"].frames == ("old.dat, structure 1",)


def test_records_give_back_their_frames() -> None:
    frames = good_frames()
    records = Records.joined([Records.of_frames(frames[:5]), Records.of_frames(frames[5:])])
    for row, frame in enumerate(frames):
        found = records.frame(row)
        np.testing.assert_array_equal(found.positions, frame.positions)
        np.testing.assert_array_equal(found.forces, frame.forces)
        assert (found.energy, found.group, found.source) == (frame.energy, frame.group, frame.source)
    assert records.files == ("cu.extxyz",) * 17
    assert [list(window) for window in records.windows(20)] == [
        [0, 1, 2, 3, 4],
        [5, 6, 7, 8, 9],
        [10, 11, 12, 13, 14],
        [15, 16],
    ]


@pytest.mark.parametrize("path", ["data/si_dft.extxyz", "silicon_carbide/sic_dft.extxyz"])
def test_nothing_in_the_sets_of_the_examples(path: str) -> None:
    frames = list(read_frames(EXAMPLES / path))
    symbols = ["Si", "C"] if "carbide" in path else ["Si"]
    found = pf.examine(frames, make_potential(symbols, gi_mode=5, cutoff=5.0))
    assert found.findings == ()
    assert found.summary["steps"]["stress"]["tell_the_sign"] > 30


def test_faults_in_the_set_of_the_examples() -> None:
    """A wrong energy among displaced frames, and a stress of the wrong sign, in real data."""
    frames = list(read_frames(EXAMPLES / "data" / "si_dft.extxyz"))
    names = [frame.source.rpartition(" ")[2] for frame in frames]
    frames = changed(frames, 111, energy=frames[111].energy + 1.0)  # structure 112 has two near ones
    frames = changed(frames, 2, stress=-frames[2].stress)
    found = kinds(pf.examine(frames))
    assert set(found) == {"forces against energies", "stress against energies"}
    assert found["forces against energies"].numbers == (111,)
    assert found["stress against energies"].numbers == (2,)
    assert names[111] == "112"
