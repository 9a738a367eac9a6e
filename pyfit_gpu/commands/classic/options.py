"""Options of the classic job: every key of its configuration, with the classic program's own names for some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyfit_gpu.commands.classic.config import ClassicConfig, make_classic_config, read_config_file

# key: the short and the long name that the classic program gave it
NAMED_OPTIONS = {
    "generate_training_set": ("-g", "--generate-training-set"),
    "training_set_output_file": ("-a", "--training-set-out"),
    "dft_input_file": ("-f", "--dft-file"),
    "training_set_in": ("-s", "--training-set-in"),
    "run_training": ("-t", "--run-training"),
    "neural_network_in": ("-e", "--network-input-file"),
    "neural_network_out": ("-y", "--network-output-file"),
    "training_iterations": ("-i", "--training-iterations"),
    "randomize": ("-r", "--randomize-nn"),
    "force_cpu": ("-c", "--force-cpu"),
    "gpu_affinity": ("-u", "--gpu-affinity"),
    "thread_count": ("-n", "--n-threads"),
    "no_warn": ("-w", "--no-warn"),
    "overwrite": ("-o", "--overwrite"),
    "unique": ("-m", "--unique"),
    "validation_split_seed": ("-v", "--validation-split-seed"),
    "l2_regularization_prefactor": ("-l", "--l2-regularization-coefficient"),
}


@dataclass(frozen=True)
class ClassicOptions:
    """Options of the command line beyond the configuration's keys."""

    gpu_given: bool
    dtype: str
    quiet: bool


def option_names(key: str) -> tuple[str, ...]:
    plain = f"--{key.replace('_', '-')}"
    named = NAMED_OPTIONS.get(key, ())
    return named if plain in named else (*named, plain)


def _value(key: str, text: str) -> Any:
    """Convert an option's text to its key's type; text that does not fit stays, and the configuration refuses it."""
    kind = type(ClassicConfig.model_fields[key].default)
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text


def _build(parser: Any) -> None:
    parser.add_argument("-j", "--config-file", default=None)
    parser.add_argument("--dtype", default="float64", choices=("float64", "float32"))
    parser.add_argument("--quiet", action="store_true")
    for key, field in ClassicConfig.model_fields.items():
        if isinstance(field.default, bool):
            # A flag needs no value, and `--flag=false` takes back what the file says.
            parser.add_argument(*option_names(key), dest=key, nargs="?", const="true", default=None)
        else:
            parser.add_argument(*option_names(key), dest=key, default=None)


def parse_classic(words: list[str], parser_class: Any) -> tuple[ClassicConfig, ClassicOptions]:
    """Read the configuration from a file and the command line, which overrides it, with all faults at once.

    Raises:
        InputError: the file, or values that do not fit their keys.
    """
    parser = parser_class(prog="pyfit-gpu run", add_help=False)
    _build(parser)
    options = vars(parser.parse_strictly(words))
    path = options.pop("config_file")
    beyond = ClassicOptions(
        gpu_given=options["gpu_affinity"] is not None, dtype=options.pop("dtype"), quiet=options.pop("quiet")
    )
    values = read_config_file(path) if path is not None else {}
    gpu_in_file = "gpu_affinity" in values and values["gpu_affinity"] != 0
    given = {key: _value(key, text) for key, text in options.items() if text is not None}
    config = make_classic_config(values, path or "configuration", given)
    return config, ClassicOptions(beyond.gpu_given or gpu_in_file, beyond.dtype, beyond.quiet)


def classic_help(word: str = "") -> str:
    """Help text of all options, or of those with a word in their name or description."""
    entries = [("-j FILE, --config-file FILE", "configuration (JSON, // comments allowed); without it: the defaults")]
    for key, field in ClassicConfig.model_fields.items():
        is_flag = isinstance(field.default, bool)
        value = "" if is_flag else f" {type(field.default).__name__.upper()}"
        default = "" if is_flag else f" ({field.default!r})"
        names = ", ".join(f"{name}{value if name.startswith('--') else ''}" for name in option_names(key))
        entries.append((names, f"{key}: {field.description}{default}"))
    entries.append(("--dtype float64|float32", "precision of features and training (float64)"))
    entries.append(("--quiet", "only warnings and errors on the terminal"))
    needle = word.lower().replace("_", "-")
    chosen = [entry for entry in entries if needle in entry[0].lower() or needle in entry[1].lower().replace("_", "-")]
    lines = ["usage: pyfit-gpu run [--config-file FILE] [--key=value ...]", ""]
    if not chosen:
        from pyfit_gpu.commands.classic.config import did_you_mean

        nearest = did_you_mean(word, [name for key in ClassicConfig.model_fields for name in (key, *option_names(key))])
        return "\n".join([*lines, f"no option has {word!r} in its name or description{nearest}"])
    for names, description in chosen:
        lines += [f"  {names}", f"      {description}"]
    return "\n".join(lines)
