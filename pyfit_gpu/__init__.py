"""Neural-network interatomic potentials from DFT data, as batched tensors on one device.

The public names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyfit_gpu._version import __version__

if TYPE_CHECKING:
    from pyfit_gpu.calculator import PyfitCalculator
    from pyfit_gpu.descriptor import LocalStructureParameters
    from pyfit_gpu.errors import InputError
    from pyfit_gpu.fit_settings import FitSettings
    from pyfit_gpu.formats.nn_dat import load_potential, save_potential
    from pyfit_gpu.loading import load_potentials, load_structures, load_training_set
    from pyfit_gpu.neighbors import Neighbors, find_neighbors
    from pyfit_gpu.potential import Potential, featurize, join_members
    from pyfit_gpu.prediction import Prediction, evaluate, predict
    from pyfit_gpu.store import save_training_set
    from pyfit_gpu.structures import Structures
    from pyfit_gpu.training import fit
    from pyfit_gpu.training_set import TrainingSet, build_training_set

_HOMES = {
    "FitSettings": "fit_settings",
    "InputError": "errors",
    "LocalStructureParameters": "descriptor",
    "Neighbors": "neighbors",
    "Potential": "potential",
    "Prediction": "prediction",
    "PyfitCalculator": "calculator",
    "Structures": "structures",
    "TrainingSet": "training_set",
    "build_training_set": "training_set",
    "evaluate": "prediction",
    "featurize": "potential",
    "find_neighbors": "neighbors",
    "fit": "training",
    "join_members": "potential",
    "load_potential": "formats.nn_dat",
    "load_potentials": "loading",
    "load_structures": "loading",
    "load_training_set": "loading",
    "predict": "prediction",
    "save_potential": "formats.nn_dat",
    "save_training_set": "store",
}

__all__ = [
    "FitSettings",
    "InputError",
    "LocalStructureParameters",
    "Neighbors",
    "Potential",
    "Prediction",
    "PyfitCalculator",
    "Structures",
    "TrainingSet",
    "__version__",
    "build_training_set",
    "evaluate",
    "featurize",
    "find_neighbors",
    "fit",
    "join_members",
    "load_potential",
    "load_potentials",
    "load_structures",
    "load_training_set",
    "predict",
    "save_potential",
    "save_training_set",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pyfit_gpu.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
