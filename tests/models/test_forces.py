"""Forces and stress against differences of the pair sum's energies, symmetries, sum rules, degenerate geometries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pair_sum
import pytest
import torch
from ase.data import chemical_symbols
from ase.stress import voigt_6_to_full_3x3_stress
from torch import Tensor

from pyfit_gpu.descriptors import lsp as descriptor_module
from pyfit_gpu.descriptors.expansion import Chunk
from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.descriptors.pair_sums import PairSums
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.batches import batches
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.models.prediction import Prediction, evaluate, predict, predict_batch
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.neighbors import Neighbors, find_neighbors

MakeFrame = Callable[..., Frame]

CUTOFF = 3.8  # Å
STEP = 1e-3  # Å and strain: what fourth-order differences leave is below 1e-10
FORCE_TOLERANCE, STRESS_TOLERANCE = 1e-9, 1e-9  # eV/Å, eV/Å^3, against differences
EXACT = 1e-12  # the same, where only the order of sums differs
STRESS_ORDER = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # ASE's xx yy zz yz xz xy
SI_C = ("Si", "C")


def make_potential(
    elements: tuple[str, ...] = ("Si",),
    gi_mode: int = 5,
    *,
    activation: int = 1,
    shift: float = 0.5,
    legendre_orders: tuple[int, ...] = (0, 1, 2, 4),
    cross_terms: int = 0,
    triples: tuple[tuple[int, int, int], ...] = (),
    n_outputs: int = 1,
    n_members: int = 1,
) -> Potential:
    """A potential with random weights of order 2, and a shift of energies that must not show."""
    descriptor = LocalStructureParameters(
        elements=elements,
        gi_mode=gi_mode,
        shift=shift,
        cutoff=CUTOFF / 1.5 if gi_mode in (3, 4) else CUTOFF,
        cutoff_width=1.0,
        gaussian_width=0.8,
        legendre_orders=legendre_orders,
        gaussian_centers=(1.6, 2.4, 3.1),
        cross_terms=cross_terms,
        triples=triples,
    )
    sizes = (descriptor.n_features, 5, 4, n_outputs)
    members = [
        ElementNetworks.random(sizes, 2.0, seed, n_elements=len(elements), activation=activation)
        for seed in range(n_members)
    ]
    flat = torch.cat([member.flat() for member in members])
    return Potential(
        descriptor=descriptor,
        networks=ElementNetworks.from_flat(flat, sizes, n_elements=len(elements), activation=activation),
        masses=(28.0855,) * len(elements),
        max_random=0.5,
        use_baseline=False,
        bond_order_parameters=(0.0,) * 8,
        energy_shift=torch.full((len(elements),), 5.25, dtype=torch.float64),
    )


def predicted(potential: Potential, *frames: Frame, **keywords: object) -> Prediction:
    return predict(potential, Structures.from_frames(frames), **keywords)


def forces_of(potential: Potential, *frames: Frame, **keywords: object) -> Tensor:
    forces = predicted(potential, *frames, **keywords).forces
    assert forces is not None
    return forces


def stress_of(potential: Potential, *frames: Frame, **keywords: object) -> Tensor:
    stress = predicted(potential, *frames, **keywords).stress
    assert stress is not None
    return stress


def assert_close(found: Tensor | None, expected: Tensor | np.ndarray | None, tolerance: float = EXACT) -> None:
    """Equal within the tolerance, NaN where and only where NaN is expected."""
    assert found is not None
    assert expected is not None
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    found = found.double().numpy()
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    assert np.nanmax(np.abs(found - expected), initial=0.0) < tolerance


def assert_same(found: Prediction, expected: Prediction, tolerance: float = EXACT) -> None:
    for name in ("energy", "atomic_energies", "forces", "stress"):
        assert_close(getattr(found, name), getattr(expected, name), tolerance)


# Against differences of energies of the pair sum


def oracle(potential: Potential, frame: Frame) -> np.ndarray:
    """Energies (n_atoms,) eV by the plain loops of pair_sum, for the potential's first member."""
    d, networks = potential.descriptor, potential.networks
    nn = {"symbols": list(d.elements), "gi_mode": d.gi_mode, "shift": d.shift, "rc": d.cutoff, "d": d.cutoff_width}
    nn |= {"sigma": d.gaussian_width, "legendre_orders": d.legendre_orders, "r0": d.gaussian_centers}
    nn |= {"cross_terms": d.cross_terms, "triples": d.triples}
    nn |= {"activation": networks.activation, "layer_sizes": networks.layer_sizes}
    nn["layers"] = [
        [(w[0, kind].numpy().T, b[0, kind].numpy()) for w, b in zip(networks.weights, networks.biases, strict=True)]
        for kind in range(len(d.elements))
    ]
    symbols = [chemical_symbols[number] for number in frame.atomic_numbers]
    return pair_sum.atomic_energies(pair_sum.Structure(frame.positions, frame.cell, frame.pbc, symbols), nn)


