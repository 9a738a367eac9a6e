"""Error bars from a training set: the covariance against dense NumPy, the evidence, calibration on known noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_sets import make_potential, with_settings

from pyfit_gpu.datasets.build import build_training_set
from pyfit_gpu.datasets.training_set import TrainingSet, concatenate
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.error_bars import ErrorBars
from pyfit_gpu.models.potential import Potential, join_members
from pyfit_gpu.models.prediction import predict, prediction_batches, rows_of_batch
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.laplace import build_error_bars, last_parameters
from pyfit_gpu.training.loss import LabelWeights

NUMBERS = {"Si": 14, "C": 6, "O": 8}
ELEMENTS = {1: ("Si",), 2: ("Si", "C"), 3: ("Si", "C", "O")}
BOTH = {"forces": 0.2, "stress": 0.1}


def make_structures(elements: tuple[str, ...], n: int, seed: int) -> Structures:
    rng = np.random.default_rng(seed)
    frames = []
    for k in range(n):
        size = 2 + k % 3
        grid = np.stack(np.meshgrid(*[np.arange(2) * 2.4] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:size]
        frames.append(
            Frame(
                positions=grid + rng.normal(scale=0.25, size=(size, 3)),
                cell=np.diag([4.9, 5.2, 5.5]),
                pbc=np.ones(3, dtype=bool),
                atomic_numbers=np.array([NUMBERS[elements[(k + i) % len(elements)]] for i in range(size)]),
                group="abc"[k % 3],
                source="made up",
            )
        )
    return Structures.from_frames(frames)


def make_labelled(
    potential: Potential, n: int, seed: int = 0, noise: tuple[float, float] = (0.01, 0.05), *, labels: bool = True
) -> TrainingSet:
    """Structures with the potential's own energies (eV/atom), forces and stress, and Gaussian noise on them."""
    structures = make_structures(potential.descriptor.elements, n, seed)
    found = predict(potential, structures)
    made = build_training_set(structures, potential)
    rng = np.random.default_rng(seed + 100)

    def draw(like: torch.Tensor, size: float) -> torch.Tensor:
        return torch.from_numpy(rng.normal(scale=size, size=tuple(like.shape)))

    unknown = torch.full_like(found.forces, torch.nan), torch.full_like(found.stress, torch.nan)
    forces, stress = (found.forces + draw(found.forces, noise[1]), found.stress + draw(found.stress, 1e-3))
    return replace(
        made,
        energy=found.energy + made.sizes * draw(made.sizes, noise[0]),
        forces=forces if labels else unknown[0],
        stress=stress if labels else unknown[1],
    )


