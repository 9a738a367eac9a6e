"""Independent reference for the tests: the sums over pairs exactly as the formulas are written, in plain NumPy.

Nothing here is shared with the package, and nothing here is clever: periodic images and neighbours are Python loops,
the features are double sums over pairs (no spherical harmonics) and, for four-body terms, triple sums over neighbours
with SymPy's Wigner symbols; the files have small readers of their own. Slow, float64 only.

Units: eV and Å. A structure is any object with `positions` (n, 3), `cell` (3, 3) with the vectors in rows, `pbc` (3,)
and `symbols` (n strings): the dataclass `Structure` below, or an `ase.Atoms`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.polynomial.legendre import legvander
from scipy.special import lpmv
from sympy.physics.wigner import wigner_3j

Layer = tuple[np.ndarray, np.ndarray]  # weight (n_out, n_in), bias (n_out,)

# gi_mode: (LSP cutoff / rc, N_n of a Gaussian centre r0 (Å), network input made of G and shift)
MODES = {
    0: (1.0, lambda r0: 16.0, lambda g, shift: g + shift),
    1: (1.0, lambda r0: r0**2, lambda g, shift: np.log(g + shift)),
    2: (1.5, lambda r0: r0**2, lambda g, shift: np.arcsinh(g + shift)),
    3: (1.5, lambda r0: r0**2, lambda g, shift: g + shift),
    4: (1.5, lambda r0: r0**2, lambda g, shift: np.log(g + shift)),
    5: (1.0, lambda r0: r0**2, lambda g, shift: np.arcsinh(g)),
    6: (1.0, lambda r0: r0**2, lambda g, shift: np.arcsinh(g)),
}


@dataclass(frozen=True)
class Structure:
    """Atoms in a cell; energy and forces are None where a file has none."""

    positions: np.ndarray  # (n, 3) Å
    cell: np.ndarray  # (3, 3) Å, vectors in rows
    pbc: np.ndarray  # (3,) bool
    symbols: list[str]  # n
    label: str = ""
    energy: float | None = None  # eV, of the whole structure
    forces: np.ndarray | None = None  # (n, 3) eV/Å


def neighbor_vectors(
    positions: np.ndarray, cell: np.ndarray, pbc: Sequence[bool], cutoff: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each atom the vectors (K, 3) in Å to all atoms and images with 0 < r < cutoff, and their indices (K,).

    With c_a the periodic cell vectors and g_a their dual basis (g_a . c_b = delta_ab), an image n of atom j stands at
    r = r_j - r_i + sum_a n_a c_a, so g_a . r = s_a + n_a with s_a = g_a . (r_j - r_i). As |g_a . r| <= |g_a| |r| and
    |g_a| = 1 / h_a (h_a is the spacing of the lattice planes), every image within the cutoff has
    -s_a - cutoff / h_a <= n_a <= -s_a + cutoff / h_a. s_a is taken per pair, so atoms outside the cell need no
    wrapping. Cell vectors of non-periodic directions are not used and may be zero.
    """
    positions = np.asarray(positions, dtype=np.float64)
    lattice = np.asarray(cell, dtype=np.float64)[np.asarray(pbc, dtype=bool)]  # (p, 3) periodic cell vectors only
    dual = np.linalg.pinv(lattice)  # (3, p): columns g_a; the inverse of the cell if all three directions are periodic
    reach = cutoff * np.linalg.norm(dual, axis=0)  # (p,) cutoff / h_a
    neighbors = []
    for i in range(len(positions)):
        vectors, indices = [], []
        for j in range(len(positions)):
            difference = positions[j] - positions[i]
            s = difference @ dual
            ranges = [range(math.floor(-x - w), math.ceil(-x + w) + 1) for x, w in zip(s, reach, strict=True)]
            for image in itertools.product(*ranges):
                if i == j and not any(image):
                    continue  # the atom itself
                vector = difference + np.array(image, dtype=np.float64) @ lattice
                if 0.0 < math.sqrt(vector @ vector) < cutoff:
                    vectors.append(vector)
                    indices.append(j)
        neighbors.append((np.array(vectors).reshape(-1, 3), np.array(indices, dtype=np.int64)))
    return neighbors


def cutoff_function(r: np.ndarray, cutoff: float, d: float) -> np.ndarray:
    """fc(r) = (r - cutoff)^4 / (d^4 + (r - cutoff)^4) below the cutoff, else 0; all in Å, any shape."""
    x = (r - cutoff) ** 4
    return np.where(r < cutoff, x / (d**4 + x), 0.0)