def slope(energy: Callable[[float], float]) -> float:
    """Fourth-order central difference at 0."""
    one, two = (energy(n * STEP) - energy(-n * STEP) for n in (1, 2))
    return (8 * one - two) / (12 * STEP)


def difference_forces(potential: Potential, frame: Frame) -> np.ndarray:
    """(n, 3) eV/Å."""
    forces = np.zeros_like(frame.positions)
    for place in np.ndindex(forces.shape):
        move = np.zeros_like(forces)
        move[place] = 1.0

        def energy(step: float, move: np.ndarray = move) -> float:
            return float(oracle(potential, replace(frame, positions=frame.positions + step * move)).sum())

        forces[place] = -slope(energy)
    return forces


def difference_stress(potential: Potential, frame: Frame) -> np.ndarray:
    """(6,) eV/Å^3: the energy's slope by a symmetric strain of cell and atoms, per volume; NaN without a full cell."""
    if frame.volume == 0:
        return np.full(6, np.nan)
    stress = np.zeros(6)
    for number, (row, column) in enumerate(STRESS_ORDER):
        strain = np.zeros((3, 3))
        strain[row, column] += 0.5
        strain[column, row] += 0.5

        def energy(step: float, strain: np.ndarray = strain) -> float:
            stretch = np.eye(3) + step * strain
            strained = replace(frame, positions=frame.positions @ stretch, cell=frame.cell @ stretch)
            return float(oracle(potential, strained).sum())

        stress[number] = slope(energy) / frame.volume
    return stress


def assert_derivatives(potential: Potential, frame: Frame) -> Prediction:
    found = predicted(potential, frame)
    assert_close(found.atomic_energies, oracle(potential, frame))
    assert_close(found.forces, difference_forces(potential, frame), FORCE_TOLERANCE)
    assert_close(found.stress, difference_stress(potential, frame)[None], STRESS_TOLERANCE)
    assert_close(found.forces.sum(dim=0), np.zeros(3), 1e-10)
    return found


MODES = [
    *[((mode, ("Si",), mode % 2)) for mode in (0, 1, 3, 4, 5, 6)],
    (5, ("Si",), 0),
    (2, SI_C, 0),
    (0, SI_C, 1),
    (3, SI_C, 0),
    (5, SI_C, 0),
    (5, ("C", "Si"), 1),
    (5, ("O", "Si", "C"), 1),
]


@pytest.mark.parametrize(("gi_mode", "elements", "activation"), MODES)
def test_every_mode_in_a_skewed_cell(
    random_frame: MakeFrame, gi_mode: int, elements: tuple[str, ...], activation: int
) -> None:
    """Atoms stand far outside the cell, too."""
    potential = make_potential(elements, gi_mode, activation=activation)
    frame = random_frame(1, 3, length=4.4, elements=elements, scatter=1)
    found = assert_derivatives(potential, frame)
    assert found.forces.abs().max() > 0.02
    assert found.stress.abs().min() > 1e-6


@pytest.mark.parametrize("elements", [("Si",), SI_C], ids="".join)
def test_tanh(random_frame: MakeFrame, elements: tuple[str, ...]) -> None:
    """Smaller parameters than elsewhere, with which it is not saturated."""
    potential = make_potential(elements, 2, activation=2)
    networks = potential.networks.with_flat(0.2 * potential.networks.flat())
    found = assert_derivatives(replace(potential, networks=networks), random_frame(1, 3, length=4.4, elements=elements))
    assert found.forces.abs().max() > 0.002


