"""Doubts about labels: every kind found and named, and none where numbers are as they should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pyfit_gpu.structures.doubts import Doubts, Finding, describe_findings
from pyfit_gpu.structures.frames import Frame, StructureSummary
from pyfit_gpu.structures.per_atom import look_per_atom


def make_frame(n: int = 4, seed: int = 0, symbol: int = 14, **labels: Any) -> Frame:
    random = np.random.RandomState(seed)
    forces = random.normal(size=(n, 3))
    values: dict[str, Any] = {
        "energy": -5.4 * n,
        "forces": forces - forces.mean(axis=0),
        "stress": random.uniform(-0.1, 0.1, 6),
        **labels,
    }
    return Frame(
        positions=random.uniform(0.0, 5.0, (n, 3)),
        cell=np.eye(3) * 5.0,
        pbc=np.ones(3, dtype=np.bool_),
        atomic_numbers=np.full(n, symbol),
        group="g",
        source="s",
        **values,
    )


def findings(frames: Sequence[Frame | StructureSummary], path: str = "a.xyz") -> list[Finding]:
    doubts = Doubts()
    for number, frame in enumerate(frames, 1):
        doubts.add(path, number, frame)
    return doubts.findings()


def test_good_structures_raise_none() -> None:
    assert findings([make_frame(n, seed) for seed, n in enumerate((1, 2, 8, 64, 65))][1:]) == []
    assert findings([]) == []


@pytest.mark.parametrize(
    ("kind", "labels", "value"),
    [
        ("stress", {"stress": np.array([0.1, -44324.6, 3.0, 0.0, 0.0, 0.0])}, "-44324.6 eV/Å^3"),
        ("forces", {"forces": np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0, 0, 0]])}, "0.433013 eV/Å per atom"),
        ("high energy", {"energy": 4004.0}, "1001 eV/atom"),
        ("low energy", {"energy": -4 * 21.1 * 14 ** (7 / 3)}, "eV/atom"),
    ],
)
def test_labels_of_one_structure(kind: str, labels: dict[str, Any], value: str) -> None:
    doubtful = make_frame(seed=1, **labels)
    found = findings([make_frame(), doubtful, replace(doubtful, positions=doubtful.positions + 0.1)])
    assert [(one.kind, one.structures) for one in found] == [(kind, (2, 3))]
    assert found[0].text.startswith("a.xyz: ")
    assert f"in 2 of 3 structures, first structure 2 ({value}" in found[0].text or value == "eV/atom"


def test_small_net_forces_are_usual() -> None:
    """Programs print forces that sum to some meV/Å per atom, and near-zero forces of crystals are all noise."""
    frame = make_frame(8)
    assert frame.forces is not None
    assert findings([replace(frame, forces=frame.forces + 0.009)]) == []
    assert findings([replace(frame, forces=np.full((8, 3), 0.004))]) == []


def test_unknown_elements_have_no_lowest_energy() -> None:
    assert findings([make_frame(symbol=0, energy=-1e9)]) == []


def test_summaries_are_judged_by_their_energy() -> None:
    found = findings([StructureSummary({14: 4}, "g", "s", 1e4), StructureSummary({14: 4}, "g", "s", None)])
    assert [(one.kind, one.structures) for one in found] == [("high energy", (1,))]


class TestPerAtom:
    def test_beside_totals_of_another_file(self) -> None:
        doubts = Doubts()
        for path, per_atom in (("a.xyz", False), ("b.xyz", True)):
            for number, n in enumerate((2, 8, 64, 128), 1):
                frame = make_frame(n, seed=n + per_atom)
                energy = -5.4 - 0.01 * number
                doubts.add(path, number, replace(frame, energy=energy if per_atom else n * energy))
        (found,) = doubts.findings()
        assert (found.kind, found.path, found.structures) == ("energy per atom", "b.xyz", (1, 2, 3, 4))
        assert "first structure 1 (-5.41 eV)" in found.text

    def test_most_of_them(self) -> None:
        n = np.full(20, 64)
        energy = -5.4 - 0.01 * np.arange(20.0)
        total = np.arange(20) % 4 == 0
        assert np.array_equal(look_per_atom(np.where(total, n * energy, energy), n), ~total)

    def test_all_of_them(self) -> None:
        n = np.array([2, 8, 16, 64])
        assert look_per_atom(np.array([-5.4, -5.38, -5.41, -5.3]), n).all()
        assert not look_per_atom(np.array([-5.4, -5.38, -5.41, -5.3]) * n, n).any()

    def test_large_offsets(self) -> None:
        """Energies of all electrons: atoms, dimers and crystals differ by a thousandth."""
        n = np.array([1, 2, 8, 64])
        assert not look_per_atom(-7880.0 * n, n).any()
        assert look_per_atom(np.array([-7880.0, -15762.0, -7883.0, -7882.0]), n).tolist() == [False, False, True, True]

    @pytest.mark.parametrize("n", [2, 4, 8])
    def test_energy_curves_pass_through_it(self, n: int) -> None:
        """The energy of a stretched cell of n atoms passes through that of one atom at equilibrium."""
        length = np.linspace(0.8, 3.0, 200)
        well = (1 - np.exp(-3 * (length - 1))) ** 2 - 1
        sizes = np.full(200, n)
        assert (np.abs(n * 4.6 * well + 4.6) < 0.2).any()
        assert not look_per_atom(4.6 * well * n, sizes).any()

    def test_a_dimer_beside_crystals(self) -> None:
        n = np.array([1, 2, 2, 2, *[64] * 30])
        energy = np.array([-0.8, -5.2, -4.9, -2.0, *(-5.42 * 64 + np.linspace(0, 30, 30))])
        assert not look_per_atom(energy, n).any()

    def test_only_the_same_composition_is_compared(self) -> None:
        frames = [make_frame(2, seed) for seed in range(4)]
        other = replace(make_frame(4, 9), atomic_numbers=np.array([14, 14, 14, 6]), energy=-5.4)
        assert findings([*frames, other]) == []
        assert [one.structures for one in findings([*frames, replace(make_frame(4, 9), energy=-5.4)])] == [(5,)]


class TestOtherLabels:
    @pytest.mark.parametrize("label", ["energy", "forces", "stress"])
    def test_the_same_structure_with_another_label(self, label: str) -> None:
        frame = make_frame()
        other = replace(frame, **{label: getattr(frame, label) * 1.001})
        doubts = Doubts()
        doubts.add("a.xyz", 1, make_frame(seed=5))
        doubts.add("a.xyz", 2, frame)
        doubts.add("b.xyz", 1, other)
        for _ in range(2):  # asking changes nothing
            (found,) = doubts.findings()
            assert (found.kind, found.path, found.structures) == ("other labels", "b.xyz", (1,))
            assert "(structure 2 of a.xyz)" in found.text

    def test_copies_with_the_same_labels(self) -> None:
        frame = make_frame()
        assert frame.forces is not None
        printed = replace(frame, forces=np.round(frame.forces, 8), positions=np.round(frame.positions, 8))
        unlabelled = replace(frame, energy=None, forces=None, stress=None)
        assert findings([frame, frame, printed, unlabelled]) == []

    def test_summaries_are_no_copies(self) -> None:
        assert findings([StructureSummary({14: 4}, "g", "s", energy) for energy in (-20.0, -21.0)]) == []


def test_one_finding_for_each_kind_and_file() -> None:
    bad = make_frame(stress=np.full(6, 2.0), energy=1e5)
    doubts = Doubts()
    for path in ("b.xyz", "a.xyz"):
        for number in (1, 2):
            doubts.add(path, number, bad)
    assert [(one.path, one.kind) for one in doubts.findings()] == [
        ("b.xyz", "stress"), ("b.xyz", "high energy"), ("a.xyz", "stress"), ("a.xyz", "high energy")
    ]  # fmt: skip


def test_many_files_give_few_lines() -> None:
    doubts = Doubts()
    for k in range(300):
        doubts.add(f"{k}.xyz", 1, make_frame(seed=k, stress=np.full(6, 2.0), **({"energy": 1e5} if k < 5 else {})))
    findings = doubts.findings()
    assert len(findings) == 305
    lines = describe_findings(findings)
    assert [line.split(":")[0] for line in lines] == [
        *(f"{k}.xyz" for k in range(5)), "a stress component above 1 eV/Å^3 in 295 more files",
        *(f"{k}.xyz" for k in range(5)),
    ]  # fmt: skip
