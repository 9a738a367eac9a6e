"""Header of potential files (docs/formats/nn_dat.md, pinn.md): all of a potential but its parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from ase.data import atomic_numbers as ATOMIC_NUMBERS

from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.descriptors.modes import GI_MODES
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.header_lines import HeaderLines, Line
from pyfit_gpu.formats.network_lines import OLDER_HEADER, read_network_lines
from pyfit_gpu.formats.shared_network import SharedNetwork
from pyfit_gpu.formats.text_lines import parse_number
from pyfit_gpu.models.networks import ElementNetworks, count_parameters
from pyfit_gpu.models.potential import Potential

N_HEADER_LINES = 8  # for one element; one more per further element

_MAX_PARAMETERS = 10**12  # beyond any memory, and a typing error

_UNTRAINED = "- untrained"  # comment of an element whose parameters are random


@dataclass(frozen=True, eq=False)
class Header:
    """Content of a header."""

    draft: Potential  # without parameters
    randomize: bool  # whether these are to be drawn
    shared: SharedNetwork | None  # network for all elements that the values are of; None: one per element
    comments: tuple[str, ...]  # lines before the first one


def parse_header(numbered: Iterable[Line], name: str) -> Potential:
    """Parse a header that `header_lines` made to a potential without parameters.

    Args:
        numbered: lines with their numbers, in a file called `name`.
    """
    return read_header(HeaderLines(numbered, name), embedded=True).draft


def read_header(reader: HeaderLines, *, embedded: bool = False) -> Header:
    """Read a header.

    Args:
        embedded: whether it is part of another file, where every element has a network of its own.

    Raises:
        InputError: with file, line, what was expected and what was found.
    """
    try:
        return _parse(reader, embedded=embedded)
    except InputError as error:
        if error.where:
            raise
        # The checks of descriptor and networks do not know the file.
        line = reader.line_of.get(error.setting)
        raise error.at(reader.name if line is None else f"{reader.name}, line {line}") from error


def _parse(reader: HeaderLines, *, embedded: bool) -> Header:
    comments = []
    mode_line = "gi_mode, shift and activation"
    cells = reader.cells(mode_line, "gi_mode", "shift", "activation")
    while cells[0].startswith("#"):
        comments.append(reader.text.strip())
        cells = reader.cells(mode_line, "gi_mode", "shift", "activation")
    gi_mode = reader.integer_at(cells, 0, mode_line)
    shift = reader.number_at(cells, 1, mode_line)
    activation = reader.integer_at(cells, 2, mode_line)
    n_elements = reader.integer_at(reader.cells("the number of elements"), 0, "the number of elements")
    if n_elements < 1:
        raise reader.error("a number of elements above 0")
    elements, masses, shifts, trained = zip(*(_element(reader) for _ in range(n_elements)), strict=True)

    randomize, max_random, (cutoff, cutoff_width, gaussian_width) = _draw_and_lengths(reader)
    orders, cross_terms, triples = _angular_terms(reader, gi_mode)
    expected = "Gaussian centres r0: their number, then each"
    centers = tuple(reader.counted(reader.cells(expected, "gaussian_centers"), expected))
    descriptor = LocalStructureParameters(
        elements=elements,
        gi_mode=gi_mode,
        shift=shift,
        cutoff=cutoff,
        cutoff_width=cutoff_width,
        gaussian_width=gaussian_width,
        legendre_orders=orders,
        gaussian_centers=centers,
        cross_terms=cross_terms,
        triples=triples,
    )
    networks = read_network_lines(reader, descriptor, commented=bool(comments), embedded=embedded)
    draft = Potential(
        descriptor=descriptor,
        networks=_shapes(reader, networks.sizes, n_elements, activation),
        masses=masses,
        max_random=max_random,
        use_baseline=networks.use_baseline,
        bond_order_parameters=networks.bond_order_parameters,
        energy_shift=torch.tensor(shifts, dtype=torch.float64),
        untrained=tuple(symbol for symbol, is_trained in zip(elements, trained, strict=True) if not is_trained),
        form=networks.form,
    )
    return Header(draft, randomize, networks.shared, tuple(comments))


def _shapes(reader: HeaderLines, sizes: Sequence[int], n_elements: int, activation: int) -> ElementNetworks:
    """Networks without numbers: a tensor on the meta device takes no memory, whatever the header asks for."""
    count = n_elements * count_parameters(sizes)
    if count > _MAX_PARAMETERS:
        fault = f"expected {count} weights and biases for such layers, found {sum(1 for _ in reader.left)}"
        raise InputError(f"{reader.name}: {fault}", where=reader.name)
    empty = torch.empty(1, count, dtype=torch.float64, device="meta")
    return ElementNetworks.from_flat(empty, sizes, n_elements=n_elements, activation=activation)


def _element(reader: HeaderLines) -> tuple[str, float, float, bool]:
    """Symbol, mass and energy shift of an element, NaN where no comment says it, and whether it may be trained."""
    expected = "an element symbol and its mass"
    cells = reader.cells(expected, "elements")
    symbol = cells[0].strip("'\"")
    if ATOMIC_NUMBERS.get(symbol, 0) == 0:
        raise reader.error("an element symbol and its mass")
    mass = reader.number_at(cells, 1, expected)
    shift = math.nan
    if "e_shift" in cells:
        shift = reader.number_at(cells, cells.index("e_shift") + 1, "a number after e_shift")
    return symbol, mass, shift, _UNTRAINED not in " ".join(cells)


def _draw_and_lengths(reader: HeaderLines) -> tuple[bool, float, list[float]]:
    """Whether parameters are to be drawn, from what range, and three lengths in Å."""
    expected = "randomize, max_random, rc, d and sigma"
    cells = reader.cells(expected, "cutoff", "cutoff_width", "gaussian_width")
    randomize = reader.integer_at(cells, 0, expected)
    max_random, *lengths = (reader.number_at(cells, k, expected) for k in (1, 2, 3, 4))
    if randomize not in (0, 1):
        raise reader.error("randomize 0 or 1")
    if max_random < 0:
        raise reader.error("max_random: a number >= 0")
    return randomize == 1, max_random, lengths


def _angular_terms(reader: HeaderLines, gi_mode: int) -> tuple[tuple[int, ...], int, tuple[tuple[int, int, int], ...]]:
    """Legendre orders and, in a mode that has more terms, the number of cross terms and the triples of orders."""
    expected = "Legendre orders: their number, then each"
    has_more = gi_mode in GI_MODES and GI_MODES[gi_mode].more_terms
    cells = reader.cells(expected, "legendre_orders", "cross_terms", "triples")
    values = reader.counted(cells, expected)
    if any(value != int(value) for value in values):
        # The older header has the Gaussian centres here, in Å.
        raise reader.error("Legendre orders, whole numbers", f"{reader.text.strip()[:60]}'; {OLDER_HEADER}; 'r0")
    orders = tuple(int(value) for value in values)
    if not has_more:
        return orders, 0, ()
    start = 1 + len(orders)
    cross_terms = reader.integer_at(cells, start, f"{expected}, then c, the greatest distance of two Gaussians")
    expected = "after c the number of triples, then three Legendre orders of each, whole numbers"
    count = reader.integer_at(cells, start + 1, expected)
    end = start + 2 + 3 * count
    if count < 0 or end > len(cells) or (end < len(cells) and parse_number(cells[end]) is not None):
        raise reader.error(f"{expected}: {3 * max(count, 0)} for {count} triples")
    numbers = [reader.integer_at(cells, place, expected) for place in range(start + 2, end)]
    return orders, cross_terms, tuple(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))


def header_lines(
    potential: Potential,
    *,
    randomize: bool = False,
    layers_first: bool | None = None,
    layer_sizes: Sequence[int] | None = None,
) -> list[str]:
    """Lines of the header. Comments are on the first four lines only, as the classic program requires.

    Args:
        randomize: whether the header asks for random parameters on loading.
        layers_first: whether layer sizes come before the baseline, as in a `.pinn` file; None: in plain form.
        layer_sizes: None: those of the potential.
    """
    descriptor = potential.descriptor
    lines = [
        f" {descriptor.gi_mode} {_number(descriptor.shift)} {potential.networks.activation}"
        " - Gi version, reference Gi and type of logistic function.",
        f" {descriptor.n_elements} - number of chemical species in the system.",
    ]
    shifts = potential.energy_shift.tolist()
    for symbol, mass, shift in zip(descriptor.elements, potential.masses, shifts, strict=True):
        comment = "" if math.isnan(shift) else f" - e_shift {_number(shift)}"
        if symbol in potential.untrained:
            comment += f" {_UNTRAINED}"
        lines.append(f" {symbol} {_number(mass)}{comment}")
    lengths = (potential.max_random, descriptor.cutoff, descriptor.cutoff_width, descriptor.gaussian_width)
    lines.append(f" {int(randomize)} " + " ".join(map(_number, lengths)))
    angular = [len(descriptor.legendre_orders), *descriptor.legendre_orders]
    if descriptor.mode.more_terms:
        angular += [descriptor.cross_terms, len(descriptor.triples), *chain.from_iterable(descriptor.triples)]
    lines.append(" ".join(map(str, ("", *angular))))
    lines.append(f" {len(descriptor.gaussian_centers)} " + " ".join(map(_number, descriptor.gaussian_centers)))
    baseline = f" {int(potential.use_baseline)} " + " ".join(map(_number, potential.bond_order_parameters))
    sizes = potential.networks.layer_sizes if layer_sizes is None else layer_sizes
    layers = " 0" if potential.is_bare else " ".join(map(str, ("", len(sizes), *sizes)))
    if layers_first is None:
        layers_first = potential.is_physically_informed and potential.form == "plain"
    return [*lines, *((layers, baseline) if layers_first else (baseline, layers))]


def _number(value: float) -> str:
    return repr(float(value))  # the shortest digits that come back bit for bit
