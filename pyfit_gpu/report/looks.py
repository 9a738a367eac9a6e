"""Looks of groups in plots: a colour and a marker for each, and one for all small groups where there are many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b3589a", "#e69f00", "#45a3dd", "#6a51a3", "#8c564b", "#444444", "#8a8a00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # names of matplotlib
N_LOOKS = len(COLOURS) * len(MARKERS)
OTHERS = N_LOOKS  # look of what has none of its own
_OTHERS_COLOUR = "#9aa0a6"


def colour_of(look: int) -> str:
    return _OTHERS_COLOUR if look == OTHERS else COLOURS[look % len(COLOURS)]


def line_look(number: int) -> int:
    """Look of a curve: colours alone tell curves apart, so these come round again."""
    return number % len(COLOURS)


def marker_of(look: int) -> int:
    """Number of the marker in `MARKERS`: another one for each neighbour, for readers who see no colours."""
    return 0 if look == OTHERS else (look + look // len(COLOURS)) % len(MARKERS)


@dataclass(frozen=True)
class Legend:
    """Looks and labels of groups."""

    looks: dict[str, int]  # by group
    n_others: int = 0  # groups that share the last look

    @classmethod
    def of(cls, groups: Iterable[str], most: int = 20) -> Legend:
        """Give each group a look; with more than `most` groups, the largest have one each and the others share one.

        Args:
            groups: group of each structure.
        """
        assert most <= N_LOOKS
        counts = Counter(groups)
        if len(counts) <= most:
            return cls({name: look for look, name in enumerate(sorted(counts))})
        largest = sorted(sorted(counts), key=lambda name: -counts[name])[: most - 1]
        own = {name: look for look, name in enumerate(sorted(largest))}
        return cls({name: own.get(name, OTHERS) for name in counts}, len(counts) - len(own))

    @property
    def others(self) -> str:
        return f"others ({self.n_others} groups)"

    def label(self, group: str) -> str:
        return self.others if self.looks[group] == OTHERS else group

    def gathered(self) -> dict[int, list[str]]:
        """Groups by look, the one that several share last."""
        found: dict[int, list[str]] = {}
        for name, look in sorted(self.looks.items(), key=lambda item: (item[1], item[0])):
            found.setdefault(look, []).append(name)
        return found
