"""Bond-order potentials: energies of atoms from local parameters, and their derivatives.

    w_ij = S_ij fc(r_ij)        b_ij = (1 + z_ij)^(-1/2)
    E_i  = 1/2 sum_j [ exp(A - alpha r_ij) fc(r_ij) - w_ij b_ij exp(B - beta r_ij) ] - sigma (sum_j w_ij b_ij)^(1/2)

over the bonds of atom i, with the screening S (screening.py) and the sum over angles z (bond_angles.py). Every
parameter is that of atom i, with the element of j, in h, a and lambda also with that of k. In the squared form a and
lambda enter as their squares. Source: Pun, Batra, Ramprasad, Mishin, Nat. Commun. 10, 2339 (2019).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.devices import rows_that_fit
from pyfit_gpu.models.bond_angles import BondAngles
from pyfit_gpu.models.potential import Form, Potential, n_bond_order_parameters
from pyfit_gpu.models.screening import Screening, detours_vjp
from pyfit_gpu.models.surroundings import Surroundings, on_cpu
from pyfit_gpu.parallel import lazy
from pyfit_gpu.sums import sum_first_axis

_BONDS_STEP = 8  # places for bonds come in this multiple
# Bytes of the pairs of a bond and a neighbour that are looked at together: on a CPU a prediction takes a tenth longer
# with half of them and a third with a fourth, as operations then are short; twice as many leave the cache.
_PAIRS_CPU = 2**22
_SHARE_GPU = 1 / 8  # of the memory
_NUMBERS_OF_PAIR = 8  # held at once for each of them

_NAMES = ("A", "alpha", "B", "beta", "h", "sigma", "a", "lambda")


def parameter_names(n_elements: int) -> list[str]:
    """Names of the local parameters in their order, with numbers of the neighbours' elements if there are several."""
    ones = [f"{b}" for b in range(1, n_elements + 1)]
    pairs = [f"{b}{c}" for b in ones for c in ones]
    marks = (ones, ones, ones, ones, pairs, [""], pairs, pairs)
    return [name + (mark if n_elements > 1 else "") for name, own in zip(_NAMES, marks, strict=True) for mark in own]


@dataclass(frozen=True, eq=False)
class Parameters:
    """Local parameters of n atoms, for one member."""

    repulsion: Tensor  # (n, S), A
    repulsion_decay: Tensor  # (n, S) 1/Å, alpha
    attraction: Tensor  # (n, S), B
    attraction_decay: Tensor  # (n, S) 1/Å, beta
    preferred_cosine: Tensor  # (n, S, S), h
    promotion: Tensor  # (n, 1) eV, sigma
    angular_strength: Tensor  # (n, S, S), a
    screening: Tensor  # (n, S, S), lambda: 1/Å, or in the squared form its root

    @classmethod
    def of(cls, outputs: Tensor, n_elements: int) -> Parameters:
        """Take them from outputs (n, N)."""
        s = n_elements
        a, alpha, b, beta, h, sigma, strength, screening = outputs.split((s, s, s, s, s * s, 1, s * s, s * s), dim=1)
        h, strength, screening = (part.unflatten(1, (s, s)) for part in (h, strength, screening))
        return cls(a, alpha, b, beta, h, sigma, strength, screening)


