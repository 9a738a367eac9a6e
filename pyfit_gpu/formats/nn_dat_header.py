"""Header of classic potential files, `.nn.dat` (docs/formats/nn_dat.md): all of a potential but its parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain

import torch
from ase.data import atomic_numbers as ATOMIC_NUMBERS

from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.descriptors.modes import GI_MODES
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.text_lines import NumberedLines, parse_number
from pyfit_gpu.models.networks import ElementNetworks, count_parameters
from pyfit_gpu.models.potential import Potential, n_bond_order_parameters

N_HEADER_LINES = 8  # for one element; one more per further element

_MAX_PARAMETERS = 10**12  # beyond any memory, and a typing error

_N_PARAMETERS = n_bond_order_parameters(1)

_UNTRAINED = "- untrained"  # comment of an element whose parameters are random

_OLDER_HEADER = (
    "this looks like an older header without the lines of Legendre orders and bond-order parameters (orders fixed at "
    "0 1 2 4 6, normalisation 16 in mode 1), which this program does not read: write those lines into it"
)


def parse_header(numbered: Iterable[tuple[int, str]], name: str) -> Potential:
    """Parse a header to a potential without parameters, from its lines with their numbers in a file called `name`."""
    return read_header(HeaderLines(numbered, name))[0]


class HeaderLines(NumberedLines):
    """The lines of a potential's header; remembers which line gives which setting."""

    def __init__(self, numbered: Iterable[tuple[int, str]], name: str) -> None:
        super().__init__(numbered, name, "a potential (.nn.dat)")
        self.line_of: dict[str, int] = {}  # settings by name

    def cells(self, expected: str, *settings: str) -> list[str]:
        """Cells of the next line, which gives these settings."""
        cells = self.next(expected).split()
        self.line_of |= dict.fromkeys(settings, self.number)
        return cells

    def number_at(self, cells: Sequence[str], place: int, expected: str) -> float:
        value = parse_number(cells[place]) if place < len(cells) else None
        if value is None:
            raise self.error(expected)
        return value

    def integer_at(self, cells: Sequence[str], place: int, expected: str) -> int:
        value = self.number_at(cells, place, expected)
        if value != int(value):
            raise self.error(expected)
        return int(value)

    def counted(self, expected: str, *settings: str) -> list[float]:
        """Numbers of a line `n v_1 .. v_n`."""
        cells = self.cells(expected, *settings)
        count = self.integer_at(cells, 0, expected)
        if count < 1:
            raise self.error(expected)
        return [self.number_at(cells, 1 + k, f"{expected}: {count} numbers after the first") for k in range(count)]


def read_header(reader: HeaderLines) -> tuple[Potential, bool]:
    """Read the header as a draft without parameters, and whether these are to be drawn.

    Raises:
        InputError: with file, line, what was expected and what was found.
    """
    try:
        return _parse(reader)
    except InputError as error:
        if error.where:
            raise
        # The checks of descriptor and networks do not know the file.
        line = reader.line_of.get(error.setting)
        raise error.at(reader.name if line is None else f"{reader.name}, line {line}") from error


def _parse(reader: HeaderLines) -> tuple[Potential, bool]:
    mode_line = "gi_mode, shift and activation"
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
    centers = tuple(reader.counted("Gaussian centres r0: their number, then each", "gaussian_centers"))
    use_baseline, baseline = _baseline(reader)
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
    layer_sizes = _layer_sizes(reader, descriptor)
    count = n_elements * count_parameters(layer_sizes)
    if count > _MAX_PARAMETERS:
        fault = f"expected {count} weights and biases for such layers, found {sum(1 for _ in reader.left)}"
        raise InputError(f"{reader.name}: {fault}", where=reader.name)
    # Only shapes so far: a tensor on the meta device takes no memory, whatever the header asks for.
    empty = torch.empty(1, count, dtype=torch.float64, device="meta")
    draft = Potential(
        descriptor=descriptor,
        networks=ElementNetworks.from_flat(empty, layer_sizes, n_elements=n_elements, activation=activation),
        masses=masses,
        max_random=max_random,
        use_baseline=use_baseline,
        bond_order_parameters=baseline,
        energy_shift=torch.tensor(shifts, dtype=torch.float64),
        untrained=tuple(symbol for symbol, is_trained in zip(elements, trained, strict=True) if not is_trained),
    )
    return draft, randomize


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
    values = reader.counted(expected, "legendre_orders", "cross_terms", "triples")
    if any(value != int(value) for value in values):
        # The older header has the Gaussian centres here, in Å.
        raise reader.error("Legendre orders, whole numbers", f"{reader.text.strip()[:60]}'; {_OLDER_HEADER}; 'r0")
    orders = tuple(int(value) for value in values)
    if not has_more:
        return orders, 0, ()
    cells, start = reader.text.split(), 1 + len(orders)
    cross_terms = reader.integer_at(cells, start, f"{expected}, then c, the greatest distance of two Gaussians")
    expected = "after c the number of triples, then three Legendre orders of each, whole numbers"
    count = reader.integer_at(cells, start + 1, expected)
    end = start + 2 + 3 * count
    if count < 0 or end > len(cells) or (end < len(cells) and parse_number(cells[end]) is not None):
        raise reader.error(f"{expected}: {3 * max(count, 0)} for {count} triples")
    numbers = [reader.integer_at(cells, place, expected) for place in range(start + 2, end)]
    return orders, cross_terms, tuple(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))


