"""The section `grade` of an uncertainty file: clusters of the training atoms (docs/formats/uncertainty.md)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pyfit_gpu.formats.uncertainty_lines import UncertaintyLines, numbers_line
from pyfit_gpu.models.extrapolation import ExtrapolationGrade

_MAX_CLUSTERS = 10**6  # beyond any file, and a typing error


def grade_lines(grade: ExtrapolationGrade, elements: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a section."""
    grade = grade.to("cpu", torch.float64)
    for number, symbol in enumerate(elements):
        own = (grade.element == number).nonzero()[:, 0].tolist()
        yield f"element {symbol} {len(own)}\n"
        yield numbers_line("scale", grade.scale[number])
        for cluster in own:
            directions = grade.directions[cluster]
            directions = directions[directions.any(dim=1)]
            yield numbers_line("cluster", int(grade.n_atoms[cluster]), len(directions), float(grade.weight[cluster]))
            yield numbers_line("center", grade.centers[cluster])
            yield from (numbers_line("direction", direction) for direction in directions)


def read_grade(lines: UncertaintyLines, elements: Sequence[str], n_inputs: int) -> ExtrapolationGrade:
    """Read a section, after the line that begins it up to the line that ends it."""
    scales, clusters, owners = [], [], []
    for number, symbol in enumerate(elements):
        expected = f"the symbol {symbol} and its number of clusters"
        words = lines.words("element", expected)
        if words[:1] != [symbol]:
            raise lines.error(f"'element' and {expected}")
        (count,) = lines.counts(words[1:], 1, f"'element' and {expected}")
        if count > _MAX_CLUSTERS:
            raise lines.error(f"at most {_MAX_CLUSTERS} clusters")
        scales.append(lines.vector("scale", n_inputs, positive=True))
        clusters += [_read_cluster(lines, n_inputs) for _ in range(count)]
        owners += [number] * count
    lines.end("end grade")
    if not clusters:
        raise lines.error("a cluster of one of the elements before this line")
    n_atoms, weight, centers, directions = zip(*clusters, strict=True)
    return ExtrapolationGrade(
        scale=torch.stack(scales),
        element=torch.tensor(owners),
        n_atoms=torch.tensor(n_atoms),
        centers=torch.stack(centers),
        weight=torch.tensor(weight, dtype=torch.float64),
        directions=torch.nn.utils.rnn.pad_sequence(list(directions), batch_first=True),
    )


def _read_cluster(lines: UncertaintyLines, n_inputs: int) -> tuple[int, float, Tensor, Tensor]:
    """Training atoms, weight, centre (F,) and directions (R, F) of a cluster."""
    expected = "numbers of atoms and of directions, and a weight above 0"
    words = lines.words("cluster", expected)
    n_atoms, n_directions = lines.counts(words[:2], 2, f"'cluster' and {expected}")
    (weight,) = lines.numbers(words[2:], 1)
    if weight <= 0 or n_directions > n_inputs:
        raise lines.error(f"'cluster' and {expected}, at most {n_inputs} directions")
    center = lines.vector("center", n_inputs)
    directions = torch.zeros(n_directions, n_inputs, dtype=torch.float64)
    for direction in directions:
        direction[:] = lines.vector("direction", n_inputs)
    return n_atoms, weight, center, directions
