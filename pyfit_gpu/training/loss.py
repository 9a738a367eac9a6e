"""The function that training minimises: errors of energies, forces and stress, plus a penalty on the parameters.

    loss      = sqrt( e^2 + force_weight f^2 + stress_weight v^2 )                 eV/atom
    e^2       = sum_s w_s ((E_nn,s - E_used,s) / n_s)^2 / sum_s w_s
    f^2       = sum_s w_s sum_{i in s} |F_nn,i - F_i|^2 / (3 sum_s w_s n_s)         over structures with forces
    v^2       = sum_s w_s sum_{6} (V_s / n_s (sigma_nn,s - sigma_s))^2 / (6 sum_s w_s)    over those with stress
    optimised = loss + l2 * sum over weight and bias tensors of ||p||_2

With a limit d (`FitSettings.huber`) the square of an energy's error x per atom is d (2 |x| - d) where |x| > d.

w_s is the weight of a structure. The stress enters as virial per atom, so that all terms are energies per atom and a
cell with much vacuum does not vanish. Without forces and stress, and with every weight 1, this is the loss of the
classic program (docs/theory.md). For e^2 with targets of groups see group_errors.py.

`TERMS` is the one table of the labels: objective, rows, logs, run files and reports go through it. A further label is a
`LossTerm` here, its weight in `FitSettings`, the option for that, and the prediction that labels.py compares it with
(docs/contributing.md, "A loss term").
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from ase.units import GPa
from torch import Tensor

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.sums import ordered_sum

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Labelled:
    """Structures of a block whose label is compared, in an order of their own."""

    training_set: TrainingSet  # the block's structures
    rows: Tensor  # (B',) int64, chosen structures of the block
    atoms: Tensor  # (n',) int64, atoms of these structures in the block
    label_weight: Tensor  # (B',) float64, weight of each component; zero where the label is not known


class Comparison(Protocol):
    """A label of some structures beside what networks predict for it."""

    def squares(self, predicted: Tensor) -> dict[str, Tensor]:
        """Sums (A,) of label weight times squared error, by the names that the term uses; differentiable."""

    @property
    def scale(self) -> Tensor:
        """Factor that makes the error of a prediction a residual, whose squares add up to what the loss counts.

        One for each atom (n',) of a term that is per atom, and for each structure (B',) of another one.
        """


class _ForceErrors:
    def __init__(self, labelled: Labelled) -> None:
        dtype = labelled.training_set.features.dtype
        sizes = labelled.training_set.sizes[labelled.rows]
        self.weight = torch.repeat_interleave(labelled.label_weight, sizes).to(dtype)[:, None, None]
        # Unknown forces have weight zero, and get a target that is not NaN.
        self.forces = labelled.training_set.forces[labelled.atoms].nan_to_num().to(dtype)[:, None]

    def squares(self, predicted: Tensor) -> dict[str, Tensor]:
        """Squares for predicted forces (n', A, 3) eV/Å."""
        return {"forces": ((predicted - self.forces).square() * self.weight).sum(dim=(0, 2))}

    @property
    def scale(self) -> Tensor:
        return self.weight[:, 0, 0].sqrt()


class _StressErrors:
    def __init__(self, labelled: Labelled) -> None:
        training_set, rows = labelled.training_set, labelled.rows
        dtype = training_set.features.dtype
        sizes, volume = training_set.sizes[rows], training_set.volume[rows]
        self.weight = labelled.label_weight.to(dtype)[:, None, None]
        self.stress = training_set.stress[rows].nan_to_num().to(dtype)[:, None]
        self.per_volume = torch.where(labelled.label_weight > 0, 1 / volume, 0.0).to(dtype)[:, None, None]
        self.volume_per_atom = (volume / sizes).to(dtype)[:, None, None]

    def squares(self, predicted: Tensor) -> dict[str, Tensor]:
        """Squares for predicted virials (B', A, 6) eV."""
        error = predicted * self.per_volume - self.stress
        return {
            "virial": ((error * self.volume_per_atom).square() * self.weight).sum(dim=(0, 2)),
            "stress": (error.detach().square() * self.weight).sum(dim=(0, 2)),
        }

    @property
    def scale(self) -> Tensor:
        return (self.weight.sqrt() * self.per_volume * self.volume_per_atom)[:, 0, 0]


@dataclass(frozen=True)
class LossTerm:
    """One label in the loss, in the errors, and in every file and line that lists them."""

    name: str  # name of the label and of its error
    unit: str  # unit of its root-mean-square error in files
    known: Callable[[TrainingSet], Tensor]  # (B,) bool, structures that have the label
    described: Callable[[float], str]  # the error in words, in the unit that people read
    components: int = 1  # numbers that make the label of one structure, or of one atom
    per_atom: bool = False
    weight_name: str = ""  # name of the prefactor in `FitSettings`; empty: it is 1, and the label must be known
    weight_unit: str = ""
    label: str = ""  # what structures must have for this term
    ranked: bool = True  # whether the ranking of members has a column for it
    prediction: str = ""  # name of the prediction (labels.py) that the label is compared with
    compare: Callable[[Labelled], Comparison] | None = None  # None: energies, which `Objective` compares itself
    counted: str = ""  # name of the square that is part of the loss
    reported: str = ""  # name of the square whose root is the error


TERMS: tuple[LossTerm, ...] = (
    LossTerm(
        name="energy",
        unit="eV/atom",
        known=lambda training_set: training_set.has_energy,
        described=lambda error: f"energy {1000 * error:.3f} meV/atom",
    ),
    LossTerm(
        name="forces",
        unit="eV/Å",
        known=lambda training_set: training_set.has_forces,
        described=lambda error: f"forces {error:.4f} eV/Å",
        components=3,
        per_atom=True,
        weight_name="force_weight",
        weight_unit="Å^2",
        label="forces",
        prediction="forces",
        compare=_ForceErrors,
        counted="forces",
        reported="forces",
    ),
    LossTerm(
        name="stress",
        unit="eV/Å^3",
        known=lambda training_set: training_set.has_stress,
        described=lambda error: f"stress {error / GPa:.3f} GPa",
        components=6,
        weight_name="stress_weight",
        label="a stress and a full cell",
        ranked=False,
        prediction="virials",
        compare=_StressErrors,
        counted="virial",
        reported="stress",
    ),
)


def weighted_terms() -> list[LossTerm]:
    """Terms whose prefactor is a setting: all but the energy."""
    return [term for term in TERMS if term.weight_name]


class ByLabel(Mapping[str, T]):
    """Values by label, in the order of `TERMS`; labels that take no part are left out.

    `errors.forces` is `errors["forces"]`, or None where forces take no part.
    """

    def __init__(self, by_label: Mapping[str, T]) -> None:
        self._by_label = {term.name: by_label[term.name] for term in TERMS if term.name in by_label}

    def __getitem__(self, name: str) -> T:
        return self._by_label[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_label)

    def __len__(self) -> int:
        return len(self._by_label)

    def __getattr__(self, name: str) -> T | None:
        if all(term.name != name for term in TERMS):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return self._by_label.get(name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._by_label})"


