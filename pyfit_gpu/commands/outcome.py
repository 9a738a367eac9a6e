"""How a command ends: exceptions become messages and exit statuses, and so does output that is lost."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

from pyfit_gpu.commands.options import STATUS_USAGE
from pyfit_gpu.commands.streams import output_fault

_FAILED = 1  # exit status


def guarded(work: Callable[[], int]) -> int:
    """Run a verb: an error of the user becomes a message and status 2, a defect of the program keeps its traceback."""
    from pyfit_gpu.errors import Failure, InputError

    try:
        return work()
    except InputError as error:
        shortage = _shortage(error)
        if shortage:
            return _fail(shortage)
        from pyfit_gpu.commands.messages import in_options, shown

        for line in shown(in_options(error)).split("\n"):
            print(f"pyfit-gpu: error: {line}", file=sys.stderr)
        return STATUS_USAGE
    except (MemoryError, RuntimeError, OSError) as error:
        shortage = _shortage(error)
        if shortage:
            return _fail(shortage)
        if not isinstance(error, Failure):
            raise
        from pyfit_gpu.commands.messages import shown

        return _fail(shown(str(error)))


# The words of torch's allocators, of C++ and of the C library, which HDF5's errors repeat.
_OUT_OF_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory|bad_alloc|cannot allocate memory|"
                            r"memory allocation failed", re.IGNORECASE)  # fmt: skip


def _shortage(error: BaseException | None) -> str | None:
    """Message, if an error or one that it was raised from says that memory ran out."""
    while error is not None:
        text = str(error)
        known = isinstance(error, RuntimeError | OSError) and _OUT_OF_MEMORY.search(text)
        if known or isinstance(error, MemoryError):
            asked = re.search(r"allocate (\d[\d.]* \w+)", text)
            return f"out of memory (tried to allocate {asked[1]})" if asked else "out of memory"
        error = error.__cause__
    return None


def _fail(message: object) -> int:
    print(f"pyfit-gpu: error: {message}", file=sys.stderr)
    return _FAILED


def printed() -> int:
    """Exit status of a verb whose product is what it prints; a reader that has gone (`| head`) is told nothing more."""
    fault = output_fault()
    if fault is None:
        return 0
    return _FAILED if isinstance(fault, BrokenPipeError) else _fail(f"standard output: {fault.strerror}")
