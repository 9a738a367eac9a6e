"""The verb `new`: writes a new potential."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ase.data import chemical_symbols as CHEMICAL_SYMBOLS

from pyfit_gpu.commands.info import input_shares
from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import PINN_ENDING, check_form, save_draft
from pyfit_gpu.formats.opening import read_reported
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.read_report import ReadReport
from pyfit_gpu.log import log
from pyfit_gpu.models.bond_order_start import usual_bonds
from pyfit_gpu.models.new_defaults import default_mode, defaults_of
from pyfit_gpu.models.new_potential import lengths_from, new_potential
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.structures.bonds import find_bonds
from pyfit_gpu.structures.frames import Frame
from pyfit_gpu.structures.shells import find_shells


def new(
    elements: Sequence[str] | None,
    *,
    out: str,
    setup: Setup,
    structures: Sequence[str] = (),
    reading: ReadOptions | None = None,
    pinn: bool = False,
    **settings: Any,
) -> None:
    """Write a new potential file whose header asks for random parameters.

    Args:
        elements: chemical symbols; None: those of the structures.
        out: `.nn.dat` or `.pinn` file to write.
        structures: files from whose structures follows what is not given: elements, cutoff, first Gaussian centre.
        reading: what these files leave open.
        pinn: whether it is to be a physically informed network: in plain form in a `.pinn` file, else squared.
        settings: other arguments of `new_potential`.
    """
    if not out.endswith((".dat", PINN_ENDING)):
        raise InputError(f"{out}: expected a potential's name to end in .nn.dat or {PINN_ENDING}")
    if pinn:
        settings["form"] = "plain" if out.endswith(PINN_ENDING) else "squared"
    frames: list[Frame] = []
    if structures:
        report = ReadReport(reading)
        frames = list(read_reported(structures, report, reading))
        report.require_used()
    draft = draft_of(elements, frames, settings)
    check_form(draft, out, trained=True)
    out = setup.output(out, list(structures))
    save_draft(draft, out)
    sizes = "none" if draft.is_bare else "-".join(map(str, draft.networks.layer_sizes))
    centers = " ".join(f"{center:g}" for center in draft.descriptor.gaussian_centers)
    log.info(
        "wrote %s: %s, network %s, %d inputs%s, cutoff %g Å, Gaussian centres %s Å, parameters are drawn on loading",
        out,
        " ".join(draft.descriptor.elements),
        sizes,
        draft.descriptor.n_features,
        input_shares(draft.descriptor),
        draft.descriptor.cutoff,
        centers,
    )
    if pinn:
        _say_start(draft)


def _say_start(draft: Potential) -> None:
    """Show the baseline, and say on what scale its energies are."""
    for symbol, row in zip(draft.descriptor.elements, draft.baseline.tolist(), strict=True):
        log.info("baseline of %s: %s", symbol, " ".join(f"{value:.4g}" for value in row))
    log.info("bond-order potentials are made for energies of atomisation: prepare --e-shift atomisation")


def draft_of(elements: Sequence[str] | None, frames: Sequence[Frame], settings: Mapping[str, Any]) -> Potential:
    """A potential without parameters, where elements, cutoff and first centre that are not given suit the structures.

    Args:
        frames: none: all is given.
        settings: arguments of `new_potential`; None: not given.

    Raises:
        InputError: as `new_potential`, or elements or cutoff are neither given nor known from structures.
    """
    if frames:
        elements = elements or elements_of(frames)
        settings = _with_lengths(frames, settings)
        if settings.get("form") is not None:
            settings["bonds"] = find_bonds(frames, elements, usual_bonds(elements))
    for name, value in (("elements", elements), ("cutoff", settings["cutoff"])):
        if value is None:
            raise InputError(f"{name}: expected, or structures from which to take it")
    assert elements is not None
    return new_potential(elements, **settings)


def elements_of(frames: Sequence[Frame]) -> list[str]:
    """Chemical symbols in the order in which the structures bring them."""
    numbers = dict.fromkeys(number for frame in frames for number in frame.atomic_numbers.tolist())
    if 0 in numbers:
        raise InputError("elements: expected, the structures do not name theirs")
    return [CHEMICAL_SYMBOLS[number] for number in numbers]


def _with_lengths(frames: Sequence[Frame], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the cutoff and the first Gaussian centre that suit the structures, where none are given."""
    width = settings.get("cutoff_width")
    mode = settings.get("gi_mode")
    mode = default_mode(settings.get("form")) if mode is None else mode
    width = defaults_of(mode).cutoff_width if width is None else width
    cutoff, first_center = lengths_from(find_shells(frames), width)
    found = {"cutoff": cutoff} if settings["cutoff"] is None else {}
    if settings.get("gaussian_centers") is None and settings.get("first_center") is None:
        found["first_center"] = first_center
    return {**settings, **found}
