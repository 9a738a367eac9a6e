"""The elements of a vasprun.xml that matter here, picked out as the parser meets them."""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.parsers import expat

from pyfit_gpu.formats.text_lines import parse_number, parse_numbers
from pyfit_gpu.formats.vasp.atominfo import AtomInfo
from pyfit_gpu.formats.vasp.outcar_header import is_response, whole_number

# Large parts that hold nothing for us
_SKIPPED = frozenset(("kpoints", "eigenvalues", "dos", "projected", "dielectricfunction", "primitive_cell"))
_TEXTS = frozenset(("i", "v", "c", "atoms"))
_ELECTRONIC = frozenset(("NELM", "EDIFF"))
_RESPONSE = ("LEPSILON", "LCALCEPS", "LCHIMAG")
_LEARNED = ("ML_LMLFF", "ML_FF_LMLFF")
_SETTINGS = _ELECTRONIC | {"ISIF", "IBRION", "PSTRESS", *_RESPONSE, *_LEARNED}
_ROWS = {
    ("structure", "crystal", "varray basis"): "basis",
    ("structure", "varray positions"): "positions",
    ("varray forces",): "forces",
    ("varray stress",): "stress",
}


@dataclass
class Calculation:
    """The texts of a `<calculation>`."""

    rows: dict[str, list[str]] = field(default_factory=dict)
    energy: dict[str, str] = field(default_factory=dict)
    count: int = 0  # electronic steps
    energies: list[float] = field(default_factory=list)  # eV, e_fr_energy of the electronic steps
    parts: float | None = None  # eV, sum of the parts of the last one, where they are given


class VasprunXML:
    """Handlers of a parser. What it has met is taken from `calculations`."""

    def __init__(self, parser: expat.XMLParserType) -> None:
        self.parser = parser
        self.settings: dict[str, str] = {}
        self.atom_info = AtomInfo()
        self.open: Calculation | None = None
        self.calculations: list[Calculation | None] = []  # None: a structure of a force field
        self._stack: list[str] = []  # open elements, with their names
        self._skipped = ""
        self._text: list[str] = []
        self._cells: list[str] = []  # of the open table, or the open row
        self._scstep: dict[str, str] = {}
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.buffer_text = True

    def whole(self, name: str) -> int | None:
        """A setting that is a whole number; None: not in the file."""
        return whole_number(self.settings.get(name, ""))

    @property
    def has_response(self) -> bool:
        """Whether the run has electronic steps of linear response."""
        return is_response(self.whole("IBRION"), (self.settings.get(name, "") for name in _RESPONSE))

    @property
    def has_learned(self) -> bool:
        """Whether the run has steps of a machine-learned force field."""
        return any(self.settings.get(name, "").startswith("T") for name in _LEARNED)

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag in _SKIPPED:
            self._skipped = tag
            self.parser.StartElementHandler = None
            self.parser.EndElementHandler = self._end_skipped
            return
        name = attributes.get("name")
        self._stack.append(f"{tag} {name}" if name else tag)
        if tag in _TEXTS:
            self._text = []
            self.parser.CharacterDataHandler = self._text.append  # text can come in pieces
        elif tag in ("varray", "rc"):
            self._cells = []
        elif tag == "calculation":
            self.open = Calculation()
        elif tag == "scstep":
            self._scstep = {}

    def _end_skipped(self, tag: str) -> None:
        if tag == self._skipped:
            self.parser.StartElementHandler = self._start
            self.parser.EndElementHandler = self._end

    def _end(self, tag: str) -> None:
        key = self._stack.pop()
        if tag in _TEXTS:
            self.parser.CharacterDataHandler = None
            self._value(tag, key.partition(" ")[2], "".join(self._text).strip())
        elif tag == "rc":
            self.atom_info.add(self._stack[-2] if self._stack[1:] else "", self._cells)
        elif self.open is not None:
            self._end_in_calculation(self.open, tag, key)
        elif key == "structure" and self._stack == ["modeling"] and self.has_learned:
            self.calculations.append(None)

    def _value(self, tag: str, name: str, text: str) -> None:
        """Take the text of an element."""
        place = self._stack[1:]
        if tag in ("v", "c"):
            # VASP has single vectors too, as that of MAGDIPOLOUT in a calculation.
            if self._stack[-1].startswith(("varray", "rc")):
                self._cells.append(text)
        elif tag == "atoms":
            self.atom_info.n_atoms = text
        elif place[:1] in (["incar"], ["parameters"]):
            # Among the response functions stands an NELM that is not that of the electronic steps.
            elsewhere = any(not separator.startswith("separator electronic") for separator in place[1:])
            if name in _SETTINGS and not (elsewhere and name in _ELECTRONIC):
                self.settings[name] = text  # <parameters>, what VASP used, comes after <incar>, what it was told
        elif place == ["calculation", "energy"] and self.open is not None:
            self.open.energy[name] = text
        elif place == ["calculation", "scstep", "energy"]:
            self._scstep[name] = text

    def _end_in_calculation(self, calculation: Calculation, tag: str, key: str) -> None:
        if tag == "varray" and (name := _ROWS.get((*self._stack[2:], key))):
            calculation.rows[name] = self._cells
        elif tag == "scstep" and "positions" not in calculation.rows:  # after the structure: of linear response
            calculation.count += 1
            energy = parse_number(self._scstep.get("e_fr_energy", ""))
            if energy is not None:
                calculation.energies.append(energy)
            parts = parse_numbers([text for name, text in self._scstep.items() if not name.startswith("e_")])
            calculation.parts = sum(parts) if parts else None
        elif tag == "calculation":
            self.calculations.append(calculation)
            self.open = None
