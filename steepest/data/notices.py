"""What a reader of encoded data should know."""

from collections.abc import Collection
from dataclasses import dataclass, field

from steepest.errors import DataError
from steepest.figures import counted


@dataclass
class Notices:
    """What a reader of encoded data should know; notices of several chunks add up."""

    filled: dict[str, int] = field(default_factory=dict)
    strays: dict[str, tuple[int, str]] = field(default_factory=dict)
    unseen: dict[str, tuple[int, str]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    def __iadd__(self, other: "Notices") -> "Notices":
        """Add the notices of another chunk of the same table."""
        for name, count in other.filled.items():
            self.filled[name] = self.filled.get(name, 0) + count
        for mine, theirs in ((self.strays, other.strays), (self.unseen, other.unseen)):
            for name, (count, example) in theirs.items():
                before, first = mine.get(name, (0, example))
                mine[name] = before + count, first
        self.absent, self.extra = other.absent, other.extra
        return self

    def check(self, rows: int) -> None:
        """Refuse a table of so many rows if a column of it is of another kind than in training.

        Raises:
            DataError: a column has values, and the model knows none of them.
        """
        for name, (count, example) in self.strays.items():
            if self.filled[name] == rows and count > 1:
                raise DataError(
                    f"column {name!r} holds no value that the model knows (such as {example!r}): "
                    f"give it as it was in training"
                )

    def sentences(self, row: str = "row") -> list[str]:
        """Return a sentence for each thing to know; missing values that were filled are none.

        `row` is what a row is called.
        """
        told = [
            f"column {name!r} is missing: its fill value stands in every row"
            for name in self.absent
        ]
        told += [
            f"{name!r}: {counted(count, row)} {_hold(count)} no value that the model knows (such "
            f"as {example!r}), taken as missing"
            for name, (count, example) in self.strays.items()
        ]
        told += [
            f"{name!r}: {counted(count, row)} {_hold(count)} categories that the training part "
            f"lacks (such as {example!r}), all zeros there"
            for name, (count, example) in self.unseen.items()
        ]
        if self.extra:
            told.append(f"not used: {listed(self.extra)}")
        return told


def listed(names: Collection[str], most: int = 10) -> str:
    """Return names for a sentence, the first of many."""
    shown = ", ".join(repr(name) for name in list(names)[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def shown(value: float) -> str:
    """Return a number as people read it: four digits, or whole with commas from 10,000 on."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def _hold(count: int) -> str:
    return "holds" if count == 1 else "hold"
