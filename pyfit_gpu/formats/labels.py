"""Labels of structures under the names that programs write, and the choice where a structure has several.

A name is a word for the quantity, in any case, with or without the word for its origin before or after it: `energy`,
`Energy`, `REF_energy`, `dft_energy`, `energy_dft`. Two origins in one structure must agree, or the user chooses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from pyfit_gpu.errors import InputError, Remedy
from pyfit_gpu.formats.groups import name_group
from pyfit_gpu.formats.label_values import finite, stress_of_virial, text, voigt
from pyfit_gpu.formats.read_options import ReadOptions
from pyfit_gpu.formats.text_lines import is_unlabelled
from pyfit_gpu.structures.cells import FloatArray

_NAMES = {  # the first of a label's names counts before the others of the same origin
    "energy": ("free_energy", "energy", "total_energy", "potential_energy", "pot_energy"),
    "forces": ("forces", "force"),
    "stress": ("stress",),
    "virial": ("virial", "virials"),
    "group": ("group", "config_type"),
    "weight": ("weight",),
}
_HAVE_ORIGINS = ("energy", "forces", "stress", "virial")
_ORIGINS = ("ref", "reference", "dft", "qm", "vasp", "pbe", "r2scan", "target", "true", "mace", "gap", "nep", "model")
_PLACE = re.compile(r"(info|key_value_pairs|data)\.")  # before a name that stands in several places of an ASE file
# Differences of two copies of a label, which may have been written with few digits: relative, and eV, eV/Å, eV/Å^3
_AGREE = {"energy": (0.0, 1e-3), "forces": (0.0, 1e-3), "stress": (1e-3, 1e-6)}


class Meaning(NamedTuple):
    """Meaning of a name: the label, where it is from, and the place among the label's names."""

    label: str
    origin: str
    place: int


