"""Ways to choose structures of a pool. Nothing heavy is imported here: the command line's help reads them."""

from typing import Literal, get_args

Method = Literal["farthest", "determinant", "uncertainty", "random"]
METHODS: tuple[Method, ...] = get_args(Method)  # the first is the default
UNCERTAINTIES = ("grade", "error-bar", "spread")  # what the command line may take for an uncertainty
