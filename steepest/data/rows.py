"""Rows that an error names or counts: parts of its sentence, known until someone reads it.

So what is found in some rows of a table can be told of the whole table.
"""

from dataclasses import dataclass

from steepest.figures import counted


@dataclass(frozen=True)
class Row:
    """A row by its number, from 0; people count from 1."""

    number: int

    def __str__(self) -> str:
        return f"row {self.number + 1}"


@dataclass(frozen=True)
class Missing:
    """How many rows lack a value of the target."""

    count: int

    def __str__(self) -> str:
        return counted(self.count, "row")


@dataclass(frozen=True)
class Trained:
    """How many rows the training part has."""

    count: int

    def __str__(self) -> str:
        return counted(self.count, "training row")
