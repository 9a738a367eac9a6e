"""Clusters of training atoms against NumPy, the edge of the training set, and sets with little to go by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_sets import make_set, with_settings

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.training_set.reader import save_training_set
from pyfit_gpu.models.extrapolation import ExtrapolationGrade
from pyfit_gpu.training import clusters as module
from pyfit_gpu.training.clusters import build_extrapolation_grade

NAMES = ("scale", "element", "n_atoms", "centers", "weight", "directions")


def build(train: TrainingSet) -> ExtrapolationGrade:
    return build_extrapolation_grade(train, train.potential)


@pytest.fixture
def small_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small sets have several clusters too."""
    monkeypatch.setattr(module, "CLUSTER_ATOMS", 20)
    monkeypatch.setattr(module, "CLUSTER_ATOMS_PER_INPUT", 1)
    monkeypatch.setattr(module, "_AT_ONCE", 37)


def set_of(inputs: np.ndarray, elements: Sequence[str] = ("Si",), **keywords: object) -> TrainingSet:
    """A set whose atoms have these inputs (n, 6), in structures of up to 5 atoms."""
    n = len(inputs)
    sizes = [5] * (n // 5) + [n % 5] * (n % 5 > 0)
    made = make_set(sizes, elements, **keywords)
    features = torch.from_numpy(np.array(inputs, dtype=np.float64))
    return replace(made, features=torch.nn.functional.pad(features, (0, made.features.shape[1] - features.shape[1])))


def blobs(seed: int = 0, n: int = 60, places: int = 3, n_inputs: int = 6) -> np.ndarray:
    """Points around a few places far from each other, with different spreads along the inputs."""
    rng = np.random.default_rng(seed)
    far = 10.0 * rng.normal(size=(places, n_inputs))
    return far[np.arange(n) % places] + rng.normal(size=(n, n_inputs)) * 0.3 ** np.arange(n_inputs)


def slow_grades(grade: ExtrapolationGrade, train: TrainingSet, inputs: np.ndarray, species: np.ndarray) -> np.ndarray:
    """Grades from the centres alone: everything else is found again, with whole matrices and loops over atoms."""
    x, kind = train.features.numpy(), train.species.numpy()
    result = np.full(len(inputs), np.inf)
    for element in range(train.descriptor.n_elements):
        own, centers = x[kind == element], grade.centers[grade.element == element].numpy()
        if not len(own):
            continue
        s = own.std(axis=0)
        s0 = np.sqrt(np.mean(s**2))
        t = np.sqrt(np.maximum(s, s0 / 1000) * s0)
        floor = np.sum(s**2) / 200**2

        def nearest(point: np.ndarray, centers: np.ndarray = centers, t: np.ndarray = t) -> int:
            return int(np.argmin([np.sum(((point - center) / t) ** 2) for center in centers]))

        cluster = np.array([nearest(point) for point in own])
        inverses, edges = [], []
        for number, center in enumerate(centers):
            members = own[cluster == number] - center
            e, v = np.linalg.eigh(sum(np.outer(z, z) for z in members) / len(members))
            inverse = np.linalg.inv(v @ np.diag(np.maximum(e, floor)) @ v.T)
            inverses.append(inverse)
            edges.append(max(np.sqrt(z @ inverse @ z) for z in members))
        edges = np.maximum(edges, max(1, np.sort(edges)[(len(edges) - 1) // 2]))  # the lower of two in the middle
        for atom in np.flatnonzero(species == element):
            number = nearest(inputs[atom])
            z = inputs[atom] - centers[number]
            result[atom] = np.sqrt(z @ inverses[number] @ z) / edges[number]
    return result


@pytest.mark.usefixtures("small_clusters")
@pytest.mark.parametrize("elements", [("Si",), ("Si", "C")])
def test_against_numpy(elements: Sequence[str]) -> None:
    train = set_of(blobs(n=170), elements)
    grade = build(train)
    assert len(grade.element) > len(elements)
    assert torch.bincount(grade.element, grade.n_atoms.double()).tolist() == torch.bincount(train.species).tolist()
    n_inputs = train.features.shape[1]
    rng = np.random.default_rng(3)
    others = np.concatenate([train.features.numpy(), 5 * rng.normal(size=(60, n_inputs))])
    species = np.concatenate([train.species.numpy(), rng.integers(0, len(elements), 60)])
    found = grade(torch.from_numpy(others), torch.from_numpy(species)).numpy()
    np.testing.assert_allclose(found, slow_grades(grade, train, others, species), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("small_clusters")
@pytest.mark.parametrize("elements", [("Si",), ("Si", "C")])
def test_one_is_the_edge_of_the_training_set(elements: Sequence[str]) -> None:
    train = set_of(blobs(n=170), elements)
    grade = build(train)(train.features, train.species)
    for element in range(len(elements)):
        assert grade[train.species == element].max().item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.usefixtures("small_clusters")
def test_clusters_are_found_where_the_atoms_are() -> None:
    """Three places far from each other: a cluster has atoms of one place, and its centre among them."""
    inputs = blobs(n=90, places=3)
    train = set_of(inputs)
    grade = build(train)
    cluster = grade.clusters(train.features, train.species).numpy()
    for number, center in enumerate(grade.centers.numpy()):
        members = np.flatnonzero(cluster == number)
        assert len({int(member) % 3 for member in members}) == 1
        np.testing.assert_allclose(center, inputs[members].mean(axis=0), atol=1e-9)


def test_grade_grows_outside() -> None:
    """Also along a direction in which no training atom differs from another."""
    train = set_of(np.pad(blobs(n=50, n_inputs=5), ((0, 0), (0, 1))))
    assert train.features[:, 5].std() == 0
    grade = build(train)
    edge = train.features[grade(train.features, train.species).argmax()]
    for number in (0, 5):
        steps = torch.linspace(0, 20, 30, dtype=torch.float64)
        away = edge.expand(30, -1).clone()
        away[:, number] += steps * (1 if edge[number] >= train.features[:, number].mean() else -1)
        found = grade(away, torch.zeros(30, dtype=torch.int64))
        assert found[0].item() == pytest.approx(1.0)
        assert (found.diff() > 0).all()
        assert found[-1] > 3


@pytest.mark.parametrize("n_atoms", [1, 2, 3, 7])
def test_few_atoms(n_atoms: int) -> None:
    """Fewer atoms than inputs, equal ones among them: finite, at most 1 at the atoms, above 1 elsewhere."""
    inputs = np.random.default_rng(1).normal(size=(n_atoms, 6))
    train = set_of(np.concatenate([inputs, inputs]))
    grade = build(train)
    found = grade(train.features, train.species)
    assert found.isfinite().all()
    assert found.max().item() == pytest.approx(0.0 if n_atoms == 1 else 1.0, abs=1e-6)
    far = grade(train.features + 1.0, train.species)
    assert far.isfinite().all()
    assert (far > 1).all()


def test_rounding_is_no_spread() -> None:
    """Atoms that are equal up to rounding do not make a set so narrow that everything lies far outside."""
    equal = np.full((20, 6), 3.0)
    noisy = equal * (1 + 1e-16 * np.arange(20)[:, None])
    point = set_of(equal).features[:1] + 1e-3
    kind = torch.zeros(1, dtype=torch.int64)
    expected = build(set_of(equal))(point, kind)
    torch.testing.assert_close(build(set_of(noisy))(point, kind), expected)
    assert 0 < expected.item() < 10


@pytest.mark.usefixtures("small_clusters")
def test_clusters_without_spread() -> None:
    """Many equal atoms at a few places: what is closer to one of them than f is inside."""
    places = blobs(n=4, places=4)
    train = set_of(np.repeat(places, 25, axis=0))
    grade = build(train)
    assert len(grade.element) == 4  # although there are atoms for five
    total = np.sqrt(np.sum(places.var(axis=0)))
    shift = torch.tensor([0.0, 0.8, 0.6, 0.0, 0.0, 0.0]).double() * total / 200
    found = grade(train.features + shift, train.species)
    torch.testing.assert_close(found, torch.ones_like(found))


@pytest.mark.usefixtures("small_clusters")
def test_only_structures_with_weight_count() -> None:
    inputs = blobs(n=100)
    inputs[50:] += 1e3
    weight = [1.0] * 10 + [0.0] * 10
    found, expected = build(set_of(inputs, weight=weight)), build(set_of(inputs[:50]))
    for name in NAMES:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


def test_element_without_atoms() -> None:
    train = set_of(blobs(n=40), ("Si", "C"))
    train = replace(train, species=torch.zeros_like(train.species))
    found = build(train)(train.features[:2], torch.tensor([0, 1]))
    assert found[0] <= 1
    assert found[1] == torch.inf


@pytest.mark.usefixtures("small_clusters")
def test_features_in_files_and_threads_change_no_bit(tmp_path: Path, three_threads: None) -> None:
    train = set_of(blobs(n=170), ("Si", "C"))
    save_training_set(train, tmp_path / "set.h5")
    found = build(load_training_set(tmp_path / "set.h5", lazy=True))
    torch.set_num_threads(1)
    expected = build(train)
    for name in NAMES:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.usefixtures("small_clusters")
def test_structures_in_another_order() -> None:
    """The clusters may be others, the edge is not."""
    train = set_of(blobs(n=100))
    mixed = train.select(np.random.default_rng(0).permutation(len(train)))
    grade = build(mixed)(mixed.features, mixed.species)
    assert grade.max().item() == pytest.approx(1.0, abs=1e-12)


def test_float32_features() -> None:
    train = set_of(blobs(n=60)).to("cpu", torch.float32)
    grade = build(train)
    assert grade.centers.dtype == torch.float64
    assert grade(train.features.double(), train.species).max().item() == pytest.approx(1.0, abs=1e-12)


def test_set_of_another_potential() -> None:
    train = set_of(blobs(n=20))
    other = with_settings(train, cutoff=4.4).potential
    with pytest.raises(InputError, match=r"other inputs than the potential: cutoff: expected 4\.4, found 4\.3"):
        build_extrapolation_grade(train, other)


def test_nothing_trains() -> None:
    with pytest.raises(InputError, match="expected structures with a weight above 0, got none"):
        build(set_of(blobs(n=10), weight=[0.0, 0.0]))
