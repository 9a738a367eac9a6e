"""The penalty of all members of a fit, given or chosen from the data by the evidence (evidence.py) as the fit goes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.log import log
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.parallel import one_thread
from pyfit_gpu.training.closure import Closure
from pyfit_gpu.training.evidence import Evidence, estimate
from pyfit_gpu.training.history import LabelErrors
from pyfit_gpu.training.loss import TERMS
from pyfit_gpu.training.penalty import NormPenalty, Penalty, SquaredPenalty
from pyfit_gpu.training.settings import FitSettings

EVIDENCE_INTERVAL = 5  # steps between two estimates
_START = 1e-6  # prefactor before the first estimate, in squares of the loss at the start


def parameter_groups(template: ElementNetworks) -> Tensor:
    """(P,) int64 ascending: weights and biases of each layer of each element are a group of their own."""
    groups = template.with_flat(torch.zeros_like(template.flat()[:1]))
    tensors = [part for layer in zip(groups.weights, groups.biases, strict=True) for part in layer]
    for number, tensor in enumerate(tensors):
        for element in range(template.n_elements):
            tensor[:, element] = element * len(tensors) + number
    return groups.flat()[0].long()


class Regularisation:
    """The penalty, and what chooses it."""

    def __init__(self, template: ElementNetworks, settings: FitSettings, n_residuals: float) -> None:
        """Begin with the penalty of the settings.

        Args:
            template: all members.
            n_residuals: number of independent residuals of the training structures.
        """
        self.chooses = settings.l2 == "auto"
        self._groups = parameter_groups(template)
        self._n_residuals = n_residuals
        self._n_members, self._n_elements = template.n_members, template.n_elements
        n_groups = int(self._groups.max()) + 1
        self._values = template.flat().new_zeros(template.n_members, n_groups)  # prefactors that were chosen
        self.penalty: Penalty
        if settings.l2 == "auto":
            self.penalty = SquaredPenalty(torch.zeros_like(template.flat()))
        elif settings.l2_form == "squared":
            self.penalty = SquaredPenalty(torch.full_like(template.flat(), settings.l2))
        else:
            self.penalty = NormPenalty(settings.l2, template)

    def begin(self, k: int, loss: float) -> None:
        """Give a member the penalty before any estimate, from its loss there."""
        self._set(k, torch.full_like(self._values[k], _START * loss**2))

    def _set(self, k: int, values: Tensor) -> None:
        assert isinstance(self.penalty, SquaredPenalty)
        self._values[k] = values
        self.penalty.strengths[k] = values[self._groups]

    @torch.no_grad()
    def update(
        self, k: int, closure: Closure, parameters: Tensor, loss: float, errors: LabelErrors, *, keep: bool
    ) -> bool:
        """Estimate the penalty of member k anew; returns whether it has changed.

        Args:
            closure: whose penalty this is.
            parameters: (P,), whose loss and errors these are.
            keep: whether the optimiser will need J^T J there.
        """
        matrix = closure.matrix(k, parameters, keep=keep)
        strengths = self._values[k][self._groups]
        with one_thread():
            found = estimate(matrix, strengths, parameters, self._groups, loss**2, self._n_residuals)
        if found is None:
            return False
        self._set(k, found.strengths)
        self._say(k, found, errors)
        return True

    def _say(self, k: int, found: Evidence, errors: LabelErrors) -> None:
        determined = float(found.determined.sum())
        noise = math.sqrt(self._n_residuals / max(self._n_residuals - determined, 1.0))
        shown = ", ".join(term.described(noise * errors[term.name]) for term in TERMS if term.name in errors)
        log.info(
            "%sevidence: l2 of weights, biases of each layer: %s; %.0f of %d parameters determined; noise of %s",
            "" if self._n_members == 1 else f"member {k}: ",
            self._by_layer(found.strengths),
            determined,
            len(self._groups),
            shown,
        )

    def _by_layer(self, values: Tensor) -> str:
        """Prefactors of all groups, those of the second and further elements in brackets of their own."""
        by_element = values.view(self._n_elements, -1, 2).tolist()
        shown = [", ".join(f"{weights:.2g} {biases:.2g}" for weights, biases in layers) for layers in by_element]
        return shown[0] if len(shown) == 1 else " ".join(f"({layers})" for layers in shown)

    def state(self, k: int) -> dict[str, list[float]]:
        """Prefactor of each group of member k, as `penalty`, for the run file; empty if the settings give it."""
        return {"penalty": self._values[k].tolist()} if self.chooses else {}

    def restore(self, k: int, state: Mapping[str, Any], loss: Sequence[float]) -> None:
        """Go on with the result of `state`, which may be among other things.

        Args:
            loss: of the member after each step; from the last one begins a penalty that the earlier fit did not choose.
        """
        values = state.get("penalty")
        if self.chooses and values:
            if len(values) != self._values.shape[1]:
                raise InputError(f"penalty: expected {self._values.shape[1]} prefactors, found {len(values)}")
            self._set(k, self._values.new_tensor(values))
        elif self.chooses and loss:
            self.begin(k, loss[-1])
