"""Laplace's approximation for all parameters: their covariance, and errors of predictions beside their variances.

Everything is that of a fit by Gauss-Newton whose penalty the evidence chooses (regularisation.py), at parameters that
stay where they are: conditioned inputs, J^T J of the squared loss, a prefactor a for each group of parameters.

    C = (J^T J + a)^-1 = a^-1/2 (B B^T)^-1 a^-1/2        B B^T = a^-1/2 J^T J a^-1/2 + 1

Parameters of conditioned inputs and of those in the file are linear in one another (`Conditioning.fold`), so the
columns of a root of C, taken for parameters, go from one to the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyfit_gpu.datasets.feature_rows import read_features
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.devices import require_memory
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.all_parameters import LocalSlopes, energy_variances, force_variances
from pyfit_gpu.models.batches import batch_atoms
from pyfit_gpu.models.conditioning import Conditioning
from pyfit_gpu.models.energy import network_outputs
from pyfit_gpu.models.error_bars import LABELS, Calibration, ErrorBars
from pyfit_gpu.models.potential import Potential, with_all_in_biases
from pyfit_gpu.models.prediction import inputs_of_batch, prediction_batches
from pyfit_gpu.structures.batch import size_batches
from pyfit_gpu.sums import sum_over_atoms
from pyfit_gpu.training.evidence import estimate
from pyfit_gpu.training.input_statistics import condition
from pyfit_gpu.training.lanes import N_LANES
from pyfit_gpu.training.last_layer_residuals import AtomCounter
from pyfit_gpu.training.local_parameters import condition_outputs
from pyfit_gpu.training.loss import LossWeights
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.regularisation import parameter_groups

_ROUNDS = 100  # of the fixed point
_CLOSE = 1e-2  # largest relative change of a prefactor that ends it: error bars follow their roots
_START = 1e-6  # prefactor at the start, of the mean diagonal element of J^T J
_LEAST_SHARE = 1e-12  # of its trace, that prefactors keep
_MATRICES = 8  # (P, P) that are there at once, beside those of lanes
_BLOCK_ATOMS = 4096  # most atoms of a block


def require_posterior_memory(n_parameters: int, device: torch.device) -> None:
    """Refuse more parameters than those whose covariance a device has memory for.

    Raises:
        InputError: with the memory that it takes.
    """
    lanes = 1 if device.type == "cuda" else min(N_LANES, 2 * torch.get_num_threads())
    n_bytes = 8 * n_parameters**2 * (lanes + _MATRICES)
    require_memory(n_bytes, device, f"error bars of all {n_parameters} parameters")


def covariance_of_all(
    potential: Potential, train: TrainingSet, weights: LossWeights, penalty: float | None, done: AtomCounter
) -> ErrorBars:
    """Find error bars of all parameters that nothing calibrates yet; arguments as of `build_error_bars`.

    Args:
        potential, train: float64, on one device.
    """
    if potential.is_bare:
        potential = with_all_in_biases(potential)  # the penalty is on the numbers of its file
    networks = potential.networks
    require_posterior_memory(networks.n_parameters, train.sizes.device)
    train = train.select(train.has_energy.nonzero()[:, 0])
    conditioning = None if potential.is_bare else condition_outputs(potential, train, condition(train, "half"))
    if conditioning is None:
        conditioning = Conditioning.none(networks.n_elements, networks.layer_sizes[0])
    own = conditioning.unfold(networks)
    objective = Objective(
        train, weights, conditioning=conditioning, stream=True, block_atoms=_BLOCK_ATOMS, potential=potential
    )
    point = own.flat().detach()
    (matrix,) = objective.normal_matrices(point, own)
    square = float(objective.evaluate(point, own, gradient=False).errors.loss) ** 2
    done.add(train.n_atoms)
    require_information(matrix, square, penalty)
    groups = parameter_groups(own)
    strengths = _strengths(matrix, point[0], groups, square, objective.n_residuals, penalty)
    scale = strengths[groups].sqrt()
    root = _root(matrix, scale)
    n_effective = len(scale) - float((scale[:, None] * root).square().sum())
    noise = square / max(objective.n_residuals - n_effective, 1.0)
    root = conditioning.fold(own.with_flat(root.T.contiguous())).flat()
    plain = {label: Calibration(noise, 0) for label in LABELS}
    penalties = (penalty,) if penalty is not None else tuple(strengths.tolist())
    return ErrorBars(triangle(root).cpu(), plain, penalties, noise, n_effective, "all-parameters")


def require_information(matrix: Tensor, square: float, penalty: float | None) -> None:
    """Refuse training structures that say nothing about the parameters.

    Args:
        matrix: (P, P) J^T J.
        square: squared loss.
        penalty: None: it is estimated, for which J must not be zero, as for atoms without bonds it is.

    Raises:
        InputError: they have predictions or labels that are not finite, or all depend on no parameter.
    """
    if not (bool(matrix.isfinite().all()) and square < torch.inf):
        raise InputError(
            "error bars: expected finite predictions and labels of the training structures, got NaN or inf"
        )
    if penalty is None and not bool(matrix.any()):
        raise InputError(
            "error bars: expected training structures whose energies depend on the parameters, got none (of a "
            "physically informed network atoms without bonds have no energy)"
        )


def triangle(transposed: Tensor) -> Tensor:
    """L (P, P), lower triangular with a positive diagonal, of L L^T = R R^T, from R^T.

    It is the transpose of the R of a QR decomposition, which keeps small variances.
    """
    found = torch.linalg.qr(transposed, mode="r").R.T
    return (found * torch.where(found.diagonal() < 0, -1.0, 1.0)).tril()


def _strengths(
    matrix: Tensor, parameters: Tensor, groups: Tensor, square: float, n_residuals: int, penalty: float | None
) -> Tensor:
    """(G,) prefactors where the evidence is greatest, by iteration, or the one that is given.

    Args:
        matrix: (P, P) J^T J.
        parameters, groups, square, n_residuals: as for `estimate`.
    """
    count = int(groups.max()) + 1
    diagonal = matrix.diagonal()
    if penalty is not None:
        return diagonal.new_full((count,), penalty)
    least = max(_LEAST_SHARE * float(diagonal.sum()), torch.finfo(diagonal.dtype).tiny)
    strengths = diagonal.new_full((count,), max(_START * float(diagonal.mean()), least))
    for _ in range(_ROUNDS):
        own = strengths[groups]
        found = estimate(matrix + torch.diag(own), own, parameters, groups, square, n_residuals)
        following = 10 * strengths if found is None else found.strengths.clamp(min=least)
        change = float(((following - strengths).abs() / strengths).max())
        strengths = following
        if change <= _CLOSE:
            break
    return strengths


def _root(matrix: Tensor, scale: Tensor) -> Tensor:
    """(P, P) R with R R^T = (J^T J + a)^-1, upper triangular.

    Args:
        scale: (P,) square roots of a.
    """
    scaled = matrix / scale[:, None] / scale
    scaled.diagonal().add_(1.0)
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if bool(failed):
        least = _LEAST_SHARE * float(matrix.diagonal().sum())
        raise InputError(f"penalty: expected at least {least:.2g} for these structures, got {float(scale.min()) ** 2}")
    unit = torch.eye(len(scale), dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve_triangular(factor.T, unit, upper=True) / scale[:, None]


@dataclass(frozen=True, eq=False)
class Judged:
    """Predictions of one label for some structures: n structures or atoms with m components each."""

    structure: Tensor  # (n,) int64, row of the set
    errors: Tensor  # (n, m), predicted minus known; NaN where not known
    variances: Tensor  # (n, m), without the label's factor


def judge(
    bars: ErrorBars, potential: Potential, part: TrainingSet, derivatives: bool, done: AtomCounter
) -> Iterator[Mapping[str, Judged]]:
    """Yield predictions by label, for some structures of a set at a time; those of forces need positions."""
    if not derivatives and not potential.is_physically_informed:
        yield from _judge_energies(bars, potential, part, done)
        return
    for batch in prediction_batches(part.sizes.tolist(), lambda rows: part.select(rows).structures(), potential):
        own = part.select(batch.rows)
        predicted, inputs = inputs_of_batch(potential, batch, derivatives=derivatives)
        energy = (predicted.energy - own.energy_used)[:, None]
        local = LocalSlopes.of(potential, batch, inputs)
        variances = energy_variances(bars, potential, inputs, batch.species, batch.sizes, local)
        found = {"energy": Judged(batch.rows, energy, variances[:, None])}
        if predicted.forces is not None:
            structure = batch.rows[torch.repeat_interleave(own.sizes)]
            by_force = force_variances(bars, potential, batch, inputs, local)
            found["forces"] = Judged(structure, predicted.forces - own.forces, by_force)
        done.add(own.n_atoms)
        yield found


def _judge_energies(
    bars: ErrorBars, potential: Potential, part: TrainingSet, done: AtomCounter
) -> Iterator[Mapping[str, Judged]]:
    """Judge energies from the features that the set holds."""
    for rows in size_batches(part.sizes.tolist(), batch_atoms(part.sizes.device, potential.descriptor.n_features)):
        own = part.select(rows)
        inputs = read_features(own.features).to(potential.dtype)
        energy = sum_over_atoms(network_outputs(potential, inputs, own.species)[..., 0], own.sizes)[0]
        variances = energy_variances(bars, potential, inputs, own.species, own.sizes)
        done.add(own.n_atoms)
        structure = torch.tensor(rows, device=own.sizes.device)
        yield {"energy": Judged(structure, (energy - own.energy_used)[:, None], variances[:, None])}
