"""The fit that made a potential, as the run file beside it tells: split and weights."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyfit_gpu.commands.parsing import parse_by_group, parse_windows
from pyfit_gpu.commands.train.options import SplitOptions
from pyfit_gpu.commands.train.outputs import beside
from pyfit_gpu.commands.train.splitting import split_digest, split_of
from pyfit_gpu.datasets.label_scales import balanced_weights
from pyfit_gpu.datasets.splits import CLASSIC_RULE, SPLIT_RULE, Split
from pyfit_gpu.datasets.training_set import TrainingSet
from pyfit_gpu.datasets.weighting import weight_groups, weight_windows
from pyfit_gpu.errors import InputError, shortened
from pyfit_gpu.formats.run_file import Run, is_run_file, load_run
from pyfit_gpu.log import log
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.training.loss import weighted_terms

_MEMBER = re.compile(r"\.m\d+(?=\.)")


@dataclass(frozen=True)
class FitBeside:
    """Facts of the fit that made a potential: its run file, if there is one beside it."""

    path: str
    run: Run | None

    @classmethod
    def of(cls, potential: str, model: Potential) -> FitBeside:
        """Look for the run file of a potential or, for a member's, of all members."""
        own = beside(potential, ".run.h5")
        for path in dict.fromkeys((potential, own, _MEMBER.sub("", own))):
            if not os.path.exists(path) or not is_run_file(path):
                continue
            run = load_run(path)
            same = run.potential.networks.layer_sizes == model.networks.layer_sizes
            if same and not run.potential.descriptor.difference(model.descriptor):
                log.info("%s: split and weights of the run beside it, %s", potential, path)
                return cls(path, run)
            log.warning("%s: a run of another network, not of %s: it is not looked at", path, potential)
        return cls("", None)

    def split(self, own: TrainingSet, path: str, wanted: SplitOptions) -> Split:
        """Divide a set as the options say, and as the run's where they leave it open."""
        if self.run is None:
            return split_of(own, path, wanted, SPLIT_RULE)
        seed = self.run.data.get("split seed")
        if not wanted.name and not wanted.validation:
            known = self._drawn
            wanted = replace(
                wanted,
                seed=seed if wanted.seed is None and type(seed) is int else wanted.seed,
                train_fraction=known.get("train_fraction") if wanted.train_fraction is None else wanted.train_fraction,
                test_groups=tuple(known.get("test_groups", ())) if wanted.test_groups is None else wanted.test_groups,
            )
        rule = self.run.data.get("split rule", CLASSIC_RULE)
        return split_of(own, path, wanted, rule if type(rule) is int else CLASSIC_RULE)

    @property
    def _drawn(self) -> Mapping[str, Any]:
        """How the set of the run was divided; empty in run files that do not say so."""
        found = None if self.run is None else self.run.data.get("split of the set")
        return found if isinstance(found, Mapping) else {}

    def own_split(self, own: TrainingSet, path: str) -> Split | None:
        """The run's division of its set, as stored there or drawn again; None: not known."""
        if self.run is None:
            return None
        digest = self._drawn.get("digest", self.run.data.get("split"))
        stored = [split for split in own.splits.values() if split_digest(split) == digest]
        if stored:
            return stored[0]
        try:
            drawn = self.split(own, path, SplitOptions())
        except InputError:  # a set without the groups that tested
            return None
        return drawn if split_digest(drawn) == digest else None

    def compare(self, split: Split, potential: str) -> None:
        """Warn of a split that is not the run's."""
        if self.run is not None and self.run.data.get("split") != split_digest(split):
            log.warning(
                "%s: another split than the run's (%s): structures that trained may calibrate, whose errors are too "
                "small; give --train-fraction, --test-groups, --split, --validation and --test as train had them",
                potential,
                self.path,
            )

    def weighted(self, whole: TrainingSet) -> TrainingSet:
        """The set with the run's weights of groups and windows."""
        if self.run is None:
            return whole
        groups = parse_by_group(self.run.settings.get("group_weight", ()), "group_weight")
        windows = parse_windows(self.run.settings.get("window_weight", ()), "window_weight")
        return weight_windows(weight_groups(whole, groups), windows)

    def weights(self, train: TrainingSet, given: Mapping[str, float]) -> dict[str, float]:
        """Weights of the terms in the loss, by term: as given, the run's, or by the scales of the labels."""
        names = {term.name: term.weight_name for term in weighted_terms()}
        found = {}
        if self.run is not None:
            # Run files from before a term existed are those with its weight 0.
            found = {name: float(self.run.settings.get(setting, 0.0)) for name, setting in names.items()}
        elif not bool(train.positions.isnan().any()):
            found = dict(zip(("forces", "stress"), balanced_weights(train), strict=True))
        found |= given
        log.info("weights: energy 1, %s", shortened([f"{names[name]} {value:g}" for name, value in found.items()]))
        return found