def lsp(
    vectors: np.ndarray,
    kinds: np.ndarray,
    n_elements: int,
    gi_mode: int,
    shift: float,
    rc: float,
    d: float,
    sigma: float,
    legendre_orders: Sequence[int],
    r0: Sequence[float],
    cross_terms: int = 0,
    triples: Sequence[tuple[int, int, int]] = (),
) -> np.ndarray:
    """The network's inputs of one atom, after shift, logarithm or asinh: (S (S + 1) / 2 * n_l * n_r0,), S = n_elements.

    G^ab_ln = (2 - delta_ab) / N_n * sum_{j of element a} sum_{k of element b} f_n(r_j) f_n(r_k) P_l(cos theta_jk)
    with f_n(r) = exp(-((r - r0_n) / sigma)^2) fc(r), over ordered pairs and including j = k. Order: element pairs
    11, 12, .., 22, .. outermost, then l, then r0. In mode 6, instead of r0, first all r0_n with themselves, then all
    neighbours r0_n, r0_n+1, up to the distance `cross_terms`: f_n(r_j) f_n'(r_k) over sqrt(N_n N_n'), for both ways
    round divided by 2. After all of these come the four-body terms, see `four_body`.

    vectors: (K, 3) Å to the neighbours; kinds: (K,) their element indices. Vectors up to 1.5 rc are needed in modes 3
    and 4, up to rc in the others; longer ones count nothing. rc, d, sigma, r0: Å.
    """
    cutoff_factor, norm, network_input = MODES[gi_mode]
    vectors = np.asarray(vectors, dtype=np.float64).reshape(-1, 3)
    kinds = np.asarray(kinds)
    centers = np.asarray(r0, dtype=np.float64)
    orders = list(legendre_orders)
    r = np.sqrt((vectors**2).sum(axis=1))  # (K,)
    unit = vectors / r[:, None]  # (K, 3)
    fc = cutoff_function(r, cutoff_factor * rc, d)  # (K,)
    f = np.exp(-(((r[:, None] - centers) / sigma) ** 2)) * fc[:, None]  # (K, n_r0)
    blocks = []
    for a in range(n_elements):
        for b in range(a, n_elements):
            total = np.zeros((len(orders), len(centers), len(centers)))
            in_b = kinds == b
            for j in np.flatnonzero(kinds == a):
                cosines = unit[in_b] @ unit[j]  # (K_b,)
                legendre = legvander(cosines, max(orders))[:, orders]  # (K_b, n_l)
                total += np.einsum("kl,n,km->lnm", legendre, f[j], f[in_b])  # sum over k of element b
            total = (1.0 if a == b else 2.0) * (total + total.transpose(0, 2, 1)) / 2
            total /= np.sqrt(np.outer(norm(centers), norm(centers)))
            by_distance = [np.diagonal(total, k, axis1=1, axis2=2) for k in range(cross_terms + 1)]
            blocks.append(np.concatenate(by_distance, axis=1).reshape(-1))
    blocks += four_body(unit, f / np.sqrt(norm(centers)), kinds, n_elements, triples)
    return network_input(np.concatenate(blocks), shift)


def four_body(
    unit: np.ndarray, f: np.ndarray, kinds: np.ndarray, n_elements: int, triples: Sequence[tuple[int, int, int]]
) -> list[np.ndarray]:
    """The four-body terms of mode 6, (n_r0,) for each three elements a <= b <= c and for each of these each triple.

    sum_j sum_k sum_i f_n(r_j) f_n(r_k) f_n(r_i) B(u_j, u_k, u_i) over all neighbours whose elements are a, b and c in
    any order, each combination of three neighbours once for every place that it can stand in. B is an invariant of
    three directions, with f divided by sqrt(N_n).

    unit: (K, 3); f: (K, n_r0).
    """
    angular = [np.einsum("jn,kn,in,jki->njki", f, f, f, invariant(unit, triple)) for triple in triples]
    result = []
    for elements in itertools.combinations_with_replacement(range(n_elements), 3):
        inside = np.zeros((len(kinds),) * 3, dtype=bool)
        for places in set(itertools.permutations(elements)):
            of_place = [kinds == element for element in places]
            inside |= of_place[0][:, None, None] & of_place[1][:, None] & of_place[2]
        result += [terms[:, inside].sum(axis=1) for terms in angular]
    return result


