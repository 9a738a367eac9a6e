"""Files that are not read say what they look like, and what to do with them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from program_samples import MTP

from pyfit_gpu.commands.kinds import COMMAND_KINDS
from pyfit_gpu.errors import InputError
from pyfit_gpu.formats.head import Head
from pyfit_gpu.formats.kinds import DFT_TEXT, identify, structures_kind
from pyfit_gpu.formats.opening import read_frames
from pyfit_gpu.formats.programs.unknown import FOREIGN, describe

CLASSIC = "{label}\n1.0\n4 0 0\n0 4 0\n0 0 4\n1\ncartesian\n0 0 0\n-5.0\n"


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.cfg", MTP)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.cfg"))
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


XSF = "# total energy = -100.0 eV\n\nCRYSTAL\nPRIMVEC\n 5 0 0\n 0 5 0\n 0 0 5\nPRIMCOORD\n 1 1\nSi 0 0 0 0 0 0\n"
LAMMPS_DATA = "made up\n\n2 atoms\n1 atom types\n\n0 5 xlo xhi\n"
FILES: dict[str, tuple[bytes | str, str]] = {
    "zip": (zipped(), "a zip archive"),
    "tar": (tarred(), "a tar archive"),
    "gzip": (gzip.compress(MTP.encode()), "a compressed file: let its name end in .gz"),
    "bzip2": (bz2.compress(MTP.encode()), "a compressed file"),
    "xz": (lzma.compress(MTP.encode()), "a compressed file"),
    "zstd": (b"\x28\xb5\x2f\xfd\0\0", "zstd"),
    "pickle": (pickle.dumps({"energy": 1}), "a pickle of Python: reading it can run any program"),
    "npy": (array(), "an array of NumPy"),
    "png": (b"\x89PNG\r\n\x1a\n\0", "an image"),
    "utf16": ("\ufeffSi 0 0 0\n".encode("utf-16-le"), "text in UTF-16: save it as UTF-8"),
    "netcdf": (b"CDF\x01\0\0\0", "a netCDF file"),
    "dcd": (b"\x54\0\0\0CORD\0\0\0", "a DCD trajectory"),
    "lfs": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS"),
    "html": ("<!DOCTYPE html>\n<html><body>404</body></html>\n", "a web page"),
    "dump": ("ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\n", "a dump of LAMMPS"),
    "data": (LAMMPS_DATA, "a data file of LAMMPS"),
    "log": ("LAMMPS (2 Aug 2023)\nunits metal\n", "a log of LAMMPS"),
    "xsf": (XSF, "XSF"),
    "pdb": ("HEADER    MADE UP\nATOM      1  SI   MOL     1       0.000   0.000   0.000\n", "a PDB file"),
    "cp2k": (" DBCSR| CPU Multiplication driver   XSMM\n", "output of CP2K: `dpdata FILE -i cp2k/output"),
    "restart": (" &EXT_RESTART\n   RESTART_FILE_NAME a\n", "input of CP2K, or a restart"),
    "abinit": ("\n.Version   9.10.1 of ABINIT \n.(MPI version)\n", "output of ABINIT"),
    "siesta": ("Siesta Version  : 4.1.5\nArchitecture : x\n", "output of SIESTA"),
    "openmx": ("\n*****\n\n Welcome to OpenMX   Ver. 3.9\n", "output of OpenMX"),
    "abacus": ("\n     WELCOME TO ABACUS v3.5\n", "output of ABACUS"),
    "movement": ("  2 atoms,Iteration (fs) =  0.0, Etot = -1.0\n", "a MOVEMENT of PWmat"),
    "psi4": ("\n          Psi4: An Open-Source Ab Initio Package\n", "output of Psi4"),
    "dftb": ("|===\n|\n|  DFTB+ release 23.1\n", "output of DFTB+"),
    "gamess": ("          *         GAMESS VERSION = 30 SEP 2021   *\n", "output of GAMESS"),
    "arc": ("!BIOSYM archive 3\nPBC=OFF\n", "a .car or .arc file"),
    "turbomole": ("$coord\n 0.0 0.0 0.0 si\n$end\n", "a file of Turbomole"),
    "pwi": ("&control\n calculation='scf'\n/\n&system\n/\n", "input of Quantum ESPRESSO"),
    "geometry": ("lattice_vector 5.0 0.0 0.0\natom 0.0 0.0 0.0 Si\n", "geometry.in of FHI-aims"),
    "cif": ("data_Si\n_cell_length_a 5.4\n", "CIF: let its name end in .cif"),
    "xml": ('<?xml version="1.0"?>\n<run><energy>1</energy></run>\n', "XML that is not VASP's"),
    "json": ('[{"energy": -1.0}]\n', "JSON in a layout that is not known"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_looks_like(name: str, tmp_path: Path) -> None:
    content, title = FILES[name]
    path = tmp_path / "file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    pattern = rf"file: expected .*, found .*{re.escape(title)}"
    with pytest.raises(InputError, match=pattern) as error:
        structures_kind(path)
    assert len(str(error.value).removeprefix(str(tmp_path))) < 320  # a few lines on a screen
    with pytest.raises(InputError, match=pattern):
        identify(path, COMMAND_KINDS)


def test_every_entry_is_tested() -> None:
    raws = [content if isinstance(content, bytes) else content.encode() for content, _ in FILES.values()]
    met = {one.title for raw in raws for one in FOREIGN if one.test(Head("file", raw))}
    assert met == {one.title for one in FOREIGN}


@pytest.mark.parametrize(
    "label", ["SIESTA 3", "ATOM  1", "data_x", "[bulk]", "{}", "<a>", "$cell", "&system", "LAMMPS (x"]
)
def test_labels_of_classic_text_may_be_anything(label: str, tmp_path: Path) -> None:
    (tmp_path / "si.dat").write_text(CLASSIC.format(label=label))
    assert structures_kind(tmp_path / "si.dat") is DFT_TEXT
    (frame,) = read_frames(tmp_path / "si.dat")
    assert frame.energy == -5


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected structures, found a folder: .* DeePMD data has type\.raw and set"):
        structures_kind(tmp_path)
    with pytest.raises(InputError, match=r"found a folder"):
        identify(tmp_path)


def test_xml_is_of_vasp_only_if_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "run.xml").write_text('<?xml version="1.0"?>\n<simulation>\n</simulation>\n')
    with pytest.raises(InputError, match=r"run\.xml: expected structures, found XML that is not VASP's"):
        structures_kind(tmp_path / "run.xml")


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_compressed_classic_text(ending: str, compress, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / f"si.dat.{ending}"
    raw = compress(CLASSIC.format(label="bulk").encode() * 2)
    path.write_bytes(raw)
    assert [frame.energy for frame in read_frames(path)] == [-5, -5]
    path.write_bytes(CLASSIC.encode())
    with pytest.raises(InputError, match=rf"si\.dat\.{ending}: cannot read: .*not compressed as its name says"):
        structures_kind(path)
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(InputError, match=rf"si\.dat\.{ending}: "):
        list(read_frames(path))


def test_nothing_to_say() -> None:
    assert describe(Head("file", b"\xff\0\xfe")) == "found binary data"
    assert describe(Head("file", b" \n \n")) == "found nothing but blanks"


def test_text_of_no_layout_is_taken_as_classic_text(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("A letter\nDear reader,\n")
    with pytest.raises(InputError, match=r"line 2, .*is of no other format is taken as classic text"):
        list(read_frames(tmp_path / "letter.txt"))
    (tmp_path / "POSCAR").write_text(CLASSIC.format(label="Si").removesuffix("-5.0\n"))
    with pytest.raises(InputError, match=r"the total energy in eV.*a POSCAR alone has no energy"):
        list(read_frames(tmp_path / "POSCAR"))
