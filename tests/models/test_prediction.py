"""Several members: mean and spread against separate runs of each, the sum rules of both, and what is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.models import chunk_walk
from pyfit_gpu.models import prediction as module
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential, join_members
from pyfit_gpu.models.prediction import Prediction, evaluate, predict
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame

MakeFrame = Callable[..., Frame]

EXACT = 1e-12  # relative to the largest value: where only the order of sums differs
NAMES = ("energy", "forces", "stress")
COUNTS = [2, 3, 6, 7, 12]  # by pull backs up to 6, by the Jacobian from 7 on


def make_potential(elements: tuple[str, ...] = ("Si", "C"), seed: int = 0, gi_mode: int = 5) -> Potential:
    descriptor = LocalStructureParameters(
        elements=elements,
        gi_mode=gi_mode,
        shift=0.5,
        cutoff=3.8,
        cutoff_width=1.0,
        gaussian_width=0.8,
        legendre_orders=(0, 1, 2, 4),
        gaussian_centers=(1.6, 2.4, 3.1),
    )
    sizes = (descriptor.n_features, 5, 4, 1)
    return Potential(
        descriptor=descriptor,
        networks=ElementNetworks.random(sizes, 2.0, seed, n_elements=len(elements), activation=1),
        masses=(28.0855,) * len(elements),
        max_random=0.5,
        use_baseline=False,
        bond_order_parameters=(0.0,) * 8,
        energy_shift=torch.full((len(elements),), 5.25, dtype=torch.float64),
    )


def make_members(n_members: int, **keywords: object) -> list[Potential]:
    return [make_potential(seed=seed, **keywords) for seed in range(n_members)]


@pytest.fixture
def mixed(mixed_frames: Callable[..., list[Frame]]) -> Structures:
    return Structures.from_frames(mixed_frames(("Si", "C"), 40))


def assert_close(found: Tensor, expected: np.ndarray, tolerance: float = EXACT) -> None:
    """Relative to the largest expected value; NaN where and only where NaN is expected."""
    assert found.shape == expected.shape
    found = found.numpy()
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert np.nanmax(np.abs(found - expected)) <= tolerance * np.nanmax(np.abs(expected))


def separately(members: list[Potential], structures: Structures, name: str) -> np.ndarray:
    """(K, ..): what each member says alone."""
    return np.stack([getattr(predict(member, structures), name).numpy() for member in members])


@pytest.mark.parametrize("n_members", COUNTS)
@pytest.mark.parametrize(("elements", "gi_mode"), [(("Si", "C"), 5), (("Si",), 1), (("Si",), 3)])
def test_against_separate_runs(
    mixed_frames: Callable[..., list[Frame]], n_members: int, elements: tuple[str, ...], gi_mode: int
) -> None:
    """Crystals, molecules without a stress, lone atoms: NumPy's mean and standard deviation over single members."""
    structures = Structures.from_frames(mixed_frames(elements, 40))
    members = make_members(n_members, elements=elements, gi_mode=gi_mode)
    joined = join_members(members)
    found = predict(joined, structures)
    assert found.spread is not None
    for name in NAMES:
        alone = separately(members, structures, name)
        assert_close(getattr(found, name), alone.mean(axis=0))
        assert_close(getattr(found.spread, name), alone.std(axis=0, ddof=1))
        assert np.nanmax(alone.std(axis=0)) > 1e-3
    assert bool(found.spread.stress.isnan().any())
    assert_close(found.atomic_energies, separately(members, structures, "atomic_energies").mean(axis=0))
    assert_close(evaluate(joined, structures), separately(members, structures, "energy").mean(axis=0))
    without = predict(joined, structures, derivatives=False)
    assert without.forces is None
    assert without.spread is not None
    assert without.spread.forces is None
    assert without.spread.stress is None
    assert_close(without.spread.energy, separately(members, structures, "energy").std(axis=0, ddof=1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("n_members", [*COUNTS, 17, 32])
def test_equal_members_have_no_spread(mixed: Structures, n_members: int, dtype: torch.dtype) -> None:
    """Exactly, and their energy is exactly that of one."""
    one = make_potential().to("cpu", dtype)
    found = predict(join_members([one] * n_members), mixed)
    assert found.spread is not None
    for name in NAMES:
        spread = getattr(found.spread, name)
        assert spread.dtype == dtype
        assert bool((spread.nan_to_num() == 0).all()), name
    assert torch.equal(found.energy, predict(one, mixed).energy)


@pytest.mark.parametrize("n_members", [4, 9])
def test_order_of_members_does_not_matter(mixed: Structures, n_members: int) -> None:
    members = make_members(n_members)
    found = predict(join_members(members), mixed)
    other = predict(join_members([*members[2:], members[1], members[0]]), mixed)
    for name in NAMES:
        assert_close(getattr(other, name), getattr(found, name).numpy())
        assert_close(getattr(other.spread, name), getattr(found.spread, name).numpy())


def test_spread_of_large_energies_keeps_its_digits(mixed: Structures) -> None:
    """Energies of 1e9 eV an atom that differ by 1e-3: the mean of squares less the square of the mean knows none."""
    member = make_potential()
    members = []
    for number in range(5):
        networks = member.member(0).networks
        networks.biases[-1].fill_(1e9 + number * 2.0**-10)
        members.append(replace(member, networks=networks))
    spread = predict(join_members(members), mixed, derivatives=False).spread
    assert spread is not None
    expected = np.array(mixed.sizes) * np.std(np.arange(5) * 2.0**-10, ddof=1)
    # What remains is the rounding of the energies themselves.
    assert np.abs(spread.energy.numpy() - expected).max() < 4 * np.spacing(1e9 * max(mixed.sizes))
    squares = np.array([predict(m, mixed, derivatives=False).energy.numpy() for m in members])
    assert np.abs((squares**2).mean(axis=0) - squares.mean(axis=0) ** 2).max() > 100 * expected.max() ** 2


@pytest.mark.parametrize("n_members", [3, 8])
def test_forces_are_the_gradient_of_the_mean_energy(random_frame: MakeFrame, n_members: int) -> None:
    """Differences of fourth order; the stress by straining the cell."""
    joined = join_members(make_members(n_members))
    frame = random_frame(3, 5, elements=("Si", "C"))
    step = 1e-3

    def energies(frames: list[Frame]) -> np.ndarray:
        return evaluate(joined, Structures.from_frames(frames)).numpy()

    def slope(moved: Callable[[float], Frame]) -> float:
        two_before, before, after, two_after = energies([moved(step * k) for k in (-2, -1, 1, 2)])
        return float((8 * (after - before) - (two_after - two_before)) / (12 * step))

    def shifted(atom: int, axis: int, by: float) -> Frame:
        positions = frame.positions.copy()
        positions[atom, axis] += by
        return replace(frame, positions=positions)

    def strained(axis: int, by: float) -> Frame:
        strain = np.eye(3)
        strain[axis, axis] += by
        return replace(frame, positions=frame.positions @ strain, cell=frame.cell @ strain)

    found = predict(joined, Structures.from_frames([frame]))
    forces = [[-slope(lambda by, a=atom, c=axis: shifted(a, c, by)) for axis in range(3)] for atom in range(5)]
    stress = [slope(lambda by, c=axis: strained(c, by)) / frame.volume for axis in range(3)]
    assert np.abs(found.forces.numpy() - forces).max() < 1e-8
    assert np.abs(found.stress[0, :3].numpy() - stress).max() < 1e-8
    assert np.abs(forces).max() > 0.1


@pytest.mark.parametrize("derivatives", [True, False])
def test_a_member_alone_is_the_potential_bit_for_bit(mixed: Structures, derivatives: bool) -> None:
    """One member has no spread, and its results are those that it has as one of several."""
    potential = make_potential()
    found = predict(potential, mixed, derivatives=derivatives)
    taken = predict(join_members(make_members(3)).member(0), mixed, derivatives=derivatives)
    assert found.spread is None
    for name in (*NAMES, "atomic_energies"):
        mine, other = getattr(found, name), getattr(taken, name)
        assert (mine is None) == (other is None)
        assert mine is None or torch.equal(mine.nan_to_num(), other.nan_to_num())


def test_one_vjp_for_one_member(mixed: Structures, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Jacobian, several times as dear as one vector-Jacobian product, is for many members only."""
    asked = []
    original = Chunk.jacobian
    monkeypatch.setattr(Chunk, "jacobian", lambda chunk, **keywords: asked.append(1) or original(chunk, **keywords))
    for n_members in (1, 6):
        predict(join_members(make_members(n_members)), mixed)
    assert not asked
    predict(join_members(make_members(7)), mixed)
    assert asked


@pytest.mark.parametrize("n_members", [3, 8])
def test_batches_and_chunks_of_any_size(mixed: Structures, monkeypatch: pytest.MonkeyPatch, n_members: int) -> None:
    joined = join_members(make_members(n_members))
    expected = predict(joined, mixed)
    monkeypatch.setattr(module, "batch_atoms", lambda device, n_features: 10 * n_members)
    monkeypatch.setattr(chunk_walk, "_JACOBIAN_BYTES_CPU", 1)
    found = predict(joined, mixed)
    for name in NAMES:
        assert_close(getattr(found, name), getattr(expected, name).numpy())
        assert_close(getattr(found.spread, name), getattr(expected.spread, name).numpy())


def test_single_precision_is_close(mixed: Structures) -> None:
    joined = join_members(make_members(8))
    exact, found = predict(joined, mixed), predict(joined.to("cpu", torch.float32), mixed)
    for name in NAMES:
        assert getattr(found.spread, name).dtype == torch.float32
        assert_close(getattr(found.spread, name).double(), getattr(exact.spread, name).numpy(), 1e-5)


def test_to_another_precision(mixed: Structures) -> None:
    found = predict(join_members(make_members(2)), mixed)
    moved = found.to("cpu", torch.float32)
    assert isinstance(moved, Prediction)
    for name in NAMES:
        assert getattr(moved, name).dtype == torch.float32
        assert torch.equal(getattr(moved.spread, name).nan_to_num(), getattr(found.spread, name).float().nan_to_num())


def test_members_on_another_device_are_refused(mixed: Structures) -> None:
    joined = join_members([member.to("meta") for member in make_members(2)])
    with pytest.raises(ValueError, match="predict: structures are on cpu, the potential is on meta"):
        predict(joined, mixed)


def test_several_members_on_a_gpu(mixed: Structures) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for n_members in (3, 8):
        joined = join_members(make_members(n_members))
        expected = predict(joined, mixed)
        found = predict(joined.to("cuda"), mixed.to("cuda")).to("cpu", torch.float64)
        for name in NAMES:
            assert_close(getattr(found, name), getattr(expected, name).numpy(), 1e-10)
            assert_close(getattr(found.spread, name), getattr(expected.spread, name).numpy(), 1e-10)
