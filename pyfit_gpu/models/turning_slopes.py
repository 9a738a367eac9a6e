"""Changes of the slopes de/du of atoms along moves of their neighbours, for rows of J of physically informed networks.

Outputs u of a network and its inputs x give the energy e of an atom by its local parameters, p = c u + baseline, and by
the vectors v of its pairs. So the slopes q = c de/dp change as

    dq/dv = c [ d2e/dp2 c du/dx dx/dv + d2e/dp dv ]
"""

from __future__ import annotations

from torch import Tensor

from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.models.bond_order import BondOrder
from pyfit_gpu.models.bond_order_changes import chunk_slope_derivatives
from pyfit_gpu.models.network_jacobian import NetworkJacobian


class TurningSlopes:
    """Changes of the slopes of a slab's atoms; those of a source (force_rows.py) are found once and kept."""

    def __init__(
        self, model: BondOrder, parameters: Tensor, jacobian: NetworkJacobian, scale: Tensor | None = None
    ) -> None:
        """Take what the slab's atoms have.

        Args:
            parameters: (n, N), p.
            jacobian: of one member, for the same atoms.
            scale: (n, N), c; None: 1.
        """
        self.n_inputs, self.n_outputs = jacobian.sizes[0], parameters.shape[1]
        self._model, self._parameters, self._jacobian, self._scale = model, parameters, jacobian, scale
        self._found: dict[int, Tensor] = {}

    def of(self, number: int, element: int, atoms: Tensor, chunk: Chunk, of_inputs: Tensor) -> Tensor:
        """(n', N, 3, K): dq/dv of some atoms of one element.

        Args:
            number: of the source.
            atoms: (n',) int64, of the slab.
            chunk: of these atoms, with nothing cached.
            of_inputs: (n', F, 3, K), dx/dv.
        """
        if number not in self._found:
            second, found = chunk_slope_derivatives(self._model, chunk, self._parameters.index_select(0, atoms))
            if self._scale is not None:
                scale = self._scale.index_select(0, atoms)[..., None]
                second.mul_(scale).mul_(scale.transpose(1, 2))
                found.mul_(scale[..., None])
            found.flatten(2).baddbmm_(self._jacobian.pull(element, atoms, second), of_inputs.flatten(2))
            self._found[number] = found
        return self._found[number]
