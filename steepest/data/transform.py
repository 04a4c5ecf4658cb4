"""A table's transform: fitted to its training part, frozen, saved with the model."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import polars as pl

from steepest.data.columns import MISSING, Column, Role, encode, fit_column
from steepest.data.notices import Notices, listed
from steepest.data.target import Target, Task, fit_target
from steepest.errors import DataError, nearest

MOST_SHOWN = 40  # columns in a description


class Columns(Protocol):
    """A table whose columns are asked for by name: a polars frame is one."""

    @property
    def columns(self) -> list[str]: ...
    @property
    def height(self) -> int: ...
    def __getitem__(self, name: str, /) -> pl.Series: ...


class Applied(NamedTuple):
    """Rows as numbers: features float32 `(n, d)`, the target or None, and what to know of them."""

    x: np.ndarray
    y: np.ndarray | None
    notes: Notices


@dataclass(frozen=True, kw_only=True)
class Transform:
    """What turns the rows of a table into numbers, always the same.

    Attributes:
        columns: the columns but for the target, in the table's order.
        target: the column to predict.
        rows: the rows of the table that it was fitted to.
    """

    columns: tuple[Column, ...]
    target: Target
    rows: int

    @property
    def features(self) -> tuple[str, ...]:
        """The name of each of the d numbers."""
        return tuple(name for column in self.columns for name in column.features)

    @property
    def outputs(self) -> int:
        """How many numbers a model gives for a row: one for each class, or one."""
        return len(self.target.classes) or 1

    @property
    def classes(self) -> tuple[str | bool | int, ...]:
        """The target's classes in order; empty in regression."""
        return self.target.classes

    @property
    def target_mean(self) -> float:
        """What a regression's prediction of 0 means."""
        return self.target.mean

    @property
    def target_std(self) -> float:
        """The unit of a regression's predictions."""
        return self.target.std

    def apply(self, frame: pl.DataFrame, *, first_row: int = 0) -> Applied:
        """Encode the rows of a frame; `first_row` is counted from where errors name a row.

        A column that is missing has its fill value in every row, and so has a value that is
        missing or none that the column can hold. A category that the training part lacked is 0 in
        every category's place. Columns that were not there at the fit are passed over.

        Raises:
            DataError: no column is one that the model knows, a number is infinite or too far
                off, or the target, where the frame has it, cannot be used.
        """
        used = [column for column in self.columns if column.features]
        known = {column.name for column in self.columns} | {self.target.name}
        present = set(frame.columns)
        notes = Notices(
            absent=tuple(c.name for c in used if c.name not in present),
            extra=tuple(name for name in frame.columns if name not in known),
        )
        if len(notes.absent) == len(used):
            raise DataError(
                f"a table to predict has the columns that the model was trained on, "
                f"{listed(notes.absent)}: got {listed(frame.columns)}"
            )
        x = np.zeros((frame.height, len(self.features)), np.float32)
        place = 0
        for column in used:
            part = x[:, place : place + len(column.features)]
            place += len(column.features)
            if column.name in present:
                encode(column, frame[column.name], part, notes, first_row)
            elif column.role != "category":
                part[:] = (column.fill - column.mean) / column.std
            elif MISSING in column.categories:
                part[:, column.categories.index(MISSING)] = 1
        y = None
        if self.target.name in present:
            y = self.target.encode(frame[self.target.name], first_row)
        return Applied(x, y, notes)

    def describe(self) -> list[tuple[str, str, str, str]]:
        """Return a row for each column: its name, its role, its values, and what they become."""
        columns = self.columns[:MOST_SHOWN]
        rows = [_target_row(self.target, self.rows)]
        rows += [_column_row(column, self.rows) for column in columns]
        if rest := self.columns[MOST_SHOWN:]:
            used = sum(1 for column in rest if column.features)
            rows.append((f"{len(rest):,} more", "", "", f"{used:,} of them used"))
        return rows

    def to_json(self) -> str:
        """Return the transform as JSON text, which `from_json` reads."""
        from steepest.data.saved import to_json

        return to_json(self)

    @classmethod
    def from_json(cls, text: str) -> "Transform":
        """Return the transform that a text holds; nothing in it is trusted.

        Raises:
            DataError: it is no transform.
        """
        from steepest.data.saved import from_json

        return from_json(text)

    @classmethod
    def load(cls, path: str | Path) -> "Transform":
        """Return the transform that a file holds; nothing in it is trusted.

        Raises:
            DataError: the file cannot be read, or is no transform.
        """
        from steepest.data.saved import load

        return load(Path(path))


