"""The section `error-bars` of an uncertainty file: a covariance of parameters (docs/formats/uncertainty.md)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pyfit_gpu.formats.uncertainty_lines import UncertaintyLines, numbers_line
from pyfit_gpu.models.error_bars import LABELS, Calibration, ErrorBars

FORM = "last-layer"

_MAX_PARAMETERS = 10**5  # 5e9 numbers, beyond any file: a typing error


def error_bar_lines(bars: ErrorBars) -> Iterator[str]:
    """Yield the lines of a section."""
    yield f"form {FORM}\n"
    yield numbers_line("penalty", bars.penalty)
    yield numbers_line("noise", bars.noise)
    yield numbers_line("effective", bars.n_effective)
    for label in LABELS:
        own = bars.calibrations[label]
        yield numbers_line(f"label {label}", own.factor, own.n_values)
    root = bars.root.to("cpu", torch.float64)
    yield f"parameters {len(root)}\n"
    for number, row in enumerate(root, start=1):
        yield numbers_line("row", row[:number])


def read_error_bars(lines: UncertaintyLines) -> ErrorBars:
    """Read a section, after the line that begins it up to the line that ends it."""
    if lines.words("form", FORM) != [FORM]:
        raise lines.error(f"'form {FORM}'")
    (penalty,) = lines.vector("penalty", 1, positive=True).tolist()
    noise, n_effective = (lines.numbers(lines.words(name, "a number"), 1)[0] for name in ("noise", "effective"))
    calibrations = {label: _read_label(lines, label) for label in LABELS}
    (count,) = lines.counts(lines.words("parameters", "their number"), 1, "'parameters' and their number")
    if not 0 < count <= _MAX_PARAMETERS:
        raise lines.error(f"'parameters' and their number, from 1 to {_MAX_PARAMETERS}")
    rows = [lines.vector("row", number) for number in range(1, count + 1)]
    lines.end("end error-bars")
    root = torch.zeros(count, count, dtype=torch.float64)
    for number, row in enumerate(rows, start=1):
        root[number - 1, :number] = row
    return ErrorBars(root, calibrations, penalty, noise, n_effective)


def _read_label(lines: UncertaintyLines, label: str) -> Calibration:
    expected = f"{label}, a factor >= 0 and a number of values"
    words = lines.words("label", expected)
    if words[:1] != [label] or len(words) != 3:
        raise lines.error(f"'label' and {expected}")
    (factor,) = lines.numbers(words[1:2], 1)
    (n_values,) = lines.counts(words[2:], 1, f"'label' and {expected}")
    if factor < 0:
        raise lines.error(f"'label' and {expected}")
    return Calibration(factor, n_values)
