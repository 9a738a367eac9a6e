"""The activations of hidden layers, all in terms of one function."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

ACTIVATIONS = {0: "1 / (1 + exp(-x))", 1: "1 / (1 + exp(-x)) - 1/2", 2: "tanh(x)"}


class Sigmoid(NamedTuple):
    """An activation as height * s(steepness * x) - offset, with s the logistic function."""

    steepness: float
    height: float
    offset: float

    def activated(self, sigmoid: Tensor) -> Tensor:
        """The activation of x, from s(steepness * x)."""
        if self.height != 1:
            sigmoid = self.height * sigmoid
        return sigmoid - self.offset if self.offset else sigmoid


SIGMOIDS = {0: Sigmoid(1.0, 1.0, 0.0), 1: Sigmoid(1.0, 1.0, 0.5), 2: Sigmoid(2.0, 2.0, 1.0)}
