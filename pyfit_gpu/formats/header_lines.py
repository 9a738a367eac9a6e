"""Lines of a potential's header, one by one, with the settings that each of them gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyfit_gpu.formats.text_lines import NumberedLines, parse_number

Line = tuple[int, str]  # number and text


class HeaderLines(NumberedLines):
    """The lines of a potential's header; remembers which line gives which setting."""

    def __init__(self, numbered: Iterable[Line], name: str) -> None:
        super().__init__(numbered, name, "a potential (.nn.dat, .pinn)")
        self.line_of: dict[str, int] = {}  # settings by name

    def cells(self, expected: str, *settings: str) -> list[str]:
        """Cells of the next line, which gives these settings."""
        cells = self.next(expected).split()
        self.line_of |= dict.fromkeys(settings, self.number)
        return cells

    def back_to(self, line: Line) -> list[str]:
        """Make an earlier line the present one again, and give its cells."""
        self.number, self.text = line
        return self.text.split()

    def number_at(self, cells: Sequence[str], place: int, expected: str) -> float:
        value = parse_number(cells[place]) if place < len(cells) else None
        if value is None:
            raise self.error(expected)
        return value

    def integer_at(self, cells: Sequence[str], place: int, expected: str) -> int:
        value = self.number_at(cells, place, expected)
        if value != int(value):
            raise self.error(expected)
        return int(value)

    def counted(self, cells: Sequence[str], expected: str) -> list[float]:
        """Numbers of a line `n v_1 .. v_n`."""
        count = self.integer_at(cells, 0, expected)
        if count < 1:
            raise self.error(expected)
        return [self.number_at(cells, 1 + k, f"{expected}: {count} numbers after the first") for k in range(count)]
