"""The command line. It only translates: options to keywords, exceptions to messages and exit statuses.

Heavy modules are imported when a verb runs, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pyfit_gpu.commands.interrupts import (
    STATUS_SIGINT,
    STATUS_SIGTERM,
    Terminated,
    signals_end_the_process,
)
from pyfit_gpu.commands.options import STATUS_USAGE, Parser, build_parser
from pyfit_gpu.commands.outcome import guarded, printed
from pyfit_gpu.commands.streams import tolerant_streams
from pyfit_gpu.commands.verbs import VERBS, start_messages
from pyfit_gpu.locks import release_held


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if words is None else words)
    with tolerant_streams(), signals_end_the_process():
        return _run(words)


def _run(words: list[str]) -> int:
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return STATUS_SIGINT
    except Terminated:
        print("terminated", file=sys.stderr)
        return STATUS_SIGTERM
    except SystemExit as end:  # argparse's: a fault, or help that was printed
        if end.code:
            raise
        return printed()
    finally:
        release_held()


def _dispatch(words: list[str]) -> int:
    # A first word that is an option means the classic job, except for --help, --version and a lone -h.
    is_option = bool(words) and words[0].startswith("-")
    without_verb = is_option and words[0] not in ("--help", "--version") and words != ["-h"]
    if without_verb or words[:1] == ["run"]:
        return guarded(lambda: _run_classic(words if without_verb else words[1:]))
    parser, verbs = build_parser(words[0] if words else "")
    if not words:
        parser.print_help()
        return STATUS_USAGE
    if words[0] not in verbs:
        # argparse handles --help and --version, and refuses anything else
        parser.parse_args(words)
    options = verbs[words[0]].parse_strictly(words[1:])
    return guarded(lambda: VERBS[words[0]](options))


def _run_classic(words: list[str]) -> int:
    from pyfit_gpu.commands.classic.options import classic_help, parse_classic

    help_word = _help_request(words)
    if help_word is not None:
        print(classic_help(help_word))
        return printed()
    config, options = parse_classic(words, Parser)
    from pyfit_gpu.commands.classic.job import run_classic
    from pyfit_gpu.devices import select_dtype, set_threads

    start_messages(options.quiet)
    set_threads(config.thread_count)
    return run_classic(config, gpu_given=options.gpu_given, dtype=select_dtype(options.dtype), quiet=options.quiet)


def _help_request(words: list[str]) -> str | None:
    """Word after `-h` or `--help`, empty if there is none; None: no help asked for."""
    for place, word in enumerate(words):
        if word in ("-h", "--help"):
            return words[place + 1] if len(words) > place + 1 else ""
    return None
