"""A table's transform: fitted to its training part, frozen, saved with the model."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import polars as pl

from steepest.data.columns import MISSING, Column, Role, encode, fit_column
from steepest.data.notices import Notices, listed
from steepest.data.roles import MOST_SHOWN, describe
from steepest.data.target import Target, Task, fit_target
from steepest.errors import DataError, nearest


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
        every category's place. Columns that were not there at the fit are passed over. Once all
        rows are encoded, `notes.check` refuses a column that has become one of another kind.

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
        rest = _encode_numbers(_places(used), frame, x)
        for place, column in rest:
            part = x[:, place : place + len(column.features)]
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
        return describe(self.target, self.columns, self.rows)

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


Places = list[tuple[int, Column]]


def _places(columns: Iterable[Column]) -> Places:
    """Return each column with the place of its first number."""
    place, found = 0, []
    for column in columns:
        found.append((place, column))
        place += len(column.features)
    return found


def _encode_numbers(places: Places, frame: pl.DataFrame, x: np.ndarray) -> Places:
    """Encode all columns of plain numbers together; return those that need a look of their own."""
    schema = frame.schema
    plain = [
        (place, column)
        for place, column in places
        if column.role == "numeric" and schema.get(column.name, pl.Null).is_numeric()
    ]
    if not plain:
        return places
    numbers = frame.select(pl.col(c.name).cast(pl.Float64) for _, c in plain).to_numpy()
    mean, std = np.array([(c.mean, c.std) for _, c in plain]).T
    with np.errstate(over="ignore", invalid="ignore"):
        standard = ((numbers - mean) / std).astype(np.float32)
    whole = np.isfinite(standard).all(axis=0)
    x[:, [place for (place, _), good in zip(plain, whole, strict=True) if good]] = standard[
        :, whole
    ]
    done = {column.name for (_, column), good in zip(plain, whole, strict=True) if good}
    return [(place, column) for place, column in places if column.name not in done]


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
