"""Predictions by fused kernels, interpreted, against those by chunks; and what happens where kernels fail."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import interpreted  # noqa: F401, first
import pytest
import torch
from ase.build import bulk
from held_memory import PeakMemory, held_bytes
from host_waits import HostWaits
from torch import Tensor

from pyfit_gpu import fused
from pyfit_gpu.descriptors.kernels.expansion import FusedExpansion
from pyfit_gpu.descriptors.kernels.pair_totals import FlatTotals
from pyfit_gpu.descriptors.kernels.pairs import FlatPairs
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import load_potential
from pyfit_gpu.models import fused_walk, walks
from pyfit_gpu.models.batches import Batch
from pyfit_gpu.models.network_passes import EveryElement
from pyfit_gpu.models.networks import ElementLayout, ElementNetworks
from pyfit_gpu.models.potential import Potential, join_members
from pyfit_gpu.models.prediction import Prediction, inputs_of_batch, predict, predict_batch, prediction_batches
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.neighbors import find_neighbors

MakeFrame = Callable[..., Frame]

MORE_TERMS = {"gi_mode": 6, "cross_terms": 1, "triples": ((1, 1, 2),)}


def make_potential(elements: tuple[str, ...], n_members: int = 1, **more: object) -> Potential:
    settings = {"gi_mode": 5, "shift": 0.5, "legendre_orders": (0, 1, 2), "gaussian_centers": (1.6, 2.4, 3.1), **more}
    descriptor = LocalStructureParameters(
        elements=elements, cutoff=3.4, cutoff_width=1.0, gaussian_width=0.8, **settings
    )
    sizes = (descriptor.n_features, 5, 4, 1)
    members = [
        Potential(
            descriptor=descriptor,
            networks=ElementNetworks.random(sizes, 2.0, seed, n_elements=len(elements), activation=1),
            masses=(28.0855,) * len(elements),
            max_random=0.5,
            use_baseline=False,
            bond_order_parameters=(0.0,) * 8,
            energy_shift=torch.full((len(elements),), 5.25, dtype=torch.float64),
        )
        for seed in range(n_members)
    ]
    return join_members(members)


@pytest.fixture
def structures(random_frame: MakeFrame, make_frame: MakeFrame) -> Structures:
    """A few atoms, one of them alone in its structure, and one without a full cell."""
    frames = [
        random_frame(1, 3, length=4.2, elements=("Si", "C")),
        make_frame([[0, 0, 0]]),
        random_frame(2, 2, length=4.5, pbc=(True, False, True), elements=("Si", "C")),
    ]
    return Structures.from_frames(frames)


@pytest.fixture
def with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that counts as a device with kernels, for predictions."""
    monkeypatch.setattr(walks, "has_fused_kernels", lambda device: True)
    monkeypatch.setattr(fused, "has_fused_kernels", lambda device: True)


def of_one_element(structures: Structures) -> Structures:
    numbers = structures.atomic_numbers
    return replace(structures, atomic_numbers=torch.where(numbers > 0, 14, numbers))


def assert_equal_predictions(found: Prediction, expected: Prediction, tolerance: float) -> None:
    for name in ("energy", "atomic_energies", "forces", "stress"):
        own, wanted = getattr(found, name), getattr(expected, name)
        scale = float(wanted.nan_to_num().abs().max())
        torch.testing.assert_close(own, wanted, rtol=0, atol=tolerance * scale, equal_nan=True, msg=name)


