"""The section `error-bars` of an uncertainty file: a covariance of parameters (docs/formats/uncertainty.md)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.devices import require_memory
from pyfit_gpu.formats.uncertainty_lines import UncertaintyLines, numbers_line
from pyfit_gpu.models.error_bars import FORMS, LABELS, Calibration, ErrorBars

_MAX_PARAMETERS = 10**5  # 5e9 numbers, beyond any file: a typing error


def error_bar_lines(bars: ErrorBars) -> Iterator[str]:
    """Yield the lines of a section."""
    yield f"form {bars.form}\n"
    yield numbers_line("penalty", *bars.penalties)
    yield numbers_line("noise", bars.noise)
    yield numbers_line("effective", bars.n_effective)
    for label in LABELS:
        own = bars.calibrations[label]
        yield numbers_line(f"label {label}", own.factor, own.n_values)
    root = bars.root.to("cpu", torch.float64)
    yield f"parameters {len(root)}\n"
    for number, row in enumerate(root, start=1):
        yield f"row {_packed(row[:number])}\n" if bars.of_all else numbers_line("row", row[:number])


def section_bytes(n_parameters: int) -> int:
    """Count the bytes of the section for all parameters, to about a percent."""
    return 8 * n_parameters * (n_parameters + 1) // 2 * 4 // 3


def _packed(row: Tensor) -> str:
    return base64.b64encode(row.numpy().astype("<f8").tobytes()).decode("ascii")


def read_error_bars(lines: UncertaintyLines) -> ErrorBars:
    """Read a section, after the line that begins it up to the line that ends it."""
    expected = " or ".join(FORMS)
    words = lines.words("form", expected)
    form = next((name for name in FORMS if words == [name]), None)
    if form is None:
        raise lines.error(f"'form' and {expected}")
    of_all = form == "all-parameters"
    penalties = _read_penalties(lines) if of_all else lines.vector("penalty", 1, positive=True).tolist()
    noise, n_effective = (lines.numbers(lines.words(name, "a number"), 1)[0] for name in ("noise", "effective"))
    calibrations = {label: _read_label(lines, label) for label in LABELS}
    (count,) = lines.counts(lines.words("parameters", "their number"), 1, "'parameters' and their number")
    if not 0 < count <= _MAX_PARAMETERS:
        raise lines.error(f"'parameters' and their number, from 1 to {_MAX_PARAMETERS}")
    require_memory(8 * count**2, torch.device("cpu"), f"error bars of {count} parameters in {lines.name}")
    root = torch.zeros(count, count, dtype=torch.float64)
    for number, row in enumerate(root, start=1):
        row[:number] = _unpacked(lines, number) if of_all else lines.vector("row", number)
    lines.end("end error-bars")
    return ErrorBars(root, calibrations, tuple(penalties), noise, n_effective, form)


def _read_penalties(lines: UncertaintyLines) -> list[float]:
    words = lines.words("penalty", "numbers above 0")
    values = lines.numbers(words, max(len(words), 1))
    if min(values) <= 0:
        raise lines.error("'penalty' and numbers above 0")
    return values


def _unpacked(lines: UncertaintyLines, count: int) -> Tensor:
    """(count,) float64: the numbers of the next line, packed."""
    expected = f"'row' and {count} number{'s' if count > 1 else ''} in base64"
    words = lines.words("row", "numbers in base64")
    try:
        data = base64.b64decode(words[0], validate=True) if len(words) == 1 else b""
    except (binascii.Error, ValueError):
        raise lines.error(expected) from None
    if len(data) != 8 * count:
        raise lines.error(expected)
    values = torch.from_numpy(np.frombuffer(data, "<f8").astype(np.float64))
    if not bool(values.isfinite().all()):
        raise lines.error(f"{expected}, all finite")
    return values


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
