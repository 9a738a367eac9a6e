"""The verb `uncertainty`: its task `build` makes the uncertainty file of a potential from the set that trained it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.commands.measuring import measure
from pyfit_gpu.commands.parsing import parse_by_group, parse_windows
from pyfit_gpu.commands.train.options import SplitOptions
from pyfit_gpu.commands.train.other_files import Together
from pyfit_gpu.commands.train.outputs import beside
from pyfit_gpu.commands.train.splitting import split_digest, split_of
from pyfit_gpu.commands.warnings import warn_of_split
from pyfit_gpu.datasets.label_scales import balanced_weights
from pyfit_gpu.datasets.splits import CLASSIC_RULE, SPLIT_RULE, Split
from pyfit_gpu.datasets.summary import describe_set
from pyfit_gpu.datasets.training_set import TrainingSet, require_same_inputs
from pyfit_gpu.datasets.weighting import weight_groups, weight_windows
from pyfit_gpu.devices import format_bytes
from pyfit_gpu.errors import InputError, shortened
from pyfit_gpu.formats.kinds import POTENTIAL, potential_kind
from pyfit_gpu.formats.nn_dat import asks_for_random_weights, load_potential
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.run_file import Run, load_run
from pyfit_gpu.formats.uncertainty_error_bars import section_bytes
from pyfit_gpu.formats.uncertainty_file import save_uncertainty, uncertainty_path
from pyfit_gpu.log import log
from pyfit_gpu.models.error_bars import Form
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.training.laplace_all import require_posterior_memory
from pyfit_gpu.training.loss import weighted_terms

_MEMBER = re.compile(r"\.m\d+(?=\.)")


def build(
    training_set: str,
    *,
    potential: Sequence[str],
    out: str | None,
    setup: Setup,
    split: SplitOptions,
    weights: Mapping[str, float],
    penalty: float | None = None,
    form: Form = "last-layer",
) -> None:
    """Write the uncertainty file of each potential (`pyfit-gpu uncertainty build`).

    Args:
        potential: files of one member each.
        out: file to write, for one potential; None: beside each.
        split: which structures train and which calibrate; where it leaves them open, as in the run beside a potential.
        weights: of the terms beside the energy, by term, where given; otherwise the run's, or by the labels' scales.
        penalty: on the squares of the parameters; None: the evidence decides.
        form: which parameters the error bars come from.

    Raises:
        InputError: a file that is no trained potential or does not go with the set; an output that cannot be written.
    """
    if out is not None and len(potential) > 1:
        raise InputError(f"{out}: expected one potential for one file, got {len(potential)}")
    models = [_load(path) for path in potential]
    if form == "all-parameters":
        _require_memory(models, potential, setup)
    inputs = [training_set, *potential]
    targets = [setup.output(out or str(uncertainty_path(path)), inputs) for path in potential]
    own = load_training_set(training_set, lazy=True)
    for path, model in zip(potential, models, strict=True):
        require_same_inputs(model.descriptor, own.descriptor, f"{training_set} was not made for {path}")
    log.info("%s: %s", training_set, describe_set(own))
    together = Together.read(own, split.files, setup, split.reading)
    for path, model, target in zip(potential, models, targets, strict=True):
        fit = _Fit.beside(path, model)
        chosen = together.complete(fit.split(own, training_set, split))
        fit.compare(chosen, path)
        whole = fit.weighted(together.whole)
        warn_of_split(whole, chosen)
        train, validation = (whole.select(rows).to(setup.device) for rows in (chosen.train, chosen.validation))
        found = measure(
            model, train, validation, fit.weights(train, weights), penalty=penalty, form=form, quiet=setup.quiet
        )
        save_uncertainty(found, target)
        log.info("wrote %s", target)


def _require_memory(models: Sequence[Potential], paths: Sequence[str], setup: Setup) -> None:
    """Refuse what there is no memory for before anything is read or written, and say how large the files will be."""
    for path, model in zip(paths, models, strict=True):
        count = model.networks.n_parameters
        require_posterior_memory(count, setup.device)
        size = format_bytes(section_bytes(count))
        log.info("%s: error bars of all %d parameters: %s in the file", path, count, size)


def _load(path: str) -> Potential:
    if potential_kind(path) is not POTENTIAL:
        raise InputError(f"{path}: expected a potential (.nn.dat), found a run file: its members have one each")
    if asks_for_random_weights(path):
        raise InputError(f"{path}: expected a trained potential, found one that asks for random weights")
    return load_potential(path)


@dataclass(frozen=True)
class _Fit:
    """Facts of the fit that made a potential: its run file, if there is one beside it."""

    path: str
    run: Run | None

    @classmethod
    def beside(cls, potential: str, model: Potential) -> _Fit:
        """Look for the run file of a potential or, for a member's, of all members."""
        for path in dict.fromkeys((beside(potential, ".run.h5"), _MEMBER.sub("", beside(potential, ".run.h5")))):
            if not os.path.exists(path):
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
        if wanted.seed is None and not wanted.name and not wanted.validation and type(seed) is int:
            wanted = replace(wanted, seed=seed)
        rule = self.run.data.get("split rule", CLASSIC_RULE)
        return split_of(own, path, wanted, rule if type(rule) is int else CLASSIC_RULE)

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
