"""Error bars of all parameters of informed potentials: against dense matrices with J by differences and by autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pair_sum
import pytest
import torch
from bond_order_autograd import atomic_energy
from bond_order_samples import make_bond_order
from models.test_last_layer import make_uncertainty
from scipy.spatial.transform import Rotation
from training.test_informed import crystal, noisy_set
from training.test_laplace_all import build, deviations, jacobian, row_weights

from pyfit_gpu.datasets.pool import energy_error_bars
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.conditioning import Conditioning
from pyfit_gpu.models.error_bars import ErrorBars
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Form, Potential
from pyfit_gpu.models.prediction import predict
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.training.input_statistics import condition
from pyfit_gpu.training.laplace import build_error_bars
from pyfit_gpu.training.local_parameters import condition_outputs

BOTH = {"forces": 0.2, "stress": 0.1}


def small(elements: tuple[str, ...] = ("Si",), form: Form = "plain", *, bare: bool = False) -> Potential:
    """A network of two hidden neurons and few inputs, or none."""
    potential = make_bond_order(elements, form, bare=bare, gaussian_centers=(2.2,), legendre_orders=(0,))
    if bare:
        return potential
    sizes = (potential.descriptor.n_features, 2, potential.networks.layer_sizes[-1])
    networks = ElementNetworks.random(sizes, 0.4, 5, n_elements=len(elements), activation=1)
    return replace(potential, networks=networks)


@pytest.fixture
def labelled(make_frame: Callable[..., Frame]) -> Callable[..., TrainingSet]:
    return partial(noisy_set, make_frame)


def covariance(potential: Potential, train: TrainingSet, rows: np.ndarray, penalty: float) -> np.ndarray:
    """(P, P) in the parameters of the file, with a penalty on those of conditioned inputs and outputs."""
    networks = potential.networks
    found = None if potential.is_bare else condition_outputs(potential, train, condition(train, "half"))
    conditioning = found or Conditioning.none(networks.n_elements, networks.layer_sizes[0])
    every = networks.with_flat(torch.eye(networks.n_parameters, dtype=torch.float64))
    basis = conditioning.unfold(every).flat().T.numpy()
    return np.linalg.inv(rows.T @ rows + penalty * basis.T @ basis)


@pytest.mark.parametrize(
    ("elements", "form", "bare", "weights"),
    [
        (("Si",), "plain", False, BOTH),
        (("Si",), "squared", False, {}),
        (("Si", "C"), "squared", False, BOTH),
        (("Si", "C"), "plain", True, BOTH),
    ],
)
def test_variances_are_those_of_the_dense_covariance(
    labelled: Callable[..., TrainingSet], elements: tuple[str, ...], form: Form, bare: bool, weights: dict[str, float]
) -> None:
    """Columns of J are differences of predictions."""
    potential = small(elements, form, bare=bare)
    train, others = labelled(potential, 5), labelled(potential, 3, seed=9)
    train = replace(train, weight=torch.tensor([1.0, 2.0, 0.5, 1.0, 0.0], dtype=torch.float64))
    bars = build(potential, train, weights=weights, penalty=1e-3)
    rows = row_weights(train, weights)[:, None] * jacobian(potential, train)
    matrix = covariance(potential, train, rows, 1e-3)
    own = jacobian(potential, others)[: len(others) + 3 * others.n_atoms]
    expected = np.sqrt(np.einsum("np,pq,nq->n", own, matrix, own) * bars.noise)
    found = deviations(potential, bars, others)
    assert found.forces is not None
    together = torch.cat([found.energy, found.forces.flatten()]).numpy()
    np.testing.assert_allclose(together, expected, rtol=1e-4, atol=1e-6 * expected.max())
    assert bars.n_effective == pytest.approx(np.trace(matrix @ rows.T @ rows), rel=1e-4)


def rows_by_autograd(potential: Potential, frame: Frame) -> torch.Tensor:
    """(1 + 3 n, P): derivatives of energy and forces of a bare potential by its numbers, by plain loops."""
    d, kinds = potential.descriptor, torch.arange(frame.n_atoms) % potential.descriptor.n_elements
    numbers = potential.baseline.clone().requires_grad_()
    energy, forces = torch.zeros(()), torch.zeros(frame.n_atoms, 3, dtype=torch.float64)
    found = pair_sum.neighbor_vectors(frame.positions, frame.cell, frame.pbc, 1.5 * d.cutoff)
    for atom, (vectors, index) in enumerate(found):
        leaf = torch.from_numpy(vectors).requires_grad_()
        own = atomic_energy(
            leaf, kinds[index], numbers[kinds[atom]], potential.form, d.n_elements, d.cutoff, d.cutoff_width
        )
        (grad,) = torch.autograd.grad(own, leaf, create_graph=True)
        energy, forces = energy + own, forces.index_add(0, torch.as_tensor(index), -grad)
        forces = forces.index_add(0, torch.tensor([atom]), grad.sum(dim=0)[None])
    values = torch.cat([energy[None], forces.flatten()])
    return torch.stack([torch.autograd.grad(one, numbers, retain_graph=True)[0].flatten() for one in values])


@pytest.mark.parametrize("form", ["squared", "plain"])
def test_variances_by_autograd(
    labelled: Callable[..., TrainingSet], make_frame: Callable[..., Frame], form: Form
) -> None:
    """A bare potential of two elements, by formulas that share nothing with the package."""
    potential = small(("Si", "C"), form, bare=True)
    bars = build(potential, labelled(potential, 4), weights=BOTH, penalty=1e-3)
    frame = crystal(make_frame, 40, ("Si", "C"), 4)
    rows = rows_by_autograd(potential, frame)
    expected = (bars.noise * (rows @ bars.root).square().sum(dim=1)).sqrt()
    uncertainty = replace(make_uncertainty(potential), error_bars=bars)
    found = predict(potential, Structures.from_frames([frame]), uncertainty=uncertainty, force_errors=True)
    assert found.uncertainty is not None
    together = torch.cat([found.uncertainty.energy, found.uncertainty.forces.flatten()])
    torch.testing.assert_close(together, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("bare", [False, True], ids=["network", "bare"])
def test_every_way_to_them(labelled: Callable[..., TrainingSet], bare: bool) -> None:
    """With and without derivatives, from a set, in single precision; and the energies stay as they are."""
    potential = small(("Si", "C"), bare=bare)
    train, others = labelled(potential, 5), labelled(potential, 4, seed=9)
    bars = build(potential, train, others, weights=BOTH)
    assert bars.calibrations["forces"].n_values == 3 * others.n_atoms
    expected = deviations(potential, bars, others)
    uncertainty = replace(make_uncertainty(potential), error_bars=bars)
    found = predict(potential, others.structures(), uncertainty=uncertainty)
    assert found.uncertainty is not None
    torch.testing.assert_close(found.uncertainty.energy, expected.energy, rtol=1e-9, atol=0)
    assert torch.equal(found.energy, predict(potential, others.structures()).energy)
    own = energy_error_bars(potential, bars, others)
    torch.testing.assert_close(own, expected.energy / others.sizes, rtol=1e-9, atol=0)
    single = potential.to("cpu", torch.float32)
    structures = others.structures()
    found = predict(single, structures, uncertainty=replace(uncertainty, checksum=make_uncertainty(single).checksum),
                    force_errors=True)  # fmt: skip
    assert found.uncertainty is not None
    assert found.uncertainty.forces.dtype == torch.float32
    torch.testing.assert_close(found.uncertainty.forces.double(), expected.forces, rtol=1e-3, atol=1e-6)


def test_the_two_forms_agree_on_a_bare_potential(labelled: Callable[..., TrainingSet]) -> None:
    """Whose numbers are all in one layer: what the evidence chooses and the covariance."""
    potential = small(("Si", "C"), bare=True)
    train = labelled(potential, 8)
    found, expected = build(potential, train, penalty=1e-2), build_error_bars(potential, train, penalty=1e-2)
    torch.testing.assert_close(found.root @ found.root.T, expected.root @ expected.root.T, rtol=1e-7, atol=1e-7)
    assert found.noise == pytest.approx(expected.noise)
    one = small(bare=True)
    train = labelled(one, 30)
    (strength,) = build_error_bars(one, train).penalties
    assert build(one, train).penalties[-1] == pytest.approx(strength, rel=0.05)


def test_rotated_structures_have_rotated_error_bars(labelled: Callable[..., TrainingSet]) -> None:
    """Energies have the same; of the components of a force the sum of squares stays."""
    potential = small(("Si", "C"))
    train = labelled(potential, 5)
    bars = build(potential, train, weights=BOTH)
    rotation = torch.from_numpy(Rotation.from_euler("xyz", [0.3, 1.1, -0.7]).as_matrix())
    turned = replace(train, positions=train.positions @ rotation.T, cell=train.cell @ rotation.T)
    before, after = (deviations(potential, bars, part) for part in (train, turned))
    torch.testing.assert_close(after.energy, before.energy, rtol=1e-8, atol=0)
    sizes = [found.forces.square().sum(dim=1) for found in (after, before)]
    torch.testing.assert_close(*sizes, rtol=1e-8, atol=1e-14)
    assert not torch.allclose(after.forces, before.forces, rtol=1e-3)


def test_calibrated_error_bars_cover_other_labels(labelled: Callable[..., TrainingSet]) -> None:
    """A potential fitted to noisy labels of another one is as far from it as its bars say, label by label."""
    potential = small()
    train = labelled(potential, 12)
    plain = build(potential, train, weights=BOTH)
    scales, rng = {"energy": 4e-3, "forces": 0.3}, np.random.default_rng(3)

    def drawn(seed: int) -> TrainingSet:
        found = labelled(potential, 60, seed=seed, noise=(0.0, 0.0))
        own = deviations(potential, plain, found)
        assert own.forces is not None
        errors = {
            label: torch.from_numpy(rng.normal(size=tuple(size.shape))) * size * (scales[label] / plain.noise) ** 0.5
            for label, size in {"energy": own.energy, "forces": own.forces}.items()
        }
        return replace(found, energy=found.energy + errors["energy"], forces=found.forces + errors["forces"])

    bars = build(potential, train, drawn(100), weights=BOTH)
    assert bars.calibrations["energy"].factor == pytest.approx(scales["energy"], rel=0.4)
    assert bars.calibrations["forces"].factor == pytest.approx(scales["forces"], rel=0.2)
    others = drawn(300)
    own, exact = deviations(potential, bars, others), predict(potential, others.structures())
    for errors, size in ((exact.energy - others.energy, own.energy), (exact.forces - others.forces, own.forces)):
        inside = [float((errors.abs() < n * size).double().mean()) for n in (1, 2)]
        assert inside == pytest.approx([0.68, 0.95], abs=0.14)


def test_error_bars_of_another_number_of_parameters(labelled: Callable[..., TrainingSet]) -> None:
    potential = small()
    bars: ErrorBars = build(potential, labelled(potential, 4), penalty=1e-2)
    assert len(bars.root) == potential.networks.n_parameters
    bars.check(potential, "here")
    with pytest.raises(InputError, match=r"here: expected error bars of 8 parameters, found \d+"):
        bars.check(small(bare=True), "here")
