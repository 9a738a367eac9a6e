"""Compiling the plugin for the LAMMPS at hand, into the cache or a file."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyfit_gpu.errors import Failure, InputError
from pyfit_gpu.files import atomic_path
from pyfit_gpu.interfaces.lammps.cache import (
    PLUGIN_NAME,
    BuildRecord,
    hash_processor,
    hash_sources,
    is_complete,
    make_newest,
    plugin_file,
    source_files,
    write_record,
)
from pyfit_gpu.interfaces.lammps.installation import Installation
from pyfit_gpu.locks import exclusive
from pyfit_gpu.log import log

FLAGS = ("-O3", "-march=native")
_ALWAYS = ("-std=c++17", "-fPIC", "-shared")
_COMPILERS = ("g++", "c++", "clang++")
_NO_COMPILER = (
    "C++ compiler: found none of g++, c++ and clang++ (Debian, Ubuntu: apt install g++; Fedora, RHEL: dnf install "
    "gcc-c++; conda: conda install gxx; a cluster: module load gcc)"
)
_ERROR_LINES = 6


@dataclass(frozen=True)
class Build:
    """A plugin, and how it was built."""

    plugin: Path
    record: BuildRecord
    is_new: bool  # False: the cache had it


def find_compiler(name: str | None = None) -> tuple[str, ...]:
    """Words of the command that compiles C++: `name`, the variable CXX, or the first that is installed.

    Raises:
        InputError: it is not there.
    """
    given = name or os.environ.get("CXX", "")
    if given:
        words = shlex.split(given)
        if not words or shutil.which(words[0]) is None:
            raise InputError(f"C++ compiler: found no program {given!r}{'' if name else ' (variable CXX)'}")
        return tuple(words)
    found = next(filter(shutil.which, _COMPILERS), None)
    if found is None:
        raise InputError(_NO_COMPILER)
    return (found,)


def build_plugin(
    lammps: Installation,
    *,
    compiler: str | None = None,
    flags: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
) -> Build:
    """Compile the plugin, unless the cache has it.

    Args:
        compiler: command; None: the variable CXX, or the first of g++, c++ and clang++.
        flags: after our own.
        out: file to write in place of the cache's; its name ends in plugin.so.

    Raises:
        InputError: no compiler, or a file that cannot be written.
        Failure: the compiler's first errors.
    """
    command = find_compiler(compiler)
    record = BuildRecord(
        lammps=str(lammps.version),
        sizes=lammps.sizes,
        compiler=_compiler_version(command),
        flags=(*FLAGS, *flags),
        sources=hash_sources(),
        processor=hash_processor(),
    )
    if out is not None:
        target = Path(out)
        if not target.name.endswith("plugin.so"):
            raise InputError(f"{target}: expected a name that ends in plugin.so, such as {PLUGIN_NAME}")
        _compile(command, record, lammps, target)
        return Build(target, record, is_new=True)
    target = plugin_file(record)
    if is_complete(record):
        make_newest(record)
        return Build(target, record, is_new=False)
    with _alone(target.parent):
        is_new = not is_complete(record)  # another process may have built it while this one waited
        if is_new:
            _compile(command, record, lammps, target)
            write_record(record)
    return Build(target, record, is_new)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make a folder of the cache and let one process at a time build in it."""
    lock = folder / "lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise InputError(
            f"{folder}: cannot write: {error.strerror} (the variable XDG_CACHE_HOME names another folder for caches)"
        ) from error
    with contextlib.ExitStack() as stack:
        # Where a file system has no locks, two may compile the same: each renames its own when it is complete.
        with contextlib.suppress(InputError):
            stack.enter_context(exclusive(lock))
        yield


def _compiler_version(command: Sequence[str]) -> str:
    """Line in which a compiler says what it is: gcc version 12.2.0 (Debian 12.2.0-14+deb12u1)."""
    try:
        done = subprocess.run([*command, "-v"], capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise InputError(f"C++ compiler {shlex.join(command)}: cannot run: {error.strerror}") from error
    lines = (done.stderr + done.stdout).strip().splitlines() or [shlex.join(command)]
    return next((line for line in lines if re.match(r"(\w+ ){1,3}version \d", line)), lines[0])


def compile_words(command: Sequence[str], record: BuildRecord, lammps: Installation) -> list[str]:
    """Command that compiles the plugin, without its output."""
    sources = [str(path) for path in source_files() if path.suffix == ".cpp"]
    definitions = [f"-D{record.sizes}", f'-DPYFIT_LAMMPS_VERSION="{lammps.version.date}"']
    include = [f"-I{folder}" for folder in lammps.include]
    return [*command, *_ALWAYS, *record.flags, *definitions, *include, *sources]


def _compile(command: Sequence[str], record: BuildRecord, lammps: Installation, target: Path) -> None:
    log.info("compiling the plugin for LAMMPS %s", lammps.version)
    with atomic_path(target) as temporary:
        words = [*compile_words(command, record, lammps), "-o", str(temporary)]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace")
        if done.returncode:
            raise Failure(_compile_error(shlex.join(command), done.stderr))


def _compile_error(command: str, text: str) -> str:
    """Message with the compiler's first errors, and a way out where one is known."""
    lines = [line for line in text.splitlines() if re.search(r"\berror\b|undefined|cannot find|unrecognized", line)]
    shown = "\n".join((lines or text.strip().splitlines())[:_ERROR_LINES])
    hint = ""
    if re.search(r"mpi\.h: No such file|'mpi\.h' file not found", text):
        hint = "\nmpi.h belongs to MPI: load its module, or take its compiler (mpicxx)"
    return f"{command}: the plugin was not compiled:\n{shown}{hint}"