def dense(potential: Potential, train: TrainingSet, weights: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """J and r of the weighted residuals, by changing one parameter after the other: they are linear in them."""
    label = LabelWeights.of(train)
    sizes = train.sizes.double()
    owner = torch.repeat_interleave(train.sizes)

    def residuals(changed: Potential) -> torch.Tensor:
        found = predict(changed, train.structures())
        parts = [(found.energy - train.energy_used) / sizes * label["energy"].sqrt()]
        if "forces" in weights:
            root = (weights["forces"] * label["forces"]).sqrt()[owner]
            parts.append(((found.forces - train.forces) * root[:, None]).flatten())
        if "stress" in weights:
            root = (weights["stress"] * label["stress"]).sqrt() * train.volume / sizes
            parts.append(((found.stress - train.stress) * root[:, None]).flatten())
        return torch.cat(parts)

    base = residuals(potential)
    columns = []
    networks = potential.networks
    n_hidden = networks.layer_sizes[-2]
    for element in range(networks.n_elements):
        for place in range(n_hidden + 1):
            weight, bias = networks.weights[-1].clone(), networks.biases[-1].clone()
            if place < n_hidden:
                weight[0, element, place] += 1
            else:
                bias[0, element] += 1
            changed = replace(networks, weights=(*networks.weights[:-1], weight), biases=(*networks.biases[:-1], bias))
            columns.append(residuals(replace(potential, networks=changed)) - base)
    return torch.stack(columns, dim=1).numpy(), base.numpy()


def covariance(bars: ErrorBars) -> np.ndarray:
    return (bars.root @ bars.root.T).numpy()


@pytest.mark.parametrize("n_elements", ELEMENTS)
@pytest.mark.parametrize("weights", [{}, {"forces": 0.2}, BOTH])
def test_covariance_is_the_dense_one(n_elements: int, weights: dict[str, float]) -> None:
    potential = make_potential(ELEMENTS[n_elements])
    train = make_labelled(potential, 9)
    train = replace(train, weight=torch.tensor([1.0, 2.0, 0.5] * 3, dtype=torch.float64))
    found = build_error_bars(potential, train, weights=weights, penalty=1e-3)
    jacobian, residuals = dense(potential, train, weights)
    normal = jacobian.T @ jacobian
    np.testing.assert_allclose(
        covariance(found), np.linalg.inv(normal + 1e-3 * np.eye(len(normal))), rtol=1e-7, atol=1e-9
    )
    gamma = np.trace(np.linalg.solve(normal + 1e-3 * np.eye(len(normal)), normal))
    assert found.n_effective == pytest.approx(gamma)
    noise = residuals @ residuals / (len(residuals) - gamma)
    assert {label: one.n_values for label, one in found.calibrations.items()} == {"energy": 0, "forces": 0}
    assert found.calibrations["energy"].factor == pytest.approx(noise)
    assert torch.equal(found.root, found.root.tril())


def test_the_penalty_is_where_the_evidence_is_largest() -> None:
    # log p(y | a, s) of the linear model about the present parameters, for a over ten decades.
    potential = make_potential()
    train = make_labelled(potential, 30)
    found = build_error_bars(potential, train, weights={"forces": 0.2})
    jacobian, residuals = dense(potential, train, {"forces": 0.2})
    n, p = jacobian.shape
    parameters = last_parameters(potential).numpy()
    values = np.linalg.eigvalsh(jacobian.T @ jacobian).clip(min=0)

    def log_evidence(a: float, noise: float) -> float:
        misfit = (residuals @ residuals + a * parameters @ parameters) / noise
        return -0.5 * (misfit + n * np.log(noise) + np.log(values + a).sum() - p * np.log(a))

    noise = found.calibrations["energy"].factor
    best = log_evidence(found.penalties[0], noise)
    for factor in (1e-4, 0.5, 0.9, 1.1, 2.0, 1e4):
        assert log_evidence(found.penalties[0] * factor, noise) < best
    for factor in (0.9, 1.1):
        assert log_evidence(found.penalties[0], noise * factor) < best


@pytest.mark.parametrize("noise", [0.002, 0.05])
def test_noise_of_the_training_residuals(noise: float) -> None:
    # Energies alone: the noise estimate is the variance of one energy per atom over the number of structures.
    potential = make_potential()
    train = make_labelled(potential, 400, noise=(noise, 0.0))
    found = build_error_bars(potential, train)
    assert found.calibrations["energy"].factor * 400 == pytest.approx(noise**2, rel=0.25)


def test_calibration_recovers_the_scale_of_the_errors() -> None:
    # Labels whose errors have the variance c j^T C j: that c must come back, for each label its own.
    potential = make_potential()
    train = make_labelled(potential, 40)
    plain = build_error_bars(potential, train, weights=BOTH)
    validation = make_labelled(potential, 300, seed=7, noise=(0.0, 0.0))
    rng = np.random.default_rng(3)
    own = _rows(potential, validation)
    scales = {"energy": 4e-3, "forces": 0.3}
    drawn = {
        label: torch.from_numpy(rng.normal(size=rows.shape[:2]))
        * (scales[label] * plain.relative_variances(rows)).sqrt()
        for label, rows in own.items()
    }
    exact = predict(potential, validation.structures())
    validation = replace(validation, energy=exact.energy + drawn["energy"][:, 0], forces=exact.forces + drawn["forces"])
    found = build_error_bars(potential, train, validation, weights=BOTH)
    assert covariance(found) == pytest.approx(covariance(plain))
    for label, scale in scales.items():
        assert found.calibrations[label].factor == pytest.approx(scale, rel=0.2)
    assert found.calibrations["energy"].n_values == 300
    # Of 2,700 force components two have a variance that is none, beside the others.
    assert found.calibrations["forces"].n_values == pytest.approx(3 * validation.n_atoms, rel=2e-3)


def _rows(potential: Potential, validation: TrainingSet) -> dict[str, torch.Tensor]:
    structures = validation.structures()
    (batch,) = prediction_batches(structures.sizes, structures.select, potential)
    rows = rows_of_batch(potential, batch, derivatives=True)[1]
    order = torch.argsort(batch.atoms)
    energies = rows.of_energies()[torch.argsort(batch.rows)]
    return {"energy": energies[:, None], "forces": rows.of_derivatives()[0][order]}


def test_forces_that_vanish_by_symmetry_do_not_calibrate() -> None:
    potential = make_potential()
    train = make_labelled(potential, 20)
    crystal = Structures.from_frames(
        [Frame(positions=np.zeros((1, 3)), cell=np.eye(3) * 2.5, pbc=np.ones(3, dtype=bool),
               atomic_numbers=np.array([14]), group="c", source="made up", energy=-1.0, forces=np.full((1, 3), 1e-3))]
    )  # fmt: skip
    only = build_training_set(crystal, potential)
    mixed = make_labelled(potential, 20, seed=5)
    both = build_error_bars(potential, train, concatenate([mixed, only]), weights=BOTH)
    without = build_error_bars(potential, train, mixed, weights=BOTH)
    assert both.calibrations["forces"] == without.calibrations["forces"]
    assert both.calibrations["energy"].n_values == 21


def test_a_set_without_positions_gives_energies_alone() -> None:
    potential = make_potential()
    train = make_labelled(potential, 12)
    blind = replace(train, positions=torch.full_like(train.positions, torch.nan))
    found, expected = build_error_bars(potential, blind, blind), build_error_bars(potential, train, train)
    assert covariance(found) == pytest.approx(covariance(expected))
    assert found.calibrations["energy"].n_values == 12
    assert found.calibrations["forces"].n_values == 0
    with pytest.raises(InputError, match="needs positions"):
        build_error_bars(potential, blind, weights={"forces": 1.0})


def test_structures_without_weight_or_label_take_no_part() -> None:
    potential = make_potential()
    train = make_labelled(potential, 10)
    weight = torch.ones(10, dtype=torch.float64)
    weight[[2, 5]] = 0
    forces = train.forces.clone()
    forces[train.sizes[:3].sum()] = torch.nan  # of structure 3, which loses its forces
    found = build_error_bars(potential, replace(train, weight=weight, forces=forces), weights={"forces": 1.0})
    kept = replace(train, forces=forces).select([0, 1, 3, 4, 6, 7, 8, 9])
    expected = build_error_bars(potential, kept, weights={"forces": 1.0})
    assert covariance(found) == pytest.approx(covariance(expected))
    assert found.calibrations["energy"].factor == pytest.approx(expected.calibrations["energy"].factor)


class TestRefused:
    def test_a_weight_without_a_label(self) -> None:
        potential = make_potential()
        train = make_labelled(potential, 5, labels=False)
        with pytest.raises(InputError, match=r"force_weight: expected 0, got 0.1: no training structure has forces"):
            build_error_bars(potential, train, weights={"forces": 0.1})

    def test_another_descriptor(self) -> None:
        potential = make_potential()
        train = with_settings(make_labelled(potential, 5), cutoff=4.4)
        with pytest.raises(InputError, match=r"training set is not this potential's: cutoff: expected 4.3, found 4.4"):
            build_error_bars(potential, train)

    def test_several_members(self) -> None:
        potential = make_potential()
        with pytest.raises(InputError, match="expected a potential of one member, got 2"):
            build_error_bars(join_members([potential, make_potential(seed=4)]), make_labelled(potential, 5))

    def test_numbers_that_are_none(self) -> None:
        potential = make_potential()
        train = make_labelled(potential, 5)
        broken = replace(train, features=train.features.clone().fill_(torch.nan))
        with pytest.raises(InputError, match="finite predictions and labels of the training structures"):
            build_error_bars(potential, broken)
        with pytest.raises(InputError, match="finite predictions of the validation structures"):
            build_error_bars(potential, train, replace(broken, positions=torch.full_like(train.positions, torch.nan)))

    def test_nothing_to_learn_from(self) -> None:
        potential = make_potential()
        train = make_labelled(potential, 3)
        with pytest.raises(InputError, match="with an energy and a weight above 0, got none"):
            build_error_bars(potential, replace(train, weight=torch.zeros(3, dtype=torch.float64)))

    @pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan")])
    def test_penalty(self, penalty: float) -> None:
        potential = make_potential()
        with pytest.raises(InputError, match="penalty: expected a number > 0"):
            build_error_bars(potential, make_labelled(potential, 3), penalty=penalty)
