"""From structures to features, bond-order parameters and energies, each atom by its own element's network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pair_sum
import pytest
import torch
from ase.data import chemical_symbols
from bond_order_samples import make_bond_order

from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.batches import batches, featurize
from pyfit_gpu.models.energy import local_parameters, network_outputs
from pyfit_gpu.models.networks import ElementNetworks
from pyfit_gpu.models.potential import Potential, join_members, n_bond_order_parameters
from pyfit_gpu.models.prediction import evaluate
from pyfit_gpu.structures.batch import Structures
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.sums import sum_over_atoms

MakeFrame = Callable[..., Frame]
MakePotential = Callable[..., Potential]
BASELINE = (9.6, 4.7, 4.3, 1.45, 0.12, 0.8, 0.9, 0.85)


@pytest.fixture
def make_potential() -> MakePotential:
    """A potential with random weights of order 1."""

    def make(
        elements: tuple[str, ...] = ("Si",), *, n_outputs: int = 1, use_baseline: bool = False, **settings: object
    ) -> Potential:
        descriptor = LocalStructureParameters(
            **{
                "elements": elements,
                "gi_mode": 5,
                "shift": 0.5,
                "cutoff": 4.3,
                "cutoff_width": 1.1,
                "gaussian_width": 0.8,
                "legendre_orders": (0, 1, 2),
                "gaussian_centers": (1.7, 2.5, 3.3),
                **settings,
            }
        )
        sizes = (descriptor.n_features, 6, 4, n_outputs)
        n_baseline = len(elements) * n_bond_order_parameters(len(elements))
        return Potential(
            descriptor=descriptor,
            networks=ElementNetworks.random(sizes, 1.0, 7, n_elements=len(elements), activation=1),
            masses=(28.0855,) * len(elements),
            max_random=0.5,
            use_baseline=use_baseline,
            bond_order_parameters=tuple(np.resize(BASELINE, n_baseline).tolist()),
            energy_shift=torch.full((len(elements),), torch.nan, dtype=torch.float64),
        )

    return make


@pytest.fixture
def frames(random_frame: MakeFrame) -> list[Frame]:
    """Sizes up and down, so that batches by size must put everything back in order."""
    sizes = [5, 2, 7, 1, 4]
    return [random_frame(seed, n, elements=("Si", "C")) for seed, n in enumerate(sizes)]


def as_silicon(frames: list[Frame], number: int = 14) -> list[Frame]:
    return [replace(frame, atomic_numbers=np.full(frame.n_atoms, number)) for frame in frames]


def oracle(potential: Potential, frame: Frame) -> tuple[np.ndarray, list[np.ndarray]]:
    """Features and network outputs of every atom by the plain loops of pair_sum."""
    d = potential.descriptor
    nn = {"symbols": list(d.elements), "gi_mode": d.gi_mode, "shift": d.shift, "rc": d.cutoff, "d": d.cutoff_width}
    nn |= {"sigma": d.gaussian_width, "legendre_orders": d.legendre_orders, "r0": d.gaussian_centers}
    symbols = [chemical_symbols[number] for number in frame.atomic_numbers]
    features = pair_sum.features(pair_sum.Structure(frame.positions, frame.cell, frame.pbc, symbols), nn)
    outputs = []
    for symbol, inputs in zip(symbols, features, strict=True):
        kind = d.elements.index(symbol)
        weights = [weight[0, kind].numpy().T for weight in potential.networks.weights]
        biases = [bias[0, kind].numpy() for bias in potential.networks.biases]
        outputs.append(pair_sum.network(inputs, list(zip(weights, biases, strict=True)), 1))
    return features, outputs


def close(found: torch.Tensor, expected: np.ndarray | torch.Tensor, tolerance: float = 1e-11) -> bool:
    assert found.shape == expected.shape
    return bool(np.max(np.abs(np.asarray(found) - np.asarray(expected))) < tolerance)


@pytest.mark.parametrize("elements", [("Si", "C"), ("C", "Si")])
def test_two_elements_against_the_pair_sum(
    make_potential: MakePotential, frames: list[Frame], elements: tuple[str, ...]
) -> None:
    potential = make_potential(elements)
    structures = Structures.from_frames(frames)
    features, outputs = zip(*(oracle(potential, frame) for frame in frames), strict=True)
    assert close(featurize(structures, potential), np.concatenate(features))
    assert close(evaluate(potential, structures), np.array([np.sum(atoms) for atoms in outputs]))


@pytest.mark.parametrize("max_atoms", [1, 6, 1000])
def test_batches_of_any_size(make_potential: MakePotential, frames: list[Frame], max_atoms: int) -> None:
    potential = make_potential(("Si", "C"))
    structures = Structures.from_frames(frames)
    alone = torch.cat([featurize(Structures.from_frames([frame]), potential) for frame in frames])
    assert close(featurize(structures, potential), alone, 1e-13)
    features = torch.full_like(alone, torch.nan)
    for batch in batches(structures.sizes, structures.select, potential, max_atoms=max_atoms):
        features[batch.atoms] = batch.features(potential.descriptor)
    assert close(features, alone, 1e-13)


def test_energies_of_a_batch_are_those_of_each(make_potential: MakePotential, frames: list[Frame]) -> None:
    potential = make_potential(("Si", "C"))
    alone = torch.cat([evaluate(potential, Structures.from_frames([frame])) for frame in frames])
    assert close(evaluate(potential, Structures.from_frames(frames)), alone, 1e-12)


def test_energy_of_a_supercell(make_potential: MakePotential, random_frame: MakeFrame) -> None:
    frame = random_frame(1, 3, length=4.5)
    copies = np.array([[0, 0, 0], [0, 1, 0]]) @ frame.cell
    larger = replace(
        frame,
        positions=(copies[:, None] + frame.positions).reshape(-1, 3),
        cell=np.diag([1, 2, 1]) @ frame.cell,
        atomic_numbers=np.full(6, 14),
    )
    one, two = evaluate(make_potential(), Structures.from_frames([frame, larger]))
    torch.testing.assert_close(two, 2 * one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("use_baseline", [False, True])
def test_local_parameters(make_potential: MakePotential, frames: list[Frame], use_baseline: bool) -> None:
    potential = make_potential(("Si", "C"), n_outputs=21, use_baseline=use_baseline)
    structures = Structures.from_frames(frames)
    found = local_parameters(potential, featurize(structures, potential), potential.species_index(structures))
    expected = np.concatenate([oracle(potential, frame)[1] for frame in frames])
    species = np.concatenate([(frame.atomic_numbers == 6).astype(int) for frame in frames])
    baseline = np.resize(BASELINE, (2, 21))[species]
    assert close(found, (expected + baseline * use_baseline)[None])


def test_members_of_several_networks(make_potential: MakePotential, frames: list[Frame]) -> None:
    members = [make_potential(("Si", "C")).randomized(seed) for seed in range(3)]
    flat = torch.cat([member.networks.flat() for member in members])
    stacked = ElementNetworks.from_flat(flat, members[0].networks.layer_sizes, n_elements=2, activation=1)
    together = replace(members[0], networks=stacked)
    structures = Structures.from_frames(frames)
    features, species = featurize(structures, together), together.species_index(structures)
    outputs = network_outputs(together, features, species)[..., 0]
    energies = sum_over_atoms(outputs, torch.tensor(structures.sizes))
    assert energies.shape == (3, len(frames))
    assert close(energies, torch.stack([evaluate(member, structures) for member in members]), 1e-12)
    assert network_outputs(together, features, species).shape == (3, structures.n_atoms, 1)


def test_sum_over_atoms() -> None:
    atomic = torch.randn(3, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sums = sum_over_atoms(atomic, torch.tensor([4, 1, 5]))
    expected = [atomic[:, :4].sum(1), atomic[:, 4], atomic[:, 5:].sum(1)]
    torch.testing.assert_close(sums, torch.stack(expected, dim=1))
    assert torch.equal(sums, sum_over_atoms(atomic, torch.tensor([4, 1, 5])))


def test_sum_over_atoms_has_a_gradient() -> None:
    atomic = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: sum_over_atoms(values, torch.tensor([2, 1, 3])), (atomic,))


def test_species_index(make_potential: MakePotential, make_frame: MakeFrame) -> None:
    structures = Structures.from_frames(
        [make_frame([[k, 0, 0] for k in range(n)], symbols=list(symbols)) for n, symbols in [(3, "CSC"), (1, "S")]]
    )
    assert make_potential(("S", "C")).species_index(structures).tolist() == [1, 0, 1, 0]
    assert make_potential(("C", "O", "S")).species_index(structures).tolist() == [0, 2, 0, 2]


def test_atoms_without_a_symbol_are_the_only_element(make_potential: MakePotential, frames: list[Frame]) -> None:
    nameless, silicon = (Structures.from_frames(as_silicon(frames, number)) for number in (0, 14))
    potential = make_potential()
    assert torch.equal(evaluate(potential, nameless), evaluate(potential, silicon))
    with pytest.raises(InputError, match=r"made\.dat, structure 1 .*atom 1: .*\(Si, C\).*names no element"):
        evaluate(make_potential(("Si", "C")), nameless)


def test_an_element_that_the_potential_lacks(make_potential: MakePotential, make_frame: MakeFrame) -> None:
    good = make_frame([[0, 0, 0], [0, 0, 2]])
    bad = make_frame([[0, 0, 0], [0, 0, 2]], symbols=["Si", "Ge"], source="b.dat, structure 9 (line 70)")
    for potential in (make_potential(), make_potential(("C", "Si"))):
        with pytest.raises(InputError, match=r"b\.dat, structure 9 \(line 70\), atom 2: .*Si.*found Ge"):
            featurize(Structures.from_frames([good, bad, good]), potential)


def test_logarithm_of_zero_names_file_and_atom(make_potential: MakePotential, make_frame: MakeFrame) -> None:
    frame = make_frame([[0, 0, 0], [0, 0, 2.3], [30, 0, 0]], source="b.dat, structure 9 (line 70)")
    structures = Structures.from_frames([make_frame([[0, 0, 0], [0, 0, 2]]), frame])
    with pytest.raises(InputError, match=r"b\.dat, structure 9 \(line 70\), atom 3: .*logarithm"):
        featurize(structures, make_potential(gi_mode=1, shift=0.0, legendre_orders=(0,)))


@pytest.mark.parametrize("gi_mode", [3, 5])
def test_backends_agree(make_potential: MakePotential, frames: list[Frame], gi_mode: int) -> None:
    potential = make_potential(("Si", "C"), gi_mode=gi_mode)
    structures = Structures.from_frames(frames)
    values = [evaluate(potential, structures, backend=backend) for backend in ("auto", "vesin", "torch")]
    assert close(values[0], values[1], 1e-12)
    assert close(values[2], values[1], 1e-12)
    with pytest.raises(ValueError, match="backend: expected one of"):
        featurize(structures, potential, backend="scipy")


def test_randomized(make_potential: MakePotential) -> None:
    potential = make_potential(("Si", "C")).to("cpu", torch.float32)
    before = potential.networks.flat()
    drawn = potential.randomized(3)
    assert drawn.dtype == torch.float32
    assert drawn.descriptor == potential.descriptor
    assert 0.45 < drawn.networks.flat().abs().max() <= 0.5  # max_random of the header
    assert 0.009 < potential.randomized(3, 0.01).networks.flat().abs().max() <= 0.01
    assert torch.equal(drawn.networks.flat(), potential.randomized(3).networks.flat())
    assert not torch.equal(drawn.networks.flat(), potential.randomized(4).networks.flat())
    assert torch.equal(potential.networks.flat(), before)


def test_float32(make_potential: MakePotential, frames: list[Frame]) -> None:
    potential = make_potential(("Si", "C"))
    exact = evaluate(potential, Structures.from_frames(frames))
    single = potential.to("cpu", torch.float32)
    found = evaluate(single, Structures.from_frames(frames, dtype=torch.float32))
    assert single.dtype == found.dtype == torch.float32
    assert close(found.double(), exact, 2e-5)
    assert not close(found.double(), exact, 1e-11)


def test_network_and_sums_stay_on_the_device_of_the_input(make_potential: MakePotential) -> None:
    """Tensors on the meta device refuse to meet any of the host. One element: a layout of several looks at data."""
    potential = make_potential(n_outputs=8, use_baseline=True).to("meta", torch.float32)
    features = torch.empty(5, potential.descriptor.n_features, device="meta")
    parameters = local_parameters(potential, features, torch.empty(5, dtype=torch.int64, device="meta"))
    assert potential.device == parameters.device == torch.device("meta")
    assert parameters.dtype == torch.float32


def test_everything_on_a_gpu(make_potential: MakePotential, frames: list[Frame]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    potential = make_potential(("Si", "C"))
    expected = evaluate(potential, Structures.from_frames(frames))
    found = evaluate(potential.to("cuda"), Structures.from_frames(frames, device="cuda"))
    assert found.device.type == "cuda"
    assert close(found.cpu(), expected)


# Members


def members_of(make_potential: MakePotential, n_members: int, **settings: object) -> list[Potential]:
    return [make_potential(("Si", "C"), **settings).randomized(seed) for seed in range(n_members)]


def test_members_come_back_as_they_were_joined(make_potential: MakePotential) -> None:
    members = members_of(make_potential, 3)
    joined = join_members(members)
    assert joined.networks.n_members == 3
    assert join_members([joined, members[0]]).networks.n_members == 4
    for number, member in enumerate(members):
        taken = joined.member(number)
        assert taken.networks.n_members == 1
        assert torch.equal(taken.networks.flat(), member.networks.flat())
        assert taken.descriptor == member.descriptor
    assert torch.equal(joined.networks.flat(), torch.cat([member.networks.flat() for member in members]))


def test_joined_and_taken_tensors_are_their_own(make_potential: MakePotential) -> None:
    members = members_of(make_potential, 2)
    joined = join_members(members)
    before = joined.networks.flat()
    taken = joined.member(1)
    for potential in (*members, taken, join_members(members[:1])):
        for tensor in (*potential.networks.weights, *potential.networks.biases, potential.energy_shift):
            tensor.fill_(3.0)
    assert torch.equal(joined.networks.flat(), before)
    assert joined.energy_shift.isnan().all()


@pytest.mark.parametrize("number", [-1, 2])
def test_no_such_member(make_potential: MakePotential, number: int) -> None:
    with pytest.raises(InputError, match=f"member: expected a whole number from 0 to 1, got {number}"):
        join_members(members_of(make_potential, 2)).member(number)


def other_networks(potential: Potential, sizes: tuple[int, ...], activation: int) -> Potential:
    networks = ElementNetworks.random(sizes, 1.0, 0, n_elements=2, activation=activation)
    return replace(potential, networks=networks)


DIFFERENCES = {
    "cutoff: expected 4.3, found 4.0": lambda p: replace(p, descriptor=replace(p.descriptor, cutoff=4.0)),
    r"elements: expected \['Si', 'C'\], found \['C', 'Si'\]": lambda p: replace(
        p, descriptor=replace(p.descriptor, elements=("C", "Si"))
    ),
    r"layer sizes: expected \(27, 6, 4, 1\), found \(27, 6, 1\)": lambda p: other_networks(p, (27, 6, 1), 1),
    "activation: expected 1, found 0": lambda p: other_networks(p, (27, 6, 4, 1), 0),
    "dtype: expected torch.float64, found torch.float32": lambda p: p.to("cpu", torch.float32),
    "device: expected cpu, found meta": lambda p: p.to("meta"),
    r"e_shift: expected \[nan, nan\], found \[nan, 1.0\]": lambda p: replace(
        p, energy_shift=torch.tensor([torch.nan, 1.0], dtype=torch.float64)
    ),
}


@pytest.mark.parametrize("message", DIFFERENCES)
def test_what_cannot_be_joined(make_potential: MakePotential, message: str) -> None:
    members = members_of(make_potential, 4)
    members[2] = DIFFERENCES[message](members[2])
    with pytest.raises(InputError, match=f"potential 3 cannot be a member beside potential 1: {message}$"):
        join_members(members)
    with pytest.raises(InputError, match=f"c.dat cannot be a member beside a.dat: {message}$"):
        join_members(members, ["a.dat", "b.dat", "c.dat", "d.dat"])


def test_no_members() -> None:
    with pytest.raises(InputError, match="members: expected at least one potential, got none"):
        join_members([])


def test_what_decides_nothing_may_differ(make_potential: MakePotential) -> None:
    """Masses, the interval of random weights, mode 5's shift and the baseline of straight networks."""
    one, two = members_of(make_potential, 2)
    two = replace(two, masses=(1.0, 2.0), max_random=9.0, use_baseline=True)
    two = replace(two, descriptor=replace(two.descriptor, shift=7.0))
    assert join_members([one, two]).masses == one.masses


