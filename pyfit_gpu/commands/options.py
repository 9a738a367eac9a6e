"""The options of the command line. Nothing heavy is imported here: `--help` answers at once."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from pyfit_gpu._version import __version__
from pyfit_gpu.commands.parsing import finite, shard, whole
from pyfit_gpu.commands.reading import add_reading

STATUS_USAGE = 2


class Parser(argparse.ArgumentParser):
    """Parser whose errors are one line with the nearest known option, and which accepts no abbreviated options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        kwargs.setdefault("formatter_class", _HelpFormatter)
        super().__init__(*args, **kwargs)
        # argparse takes -1e-3 for an option; no option of ours begins with a digit.
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")

    def error(self, message: str) -> NoReturn:
        self.exit(STATUS_USAGE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")

    def parse_strictly(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse words, unknown options first: a misspelt option explains why a required one is missing.

        Of a parser with parsers of its own, the first word chooses one.
        """
        own = next((one.choices for one in self._actions if isinstance(one, argparse._SubParsersAction)), None)
        if own is not None and not words:
            self.print_help()
            self.exit(STATUS_USAGE)
        if own is not None and words[0] in own:
            parser: Parser = own[words[0]]
            return parser.parse_strictly(words[1:])
        for word in words:
            if re.match(r"--?[A-Za-z]", word) and word.split("=")[0] not in self._option_string_actions:
                # A short option may have its value attached, as in -n4.
                if word[:2] in self._option_string_actions and not word.startswith("--"):
                    continue
                self.refuse_unknown(word)
        options, rest = self.parse_known_args(words)
        if rest:
            self.refuse_unknown(rest[0])
        return options

    def refuse_unknown(self, word: str) -> NoReturn:
        name = word.split("=")[0]
        if not name.startswith("-"):
            self.error(f"unexpected argument {word!r}")
        nearest = difflib.get_close_matches(name, list(self._option_string_actions), n=1, cutoff=0.4)
        self.error(f"unknown option {name}{f' (did you mean {nearest[0]}?)' if nearest else ''}")


class _HelpFormatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)


def _common(verb: argparse.ArgumentParser) -> None:
    _computing(verb)
    _outputs(verb)


def _computing(verb: argparse.ArgumentParser) -> None:
    device = verb.add_mutually_exclusive_group()
    device.add_argument("--device", default="auto", help="cpu, cuda:N, or auto: a GPU if there is one (default)")
    device.add_argument("--gpu-affinity", type=whole, metavar="N", help="the same as --device cuda:N")
    device.add_argument("--force-cpu", action="store_true", help="the same as --device cpu")
    verb.add_argument("--n-threads", type=whole, default=0, metavar="N", help="CPU threads; 0: torch's choice")
    verb.add_argument("--dtype", default="float64", choices=("float64", "float32"), help="precision (float64)")


def _outputs(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    verb.add_argument("--unique", action="store_true", help="number outputs: set.00000.h5, the first free one")
    verb.add_argument("--quiet", action="store_true", help="only warnings and errors")


def build_parser(verb: str | None = None) -> tuple[Parser, dict[str, Parser]]:
    """Build the parser of the command line, and that of each verb.

    Args:
        verb: the only verb whose options are needed, which take longer to make than to read; None: all are.
    """
    parser = Parser(prog="pyfit-gpu", description="Neural-network interatomic potentials from DFT data.")
    parser.add_argument("--version", action="version", version=f"pyfit-gpu {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, (text, add_options) in _VERBS.items():
        own = verbs.add_parser(name, help=text)
        if verb in (None, name):
            add_options(own)
    return parser, verbs.choices


def _add_new(verb: Parser) -> None:
    from pyfit_gpu.commands.parsing import triples_as_text
    from pyfit_gpu.descriptors.modes import GI_MODES, describe_modes
    from pyfit_gpu.models.new_defaults import GI_MODE, INFORMED_GI_MODE, INFORMED_MAX_RANDOM, defaults_of

    def default(name: str, shown: Callable[[Any], object] = str) -> str:
        own, *others = dict.fromkeys(shown(getattr(defaults_of(mode), name)) for mode in (GI_MODE, *GI_MODES))
        return f"({own}{''.join(f'; in other modes {text}' for text in others)})"

    def numbers(values: Sequence[object]) -> str:
        return " ".join(map(str, values))

    add = verb.add_argument
    add("--structures", nargs="+", default=(), metavar="FILE",
        help="whose structures give elements, cutoff (third shell of neighbours + 0.8 D) and first centre")  # fmt: skip
    add("--elements", nargs="+", metavar="SYMBOL", help="chemical symbols, in the potential's order")
    add("--cutoff", type=finite, metavar="R", help="rc, Å")
    add("--out", required=True, metavar="NN", help="potential to write (.nn.dat or .pinn)")
    add("--pinn", action="store_true",
        help="a physically informed network: outputs are the parameters of a bond-order potential, around a baseline "
        "from bond lengths and cohesive energies; in plain form in a .pinn file, else squared")  # fmt: skip
    add("--gi-mode", type=whole, metavar="M",
        help=f"how features become inputs ({GI_MODE}, with --pinn {INFORMED_GI_MODE}); {describe_modes()}")  # fmt: skip
    shifted = ", ".join(f"{number}: {mode.default_shift:g}" for number, mode in GI_MODES.items() if mode.uses_shift)
    add("--shift", type=finite, metavar="X", help=f"added to the features in some modes (mode {shifted})")
    add("--cutoff-width", type=finite, metavar="D", help=f"d, Å {default('cutoff_width')}")
    add("--gaussian-width", type=finite, metavar="S", help=f"sigma, Å {default('gaussian_width')}")
    add("--legendre-orders", type=whole, nargs="+", metavar="L", help=default("legendre_orders", numbers))
    add("--cross-terms", type=whole, metavar="C",
        help=f"greatest distance of the two Gaussians of a feature, in centres {default('cross_terms')}")  # fmt: skip
    add("--triples", nargs="+", metavar="LLL",
        help="Legendre orders of each four-body term, as in 112 or 2,10,12, or none "
        + default("triples", triples_as_text))  # fmt: skip
    add("--n-centers", type=whole, metavar="N",
        help=f"Gaussian centres, evenly from the first to D/2 before the cutoff {default('n_centers')}")  # fmt: skip
    add("--first-center", type=finite, metavar="R0", help=f"the first of them, Å {default('first_center')}")
    add("--gaussian-centers", type=finite, nargs="+", metavar="R0", help="Gaussian centres, Å, each by hand")
    add("--hidden", type=whole, nargs="+", metavar="N",
        help=f"neurons of the hidden layers {default('hidden', numbers)}; 0 with --pinn: no network")  # fmt: skip
    add("--activation", type=whole, default=1, metavar="A", help="0: logistic function; 1: less 1/2; 2: tanh (1)")
    drawn = f"parameters are drawn from -W to W {default('max_random')}; with --pinn {INFORMED_MAX_RANDOM:g}"
    add("--max-random", type=finite, metavar="W", help=drawn)
    add_reading(verb)
    _outputs(verb)
    verb.set_defaults(device="cpu", gpu_affinity=None, force_cpu=True, n_threads=0, dtype="float64")


def _add_prepare(verb: Parser) -> None:
    verb.add_argument("dft_files", metavar="DFT_FILE", nargs="+", help="structures of any format in docs/formats")
    verb.add_argument(
        "--potential", required=True, metavar="NN", help="potential (.nn.dat, .pinn): its header's descriptor"
    )
    verb.add_argument("--out", required=True, metavar="SET.h5", help="training set to write")
    verb.add_argument(
        "--e-shift",
        metavar="X",
        help="eV per atom added to the energies (0): one number, Si=X,C=Y, fit (least squares over the structures), "
        "isolated (from structures of one isolated atom) or atomisation (the same, estimated where there are none)",
    )
    verb.add_argument("--append", action="store_true", help="add to an existing set, nothing in it is recomputed")
    verb.add_argument("--unique-structures", action="store_true", help="leave out copies of structures before them")
    verb.add_argument(
        "--shard", type=shard, metavar="I/N", help="only structures I, I + N, ..., to a file of their own"
    )
    add_reading(verb)
    _common(verb)


def _add_train(verb: Parser) -> None:
    from pyfit_gpu.commands.train_options import add_train

    add_train(verb)
    _common(verb)


def _add_plan(verb: Parser) -> None:
    from pyfit_gpu.commands.train_options import add_plan

    add_plan(verb)
    _computing(verb)
    verb.add_argument("--quiet", action="store_true", help="only errors: whether it fits shows in the exit status")
    verb.set_defaults(overwrite=False, unique=False)


def _add_evaluate(verb: Parser) -> None:
    verb.add_argument("dft_files", metavar="DFT_FILE", nargs="+", help="structures of any format in docs/formats")
    verb.add_argument(
        "--potential",
        required=True,
        nargs="+",
        metavar="NN",
        help="potential (.nn.dat, .pinn) or run file; several: mean and spread",
    )
    verb.add_argument("--out", required=True, metavar="FILE", help=".csv: a row per structure; .extxyz: structures")
    verb.add_argument("--e-shift", metavar="X", help="eV per atom, one number or Si=X,C=Y (the potential's own)")
    verb.add_argument("--forces", action="store_true", help="forces and stress too (.extxyz: always)")
    verb.add_argument("--plots", default="", metavar="DIR", help="folder for parity.png and energy_volume.png")
    verb.add_argument(
        "--held-out", default="", metavar="SPLIT",
        help="the files are training sets: what validates or tests in the split that they store under this name",
    )  # fmt: skip
    verb.add_argument("--uncertainty", metavar="FILE", help="uncertainty file, or none (the one beside the potential)")
    verb.add_argument(
        "--forces-uncertainty", action="store_true", help="error bars of forces too (some 10 times the time of forces)"
    )
    add_reading(verb)
    _common(verb)


def _add_fit(verb: Parser) -> None:
    from pyfit_gpu.commands.fit_options import add_fit

    add_fit(verb)
    _computing(verb)
    verb.add_argument("--overwrite", action="store_true", help="begin afresh: what an earlier fit left in DIR goes")
    verb.add_argument("--quiet", action="store_true", help="only warnings and errors")
    verb.set_defaults(unique=False)


def _add_report(verb: Parser) -> None:
    from pyfit_gpu.commands.report_options import add_report

    add_report(verb)
    _common(verb)


def _add_select(verb: Parser) -> None:
    from pyfit_gpu.commands.select_options import add_select

    add_select(verb)
    _common(verb)


def _add_doctor(verb: Parser) -> None:
    from pyfit_gpu.commands.doctor_options import add_doctor

    add_doctor(verb)
    _common(verb)


def _add_info(verb: Parser) -> None:
    verb.add_argument("file", metavar="FILE")
    add_reading(verb)


def _add_convert(verb: Parser) -> None:
    verb.add_argument("source", metavar="IN")
    verb.add_argument("target", metavar="OUT", help=".h5, .extxyz, .nn.dat, or else the classic text")
    add_reading(verb)
    _common(verb)


def _add_lammps(verb: Parser) -> None:
    from pyfit_gpu.commands.lammps_options import add_lammps

    add_lammps(verb)


def _add_uncertainty(verb: Parser) -> None:
    from pyfit_gpu.commands.train_options import add_label_weights, add_split
    from pyfit_gpu.commands.uncertainty_options import add_uncertainty

    default = "with a run file beside NN the run's, or else by the scales of the labels"
    _common(add_uncertainty(verb, split=add_split, weights=lambda add: add_label_weights(add, default)))


_VERBS: dict[str, tuple[str, Callable[[Parser], None]]] = {
    "fit": ("DFT files to a committee of potentials and its report, in one go", _add_fit),
    "new": ("a fresh potential: a header that asks for random weights", _add_new),
    "prepare": ("DFT files to an HDF5 training set", _add_prepare),
    "train": ("a training set to fitted potentials", _add_train),
    "plan": ("the memory that a training takes, and how it keeps within a limit", _add_plan),
    "evaluate": ("energies, forces and stress of structures, errors, plots", _add_evaluate),
    "report": ("a potential's errors and what it says of crystals, as one page", _add_report),
    "select": ("the structures of a pool to compute next by DFT", _add_select),
    "doctor": ("what is wrong or doubtful with data, down to file and frame", _add_doctor),
    "info": ("what a file is, in a few lines", _add_info),
    "convert": ("between the classic and the new formats", _add_convert),
    "uncertainty": ("what is known about a potential's errors: build", _add_uncertainty),
    "lammps": ("the potential in LAMMPS: build, check, export", _add_lammps),
    "run": ("the classic program's job: same keys, same files (-h WORD narrows its help)", lambda verb: None),
}
