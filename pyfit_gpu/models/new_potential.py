"""A new potential: the settings of its header. Its parameters are drawn when the file is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from ase.data import atomic_masses as ATOMIC_MASSES
from ase.data import atomic_numbers as ATOMIC_NUMBERS

from pyfit_gpu.descriptors.lsp import LocalStructureParameters
from pyfit_gpu.descriptors.modes import GI_MODES
from pyfit_gpu.errors import InputError
from pyfit_gpu.models.bond_order_start import starting_baseline, usual_bonds
from pyfit_gpu.models.networks import ElementNetworks, count_parameters
from pyfit_gpu.models.new_defaults import INFORMED_MAX_RANDOM, default_mode, defaults_of
from pyfit_gpu.models.potential import Form, Potential, n_bond_order_parameters
from pyfit_gpu.structures.bonds import Bonds
from pyfit_gpu.structures.shells import Shells

_BEYOND_THIRD = 0.8  # cutoff widths, from the third shell to the cutoff
_BEFORE_NEAREST = 0.6  # Å, from the first Gaussian centre to the nearest neighbours
_LEAST_CENTER = 0.5  # Å, of the first one
_FEW_NEIGHBORS = 6.0  # Å, cutoff where most atoms have less than three shells: molecules, clusters, layers


def new_potential(
    elements: Sequence[str],
    cutoff: float,
    *,
    form: Form | None = None,
    bonds: Bonds | None = None,
    gi_mode: int | None = None,
    shift: float | None = None,
    cutoff_width: float | None = None,
    gaussian_width: float | None = None,
    legendre_orders: Sequence[int] | None = None,
    cross_terms: int | None = None,
    triples: Sequence[Sequence[int]] | None = None,
    n_centers: int | None = None,
    gaussian_centers: Sequence[float] | None = None,
    first_center: float | None = None,
    hidden: Sequence[int] | None = None,
    activation: int = 1,
    max_random: float | None = None,
) -> Potential:
    """Make a potential without parameters (on the meta device), for `save_draft`.

    Settings that are None are those of `defaults_of`, unless it says otherwise below.

    Args:
        elements: chemical symbols; their order numbers the species.
        cutoff: rc, Å.
        form: of the bond-order parameters that a physically informed network gives; None: a straight network.
        bonds: from which its baseline follows; None: those of the elements as solids.
        gi_mode: None: 6, for a physically informed network 2.
        shift: None: the mode's own, 0.5 where it takes a logarithm, else 0.
        cutoff_width, gaussian_width: d and sigma, Å.
        cross_terms: c, greatest distance of two Gaussians of one feature; none fit a single centre.
        triples: three ascending Legendre orders of each four-body term; None: those of the mode whose orders are all
            among `legendre_orders`.
        n_centers: number of Gaussian centres, see `spread_centers`.
        gaussian_centers: Å, instead of n_centers and first_center.
        first_center: Å, of the Gaussian centres.
        hidden: neurons of each hidden layer; 0 alone: none, a bare bond-order potential.
        max_random: half-width of the interval that random parameters are drawn from; None: for a physically informed
            network 0.1, so that all atoms begin near the baseline.

    Raises:
        InputError: a setting that is no potential's; the message names it.
    """
    for name, value in (("n_centers", n_centers), ("first_center", first_center)):
        if value is not None and gaussian_centers is not None:
            raise InputError(f"{name}: expected without gaussian_centers, which says where they are")
    gi_mode = default_mode(form) if gi_mode is None else gi_mode
    defaults = defaults_of(gi_mode)
    if max_random is None:
        max_random = defaults.max_random if form is None else INFORMED_MAX_RANDOM
    first_center = defaults.first_center if first_center is None else first_center
    hidden = defaults.hidden if hidden is None else hidden
    is_bare = form is not None and tuple(hidden) == (0,)
    if not is_bare and (not hidden or any(size < 1 for size in hidden)):
        raise InputError(f"hidden: expected numbers of neurons above 0, got {list(hidden)}")
    if not 0 < max_random < math.inf:
        raise InputError(f"max_random: expected a number above 0 (equal neurons stay equal), got {max_random}")
    orders = defaults.legendre_orders if legendre_orders is None else tuple(legendre_orders)
    if len(set(orders)) != len(orders):
        raise InputError(f"legendre_orders: expected different numbers, got {list(orders)}")
    if triples is None:
        triples = [triple for triple in defaults.triples if set(triple) <= set(orders)]
    descriptor = LocalStructureParameters(
        elements=tuple(elements),
        gi_mode=gi_mode,
        shift=_default_shift(gi_mode) if shift is None else shift,
        cutoff=cutoff,
        cutoff_width=defaults.cutoff_width if cutoff_width is None else cutoff_width,
        gaussian_width=defaults.gaussian_width if gaussian_width is None else gaussian_width,
        legendre_orders=orders,
        gaussian_centers=(first_center,) if gaussian_centers is None else tuple(gaussian_centers),
        triples=_as_triples(triples),
    )
    if gaussian_centers is None:
        n_centers = defaults.n_centers if n_centers is None else n_centers
        centers = spread_centers(descriptor.neighbor_cutoff, descriptor.cutoff_width, n_centers, first_center)
        descriptor = replace(descriptor, gaussian_centers=centers)
    if cross_terms is None:
        cross_terms = min(defaults.cross_terms, len(descriptor.gaussian_centers) - 1)
    descriptor = replace(descriptor, cross_terms=cross_terms)
    return _without_parameters(descriptor, () if is_bare else hidden, activation, max_random, form, bonds)


def _without_parameters(
    descriptor: LocalStructureParameters,
    hidden: Sequence[int],
    activation: int,
    max_random: float,
    form: Form | None,
    bonds: Bonds | None,
) -> Potential:
    """The potential of a descriptor; without hidden layers a bare bond-order potential."""
    baseline = (0.0,) * n_bond_order_parameters(1)
    n_outputs = 1
    if form is not None:
        n_outputs = n_bond_order_parameters(descriptor.n_elements)
        bonds = usual_bonds(descriptor.elements) if bonds is None else bonds
        lengths = {"cutoff": descriptor.cutoff, "cutoff_width": descriptor.cutoff_width}
        baseline = starting_baseline(descriptor.elements, bonds, form, **lengths)
    layer_sizes = (descriptor.n_features if hidden else 0, *hidden, n_outputs)
    n_parameters = descriptor.n_elements * count_parameters(layer_sizes)
    empty = torch.empty(1, n_parameters, dtype=torch.float64, device="meta")
    return Potential(
        descriptor=descriptor,
        networks=ElementNetworks.from_flat(empty, layer_sizes, n_elements=descriptor.n_elements, activation=activation),
        masses=tuple(float(ATOMIC_MASSES[ATOMIC_NUMBERS[symbol]]) for symbol in descriptor.elements),
        max_random=max_random,
        use_baseline=form is not None,
        bond_order_parameters=baseline,
        energy_shift=torch.full((descriptor.n_elements,), math.nan, dtype=torch.float64),
        form=form or "squared",
    )


def _as_triples(triples: Sequence[Sequence[int]]) -> tuple[tuple[int, int, int], ...]:
    return tuple(tuple(triple) for triple in triples)  # type: ignore[misc]  # the descriptor refuses other lengths


def _default_shift(gi_mode: int) -> float:
    return GI_MODES[gi_mode].default_shift if gi_mode in GI_MODES else 0.0  # the descriptor refuses it


def lengths_from(shells: Shells, cutoff_width: float) -> tuple[float, float]:
    """Cutoff and first Gaussian centre (Å, multiples of 0.1) for structures with these distances.

    The cutoff is beyond the third shell, which the cutoff function takes 0.29 of. The first centre is somewhat below
    the nearest neighbours: the flank of a Gaussian tells short distances apart best.
    """
    cutoff = _FEW_NEIGHBORS if math.isinf(shells.third) else round(shells.third + _BEYOND_THIRD * cutoff_width, 1)
    nearest = min(shells.nearest, cutoff / 2)
    return cutoff, max(_LEAST_CENTER, round(nearest - _BEFORE_NEAREST, 1))


def spread_centers(cutoff: float, cutoff_width: float, n_centers: int, first: float) -> tuple[float, ...]:
    """Gaussian centres (Å), evenly from the first to half a cutoff width before the cutoff, rounded to 1e-4 Å.

    Beyond the last one fc is below 1/17: a centre nearer the cutoff would add next to no information.

    Raises:
        InputError: fewer than two centres, or a cutoff that leaves no room for them.
    """
    if n_centers < 2:
        raise InputError(f"n_centers: expected at least 2, got {n_centers} (give a single centre by gaussian_centers)")
    last = cutoff - cutoff_width / 2
    if last <= first:
        raise InputError(
            f"n_centers: expected a cutoff that leaves room for centres from {first:g} Å to half a cutoff width "
            f"before it, got {last:g} Å as the last (give gaussian_centers)"
        )
    return tuple(np.round(np.linspace(first, last, n_centers), 4).tolist())
