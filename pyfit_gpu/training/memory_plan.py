"""Memory of a training, known before it begins, and how to keep within a limit.

Every number is a formula in the sizes of set and network and in the settings. Memory that is kept throughout a training
is counted to a few per cent; temporary memory is an upper bound, fitted to measurements. Both are tested against the
tensors themselves (tests/training/test_memory_plan.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pyfit_gpu.datasets.feature_rows import reading_bytes
from pyfit_gpu.datasets.training_set import TrainingSet, label_bytes
from pyfit_gpu.descriptors.lsp import LocalStructureParameters, chunk_limits
from pyfit_gpu.devices import MEMORY_SHARE, format_bytes, total_memory
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.map_parts import jacobian_bytes, making_bytes
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.optimizers.base import Gives
from pyfit_gpu.optimizers.gauss_newton import CPU_MEMBERS, GPU_MEMBERS
from pyfit_gpu.training.bond_map import piece_places
from pyfit_gpu.training.input_statistics import statistics_bytes
from pyfit_gpu.training.lanes import BLOCK_ATOMS, RECORDED_ATOMS
from pyfit_gpu.training.loss import weighted_terms
from pyfit_gpu.training.matrix_memory import MatrixMemory
from pyfit_gpu.training.objective import objective_bytes
from pyfit_gpu.training.set_sizes import SetSizes
from pyfit_gpu.training.settings import FitSettings

_LEAST_BLOCK_ATOMS = 512
_LEAST_GPU_BLOCK = 4096  # atoms; in smaller blocks a GPU is no faster than reading the file
_MATRICES = "J^T J"
_NUMBERS_OF_PLACE = 13  # for each screening atom and place of a bond of a piece, of which most are screening atoms
_PROGRAM = 256 * 2**20  # the interpreter and its libraries: 249 MB measured on Linux with torch 2.13 for CPUs
_PROGRAM_CUDA = (3 * 2**30, 2**29)  # the same with CUDA, on host and device: estimated, not measured


@dataclass(frozen=True)
class MemoryItem:
    """Bytes for one purpose."""

    name: str
    host: int
    device: int = 0  # on a GPU


@dataclass(frozen=True)
class MemoryPlan:
    """The memory of a training, and how it keeps within its limit."""

    items: tuple[MemoryItem, ...]
    limit: int  # bytes of the device
    on_gpu: bool
    stream: bool  # whether features are read from the file at every evaluation
    block_atoms: int | None  # None: the default
    jacobian_bytes: int  # all derivatives for forces and stress, and bonds, if they were kept
    kept_bytes: int  # most bytes of them that are kept; the others are computed at every evaluation
    kept_name: str  # what they are
    exact_pairs: bool  # whether neighbours were counted in the whole set, not in a sample

    @property
    def host(self) -> int:
        return sum(item.host for item in self.items)

    @property
    def device(self) -> int:
        return sum(item.device for item in self.items)

    @property
    def limited(self) -> int:
        """Bytes that the limit applies to."""
        return self.device if self.on_gpu else self.host


def objective_options(plan: MemoryPlan) -> dict[str, Any]:
    """Keywords of `Objective` that carry out a plan."""
    return {"stream": plan.stream, "block_atoms": plan.block_atoms, "memory": plan.kept_bytes}


def plan_memory(
    training_set: TrainingSet | SetSizes,
    potential: Potential,
    settings: FitSettings,
    *,
    members: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float64,
    memory: int | None = None,
    n_threads: int | None = None,
) -> MemoryPlan:
    """Find the fastest way to train that keeps within the memory.

    In order: everything resident; fewer derivatives kept; on a GPU smaller blocks; features streamed from the file;
    smaller blocks again.

    Args:
        training_set: all structures, those that validate too; if it was loaded lazily, its features are not read.
        members: number of members trained at once; None: the potential's own.
        dtype: dtype of features and networks.
        memory: bytes of the device, or on a CPU of the whole process; None: `MEMORY_SHARE` of the total.
        n_threads: threads that compute side by side on a CPU; None: torch's number.

    Raises:
        InputError: even the smallest plan does not fit; the message says what it would take.
    """
    device = torch.device(device)
    sizes, on_gpu = training_set, device.type == "cuda"
    if isinstance(sizes, TrainingSet):
        terms = [term for term in weighted_terms() if settings.loss_weights[term.name] > 0]
        sizes = SetSizes.of(sizes, terms, on_gpu=on_gpu, potential=potential)
    limit = int(MEMORY_SHARE * total_memory(device)) if memory is None else memory
    need = _Need(
        sizes,
        potential.descriptor,
        potential.networks.layer_sizes,
        settings,
        members or potential.networks.n_members,
        on_gpu=on_gpu,
        itemsize=dtype.itemsize,
        n_threads=n_threads or torch.get_num_threads(),
    )
    plan = need.plan(limit, stream=False, block_atoms=None)
    for stream, block_atoms in need.choices():
        plan = need.plan(limit, stream=stream, block_atoms=block_atoms)
        if plan.limited <= limit:
            break
    _require(plan, limit, sizes)
    return plan


def _limited(items: list[MemoryItem], on_gpu: bool) -> int:
    return sum(item.device if on_gpu else item.host for item in items)


def _require(plan: MemoryPlan, limit: int, sizes: SetSizes) -> None:
    if plan.limited > limit:
        text = "" if sizes.in_files else " (a text set is held in memory; converted to HDF5 it need not be)"
        matrices = next((item for item in plan.items if item.name == _MATRICES), None)
        if matrices is not None:
            text += (
                f"; {format_bytes(matrices.host + matrices.device)} of it is J^T J, which grows as the square of the "
                "number of parameters: fewer of them, or LBFGS with a given penalty, take less"
            )
        raise InputError(
            f"memory: expected at least {format_bytes(plan.limited)} for this set and network, "
            f"got {format_bytes(limit)}{text}"
        )
    host = total_memory(torch.device("cpu"))
    if plan.on_gpu and plan.host > host:
        raise InputError(f"memory of the host: expected at least {format_bytes(plan.host)}, found {format_bytes(host)}")


@dataclass(frozen=True)
class _Need:
    sizes: SetSizes
    descriptor: LocalStructureParameters
    layers: tuple[int, ...]
    settings: FitSettings
    members: int
    on_gpu: bool
    itemsize: int  # bytes of a number in features and networks
    n_threads: int

    def choices(self) -> Iterator[tuple[bool, int | None]]:
        """Pairs of (stream, atoms of a block), the fastest first."""
        whole = self.sizes.n_atoms if self.on_gpu else BLOCK_ATOMS
        smaller = []
        atoms = whole // 2
        while atoms >= _LEAST_BLOCK_ATOMS:
            smaller.append(atoms)
            atoms //= 2
        yield False, None
        if self.on_gpu:
            yield from ((False, atoms) for atoms in smaller if atoms >= _LEAST_GPU_BLOCK)
        else:
            yield True, None
        yield from ((True, atoms) for atoms in smaller)

    def plan(self, limit: int, *, stream: bool, block_atoms: int | None) -> MemoryPlan:
        all_of_them = self._jacobians()
        kept = 0 if stream else all_of_them
        items = self._items(stream, block_atoms, kept)
        if kept and _limited(items, self.on_gpu) > limit:
            # Keep as many as fit beside the memory in which the others are computed.
            least = self._items(stream, block_atoms, 0)
            room = limit - _limited(least, self.on_gpu) - self._making_jacobians()
            kept = max(0, min(kept - 1, room))
            items = self._items(stream, block_atoms, kept) if kept else least
        return MemoryPlan(
            items=tuple(item for item in items if item.host or item.device),
            limit=limit,
            on_gpu=self.on_gpu,
            stream=stream,
            block_atoms=block_atoms,
            jacobian_bytes=all_of_them,
            kept_bytes=kept,
            kept_name=self._kept_name,
            exact_pairs=self.sizes.exact_pairs,
        )

    def _items(self, stream: bool, block_atoms: int | None, kept: int) -> list[MemoryItem]:
        host, device = _PROGRAM_CUDA if self.on_gpu else (_PROGRAM, 0)
        open_blocks = self._workers if stream else 0
        # The C library may hold on to up to twice the memory that was freed last (seen in some processes, not in all).
        held_blocks = open_blocks + 2 * stream
        in_block = self._block(block_atoms)
        computes_anew = kept < self._jacobians()
        activations = self._activations(in_block, computes_anew=computes_anew)
        making = self._making_jacobians() if kept else 0
        features = (self.sizes.places * self.descriptor.n_features + self.sizes.ones) * self.itemsize
        matrix = self._matrix_memory
        return [
            MemoryItem("the program", host, device),
            self._labels(stream),
            MemoryItem("features of a text set", 0 if self.sizes.in_files else 2 * self._file_features),
            self._item("statistics of the inputs", self._statistics),
            self._item("features", 0 if stream else features),
            self._item("neighbours", 0 if stream else self._pairs(1.0)),
            self._item("blocks that are read from the file", held_blocks * self._open_block(in_block)),
            MemoryItem("reading", max(1, open_blocks) * self._reading(in_block)),
            self._item(self._kept_name, kept + making),
            self._item("values and derivatives of blocks", self._workers * activations),
            self._item("recorded operations", self._recorded(in_block, stream, computes_anew=computes_anew)),
            self._item("sums", self._sums()),
            self._item("history and vectors of the optimiser", self.optimizer_bytes),
            self._item(_MATRICES, matrix.matrices if matrix else 0),
            self._item("rows of J and what they are made of", self._workers * matrix.rows(in_block) if matrix else 0),
            MemoryItem("run file, while it is written", int(2.25 * self.optimizer_bytes)),
        ]

    def _item(self, name: str, count: int) -> MemoryItem:
        return MemoryItem(name, 0, count) if self.on_gpu else MemoryItem(name, count)

    @property
    def _workers(self) -> int:
        return 1 if self.on_gpu else min(self.n_threads, self.sizes.n_lanes)

    @property
    def _at_once(self) -> int:
        """Number of members computed together."""
        return self.members if self.on_gpu else 1

    @property
    def n_parameters(self) -> int:
        per_network = sum((a + 1) * b for a, b in zip(self.layers[:-1], self.layers[1:], strict=True))
        return self.descriptor.n_elements * per_network

    @property
    def _statistics(self) -> int:
        if self.settings.conditioning == "none":
            return 0
        return statistics_bytes(self.sizes.n_atoms, self.descriptor.n_features, self.descriptor.n_elements)

    @property
    def _file_features(self) -> int:
        return self.sizes.n_atoms * self.descriptor.n_features * 8

    @property
    def optimizer_bytes(self) -> int:
        """Bytes of the optimiser's memory, and of 6 vectors of each member in `fit`."""
        own = self.settings.optimizer.memory_bytes(self.members, self.n_parameters, on_gpu=self.on_gpu)
        return own + 8 * self.members * 6 * self.n_parameters

    def _labels(self, stream: bool) -> MemoryItem:
        """Bytes of the set without features, whole and in parts, of the objectives, and of the layouts of blocks."""
        own = label_bytes(self.sizes.n_atoms, self.sizes.n_structures)
        copies = 3 if stream and self.sizes.label_atoms else 2
        dividing = 24 * self.sizes.n_atoms  # temporary indices of atoms when parts and blocks are selected
        # The place of each atom in packs or by element, and for packs the atom of each place.
        layout = 8 * (self.sizes.n_atoms + self.sizes.places - self.sizes.ones)
        if self.descriptor.n_elements == 1:
            layout = 0
        objective = layout + objective_bytes(self.sizes.n_atoms, self.sizes.n_structures, self.itemsize)
        if self.on_gpu:
            return MemoryItem("labels", 2 * own + dividing, (copies - 1) * own + dividing + objective)
        return MemoryItem("labels", copies * own + dividing + objective)

    def _pairs(self, share: float) -> int:
        """Bytes of neighbours, slopes of the features, `PairSums` and places, for a share of the atoms with labels."""
        sizes, e = self.sizes, self.itemsize
        several = self.descriptor.n_elements > 1
        by_pair = 8 * sizes.places_for_pairs + (3 * e + 16 + several) * sizes.pairs
        by_atom = self.descriptor.n_features * e + 40 + 4 * e
        places = self._matrix_memory.places if self._matrix_memory else 0
        return int(share * (by_pair + by_atom * sizes.label_atoms + places))

    def _jacobians(self) -> int:
        """Bytes of derivatives and bonds, if all were kept."""
        return self._derivatives + self.sizes.bonds

    @property
    def _derivatives(self) -> int:
        n_features = self.descriptor.n_features if self.layers[0] else 0  # a bare potential has none
        return jacobian_bytes(self.sizes.places_for_pairs, n_features, self.itemsize)

    @property
    def _kept_name(self) -> str:
        if not self.sizes.bonds:
            return "derivatives kept for forces"
        return "derivatives and bonds kept" if self._derivatives else "bonds kept"

    def _making_jacobians(self) -> int:
        """Temporary bytes of one chunk's derivatives, beside those that are kept."""
        chunk = jacobian_bytes(self._chunk_pairs(), self.descriptor.n_features, self.itemsize)
        return making_bytes(min(chunk, self._derivatives))

    def _block(self, block_atoms: int | None) -> int:
        """Most atoms of one block."""
        atoms = block_atoms or (self.sizes.n_atoms if self.on_gpu else BLOCK_ATOMS)
        n_blocks = -(-self.sizes.lane_atoms // atoms)
        return min(self.sizes.lane_atoms, -(-self.sizes.lane_atoms // n_blocks) + self.sizes.largest)

    def _share(self, atoms: int) -> float:
        return min(1.0, atoms / max(1, self.sizes.label_atoms))

    def _reading(self, atoms: int) -> int:
        return reading_bytes(atoms, self.descriptor.n_features)

    def _open_block(self, atoms: int) -> int:
        places = int(atoms * self.sizes.worst_padding)
        features = (
            (atoms * (self.descriptor.n_elements > 1) + places) * (self.descriptor.n_features + 1) * self.itemsize
        )
        return features + self._pairs(self._share(atoms))

    def _activations(self, atoms: int, *, computes_anew: bool) -> int:
        """Bytes of one block's layer outputs and derivatives; with labels also of autograd's tensors and of pairs."""
        members, n_features = self._at_once, self.descriptor.n_features
        places = int(atoms * self.sizes.worst_padding)
        hidden = self.layers[1:-1] or (0,)
        if not self.sizes.label_atoms:
            rows = [n + 1 for n in hidden]
            of_networks = self.itemsize * members * places * (sum(rows) + 2 * max(rows) + 6)
            return of_networks + self._piece(atoms, computes_anew=computes_anew)
        repeated = n_features if self.descriptor.n_elements > 1 else 0
        numbers = members * places * (6.5 * sum(hidden) + 3 * n_features + 20 + repeated)
        pairs = self._share(atoms) * self.sizes.places_for_pairs
        numbers += members * 6 * pairs
        if computes_anew:
            per_atom, per_place = self.descriptor.chunk_numbers
            numbers += (per_place + 6 * members) * min(pairs, self._chunk_pairs())
            numbers += per_atom * min(self._share(atoms) * self.sizes.label_atoms, self._chunk_limits[0])
        return int(self.itemsize * numbers) + self._piece(atoms, computes_anew=computes_anew)

    def _piece(self, atoms: int, *, computes_anew: bool) -> int:
        """Bytes of what is computed from some bonds of a block at once, and of finding them if they are not kept."""
        own = self.sizes.bonds * min(1.0, atoms / self.sizes.n_atoms)
        places = piece_places(on_cpu=not self.on_gpu, with_vectors=self.sizes.label_atoms > 0)
        most = self.itemsize * _NUMBERS_OF_PLACE * places
        return int(min(most, 4 * own) * (2 if computes_anew else 1))

    def _recorded(self, atoms: int, stream: bool, *, computes_anew: bool) -> int:
        """Bytes of the recordings (`cuda_graphs`), for as many members as are recorded; none where there are bonds."""
        n_points = min(self.members, RECORDED_ATOMS[self.sizes.label_atoms > 0] // max(1, self.sizes.n_atoms))
        if not self.on_gpu or stream or not n_points or self.sizes.bonds:
            return 0
        matrix = self._matrix_memory
        of_matrix = 0
        if matrix is not None:  # whose optimiser records trials of its own
            of_matrix = matrix.recorded(atoms)
            n_points += min(n_points, GPU_MEMBERS)
        return of_matrix + self._activations(atoms, computes_anew=computes_anew) * n_points // self.members

    @property
    def _matrix_memory(self) -> MatrixMemory | None:
        """Memory of J^T J; None where nothing needs it."""
        by_evidence = self.settings.l2 == "auto"
        if not (by_evidence or self.settings.optimizer.needs is Gives.RESIDUALS):
            return None
        together = min(self.members, GPU_MEMBERS if self.on_gpu else CPU_MEMBERS)
        return MatrixMemory(
            self.sizes,
            self.layers,
            self.n_parameters,
            self.itemsize,
            self._workers,
            self.on_gpu,
            n_kept=together - 1 + (self.members if by_evidence else 0),
        )

    @property
    def _chunk_limits(self) -> tuple[int, int]:
        return chunk_limits(on_gpu=self.on_gpu, itemsize=self.itemsize)

    def _chunk_pairs(self) -> float:
        """Places for pairs in one chunk."""
        most_atoms, most_pairs = self._chunk_limits
        return min(most_pairs, most_atoms * self.sizes.places_for_pairs / max(1, self.sizes.label_atoms))

    def _sums(self) -> int:
        """Bytes of sums over lanes: gradients, and a few copies of the energies."""
        gradients = (self.sizes.n_lanes + 3 * self._workers) * self.members * self.n_parameters
        return self.itemsize * gradients + (3 * self.itemsize + 32) * self.members * self.sizes.n_structures
