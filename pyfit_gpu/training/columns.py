"""Named numbers side by side in one tensor, for a transfer between devices or processes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Columns:
    """Places of named values in the columns of one tensor (A, width)."""

    def __init__(self, widths: Mapping[str, int | None]) -> None:
        """Assign columns.

        Args:
            widths: columns of each value (A, width), in this order; None: one number each, (A,).
        """
        self.widths = dict(widths)
        self._counts = [1 if width is None else width for width in self.widths.values()]
        self.width = sum(self._counts)

    def pack(self, values: Mapping[str, Tensor]) -> Tensor:
        """Put all values into one tensor (A, width).

        Raises:
            ValueError: other names than those of the columns.
        """
        if values.keys() != self.widths.keys():
            raise ValueError(f"columns: expected {', '.join(self.widths)}, got {', '.join(values)}")
        columns = (values[name][:, None] if width is None else values[name] for name, width in self.widths.items())
        return torch.cat(tuple(columns), dim=1)

    def unpack(self, packed: Tensor) -> dict[str, Tensor]:
        """Take the values, as views, out of a result of `pack`.

        Raises:
            ValueError: a tensor of another width.
        """
        if packed.shape[1] != self.width:
            raise ValueError(f"columns: expected {self.width} ({', '.join(self.widths)}), got {packed.shape[1]}")
        parts = packed.split(self._counts, dim=1)
        return {
            name: part[:, 0] if width is None else part
            for (name, width), part in zip(self.widths.items(), parts, strict=True)
        }