def fit(
    table: Columns,
    *,
    target: str,
    training: np.ndarray | None = None,
    task: Task | None = None,
    max_categories: int = 50,
    drop: Collection[str] = (),
    categorical: Collection[str] = (),
    numeric: Collection[str] = (),
) -> tuple[Transform, tuple[str, ...]]:
    """Fit a transform to a table; return it with sentences on what was left out or inferred.

    `training` `(rows,)` marks the rows of the training part, from which every number comes; None
    takes all rows. Columns named in `drop` are left out, those in `categorical` become categories
    and those in `numeric` numbers, whatever they hold.

    Raises:
        DataError: a name is unknown or given twice, the target is unfit, no feature is left, a
            number is infinite, or a number's comma may mean two things.
    """
    asked = _asked(table.columns, target, drop, categorical, numeric)
    if training is None:
        training = np.ones(table.height, bool)
    goal, notes = fit_target(table[target], training, task)
    columns = []
    for name in table.columns:
        if name in drop:
            columns.append(Column(name=name, kind="", left_out="drop names it"))
        elif name != target:
            columns.append(fit_column(table[name], training, max_categories, asked.get(name)))
    told = [f"column {c.name!r} is left out: {c.left_out}" for c in columns if c.left_out]
    transform = Transform(columns=tuple(columns), target=goal, rows=table.height)
    if not transform.features:
        raise DataError("; ".join(("no feature column is left beside the target", *told[:10])))
    if len(told) > MOST_SHOWN:
        told = [*told[:MOST_SHOWN], f"{len(told) - MOST_SHOWN} more columns are left out"]
    return transform, (*notes, *told)


def _asked(
    names: list[str],
    target: str,
    drop: Iterable[str],
    categorical: Iterable[str],
    numeric: Iterable[str],
) -> dict[str, Role]:
    """Return the roles that were asked for; refuse names that cannot be meant."""
    known, seen = set(names), {target: "target"}
    for option, given in (("drop", drop), ("categorical", categorical), ("numeric", numeric)):
        for name in given:
            if name not in known:
                raise DataError(
                    f"{option} names columns of the table: there is no {name!r}"
                    f"{nearest(name, names)}"
                )
            if name in seen:
                raise DataError(f"column {name!r} is given as {seen[name]} and as {option}: choose")
            seen[name] = option
    roles: dict[str, Role] = {"categorical": "category", "numeric": "numeric"}  # type: ignore[assignment]
    return {name: roles[option] for name, option in seen.items() if option in roles}


def _target_row(target: Target, rows: int) -> tuple[str, str, str, str]:
    if target.task == "regression":
        becomes = f"(x - {target.mean:.4g}) / {target.std:.4g}"
        return target.name, "target", f"{rows:,} numbers", becomes
    shown = ", ".join(map(str, target.classes[:5])) + (", ..." if len(target.classes) > 5 else "")
    return target.name, "target", f"{len(target.classes)} classes", shown


def _column_row(column: Column, rows: int) -> tuple[str, str, str, str]:
    values = f"{column.missing:,} of {rows:,} missing" if column.missing else f"{rows:,}"
    if column.left_out:
        text = column.role == "category" and column.left_out.startswith("it has ")
        return column.name, "text" if text else column.role or "", values, _left_out(column)
    fill = f", missing: {column.fill:.4g}" if column.missing else ""
    role = str(column.role)
    if column.role == "category":
        return column.name, role, values, f"{len(column.categories)} columns of 0 and 1"
    if column.role == "boolean":
        return column.name, role, values, f"0 or 1{fill}"
    unit = f"{column.unit}, " if column.unit else ""
    return column.name, role, values, f"{unit}(x - {column.mean:.4g}) / {column.std:.4g}{fill}"


def _left_out(column: Column) -> str:
    return f"left out: {column.left_out}"
