"""The lines of a potential's header about its networks: layer sizes and baseline.

A .nn.dat file has the baseline first, a `.pinn` file the layer sizes: this order says which of the two forms the
parameters are for, as docs/formats/pinn.md says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.header_lines import HeaderLines, Line
from pyfit_gpu.formats.shared_network import SharedNetwork, input_of_nothing
from pyfit_gpu.formats.text_lines import parse_number
from pyfit_gpu.models.potential import Form, n_bond_order_parameters

N_CLASSIC = n_bond_order_parameters(1)  # numbers on the baseline line of every straight network

OLDER_HEADER = (
    "this looks like an older header without the lines of Legendre orders and bond-order parameters (orders fixed at "
    "0 1 2 4 6, normalisation 16 in mode 1), which this program does not read: write those lines into it"
)
_LAYERS = "layer sizes: their number, then each"
_BARE = "0"  # layers line of a bond-order potential without a network


@dataclass(frozen=True)
class NetworkLines:
    """Content of both lines."""

    sizes: tuple[int, ...]  # layers of each element's own network; (0, N): there is none
    shared: SharedNetwork | None  # network for all elements that the file has instead
    use_baseline: bool
    bond_order_parameters: tuple[float, ...]
    form: Form


def are_layers(cells: Sequence[str]) -> bool:
    """Whether these are layer sizes, and not a baseline: their number, then so many whole numbers above 0."""
    values = [parse_number(cell) for cell in cells]
    if cells[0] == _BARE:
        return values[1:2] in ([], [None])
    if values[0] is None or values[0] != int(values[0]) or not 2 <= values[0] < len(values):
        return False
    count = int(values[0])
    sizes, after = values[1 : count + 1], values[count + 1 : count + 2]
    return all(size is not None and size >= 1 and size == int(size) for size in sizes) and after in ([], [None])


def read_network_lines(
    reader: HeaderLines, descriptor: LocalStructureParameters, *, commented: bool, embedded: bool
) -> NetworkLines:
    """Read the two lines that follow those of the descriptor.

    Args:
        commented: whether the header begins with comments, as a `.pinn` file's.
        embedded: whether it is part of another file, where every element has a network of its own in both forms.
    """
    expected = _baseline_of(1)
    cells = reader.cells(expected)
    first: Line = reader.number, reader.text
    layers_first = commented or are_layers(cells)
    if not layers_first and len(cells) <= 2:  # a parameter of the network where the baseline should be
        raise reader.error(f"{expected} ({OLDER_HEADER})")
    reader.next(expected if layers_first else _LAYERS)
    second: Line = reader.number, reader.text
    layers, baseline = (first, second) if layers_first else (second, first)
    file_sizes = _layer_sizes(reader, layers, descriptor)
    if layers_first and descriptor.n_elements > 1 and file_sizes and not embedded:
        sizes, shared = _shared(reader, descriptor, file_sizes)
    else:
        sizes, shared = _own(reader, descriptor, file_sizes), None
    is_informed = sizes[-1] == n_bond_order_parameters(descriptor.n_elements)
    n_elements = descriptor.n_elements if is_informed else None
    flag, numbers = _baseline(reader, baseline, n_elements, may_be_short=layers_first)
    if not file_sizes and not flag:
        raise reader.error("baseline flag 1: a bond-order potential without a network has its parameters here")
    reader.back_to(layers)  # which a later error is about
    # Form has no meaning for straight networks: they are the same in both files.
    return NetworkLines(sizes, shared, flag, numbers, "plain" if layers_first and is_informed else "squared")


def _layer_sizes(reader: HeaderLines, line: Line, descriptor: LocalStructureParameters) -> tuple[int, ...]:
    """Layer sizes as they stand in the file; empty: there is no network."""
    cells = reader.back_to(line)
    if cells[0] == _BARE and are_layers(cells):
        return ()
    values = reader.counted(cells, _LAYERS)
    if len(values) < 2 or any(value != int(value) or value < 1 for value in values):
        raise reader.error(f"{_LAYERS}, at least two whole numbers above 0")
    return tuple(int(value) for value in values)


def _own(reader: HeaderLines, descriptor: LocalStructureParameters, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Check the layers of one network per element."""
    n_parameters = n_bond_order_parameters(descriptor.n_elements)
    if not sizes:
        return 0, n_parameters
    if sizes[0] != descriptor.n_features:
        raise _wrong_inputs(reader, descriptor, f"{descriptor.n_features} inputs")
    if sizes[-1] not in (1, n_parameters):
        kinds = ""
        if descriptor.n_elements > 1:
            alone = n_bond_order_parameters(1)
            kinds = f" of an atom among {descriptor.n_elements} elements; {alone} are those of an element alone"
        raise reader.error(f"1 output (energy) or {n_parameters} (bond-order parameters{kinds}) as the last layer")
    return sizes


