"""Preparation of a training: outputs that may be written, inputs that go together, a split, a plan of the memory."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.commands.messages import found_faults
from pyfit_gpu.commands.train.energy_scale import warn_of_scale
from pyfit_gpu.commands.train.job import Resumption, run_fit
from pyfit_gpu.commands.train.left_open import settled
from pyfit_gpu.commands.train.options import RunOptions, SplitOptions, StartOptions, WeightOptions, with_plain_rules
from pyfit_gpu.commands.train.other_files import Together
from pyfit_gpu.commands.train.outputs import TrainingOutputs
from pyfit_gpu.commands.train.same_run import describe_data, require_same_run
from pyfit_gpu.commands.train.splitting import describe_split, split_digest, split_of
from pyfit_gpu.commands.warnings import warn_of_absent_elements, warn_of_equal_members, warn_of_split
from pyfit_gpu.datasets.splits import CLASSIC_RULE, SPLIT_RULE, Split
from pyfit_gpu.datasets.summary import describe_set
from pyfit_gpu.datasets.training_set import TrainingSet, require_same_inputs
from pyfit_gpu.datasets.weighting import group_targets, weight_groups, weight_windows
from pyfit_gpu.devices import MEMORY_SHARE, format_bytes, total_memory, world_size
from pyfit_gpu.errors import InputError, shortened
from pyfit_gpu.files import check_distinct, free_number
from pyfit_gpu.formats.kinds import PINN, POTENTIAL, RUN, check_ending, potential_kind
from pyfit_gpu.formats.nn_dat import asks_for_random_weights, check_form, load_potential
from pyfit_gpu.formats.opening import load_potentials, load_training_set
from pyfit_gpu.formats.run_file import Run, is_run_file, load_run
from pyfit_gpu.log import log
from pyfit_gpu.models.networks import member_seed
from pyfit_gpu.models.potential import Potential, differ_in_baseline
from pyfit_gpu.training.distributed import ProcessGroup
from pyfit_gpu.training.fit import require_trainable
from pyfit_gpu.training.force_map import require_positions
from pyfit_gpu.training.loss import require_labels
from pyfit_gpu.training.memory_plan import MemoryPlan, plan_memory
from pyfit_gpu.training.settings import FitSettings


@dataclass(frozen=True)
class Job:
    """Arguments of `train`."""

    training_set: str
    start: StartOptions
    outputs: TrainingOutputs
    settings: FitSettings
    setup: Setup
    split: SplitOptions
    weights: WeightOptions
    how: RunOptions

    def prepared(self) -> Ready:
        """Read and check everything; nothing is written yet.

        Raises:
            InputError: all faults of the outputs, or the first one of the inputs.
        """
        outputs = self._outputs()
        inputs = {"training set": self.training_set}
        inputs |= {f"{what} file {k}": path for what, paths in self.split.files.items() for k, path in enumerate(paths)}
        inputs |= {f"potential {k}" if k else "potential": path for k, path in enumerate(self.start.potentials)}
        outputs.hold()  # first: what another job has just written is in the way
        earlier = load_run(outputs.run_file) if self.how.resume and os.path.exists(outputs.run_file) else None
        faults = outputs.faults(
            inputs,
            overwrite=self.setup.overwrite or self.setup.unique,
            continued=None if earlier is None else earlier.logs,
        )
        if self.how.resume and not outputs.run_file:
            faults.append("resume: expected the name of a run file, it is switched off")
        if self.how.resume and self.setup.unique:
            faults.append("resume: expected the outputs' own names, --unique gives others")
        results = {what: path for what, path in outputs.files().items() if what.startswith("network")}
        faults += found_faults(
            partial(check_distinct, results, {"training set": self.training_set}),
            partial(check_ending, outputs.network, POTENTIAL, PINN),
            partial(check_distinct, {"stop file": self.how.stop_file}, {**outputs.files(), **inputs}),
        )
        if self.how.stop_file and os.path.exists(self.how.stop_file):
            faults.append(f"{self.how.stop_file}: the stop file is there already: expected it to be removed first")
        if faults:
            raise InputError(shortened(faults, most=20, separator="\n"))
        return self._read(replace(self, outputs=outputs), earlier)

    def _outputs(self) -> TrainingOutputs:
        count = self.start.members or (len(self.start.potentials) if len(self.start.potentials) > 1 else 0)
        first = self.start.first_member
        outputs = replace(self.outputs, members=tuple(range(first, first + count)))
        return outputs.numbered(free_number(outputs.paths())) if self.setup.unique else outputs

    def _read(self, job: Job, earlier: Run | None) -> Ready:
        own = load_training_set(self.training_set, lazy=True)
        # A run of an earlier version goes on with the split that it drew.
        rule = SPLIT_RULE if earlier is None else int(earlier.data.get("split rule", CLASSIC_RULE))
        split = self._plan(own, earlier, rule)
        drawn = {"split seed": split.seed, "split rule": rule, "split of the set": describe_split(split)}
        weight_seed = split.seed if self.start.weight_seed is None else self.start.weight_seed
        potential = starting_potential(self.start, weight_seed)
        check_form(potential, job.outputs.network, trained=True)
        if self.start.baseline == "fit" and not potential.is_physically_informed:
            raise InputError(f"--baseline fit: expected a physically informed network, got {potential.kind}")
        where = f"{self.training_set} was not made for {self.start.potentials[0]}"
        require_same_inputs(potential.descriptor, own.descriptor, where)
        log.info("%s: %s", self.training_set, describe_set(own))
        together = self.together(own)
        whole, split = together.whole, together.complete(split)
        warn_of_split(whole, split)
        warn_of_equal_members(potential, self.start.potentials)
        data = {**describe_data(own, potential, earlier), "split": split_digest(split)}
        weighted = self.weighted(whole)
        absent = warn_of_absent_elements(weighted, split)
        at_random = [self.start.randomize or asks_for_random_weights(path) for path in self.start.potentials]
        untrained = tuple(symbol for symbol in absent if any(at_random) or symbol in potential.untrained)
        targets = group_targets(weighted, self.weights.targets)
        settings = replace(self.settings, seed=weight_seed, group_targets=targets)
        train = weighted.select(split.train)
        if self.how.left_open:
            settings = settled(settings, self.how.left_open, train, potential, earlier)
        if settings.max_time and self.how.started is not None:
            # The time for reading counts; a limit that has passed already still allows row 0.
            left = settings.max_time - (time.monotonic() - self.how.started)
            settings = replace(settings, max_time=max(left, 1e-6))
        require_trainable(potential, settings)
        require_labels(train, settings.loss_weights)
        if potential.is_physically_informed:
            require_positions(train)
        warn_of_scale(potential, train)
        if earlier is not None:
            together.require_same(earlier.data)
        resumption = self._resumption(settings, data, {**drawn, **together.digests()}, earlier)
        if resumption.run is not None:
            potential = resumption.run.potential
        potential = replace(potential, untrained=untrained)
        plan = self._plan_memory(potential, whole, settings)
        return Ready(job, potential, weighted, split, settings, resumption, plan, random_starts=all(at_random))

    def _plan_memory(self, potential: Potential, whole: TrainingSet, settings: FitSettings) -> MemoryPlan:
        """Plan the memory of one process."""
        device, memory = self.setup.device, self.how.memory
        sharing = world_size() if device.type == "cpu" else 1
        if memory is None and sharing > 1:
            memory = int(MEMORY_SHARE * total_memory(device))
        plan = plan_memory(
            whole,
            potential,
            settings,
            device=device,
            dtype=self.setup.dtype,
            memory=None if memory is None else memory // sharing,
        )
        log.info("memory: %s of %s%s", format_bytes(plan.limited), format_bytes(plan.limit),
                 ", features are read from the file at every evaluation" if plan.stream else "")  # fmt: skip
        return plan

    def together(self, own: TrainingSet) -> Together:
        """Join the set with the files for validation and test."""
        return Together.read(own, self.split.files, self.setup, self.split.reading)

    def _plan(self, whole: TrainingSet, earlier: Run | None, rule: int) -> Split:
        seed = self.split.seed
        if seed == 0 and earlier is not None and not self.split.name:
            seed = earlier.data.get("split seed")
            if type(seed) is not int:
                raise InputError(f"{self.outputs.run_file}: not as specified: text/data: no seed of the split")
        return split_of(whole, self.training_set, replace(self.split, seed=seed), rule)

    def weighted(self, whole: TrainingSet) -> TrainingSet:
        whole = weight_groups(whole, self.weights.groups)
        return weight_windows(whole, self.weights.windows)

    def _resumption(
        self, settings: FitSettings, data: dict[str, Any], drawn: dict[str, Any], earlier: Run | None
    ) -> Resumption:
        options = {
            "dtype": str(self.setup.dtype).removeprefix("torch."),
            "first_member": self.start.first_member,
            "baseline": self.start.baseline,
            **self.weights.as_settings(),
        }
        changed = False
        if earlier is not None:
            asked = {**settings.by_name(), **options}
            fixed = settings.optimizer.fixed
            changed = require_same_run(
                with_plain_rules(earlier), asked, data, self.how.allow_change, fixed, set_name=self.training_set
            )
            log.info("resume: %s, after %s steps", self.outputs.run_file, _steps(earlier))
        elif self.how.resume:
            log.info("resume: there is no run file yet, training starts")
        return Resumption(
            options=options,
            data={**data, **drawn},
            first_member=self.start.first_member,
            interval=self.how.checkpoint_interval,
            run=earlier,
            changed=changed,
        )


@dataclass(frozen=True, eq=False)
class Ready:
    """Inputs that were read and checked, with the arguments."""

    job: Job
    potential: Potential
    training_set: TrainingSet
    split: Split
    settings: FitSettings
    resumption: Resumption
    plan: MemoryPlan
    random_starts: bool  # whether all parameters were drawn

    def run(self, processes: ProcessGroup | None) -> int:
        return run_fit(
            self.potential,
            self.training_set,
            self.split,
            self.settings,
            self.job.outputs,
            self.job.setup,
            random_starts=self.random_starts,
            stop_file=self.job.how.stop_file,
            resumption=self.resumption,
            plan=self.plan,
            processes=processes,
        )


def starting_potential(start: StartOptions, weight_seed: int) -> Potential:
    """Read or draw the parameters that all members start from.

    Raises:
        InputError: a file that cannot be read, potentials that do not go together, or several members of one start.
    """
    runs = [path for path in start.potentials if potential_kind(path) is RUN and is_run_file(path)]
    if runs:
        raise InputError(f"{runs[0]}: expected a potential (.nn.dat, .pinn) to start from, found a run file")
    if len(start.potentials) > 1:
        if start.members not in (None, len(start.potentials)):
            raise InputError(f"members: expected {len(start.potentials)}, one of each potential, got {start.members}")
        if start.randomize:
            raise InputError("randomize: expected one potential, of which random starts are drawn, got several")
        joined = load_potentials(list(start.potentials))
        if not joined.is_bare and differ_in_baseline([load_potential(one, seed=0) for one in start.potentials]):
            raise InputError(
                "potentials: expected the same baseline in all, found several: members that train together perturb "
                "one baseline; others train in jobs of their own"
            )
        return joined
    (path,) = start.potentials
    numbers = range(start.first_member, start.first_member + (start.members or 1))
    potential = load_potential(path, seed=member_seed(weight_seed, 0, numbers[0]))
    if start.randomize or asks_for_random_weights(path):
        return potential.random_members(numbers, weight_seed)
    if len(numbers) > 1:
        raise InputError(
            f"members: {path} holds one start: expected --randomize, a header that asks for random weights, or "
            f"{len(numbers)} potentials"
        )
    return potential


def _steps(run: Run) -> str:
    steps = sorted({max(len(member["history"]["loss"]) - 1, 0) for member in run.state.members})
    return str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
