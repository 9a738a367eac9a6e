"""Bond-order potentials of made-up numbers, with and without a network, for one element and several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import bond_order_sum
import numpy as np
import pair_sum
import torch
from ase.data import chemical_symbols

from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Form, Potential, n_bond_order_parameters
from pyfit_gpu.structures.frames import Frame

CUTOFF = 3.3  # Å
SILICON = (9.6, 4.7, 4.3, 1.45, 0.12, 0.8, 0.9, 0.85)  # A, alpha, B, beta, h, sigma, a, lambda


def baseline(n_elements: int, seed: int = 0, scatter: float = 0.1) -> tuple[float, ...]:
    """Numbers like those of silicon for all elements, each changed at random by up to a share of `scatter`."""
    rng, s = np.random.default_rng(seed), n_elements
    one = np.repeat(SILICON, (s, s, s, s, s * s, 1, s * s, s * s))
    whole = np.tile(one, s)
    return tuple((whole * rng.uniform(1 - scatter, 1 + scatter, whole.shape)).tolist())


def make_bond_order(
    elements: Sequence[str] = ("Si",),
    form: Form = "squared",
    *,
    bare: bool = False,
    gi_mode: int = 5,
    seed: int = 3,
    max_random: float = 0.5,
    scatter: float = 0.1,
    **settings: object,
) -> Potential:
    """A potential whose local parameters are some numbers, in a network changed a little from atom to atom."""
    descriptor = LocalStructureParameters(
        **{
            "elements": tuple(elements),
            "gi_mode": gi_mode,
            "shift": 0.5,
            "cutoff": CUTOFF,
            "cutoff_width": 1.1,
            "gaussian_width": 0.8,
            "legendre_orders": (0, 1, 2),
            "gaussian_centers": (1.7, 2.5, 3.3),
            **settings,
        }
    )
    n = n_bond_order_parameters(len(elements))
    sizes = (0, n) if bare else (descriptor.n_features, 5, n)
    networks = ElementNetworks.random(sizes, max_random, seed, n_elements=len(elements), activation=1)
    if bare:
        networks = replace(networks, biases=(torch.zeros_like(networks.biases[0]),))
    return Potential(
        descriptor=descriptor,
        networks=networks,
        masses=(28.0855,) * len(elements),
        max_random=max_random,
        use_baseline=True,
        bond_order_parameters=baseline(len(elements), seed, scatter),
        energy_shift=torch.full((len(elements),), float("nan"), dtype=torch.float64),
        form=form,
    )


def loops(potential: Potential, frame: Frame) -> np.ndarray:
    """Energies (n,) eV by plain loops, network and features included, for the potential's first member."""
    d = potential.descriptor
    symbols = [chemical_symbols[number] for number in frame.atomic_numbers]
    structure = pair_sum.Structure(frame.positions, frame.cell, frame.pbc, symbols)
    return bond_order_sum.atomic_energies(
        structure,
        list(d.elements),
        _parameters(potential, structure),
        form=potential.form,
        rc=d.cutoff,
        d=d.cutoff_width,
    )


def _parameters(potential: Potential, structure: pair_sum.Structure) -> np.ndarray:
    d, networks = potential.descriptor, potential.networks
    kinds = [d.elements.index(symbol) for symbol in structure.symbols]
    whole = potential.baseline.numpy()[kinds] * potential.use_baseline
    if potential.is_bare:
        return whole + networks.biases[0][0, kinds].numpy()
    nn = {"symbols": list(d.elements), "gi_mode": d.gi_mode, "shift": d.shift, "rc": d.cutoff, "d": d.cutoff_width}
    nn |= {"sigma": d.gaussian_width, "legendre_orders": d.legendre_orders, "r0": d.gaussian_centers}
    outputs = []
    for inputs, kind in zip(pair_sum.features(structure, nn), kinds, strict=True):
        layers = [
            (w[0, kind].numpy().T, b[0, kind].numpy()) for w, b in zip(networks.weights, networks.biases, strict=True)
        ]
        outputs.append(pair_sum.network(inputs, layers, networks.activation))
    return whole + np.array(outputs)