MORE_SI_C = {"gi_mode": 6, "cross_terms": 1, "triples": ((1, 1, 2), (2, 2, 2))}
MORE_TERMS = [
    (("Si",), {"cross_terms": 1, "triples": ((1, 1, 2), (1, 2, 3), (2, 2, 2)), "legendre_orders": (0, 1, 2, 3, 4)}),
    (("Si",), {"cross_terms": 2, "triples": ((2, 2, 4), (0, 0, 0), (0, 2, 2)), "legendre_orders": (4, 2, 0)}),
    (("Si",), {}),
    (SI_C, {"cross_terms": 1, "triples": ((1, 1, 2), (2, 2, 2), (1, 2, 3)), "legendre_orders": (3, 1, 2)}),
    (("C", "Si"), {"triples": ((0, 1, 1), (4, 4, 4), (1, 1, 2), (2, 2, 4))}),
    (("O", "Si", "C"), {"cross_terms": 2, "triples": ((1, 1, 2), (2, 2, 2)), "legendre_orders": (2, 1)}),
]


@pytest.mark.parametrize(("elements", "settings"), MORE_TERMS, ids=str)
def test_cross_and_four_body_terms(
    random_frame: MakeFrame, elements: tuple[str, ...], settings: dict[str, tuple]
) -> None:
    potential = make_potential(elements, 6, **settings)
    frame = random_frame(1, 3, length=4.4, elements=elements, scatter=1)
    found = assert_derivatives(potential, frame)
    assert found.forces.abs().max() > 0.02
    assert found.stress.abs().min() > 1e-6


def geometries(make_frame: MakeFrame, random_frame: MakeFrame) -> dict[str, Callable[[], Frame]]:
    """Frames of silicon and carbon with what is easily wrong: few periodic directions, images, symmetry, poles."""
    box = np.diag([4.1, 4.4, 4.7])
    flat = [[4.2, 0.3, 0], [0.9, 3.9, 0], [0, 0, 0]]
    full = [[4.2, 0.3, 0], [0.9, 3.9, 0], [0.4, 0.2, 9.0]]
    cluster = [[0.1, 0.2, 0.3], [1.9, 0.8, 1.2], [0.4, 2.2, 1.0]]
    three = ["Si", "C", "Si"]

    def frame(positions: object, cell: object = None, **keywords: object) -> Callable[[], Frame]:
        symbols = [SI_C[k % 2] for k in range(len(positions))]
        return lambda: make_frame(positions, cell, **{"symbols": symbols, **keywords})

    return {
        "molecule": frame(cluster),
        "no periodic direction in a full cell": frame(cluster, box, pbc=(False, False, False)),
        "slab with a third vector": frame(cluster, full, pbc=(True, True, False)),
        "slab without": frame(cluster, flat, pbc=(True, True, False)),
        "wire": frame(cluster[:2], box, pbc=(False, False, True)),
        "one atom among its own images": lambda: random_frame(3, 1, length=2.5, skew=0.4, elements=("C",)),
        "left-handed cell": frame(cluster[:2], box[[1, 0, 2]]),
        "lone pair": frame([[0, 0, 0], [0.7, 1.2, 1.9]]),
        "pair on the z axis": frame([[0, 0, 0], [0, 0, 2.2]]),
        "pair on the z axis, head down": frame([[0, 0, 0], [0, 0, -2.2]], symbols=["Si", "Si"]),
        "chain on the z axis": frame([[0, 0, 0], [0, 0, 2.2], [0, 0, -1.9]], symbols=three),
        "chain on the x axis": frame([[0, 0, 0], [1.8, 0, 0], [-2.1, 0, 0]], symbols=three),
        "bent chain in a line elsewhere": frame([[0, 0, 0], [1, 1, 1], [-1.2, -1.2, -1.2]]),
        "half a cell vector apart": frame([[0, 0, 0], [0, 0, 2.35]], box),
        "half a cell vector apart, and a third": frame([[0, 0, 0], [0, 0, 2.35], [1.5, 1.4, 0.9]], box),
        "half the diagonal apart": frame([[0.2, 0.2, 0.2], [1.7, 1.8, 1.75]], np.diag([3.0, 3.2, 3.1])),
        "images of both on the axes": frame([[0, 0, 0], [0, 0, 1.5]], np.diag([3.0, 3.2, 3.1])),
        "pair at the cutoff": frame([[0, 0, 0], [0, 0, CUTOFF], [0, 1.9, 0.2]], symbols=three),
        "alone in a cell": frame([[1, 2, 3]], 9 * np.eye(3)),
        "alone": frame([[1, 2, 3]]),
    }


