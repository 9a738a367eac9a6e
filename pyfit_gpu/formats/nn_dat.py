"""Classic potential files, `.nn.dat` (docs/formats/nn_dat.md)."""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch

from pyfit_gpu.errors import InputError
from pyfit_gpu.files import atomic_text
from pyfit_gpu.formats.compressed import reading
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.nn_dat_header import HeaderLines, header_lines, read_header
from pyfit_gpu.formats.text_lines import NO_LINE_END, WITNESSES, Lines, may_be_cut
from pyfit_gpu.models.networks import ElementNetworks, Seed, count_parameters
from pyfit_gpu.models.potential import Potential

_MAX_DRAWN = 10**7  # random parameters
_DRAWN = f"layers with at most {_MAX_DRAWN} random weights and biases together"


def load_potential(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    seed: Seed = None,
) -> Potential:
    """Read a .nn.dat file. Where its header asks for random parameters, they are drawn with `seed`; the file stays.

    Raises:
        InputError: with file, line, what was expected and what was found.
    """
    with _reading(path) as reader:
        return _parse_potential(reader, seed).to(device, dtype)


def looks_like_potential(head: Head) -> bool:
    """Whether the first three lines look like a header's: gi_mode, shift, activation; elements; symbol and mass."""
    number = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"
    patterns = (rf"\d+\s+{number}\s+\d+\b.*", r"\d+\b.*", rf"['\"]?[A-Z][a-z]?['\"]?\s+{number}.*")
    lines = head.lines
    return len(lines) >= 3 and all(re.match(pattern, line) for pattern, line in zip(patterns, lines[:3], strict=True))


def asks_for_random_weights(path: str | os.PathLike[str]) -> bool:
    """Whether the header of a .nn.dat file says that the parameters are to be drawn."""
    with _reading(path) as reader:
        return read_header(reader)[1]


@contextlib.contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[_PotentialLines]:
    with reading(path, kind="a potential (.nn.dat)", decompress=False) as file:
        yield _PotentialLines(Lines(file), os.fspath(path))


class _PotentialLines(HeaderLines):
    """The lines of a file: header and parameters."""

    def __init__(self, lines: Lines, name: str) -> None:
        super().__init__(lines.numbered(), name)
        self.lines = lines

    def values(self, count: int, layer_sizes: Sequence[int]) -> np.ndarray:
        sizes = " ".join(str(size) for size in layer_sizes)
        expected = f"{count} weights and biases for the layers {sizes}"
        values = []
        before: deque[list[str]] = deque(maxlen=WITNESSES)  # cells of the lines before
        for item in islice(self.left, count):
            self.number, self.text = item
            cells = self.text.split()
            values.append(self.number_at(cells, 0, "a weight or bias, one number"))
            if len(cells) > 1:
                self.number_at(cells, 1, "a number, the reserved second cell")
            if len(cells) > 2:
                raise self.error("a weight or bias and one reserved cell")
            if self.lines.at_open_end:
                self._check_end(cells, before)
            before.append(cells)
        if len(values) < count:
            raise InputError(f"{self.name}: expected {expected}, found {len(values)}", where=self.name)
        extra = next(self.left, None)
        if extra is not None:
            self.number, self.text = extra
            raise self.error(f"{expected} and no more")
        return np.array(values)

    def _check_end(self, cells: Sequence[str], before: Iterable[Sequence[str]]) -> None:
        """Refuse a last line, without a line end, that has fewer cells than those before, or other digits."""
        alike = [line[-1] for line in before if len(line) == len(cells)]
        if not self.text[-1:].isspace() and may_be_cut(cells[-1], alike):
            raise self.error(NO_LINE_END)
        if any(len(line) > len(cells) for line in before):
            raise self.error("as many cells as on the lines before, and a line end")


def _parse_potential(reader: _PotentialLines, seed: Seed) -> Potential:
    draft, randomize = read_header(reader)
    layer_sizes = draft.networks.layer_sizes
    n_elements, activation = draft.descriptor.n_elements, draft.networks.activation
    if randomize:
        _check_draw(reader, n_elements * count_parameters(layer_sizes))
        # The numbers that may follow are the classic program's last draw, and are not needed.
        networks = ElementNetworks.random(
            layer_sizes, draft.max_random, seed, n_elements=n_elements, activation=activation
        )
    else:
        values = reader.values(n_elements * count_parameters(layer_sizes), layer_sizes)
        flat = torch.from_numpy(values)[None]
        networks = ElementNetworks.from_flat(flat, layer_sizes, n_elements=n_elements, activation=activation)
    return replace(draft, networks=networks)


def _check_draw(reader: _PotentialLines, count: int) -> None:
    """Refuse to draw more parameters than a network has: nothing in the file speaks for their number."""
    if count > _MAX_DRAWN:
        raise reader.error(f"{_DRAWN}, not {count}")


def save_potential(potential: Potential, path: str | os.PathLike[str], *, member: int = 0) -> None:
    """Write a .nn.dat file with 17 significant digits: float64 parameters survive the round trip bit for bit.

    It is written to a temporary file and renamed, so that a killed process leaves the old file or none.
    """
    values = potential.networks.flat()[member].detach().to("cpu", torch.float64).tolist()
    with atomic_text(path) as file:
        file.write("\n".join(header_lines(potential)) + "\n")
        file.writelines(f" {value: .16e}   0.0000\n" for value in values)


def save_draft(potential: Potential, path: str | os.PathLike[str]) -> None:
    """Write only a header that asks for random parameters, which `load_potential` draws.

    Raises:
        InputError: more parameters than it draws.
    """
    networks = potential.networks
    if networks.n_parameters > _MAX_DRAWN:
        sizes = "-".join(map(str, networks.layer_sizes))
        raise InputError(
            f"{os.fspath(path)}: expected {_DRAWN}, got {networks.n_parameters}: {sizes} for each of "
            f"{potential.descriptor.n_elements} element(s)"
        )
    with atomic_text(path) as file:
        file.write("\n".join(header_lines(potential, randomize=True)) + "\n")
