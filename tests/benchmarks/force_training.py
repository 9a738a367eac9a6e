"""One evaluation of the loss of energies and forces, and its gradient: derivatives of the features kept, computed anew,
or by torch's autograd.

python tests/benchmarks/force_training.py STRUCTURES POTENTIAL [--dtype float32] [--repeats 5] [--atoms 2000]

For one element and modes 1 and 5. Autograd goes twice through the same features, written plainly, in the same chunks.
It keeps everything until the end, about 250 kB per atom in float64: the set is cut to its first structures.
"""

import argparse
import math
import time

import torch
from torch import Tensor

import pyfit_gpu as pf
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.structures.neighbors import find_neighbors
from pyfit_gpu.training.objective import Objective

FORCE_WEIGHT = 0.01  # Å^2


class ByAutograd:
    """The loss of `Objective`, where every structure has forces and the weight 1, by autograd alone."""

    def __init__(self, training_set: pf.TrainingSet) -> None:
        self.set, self.settings = training_set, training_set.descriptor
        dtype = training_set.features.dtype
        self.neighbors = find_neighbors(training_set.structures(), self.settings.neighbor_cutoff).to(dtype)
        self.chunks = list(self.settings.chunks(self.neighbors, training_set.species))
        self.atoms = torch.cat([chunk.atoms for chunk in self.chunks])
        self.centers = torch.tensor(self.settings.gaussian_centers, dtype=dtype)[:, None]
        self.dummy = torch.tensor([[0.0, 0.0, self.settings.neighbor_cutoff]], dtype=dtype)
        self.structure = torch.repeat_interleave(training_set.sizes)

    def loss(self, networks: ElementNetworks) -> Tensor:
        vectors = self.neighbors.vectors.detach().requires_grad_()
        padded = torch.cat((vectors, self.dummy))
        features = torch.cat([self._features(padded[chunk.pairs.reshape(-1)], chunk.pairs) for chunk in self.chunks])
        outputs = networks(features[None])[0, 0, :, 0]
        energies = torch.zeros_like(self.set.energy_used).index_add(0, self.structure[self.atoms], outputs.double())
        (of_vectors,) = torch.autograd.grad(outputs.sum(), vectors, create_graph=True)
        forces = of_vectors.new_zeros(self.set.n_atoms, 3).index_add(0, self.neighbors.centers, of_vectors)
        forces = forces.index_add(0, self.neighbors.index, of_vectors, alpha=-1)
        of_energy = ((energies - self.set.energy_used) / self.set.sizes).square().mean()
        return (of_energy + FORCE_WEIGHT * (forces - self.set.forces).square().mean()).sqrt()

    def _features(self, vectors: Tensor, pairs: Tensor) -> Tensor:
        settings = self.settings
        distance = torch.linalg.vector_norm(vectors, dim=1)
        rows, weights = self._angular(*(vectors / distance[:, None]).unbind(1))
        square = (distance - settings.neighbor_cutoff).clamp(max=0.0).square().square()
        switch = square / (square + settings.cutoff_width**4)
        radial = torch.exp(-(((distance - self.centers) / settings.gaussian_width).square())) * switch
        sums = torch.bmm(rows.view(-1, *pairs.shape).transpose(0, 1), radial.view(-1, *pairs.shape).permute(1, 2, 0))
        raw = torch.matmul(weights, sums.square()) / self.centers[:, 0].square()
        return torch.asinh(raw.flatten(1)) if settings.gi_mode == 5 else torch.log(raw.flatten(1) + settings.shift)

    def _angular(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (n_angular, n_pairs) and the weights (n_l, n_angular) of their squares: the addition theorem."""
        orders, rows, weights = self.settings.legendre_orders, [], []
        cosine, sine = torch.ones_like(x), torch.zeros_like(x)
        for m in range(max(orders) + 1):
            # (l - m) D_lm = (2 l - 1) z D_l-1,m - (l + m - 1) D_l-2,m
            derivatives = {m - 1: torch.zeros_like(z), m: torch.full_like(z, math.prod(range(1, 2 * m, 2)))}
            for order in range(m + 1, max(orders) + 1):
                last, before = derivatives[order - 1], derivatives[order - 2]
                derivatives[order] = ((2 * order - 1) * z * last - (order + m - 1) * before) / (order - m)
            for number, order in enumerate(orders):
                for part in ((cosine, sine) if m else (cosine,)) if order >= m else ():
                    rows.append(part * derivatives[order])
                    weights.append(z.new_zeros(len(orders)))
                    weights[-1][number] = (2 if m else 1) * math.factorial(order - m) / math.factorial(order + m)
            cosine, sine = x * cosine - y * sine, x * sine + y * cosine
        return torch.stack(rows), torch.stack(weights, dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("structures")
    parser.add_argument("potential")
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--atoms", type=int, default=2000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    potential = pf.load_potential(options.potential, seed=1, dtype=dtype)
    structures = pf.load_structures(options.structures)
    n_structures = int((torch.tensor(structures.sizes).cumsum(0) <= options.atoms).sum())
    structures = structures.select(range(max(1, n_structures)))
    training_set = pf.build_training_set(structures, potential).to("cpu", dtype)
    weights = potential.networks.flat().requires_grad_(True)
    shape, activation = potential.networks.layer_sizes, potential.networks.activation
    cases: dict[str, Objective | ByAutograd] = {}
    for name, loss_weights, memory in (
        ("energies only", None, 0.0),
        ("kept", {"forces": FORCE_WEIGHT}, float("inf")),
        ("computed anew", {"forces": FORCE_WEIGHT}, 0.0),
    ):
        started = time.perf_counter()
        case = cases[name] = Objective(training_set, loss_weights, memory=memory)
        print(f"{name}: set up in {time.perf_counter() - started:.2f} s, {case.kept_bytes / 2**20:.0f} MiB kept")
    cases["autograd"] = ByAutograd(training_set)

    def evaluate(case: Objective | ByAutograd) -> tuple[Tensor, Tensor]:
        n_elements = potential.descriptor.n_elements
        networks = ElementNetworks.from_flat(weights, shape, n_elements=n_elements, activation=activation)
        if isinstance(case, Objective):  # as training calls it
            found = case.evaluate(weights.detach(), networks)
            assert found.gradient is not None
            return found.errors.loss.sum(), found.gradient
        loss = case.loss(networks).sum()
        return loss.detach(), torch.autograd.grad(loss, weights)[0]

    # In float32 the gradient is a sum of large numbers of both signs.
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    for ours, theirs in zip(evaluate(cases["computed anew"]), evaluate(cases["autograd"]), strict=True):
        largest = float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=tolerance, atol=tolerance * largest)
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(options.repeats):
        for name, case in cases.items():
            started = time.process_time()
            evaluate(case)
            best[name] = min(best[name], time.process_time() - started)
    print(f"torch {torch.__version__}, {options.threads} thread(s), {options.dtype}, processor time")
    print(f"{training_set.n_atoms} atoms, {potential.descriptor.n_features} features, best of {options.repeats}")
    for name, seconds in best.items():
        print(f"{name:<14} {1000 * seconds:8.1f} ms   {best['autograd'] / seconds:6.2f} times as fast as autograd")


if __name__ == "__main__":
    main()
