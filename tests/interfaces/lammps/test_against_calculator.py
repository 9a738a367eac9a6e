"""Energies, forces and stress of LAMMPS with the plugin beside those of the calculator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from lammps_samples import as_atoms, calculated, sample_potential, save_committee

from pyfit_gpu.interfaces.lammps.installation import Installation
from pyfit_gpu.interfaces.lammps.running import LammpsResult, PairStyle, evaluate_frames
from pyfit_gpu.structures.frames import Frame

MakeFrame = Callable[..., Frame]
Compare = Callable[..., None]

ONE, TWO, THREE = ("Si",), ("C", "Si"), ("Si", "C", "Ge")
MANY_TERMS = {
    "gi_mode": 6,
    "legendre_orders": (0, 1, 2, 3),
    "cross_terms": 1,
    "triples": ((1, 1, 2), (1, 2, 3), (2, 2, 2)),
}


@pytest.fixture
def compare(lammps: Installation, plugin: Path, tmp_path: Path) -> Compare:
    """Compare all results for some frames and potential files."""

    def compare(frames: Sequence[Frame], files: Sequence[Path], elements: Sequence[str], *, ranks: int = 1) -> None:
        pair = PairStyle.of(sample_potential(elements), files, plugin)
        folder = tmp_path / "run"
        folder.mkdir()
        results = evaluate_frames(lammps, frames, pair, folder, ranks=ranks)
        for frame, found in zip(frames, results, strict=True):
            check(frame, found, files)

    return compare


def check(frame: Frame, found: LammpsResult, files: Sequence[Path]) -> None:
    atoms = calculated(as_atoms(frame), files)
    energies = atoms.get_potential_energies()
    assert abs(found.energy - atoms.get_potential_energy()) < 1e-11 * len(atoms)
    np.testing.assert_allclose(found.atomic_energies, energies, rtol=0, atol=1e-11)
    np.testing.assert_allclose(found.forces, atoms.get_forces(), rtol=0, atol=1e-10)
    if frame.volume:
        np.testing.assert_allclose(found.stress(frame.volume), atoms.get_stress(), rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def frames_of(
    mixed_frames: Callable[..., list[Frame]], random_frame: MakeFrame, make_frame: MakeFrame
) -> Callable[[Sequence[str]], list[Frame]]:
    """Crystals, tiny and very skewed cells, atoms outside of them, slabs, a chain, clusters, atoms alone or apart."""

    def frames(elements: Sequence[str]) -> list[Frame]:
        left_handed = [[0.1, 5.1, 0.2], [4.9, 0.3, 0.1], [0.2, 0.1, 5.3]]
        flat = [[3.0, 0.0, 0.0], [9.1, 2.8, 0.0], [-5.0, 8.3, 3.1]]
        two = [elements[0], elements[-1]]
        return [
            *mixed_frames(elements, seed=len(elements)),
            random_frame(11, 12, length=8.0, elements=elements),
            make_frame([[0.1, 0.2, 0.3], [1.9, 2.1, 2.7]], left_handed, symbols=two),
            make_frame([[0.1, 0.2, 0.3]], flat, symbols=elements[-1:]),
            make_frame([[0.1, 0.2, 0.3], [1.6, 1.5, 2.0]], flat, pbc=[True, False, False], symbols=two),
            make_frame([[0.0, 0.0, 0.0], [0.0, 0.0, 30.0]], symbols=two),
        ]

    return frames


@pytest.mark.parametrize(
    ("elements", "settings"),
    [
        (ONE, {"gi_mode": 0, "activation": 0, "gaussian_centers": (0.0, 2.5, 3.0)}),
        (ONE, {"gi_mode": 1, "hidden": ()}),
        (ONE, {"gi_mode": 4, "hidden": (3,), "cutoff": 3.3}),
        (ONE, {"gi_mode": 5, "hidden": (9, 7, 5, 3), "legendre_orders": (0, 1, 2, 3, 4, 6)}),
        (ONE, MANY_TERMS),
        (TWO, {"gi_mode": 2, "activation": 2, "cutoff": 3.3}),
        (TWO, {"gi_mode": 3, "activation": 0, "cutoff": 3.3}),
        (TWO, {"gi_mode": 5, "legendre_orders": (5, 0, 3)}),
        (THREE, {"gi_mode": 5, "hidden": (1,)}),
        (THREE, {**MANY_TERMS, "activation": 0, "hidden": (17,)}),
    ],
    ids=lambda value: f"mode {value['gi_mode']}" if isinstance(value, dict) else " ".join(value),
)
def test_same_as_the_calculator(
    frames_of: Callable[[Sequence[str]], list[Frame]],
    compare: Compare,
    elements: tuple[str, ...],
    settings: dict[str, object],
    tmp_path: Path,
) -> None:
    compare(frames_of(elements), save_committee(tmp_path, 1, elements, **settings), elements)


@pytest.mark.parametrize("settings", [{"gi_mode": 5}, MANY_TERMS], ids=["mode 5", "mode 6"])
def test_mean_of_a_committee(
    frames_of: Callable[[Sequence[str]], list[Frame]], compare: Compare, settings: dict[str, object], tmp_path: Path
) -> None:
    compare(frames_of(TWO), save_committee(tmp_path, 5, TWO, **settings), TWO)


def test_pairs_at_the_cutoff(make_frame: MakeFrame, compare: Compare, tmp_path: Path) -> None:
    cutoff = 4.3
    distances = [cutoff, *(cutoff * (1 + sign * 2.0**-k) for k in (52, 30, 10) for sign in (1, -1))]
    frames = [make_frame([[0.0, 0.0, 0.0], [0.0, 0.0, distance], [0.0, 1.9, 0.1]]) for distance in distances]
    compare(frames, save_committee(tmp_path, 1), ONE)


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_on_several_ranks(
    frames_of: Callable[[Sequence[str]], list[Frame]], compare: Compare, ranks: int, tmp_path: Path
) -> None:
    """Most of these structures have fewer atoms than ranks, or leave ranks without any."""
    compare(frames_of(TWO), save_committee(tmp_path, 2, TWO, **MANY_TERMS), TWO, ranks=ranks)
