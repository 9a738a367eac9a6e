"""Operations per atom of the plugin's evaluator, counted from its formulas, and what the processor can do at most.

A product, a sum, a quotient and a root count one each; so do the two of a fused one. Not counted: what LAMMPS does
beside the potential, moving numbers, and the lanes that neighbours of other atoms leave empty.
"""

from __future__ import annotations

import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np

import pyfit_gpu as pf
from pyfit_gpu.descriptors.couplings import coupling_coefficients
from pyfit_gpu.interfaces.lammps.build import FLAGS, find_compiler

EXPONENTIAL, INVERSE_SINH = 30, 60  # operations of one in plugin/lanes.h

# Sums in 24 registers are enough to keep two units with a latency of four cycles busy.
_PEAK = r"""
#include <chrono>
#include <cstdio>
#if defined(__AVX512F__)
typedef double Lanes __attribute__((vector_size(64)));
#elif defined(__AVX__)
typedef double Lanes __attribute__((vector_size(32)));
#else
typedef double Lanes __attribute__((vector_size(16)));
#endif
int main(int n, char **) {
  const int n_lanes = sizeof(Lanes) / 8, steps = 20000000, n_sums = n_lanes == 8 ? 24 : 12;
  Lanes sums[n_sums], a = Lanes{} + 0.999999 * n, b = Lanes{} + 1e-6 * n;
  for (int k = 0; k < n_sums; k++) sums[k] = Lanes{} + k;
  double best = 1e9;
  for (int round = 0; round < 5; round++) {
    const auto start = std::chrono::steady_clock::now();
    for (int step = 0; step < steps / 4; step++) {
#pragma GCC unroll 24
      for (int k = 0; k < n_sums; k++) sums[k] = sums[k] * a + b;
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (seconds.count() < best) best = seconds.count();
  }
  Lanes all{};
  for (int k = 0; k < n_sums; k++) all += sums[k];
  std::printf("%.17g %.17g\n", 2.0 * n_lanes * n_sums * (steps / 4) / best, all[0]);
}
"""


def count_operations(potential: pf.Potential, n_neighbors: float, n_members: int = 1) -> dict[str, float]:
    """Operations per atom and step by stage, for one element: energies, forces and virial of the members' mean."""
    header, sizes = potential.descriptor, potential.networks.layer_sizes
    orders, n = header.legendre_orders, len(header.gaussian_centers)
    rows, highest = sum(2 * order + 1 for order in orders), max(orders)
    products = sum(n - k for k in range(header.cross_terms + 1)) * rows  # of two sums over neighbours
    monomials = n * sum(_n_monomials(triple) for triple in header.triples)
    per_order = (highest + 1) * (highest + 2) // 2  # pairs of l and m
    weights = n_members * sum(a * b for a, b in pairwise(sizes))
    hidden = n_members * sum(sizes[1:-1])
    basis = 18 + n * (EXPONENTIAL + 4) + 6 * highest + 4 * per_order + 2 * rows
    basis_back = 27 + 6 * n + 20 * highest + 13 * per_order
    return {
        "radial and angular functions": n_neighbors * basis,
        "sums over neighbours": n_neighbors * 2 * n * rows,
        "invariants": 2 * products + 4 * monomials,
        "inputs": header.n_features * INVERSE_SINH,
        "networks": 2 * weights + hidden * (EXPONENTIAL + 4),
        "networks, back": 2 * weights + 4 * hidden,
        "invariants, back": 4 * products + 10 * monomials,
        "sums over neighbours, back": n_neighbors * 4 * n * rows,
        "radial and angular functions, back": n_neighbors * basis_back,
        "forces and virial": n_neighbors * 15,
    }


def count_bytes(potential: pf.Potential, n_neighbors: float) -> float:
    """Bytes per atom that its evaluation goes back and forth over: held in the caches, of 8 or 16 atoms at once."""
    header = potential.descriptor
    n, rows = len(header.gaussian_centers), sum(2 * order + 1 for order in header.legendre_orders)
    per_neighbor = n + rows + 3 * 4  # functions, vectors with what belongs to them, derivatives
    return 8 * (n_neighbors * per_neighbor + 2 * n * rows + 3 * header.n_features)


def _n_monomials(triple: tuple[int, int, int]) -> int:
    """Different products of three sums in a four-body term."""
    found = np.argwhere(coupling_coefficients(triple))
    return len({tuple(sorted(zip(triple, map(int, places), strict=True))) for places in found})


def measure_peak(folder: Path) -> float:
    """Floating-point operations a second of one core, double precision, in a loop of multiplications and additions."""
    (folder / "peak.cpp").write_text(_PEAK)
    subprocess.run([*find_compiler(), *FLAGS, "-o", "peak", "peak.cpp"], cwd=folder, check=True)
    done = subprocess.run([folder / "peak"], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[0])