CASES = {
    "one element": (("Si",), {}),
    "two elements": (("Si", "C"), {}),
    "mode 0, a committee": (("Si",), {"gi_mode": 0, "n_members": 3}),
    "mode 1": (("Si",), {"gi_mode": 1}),
    "further terms": (("Si", "C"), MORE_TERMS),
}


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("name", CASES)
def test_against_chunks(structures: Structures, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    elements, more = CASES[name]
    potential = make_potential(elements, **more)
    structures = structures if len(elements) > 1 else of_one_element(structures)
    found = predict(potential, structures)
    monkeypatch.setattr(walks, "has_fused_kernels", lambda device: False)
    assert_equal_predictions(found, predict(potential, structures), 1e-13)
    assert (found.spread is None) == (potential.networks.n_members == 1)


@pytest.mark.parametrize("kernels", [True, False])
def test_pairs_beyond_the_cutoff_change_nothing(
    structures: Structures, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists with a skin keep them."""
    for module in (walks, fused):
        monkeypatch.setattr(module, "has_fused_kernels", lambda device: kernels)
    potential = make_potential(("Si", "C"), **MORE_TERMS)
    batch = batch_of(potential, structures)
    wide = replace(batch, neighbors=find_neighbors(batch.structures, potential.neighbor_cutoff + 0.8))
    assert len(wide.neighbors.index) > 1.2 * len(batch.neighbors.index)
    assert_equal_predictions(predict_batch(potential, wide), predict_batch(potential, batch), 1e-13)


@pytest.mark.usefixtures("with_kernels")
def test_single_precision(structures: Structures, monkeypatch: pytest.MonkeyPatch) -> None:
    potential, structures = make_potential(("Si",)), of_one_element(structures)
    found = predict(potential.to("cpu", torch.float32), structures)
    assert found.forces.dtype == torch.float32
    monkeypatch.setattr(walks, "has_fused_kernels", lambda device: False)
    expected = predict(potential, structures).to("cpu", torch.float32)
    assert_equal_predictions(found, expected, 1e-5)


def batch_of(potential: Potential, structures: Structures) -> Batch:
    (batch,) = prediction_batches(structures.sizes, structures.select, potential)
    return batch


@pytest.mark.usefixtures("with_kernels")
def test_pieces_of_any_length_give_the_same(structures: Structures, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bits of what an atom's own pairs make, and of all, from run to run."""
    potential = make_potential(("Si", "C"))
    batch = batch_of(potential, structures)
    whole, again = predict_batch(potential, batch), predict_batch(potential, batch)
    for name in ("energy", "forces", "stress"):
        assert torch.equal(getattr(whole, name).nan_to_num(), getattr(again, name).nan_to_num())
    monkeypatch.setattr(fused_walk, "_BYTES", 1)
    monkeypatch.setattr(fused_walk, "_BYTES_PER_ATOM", 1)
    pieces = []
    evaluate = fused_walk.FusedWalk._evaluate

    def noted(self: fused_walk.FusedWalk, piece: FlatPairs, *rest: object) -> None:
        pieces.append(piece.atoms)
        evaluate(self, piece, *rest)

    monkeypatch.setattr(fused_walk.FusedWalk, "_evaluate", noted)
    cut = predict_batch(potential, batch)
    assert pieces == [range(k, k + 1) for k in range(6)]
    assert_equal_predictions(cut, whole, 1e-14)


@pytest.mark.parametrize("n_members", [1, 3])
def test_all_atoms_for_all_networks_as_sorted_ones(n_members: int) -> None:
    """Networks of other elements may give anything, also no number."""
    networks = make_potential(("Si", "C", "O"), n_members).networks
    species = torch.tensor([2, 0, 0, 2, 0])
    features = torch.rand(5, networks.layer_sizes[0], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    grad = torch.rand(n_members, 5, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    networks.biases[-1][:, 1] = torch.nan  # of the element without atoms
    found = []
    for layout in (ElementLayout.of(species, 3), EveryElement(None, None, species, 3)):
        own = layout.restored(networks.with_vjp(layout.arrange(features)))
        found.append((own.outputs, own.hidden, own.vjp(grad), own.hidden_vjp(grad.expand(-1, -1, own.hidden.shape[2]))))
    for sorted_, every in zip(*found, strict=True):
        torch.testing.assert_close(every, sorted_, rtol=1e-13, atol=1e-14)


@pytest.mark.usefixtures("with_kernels")
def test_inputs_are_kept(structures: Structures, monkeypatch: pytest.MonkeyPatch) -> None:
    potential = make_potential(("Si", "C"))
    batch = batch_of(potential, structures)
    _, inputs = inputs_of_batch(potential, batch)
    torch.testing.assert_close(inputs, batch.features(potential.descriptor), rtol=0, atol=1e-13)


@pytest.mark.usefixtures("with_kernels")
def test_an_error_names_the_atom(make_frame: MakeFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_walk, "_BYTES", 1)
    monkeypatch.setattr(fused_walk, "_BYTES_PER_ATOM", 1)
    potential = make_potential(("Si",), gi_mode=1, shift=0.0)
    structures = Structures.from_frames([make_frame([[0, 0, z] for z in own]) for own in ([0, 2], [0, 2, 20])])
    with pytest.raises(InputError, match=r"second, atom 3: feature 1: the logarithm"):
        predict(potential, replace(structures, sources=("first", "second")))


@pytest.mark.usefixtures("with_kernels")
def test_no_pairs_at_all(make_frame: MakeFrame) -> None:
    potential = make_potential(("Si",))
    found = predict(potential, Structures.from_frames([make_frame([[0, 0, 0]]), make_frame([[0, 0, 0], [9, 0, 0]])]))
    assert not found.forces.any()
    assert torch.equal(found.atomic_energies, found.atomic_energies[:1].expand(3))


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("elements", [("Si",), ("Si", "C"), ("C", "O", "Si")], ids=str)
def test_the_host_waits_for_nothing(
    structures: Structures, monkeypatch: pytest.MonkeyPatch, elements: tuple[str, ...]
) -> None:
    """In one piece. Kernels do nothing here: the interpreter itself reads numbers."""
    potential = make_potential(elements)
    batch = batch_of(potential, structures if len(elements) > 1 else of_one_element(structures))
    monkeypatch.setattr(FusedExpansion, "_launch", lambda self, *arguments: None)
    monkeypatch.setattr(FlatTotals, "add", lambda self, atoms, pairs, grad: None)
    with HostWaits() as noted:
        predict_batch(potential, batch)
    assert not noted.found


class CompilationError(Exception):
    __module__ = "triton.compiler.errors"


@pytest.mark.usefixtures("with_kernels")
def test_a_kernel_that_cannot_be_compiled(
    structures: Structures, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    potential = make_potential(("Si", "C"))
    monkeypatch.setattr(fused, "_known", {})

    def fail(self: FusedExpansion, pairs: object) -> Tensor:
        raise CompilationError("too many registers")

    monkeypatch.setattr(FusedExpansion, "sums", fail)
    found = predict(potential, structures)
    monkeypatch.setattr(walks, "has_fused_kernels", lambda device: False)
    expected = predict(potential, structures)
    assert torch.equal(found.forces, expected.forces)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "CompilationError: too many registers" in line


@pytest.mark.usefixtures("with_kernels")
def test_other_errors_come_out(structures: Structures, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: FusedExpansion, pairs: object) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(FusedExpansion, "sums", fail)
    with pytest.raises(torch.OutOfMemoryError):
        predict(make_potential(("Si", "C")), structures)


@pytest.mark.usefixtures("with_kernels")
def test_memory_of_an_atom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below 2 kB with 28 neighbours and 42 inputs, structures and neighbours included. Kernels do nothing here."""
    potential = load_potential(Path(__file__).parents[1] / "data" / "si_small.nn.dat")
    crystal = bulk("Si", cubic=True) * (8, 8, 8)
    structures = Structures.from_frames([Frame.of_atoms(crystal, "made")])
    batch = batch_of(potential, structures)
    n_atoms = structures.n_atoms
    assert len(batch.neighbors.index) == 28 * n_atoms
    monkeypatch.setattr(FusedExpansion, "_launch", lambda self, *arguments: None)
    monkeypatch.setattr(FlatTotals, "add", lambda self, atoms, pairs, grad: None)
    monkeypatch.setattr(fused_walk, "_BYTES", 1)
    predict_batch(potential, batch)  # the tables of a basis stay
    batch = replace(batch, neighbors=replace(batch.neighbors, _known={}))
    held = held_bytes(batch)
    with PeakMemory() as memory:
        predict_batch(potential, batch)
    assert 1000 < (held + memory.peak) / n_atoms < 2000
