"""The rules for the values of a training set, as docs/formats/training_set.md says them: what breaks one is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyfit_gpu.descriptors.modes import GI_MODES
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.json_text import parse_json
from pyfit_gpu.formats.training_set.writer import GROUP_INDEX, Stored
from pyfit_gpu.structures.frames import fits_utf8

_SETTINGS = {
    "elements": [str],
    "gi_mode": int,
    "shift": float,
    "cutoff": float,
    "cutoff_width": float,
    "gaussian_width": float,
    "legendre_orders": [int],
    "gaussian_centers": [float],
}


_MORE_SETTINGS = {"cross_terms": int, "triples": [[int]]}  # of the modes that have more terms


class Finite:
    """Features, whose numbers are looked at while their bytes are hashed: they need not be read twice."""

    def __init__(self, features: np.ndarray | Stored) -> None:
        self.features = features
        self.shape = features.shape
        self._is_finite = True

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield all rows in order, a few at a time."""
        if isinstance(self.features, np.ndarray):
            pieces: Iterable[np.ndarray] = [self.features] if self.features.size else []
        else:
            pieces = self.features.pieces()
        for piece in pieces:
            self._is_finite = self._is_finite and bool(np.isfinite(piece).all())
            yield piece

    def check(self) -> None:
        """Refuse NaN and infinity in the pieces so far."""
        if not self._is_finite:
            raise InputError("atoms/features: expected finite numbers, found NaN or infinity")


def checked_settings(text: str) -> dict[str, Any]:
    """Parse `settings`; all keys are there, and of the right types."""
    found = parse_json(text)
    mode = GI_MODES.get(found["gi_mode"]) if isinstance(found, dict) and type(found.get("gi_mode")) is int else None
    kinds = _SETTINGS | (_MORE_SETTINGS if mode is not None and mode.more_terms else {})
    if not isinstance(found, dict) or found.keys() != kinds.keys():
        raise InputError(f"expected an object with the keys {', '.join(kinds)}, found {text:.80}")
    for name, kind in kinds.items():
        if not _is_of(found[name], kind):
            raise InputError(f"{name}: expected a {_described(kind)}, found {found[name]!s:.60}")
    return found


def _is_of(value: Any, kind: Any) -> bool:
    if isinstance(kind, list):
        return isinstance(value, list) and all(_is_of(item, kind[0]) for item in value)
    return type(value) in ((int, float) if kind is float else (kind,))


def _described(kind: Any, ending: str = "") -> str:
    if isinstance(kind, list):
        return f"list{ending} of {_described(kind[0], 's')}"
    return {str: "text", int: "whole number", float: "number"}[kind] + ending


def checked_shift(text: str, n_elements: int) -> tuple[float, ...] | None:
    """Parse `energy_shift`."""
    found = parse_json(text)
    if found is None:
        return None
    if not isinstance(found, list) or any(type(shift) not in (int, float) for shift in found):
        raise InputError(f"expected a list of numbers or null, found {text:.80}")
    if len(found) != n_elements or not np.isfinite(np.array(found, dtype=np.float64)).all():
        raise InputError(f"expected {n_elements} finite numbers, found {text:.80}")
    return tuple(found)


def checked_groups(text: str) -> list[str]:
    """Parse `groups`."""
    found = parse_json(text)
    if not isinstance(found, list) or any(type(name) is not str for name in found):
        raise InputError(f"expected a list of texts, found {text:.80}")
    for name in found:
        if not fits_utf8(name):
            raise InputError(f"expected texts that UTF-8 can hold, found {name!a:.80}")
    if any(first >= second for first, second in pairwise(found)):
        raise InputError(f"expected names that all differ, in the order of their code points, found {text:.80}")
    return found


def check_values(arrays: Mapping[str, Any], *, n_elements: int, n_groups: int) -> None:
    """Check the numbers of all datasets but the features.

    Raises:
        InputError: naming the dataset.
    """
    sizes, n_atoms = arrays["structures/n_atoms"], len(arrays["atoms/species"])
    if (sizes < 1).any() or (sizes > n_atoms).any() or sizes.sum() != n_atoms:
        raise InputError(f"structures/n_atoms: expected numbers of 1 or more that add up to {n_atoms}")
    for dataset, count in ((GROUP_INDEX, n_groups), ("atoms/species", n_elements), ("structures/pbc", 2)):
        if (arrays[dataset] < 0).any() or (arrays[dataset] >= count).any():
            raise InputError(f"{dataset}: expected numbers from 0 to {count - 1}")
    for dataset in ("structures/volume", "structures/weight"):
        if not (np.isfinite(arrays[dataset]) & (arrays[dataset] >= 0)).all():
            raise InputError(f"{dataset}: expected finite numbers, 0 or more")
    starts = np.cumsum(sizes) - sizes
    for name in ("structures/energy", "structures/cell", "structures/stress", "atoms/positions", "atoms/forces"):
        if np.isinf(arrays[name]).any():
            raise InputError(f"{name}: expected finite numbers, or NaN where they are not known, found infinity")
        unknown = np.isnan(arrays[name]).reshape(len(arrays[name]), -1)
        of_atoms = name.startswith("atoms/") and len(sizes) > 0
        _check_whole(name, np.add.reduceat(unknown, starts, dtype=np.int64) if of_atoms else unknown,
                     sizes[:, None] if of_atoms else 1)  # fmt: skip


def _check_whole(name: str, unknown: NDArray[Any], size: NDArray[np.int64] | int) -> None:
    """Refuse structures some of whose numbers are known and others not: (B, n) counts of NaN, of `size` numbers."""
    if not ((unknown == 0).all(axis=1) | (unknown == size).all(axis=1)).all():
        raise InputError(f"{name}: expected all numbers of a structure to be known, or none")
