"""The objectives of the parts of a set: the same in every process, within one limit of memory."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.devices import total_memory
from pyfit_gpu.models.conditioning import Conditioning
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.training.distributed import ProcessGroup
from pyfit_gpu.training.memory_plan import MemoryPlan, objective_options
from pyfit_gpu.training.objective import Objective
from pyfit_gpu.training.settings import FitSettings

KEPT_MEMORY = 0.5  # largest share of a device's memory for derivatives of features, where there is no plan


class ObjectiveBuilder:
    """Makes objectives one after the other, each with the memory that the earlier ones have left.

    Every process has a builder of its own. All make the same objectives in the same order, and so keep the same
    derivatives.
    """

    def __init__(
        self,
        parts: Mapping[str, TrainingSet | None],
        settings: FitSettings,
        plan: MemoryPlan | None = None,
        processes: ProcessGroup | None = None,
        conditioning: Conditioning | None = None,
        potential: Potential | None = None,
    ) -> None:
        """Start with all of the memory for derivatives.

        Args:
            parts: "training", "validation" and "test" structures; the first must be there.
            plan: what is kept in memory; None: everything, but derivatives of features up to half of the memory.
            processes: the processes that share the work; None: there is only this one.
            conditioning: of the networks' inputs; None: they stay as they are. Only the first process need know it.
            potential: which trains; None: a straight network.
        """
        train = parts["training"]
        assert train is not None
        self.parts = parts
        self.settings = settings
        self.plan = plan
        self.processes = processes
        self.conditioning = conditioning
        self.potential = potential
        self._memory = self._kept_memory(train.features.device)  # bytes of derivatives that may still be kept

    def _kept_memory(self, device: torch.device) -> float:
        """Most bytes of derivatives of features that one process keeps."""
        if self.plan is not None:
            return self.plan.kept_bytes
        sharing = self.processes.size if self.processes is not None and device.type == "cpu" else 1
        return KEPT_MEMORY * total_memory(device) / sharing

    def build(self, name: str) -> Objective:
        """Make the objective of a part in every process; only the first process calls this."""
        if self.processes is None:
            return self.make(name)
        return self.processes.build(name, lambda: self.make(name))

    def energies(self, name: str) -> Objective:
        """Make an objective of the energies of a part in this process alone, which keeps nothing of its structures."""
        part = self.parts[name]
        assert part is not None, name
        return Objective(part, stream=True, conditioning=self.conditioning, potential=self.potential)

    def make(self, name: str) -> Objective:
        """Make the objective of a part in this process."""
        part = self.parts[name]
        assert part is not None, name
        targets = {group: value for group, value in self.settings.group_targets.items() if group in part.groups}
        options = {} if self.plan is None else objective_options(self.plan)
        options["memory"] = self._memory
        if self.processes is not None:
            self.conditioning = self.processes.hand_out(self.conditioning)
        objective = Objective(
            part,
            self.settings.loss_weights,
            targets=targets,
            huber=self.settings.huber,
            conditioning=self.conditioning,
            processes=self.processes,
            potential=self.potential,
            penalties=self.settings.local_penalties if name == "training" else None,
            **options,
        )
        self._memory -= objective.kept_bytes
        return objective
