"""Features on the NIST silicon set, neighbours given, against sums over pairs of neighbours and DScribe's SOAP.

    python tests/benchmarks/features.py [--structures FILE] [--threads 1] [--rounds 5]

Everything takes turns in one process; what is printed are the best times of the processor, and ratios of those. The
header is that of the classic network 00; the optional folder of reference data beside the checkout holds the
structures. Pair sums and SOAP, which are slow, get a part of the atoms. DScribe is optional.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from closure import HEADER
from torch import Tensor

import pyfit_gpu as pf
from pyfit_gpu.structures.neighbors import Neighbors, find_neighbors

sys.path.append(str(Path(__file__).resolve().parents[1]))
from held_memory import PeakMemory

SAMPLE = 17  # of the chunks of the pair sums, and of the structures for SOAP, one in so many
CHUNK = 500


class PairSum:
    """The older programs' way: cosines, Legendre polynomials and products of Gaussians for every pair of neighbours."""

    def __init__(self, neighbors: Neighbors, *, by_chunk: bool, by_products: bool) -> None:
        """
        Args:
            by_chunk: pad to the largest neighbour count of 500 atoms, not of all.
            by_products: sums over one neighbour as matrix products, which is the best that can be made of pair sums.
        """
        self.neighbors, self.by_chunk = neighbors, by_chunk
        self.sums = self._products if by_products else self._pairs
        self.first = torch.cumsum(neighbors.counts, 0) - neighbors.counts
        self.atoms = torch.arange(len(neighbors.counts)).split(CHUNK)[::SAMPLE]
        self.n_atoms = sum(map(len, self.atoms))

    def __call__(self) -> Tensor:
        return torch.cat([self.sums(*self._padded(atoms)) for atoms in self.atoms])

    def _padded(self, atoms: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (n, K, 3) and f (n, n_r0, K), zero where padded."""
        counts = self.neighbors.counts[atoms]
        rank = torch.arange(int(counts.max() if self.by_chunk else self.neighbors.counts.max()))
        inside = rank < counts[:, None]
        vectors = self.neighbors.vectors[torch.where(inside, self.first[atoms, None] + rank, 0)]
        distance = torch.linalg.vector_norm(vectors, dim=2)
        fourth = (distance - HEADER.cutoff) ** 4
        switch = torch.where(inside, fourth / (HEADER.cutoff_width**4 + fourth), 0.0)[:, None]
        centers = distance.new_tensor(HEADER.gaussian_centers)[:, None]
        radial = torch.exp(-(((distance[:, None] - centers) / HEADER.gaussian_width) ** 2)) * switch
        return vectors / distance[..., None], radial / centers

    def _pairs(self, unit: Tensor, radial: Tensor) -> Tensor:
        first, second = torch.triu_indices(unit.shape[1], unit.shape[1])
        copies = torch.where(first == second, 1.0, 2.0)
        functions = [(f[:, first] * f[:, second]) * copies for f in radial.unbind(1)]
        polynomials = _legendre((unit[:, first] * unit[:, second]).sum(dim=2))
        return torch.stack([(p * function).sum(dim=1) for p in polynomials for function in functions], dim=1)

    def _products(self, unit: Tensor, radial: Tensor) -> Tensor:
        polynomials = _legendre(torch.bmm(unit, unit.transpose(1, 2)))
        return torch.stack([(torch.bmm(radial, p) * radial).sum(dim=2) for p in polynomials], dim=1).flatten(1)


def _legendre(cosine: Tensor) -> list[Tensor]:
    polynomials = [torch.ones_like(cosine), cosine]
    for order in range(2, max(HEADER.legendre_orders) + 1):
        last, before = polynomials[-1], polynomials[-2]
        polynomials.append(((2 * order - 1) * cosine * last - (order - 1) * before) / order)
    return [polynomials[order] for order in HEADER.legendre_orders]


def soap_case(structures: pf.Structures) -> tuple[Callable[[], object], int] | None:
    """SOAP's power spectrum of similar size, neighbour search included; None: DScribe is not installed."""
    try:
        from ase import Atoms
        from dscribe.descriptors import SOAP
    except ImportError:
        return None
    soap = SOAP(species=["Si"], r_cut=HEADER.cutoff, n_max=8, l_max=6, periodic=True)
    chosen = [
        Atoms(["Si"] * size, structures.positions[row, :size].numpy(), cell=structures.cell[row].numpy(), pbc=True)
        for row, size in list(enumerate(structures.sizes))[::SAMPLE]
    ]
    return lambda: soap.create(chosen, n_jobs=1), sum(map(len, chosen))


def with_pair_gradients(neighbors: Neighbors, species: Tensor) -> None:
    for chunk in HEADER.chunks(neighbors, species):
        chunk.vjp(chunk.raw())


def jacobians(neighbors: Neighbors, species: Tensor) -> None:
    for chunk in HEADER.chunks(neighbors, species, max_pairs=8192):
        chunk.jacobian()


def memory_line(neighbors: Neighbors, species: Tensor) -> str:
    """Memory of tensors in MiB: the most at one time, the outputs, and the most that one chunk takes."""
    with PeakMemory() as whole:
        outputs = HEADER.raw(neighbors, species)
    largest = 0
    for chunk in HEADER.chunks(neighbors, species):
        with PeakMemory() as own:
            chunk.raw()
        largest = max(largest, own.peak)
    sizes = (whole.peak, outputs.untyped_storage().nbytes(), largest)
    return "peak {:.1f}, outputs {:.1f}, largest chunk {:.1f} MiB".format(*(size / 2**20 for size in sizes))


def best_rates(cases: dict[str, tuple[Callable[[], object], int]], rounds: int) -> dict[str, float]:
    """Atoms per second of processor time; the cases take turns, so that a drift of the machine's speed meets all."""
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(rounds):
        for name, (run, _) in cases.items():
            started = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - started)
    return {name: n_atoms / best[name] for name, (_, n_atoms) in cases.items()}


