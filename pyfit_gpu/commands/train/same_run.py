"""Whether a training is the earlier run that it is to go on with: the same set, networks and settings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from pyfit_gpu._version import __version__
from pyfit_gpu.datasets.feature_rows import hash_features
from pyfit_gpu.datasets.training_set import ATOM_FIELDS, STRUCTURE_FIELDS, TrainingSet
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.run_file import Run
from pyfit_gpu.log import log
from pyfit_gpu.models.potential import Potential

# Settings that decide when to stop or how often to validate, not what is computed: a resumed run may change them.
FREE_SETTINGS = ("steps", "max_time", "patience", "min_improvement", "target_rmse", "keep")

# Settings that decide shape or meaning of the state, beside those that the optimiser calls fixed.
FIXED_SETTINGS = ("optimizer", "first_member", "conditioning")

# Settings that run files of earlier versions do not name.
IMPLIED_SETTINGS = {
    "optimizer": "lbfgs",
    "conditioning": "none",
    "l2_form": "norm",
    "huber": 0.0,
    "negative_penalty": 1.0,
    "size_penalty": 0.0,
    "spread_penalty": 0.0,
    "baseline": "keep",
}

_SET = "training set"
_LABELS = "training set (hash of its labels)"  # all that run files of version 0.1.0 know of it


def describe_data(training_set: TrainingSet, potential: Potential, earlier: Run | None = None) -> dict[str, Any]:
    """Facts that must be the same when a run is resumed: the set by hashes of its content, the network by its shape.

    Args:
        earlier: the run to go on with, which may know less.
    """
    is_old = earlier is not None and _SET not in earlier.data
    return {
        _SET: _hash_content(training_set),
        **({_LABELS: _hash_labels(training_set)} if is_old else {}),
        "descriptor": {name: _plain(value) for name, value in potential.descriptor.identity().items()},
        "layers": list(potential.networks.layer_sizes),
        "activation": potential.networks.activation,
        **_bond_order(potential),
        "members": potential.networks.n_members,
    }


def _bond_order(potential: Potential) -> dict[str, Any]:
    """Facts on which the energies of a physically informed potential depend beside its networks."""
    if not potential.is_physically_informed:
        return {}
    return {"form": potential.form, "baseline": list(potential.bond_order_parameters) if potential.use_baseline else []}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _hash_content(training_set: TrainingSet) -> dict[str, str]:
    """Hash of everything that a set holds, by field, so that a message can name what differs."""
    hashes = {
        name: _short(hashlib.sha256(repr(getattr(training_set, name)).encode())) for name in ("groups", "energy_shift")
    }
    for name in (*ATOM_FIELDS, *STRUCTURE_FIELDS):
        values = getattr(training_set, name)
        digest = hashlib.sha256(repr(tuple(values.shape)).encode())
        found = hash_features(values) if name == "features" else values.cpu().contiguous().numpy()
        digest.update(found.reshape(-1).view(np.uint8).data)
        hashes[name] = _short(digest)
    return hashes


def _hash_labels(training_set: TrainingSet) -> str:
    digest = hashlib.sha256(repr((training_set.groups, training_set.energy_shift)).encode())
    for name in ("sizes", "species", "positions", "energy", "forces", "stress", "weight"):
        digest.update(getattr(training_set, name).cpu().numpy().tobytes())
    return _short(digest)


def _short(digest: Any) -> str:
    return str(digest.hexdigest()[:16])


def require_same_run(
    run: Run,
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    allowed: tuple[str, ...],
    fixed: tuple[str, ...] = (),
    *,
    set_name: str = "the set",
) -> bool:
    """Refuse to go on with a run under other settings; returns whether any differ that are allowed to.

    Args:
        settings: see `FitSettings.by_name`, and options beside them.
        data: see `describe_data`.
        allowed: names of settings that may differ.
        fixed: names of settings that may never differ, beside `FIXED_SETTINGS`.
        set_name: name of the set in messages.

    Raises:
        InputError: with the names of all settings that differ, and both values.
    """
    faults, changed = [], False
    known = {**IMPLIED_SETTINGS, **run.settings}
    has_optimizer = known["optimizer"] == settings["optimizer"]
    for name, value in settings.items():
        earlier = known.get(name)
        if name in FREE_SETTINGS or earlier == value:
            continue
        if name not in known and not has_optimizer:
            continue  # probably a setting of the other optimiser, which is the fault
        if name in FIXED_SETTINGS or name in fixed:
            faults.append(f"resume: {name}: expected {earlier} (the run's), which cannot change, got {value}")
        elif name in allowed:
            log.info("resume: %s changes from %s to %s", name, earlier, value)
            changed = True
        else:
            faults.append(f"resume: {name}: expected {earlier} (the run's), got {value} (--allow-change {name})")
    faults += _differences(run.data, data, set_name)
    unknown = [name for name in allowed if name not in settings]
    if unknown:
        faults.append(f"allow_change: expected names of settings ({', '.join(sorted(settings))}), got {unknown[0]}")
    if faults:
        raise InputError("\n".join(faults))
    if run.created_by != f"pyfit-gpu {__version__}":
        log.info("resume: the run file was written by %s, this is pyfit-gpu %s", run.created_by, __version__)
    return changed or _is_between_precisions(run)


def _differences(earlier: Mapping[str, Any], data: Mapping[str, Any], set_name: str) -> list[str]:
    """Messages about what is not the run's."""
    faults = []
    own = {name: value for name, value in data.items() if name not in (_SET, _LABELS)}
    if _SET in earlier:
        fields = [name for name, digest in earlier[_SET].items() if data[_SET].get(name) != digest]
        what = "whole content differs" if len(fields) == len(earlier[_SET]) else f"{', '.join(fields)} differ"
    else:  # a run of version 0.1.0
        fields = [_LABELS] if earlier.get(_LABELS) != data[_LABELS] else []
        what = "labels, positions or groups differ"
    if fields:
        faults.append(f"resume: {set_name} is not the set that the run was trained on: its {what}")
    for name, value in own.items():
        for part, before, found in _parts_that_differ(earlier.get(name), value):
            faults.append(f"resume: {name}{part}: expected {_brief(before)} (the run's), found {_brief(found)}")
    return faults


def _brief(value: Any) -> str:
    """Value for a message: numbers of a list with few digits."""
    has_numbers = isinstance(value, list) and any(isinstance(number, float) for number in value)
    return f"[{', '.join(f'{number:.5g}' for number in value)}]" if has_numbers else str(value)


def _parts_that_differ(before: Any, found: Any) -> list[tuple[str, Any, Any]]:
    """Both values where they differ, of objects the entries that do, with their names."""
    if not (isinstance(before, dict) and isinstance(found, dict)):
        return [("", before, found)] if before != found else []
    names = [name for name in before | found if before.get(name) != found.get(name)]
    return [(f": {name}", before.get(name), found.get(name)) for name in names]


def _is_between_precisions(run: Run) -> bool:
    """Whether a run of version 0.1.0 was left while it computed in float32 (`--float32-steps`, no longer offered).

    It goes on in float64, in which the loss known to the optimiser no longer holds.
    """
    until = int(run.settings.get("float32_steps", 0))
    found = until > 0 and any(0 < len(member["history"]["loss"]) <= until + 1 for member in run.state.members)
    if found:
        log.info("resume: the first %d steps were in float32, no longer offered: float64 from here on", until)
    return found
