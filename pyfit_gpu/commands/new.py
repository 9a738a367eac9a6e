"""The verb `new`: writes a new potential."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyfit_gpu.commands.info import input_shares
from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import save_draft
from pyfit_gpu.log import log
from pyfit_gpu.models.new_potential import new_potential


def new(elements: Sequence[str], *, cutoff: float, out: str, setup: Setup, **settings: Any) -> None:
    """Write a new potential file whose header asks for random parameters.

    Args:
        elements: chemical symbols.
        cutoff: Å.
        out: `.nn.dat` file to write.
        settings: other arguments of `new_potential`.
    """
    if not out.endswith(".dat"):
        raise InputError(f"{out}: expected a potential's name to end in .nn.dat")
    draft = new_potential(elements, cutoff, **settings)
    out = setup.output(out)
    save_draft(draft, out)
    sizes = "-".join(map(str, draft.networks.layer_sizes))
    centers = " ".join(f"{center:g}" for center in draft.descriptor.gaussian_centers)
    log.info(
        "wrote %s: network %s, %d inputs%s, Gaussian centres %s Å, parameters are drawn on loading",
        out,
        sizes,
        draft.descriptor.n_features,
        input_shares(draft.descriptor),
        centers,
    )