@pytest.mark.parametrize("settings", [{}, MORE_SI_C], ids=["pairs", "more terms"])
@pytest.mark.parametrize("name", list(geometries(lambda: None, lambda: None)))
def test_every_geometry(make_frame: MakeFrame, random_frame: MakeFrame, name: str, settings: dict[str, tuple]) -> None:
    frame = geometries(make_frame, random_frame)[name]()
    found = assert_derivatives(make_potential(SI_C, **settings), frame)
    if frame.n_atoms > 2:
        assert found.forces.abs().max() > 0.02
    if frame.pbc.any() and frame.volume > 0 and name != "alone in a cell":
        assert found.stress.abs().max() > 1e-4


@pytest.mark.parametrize("gi_mode", [0, 1, 3, 4, 5, 6])
def test_lone_atoms(make_frame: MakeFrame, random_frame: MakeFrame, gi_mode: int) -> None:
    """Exactly no force, also beside other structures, and no stress of a cell."""
    frames = [make_frame([[1, 2, 3]], 12 * np.eye(3)), random_frame(1, 3), make_frame([[0, 0, 0]])]
    found = predicted(make_potential(gi_mode=gi_mode), *frames)
    assert found.forces[[0, 4]].eq(0).all()
    assert found.stress[0].eq(0).all()
    assert found.stress[2].isnan().all()
    assert found.forces[1:4].abs().max() > 0.02
    assert found.stress[1].abs().max() > 1e-4


@pytest.mark.parametrize("direction", [(0, 0, 1), (1, 0, 0), (2, -1, 2)], ids=str)
@pytest.mark.parametrize("excess", [-1e-9, 0.0, 1e-9])
def test_no_step_at_the_cutoff(make_frame: MakeFrame, excess: float, direction: tuple[int, ...]) -> None:
    """A pair at the cutoff is as good as apart: fc and its derivative vanish there."""
    potential = make_potential(SI_C)
    unit = np.array(direction) / np.linalg.norm(direction)
    third = np.cross(unit, [0.1, 0.9, 0.4])
    cluster = np.stack([0 * unit, -1.9 * unit, 2.1 * third / np.linalg.norm(third) - 0.5 * unit])
    apart = make_frame([*cluster, 60 * unit], symbols=["Si", "C", "C", "Si"])
    near = replace(apart, positions=np.stack([*cluster, (CUTOFF + excess) * unit]))
    assert np.linalg.norm(near.positions[1:3] - near.positions[3], axis=1).min() > CUTOFF + 0.1
    assert_same(predicted(potential, near), predicted(potential, apart))
    assert forces_of(potential, near)[3].abs().max() < EXACT
    lone_pair = make_frame([[1, 1, 1], 1 + (CUTOFF + excess) * unit], symbols=SI_C)
    assert forces_of(potential, lone_pair).abs().max() < EXACT


def test_stress_is_positive_under_tension(make_frame: MakeFrame) -> None:
    """A stretched crystal pulls: where the energy grows with the volume, the trace is positive."""
    potential = make_potential()
    frames = [make_frame([[0, 0, 0]], length * np.eye(3)) for length in np.linspace(2.2, 3.2, 11)]
    energy = predicted(potential, *frames).energy
    pressure = -stress_of(potential, *frames)[:, :3].mean(dim=1)
    grows = (energy[2:] - energy[:-2]) > 0
    assert grows.any()
    assert torch.equal(pressure[1:-1] < 0, grows)


# Symmetries and sum rules


def crystal(random_frame: MakeFrame, **keywords: object) -> Frame:
    return random_frame(5, 6, elements=SI_C, **keywords)


@pytest.mark.parametrize("sign", [1, -1])
def test_rotation_and_reflection(random_frame: MakeFrame, sign: int) -> None:
    potential, frame = make_potential(SI_C), crystal(random_frame)
    rotation = sign * np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turned = replace(frame, positions=frame.positions @ rotation.T, cell=frame.cell @ rotation.T)
    found, before = predicted(potential, turned), predicted(potential, frame)
    assert_close(found.energy, before.energy)
    assert_close(found.forces, before.forces.numpy() @ rotation.T)
    tensors = [voigt_6_to_full_3x3_stress(stress.numpy()) for stress in (found.stress[0], before.stress[0])]
    assert_close(torch.tensor(tensors[0]), rotation @ tensors[1] @ rotation.T)
    assert before.forces.abs().max() > 0.02
    assert before.stress.abs().min() > 1e-5


