"""Energies of physically informed networks as torch formulas that autograd differentiates by the last layer.

Plain loops over atoms, from the formulas of bond_order_sum.py; features and neighbours are those of pair_sum.py.
Nothing of the package is used here but the potential's numbers.
"""

from __future__ import annotations

import numpy as np
import pair_sum
import torch
from ase.data import chemical_symbols
from torch import Tensor

from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.frames import Frame


def cutoff_function(r: Tensor, rc: float, d: float) -> Tensor:
    """Fall from nearly 1 to 0 at rc, all in Å."""
    fourth = (r - rc) ** 4
    return torch.where(r < rc, fourth / (d**4 + fourth), 0.0)


def atomic_energy(vectors: Tensor, kinds: Tensor, numbers: Tensor, form: str, n: int, rc: float, d: float) -> Tensor:
    """Energy in eV of one atom with parameters (N,), of n elements, from vectors (K, 3) Å to all within 1.5 rc."""
    a, alpha, b, beta, h, sigma, strength, screening = numbers.split((n, n, n, n, n * n, 1, n * n, n * n))
    if form == "squared":
        strength, screening = strength**2, screening**2
    r = vectors.norm(dim=1)
    bonds = (r < rc).nonzero()[:, 0]
    if not len(bonds):
        return 0 * numbers.sum()
    pair = kinds[bonds][:, None] * n + kinds  # (B, K), of the elements of j and k
    other = bonds[:, None] != torch.arange(len(r))
    across = torch.where(other, (vectors - vectors[bonds][:, None]).square().sum(dim=2), 1.0).sqrt()
    x = r + across - r[bonds][:, None]
    screened = torch.where(other, 1 - cutoff_function(x, rc, d) * torch.exp(-screening[pair] * x), 1.0).prod(dim=1)
    unit = vectors[bonds] / r[bonds][:, None]
    fc, pair, other = cutoff_function(r[bonds], rc, d), pair[:, bonds], other[:, bonds]
    bend = torch.where(other, strength[pair] * (unit @ unit.T - h[pair]) ** 2, 0.0)
    order = screened / (1 + bend @ (screened * fc)).sqrt()
    of = kinds[bonds]
    pairs = torch.exp(a[of] - alpha[of] * r[bonds]) - order * torch.exp(b[of] - beta[of] * r[bonds])
    return 0.5 * (pairs * fc).sum() - sigma[0] * (order * fc).sum().sqrt()


def energy(potential: Potential, frame: Frame, weight: Tensor, bias: Tensor) -> Tensor:
    """Energy in eV of a structure with a last layer of weights (S, n_hidden, N) and biases (S, N)."""
    d, networks = potential.descriptor, potential.networks
    structure = pair_sum.Structure(
        frame.positions, frame.cell, frame.pbc, [chemical_symbols[number] for number in frame.atomic_numbers]
    )
    kinds = torch.tensor([d.elements.index(symbol) for symbol in structure.symbols])
    hidden = _hidden(potential, structure, kinds) if len(networks.weights) > 1 else torch.zeros(len(kinds), 0)
    total = torch.zeros(())
    found = pair_sum.neighbor_vectors(frame.positions, frame.cell, frame.pbc, 1.5 * d.cutoff)
    for (vectors, index), kind, own in zip(found, kinds.tolist(), hidden.double(), strict=True):
        numbers = own @ weight[kind] + bias[kind] + potential.baseline[kind] * potential.use_baseline
        total = total + atomic_energy(
            torch.from_numpy(vectors), kinds[index], numbers, potential.form, d.n_elements, d.cutoff, d.cutoff_width
        )
    return total


def _hidden(potential: Potential, structure: pair_sum.Structure, kinds: Tensor) -> Tensor:
    """(n, n_hidden): activations of the last hidden layer."""
    d, networks = potential.descriptor, potential.networks
    settings = {"symbols": list(d.elements), "gi_mode": d.gi_mode, "shift": d.shift, "rc": d.cutoff}
    settings |= {"d": d.cutoff_width, "sigma": d.gaussian_width, "r0": d.gaussian_centers}
    inputs = pair_sum.features(structure, settings | {"legendre_orders": d.legendre_orders})
    found = []
    for own, kind in zip(inputs, kinds.tolist(), strict=True):
        n_hidden = networks.layer_sizes[-2]
        layers = [
            (w[0, kind].numpy().T, b[0, kind].numpy())
            for w, b in zip(networks.weights[:-1], networks.biases[:-1], strict=True)
        ]
        # An identity as last layer gives the activations.
        found.append(pair_sum.network(own, [*layers, (np.eye(n_hidden), np.zeros(n_hidden))], networks.activation))
    return torch.from_numpy(np.array(found))


def last_layer_row(potential: Potential, frame: Frame) -> Tensor:
    """(P,) dE/d(last layer), by autograd, in the order of files."""
    weight = potential.networks.weights[-1][0].clone().requires_grad_()
    bias = potential.networks.biases[-1][0].clone().requires_grad_()
    if not weight.numel():
        return torch.autograd.grad(energy(potential, frame, weight.detach(), bias), bias)[0].flatten()
    by_weight, by_bias = torch.autograd.grad(energy(potential, frame, weight, bias), (weight, bias))
    return torch.cat((by_weight, by_bias[:, None]), dim=1).flatten()
