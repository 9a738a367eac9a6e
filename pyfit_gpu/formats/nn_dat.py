"""Files of potentials: the classic `.nn.dat` and `.pinn` (docs/formats/nn_dat.md, pinn.md)."""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import dropwhile, islice

import numpy as np
import torch
from torch import Tensor

from pyfit_gpu.errors import InputError
from pyfit_gpu.files import atomic_text
from pyfit_gpu.formats.compressed import reading
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.header_lines import HeaderLines
from pyfit_gpu.formats.network_lines import are_layers
from pyfit_gpu.formats.nn_dat_header import Header, header_lines, read_header
from pyfit_gpu.formats.shared_network import SharedNetwork, input_of_nothing, joined
from pyfit_gpu.formats.text_lines import NO_LINE_END, WITNESSES, Lines, may_be_cut
from pyfit_gpu.log import log
from pyfit_gpu.models.networks import ElementNetworks, Seed, count_parameters, draw_parameters
from pyfit_gpu.models.potential import Potential

NN_DAT_ENDING = ".nn.dat"
PINN_ENDING = ".pinn"

_SEVERAL = (
    "such a file has one network for all elements, with the same hidden layers and a slice of the outputs for each "
    "(.nn.dat files, in squared form, have a network per element)"
)
_OWN_COMMENT = "written by pyfit-gpu"
_MAX_DRAWN = 10**7  # random parameters
_DRAWN = f"layers with at most {_MAX_DRAWN} random weights and biases together"


def load_potential(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    seed: Seed = None,
) -> Potential:
    """Read a .nn.dat or .pinn file. Where its header asks for random parameters, they are drawn with `seed`.

    Raises:
        InputError: with file, line, what was expected and what was found.
    """
    with _reading(path) as reader:
        return _parse_potential(reader, seed).to(device, dtype)


def looks_like_potential(head: Head) -> bool:
    """Whether the first three lines look like a header's: gi_mode, shift, activation; elements; symbol and mass."""
    return _begin_a_header(head.lines)


def looks_like_pinn(head: Head) -> bool:
    """Whether it looks like a `.pinn` file: comments before a header, or layer sizes before the baseline."""
    lines = list(dropwhile(lambda line: line.startswith("#"), head.lines))
    if not _begin_a_header(lines):
        return False
    if len(lines) < len(head.lines):
        return True
    count = re.match(r"\d{1,4}\b", lines[1])
    place = 5 + int(count[0]) if count else len(lines)
    return place < len(lines) and are_layers(lines[place].split())


def _begin_a_header(lines: Sequence[str]) -> bool:
    number = r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?"
    patterns = (rf"\d+\s+{number}\s+\d+\b.*", r"\d+\b.*", rf"['\"]?[A-Z][a-z]?['\"]?\s+{number}.*")
    return len(lines) >= 3 and all(re.match(pattern, line) for pattern, line in zip(patterns, lines[:3], strict=True))


def load_header(path: str | os.PathLike[str]) -> Header:
    """Read the header of a potential's file."""
    with _reading(path) as reader:
        return read_header(reader)


def asks_for_random_weights(path: str | os.PathLike[str]) -> bool:
    """Whether the header of a potential's file says that the parameters are to be drawn."""
    return load_header(path).randomize


@contextlib.contextmanager
def _reading(path: str | os.PathLike[str]) -> Iterator[_PotentialLines]:
    with reading(path, kind="a potential (.nn.dat, .pinn)", decompress=False) as file:
        yield _PotentialLines(Lines(file), os.fspath(path))


class _PotentialLines(HeaderLines):
    """The lines of a file: header and parameters."""

    def __init__(self, lines: Lines, name: str) -> None:
        super().__init__(lines.numbered(), name)
        self.lines = lines

    def values(self, count: int, layer_sizes: Sequence[int]) -> np.ndarray:
        sizes = " ".join(str(size) for size in layer_sizes) or "0 (no network)"
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
    header = read_header(reader)
    draft, shared = header.draft, header.shared
    layer_sizes = draft.networks.layer_sizes if shared is None else shared.file_sizes
    count = count_parameters(layer_sizes) * (draft.descriptor.n_elements if shared is None else 1)
    if header.randomize:
        _check_draw(reader, count)
        # The numbers that may follow are the classic program's last draw, and are not needed.
        flat = draw_parameters(count, draft.max_random, seed)
    elif draft.is_bare:
        reader.values(0, ())
        if reader.lines.at_open_end:
            raise reader.error(NO_LINE_END)
        flat = torch.zeros(1, count, dtype=torch.float64)  # added to the baseline
    else:
        flat = torch.from_numpy(reader.values(count, layer_sizes))[None]
    if shared is not None:
        _warn_of_blocks(reader.name, header)
        flat = shared.split(flat)
    return replace(draft, networks=draft.networks.with_flat(flat))