def _shared(
    reader: HeaderLines, descriptor: LocalStructureParameters, sizes: tuple[int, ...]
) -> tuple[tuple[int, ...], SharedNetwork]:
    """Check the layers of one network for several elements; returns those of each element, too."""
    n_elements, n_features = descriptor.n_elements, descriptor.n_features
    n_parameters = n_bond_order_parameters(n_elements)
    if sizes[0] not in (n_features, n_features * n_elements):
        raise _wrong_inputs(reader, descriptor, f"{n_features} inputs (Kind II) or {n_features * n_elements} (Kind I)")
    if sizes[-1] not in (1, n_elements, n_elements * n_parameters):
        raise reader.error(
            f"1 or {n_elements} outputs (energies), or {n_elements * n_parameters} ({n_parameters} bond-order "
            f"parameters for each of {n_elements} elements of the atom) as the last layer"
        )
    n_slices = 1 if sizes[-1] == 1 else n_elements
    own = (n_features, *sizes[1:-1], sizes[-1] // n_slices)
    return own, SharedNetwork(n_elements, own, sizes[0] // n_features, n_slices, input_of_nothing(descriptor))


def _wrong_inputs(reader: HeaderLines, descriptor: LocalStructureParameters, inputs: str) -> InputError:
    more = f", c {descriptor.cross_terms}, {len(descriptor.triples)} triples" if descriptor.mode.more_terms else ""
    return reader.error(
        f"{inputs} as the first layer ({descriptor.n_elements} element(s), {len(descriptor.legendre_orders)} Legendre "
        f"orders, {len(descriptor.gaussian_centers)} Gaussian centres{more})"
    )


def _baseline(
    reader: HeaderLines, line: Line, n_elements: int | None, *, may_be_short: bool
) -> tuple[bool, tuple[float, ...]]:
    """Baseline flag and bond-order parameters.

    Args:
        n_elements: None: of a straight network, for which the parameters have no meaning.
        may_be_short: whether a straight network may have fewer than the classic program writes.
    """
    cells = reader.back_to(line)
    expected = _baseline_of(n_elements or 1)
    flag = reader.integer_at(cells, 0, expected)
    if flag not in (0, 1):
        raise reader.error(f"baseline flag 0 or 1 ({OLDER_HEADER})")
    numbers = [float(cell) for cell in takewhile(lambda cell: parse_number(cell) is not None, cells[1:])]
    if n_elements is None:
        if len(numbers) < N_CLASSIC and not may_be_short:
            raise reader.error(expected)
        numbers += [0.0] * (N_CLASSIC - len(numbers))
    elif len(numbers) != n_elements * n_bond_order_parameters(n_elements):
        next_cell = "".join(f" before '{cell}'" for cell in cells[1 + len(numbers) :][:1])  # a comment, nan, 1.0D+00
        raise reader.error(f"{expected}, not {len(numbers)} of them{next_cell}")
    return flag == 1, tuple(numbers)


def _baseline_of(n_elements: int) -> str:
    each = n_bond_order_parameters(n_elements)
    of_each = f" ({each} of each element of the atom)" if n_elements > 1 else ""
    return f"the baseline flag and {n_elements * each} bond-order parameters{of_each}"
