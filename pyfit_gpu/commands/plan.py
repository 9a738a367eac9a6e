"""The verb `plan`: the memory that a training would take, as a table and in words."""

from __future__ import annotations

from collections.abc import Collection

from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.commands.parsing import parse_memory
from pyfit_gpu.commands.train.left_open import settled
from pyfit_gpu.datasets.training_set import require_same_inputs
from pyfit_gpu.devices import format_bytes
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.nn_dat import load_potential
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.log import log
from pyfit_gpu.training.fit import require_trainable
from pyfit_gpu.training.lanes import BLOCK_ATOMS
from pyfit_gpu.training.loss import weighted_terms
from pyfit_gpu.training.memory_plan import MemoryPlan, plan_memory
from pyfit_gpu.training.settings import FitSettings


def plan(
    training_set: str,
    *,
    potential: str,
    setup: Setup,
    members: int = 1,
    memory: str | None = None,
    settings: FitSettings | None = None,
    left_open: Collection[str] = (),
) -> MemoryPlan:
    """Print the memory that training would take; nothing is trained, and the features are not loaded.

    Args:
        training_set: HDF5, shard manifest or classic text.
        potential: whose network would be trained.
        members: networks trained at once.
        memory: limit, as `parse_memory` reads it; None: a share of the device's memory.
        settings: of which history size and the weights of the loss count.
        left_open: names of those that are found from the data, as `train` does.

    Raises:
        InputError: training cannot be kept within the limit, or as `train`.
    """
    if members < 1:
        raise InputError(f"members: expected a whole number above 0, got {members}")
    limit = None if memory is None else parse_memory(memory)
    model = load_potential(potential, seed=1)
    whole = load_training_set(training_set, lazy=True)
    require_same_inputs(model.descriptor, whole.descriptor, f"{training_set} was not made for {potential}")
    settings = settings or FitSettings()
    if left_open:
        settings = settled(settings, left_open, whole, model, None)
    require_trainable(model, settings)
    for term in weighted_terms():
        weight = settings.loss_weights[term.name]
        if weight and not bool((term.known(whole) & whole.has_energy).any()):
            raise InputError(
                f"{term.weight_name}: expected 0, got {weight}: no structure of {training_set} has this label"
            )
    found = plan_memory(
        whole,
        model,
        settings,
        members=members,
        device=setup.device,
        dtype=setup.dtype,
        memory=limit,
    )
    log.info("%s", "\n".join([*table(found), *decisions(found)]))
    return found


def table(found: MemoryPlan) -> list[str]:
    """Lines of a table of memory by purpose, on the host and on a GPU."""
    rows = [(item.name, item.host, item.device) for item in found.items]
    rows.append(("total", found.host, found.device))
    rows.append(("limit", 0, found.limit) if found.on_gpu else ("limit", found.limit, 0))
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{'':<{width}}  {'host':>11}" + f"  {'device':>11}" * found.on_gpu]
    for name, *counts in rows:
        cells = [format_bytes(count) if count else "" for count in counts[: 1 + found.on_gpu]]
        lines.append(f"{name:<{width}}  " + "  ".join(f"{cell:>11}" for cell in cells).rstrip())
    return lines


def decisions(found: MemoryPlan) -> list[str]:
    """Lines that describe the plan in words."""
    most = found.block_atoms or (None if found.on_gpu else BLOCK_ATOMS)
    blocks = ", all atoms at once" if most is None else f", in blocks of up to {most} atoms"
    if found.stream:
        lines = [f"features are streamed: read from the file at every evaluation{blocks}"]
    else:
        lines = [f"features stay in memory{blocks}"]
    if found.jacobian_bytes:
        what = found.kept_name.replace(" kept", "")
        whole = format_bytes(found.jacobian_bytes)
        if found.kept_bytes == found.jacobian_bytes:
            lines.append(f"{what} are kept, {whole}")
        elif found.kept_bytes:
            share = found.kept_bytes / found.jacobian_bytes
            lines.append(f"{what}: {share:.0%} of {whole} are kept, the others computed anew each time")
        else:
            text = ", and so are neighbours" if found.stream else ""
            lines.append(f"{what} are computed anew at every evaluation{text} (kept: {whole})")
        if not found.exact_pairs:
            lines.append("neighbours were counted in a sample of the structures")
    return lines
