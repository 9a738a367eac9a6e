"""The grade of atoms against loops in NumPy, and on structures: symmetries, precision, the walk of a prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_sets import make_potential
from scipy.spatial.transform import Rotation

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.errors import InputError
from pyfit_gpu.models import extrapolation as module
from pyfit_gpu.models.batches import featurize
from pyfit_gpu.models.extrapolation import ExtrapolationGrade
from pyfit_gpu.models.potential import Potential, join_members
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.models.uncertainty import Uncertainty
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.clusters import build_extrapolation_grade

MakeFrame = Callable[..., Frame]


def made(seed: int = 0, *, n_elements: int = 2, clusters: int = 4, rank: int = 3, n: int = 6) -> ExtrapolationGrade:
    """Clusters of random numbers: the weight is above all squares of directions, so that the form is positive."""
    rng = np.random.default_rng(seed)
    total = n_elements * clusters
    directions = np.linalg.qr(rng.normal(size=(total, n, rank)))[0].transpose(0, 2, 1)
    length = rng.uniform(0.1, 0.99, (total, rank))
    length[0] = 0  # of a cluster without directions
    weight = rng.uniform(1, 3, total)
    return ExtrapolationGrade(
        scale=torch.from_numpy(rng.uniform(0.5, 2, (n_elements, n))),
        element=torch.arange(n_elements).repeat_interleave(clusters),
        n_atoms=torch.from_numpy(rng.integers(1, 100, total)),
        centers=torch.from_numpy(3 + rng.normal(size=(total, n))),
        weight=torch.from_numpy(weight),
        directions=torch.from_numpy(directions * (np.sqrt(weight)[:, None] * length)[:, :, None]),
    )


def slow(grade: ExtrapolationGrade, x: np.ndarray, element: int) -> tuple[float, np.ndarray]:
    """Square of the grade of one atom, and its summands by input."""
    rows = [row for row, other in enumerate(grade.element.tolist()) if other == element]
    scale = grade.scale[element].numpy()
    squares = [sum(((x - grade.centers[row].numpy()) / scale) ** 2) for row in rows]
    best = rows[int(np.argmin(squares))]
    z = x - grade.centers[best].numpy()
    form = float(grade.weight[best]) * np.eye(len(x))
    for u in grade.directions[best].numpy():
        form -= np.outer(u, u)
    return float(z @ form @ z), np.array([z[f] * (form[f] @ z) for f in range(len(x))])


@pytest.mark.parametrize("at_once", [1, 10**9])
def test_against_numpy(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(module, "_NUMBERS_CPU", at_once)
    grade = made()
    rng = np.random.default_rng(1)
    inputs, species = torch.from_numpy(3 + 2 * rng.normal(size=(50, 6))), torch.from_numpy(rng.integers(0, 2, 50))
    expected = [slow(grade, x.numpy(), int(k)) for x, k in zip(inputs, species, strict=True)]
    np.testing.assert_allclose(grade(inputs, species), np.sqrt([square for square, _ in expected]), rtol=1e-12)
    summands = np.array([one for _, one in expected])
    np.testing.assert_allclose(grade.contributions(inputs, species), summands, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(summands.sum(axis=1), [square for square, _ in expected], rtol=1e-9)


def test_bits_do_not_depend_on_other_atoms() -> None:
    grade = made(n=40, rank=20)
    inputs = 3 + torch.randn(200, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    species = torch.arange(200) % 2
    whole = grade(inputs, species)
    for first in range(0, 200, 7):
        part = slice(first, first + 7)
        assert torch.equal(grade(inputs[part], species[part]), whole[part])


def test_float32() -> None:
    grade = made(n=40, rank=20)
    inputs = 3 + torch.randn(200, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    species = torch.arange(200) % 2
    found = grade.to("cpu", torch.float32)(inputs.float(), species)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), grade(inputs, species), rtol=1e-4, atol=1e-4)


def test_element_without_clusters() -> None:
    grade = made()
    own = grade.element == 1
    names = ("element", "n_atoms", "centers", "weight", "directions")
    grade = replace(grade, **{name: getattr(grade, name)[own] for name in names})
    found = grade(torch.full((2, 6), 3.0, dtype=torch.float64), torch.tensor([0, 1]))
    assert found[0] == torch.inf
    assert found[1].isfinite()
    descriptor = make_potential(("Si", "C"), legendre_orders=(0,), gaussian_centers=(1.7, 2.5)).descriptor
    assert grade.describe_farthest(torch.zeros(6).double(), 0, descriptor) == "no atom of Si trained"


def test_no_atoms() -> None:
    assert made()(torch.empty(0, 6).double(), torch.empty(0, dtype=torch.int64)).shape == (0,)


@pytest.fixture(scope="module")
def potential() -> Potential:
    return make_potential(("Si", "C"), gi_mode=6, cross_terms=1, triples=((0, 2, 2),))


@pytest.fixture(scope="module")
def structures(random_frame: MakeFrame) -> Structures:
    return Structures.from_frames([random_frame(seed, 4 + seed % 4, elements=("Si", "C")) for seed in range(12)])


@pytest.fixture(scope="module")
def uncertainty(potential: Potential, structures: Structures) -> Uncertainty:
    train = build_training_set(structures, potential)
    return Uncertainty.of(potential, build_extrapolation_grade(train, potential))


@pytest.mark.parametrize("derivatives", [True, False])
def test_of_a_prediction(
    potential: Potential, structures: Structures, uncertainty: Uncertainty, derivatives: bool
) -> None:
    """The walk gives the grades of the inputs, which are at most 1 for structures that trained."""
    found = predict(potential, structures, derivatives=derivatives, uncertainty=uncertainty)
    assert found.uncertainty is not None
    species = potential.species_index(structures)
    expected = uncertainty.grade(featurize(structures, potential), species)
    torch.testing.assert_close(found.uncertainty.grade, expected)
    for element in range(2):
        assert expected[species == element].max().item() == pytest.approx(1.0, abs=1e-12)
    plain = predict(potential, structures, derivatives=derivatives)
    assert torch.equal(plain.energy, found.energy)


def test_of_a_committee(potential: Potential, structures: Structures, uncertainty: Uncertainty) -> None:
    """It has the inputs of its members, and so the grades."""
    both = join_members([potential.randomized(3), potential], ["a", "b"])
    alone, found = (predict(one, structures, uncertainty=uncertainty).uncertainty for one in (potential, both))
    assert alone is not None
    assert found is not None
    torch.testing.assert_close(found.grade, alone.grade)
    others = join_members([potential.randomized(30), potential.randomized(40)], ["a", "b"])
    with pytest.raises(InputError, match=r"belongs to another potential: .* found [0-9a-f]{8}$"):
        predict(others, structures, uncertainty=uncertainty)


def test_a_potential_that_was_cast(potential: Potential, structures: Structures, uncertainty: Uncertainty) -> None:
    single = potential.to("cpu", torch.float32)
    with pytest.raises(InputError, match="or to this one before it was cast to float32"):
        predict(single, structures, uncertainty=uncertainty)


def test_symmetries(potential: Potential, uncertainty: Uncertainty, random_frame: MakeFrame) -> None:
    frame = random_frame(99, 6, elements=("Si", "C"))

    def grades(changed: Frame) -> torch.Tensor:
        found = predict(potential, Structures.from_frames([changed]), uncertainty=uncertainty).uncertainty
        assert found is not None
        return found.grade

    expected = grades(frame)
    assert expected.max() > 1
    turn = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    rotated = replace(frame, positions=frame.positions @ turn.T + 0.37, cell=frame.cell @ turn.T)
    torch.testing.assert_close(grades(rotated), expected, rtol=1e-8, atol=1e-8)
    order = np.array([3, 1, 5, 0, 2, 4])
    mixed = replace(frame, positions=frame.positions[order], atomic_numbers=frame.atomic_numbers[order])
    torch.testing.assert_close(grades(mixed), expected[order], rtol=1e-8, atol=1e-8)


def test_input_farthest_out(potential: Potential, structures: Structures, uncertainty: Uncertainty) -> None:
    """One input of a training atom is changed by much: it is that which is named."""
    inputs = featurize(structures, potential)[0].clone()
    inputs[-1] += 50.0
    species = int(potential.species_index(structures)[0])
    found = uncertainty.grade.describe_farthest(inputs, species, potential.descriptor)
    assert found == f"input {len(inputs)}, C-C-C l=0,2,2 r0=3.3 Å"
