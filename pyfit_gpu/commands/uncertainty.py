"""The verb `uncertainty`: its task `build` makes the uncertainty file of a potential from the set that trained it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyfit_gpu.commands.fit_beside import FitBeside
from pyfit_gpu.commands.jobs import Setup
from pyfit_gpu.commands.measuring import measure
from pyfit_gpu.commands.train.options import SplitOptions
from pyfit_gpu.commands.train.other_files import Together
from pyfit_gpu.commands.warnings import warn_of_split
from pyfit_gpu.datasets.summary import describe_set
from pyfit_gpu.datasets.training_set import require_same_inputs
from pyfit_gpu.devices import format_bytes
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.kinds import RUN, potential_kind
from pyfit_gpu.formats.nn_dat import asks_for_random_weights, load_potential
from pyfit_gpu.formats.opening import load_training_set
from pyfit_gpu.formats.uncertainty_error_bars import section_bytes
from pyfit_gpu.formats.uncertainty_file import save_uncertainty, uncertainty_path
from pyfit_gpu.log import log
from pyfit_gpu.models.error_bars import Form
from pyfit_gpu.models.potential import Potential
from pyfit_gpu.training.laplace_all import require_posterior_memory


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
        fit = FitBeside.of(path, model)
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
    if potential_kind(path) is RUN:
        raise InputError(f"{path}: expected a potential (.nn.dat, .pinn), found a run file: its members have one each")
    if asks_for_random_weights(path):
        raise InputError(f"{path}: expected a trained potential, found one that asks for random weights")
    return load_potential(path)
