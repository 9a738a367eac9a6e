"""Settings of a fit that follow from the amount of data, and the measurements behind them (docs/fit.md)."""

from __future__ import annotations

from dataclasses import dataclass

from pyfit_gpu.models.networks import count_parameters

WIDTHS = (16, 24, 32, 48)  # neurons of both hidden layers
_LABELS_PER_PARAMETER = 10

# Multiplications a second in J^T J, to within a factor of three (docs/training.md).
_RATE_OF_THREAD = 2e10
_RATE_OF_GPU = 8e12
_LEAST_PRODUCTS = 400  # of J^T J for all members, below which LBFGS gets farther
_LEAST_STRUCTURES = 100  # for the penalty by the evidence
_MOST_PARAMETERS = 6_000  # whose J^T J takes 0.3 GB, several of them
# The penalty of few atoms, whose inputs `train` leaves as they are: as a share of the energies' spread, which is what
# the loss begins with, and at least the 1e-4 eV/atom of `train`. Ten times as much keeps networks from learning at all.
_PENALTY = 1.4e-3
_LEAST_PENALTY = 1e-4  # eV/atom


@dataclass(frozen=True)
class Amount:
    """Counts of what there is to learn from."""

    n_structures: int  # with an energy
    n_labels: int  # energies and components of forces
    n_atoms: int  # of the structures with an energy
    spread: float  # eV/atom, standard deviation of the energies about what the composition explains


@dataclass(frozen=True)
class NetworkShape:
    """Facts about a potential's networks that its elements and its kind decide."""

    n_features: int
    n_elements: int
    n_outputs: int = 1

    def n_parameters(self, width: int) -> int:
        """Parameters of a potential with two hidden layers of this width."""
        return self.n_elements * count_parameters((self.n_features, width, width, self.n_outputs))

    def width(self, n_labels: int) -> int:
        """Choose the widest layers that have a tenth as many parameters as there are labels, within limits."""
        most = n_labels / _LABELS_PER_PARAMETER
        return max((one for one in WIDTHS if self.n_parameters(one) <= most), default=WIDTHS[0])


def second_order_pays(amount: Amount, parameters: int, members: int, seconds: float, workers: float) -> bool:
    """Whether J^T J pays: there are enough structures for the evidence, and time for many products of all members.

    Args:
        workers: multiplications a second, see `rate`.
    """
    product = members * amount.n_labels * float(parameters) ** 2 / workers  # s
    enough = amount.n_structures >= _LEAST_STRUCTURES and parameters <= _MOST_PARAMETERS
    return enough and product * _LEAST_PRODUCTS <= seconds


def training_options(amount: Amount, parameters: int, members: int, seconds: float, workers: float) -> tuple[str, ...]:
    """Options of `train` by amount of data and time: a penalty for few atoms, else as `second_order_pays` says."""
    if amount.n_atoms < parameters:
        return ("--l2", f"{max(_LEAST_PENALTY, _PENALTY * amount.spread):.1g}")
    if second_order_pays(amount, parameters, members, seconds, workers):
        return ("--optimizer", "auto", "--l2", "auto")
    return ()


def rate(device_type: str, threads: int) -> float:
    """Multiplications a second."""
    return _RATE_OF_GPU if device_type == "cuda" else _RATE_OF_THREAD * threads