def invariant(unit: np.ndarray, triple: tuple[int, int, int]) -> np.ndarray:
    """(K, K, K): sum over m1, m2, m3 of the Wigner 3j symbol and three complex harmonics of the directions.

    The harmonics are those of Racah, with |C_lm|^2 summed over m equal to 1, and the sign is that of 3j(l1 l2 l3; 000),
    so that three equal directions give its modulus.
    """
    first, second, third = (racah_harmonics(unit, order) for order in triple)
    total = np.einsum("abc,aj,bk,ci->jki", three_j(*triple), first, second, third)
    assert np.abs(total.imag).max(initial=0) < 1e-13
    return total.real * np.sign(three_j(*triple)[triple])  # m = 0 stands in place l


def racah_harmonics(unit: np.ndarray, order: int) -> np.ndarray:
    """(2 l + 1, K): C_lm = sqrt((l - m)! / (l + m)!) P_lm(cos theta) exp(i m phi) for m = -l .. l."""
    phi = np.arctan2(unit[:, 1], unit[:, 0])
    rows = []
    for m in range(order + 1):
        root = math.sqrt(math.factorial(order - m) / math.factorial(order + m))
        rows.append(root * lpmv(m, order, unit[:, 2].clip(-1, 1)) * np.exp(1j * m * phi))
    return np.array([(-1) ** m * rows[m].conj() for m in range(order, 0, -1)] + rows)


@functools.cache
def three_j(*triple: int) -> np.ndarray:
    """The Wigner 3j symbols of SymPy (Racah's formula), every m from -l to l."""
    ranges = [range(-order, order + 1) for order in triple]
    symbols = [float(wigner_3j(*triple, *places)) for places in itertools.product(*ranges)]
    return np.array(symbols).reshape([len(places) for places in ranges])


def network(inputs: np.ndarray, layers: Sequence[Layer], activation: int) -> np.ndarray:
    """Outputs (n_out,) for the inputs (n_features,) of one atom; the activation after all layers but the last."""
    x = np.asarray(inputs, dtype=np.float64)
    for number, (weight, bias) in enumerate(layers, start=1):
        x = weight @ x + bias
        if number < len(layers):
            x = np.tanh(x) if activation == 2 else 1.0 / (1.0 + np.exp(-x)) - {0: 0.0, 1: 0.5}[activation]
    return x


def features(structure: Any, nn: dict[str, Any]) -> np.ndarray:
    """The network inputs (n_atoms, n_features) of all atoms of a structure, nn as `read_nn_dat` returns it."""
    kinds = np.array([nn["symbols"].index(symbol) for symbol in structure.symbols])
    cutoff = MODES[nn["gi_mode"]][0] * nn["rc"]
    names = ("gi_mode", "shift", "rc", "d", "sigma", "legendre_orders", "r0")
    settings = {name: nn[name] for name in names}
    settings |= {name: nn[name] for name in ("cross_terms", "triples") if name in nn}
    return np.array(
        [
            lsp(vectors, kinds[indices], len(nn["symbols"]), **settings)
            for vectors, indices in neighbor_vectors(structure.positions, structure.cell, structure.pbc, cutoff)
        ]
    )


def atomic_energies(structure: Any, nn: dict[str, Any]) -> np.ndarray:
    """Energies (n_atoms,) in eV of a straight network; the atom's own element picks its network."""
    if nn["layer_sizes"][-1] != 1:
        raise ValueError(f"a straight network has 1 output, this one has {nn['layer_sizes'][-1]}")
    energies = []
    for symbol, inputs in zip(structure.symbols, features(structure, nn), strict=True):
        layers = nn["layers"][nn["symbols"].index(symbol)]
        energies.append(network(inputs, layers, nn["activation"])[0])
    return np.array(energies)


def energy_per_atom(structure: Any, nn: dict[str, Any]) -> float:
    """Energy in eV/atom as the network gives it (no e_shift taken off)."""
    return float(np.mean(atomic_energies(structure, nn)))


def read_nn_dat(path: str | Path) -> dict[str, Any]:
    """A potential file as a dict; text after the numbers of a header line is ignored, except an element's `e_shift X`.

    Keys: gi_mode, shift, activation, symbols, masses, e_shifts (eV/atom, None where not written), randomize,
    max_random, rc, d, sigma (Å), legendre_orders, in mode 6 cross_terms and triples, r0 (n_r0,) Å, baseline (bool),
    baseline_parameters (8,), layer_sizes, and layers: per element (header order) the list of
    (weight (n_out, n_in), bias (n_out,)) per layer.
    """
    nn, rows = _read_header(path)
    n_elements, sizes = len(nn["symbols"]), nn["layer_sizes"]
    values = iter([float(cells[0]) for cells in rows])
    nn["layers"] = []
    for _ in range(n_elements):
        layers = []
        for n_in, n_out in itertools.pairwise(sizes):
            weight, bias = np.empty((n_out, n_in)), np.empty(n_out)
            for leaving in range(n_in):
                for arriving in range(n_out):
                    weight[arriving, leaving] = next(values)
            for arriving in range(n_out):
                bias[arriving] = next(values)
            layers.append((weight, bias))
        nn["layers"].append(layers)
    if next(values, None) is not None:
        raise ValueError(f"{path}: more values than the layer sizes {sizes} ask for")
    return nn