def _baseline(reader: HeaderLines) -> tuple[bool, tuple[float, ...]]:
    expected = f"the baseline flag and {_N_PARAMETERS} bond-order parameters"
    cells = reader.cells(expected)
    if len(cells) <= 2:  # a parameter of the network where this line should be
        raise reader.error(f"{expected} ({_OLDER_HEADER})")
    flag = reader.integer_at(cells, 0, expected)
    if flag not in (0, 1):
        raise reader.error(f"baseline flag 0 or 1 ({_OLDER_HEADER})")
    return flag == 1, tuple(reader.number_at(cells, 1 + k, expected) for k in range(_N_PARAMETERS))


def _layer_sizes(reader: HeaderLines, descriptor: LocalStructureParameters) -> tuple[int, ...]:
    expected = "layer sizes: their number, then each"
    values = reader.counted(expected)
    if len(values) < 2 or any(value != int(value) or value < 1 for value in values):
        raise reader.error(f"{expected}, at least two whole numbers above 0")
    sizes = tuple(int(value) for value in values)
    if sizes[0] != descriptor.n_features:
        more = f", c {descriptor.cross_terms}, {len(descriptor.triples)} triples" if descriptor.mode.more_terms else ""
        raise reader.error(
            f"{descriptor.n_features} inputs as the first layer ({descriptor.n_elements} element(s), "
            f"{len(descriptor.legendre_orders)} Legendre orders, {len(descriptor.gaussian_centers)} "
            f"Gaussian centres{more})"
        )
    if sizes[-1] not in (1, _N_PARAMETERS):
        raise reader.error(f"1 output (energy) or {_N_PARAMETERS} (bond-order parameters) as the last layer")
    return sizes


def header_lines(potential: Potential, *, randomize: bool = False) -> list[str]:
    """Lines of the header. Comments are on the first four lines only, as the classic program requires.

    Args:
        randomize: whether the header asks for random parameters on loading.
    """
    descriptor = potential.descriptor

    def number(value: float) -> str:
        return repr(float(value))  # the shortest digits that come back bit for bit

    lines = [
        f" {descriptor.gi_mode} {number(descriptor.shift)} {potential.networks.activation}"
        " - Gi version, reference Gi and type of logistic function.",
        f" {descriptor.n_elements} - number of chemical species in the system.",
    ]
    shifts = potential.energy_shift.tolist()
    for symbol, mass, shift in zip(descriptor.elements, potential.masses, shifts, strict=True):
        comment = "" if math.isnan(shift) else f" - e_shift {number(shift)}"
        if symbol in potential.untrained:
            comment += f" {_UNTRAINED}"
        lines.append(f" {symbol} {number(mass)}{comment}")
    lengths = (potential.max_random, descriptor.cutoff, descriptor.cutoff_width, descriptor.gaussian_width)
    lines.append(f" {int(randomize)} " + " ".join(map(number, lengths)))
    angular = [len(descriptor.legendre_orders), *descriptor.legendre_orders]
    if descriptor.mode.more_terms:
        angular += [descriptor.cross_terms, len(descriptor.triples), *chain.from_iterable(descriptor.triples)]
    lines.append(" ".join(map(str, ("", *angular))))
    lines.append(f" {len(descriptor.gaussian_centers)} " + " ".join(map(number, descriptor.gaussian_centers)))
    lines.append(f" {int(potential.use_baseline)} " + " ".join(map(number, potential.bond_order_parameters)))
    sizes = potential.networks.layer_sizes
    lines.append(" ".join(map(str, ("", len(sizes), *sizes))))
    return lines