def _warn_of_blocks(name: str, header: Header) -> None:
    """Say that the features of several elements are ours: there is no potential of others to compare them with."""
    if not any(_OWN_COMMENT in comment for comment in header.comments):
        log.warning(
            "%s: the features of %d elements are computed by this program's own convention (docs/theory.md); whether "
            "it is that of the program that made this file could not be verified",
            name,
            header.draft.descriptor.n_elements,
        )


def _check_draw(reader: _PotentialLines, count: int) -> None:
    """Refuse to draw more parameters than a network has: nothing in the file speaks for their number."""
    if count > _MAX_DRAWN:
        raise reader.error(f"{_DRAWN}, not {count}")


def ending_of(potential: Potential) -> str:
    """The ending that the name of the potential's file must have, `.nn.dat` or `.pinn`."""
    return PINN_ENDING if potential.is_physically_informed and potential.form == "plain" else NN_DAT_ENDING


def check_form(potential: Potential, path: str | os.PathLike[str], *, trained: bool = False) -> None:
    """Refuse to write a potential to a file of the other form: readers would take its parameters for others.

    Args:
        trained: whether its parameters change before, each element's in a way of its own.

    Raises:
        InputError: with the name that is expected.
    """
    name = os.fspath(path)
    is_plain, layers_first = potential.form == "plain", name.endswith(PINN_ENDING)
    if potential.is_physically_informed and is_plain != layers_first:
        other = "squared" if is_plain else "plain"
        raise InputError(
            f"{name}: cannot hold {potential.kind}: files of this name have a and lambda in {other} form: expected a "
            f"name that ends in {ending_of(potential)}"
        )
    if trained and layers_first and potential.descriptor.n_elements > 1 and not potential.is_bare:
        raise InputError(f"{name}: cannot hold what a training makes of {potential.kind}: {_SEVERAL}")


def save_potential(potential: Potential, path: str | os.PathLike[str], *, member: int = 0) -> None:
    """Write a .nn.dat or .pinn file with 17 significant digits: float64 parameters survive the round trip bit for bit.

    It is written to a temporary file and renamed, so that a killed process leaves the old file or none.

    Raises:
        InputError: a name of files of the other form, or a `.pinn` file of several elements whose networks are not
            one network for all.
    """
    check_form(potential, path)
    name, reserved = os.fspath(path), "   0.0000"
    networks = potential.networks.member(member).to("cpu", torch.float64)
    flat, sizes = networks.flat().detach(), networks.layer_sizes
    comments: list[str] = []
    if potential.is_bare:
        potential, flat = _with_biases_in_baseline(potential, flat), flat[:, :0]
    elif name.endswith(PINN_ENDING):
        reserved = ""
        if potential.descriptor.n_elements > 1:
            flat, sizes = _for_all_elements(potential, networks, name)
    if name.endswith(PINN_ENDING):
        comments = _comments(potential)
    lines = header_lines(potential, layers_first=bool(comments), layer_sizes=sizes)
    with atomic_text(path) as file:
        file.write("\n".join([*comments, *lines]) + "\n")
        file.writelines(f" {value: .16e}{reserved}\n" for value in flat[0].tolist())


def _comments(potential: Potential) -> list[str]:
    """Three lines, as readers of `.pinn` files expect."""
    return [f"# {' '.join(potential.descriptor.elements)}: {potential.kind}", f"# {_OWN_COMMENT}", "#"]


def _with_biases_in_baseline(potential: Potential, biases: Tensor) -> Potential:
    """The same bare potential with all of its parameters in the baseline."""
    parameters = biases[0]
    if potential.use_baseline:
        parameters = parameters + potential.baseline.flatten()
    return replace(potential, use_baseline=True, bond_order_parameters=tuple(parameters.tolist()))


def _for_all_elements(potential: Potential, networks: ElementNetworks, name: str) -> tuple[Tensor, tuple[int, ...]]:
    found = joined(networks, input_of_nothing(potential.descriptor))
    if found is None:
        raise InputError(f"{name}: cannot hold {potential.kind} whose elements have networks of their own: {_SEVERAL}")
    return found[1], found[0].file_sizes


def save_draft(potential: Potential, path: str | os.PathLike[str]) -> None:
    """Write only a header that asks for random parameters, which `load_potential` draws.

    Raises:
        InputError: more parameters than it draws, or a name of files of the other form.
    """
    check_form(potential, path)
    networks, name = potential.networks, os.fspath(path)
    comments, sizes = [], networks.layer_sizes
    if networks.n_parameters > _MAX_DRAWN:
        raise InputError(
            f"{name}: expected {_DRAWN}, got {networks.n_parameters}: {'-'.join(map(str, sizes))} for each of "
            f"{potential.descriptor.n_elements} element(s)"
        )
    if name.endswith(PINN_ENDING):
        comments = _comments(potential)
        if networks.n_elements > 1:
            sizes = SharedNetwork(networks.n_elements, sizes, 1, networks.n_elements, 0.0).file_sizes
    lines = header_lines(potential, randomize=True, layers_first=bool(comments), layer_sizes=sizes)
    with atomic_text(path) as file:
        file.write("\n".join([*comments, *lines]) + "\n")