class BondOrder:
    """Outputs and baseline are the local parameters of a bond-order potential."""

    name = "bond-order"
    uses_vectors = True
    forces_are_linear = False

    def __init__(self, potential: Potential) -> None:
        self.n_elements = potential.descriptor.n_elements
        self.cutoff, self.width = potential.descriptor.cutoff, potential.descriptor.cutoff_width
        self.form: Form = potential.form
        self.baseline: Tensor | None = None  # (S, N)
        if potential.use_baseline:
            self.baseline = potential.baseline.to(potential.device, potential.dtype)

    @staticmethod
    def n_outputs(n_elements: int) -> int:
        """N."""
        return n_bond_order_parameters(n_elements)

    def parameters(self, outputs: Tensor, species: Tensor) -> Tensor:
        """(K, n, N): local parameters, of outputs (K, n, N) of atoms of some elements (n,)."""
        return outputs if self.baseline is None else outputs + self.baseline[species]

    def energies(self, outputs: Tensor, species: Tensor, chunk: Chunk | None) -> Tensor:
        """(K, n) eV, as `EnergyModel`."""
        assert chunk is not None
        return self._evaluate(outputs, species, chunk, derivatives=False)[0]

    def vjp(self, outputs: Tensor, species: Tensor, chunk: Chunk) -> tuple[Tensor, Tensor, Tensor | None]:
        """Energies and derivatives, as `EnergyModel`."""
        return self._evaluate(outputs, species, chunk, derivatives=True)

    def describe(self, outputs: Tensor, species: int) -> str:
        """Name the local parameters of an atom, for messages."""
        element = torch.tensor([species], device=outputs.device)
        parameters = Parameters.of(self.parameters(outputs[None, None], element)[0], self.n_elements)
        named = zip(_NAMES, (getattr(parameters, one.name) for one in fields(parameters)), strict=True)
        return ", ".join(f"{name} {' '.join(f'{x:.4g}' for x in part.flatten().tolist())}" for name, part in named)

    def _evaluate(
        self, outputs: Tensor, species: Tensor, chunk: Chunk, *, derivatives: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        parameters = self.parameters(outputs, species)
        n_members, n, n_places = len(outputs), *chunk.pairs.shape
        energies = outputs.new_empty(n_members, n)
        grad_outputs = torch.empty_like(outputs) if derivatives else outputs.new_empty(0)
        grad_vectors = outputs.new_empty(n_members, 3, n, n_places) if derivatives else outputs.new_empty(0)
        for rows, around in self.surroundings(chunk):
            for member in range(n_members):
                found = BondEnergies(around, parameters[member].index_select(0, rows), self.form)
                energies[member].index_copy_(0, rows, found.energies)
                if derivatives:
                    of_parameters, of_vectors = found.vjp()
                    grad_outputs[member].index_copy_(0, rows, of_parameters)
                    grad_vectors[member].index_copy_(1, rows, of_vectors)
        return energies, grad_outputs, grad_vectors.permute(2, 0, 1, 3) if derivatives else grad_vectors

    def surroundings(self, chunk: Chunk) -> Iterator[tuple[Tensor, Surroundings]]:
        """Yield the atoms of a chunk, some at once as rows (n,) int64, with what they see of their neighbours."""
        for rows, n_bonds in self._blocks(chunk):
            yield rows, Surroundings.of(chunk, rows, n_bonds, self.cutoff, self.width, self.n_elements)

    def _blocks(self, chunk: Chunk) -> Iterator[tuple[Tensor, int]]:
        """Yield atoms of a chunk that have equally many places for bonds, and that number.

        On a CPU it follows from an atom's own bonds, so that its bits do not depend on other atoms.
        """
        n_places = chunk.pairs.shape[1]
        counts = (chunk.is_pair & (chunk.distances < self.cutoff)).sum(dim=1)
        places = ((counts + _BONDS_STEP - 1) // _BONDS_STEP * _BONDS_STEP).clamp(min=_BONDS_STEP)
        if not on_cpu(places):
            places = places.max().expand(len(places))
        order = torch.argsort(places, stable=True)
        numbers, runs = torch.unique_consecutive(places[order], return_counts=True)
        for n_bonds, run in zip(numbers.tolist(), order.split(runs.tolist()), strict=True):
            for rows in run.split(self._atoms_at_once(n_bonds * n_places, chunk)):
                yield rows, n_bonds

    def _atoms_at_once(self, n_pairs: int, chunk: Chunk) -> int:
        device, n_bytes = chunk.pairs.device, n_pairs * chunk.distances.itemsize
        if on_cpu(chunk.pairs):
            return max(1, _PAIRS_CPU // n_bytes)
        return rows_that_fit(n_bytes * _NUMBERS_OF_PAIR, device, share=_SHARE_GPU)


class BondEnergies:
    """Energies of n atoms by one member's parameters, (n, N), and what their derivatives need.

    By the names above, (n, B): `weights` w, `order` b, `promoted` w b, `repulsion` and `attraction` the exponentials;
    `root` (n, 1) is that of the promotion energy.
    """

    def __init__(self, around: Surroundings, parameters: Tensor, form: Form) -> None:
        self.around, self.form = around, form
        self.own = own = Parameters.of(parameters, around.n_elements)
        bonds = around.bonds
        squared = form == "squared"
        self.screening = Screening.of(around, own.screening.square() if squared else own.screening)
        self.weights = self.screening.bonds * bonds.smooth
        strength = own.angular_strength.square() if squared else own.angular_strength
        self.angles = BondAngles.of(around, self.weights, strength, own.preferred_cosine)
        self.order = (1 + self.angles.bonds).rsqrt()
        self.repulsion, self.attraction = (
            (around.of_bonds(height) - around.of_bonds(decay) * bonds.distance).exp()
            for height, decay in (
                (own.repulsion, own.repulsion_decay), (own.attraction, own.attraction_decay)
            )
        )  # fmt: skip
        self.promoted = self.weights * self.order
        total = self.promoted.sum(dim=1, keepdim=True)
        # No bonds: the root is 0, and so is its derivative.
        self.root = torch.where(total == 0, 0.0, torch.where(total == 0, 1.0, total).sqrt())
        pairs = self.repulsion * bonds.smooth - self.promoted * self.attraction
        self.energies = (0.5 * pairs.sum(dim=1, keepdim=True) - own.promotion * self.root)[:, 0]  # (n,) eV

    def vjp(self) -> tuple[Tensor, Tensor]:
        """Derivatives of the energies' sum with respect to the parameters, (n, N), and the neighbours' vectors."""
        slopes, of_detours, of_bonds = self.grad_lengths()
        whole = detours_vjp(self.around, of_detours)
        return slopes, whole.scatter_add_(2, self.around.bonds.column.expand(3, -1, -1), of_bonds)

    def grad_lengths(self) -> tuple[Tensor, Tensor, Tensor]:
        """Derivatives of the energies' sum with respect to parameters, (n, N), detours x, (T,), and bonds, (3, n, B).

        Those of the bonds' vectors do not contain what depends on them by way of the detours.
        """
        own, bonds = self.own, self.around.bonds
        of_weights, of_strength, of_cosine, of_unit = self.backwards(vectors=True)
        of_screening, of_detours = self.screening.vjp(of_weights * bonds.smooth)
        repulsion, attraction = 0.5 * self.repulsion * bonds.smooth, -0.5 * self.promoted * self.attraction
        moved = -(repulsion * self.around.of_bonds(own.repulsion_decay))
        moved -= attraction * self.around.of_bonds(own.attraction_decay)
        moved += (0.5 * self.repulsion + of_weights * self.screening.bonds) * bonds.slope
        across = (of_unit - bonds.unit * sum_first_axis(of_unit * bonds.unit)) / bonds.distance
        slopes = torch.cat(self._gathered(repulsion, attraction, of_cosine, of_strength, of_screening), dim=1)
        return slopes, of_detours, across + bonds.unit * moved

    def grad_parameters(self) -> Tensor:
        """Derivatives of the energies' sum with respect to the parameters alone, (n, N)."""
        return torch.cat(self.grad_by_kind(), dim=1)

    def grad_by_kind(self) -> tuple[Tensor, ...]:
        """Derivatives of the energies' sum with respect to each kind of parameters, (n, numbers of the kind)."""
        bonds = self.around.bonds
        of_weights, of_strength, of_cosine, _ = self.backwards(vectors=False)
        of_screening = self.screening.grad_parameters(of_weights * bonds.smooth)
        repulsion, attraction = 0.5 * self.repulsion * bonds.smooth, -0.5 * self.promoted * self.attraction
        return self._gathered(repulsion, attraction, of_cosine, of_strength, of_screening)

    def backwards(self, *, vectors: bool) -> tuple[Tensor, ...]:
        """Derivatives with respect to w, a, h and, if wanted, unit vectors."""
        of_angles = self.promoted * self.of_promoted * self.order.square() * -0.5
        of_weights, of_strength, of_cosine, of_unit = self.angles.vjp(of_angles, vectors=vectors)
        return of_weights + self.order * self.of_promoted, of_strength, of_cosine, of_unit

    @lazy
    def of_promoted(self) -> Tensor:
        """(n, B): derivatives with respect to w b."""
        return -0.5 * (self.own.promotion * self.inverse_root + self.attraction)

    @lazy
    def inverse_root(self) -> Tensor:
        """(n, 1): 1 over the root; 0 where that is 0."""
        return torch.where(self.root == 0, 0.0, 1 / torch.where(self.root == 0, 1.0, self.root))

    def _gathered(
        self, repulsion: Tensor, attraction: Tensor, of_cosine: Tensor, of_strength: Tensor, of_screening: Tensor
    ) -> tuple[Tensor, ...]:
        """Derivatives in the order of the parameters, from the parts of the energies of bonds and others."""
        if self.form == "squared":
            of_screening = 2 * self.own.screening * of_screening
            of_strength = 2 * self.own.angular_strength * of_strength
        distance, to_elements = self.around.bonds.distance, self.around.to_elements
        return (
            to_elements(repulsion), -to_elements(repulsion * distance),
            to_elements(attraction), -to_elements(attraction * distance),
            of_cosine.flatten(1), -self.root, of_strength.flatten(1), of_screening.flatten(1),
        )  # fmt: skip