def test_baseline_of_physically_informed_members(make_potential: MakePotential) -> None:
    with_baseline, without = (members_of(make_potential, 1, n_outputs=21, use_baseline=use)[0] for use in (True, False))
    assert join_members([with_baseline] * 2).networks.n_members == 2
    assert join_members([without, replace(without, bond_order_parameters=(0.0,) * 42)]).networks.n_members == 2
    both = join_members([with_baseline, without])
    assert both.use_baseline
    expected = without.networks.biases[-1][0] - with_baseline.baseline
    torch.testing.assert_close(both.networks.biases[-1][1], expected, rtol=1e-15, atol=1e-15)


def test_members_without_networks_may_differ_in_baselines() -> None:
    """Each of their files has all parameters in the baseline; together they have them in the biases."""
    apart = [make_bond_order(("Si", "C"), bare=True, seed=seed) for seed in (1, 2)]
    together = join_members(apart)
    for number, one in enumerate(apart):
        member = together.member(number)
        found = member.baseline + member.networks.biases[0][0]
        assert torch.equal(found, one.baseline)
    same = join_members([apart[0], apart[0]])
    assert same.bond_order_parameters == apart[0].bond_order_parameters


def test_kinds_of_potentials(make_potential: MakePotential) -> None:
    straight, informed = make_potential(), make_potential(n_outputs=8)
    bare = replace(informed, networks=ElementNetworks.random((0, 8), 1.0, 1, n_elements=1, activation=0), form="plain")
    assert [one.is_physically_informed for one in (straight, informed, bare)] == [False, True, True]
    assert [one.is_bare for one in (straight, informed, bare)] == [False, False, True]
    assert informed.kind == "a physically informed network (squared form)"
    assert bare.kind == "a bare bond-order potential (plain form)"
    # Eight outputs are not the 21 parameters of an atom among two elements.
    assert not make_potential(("Si", "C"), n_outputs=8).is_physically_informed
    assert make_potential(("Si", "C"), n_outputs=21).is_physically_informed


def test_bonds_are_screened_by_atoms_beyond_the_cutoff(make_potential: MakePotential) -> None:
    reach = {n: make_potential(n_outputs=n).neighbor_cutoff for n in (1, 8)}
    assert reach == {1: 4.3, 8: 1.5 * 4.3}
    assert make_potential(n_outputs=8, gi_mode=3).neighbor_cutoff == 1.5 * 4.3


def test_straight_and_informed_members_do_not_mix(make_potential: MakePotential) -> None:
    informed = make_potential(n_outputs=8)
    with pytest.raises(InputError, match="expected a straight network, found a physically informed network"):
        join_members([make_potential(), informed])
    with pytest.raises(InputError, match=r"squared form\), found .* \(plain form"):
        join_members([informed, replace(informed, form="plain")])


def test_a_baseline_has_a_number_for_each_parameter(make_potential: MakePotential) -> None:
    with pytest.raises(InputError, match="bond_order_parameters: expected 42 numbers, got 8"):
        replace(make_potential(("Si", "C"), n_outputs=21), bond_order_parameters=BASELINE)