def main() -> None:
    shared = Path(__file__).resolve().parents[3] / "shared" / "data" / "silicon_nist.poscar.dat"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", type=Path, default=shared)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    structures = pf.load_structures(options.structures)
    neighbors = find_neighbors(structures, HEADER.neighbor_cutoff)
    n_atoms = len(neighbors.counts)
    species = torch.zeros(n_atoms, dtype=torch.int64)
    raw = HEADER.raw(neighbors, species)
    cases: dict[str, tuple[Callable[[], object], int]] = {}
    for name, by_chunk, by_products in (
        ("pair sum, padded to the largest count of all", False, False),
        ("pair sum, padded to the largest of 500 atoms", True, False),
        ("pair sum as matrix products, of 500 atoms", True, True),
    ):
        case = PairSum(neighbors, by_chunk=by_chunk, by_products=by_products)
        torch.testing.assert_close(case(), raw[torch.cat(case.atoms)], rtol=1e-11, atol=1e-13)
        cases[name] = (case, case.n_atoms)
    if (soap := soap_case(structures)) is None:
        print("DScribe is not installed (pip install dscribe): its row is left out")
    else:
        cases["DScribe SOAP, neighbours included"] = soap
    for dtype in (torch.float64, torch.float32):
        own, name = neighbors.to(dtype), str(dtype).removeprefix("torch.")
        cases[f"features, {name}"] = (lambda own=own: HEADER.raw(own, species), n_atoms)
        cases[f"features, pair gradients, {name}"] = (lambda own=own: with_pair_gradients(own, species), n_atoms)
        cases[f"derivatives themselves, {name}"] = (lambda own=own: jacobians(own, species), n_atoms)
        print(f"memory, {name}: {memory_line(own, species)}")
    for symbols in (("Si", "C"), ("Si", "C", "O")):
        header, kinds = replace(HEADER, elements=symbols, gi_mode=5), torch.arange(n_atoms) % len(symbols)
        cases[f"features, float64, {len(symbols)} elements"] = (lambda h=header, k=kinds: h.raw(neighbors, k), n_atoms)
    rates = best_rates(cases, options.rounds)
    print(f"torch {torch.__version__}, {options.threads} thread(s), {n_atoms} atoms, {len(neighbors.index)} pairs")
    print(f"{'':<46}{'atoms/s':>9}{'of features, float64':>22}")
    for name, rate in rates.items():
        print(f"{name:<46}{rate:>9.0f}{rate / rates['features, float64']:>22.4f}")


if __name__ == "__main__":
    main()