def test_translation(random_frame: MakeFrame) -> None:
    potential, frame = make_potential(SI_C), crystal(random_frame)
    moved = replace(frame, positions=frame.positions + np.array([7.3, -11.1, 0.4]))
    assert_same(predicted(potential, moved), predicted(potential, frame))
    scatter = np.random.default_rng(2).integers(-2, 3, (6, 3))
    scattered = replace(frame, positions=frame.positions + scatter @ frame.cell)
    assert_same(predicted(potential, scattered), predicted(potential, frame))


def test_permutation(random_frame: MakeFrame) -> None:
    potential, frame = make_potential(SI_C), crystal(random_frame)
    order = np.random.default_rng(1).permutation(6)
    permuted = replace(frame, positions=frame.positions[order], atomic_numbers=frame.atomic_numbers[order])
    found, before = predicted(potential, permuted), predicted(potential, frame)
    assert_close(found.forces, before.forces[order])
    assert_close(found.atomic_energies, before.atomic_energies[order])
    assert_close(found.stress, before.stress)


def reordered(potential: Potential, order: Sequence[int]) -> Potential:
    """The same potential with its elements in another order, and networks and blocks with them."""
    n_elements = len(order)
    blocks = [(a, b) for a in range(n_elements) for b in range(a, n_elements)]
    places = [blocks.index(tuple(sorted((order[a], order[b])))) for a, b in blocks]
    networks = potential.networks
    weights, biases = ([t[:, list(order)] for t in tensors] for tensors in (networks.weights, networks.biases))
    weights[0] = weights[0].unflatten(2, (len(blocks), -1))[:, :, places].flatten(2, 3)
    return replace(
        potential,
        descriptor=replace(potential.descriptor, elements=tuple(potential.descriptor.elements[k] for k in order)),
        networks=replace(networks, weights=tuple(weights), biases=tuple(biases)),
    )


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1)])
def test_order_of_the_elements(random_frame: MakeFrame, order: tuple[int, ...]) -> None:
    potential = make_potential(("Si", "C", "O"))
    frames = [random_frame(seed, 6, elements=("Si", "C", "O")) for seed in range(2)]
    assert_same(predicted(reordered(potential, order), *frames), predicted(potential, *frames))


def test_supercell(random_frame: MakeFrame) -> None:
    potential = make_potential(SI_C)
    frame = random_frame(7, 3, length=4.5, elements=SI_C)
    larger = replace(
        frame,
        positions=np.concatenate([frame.positions, frame.positions + frame.cell[0]]),
        cell=np.diag([2, 1, 1]) @ frame.cell,
        atomic_numbers=np.tile(frame.atomic_numbers, 2),
    )
    found, before = predicted(potential, larger), predicted(potential, frame)
    assert_close(found.energy, 2 * before.energy)
    assert_close(found.forces, before.forces.repeat(2, 1))
    assert_close(found.stress, before.stress)


@pytest.fixture
def mixed(random_frame: MakeFrame, make_frame: MakeFrame) -> list[Frame]:
    """Sizes up and down, a molecule, a lone atom, a slab, a structure of one element."""
    return [
        random_frame(1, 5, elements=SI_C),
        make_frame([[0, 0, 0], [0.3, 1.5, 1.4], [2.0, 0.2, 0.4]], symbols=["C", "Si", "C"]),
        random_frame(2, 7, elements=SI_C),
        make_frame([[1, 1, 1]], symbols=["C"]),
        random_frame(3, 2, elements=("C",)),
        random_frame(4, 4, elements=SI_C, pbc=(True, False, True)),
    ]


def test_a_batch_is_each_of_its_structures(mixed: list[Frame]) -> None:
    potential = make_potential(SI_C)
    alone = [predicted(potential, frame) for frame in mixed]
    found = predicted(potential, *mixed)
    for name in ("energy", "atomic_energies", "forces", "stress"):
        assert_close(getattr(found, name), torch.cat([getattr(one, name) for one in alone]))
    assert found.stress.isnan().any(dim=1).tolist() == [False, True, False, True, False, False]
    assert_close(found.energy, [float(one.atomic_energies.sum()) for one in alone])


@pytest.mark.parametrize("max_atoms", [1, 6])
def test_batches_of_any_size(mixed: list[Frame], max_atoms: int) -> None:
    potential, structures = make_potential(SI_C), Structures.from_frames(mixed)
    whole = Prediction.empty(len(mixed), structures.n_atoms, torch.empty(0, dtype=torch.float64), derivatives=True)
    for batch in batches(structures.sizes, structures.select, potential, max_atoms=max_atoms):
        whole.put(predict_batch(potential, batch), batch.rows, batch.atoms)
    assert_same(whole, predict(potential, structures))


