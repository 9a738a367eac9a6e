"""Energies of bond-order potentials by plain loops over bonds and neighbours, written from the formulas.

    S_ij = prod_{k != i,j} [ 1 - fc(x) exp(-L^jk x) ],  x = r_ik + r_jk - r_ij
    z_ij = sum_{k != i,j} s^jk S_ik (cos theta_jik - h^jk)^2 fc(r_ik)
    E_i  = 1/2 sum_j [ exp(A^j - alpha^j r_ij) - S_ij (1 + z_ij)^(-1/2) exp(B^j - beta^j r_ij) ] fc(r_ij)
           - sigma sqrt( sum_j S_ij (1 + z_ij)^(-1/2) fc(r_ij) )

with L = lambda^2 and s = a^2 in the squared form, lambda and a in the plain one. Upper indices are elements of j and k.
Nothing of the package is used here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pair_sum import neighbor_vectors


def cutoff_function(r: float, rc: float, d: float) -> float:
    """Fall from nearly 1 to 0 at rc, all in Å."""
    return (r - rc) ** 4 / (d**4 + (r - rc) ** 4) if r < rc else 0.0


def named_parameters(numbers: np.ndarray, n_elements: int) -> dict[str, Any]:
    """Local parameters of one atom by name: (N,) numbers in the order of the files."""
    s, rest = n_elements, list(map(float, numbers))
    found: dict[str, Any] = {}
    for name, shape in (("A", s), ("alpha", s), ("B", s), ("beta", s), ("h", (s, s)), ("sigma", 1), ("a", (s, s))):
        count = int(np.prod(shape))
        found[name], rest = np.array(rest[:count]).reshape(shape), rest[count:]
    found["lambda"] = np.array(rest).reshape(s, s)
    return found


def atomic_energy(
    vectors: np.ndarray, kinds: np.ndarray, numbers: np.ndarray, *, n_elements: int, form: str, rc: float, d: float
) -> float:
    """Energy in eV of one atom.

    vectors: (K, 3) Å to all neighbours within 1.5 rc; kinds: (K,) their elements; numbers: (N,) parameters.
    """
    p = named_parameters(numbers, n_elements)
    screening, strength = (p["lambda"] ** 2, p["a"] ** 2) if form == "squared" else (p["lambda"], p["a"])
    r = [math.sqrt(v @ v) for v in vectors]
    everyone = range(len(vectors))
    bonds = [j for j in everyone if r[j] < rc]
    screened = {}
    for j in bonds:
        screened[j] = 1.0
        for k in everyone:
            if k != j:
                x = r[k] + math.sqrt((vectors[k] - vectors[j]) @ (vectors[k] - vectors[j])) - r[j]
                factor = cutoff_function(x, rc, d)
                if factor > 0:
                    screened[j] *= 1 - factor * math.exp(-screening[kinds[j], kinds[k]] * x)
    pairs, total = 0.0, 0.0
    for j in bonds:
        z = 0.0
        for k in bonds:
            if k != j:
                cosine = vectors[j] @ vectors[k] / (r[j] * r[k])
                bend = (cosine - p["h"][kinds[j], kinds[k]]) ** 2
                z += strength[kinds[j], kinds[k]] * screened[k] * bend * cutoff_function(r[k], rc, d)
        order, fc, of = screened[j] / math.sqrt(1 + z), cutoff_function(r[j], rc, d), kinds[j]
        repulsion = math.exp(p["A"][of] - p["alpha"][of] * r[j])
        pairs += (repulsion - order * math.exp(p["B"][of] - p["beta"][of] * r[j])) * fc
        total += order * fc
    promotion = float(p["sigma"][0])
    return 0.5 * pairs - (promotion * math.sqrt(total) if promotion else 0.0)


def atomic_energies(structure: Any, elements: list[str], numbers: np.ndarray, **settings: Any) -> np.ndarray:
    """Energies (n_atoms,) in eV for the local parameters (n_atoms, N); settings: form, rc and d."""
    found = neighbor_vectors(structure.positions, structure.cell, structure.pbc, 1.5 * settings["rc"])
    kinds = np.array([elements.index(symbol) for symbol in structure.symbols])
    return np.array(
        [
            atomic_energy(vectors, kinds[index], own, n_elements=len(elements), **settings)
            for (vectors, index), own in zip(found, numbers, strict=True)
        ]
    )