def read_nn_dat_header(path: str | Path) -> dict[str, Any]:
    """Read a file that may hold no weights as `read_nn_dat` does, without layers."""
    return _read_header(path)[0]


def _read_header(path: str | Path) -> tuple[dict[str, Any], Any]:
    """The header's settings and an iterator over the lines that follow."""
    lines = [line.split() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = iter(lines)
    nn: dict[str, Any] = {}

    cells = next(rows)
    nn["gi_mode"], nn["shift"], nn["activation"] = int(cells[0]), float(cells[1]), int(cells[2])
    n_elements = int(next(rows)[0])
    species = [next(rows) for _ in range(n_elements)]
    nn["symbols"] = [cells[0].strip("'\"") for cells in species]
    nn["masses"] = [float(cells[1]) for cells in species]
    nn["e_shifts"] = [float(cells[cells.index("e_shift") + 1]) if "e_shift" in cells else None for cells in species]
    cells = next(rows)
    nn["randomize"] = bool(int(cells[0]))
    nn["max_random"], nn["rc"], nn["d"], nn["sigma"] = (float(cell) for cell in cells[1:5])
    cells = next(rows)
    nn["legendre_orders"] = [int(cell) for cell in cells[1 : 1 + int(cells[0])]]
    if nn["gi_mode"] == 6:
        nn["cross_terms"], n_triples, *orders = (int(cell) for cell in cells[1 + int(cells[0]) :])
        nn["triples"] = [tuple(orders[3 * k : 3 * k + 3]) for k in range(n_triples)]
    cells = next(rows)
    nn["r0"] = np.array([float(cell) for cell in cells[1 : 1 + int(cells[0])]])
    cells = next(rows)
    nn["baseline"] = bool(int(cells[0]))
    nn["baseline_parameters"] = np.array([float(cell) for cell in cells[1:9]])
    cells = next(rows)
    nn["layer_sizes"] = [int(cell) for cell in cells[1 : 1 + int(cells[0])]]
    return nn, rows


def read_poscar_dat(path: str | Path, symbol: str = "Si") -> list[Structure]:
    """All structures of a POSCAR-and-energy text, periodic everywhere; `symbol` where the file names no element."""
    rows = iter([line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()])
    return [_read_poscar(label, rows, symbol) for label in rows]


def _read_poscar(label: str, rows: Any, symbol: str) -> Structure:
    """The structure whose label line has just been taken from the iterator of non-empty lines."""
    scale = float(next(rows).split()[0])
    cell = np.array([[float(x) for x in next(rows).split()[:3]] for _ in range(3)])
    if scale < 0:  # minus the volume
        scale = (-scale / abs(np.linalg.det(cell))) ** (1 / 3)
    cell = scale * cell

    cells = next(rows).split()
    if cells[0].isdigit():
        symbols = [symbol] * int(cells[0])
    else:  # VASP 5: element symbols, then one count per element
        counts = [int(count) for count in next(rows).split()[: len(cells)]]
        symbols = [name for name, count in zip(cells, counts, strict=True) for _ in range(count)]

    kind = next(rows)
    selective = kind[0] in "sS"
    if selective:
        kind = next(rows)
    positions, forces = [], []
    for atom in range(len(symbols)):
        cells = next(rows).split()
        xyz = np.array([float(x) for x in cells[:3]])
        positions.append(xyz @ cell if kind[0] in "dD" else scale * xyz)
        rest = cells[6:] if selective else cells[3:]
        if rest and rest[0].strip("'\"").isalpha():
            symbols[atom] = rest.pop(0).strip("'\"")
        if len(rest) >= 3:
            forces.append([float(x) for x in rest[:3]])
    energy = float(next(rows).split()[0])
    return Structure(
        positions=np.array(positions),
        cell=cell,
        pbc=np.array([True, True, True]),
        symbols=symbols,
        label=label,
        energy=None if label.startswith("NO_DFT") else energy,
        forces=np.array(forces) if len(forces) == len(symbols) else None,
    )