@pytest.mark.parametrize("chunk", [(1, 65_536), (3, 65_536), (512, 60), (512, 1)], ids=str)
def test_chunks_do_not_matter(mixed: list[Frame], monkeypatch: pytest.MonkeyPatch, chunk: tuple[int, int]) -> None:
    potential = make_potential(SI_C)
    whole = predicted(potential, *mixed)
    monkeypatch.setattr(descriptor_module, "_CHUNK_CPU", chunk)
    assert_same(predicted(potential, *mixed), whole)


@pytest.mark.parametrize("step", [1, 16])
def test_padding_of_chunks_does_not_matter(mixed: list[Frame], monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    potential = make_potential(SI_C)
    whole = predicted(potential, *mixed)
    monkeypatch.setattr(descriptor_module, "WIDTH_STEP", step)
    assert_same(predicted(potential, *mixed), whole)


@pytest.mark.parametrize(("elements", "gi_mode"), [(SI_C, 5), (("Si",), 4)])
def test_backends_agree(mixed: list[Frame], elements: tuple[str, ...], gi_mode: int) -> None:
    frames = mixed if len(elements) > 1 else [replace(f, atomic_numbers=np.full(f.n_atoms, 14)) for f in mixed]
    potential = make_potential(elements, gi_mode)
    found = [predicted(potential, *frames, backend=backend) for backend in ("auto", "vesin", "torch")]
    assert_same(found[0], found[1])
    assert_same(found[2], found[1])
    with pytest.raises(ValueError, match="backend: expected one of"):
        predicted(potential, *frames, backend="scipy")


@pytest.mark.parametrize("element", [0, 1])
def test_an_element_without_atoms(random_frame: MakeFrame, element: int) -> None:
    """Blocks of an absent element are zero: a potential of one element with the block of the other says the same."""
    potential = make_potential(SI_C)
    block = 2 * element * 12
    networks = potential.networks
    weights, biases = ([t[:, [element]] for t in tensors] for tensors in (networks.weights, networks.biases))
    weights[0] = weights[0][:, :, block : block + 12]
    of_one = replace(
        potential,
        descriptor=replace(potential.descriptor, elements=(SI_C[element],)),
        networks=replace(networks, weights=tuple(weights), biases=tuple(biases)),
    )
    frames = [random_frame(seed, 4, elements=(SI_C[element],)) for seed in range(2)]
    assert_same(predicted(potential, *frames), predicted(of_one, *frames))
    assert forces_of(potential, *frames).abs().max() > 0.02


# Options, precision, errors


@pytest.mark.parametrize(("elements", "gi_mode"), [(SI_C, 5), (("Si",), 1), (("Si",), 3)])
def test_energies_need_no_derivatives(mixed: list[Frame], elements: tuple[str, ...], gi_mode: int) -> None:
    frames = mixed if len(elements) > 1 else [replace(f, atomic_numbers=np.full(f.n_atoms, 14)) for f in mixed]
    potential, structures = make_potential(elements, gi_mode), Structures.from_frames(frames)
    both, bare = predict(potential, structures), predict(potential, structures, derivatives=False)
    assert bare.forces is None
    assert bare.stress is None
    assert_close(bare.energy, both.energy)
    assert_close(bare.atomic_energies, both.atomic_energies)
    assert torch.equal(evaluate(potential, structures), bare.energy)
    sizes = torch.tensor(structures.sizes)
    assert_close(torch.stack([part.sum() for part in both.atomic_energies.split(sizes.tolist())]), both.energy)


def test_energies_alone_are_not_paid_for_with_derivatives(mixed: list[Frame], monkeypatch: pytest.MonkeyPatch) -> None:
    potential = make_potential(SI_C)

    def fail(*arguments: object) -> None:
        raise AssertionError("derivatives were not asked for")

    monkeypatch.setattr(Chunk, "vjp", fail)
    predicted(potential, *mixed, derivatives=False)
    with pytest.raises(AssertionError, match="not asked for"):
        predicted(potential, *mixed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float32(mixed: list[Frame], dtype: torch.dtype) -> None:
    """The potential's precision decides, whatever that of the structures. Forces: sums of tens of terms of 1 eV/Å."""
    potential = make_potential(SI_C)
    exact = predicted(potential, *mixed)
    found = predict(potential.to("cpu", torch.float32), Structures.from_frames(mixed, dtype=dtype))
    for name in ("energy", "atomic_energies", "forces", "stress"):
        assert getattr(found, name).dtype == torch.float32
        assert_close(getattr(found, name), getattr(exact, name), 2e-5)
    assert (found.forces.double() - exact.forces).abs().max() > 1e-9


def test_nothing_is_tracked(mixed: list[Frame]) -> None:
    """Weights in training require gradients; a prediction does not hold on to their graph."""
    potential = make_potential(SI_C)
    flat = potential.networks.flat().requires_grad_()
    networks = potential.networks
    trained = ElementNetworks.from_flat(flat, networks.layer_sizes, n_elements=2, activation=networks.activation)
    found = predicted(replace(potential, networks=trained), *mixed)
    assert not any(tensor.requires_grad for tensor in vars(found).values() if tensor is not None)
    assert_same(found, predicted(potential, *mixed))


def test_different_devices_are_refused(mixed: list[Frame]) -> None:
    potential, structures = make_potential(SI_C), Structures.from_frames(mixed)
    with pytest.raises(ValueError, match="predict: structures are on cpu, the potential is on meta"):
        predict(potential.to("meta"), structures)
    with pytest.raises(ValueError, match="predict: structures are on meta, the potential is on cpu"):
        predict(potential, structures.to("meta"))


@pytest.mark.parametrize("derivatives", [True, False])
def test_numbers_of_outputs_without_a_meaning_are_refused(mixed: list[Frame], derivatives: bool) -> None:
    with pytest.raises(InputError, match=r"predict: expected networks with 1 output .* 21 .*, got 8 outputs"):
        predicted(make_potential(SI_C, n_outputs=8), *mixed, derivatives=derivatives)


@pytest.mark.parametrize("derivatives", [True, False])
def test_errors_name_the_atom(
    random_frame: MakeFrame, make_frame: MakeFrame, monkeypatch: pytest.MonkeyPatch, derivatives: bool
) -> None:
    """Atoms of a chunk are not those of the batch: the message must say which one it was in the file."""
    monkeypatch.setattr(descriptor_module, "_CHUNK_CPU", (2, 65_536))
    bad = make_frame([[0, 0, 0], [0, 0, 2.3], [30, 0, 0]], source="b.dat, structure 9 (line 70)")
    frames = [random_frame(1, 2), bad, random_frame(2, 6)]
    potential = make_potential(gi_mode=1, shift=0.0, legendre_orders=(0,))  # G of order 0 is above 0 beside others
    with pytest.raises(InputError, match=r"b\.dat, structure 9 \(line 70\), atom 3: .*logarithm"):
        predicted(potential, *frames, derivatives=derivatives)
    with pytest.raises(InputError, match=r"atom 2: expected an element of the potential \(Si\), found C"):
        predicted(potential, make_frame([[0, 0, 0], [0, 0, 2]], symbols=SI_C), derivatives=derivatives)
    with pytest.raises(InputError, match="are at one place"):
        predicted(make_potential(), make_frame([[0, 0, 0], [0, 0, 1e-5]]), derivatives=derivatives)


def test_everything_on_a_gpu(mixed: list[Frame]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    potential = make_potential(SI_C)
    expected = predicted(potential, *mixed)
    found = predict(potential.to("cuda"), Structures.from_frames(mixed, device="cuda"))
    for name in ("energy", "atomic_energies", "forces", "stress"):
        assert getattr(found, name).device.type == "cuda"
        assert_close(getattr(found, name).cpu(), getattr(expected, name), 1e-11)


# Sums over pairs by themselves


Sums = tuple[PairSums, Neighbors, Tensor, list[Chunk]]


@pytest.fixture
def pair_sums(mixed: list[Frame], monkeypatch: pytest.MonkeyPatch) -> Sums:
    """Sums over the pairs of structures in several chunks, whose places for dummies are some."""
    monkeypatch.setattr(descriptor_module, "_CHUNK_CPU", (4, 65_536))
    structures = Structures.from_frames(mixed)
    potential = make_potential(SI_C)
    neighbors = find_neighbors(structures, CUTOFF)
    sizes = torch.tensor(structures.sizes)
    chunks = list(potential.descriptor.chunks(neighbors, potential.species_index(structures)))
    assert len(chunks) > 3
    return PairSums(neighbors, sizes), neighbors, sizes, chunks


MEMBERS = [(), (3,), (2, 3)]


def random_slopes(neighbors: Neighbors, chunks: list[Chunk], members: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
    """dE/dv of every pair, (n_pairs, .., 3) and chunk by chunk, (n, .., 3, K) with zeros at the dummies."""
    values = torch.tensor(np.random.default_rng(3).normal(size=(len(neighbors.index), *members, 3)))
    extended = torch.cat((values, torch.zeros(1, *members, 3, dtype=torch.float64)))
    return values, [extended[chunk.pairs].movedim(1, -1) for chunk in chunks]


@pytest.mark.parametrize("members", MEMBERS, ids=str)
def test_sums_against_a_loop(pair_sums: Sums, members: tuple[int, ...]) -> None:
    sums, neighbors, sizes, chunks = pair_sums
    values, by_chunk = random_slopes(neighbors, chunks, members)
    forces = torch.zeros(len(neighbors.counts), *members, 3, dtype=torch.float64)
    virials = torch.zeros(len(sizes), *members, 3, 3, dtype=torch.float64)
    structure = np.repeat(np.arange(len(sizes)), sizes)
    for g, v, i, j in zip(values, neighbors.vectors, neighbors.centers, neighbors.index, strict=True):
        forces[i] += g
        forces[j] -= g
        outer = v[:, None] * g[..., None, :]
        virials[structure[i]] += (outer + outer.transpose(-1, -2)) / 2
    found_forces, found_virials = sums(zip(chunks, by_chunk, strict=True))
    assert_close(found_forces, forces, 1e-13)
    assert_close(found_virials, torch.stack([virials[..., row, column] for row, column in STRESS_ORDER], dim=-1))
    only_forces, nothing = sums(zip(chunks, by_chunk, strict=True), virials=False)
    assert torch.equal(only_forces, found_forces)
    assert nothing is None


@pytest.mark.parametrize("members", MEMBERS, ids=str)
@pytest.mark.parametrize(("with_forces", "with_virials"), [(True, True), (True, False), (False, True)])
def test_vjp_is_the_transpose(pair_sums: Sums, members: tuple[int, ...], with_forces: bool, with_virials: bool) -> None:
    """<sums(g), (a, b)> = <g, vjp(a, b)> for any g, a and b."""
    sums, neighbors, sizes, chunks = pair_sums
    _, by_chunk = random_slopes(neighbors, chunks, members)
    rng = np.random.default_rng(4)
    of_forces = torch.tensor(rng.normal(size=(len(neighbors.counts), *members, 3))) if with_forces else None
    of_virials = torch.tensor(rng.normal(size=(len(sizes), *members, 6))) if with_virials else None
    forces, virials = sums(zip(chunks, by_chunk, strict=True))
    expected = 0.0
    if of_forces is not None:
        expected += float((forces * of_forces).sum())
    if of_virials is not None:
        expected += float((virials * of_virials).sum())
    found = 0.0
    for chunk, slopes in zip(chunks, by_chunk, strict=True):
        pulled = sums.vjp(chunk, of_forces, of_virials)
        assert pulled.shape == slopes.shape
        found += float((pulled * slopes).sum())
    assert abs(expected) > 1
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("virials", [True, False], ids=["virials", "forces"])
def test_sums_of_rows_are_those_of_chunks(pair_sums: Sums, virials: bool) -> None:
    """All pairs at once, components first, and the transpose of that."""
    sums, neighbors, _, chunks = pair_sums
    values, by_chunk = random_slopes(neighbors, chunks, (3,))
    expected = sums(zip(chunks, by_chunk, strict=True), virials=virials)
    rows = torch.cat((values, torch.full_like(values[:1], 7.0))).permute(1, 2, 0)  # what no pair has does not matter
    found = sums.of_rows(rows, neighbors.vectors, neighbors.counts, virials=virials)
    rng = np.random.default_rng(4)
    grads = [None if one is None else torch.tensor(rng.normal(size=tuple(one.shape))) for one in found]
    of_forces, of_virials = grads
    pulled = sums.rows_vjp(of_forces, of_virials, neighbors.vectors, neighbors.counts)
    assert not bool(pulled[..., -1].any())
    total = float((rows * pulled).sum())
    for one, other, grad in zip(found, expected, grads, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert_close(one, other, 1e-13)
            total -= float((one * grad).sum())
    assert total == pytest.approx(0, abs=1e-10)
