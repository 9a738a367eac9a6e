"""Names of the inputs, in their order: `Si-C l=2 r0=2.5 Å`, `Si-C l=2 r0=2.5,3.0 Å`, `Si-Si-C l=1,1,2 r0=2.5 Å`.

A name has the elements of the neighbours, the Legendre orders, and the Gaussian centres: two of a cross term.
"""

from __future__ import annotations

from itertools import combinations_with_replacement

from pyfit_gpu.descriptors.lsp import LocalStructureParameters


def feature_names(descriptor: LocalStructureParameters) -> list[str]:
    """Name all inputs of a network."""
    centers = descriptor.gaussian_centers
    names = []
    for pair in combinations_with_replacement(descriptor.elements, 2):
        for order in descriptor.legendre_orders:
            for k in range(descriptor.cross_terms + 1):
                for near, far in zip(centers, centers[k:], strict=False):
                    names.append(_name(pair, (order,), (near, far) if k else (near,)))
    for triple in combinations_with_replacement(descriptor.elements, 3):
        for orders in descriptor.triples:
            names += [_name(triple, orders, (center,)) for center in centers]
    return names


def _name(elements: tuple[str, ...], orders: tuple[int, ...], centers: tuple[float, ...]) -> str:
    return f"{'-'.join(elements)} l={','.join(map(str, orders))} r0={','.join(map(str, centers))} Å"
