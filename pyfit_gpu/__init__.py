"""Neural-network interatomic potentials from DFT data, as batched tensors on one device.

The public names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyfit_gpu._version import __version__

if TYPE_CHECKING:
    from pyfit_gpu.datasets.build import build_training_set
    from pyfit_gpu.datasets.pool import select_structures
    from pyfit_gpu.datasets.selection import Selection
    from pyfit_gpu.datasets.splits import Split
    from pyfit_gpu.datasets.training_set import TrainingSet
    from pyfit_gpu.descriptors.lsp import LocalStructureParameters
    from pyfit_gpu.devices import format_bytes
    from pyfit_gpu.doctor.examine import examine
    from pyfit_gpu.doctor.findings import Diagnosis, Finding
    from pyfit_gpu.errors import InputError
    from pyfit_gpu.formats.nn_dat import load_potential, save_potential
    from pyfit_gpu.formats.opening import load_potentials, load_structures, load_training_set
    from pyfit_gpu.formats.read_options import ReadOptions
    from pyfit_gpu.formats.run_file import FitState
    from pyfit_gpu.formats.training_set.named_splits import save_split
    from pyfit_gpu.formats.training_set.reader import save_training_set
    from pyfit_gpu.formats.uncertainty_file import load_uncertainty, save_uncertainty
    from pyfit_gpu.interfaces.ase import PyfitCalculator
    from pyfit_gpu.models.batches import featurize
    from pyfit_gpu.models.extrapolation import ExtrapolationError
    from pyfit_gpu.models.potential import Potential, join_members
    from pyfit_gpu.models.prediction import Prediction, evaluate, predict
    from pyfit_gpu.models.uncertainty import Uncertainty
    from pyfit_gpu.optimizers.auto_settings import AutoSettings
    from pyfit_gpu.optimizers.gauss_newton_settings import GaussNewtonSettings
    from pyfit_gpu.optimizers.lbfgs_settings import LBFGSSettings
    from pyfit_gpu.physics.compute import compute_physics
    from pyfit_gpu.physics.properties import Curve, Physics, Property
    from pyfit_gpu.structures.batch import Structures
    from pyfit_gpu.structures.neighbors import Neighbors, find_neighbors
    from pyfit_gpu.training.clusters import build_extrapolation_grade
    from pyfit_gpu.training.fit import fit
    from pyfit_gpu.training.history import History, LabelErrors, MemberHistory, StepRecord
    from pyfit_gpu.training.laplace import build_error_bars
    from pyfit_gpu.training.loop import TrainingFailure
    from pyfit_gpu.training.memory_plan import plan_memory
    from pyfit_gpu.training.settings import FitSettings

_HOMES = {
    "AutoSettings": "optimizers.auto_settings",
    "Curve": "physics.properties",
    "Diagnosis": "doctor.findings",
    "ExtrapolationError": "models.extrapolation",
    "Finding": "doctor.findings",
    "FitSettings": "training.settings",
    "FitState": "formats.run_file",
    "GaussNewtonSettings": "optimizers.gauss_newton_settings",
    "History": "training.history",
    "InputError": "errors",
    "LBFGSSettings": "optimizers.lbfgs_settings",
    "LabelErrors": "training.history",
    "LocalStructureParameters": "descriptors.lsp",
    "MemberHistory": "training.history",
    "Neighbors": "structures.neighbors",
    "Physics": "physics.properties",
    "Potential": "models.potential",
    "Prediction": "models.prediction",
    "Property": "physics.properties",
    "PyfitCalculator": "interfaces.ase",
    "ReadOptions": "formats.read_options",
    "Selection": "datasets.selection",
    "Split": "datasets.splits",
    "StepRecord": "training.history",
    "Structures": "structures.batch",
    "TrainingFailure": "training.loop",
    "TrainingSet": "datasets.training_set",
    "Uncertainty": "models.uncertainty",
    "build_error_bars": "training.laplace",
    "build_extrapolation_grade": "training.clusters",
    "build_training_set": "datasets.build",
    "compute_physics": "physics.compute",
    "evaluate": "models.prediction",
    "examine": "doctor.examine",
    "featurize": "models.batches",
    "find_neighbors": "structures.neighbors",
    "fit": "training.fit",
    "format_bytes": "devices",
    "join_members": "models.potential",
    "load_potential": "formats.nn_dat",
    "load_potentials": "formats.opening",
    "load_structures": "formats.opening",
    "load_training_set": "formats.opening",
    "load_uncertainty": "formats.uncertainty_file",
    "plan_memory": "training.memory_plan",
    "predict": "models.prediction",
    "save_potential": "formats.nn_dat",
    "save_split": "formats.training_set.named_splits",
    "save_training_set": "formats.training_set.reader",
    "save_uncertainty": "formats.uncertainty_file",
    "select_structures": "datasets.pool",
}

__all__ = [
    "AutoSettings",
    "Curve",
    "Diagnosis",
    "ExtrapolationError",
    "Finding",
    "FitSettings",
    "FitState",
    "GaussNewtonSettings",
    "History",
    "InputError",
    "LBFGSSettings",
    "LabelErrors",
    "LocalStructureParameters",
    "MemberHistory",
    "Neighbors",
    "Physics",
    "Potential",
    "Prediction",
    "Property",
    "PyfitCalculator",
    "ReadOptions",
    "Selection",
    "Split",
    "StepRecord",
    "Structures",
    "TrainingFailure",
    "TrainingSet",
    "Uncertainty",
    "__version__",
    "build_error_bars",
    "build_extrapolation_grade",
    "build_training_set",
    "compute_physics",
    "evaluate",
    "examine",
    "featurize",
    "find_neighbors",
    "fit",
    "format_bytes",
    "join_members",
    "load_potential",
    "load_potentials",
    "load_structures",
    "load_training_set",
    "load_uncertainty",
    "plan_memory",
    "predict",
    "save_potential",
    "save_split",
    "save_training_set",
    "save_uncertainty",
    "select_structures",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pyfit_gpu.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
