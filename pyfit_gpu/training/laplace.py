"""Error bars of a potential from the structures that trained it: Laplace's approximation, calibrated.

Here for the last layer; for all parameters see laplace_all.py. In the last layer of a straight network predictions are
linear; those of a physically informed one are linearised at its parameters.
With J the derivatives of the N residuals of the loss, weighted as there, so that r^T r is the squared loss, and a the
penalty on the squares of the last layer's parameters w, the evidence is largest where (MacKay)

    gamma = sum_k l_k / (l_k + a)        a = gamma / (w^T w) r^T r / (N - gamma)

with l_k the eigenvalues of J^T J. Residuals then have the noise r^T r / (N - gamma), in the units of the squared loss,
and this is the factor of the variances j^T (J^T J + a I)^-1 j. Validation structures give a better one for each label:
the likelihood of their errors is largest where it is the mean of error^2 / (j^T C j).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyfit_gpu.datasets.training_set import TrainingSet, require_same_inputs
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.error_bars import FORMS, LABELS, Calibration, ErrorBars, Form
from pyfit_gpu.models.last_layer import n_last_parameters
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.training.force_map import require_positions
from pyfit_gpu.training.laplace_all import Judged, covariance_of_all, judge, require_information, triangle
from pyfit_gpu.training.last_layer_residuals import AtomCounter, Progress, residuals
from pyfit_gpu.training.loss import TERMS, LabelWeights, LossWeights, check_weights, require_labels, taking_part

_ROUNDS = 200  # of the fixed point
_CLOSE = 1e-6  # relative change of the penalty that ends it
_LEAST_SHARE = 1e-12  # of the largest eigenvalue, that the penalty keeps
# A force that is zero by symmetry has no variance, and its error is what the reference left: it says nothing. Values
# whose variance is below this share of the mean take no part in a calibration.
_NO_VARIANCE = 1e-6


def build_error_bars(
    potential: Potential,
    train: TrainingSet,
    validation: TrainingSet | None = None,
    *,
    weights: LossWeights | None = None,
    penalty: float | None = None,
    form: Form = "last-layer",
    progress: Progress = lambda n_atoms: None,
) -> ErrorBars:
    """Find the covariance of the parameters of the last layer, or of all, and its scale.

    Computed in float64, on the sets' device, in batches: features in files stay there.

    Args:
        potential: one member.
        train: the structures that trained it, with their weights.
        validation: structures that calibrate; None or none with a label: the noise of the training residuals does.
        weights: of the terms beside the energy in the loss, by term.
        penalty: a, beside the squared loss; None: the evidence decides, for all parameters layer by layer.
        form: which parameters; "all-parameters" takes longer, to predict too, and memory for some squares of their
            number.
        progress: told the number of atoms done so far.

    Raises:
        InputError: several members, a set made with other descriptor settings, a weight for a label that no structure
            has, a set without positions for one of forces or stress or for a physically informed network, predictions
            that are not finite, a set without a bond for one, or more parameters than there is memory for.
    """
    if form not in FORMS:
        raise InputError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
    _check(potential, train, validation, weights or {}, penalty)
    train = _on_scale(train, potential).to(train.sizes.device, torch.float64)
    potential = potential.to(train.sizes.device, torch.float64)
    done = AtomCounter(progress)
    find = _covariance_of_last if form == "last-layer" else covariance_of_all
    bars = find(potential, train, weights or {}, penalty, done)
    if validation is None or not len(validation):
        return bars
    return _calibrated(bars, potential, _on_scale(validation, potential), done)


def _covariance_of_last(
    potential: Potential, train: TrainingSet, weights: LossWeights, penalty: float | None, done: AtomCounter
) -> ErrorBars:
    moments = _moments(potential, train, weights, done)
    require_information(moments.normal, moments.squared_loss, penalty)
    parameters = last_parameters(potential)
    noise, penalty, n_effective = _most_probable(moments, float(parameters.square().sum()), penalty)
    values, vectors = torch.linalg.eigh(moments.normal)
    root = vectors / (values.clamp(min=0) + penalty).sqrt()
    plain = {label: Calibration(noise, 0) for label in LABELS}
    return ErrorBars(triangle(root.T).cpu(), plain, (penalty,), noise, n_effective)


def last_parameters(potential: Potential) -> Tensor:
    """(P,) float64 on the CPU: weights, then biases, of the last layer of one element after the other, as in files."""
    networks = potential.networks.with_flat(potential.parameters)
    weight, bias = networks.weights[-1][0], networks.biases[-1][0]
    return torch.cat((weight, bias[:, None]), dim=1).flatten()


def _check(
    potential: Potential,
    train: TrainingSet,
    validation: TrainingSet | None,
    weights: LossWeights,
    penalty: float | None,
) -> None:
    check_weights(weights)
    if potential.networks.n_members != 1:
        raise InputError(f"error bars: expected a potential of one member, got {potential.networks.n_members} members")
    if penalty is not None and not (math.isfinite(penalty) and penalty > 0):
        raise InputError(f"penalty: expected a number > 0, got {penalty}")
    for name, part in (("training", train), ("validation", validation)):
        if part is not None and len(part):
            require_same_inputs(potential.descriptor, part.descriptor, f"the {name} set is not this potential's")
    if not bool((train.has_energy & (train.weight > 0)).any()):
        raise InputError("error bars: expected training structures with an energy and a weight above 0, got none")
    require_labels(train, weights)
    if any(weight > 0 for weight in weights.values()):
        require_positions(train)
    for name, part in (("training", train), ("validation", validation)):
        if part is not None and potential.is_physically_informed and bool(part.positions.isnan().any()):
            raise InputError(
                f"error bars: expected a {name} set with positions, on which energies of {potential.kind} depend, got "
                "one without"
            )


def _on_scale(part: TrainingSet, potential: Potential) -> TrainingSet:
    """The set with the energy shift of the potential, where both know one: that is the scale it predicts on."""
    if part.energy_shift is None or bool(potential.energy_shift.isnan().any()):
        return part
    return replace(part, energy_shift=tuple(potential.energy_shift.tolist()))


@dataclass(frozen=True, eq=False)
class _Moments:
    """Sums over the weighted residuals of training."""

    normal: Tensor  # (P, P) J^T J
    squared_loss: float  # r^T r
    n_values: int  # N, residuals with a weight


def _moments(potential: Potential, train: TrainingSet, weights: LossWeights, done: AtomCounter) -> _Moments:
    label_weights = LabelWeights.of(train)
    factors = {"energy": 1.0, **{one.term.name: one.weight for one in taking_part(weights, label_weights)}}
    # Energies and virials count by atom.
    per_atom = {"forces": torch.ones_like(label_weights["energy"])}
    by_label = {
        label: factor * label_weights[label] * per_atom.get(label, train.sizes.double().reciprocal().square())
        for label, factor in factors.items()
    }
    n_parameters = n_last_parameters(potential)
    normal = torch.zeros(n_parameters, n_parameters, dtype=torch.float64, device=train.sizes.device)
    squared_loss, n_values = normal.new_zeros(()), 0
    counted = torch.stack(list(by_label.values())).sum(dim=0) > 0
    for by_term in residuals(potential, train, counted, derivatives=len(factors) > 1, done=done):
        for label, weight in by_label.items():
            found = by_term[label]
            own = weight[found.structure]
            chosen = own > 0
            root = own[chosen].sqrt()[:, None]
            rows = (found.rows[chosen] * root[..., None]).flatten(0, 1)
            normal += rows.T @ rows
            errors = found.errors[chosen] * root
            squared_loss += errors.square().sum()
            n_values += errors.numel()
    return _Moments(normal, float(squared_loss), n_values)


def _most_probable(moments: _Moments, size: float, penalty: float | None) -> tuple[float, float, float]:
    """Noise, penalty and number of effective parameters where the evidence is largest.

    Args:
        size: w^T w.
        penalty: kept, unless None.
    """
    values = torch.linalg.eigvalsh(moments.normal).clamp(min=0)
    least = _LEAST_SHARE * float(values[-1])

    def effective(chosen: float) -> float:
        return float((values / (values + chosen)).sum())

    def noise(gamma: float) -> float:
        return moments.squared_loss / max(moments.n_values - gamma, 1.0)

    chosen = penalty if penalty is not None else max(float(values.mean()) * 1e-6, least)
    for _ in range(_ROUNDS if penalty is None else 0):
        gamma = effective(chosen)
        following = max(gamma * noise(gamma) / size if size > 0 else chosen, least)
        close = abs(following - chosen) <= _CLOSE * chosen
        chosen = following
        if close:
            break
    gamma = effective(chosen)
    return noise(gamma), chosen, gamma


def _calibrated(bars: ErrorBars, potential: Potential, validation: TrainingSet, done: AtomCounter) -> ErrorBars:
    """Error bars with the factors of largest likelihood for the labels that validation structures have."""
    chosen = validation.weight > 0
    known = {term.name: term.known(validation) & chosen for term in TERMS if term.name in LABELS}
    has_positions = not bool(validation.positions.isnan().any())
    derivatives = has_positions and bool(known["forces"].any())
    squares: dict[str, list[Tensor]] = {label: [] for label in LABELS}
    variances: dict[str, list[Tensor]] = {label: [] for label in LABELS}
    bars = bars.to(validation.sizes.device)
    counted = torch.stack(list(known.values())).any(dim=0)
    for by_label in _judged(bars, potential, validation, counted, derivatives, done):
        for label, found in by_label.items():
            own = known[label][found.structure]
            squares[label].append(found.errors[own].square().flatten())
            variances[label].append(found.variances[own].flatten())
    calibrations = dict(bars.calibrations)
    for label in LABELS:
        if squares[label]:
            fitted = _calibration(torch.cat(squares[label]), torch.cat(variances[label]))
            calibrations[label] = fitted or calibrations[label]
    return replace(bars.to("cpu"), calibrations=calibrations)


def _judged(
    bars: ErrorBars, potential: Potential, part: TrainingSet, counted: Tensor, derivatives: bool, done: AtomCounter
) -> Iterator[Mapping[str, Judged]]:
    """Yield predictions by label, for some structures (B,) bool of a set at a time."""
    if bars.of_all:
        chosen = counted.nonzero()[:, 0]
        for judged in judge(bars, potential, part.select(chosen), derivatives, done):
            yield {label: replace(own, structure=chosen[own.structure]) for label, own in judged.items()}
        return
    for by_term in residuals(potential, part, counted, derivatives, done):
        yield {
            label: Judged(own.structure, own.errors, bars.relative_variances(own.rows))
            for label, own in by_term.items()
            if label in LABELS
        }


def _calibration(squares: Tensor, variances: Tensor) -> Calibration | None:
    """Factor from squared errors and the variances without it; None: there are no values.

    Raises:
        InputError: an error that is no number.
    """
    if not bool((squares.isfinite() & variances.isfinite()).all()):
        raise InputError("error bars: expected finite predictions of the validation structures, got NaN or inf")
    counted = variances > _NO_VARIANCE * variances.sum() / max(len(variances), 1)
    if not bool(counted.any()):
        return None
    return Calibration(float((squares[counted] / variances[counted]).mean()), int(counted.sum()))