class Errors(ByLabel[Tensor]):
    """The loss of A members on one set, (A,) eV/atom, and the root-mean-square error (A,) of every label; float64."""

    def __init__(self, loss: Tensor, by_label: Mapping[str, Tensor]) -> None:
        super().__init__(by_label)
        self.loss = loss


LossWeights = Mapping[str, float]  # prefactors of the terms beside the energy, by term; 0 where not named


def check_weights(weights: LossWeights) -> None:
    """Refuse weights of unknown terms, and weights that are negative or not finite.

    Raises:
        InputError: with the name and what was expected.
    """
    terms = {term.name: term for term in weighted_terms()}
    for name, weight in weights.items():
        if name not in terms:
            raise InputError(f"weights: expected names among {', '.join(terms)}, got {name!r}")
        if not (math.isfinite(weight) and weight >= 0):
            raise InputError(f"{terms[name].weight_name}: expected a number >= 0, got {weight}")


def require_labels(train: TrainingSet, weights: LossWeights) -> None:
    """Refuse a weight for a label that no structure with a weight has.

    Raises:
        InputError: with the name of the weight and the label.
    """
    for term in weighted_terms():
        weight = weights.get(term.name, 0.0)
        if weight > 0 and not bool((term.known(train) & (train.weight > 0)).any()):
            text = " (a text set holds energies alone)" if bool(torch.isnan(train.positions).all()) else ""
            raise InputError(
                f"{term.weight_name}: expected 0, got {weight}: no training structure has {term.label}{text}"
            )


@dataclass(frozen=True, eq=False)
class LabelWeights:
    """Normalised weight of each structure in the mean squared error of each label: (B,) float64, by term.

    The weights of all components of all structures with the label add up to 1. Zero where the label is not known or
    the structure has no weight.
    """

    by_term: Mapping[str, Tensor]

    @classmethod
    def of(cls, training_set: TrainingSet) -> LabelWeights:
        return cls({term.name: _label_weight(term, training_set) for term in TERMS})

    def __getitem__(self, name: str) -> Tensor:
        return self.by_term[name]

    def select(self, rows: Tensor) -> LabelWeights:
        return LabelWeights({name: weight[rows] for name, weight in self.by_term.items()})


def _label_weight(term: LossTerm, training_set: TrainingSet) -> Tensor:
    weight = training_set.weight * term.known(training_set)
    total = term.components * ordered_sum(weight * training_set.sizes if term.per_atom else weight)
    return torch.where(total > 0, weight / total, 0.0)


@dataclass(frozen=True)
class WeightedTerm:
    """A term beside the energy that takes part in the loss, and its prefactor."""

    term: LossTerm
    weight: float


def taking_part(weights: LossWeights, label_weights: LabelWeights) -> list[WeightedTerm]:
    """Terms that have a weight above 0 and a structure with the label."""
    return [
        WeightedTerm(term, weights[term.name])
        for term in weighted_terms()
        if weights.get(term.name, 0.0) > 0 and bool((label_weights[term.name] > 0).any())
    ]


def squares_of(terms: Iterable[WeightedTerm]) -> list[str]:
    """Names of the squares that these terms have, each once."""
    return list(dict.fromkeys(name for one in terms for name in (one.term.counted, one.term.reported)))


def counted_errors(errors: Tensor, huber: float) -> Tensor:
    """Errors of energies per atom, cut off at the limit if there is one: half of the derivative of `huber_squares`."""
    return errors.clamp(-huber, huber) if huber else errors


def huber_squares(errors: Tensor, huber: float) -> Tensor:
    """Squares of errors of energies per atom, which go on as straight lines beyond the limit; differentiable.

    Args:
        huber: eV/atom; 0: no limit.
    """
    if not huber:
        return errors.square()
    counted = counted_errors(errors, huber)
    return counted * (2 * errors - counted)


def l2_penalty(networks: ElementNetworks) -> Tensor:
    """(K,) sum over the weight and bias tensors of all elements of their Euclidean norms, not squared."""
    norms = [torch.linalg.vector_norm(weight, dim=(2, 3)) for weight in networks.weights]
    norms += [torch.linalg.vector_norm(bias, dim=2) for bias in networks.biases]
    return torch.stack(norms).sum(dim=(0, 2))