@lru_cache(maxsize=4096)
def meaning(name: str) -> Meaning | None:
    """Tell a label's name, in any case, with or without an origin; None: it is none."""
    word = _PLACE.sub("", name.lower().replace("-", "_"))
    for label, names in _NAMES.items():
        for place, base in enumerate(names):
            if word == base:
                return Meaning(label, "", place)
            if label not in _HAVE_ORIGINS:
                continue
            first, last = word.removesuffix("_" + base), word.removeprefix(base + "_")
            for origin in (first, last):
                if origin != word and origin in _ORIGINS:
                    return Meaning(label, origin, place)
    return None


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of one structure, None where it has none, and what may be labels but is not read."""

    energy: float | None  # eV
    forces: FloatArray | None  # (n, 3) eV/Å
    stress: FloatArray | None  # (6,) eV/Å^3, ASE's sign and order
    group: str
    weight: float
    unread: tuple[str, ...]
    chosen: tuple[str, ...]  # options that name one of its names: "energy_key"


class Scale(NamedTuple):
    """Units of a file in eV, eV/Å and eV/Å^3."""

    energy: float = 1.0
    forces: float = 1.0
    stress: float = 1.0
    virial: float = 1.0


OURS = Scale()


class _Sorted(NamedTuple):
    """Names of one structure by their meaning."""

    names: dict[str, tuple[str, ...]]  # by label, the first one counts
    unread: tuple[str, ...]  # each with its kind, "key" or "column"
    chosen: tuple[str, ...]  # options of the user that name one of them: "energy_key"


@lru_cache(maxsize=256)
def _sort(keys: tuple[str, ...], columns: tuple[str, ...], options: ReadOptions) -> _Sorted:
    names: dict[str, tuple[str, ...]] = {}
    chosen = []
    for label in _NAMES:
        option = f"{label}_key"
        wanted = getattr(options, option)
        names[label] = _candidates(label, columns if label == "forces" else keys, wanted)
        if wanted and names[label]:
            chosen.append(option)
    if options.stress_key or options.virial_key:  # the one that is not named is not wanted
        names["virial" if options.stress_key else "stress"] = ()
    read = {name for label, found in names.items() if label != "forces" for name in found}
    unread = [f"key {name}" for name in keys if name not in read]
    unread += [f"column {name}" for name in columns if name not in names["forces"]]
    return _Sorted(names, tuple(unread), tuple(chosen))


def _candidates(label: str, names: tuple[str, ...], wanted: str) -> tuple[str, ...]:
    """Names that stand for a label: the wanted one, or those that programs write, in order."""
    if wanted:
        exact = [name for name in names if name == wanted]
        return tuple((exact or [name for name in names if name.lower() == wanted.lower()])[:1])
    known = [(name, known) for name in names if (known := meaning(name)) is not None]
    return tuple(sorted((name for name, known in known if known.label == label), key=_order))


class LabelFinder:
    """Finds labels among the named values and per-atom columns of one structure."""

    def __init__(self, names: Iterable[str], columns: Iterable[str], options: ReadOptions, source: str) -> None:
        """Sort the names of values and of per-atom columns by their meaning."""
        self.source = source
        self._sorted = _sort(tuple(names), tuple(columns), options)

    @property
    def forces(self) -> tuple[str, ...]:
        """Per-atom columns that hold forces; several must agree."""
        return self._sorted.names["forces"]

    def has(self, label: str) -> bool:
        """Whether the structure has a name for a label."""
        return bool(self._sorted.names[label])

    def labels(
        self,
        values: Mapping[str, Any],
        columns: Mapping[str, Any] | None,
        n_atoms: int,
        cell: FloatArray,
        path: str,
        scale: Scale = OURS,
    ) -> Labels:
        """Check and convert what was found.

        Args:
            values: by name, numbers, arrays or texts.
            columns: those of `forces`, each (n, 3); None: without forces.
            cell: (3, 3) Å, for a virial.
            path: file, whose name is the group of a structure that names none.
            scale: units of the values.

        Raises:
            InputError: a value of another shape, not finite, a negative weight, or two labels that differ.
        """
        group = self._group(values, path)
        stress, lost = self._stress(values, cell, scale)
        return Labels(
            energy=None if is_unlabelled(group) else self._energy(values, scale),  # as in the classic text
            forces=None if columns is None else self._forces(columns, n_atoms, scale),
            stress=stress,
            group=group,
            weight=self._weight(values),
            unread=self._sorted.unread + lost,
            chosen=self._sorted.chosen,
        )

    def _energy(self, values: Mapping[str, Any], scale: Scale) -> float | None:
        names = self._sorted.names["energy"]
        found = {name: scale.energy * float(finite(values[name], (), name, self.source)) for name in names}
        free: list[str] = []
        plain: list[str] = []
        for name in found:
            (free if _is_free(name) else plain).append(name)
        # free_energy beside energy is no contradiction; dft_free_energy beside energy could be one.
        related = {_origin(name) for name in free} & {_origin(name) for name in plain}
        for one_kind in (free, plain) if related else (list(found),):
            self._require_equal({name: found[name] for name in one_kind}, "energy")
        return next((found[name] for name in (*free, *plain)), None)

    def _forces(self, columns: Mapping[str, Any], n_atoms: int, scale: Scale) -> FloatArray | None:
        shape = n_atoms, 3
        found = {name: finite(columns[name], shape, name, self.source) * scale.forces for name in self.forces}
        self._require_equal(found, "forces")
        return next(iter(found.values()), None)

    def _stress(
        self, values: Mapping[str, Any], cell: FloatArray, scale: Scale
    ) -> tuple[FloatArray | None, tuple[str, ...]]:
        """Stress, and what cannot be read without a cell."""
        found = {name: voigt(values[name], name, self.source) * scale.stress for name in self._sorted.names["stress"]}
        lost = []
        for name in self._sorted.names["virial"]:
            stress = stress_of_virial(values[name], cell, name, self.source)
            if stress is None:
                lost.append(f"key {name} (without a full cell)")
            else:
                found[f"-{name} / volume"] = stress * scale.virial
        self._require_equal(found, "stress")
        return next(iter(found.values()), None), tuple(lost)

    def _require_equal(self, found: Mapping[str, Any], label: str) -> None:
        relative, absolute = _AGREE[label]
        names = list(found)
        for name in names[1:]:
            pair = np.array([np.ravel(found[names[0]]), np.ravel(found[name])])
            differences = np.abs(pair[0] - pair[1])
            worst = int(np.argmax(differences))
            if differences[worst] > relative * np.abs(pair).max() + absolute:
                shown = "; ".join(
                    f"{one} {value:.10g}" for one, value in zip((names[0], name), pair[:, worst], strict=True)
                )
                raise InputError(
                    f"{self.source}: has two labels for {label}, which differ: {shown}",
                    setting=f"{label}_key",
                    remedy=Remedy.STRESS_KEY if label == "stress" else Remedy.LABEL_KEY,
                )

    def _group(self, values: Mapping[str, Any], path: str) -> str:
        return name_group(path, *(text(values[key]) for key in self._sorted.names["group"]))

    def _weight(self, values: Mapping[str, Any]) -> float:
        if not self.has("weight"):
            return 1.0
        name = self._sorted.names["weight"][0]
        weight = float(finite(values[name], (), name, self.source))
        if weight < 0:
            raise InputError(f"{self.source}: {name} must be 0 or more, got {weight}")
        return weight


def _order(name: str) -> tuple[str, int]:
    """Sort key of a label's names: by origin, none first, then by place."""
    known = meaning(name)
    return ("", 0) if known is None else (known.origin, known.place)


def _origin(name: str) -> str:
    return _order(name)[0]


def _is_free(name: str) -> bool:
    return meaning(name) is not None and _order(name)[1] == 0
