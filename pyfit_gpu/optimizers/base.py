"""The seam between a fit and its optimiser: three protocols, and nothing that imports torch when it is loaded.

A user chooses `OptimizerSettings` (`FitSettings.optimizer`). They build an `Optimizer` of K members, which asks a
`MemberObjective` for the loss and whatever else it needs (`Gives`). docs/contributing.md says how to add one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pyfit_gpu.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


class Gives(Enum):
    """Forms of an objective: what it can give beside the loss, and what an optimiser needs of it."""

    # The gradient of the loss. Every objective gives it, when it is called.
    GRADIENT = "the gradient of the loss"
    # J^T J, where J = dr/dparameters and the sum of squares of the residuals r is the square of the loss.
    RESIDUALS = "J^T J of residuals whose squares add up to the square of the loss"


class MemberObjective(Protocol):
    """A loss of K members, each with parameters of its own."""

    @property
    def gives(self) -> frozenset[Gives]:
        """Everything that this objective can give."""

    @property
    def recordable_points(self) -> int:
        """Most points of a call on a GPU that can be recorded (`cuda_graphs`) and is worth it; 0: none is.

        It can be where each call is the same operations at the same addresses, without waiting for the GPU. What is
        asked for more points is asked in parts.
        """

    def __call__(self, points: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate members, each at one point.

        Args:
            points: (A, P), parameters of each of the members; not contiguous unless P is a multiple of 16.
            members: (A,) int64, on the device, ascending.

        Returns:
            loss (A,), its gradient (A, P), and extras (A, E): numbers that belong to the point. All are detached.
        """

    def normal_matrices(self, points: Tensor, members: Tensor) -> Iterator[Tensor]:
        """Yield J^T J (P, P) float64 of each member at its point, if the objective `gives` residuals.

        J^T r is the loss times its gradient. A matrix may be changed by whoever receives it.
        """


class Optimizer(Protocol):
    """Parameters of K members, and what their optimiser remembers. Members are numbered from 0.

    Members do not influence each other: on a CPU the numbers of a member have the same bits whichever others there
    are, if the objective's have.
    """

    @property
    def parameters(self) -> Tensor:
        """(K, P); later steps may change this tensor in place."""

    @property
    def extras(self) -> Tensor:
        """(K, E) extras of the objective at the parameters, for members evaluated there; E = 0 before the first."""

    @property
    def n_evaluations(self) -> list[int]:
        """Evaluations of each member so far, those before a restart included."""

    def evaluate(self, objective: MemberObjective, members: Sequence[int]) -> None:
        """Evaluate the objective for these members at their parameters, where the last step has not done so.

        Not to be confused with `pyfit_gpu.evaluate`, which gives energies of structures.
        """

    def step(self, objective: MemberObjective, members: Sequence[int], learning_rate_factor: float = 1.0) -> None:
        """Take one step of each of these members.

        A loss or gradient that is not finite is no error: that member stays where it is, or goes where `evaluate`
        finds a loss that is NaN or infinite, and the others go on.

        Args:
            learning_rate_factor: up to 1, for the learning rate of this step; an optimiser without one ignores it.
        """

    def forget(self, member: int) -> None:
        """Forget the loss at this member's parameters: the objective has changed, `evaluate` must ask it again."""

    def restart(self, member: int, parameters: Tensor) -> None:
        """Give a member other parameters (P,) and forget everything about it but `n_evaluations`."""

    def state(self) -> dict[str, Tensor]:
        """Copy everything that later steps depend on to the CPU; the first axis of each tensor is K.

        Raises:
            RuntimeError: an exception cut off the last step, so that there is no state to go on from.
        """

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the result of `state`. Later steps then have the bits that they would have had (on a CPU).

        Raises:
            InputError: the state of another optimiser, or of other sizes; nothing has been changed then.
        """


class OptimizerSettings(Protocol):
    """Settings of one optimiser: a frozen dataclass that checks its values (`InputError`).

    Every field is an option of the command line (`option`) and a setting in the run file, under its own name: names
    must not be those of `FitSettings`. Numbers, words and None only.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    name: ClassVar[str]  # on the command line, in run files and in messages
    needs: ClassVar[Gives]  # what the objective must give
    fixed: ClassVar[tuple[str, ...]]  # settings that decide shape or meaning of the state: a resumed run keeps them
    remedies: ClassVar[tuple[str, ...]]  # "a smaller learning_rate": what may help when the loss is no longer a number

    def build(self, parameters: Tensor) -> Optimizer:
        """Build an optimiser that starts from a copy of parameters (K, P), on their device, in their dtype."""

    def memory_bytes(self, n_members: int, n_parameters: int, *, on_gpu: bool) -> int:
        """Count the bytes of all that the optimiser keeps, for float64 parameters."""

    def describe(self) -> str:
        """Describe a step in a few words, after "100 steps of"."""


def option(text: str, metavar: str | None = None) -> dict[str, Any]:
    """Metadata of a field of settings, for the command line.

    Args:
        text: the option's help; the default follows in brackets, unless it is None.
        metavar: name of the value in the help.
    """
    return {"help": text, "metavar": metavar}


def require_given(settings: OptimizerSettings, objective: MemberObjective) -> None:
    """Refuse an optimiser that needs what the objective cannot give.

    Raises:
        InputError: with the optimiser's name and what is missing.
    """
    if settings.needs not in objective.gives:
        given = ", ".join(sorted(one.value for one in objective.gives))
        raise InputError(f"optimizer: {settings.name} needs {settings.needs.value}, this objective gives {given}")
